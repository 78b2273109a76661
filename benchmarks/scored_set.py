"""How fast is a set of scored documents ingested and decided, without a model?

A set in the layout that LightOn publishes is made: 60,000 documents of 20 to 200 words, 1,000 queries, each
with one positive and 2,048 negatives with a teacher's scores. `miner ingest` and `miner mine --candidates`
are processes of their own, timed from start to end. The triplets are compared with a computation of the
same rule, a relative margin of 0.05, in plain Python from the set's own lists.

Targets: both commands together in less than 20 s; every triplet equal.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import Finished, Goal, alternate, gib, miner, parser, report, run_process, scratch, spread

from miner.store.database import Database
from miner.store.runs import find_run
from miner.store.triplets import triplets

BOTH = Goal("seconds of ingest and mine together", "<=", 20, " s")
EQUAL = Goal("share of the triplets that plain Python selects too", ">=", 1)
MARGIN, NEGATIVES, WORDS = 0.05, 5, 50_000


def texts(random: np.random.Generator, number: int, least: int, most: int) -> list[str]:
    """Returns texts of words whose frequencies fall as those of a language do."""
    lengths = random.integers(least, most + 1, number)
    drawn = (random.zipf(1.2, int(lengths.sum())) - 1) % WORDS
    words = np.array([f"w{i}" for i in range(WORDS)])[drawn]
    return [" ".join(part) for part in np.split(words, np.cumsum(lengths)[:-1])]


def write_set(folder: Path, given: argparse.Namespace) -> None:
    """Writes the set: ids are numbers, each query's positive is its first document."""
    random = np.random.default_rng(given.seed)
    tables = {
        "documents": pa.table(
            {"document_id": np.arange(given.documents), "document": texts(random, given.documents, 20, 200)}
        ),
        "queries": pa.table(
            {"query_id": np.arange(given.queries), "query": texts(random, given.queries, 4, 12)}
        ),
    }
    ids, scores = [], []
    for _ in range(given.queries):
        ids.append(random.choice(given.documents, given.negatives + 1, replace=False))
        scores.append(
            np.append(random.uniform(0.6, 1), random.beta(2, 3, given.negatives)).astype(np.float32)
        )
    tables["scores"] = pa.table({"query_id": np.arange(given.queries), "document_ids": ids, "scores": scores})
    for name, table in tables.items():
        (folder / name).mkdir(parents=True)
        pq.write_table(table, folder / name / "set-00000-of-00001.parquet")


def in_plain_python(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yields (query, positive, negative): the best that score at most s⁺ − |s⁺| · margin; ties by id."""
    for row in pq.read_table(folder / "scores").to_pylist():
        (positive, *others), (best, *scores) = row["document_ids"], row["scores"]
        bound = best - abs(best) * MARGIN
        kept = sorted((-score, str(doc)) for doc, score in zip(others, scores, strict=True) if score <= bound)
        for _, doc in kept[:NEGATIVES]:
            yield str(row["query_id"]), str(positive), doc


def timed_commands(folder: Path, store: Path) -> dict[str, Finished]:
    """Runs both commands on a new store."""
    store.unlink(missing_ok=True)
    depth = str(2**14)
    options = ["--no-bm25", "--candidates", str(folder), "--depth", depth, "--relative-margin", str(MARGIN)]
    return {
        "ingest": run_process(miner("ingest", store, folder)),
        "mine": run_process(miner("mine", store, *options, "--negatives", str(NEGATIVES))),
    }


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--documents", type=int, default=60_000, help="[%(default)s]")
    arguments.add_argument("--queries", type=int, default=1_000, help="[%(default)s]")
    arguments.add_argument("--negatives", type=int, default=2_048, help="per query [%(default)s]")
    given = arguments.parse_args()
    full_size = given.queries >= 1_000 and given.negatives >= 2_048 and given.documents >= 60_000
    found = report("scored_set", given, full_size=full_size)
    with scratch(given.work) as folder:
        write_set(folder / "set", given)
        store = folder / "s.duckdb"
        runs = alternate({"miner": lambda _: timed_commands(folder / "set", store)}, given.repeats)["miner"]
        for name in runs[0]:
            peak = spread(gib(one[name].peak_bytes) for one in runs)
            seconds = spread(one[name].seconds for one in runs)
            found.row(
                f"miner {name}: seconds", {"seconds": seconds, "peak gib": peak}, value=seconds["median"]
            )
        both = spread(sum(one.seconds for one in run.values()) for run in runs)
        found.row("both: seconds", {"seconds": both}, goal=BOTH, value=both["median"])
        with Database.open(store, read_only=True) as opened:
            rows = triplets(opened, find_run(opened)).to_pylist()
        mined = {(row["query_id"], row["positive_id"], row["negative_id"]) for row in rows}
        expected = set(in_plain_python(folder / "set"))
        share = len(mined & expected) / len(mined | expected)
        found.row("triplets equal to plain Python", {"mined": len(mined), "expected": len(expected)},
                  goal=EQUAL, value=share)  # fmt: skip
    found.show()


if __name__ == "__main__":
    main()
