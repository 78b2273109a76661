"""A small real store with one finished run, and exports of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from miner.export import ExportConfig, ExportReport, export_run
from miner.schema import KEPT, Reason
from miner.store.corpus import content_hashes
from miner.store.database import Database
from miner.store.models import record_model
from miner.store.runs import StoredRun, begin_run, finish_run
from miner.store.scorers import Scorer

DOCUMENTS = [
    ("d1", "Cats", "They purr, mostly."),
    ("d2", "", 'A "purr" is a sound.'),
    ("d3", "", "Dogs bark."),
    ("d4", "Cows", "They\nmoo."),
    ("007", "", "Ålesund | 日本"),
]
QUERIES = [("q1", "what purrs?"), ("q2", "who barks?"), ("q3", "nothing found")]
TRIPLETS = [
    # query, positive, negative, positive score, negative score, rank
    ("q1", "d1", "d3", 0.9, 0.5, 1),
    ("q1", "d1", "007", 0.9, 0.25, 2),
    ("q1", "d2", "d3", 0.75, 0.5, 1),
    ("q1", "d2", "007", 0.75, 0.25, 2),
    ("q2", "d3", "d4", 1.0, -0.5, 1),
]


def _table(columns: str, rows: list[tuple[object, ...]]) -> pa.Table:
    names = columns.split()
    return pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})


def make_run(name: str, **changes: object) -> StoredRun:
    """Returns a run with two requested negatives, ready to be entered."""
    values: dict[str, object] = {
        "run_id": f"id-{name}", "name": name, "split": "train",
        "config": {"negatives": 2, "rules": {"relative_margin": 0.05}, "index": "Flat|x"},
        "inputs": {}, "versions": {"duckdb": "2.0"}, "seed": 7,
        "evidence": "ev", "reranking": None, "decider": 0, "negatives": 2, "status": "running",
        "started": datetime(2026, 1, 2, 3, 4, 5), "finished": None,
        "scorers": (Scorer(0, "bundled", "dense", "enc1"),),
    }  # fmt: skip
    return StoredRun(**{**values, **changes})  # type: ignore[arg-type]


def fill(
    store: Database, triplets: list[tuple[object, ...]] = TRIPLETS, run: StoredRun | None = None
) -> None:
    """Puts documents, queries, evidence and one finished run into an empty store."""
    keys = [(*row, n) for n, row in enumerate(DOCUMENTS)]
    store.insert("documents", _table("doc_id title text text_key", keys))
    store.insert("queries", _table("query_id text text_key", [(*row, n) for n, row in enumerate(QUERIES)]))
    pairs = [("ev", 0, "q1", "d1"), ("ev", 0, "q1", "d2"), ("ev", 1, "q2", "d3"), ("ev", 2, "q3", "d1")]
    store.insert("positives", _table("evidence query_no query_id doc_id", pairs))
    ids = sorted({"007", "d1", "d3", "d4", *(str(triplet[2]) for triplet in triplets)})
    numbers = [(number, doc_id) for number, doc_id in enumerate(ids)]
    store.insert("pool_documents", _table("doc_no doc_id", numbers), evidence="ev")
    pools = [
        (number, query, [ids.index(doc_id) for doc_id in found])
        for number, (query, found) in enumerate([("q1", ["d3", "007"]), ("q2", ["d4", "d1"]), ("q3", [])])
    ]
    columns = "query_no query_id doc_nos exclusions judged_negative best_ranks best_scorers"
    rows = [(*row, [-1] * (n := len(row[2])), [False] * n, [1, 2][:n], [0] * n) for row in pools]
    store.insert("pools", _table(columns, rows), evidence="ev")
    record_model(store, "enc1", "encoder", "bundled", {})
    run = run or make_run("first")
    begin_run(store, replace(run, inputs={**content_hashes(store, run.split), "encoder": "enc1"}))
    dropped = list(Reason).index(Reason.RELATIVE_MARGIN)
    decided = [(0, [KEPT - 1, KEPT - 2]), (1, [KEPT - 1, dropped])]
    decisions = _table("query_no codes", decided)
    finish_run(store, run.run_id, [{"decisions": decisions, "selected": selected_of(triplets, ids)}])
    store.execute("UPDATE runs SET finished = TIMESTAMP '2026-01-02 03:05:00'")


def selected_of(triplets: Sequence[tuple[object, ...]], ids: Sequence[str]) -> pa.Table:
    """Returns triplets (as in TRIPLETS) as a run stores them; `ids` are the documents by number."""
    negatives: dict[tuple[object, ...], list[tuple[int, object]]] = {}
    for query, positive, negative, positive_score, score, _ in sorted(
        triplets, key=lambda row: int(str(row[5]))
    ):
        key = query, positive, positive_score
        negatives.setdefault(key, []).append((ids.index(str(negative)), score))
    rows = [(*key, [n for n, _ in found], [s for _, s in found]) for key, found in negatives.items()]
    return _table("query_id positive_id positive_score doc_nos scores", rows)


def made(store: Database, out: Path, **config: object) -> ExportReport:
    return export_run(store, out, ExportConfig(**config))  # type: ignore[arg-type]


def text_of(store: Database, tmp_path: Path, **config: object) -> str:
    return made(store, tmp_path / "out", **config).data.read_text(encoding="utf-8")
