"""How long do audit, calibrate, dedup and contamination take, and how much memory?

Random texts and scores: 10,000 queries with three positives and 100 candidates each to audit and to calibrate
over (a full sweep of every rule, five repeats), 100,000 documents of twelve words to find copies among (every
tenth is a copy of another with two words swapped), and 10,000 texts of another store to look for among them.
Every figure is of a whole process.

Calibrate runs on the scores of one scorer, and on a run with five of the same size.

Targets: miner calibrate in less than 10 s; with five scorers at most twice the seconds of one.
"""

from __future__ import annotations

import argparse
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import Goal, Report, alternate, gib, miner, parser, ratios, report, run_process, scratch, spread

from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import canonical
from miner.schema import CODES, FREE, Reason
from miner.store import runs
from miner.store.corpus import content_hashes
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.scorers import DENSE, Scorer
from miner.text import text_keys

SWEEP = Goal("seconds of miner calibrate", "<=", 10, " s")
SEVERAL = Goal("seconds of miner calibrate with five scorers / with one", "<=", 2)
SCORERS = 5
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


def fill(
    path: Path, queries: int, documents: int, seed: int, scorers: int = 1, block: int | None = None
) -> None:
    """Makes a store with the evidence of one run: a positive scores higher than a negative, mostly.

    Texts and evidence are made and written for `block` queries or documents at a time (default: all).
    """
    random = np.random.default_rng(seed)
    block = block or max(queries, documents)
    doc_ids = np.array([f"d{i:06d}" for i in range(documents)])
    query_ids = np.array([f"q{i:06d}" for i in range(queries)])
    with Database.open(path, create=True) as store:
        for table, key, ids in (("documents", "doc_id", doc_ids), ("queries", "query_id", query_ids)):
            for start in range(0, len(ids), block):
                some = ids[start : start + block]
                written = texts(len(some), seed + len(ids) + start)
                columns = {key: some, "text": written, "text_key": text_keys(written)}
                title = {"title": [""] * len(some)} if table == "documents" else {}
                store.insert(table, pa.table({**columns, **title, "label": pa.nulls(len(some), pa.string())}))
        owner = np.repeat(np.arange(queries), POSITIVES)
        answer = (7 * owner + np.tile(np.arange(POSITIVES), queries)) % documents
        pairs = {"query_id": query_ids[owner], "doc_id": doc_ids[answer]}
        relevant = {"relevance": np.ones(len(owner)), "split": ["train"] * len(owner)}
        store.insert("judgments", pa.table({**pairs, **relevant}), source="gold")
        store.insert("positives", pa.table({"query_no": owner.astype(np.int32), **pairs}), evidence=EVIDENCE)
        numbers = np.arange(documents, dtype=np.int32)
        store.insert("pool_documents", pa.table({"doc_no": numbers, "doc_id": doc_ids}), evidence=EVIDENCE)
        for start in range(0, queries, block):
            own = answer[start * POSITIVES : (start + block) * POSITIVES]
            made = evidence(query_ids[start : start + block], start, documents, own, scorers, random)
            for name, tables in made.items():
                for table in tables:
                    store.insert(name, table, evidence=EVIDENCE)
        enter(store, scorers)


def evidence(
    query_ids: Any, first: int, documents: int, answer: Any, scorers: int, random: np.random.Generator
) -> dict[str, list[pa.Table]]:
    """Returns each query's positives and other documents, in the order of the first scorer, and all scores.

    `first` is the number of the first query. Every scorer has scored and ranked every candidate; a scorer
    with a higher number separates worse.
    """
    queries = len(query_ids)
    other = random.integers(0, documents, (queries, CANDIDATES - POSITIVES))
    doc = np.concatenate([answer.reshape(queries, -1), other], axis=1)
    known = np.arange(CANDIDATES) < POSITIVES
    scores = [
        random.normal(np.where(known, 0.6 - 0.02 * number, 0.4), 0.1, doc.shape) for number in range(scorers)
    ]
    order = np.argsort(-scores[0], axis=1)
    codes = np.where(known[order], CODES[Reason.JUDGED_POSITIVE], FREE).astype(np.int8)
    ranks = [np.argsort(np.argsort(-np.take_along_axis(one, order, axis=1), axis=1), axis=1) + 1
             for one in scores]  # fmt: skip
    best = np.minimum.reduce(ranks)
    number = pa.array(np.arange(first, first + queries, dtype=np.int32))
    pools = {
        "query_no": number,
        "query_id": query_ids,
        "doc_nos": lists(np.take_along_axis(doc, order, axis=1).astype(np.int32)),
        "exclusions": lists(codes),
        "judged_negative": lists(np.zeros(doc.shape, dtype=np.bool_)),
        "best_ranks": lists(best.astype(np.int32)),
        "best_scorers": lists(np.argmax([one == best for one in ranks], axis=0).astype(np.int8)),
    }
    scored = [
        pa.table(
            {
                "query_no": number,
                "scorer": pa.array(np.full(queries, scorer, dtype=np.int16)),
                "ranks": lists(rank.astype(np.int32)),
                "scores": lists(np.take_along_axis(score, order, axis=1)),
                "positives": lists(score[:, :POSITIVES]),
            }
        )
        for scorer, (score, rank) in enumerate(zip(scores, ranks, strict=True))
    ]
    return {"pools": [pa.table(pools)], "scored": scored}


def lists(values: Any) -> pa.Array:
    """Returns the rows of a matrix as lists."""
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))


def enter(store: Database, scorers: int) -> None:
    """Enters the run that the evidence belongs to; the first scorer decides."""
    config = MiningConfig(
        encoder=tuple(f"random{number}" for number in range(scorers)),
        bm25=False,
        rules=Rules(decide_by="random0"),
    )
    now = datetime(2026, 1, 1)
    run = StoredRun(
        run_id="r" * 12, name="r1", split="train", config=canonical(config),
        inputs=content_hashes(store, "train"), versions={}, seed=13,
        evidence=EVIDENCE, reranking=None, decider=0, negatives=5, status="running",
        started=now, finished=None,
        scorers=tuple(Scorer(number, f"random{number}", DENSE, None) for number in range(scorers)),
    )  # fmt: skip
    runs.begin_run(store, run)
    runs.finish_run(store, run.run_id, [])


def process(command: list[str], _: int) -> tuple[float, float]:
    """Returns a process's seconds and its peak memory in GiB."""
    done = run_process(command)
    return done.seconds, gib(done.peak_bytes)


def measure(found: Report, commands: dict[str, list[str]], given: argparse.Namespace) -> None:
    """Adds a row per command."""
    systems = {name: partial(process, command) for name, command in commands.items()}
    seconds: dict[str, list[float]] = {}
    for name, taken in alternate(systems, given.repeats).items():
        figures = {"seconds": spread(s for s, _ in taken), "peak_gib": spread(peak for _, peak in taken)}
        goal = SWEEP if name.startswith("calibrate") and "scorers" not in name else None
        found.row(name, figures, goal=goal, value=figures["seconds"]["median"])
        seconds[name] = [took for took, _ in taken]
    one, several = (took for name, took in seconds.items() if name.startswith("calibrate"))
    ratio = ratios(several, one)
    found.row(f"calibrate, {SCORERS} scorers / 1", {"ratio": ratio}, goal=SEVERAL, value=ratio["median"])


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--queries", type=int, default=10_000, help="[%(default)s]")
    arguments.add_argument("--documents", type=int, default=100_000, help="[%(default)s]")
    given = arguments.parse_args()
    found = report("audit", given, full_size=given.queries >= 10_000 and given.documents >= 100_000)
    with scratch(given.work) as folder:
        store, other = folder / "store.duckdb", folder / "other.duckdb"
        several = folder / "several.duckdb"
        fill(store, given.queries, given.documents, given.seed)
        fill(several, given.queries, given.documents, given.seed, SCORERS)
        fill(other, given.queries // 10, given.documents // 10, given.seed + 1)
        size = f"{given.queries:,} queries x {CANDIDATES} candidates"
        commands = {
            f"audit, {size}, 5 repeats": miner("audit", store, "--json"),
            f"calibrate, {size}, 5 repeats": miner("calibrate", store, "--target", "0.05", "--json"),
            f"calibrate, {size}, 5 repeats, {SCORERS} scorers": miner(
                "calibrate", several, "--target", "0.05", "--json"
            ),
            f"contamination, {given.documents:,} documents": miner(
                "contamination", store, other, "--split", "train", "--json"
            ),
            f"dedup, {given.documents:,} documents": miner("dedup", store, "--json"),
        }
        measure(found, commands, given)
    found.show()


if __name__ == "__main__":
    main()
