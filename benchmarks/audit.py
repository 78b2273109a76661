"""How long do audit, calibrate, dedup and contamination take, and how much memory?

Random texts and scores: 10,000 queries with three positives and 100 candidates each to audit and to calibrate
over (a full sweep of every rule, five repeats), 100,000 documents of twelve words to find copies among (every
tenth is a copy of another with two words swapped), and 10,000 texts of another store to look for among them.
Every figure is of a whole process.

Target: miner calibrate in less than 10 s.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import Goal, Report, alternate, gib, miner, parser, report, run_process, scratch, spread

from miner.arrays import as_lists
from miner.mining.config import MiningConfig
from miner.mining.pipeline import canonical
from miner.schema import CODES, FREE, Reason
from miner.store import runs
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.scorers import DENSE, Scorer
from miner.text import text_keys

SWEEP = Goal("seconds of miner calibrate", "<=", 10, " s")
CANDIDATES = 100
POSITIVES = 3
WORDS = 12
EVIDENCE = "e" * 12


def texts(number: int, seed: int) -> list[str]:
    """Returns random texts; every tenth is another with two words swapped."""
    random = np.random.default_rng(seed)
    words = np.array([f"word{i}" for i in range(20_000)])
    made = [list(row) for row in words[random.integers(0, len(words), (number, WORDS))]]
    for position in range(10, number, 10):
        copy = list(made[position - 1])
        copy[2], copy[7] = copy[7], copy[2]
        made[position] = copy
    return [" ".join(row) for row in made]


def fill(path: Path, queries: int, documents: int, seed: int) -> None:
    """Makes a store with the evidence of one run: a positive scores higher than a negative, mostly."""
    random = np.random.default_rng(seed)
    doc_ids = np.array([f"d{i:06d}" for i in range(documents)])
    query_ids = np.array([f"q{i:06d}" for i in range(queries)])
    with Database.open(path, create=True) as store:
        for table, key, ids in (("documents", "doc_id", doc_ids), ("queries", "query_id", query_ids)):
            written = texts(len(ids), seed + len(ids))
            columns = {key: ids, "text": written, "text_key": text_keys(written)}
            title = {"title": [""] * len(ids)} if table == "documents" else {}
            store.insert(table, pa.table({**columns, **title, "label": pa.nulls(len(ids), pa.string())}))
        owner = np.repeat(np.arange(queries), POSITIVES)
        answer = (7 * owner + np.tile(np.arange(POSITIVES), queries)) % documents
        pairs = {"query_id": query_ids[owner], "doc_id": doc_ids[answer]}
        relevant = {"relevance": np.ones(len(owner)), "split": ["train"] * len(owner)}
        store.insert("judgments", pa.table({**pairs, **relevant}), source="gold")
        positive = random.normal(0.6, 0.1, len(owner))
        store.insert("positives", pa.table({"query_no": owner.astype(np.int32), **pairs}), evidence=EVIDENCE)
        numbers = pa.table({"doc_no": np.arange(documents, dtype=np.int32), "doc_id": doc_ids})
        store.insert("pool_documents", numbers, evidence=EVIDENCE)
        pools, scored = evidence_of(query_ids, documents, answer, positive, random)
        store.insert("pools", pools, evidence=EVIDENCE)
        store.insert("scored", scored, evidence=EVIDENCE)
        enter(store)


def evidence_of(
    query_ids: Any, documents: int, answer: Any, positive: Any, random: np.random.Generator
) -> tuple[pa.Table, pa.Table]:
    """Returns each query's positives and other documents, by score: the rows of `pools` and of `scored`."""
    queries = len(query_ids)
    other = random.integers(0, documents, (queries, CANDIDATES - POSITIVES))
    doc = np.concatenate([answer.reshape(queries, -1), other], axis=1)
    score = np.concatenate([positive.reshape(queries, -1), random.normal(0.4, 0.1, other.shape)], axis=1)
    known = np.concatenate([np.ones((queries, POSITIVES), bool), np.zeros(other.shape, bool)], axis=1)
    order = np.argsort(-score, axis=1)
    doc, score, known = (np.take_along_axis(column, order, axis=1).ravel() for column in (doc, score, known))
    counts = np.full(queries, CANDIDATES)
    rank = np.tile(np.arange(1, CANDIDATES + 1, dtype=np.int32), queries)
    numbers = np.arange(queries, dtype=np.int32)
    exclusion = np.where(known, CODES[Reason.JUDGED_POSITIVE], FREE).astype(np.int8)
    pools = {
        "query_no": numbers,
        "query_id": query_ids,
        "doc_nos": as_lists(doc.astype(np.int32), counts),
        "exclusions": as_lists(exclusion, counts),
        "judged_negative": as_lists(np.zeros(len(doc), dtype=np.bool_), counts),
        "best_ranks": as_lists(rank, counts),
        "best_scorers": as_lists(np.zeros(len(doc), dtype=np.int8), counts),
    }
    scored = {
        "query_no": numbers,
        "scorer": np.zeros(queries, dtype=np.int16),
        "ranks": as_lists(rank, counts),
        "scores": as_lists(score, counts),
        "positives": as_lists(positive, np.full(queries, POSITIVES)),
    }
    return pa.table(pools), pa.table(scored)


def enter(store: Database) -> None:
    """Enters the run that the evidence belongs to."""
    from datetime import datetime

    config = MiningConfig(encoder="random", bm25=False)
    now = datetime(2026, 1, 1)
    run = StoredRun(
        run_id="r" * 12, name="r1", split="train", config=canonical(config), inputs={}, versions={}, seed=13,
        evidence=EVIDENCE, decider=0, negatives=5, status="running", started=now, finished=None,
        scorers=(Scorer(0, "random", DENSE, "random"),),
    )  # fmt: skip
    runs.begin_run(store, run)
    runs.finish_run(store, run.run_id, [], [])


def process(command: list[str], _: int) -> tuple[float, float]:
    """Returns a process's seconds and its peak memory in GiB."""
    done = run_process(command)
    return done.seconds, gib(done.peak_bytes)


def measure(found: Report, commands: dict[str, list[str]], given: argparse.Namespace) -> None:
    """Adds a row per command."""
    systems = {name: partial(process, command) for name, command in commands.items()}
    for name, taken in alternate(systems, given.repeats).items():
        figures = {"seconds": spread(s for s, _ in taken), "peak_gib": spread(peak for _, peak in taken)}
        goal = SWEEP if name.startswith("calibrate") else None
        found.row(name, figures, goal=goal, value=figures["seconds"]["median"])


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--queries", type=int, default=10_000, help="[%(default)s]")
    arguments.add_argument("--documents", type=int, default=100_000, help="[%(default)s]")
    given = arguments.parse_args()
    found = report("audit", given, full_size=given.queries >= 10_000 and given.documents >= 100_000)
    with scratch(given.work) as folder:
        store, other = folder / "store.duckdb", folder / "other.duckdb"
        fill(store, given.queries, given.documents, given.seed)
        fill(other, given.queries // 10, given.documents // 10, given.seed + 1)
        size = f"{given.queries:,} queries x {CANDIDATES} candidates"
        commands = {
            f"audit, {size}, 5 repeats": miner("audit", store, "--json"),
            f"calibrate, {size}, 5 repeats": miner("calibrate", store, "--target", "0.05", "--json"),
            f"contamination, {given.documents:,} documents": miner(
                "contamination", store, other, "--split", "train", "--json"
            ),
            f"dedup, {given.documents:,} documents": miner("dedup", store, "--json"),
        }
        measure(found, commands, given)
    found.show()


if __name__ == "__main__":
    main()
