"""How many pairs does `miner judge` have judged in a second?

A server on this machine answers every request after 100 ms; 32 requests at a time. The most that this
allows is 320 a second.

Target: at least 250 judgments a second.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from common import Goal, Report, miner, parser, report, run_process, scratch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from tests.serving import Server
from tests.stores import make_store

SPEED = Goal("judgments per second", ">=", 250, "/s")
LATENCY, AT_ONCE = 0.1, 32


def measure_speed(found: Report, folder: Path, pairs: int) -> None:
    """Adds the row of judging so many pairs with a server that takes its time."""
    rng = random.Random(13)
    words = [f"w{n}" for n in range(2_000)]
    documents = {f"d{n}": " ".join(rng.choices(words, k=40)) for n in range(2_000)}
    queries = {f"q{n}": " ".join(rng.choices(documents[f"d{n}"].split(), k=6)) for n in range(400)}
    store = make_store(folder / "speed.duckdb", documents, queries, [(f"q{n}", f"d{n}") for n in range(400)])
    with store:
        mine(store, MiningConfig(depth=40, rules=Rules(relative_margin=None)))
    server = Server("words:1:16")
    try:
        server.faults(delay=LATENCY, canned={"": '{"grade": 1}'})
        command = miner(
            "judge", store.path, "--endpoint", server.url, "--model", server.name, "--of", "selected",
            "--concurrency", str(AT_ONCE), "--set", "check=0", "--json",
        )  # fmt: skip
        took = run_process(command)
        number = len(server.seen("/v1/chat/completions"))
    finally:
        server.kill()
    rate = number / took.seconds
    figures = {"judgments": number, "seconds": took.seconds, "per_second": rate}
    found.row(f"{LATENCY * 1000:.0f} ms an answer, {AT_ONCE} at a time", figures, goal=SPEED, value=rate)


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    given = arguments.parse_args()
    found = report("judge", given, full_size=True)
    with scratch(given.work) as folder:
        measure_speed(found, folder, 2_000)
    found.show()


if __name__ == "__main__":
    main()
