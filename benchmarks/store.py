"""How fast is the store? 1,000,000 triplets in, and questions at the shell.

A store is made with 1,000,000 triplets and 1,000,000 decisions over as many candidates. The triplets
go in as a run does it, an Arrow table through `runs.finish_run`, committed; the questions and the help
are whole processes.

Targets: 1,000,000 triplets in less than 2 s; `miner --help` in less than 0.25 s; `miner sql` in less
than 0.6 s, counting triplet_texts by run and dropped by reason.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import Goal, Report, alternate, gib, miner, parser, report, run_process, scratch, spread, timed

from miner.arrays import as_lists
from miner.schema import FREE, KEPT, Reason
from miner.store import runs
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.scorers import DENSE, Scorer

INSERT = Goal("seconds for 1,000,000 triplets", "<=", 2, " s")
HELP = Goal("seconds of miner --help", "<=", 0.25, " s")
SQL = Goal("seconds of miner sql", "<=", 0.6, " s")
QUESTIONS = (
    "SELECT run, count(*) FROM triplet_texts GROUP BY ALL",
    "SELECT reason, count(*) FROM dropped GROUP BY ALL",
)
PER_QUERY = 50
NEGATIVES = 5
WORDS = 12


@dataclass(frozen=True)
class Content:
    """Random texts, and the tables of one run over them."""

    documents: pa.Table
    queries: pa.Table
    pools: pa.Table
    scored: pa.Table
    numbers: pa.Table
    """The number of each document."""
    decisions: pa.Table
    selected: pa.Table


def content(rows: int, seed: int) -> Content:
    """Makes a run of `rows` triplets, candidates and decisions, 50 of each per query."""
    random = np.random.default_rng(seed)
    number = max(1, rows // PER_QUERY)
    query_ids = pa.array([f"q{i:06d}" for i in range(number)])
    doc_ids = pa.array([f"d{i:06d}" for i in range(2 * number)])
    doc = random.integers(0, len(doc_ids), number * PER_QUERY)
    return Content(
        _texts("doc_id", doc_ids, random).append_column("title", pa.array([""] * len(doc_ids))),
        _texts("query_id", query_ids, random),
        _pools(query_ids, doc),
        _scored(number, random),
        pa.table({"doc_no": np.arange(len(doc_ids), dtype=np.int32), "doc_id": doc_ids}),
        _decisions(number, random),
        _selected(query_ids, doc_ids, doc, random),
    )


def _texts(name: str, ids: pa.Array, random: np.random.Generator) -> pa.Table:
    words = np.array([f"word{i}" for i in range(5000)])
    texts = [" ".join(row) for row in words[random.integers(0, len(words), (len(ids), WORDS))]]
    keys = random.integers(1, 1 << 62, len(ids))
    return pa.table({name: ids, "text": texts, "text_key": keys, "label": pa.nulls(len(ids), pa.string())})


def _lists(values: Any) -> pa.Array:
    """Returns values as lists, one per query."""
    return as_lists(values, np.full(len(values) // PER_QUERY, PER_QUERY))


def _pools(query_ids: pa.Array, doc: Any) -> pa.Table:
    number = len(query_ids)
    return pa.table(
        {
            "query_no": np.arange(number, dtype=np.int32),
            "query_id": query_ids,
            "doc_nos": _lists(doc.astype(np.int32)),
            "exclusions": _lists(np.full(len(doc), FREE, dtype=np.int8)),
            "judged_negative": _lists(np.zeros(len(doc), dtype=np.bool_)),
            "best_ranks": _lists(_ranks(number)),
            "best_scorers": _lists(np.zeros(len(doc), dtype=np.int8)),
        }
    )


def _scored(number: int, random: np.random.Generator) -> pa.Table:
    return pa.table(
        {
            "query_no": np.arange(number, dtype=np.int32),
            "scorer": np.zeros(number, dtype=np.int16),
            "ranks": _lists(_ranks(number)),
            "scores": _lists(random.random(number * PER_QUERY)),
            "positives": as_lists(np.zeros(0), np.zeros(number, dtype=np.int64)),
        }
    )


def _ranks(number: int) -> Any:
    return np.tile(np.arange(1, PER_QUERY + 1, dtype=np.int32), number)


def _decisions(queries: int, random: np.random.Generator) -> pa.Table:
    reasons = list(Reason)
    dropped = [reasons.index(Reason.RELATIVE_MARGIN), reasons.index(Reason.DUPLICATE_OF_POSITIVE)]
    codes = random.choice([*dropped, KEPT], queries * PER_QUERY, p=[0.3, 0.1, 0.6])
    codes = np.where(codes == KEPT, KEPT - 1 - np.arange(len(codes)) % 5, codes).astype(np.int16)
    offsets = pa.array(np.arange(0, len(codes) + 1, PER_QUERY), pa.int32())
    return pa.table(
        {
            "query_no": np.arange(queries, dtype=np.int32),
            "codes": pa.ListArray.from_arrays(offsets, pa.array(codes)),
        }
    )


def _selected(query_ids: pa.Array, doc_ids: pa.Array, doc: Any, random: np.random.Generator) -> pa.Table:
    """Returns the triplets: for each query ten positives, each with five of its candidates."""
    positives = len(doc) // NEGATIVES
    owner = np.repeat(np.arange(len(query_ids)), PER_QUERY // NEGATIVES)
    counts = np.full(positives, NEGATIVES)
    return pa.table(
        {
            "query_id": query_ids.take(pa.array(owner)),
            "positive_id": doc_ids.take(pa.array(random.integers(0, len(doc_ids), positives))),
            "positive_score": random.random(positives),
            "doc_nos": as_lists(doc.astype(np.int32), counts),
            "scores": as_lists(random.random(len(doc)), counts),
        }
    )


def fill(store: Database, made: Content) -> StoredRun:
    """Writes texts and candidates and enters a run; returns it."""
    store.insert("documents", made.documents)
    store.insert("queries", made.queries)
    for table, rows in (("pools", made.pools), ("scored", made.scored), ("pool_documents", made.numbers)):
        store.insert(table, rows, evidence="e" * 64)
    now = datetime(2026, 1, 1)
    run = StoredRun(
        run_id="r" * 64, name="r1", split="train", config={}, inputs={}, versions={}, seed=0,
        evidence="e" * 64, reranking=None, decider=0, negatives=5, status="running",
        started=now, finished=None,
        scorers=(Scorer(0, "random", DENSE, "random"),),
    )  # fmt: skip
    runs.begin_run(store, run)
    return run


def insertion(path: Path, made: Content, decisions: bool, repeat: int) -> float:
    """Returns the seconds of `finish_run` with the triplets, and with the decisions if requested."""
    with Database.open(path) as store:
        base = runs.runs(store)[0]
        run = replace(
            base, run_id=f"{repeat:04d}{decisions:d}" + "x" * 59, name=f"again-{repeat}-{decisions}"
        )
        runs.begin_run(store, run)
        rows = made.decisions if decisions else made.decisions.slice(0, 0)
        tables = {"decisions": rows, "selected": made.selected}
        seconds = timed(lambda: runs.finish_run(store, run.run_id, [tables]))
        runs.remove_runs(store, [run.name])
    return seconds


def process(command: list[str], _: int) -> tuple[float, float]:
    """Returns a process's seconds and its peak memory in GiB."""
    done = run_process(command)
    return done.seconds, gib(done.peak_bytes)


def measure_insertion(found: Report, path: Path, made: Content, given: argparse.Namespace) -> None:
    """Adds the rows on writing."""
    systems = {
        "triplets": partial(insertion, path, made, False),
        "triplets and decisions": partial(insertion, path, made, True),
    }
    for name, seconds in alternate(systems, given.repeats).items():
        figures = {"seconds": spread(seconds)}
        goal = INSERT if name == "triplets" else None
        found.row(f"{given.rows:,} {name} in", figures, goal=goal, value=figures["seconds"]["median"])


def measure_processes(found: Report, path: Path, given: argparse.Namespace) -> None:
    """Adds the rows on whole processes, each after one run to warm up."""
    commands = {"miner --help": (miner("--help"), HELP, 3 * given.repeats)}
    commands |= {f"miner sql: {q}": (miner("sql", path, q), SQL, given.repeats) for q in QUESTIONS}
    for name, (command, goal, repeats) in commands.items():
        run_process(command)
        taken = [process(command, i) for i in range(repeats)]
        figures = {"seconds": spread(s for s, _ in taken), "peak_gib": spread(peak for _, peak in taken)}
        found.row(name, figures, goal=goal, value=figures["seconds"]["median"])


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000, help="triplets; fewer: a trial [1000000]")
    given = arguments.parse_args()
    found = report("store", given, full_size=given.rows >= 1_000_000)
    with scratch(given.work) as folder:
        path = folder / "store.duckdb"
        made = content(given.rows, given.seed)
        with Database.open(path, create=True) as store:
            run = fill(store, made)
            runs.finish_run(store, run.run_id, [{"decisions": made.decisions, "selected": made.selected}])
        measure_processes(found, path, given)
        measure_insertion(found, path, made, given)
    found.show()


if __name__ == "__main__":
    main()
