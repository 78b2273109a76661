"""How fast is cold dense mining, end to end, against `mine_hard_negatives`?

tldr, the bundled encoder, 5 negatives, relative margin 0.05, depth 50, dense candidates only. Each
system is a process of its own, timed from its start to its end, models loaded and every text encoded:
`miner mine` on a fresh store with no vectors, and the peer as a user would call it (use_faiss, its
default batch size, fp32), called with range_max = 50. The peer in bf16 is a row of its own; miner
takes bf16 by itself where the processor multiplies in it. `miner ingest` is timed apart.

The peer fetches range_max + the most positives of any query: with tldr as it is, some 490 neighbours
per query. --single-positive keeps the queries with one positive, so that both fetch about the same.

Target: at least 2 x as fast as the peer in fp32.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from common import TLDR, Goal, alternate, parser, report, scratch, timed
from corpora import Beir, new_store
from systems import Outcome, add_rows, mine, peer

DEPTH = 50
OVER_PEER = Goal("seconds of the peer over miner's", ">=", 2, " x")
SYSTEMS = ("miner", "peer", "peer-bf16", "miner-fp32")


def systems(given: Namespace, store: Path, data: Path) -> dict[str, Callable[[int], Outcome]]:
    """Returns the requested systems."""
    known: dict[str, Callable[[int], Outcome]] = {
        "miner": lambda _: mine(store, DEPTH, vectors=False),
        "peer": lambda _: peer(data, DEPTH),
        "peer-bf16": lambda _: peer(data, DEPTH, "--dtype", "bf16"),
        "miner-fp32": lambda _: mine(store, DEPTH, "--set", "dtype=fp32", vectors=False),
    }
    return {name: known[name] for name in given.systems}


def prepare(given: Namespace) -> Beir:
    """Reads the data and cuts it to the requested size."""
    data = Beir.read(given.data)
    return (data.single_positive() if given.single_positive else data).fraction(given.fraction, given.seed)


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=TLDR, help="BEIR folder [%(default)s]")
    arguments.add_argument("--fraction", type=float, default=1.0, help="share of the data: a trial [1]")
    arguments.add_argument("--single-positive", action="store_true", help="queries with one positive only")
    arguments.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS[:3]), help="[%(default)s]"
    )
    given = arguments.parse_args()
    found = report("dense", given, full_size=given.fraction >= 1)
    with scratch(given.work) as folder:
        data = prepare(given)
        written = data.write(folder / "data")
        store = folder / "store.duckdb"
        about = data.sizes() | {"ingest_seconds": round(timed(lambda: new_store(store, written)), 3)}
        fetched = DEPTH + about["most_positives_of_a_query_text"]
        note = f"the peer fetches range_max + the most positives = {fetched} neighbours of each query"
        outcomes = alternate(systems(given, store, written), given.repeats)
        add_rows(found, outcomes, OVER_PEER, note, about)
    found.show()


if __name__ == "__main__":
    main()
