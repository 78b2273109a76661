"""How many pairs does `miner judge` have judged in a second?

A server on this machine answers every request after 100 ms; 32 requests at a time. The most that this
allows is 320 a second.

Target: at least 250 judgments a second.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path

from common import Goal, Report, miner, parser, report, run_process, scratch, spread

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from tests.serving import Server
from tests.stores import make_store

SPEED = Goal("judgments per second", ">=", 250, "/s")
LATENCY, AT_ONCE = 0.1, 32
NEGATIVES = 5
"""Negatives of a query."""


def measure_speed(found: Report, folder: Path, given: argparse.Namespace) -> None:
    """Adds the row of judging so many pairs with a server that takes its time."""
    rng = random.Random(given.seed)
    words = [f"w{n}" for n in range(2_000)]
    queries = given.pairs // NEGATIVES
    documents = {f"d{n}": " ".join(rng.choices(words, k=40)) for n in range(5 * queries)}
    texts = {f"q{n}": " ".join(rng.choices(documents[f"d{n}"].split(), k=6)) for n in range(queries)}
    known = [(f"q{n}", f"d{n}") for n in range(queries)]
    with make_store(folder / "mined.duckdb", documents, texts, known) as store:
        mine(store, MiningConfig(depth=40, rules=Rules(relative_margin=None)))
    taken, rates = [], []
    for repeat in range(given.repeats):
        again = folder / f"again-{repeat}.duckdb"
        shutil.copy(store.path, again)
        seconds, number = judged(again)
        taken.append(seconds)
        rates.append(number / seconds)
    rate = spread(rates)
    figures = {"judgments": number, "seconds": spread(taken), "per_second": rate}
    name = f"{LATENCY * 1000:.0f} ms an answer, {AT_ONCE} at a time"
    found.row(name, figures, goal=SPEED, value=rate["median"])


def judged(store: Path) -> tuple[float, int]:
    """Returns the seconds that judging the negatives of a store takes, and how many requests it sent."""
    server = Server("words:1:16")
    try:
        server.faults(delay=LATENCY, canned={"": '{"grade": 1}'})
        command = miner(
            "judge", store, "--endpoint", server.url, "--model", server.name, "--of", "selected",
            "--concurrency", str(AT_ONCE), "--set", "check=0", "--json",
        )  # fmt: skip
        return run_process(command).seconds, len(server.seen("/v1/chat/completions"))
    finally:
        server.kill()


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--pairs", type=int, default=2_000, help="fewer: a trial [%(default)s]")
    given = arguments.parse_args()
    found = report("judge", given, full_size=given.pairs >= 2_000)
    with scratch(given.work) as folder:
        measure_speed(found, folder, given)
    found.show()


if __name__ == "__main__":
    main()
