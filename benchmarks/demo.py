"""How long does `miner demo` take, from its start to the table that compares easy and hard negatives?

Target: less than 5 minutes on 2 cores, after installation.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from common import Finished, Goal, gib, miner, parser, report, run_process, scratch, spread

QUICK = Goal("seconds of miner demo", "<=", 300, " s")
QUERIES = 300


def demonstrated(folder: Path, given: Namespace) -> Finished:
    """Returns what a whole demo took in a new folder."""
    return run_process(miner("demo", folder / "demo", "--queries", str(given.queries)))


def main() -> None:
    """Reads the arguments, runs the demo, shows."""
    arguments = parser(__doc__)
    arguments.set_defaults(repeats=1)
    arguments.add_argument("--queries", type=int, default=QUERIES, help="to mine [%(default)s]")
    given = arguments.parse_args()
    found = report("demo", given, full_size=given.queries >= QUERIES, least=1)
    runs = []
    for _ in range(given.repeats):
        with scratch(given.work) as folder:
            runs.append(demonstrated(folder, given))
    seconds = spread(run.seconds for run in runs)
    figures = {"seconds": seconds, "peak_gib": spread(gib(run.peak_bytes) for run in runs)}
    found.row("miner demo", figures, goal=QUICK, value=seconds["max"])
    found.show()


if __name__ == "__main__":
    main()
