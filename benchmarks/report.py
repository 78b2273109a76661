"""How long does `miner report` take over 1,000,000 candidates, and how large is the page?

The evidence is made up, as for `benchmarks/audit.py`: 10,000 queries with three positives and 100 candidates
each, scored by two scorers, and 100,000 documents of twelve words. The run is decided with a relative margin
and audited before. Every figure is of a whole process.

Targets: miner report in less than 20 s, the page under 3 MB.
"""

from __future__ import annotations

import audit
from common import Goal, alternate, gib, miner, parser, report, run_process, scratch, spread

SECONDS = Goal("seconds of miner report", "<=", 20, " s")
SIZE = Goal("megabytes of the page", "<=", 3, " MB")
SCORERS = 2


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--queries", type=int, default=10_000, help="[%(default)s]")
    given = arguments.parse_args()
    found = report("report", given, full_size=given.queries >= 10_000)
    with scratch(given.work) as folder:
        store, page = folder / "store.duckdb", folder / "report.html"
        audit.fill(store, given.queries, 10 * given.queries, given.seed, SCORERS)
        run_process(miner("decide", store, "--relative-margin", "0.1", "--name", "again"))
        run_process(miner("audit", store, "--run", "again"))
        command = miner("report", store, page, "--run", "again")
        taken = alternate({"report": lambda _: run_process(command)}, given.repeats)["report"]
        size = f"{given.queries * audit.CANDIDATES:,} candidates"
        seconds = spread(one.seconds for one in taken)
        peak = spread(gib(one.peak_bytes) for one in taken)
        found.row(
            f"report, {size}", {"seconds": seconds, "peak_gib": peak}, goal=SECONDS, value=seconds["median"]
        )
        megabytes = page.stat().st_size / 1e6
        found.row(f"page, {size}", {"megabytes": megabytes}, goal=SIZE, value=megabytes)
    found.show()


if __name__ == "__main__":
    main()
