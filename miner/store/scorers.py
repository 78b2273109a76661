"""The scorers of a run: what gave its pairs scores, and which one decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miner.store.database import Database
from miner.store.tables import JUDGE, RERANKER

BM25, DENSE, SPARSE, MULTI_VECTOR = "bm25", "dense", "sparse", "multi-vector"
VECTORS, IMPORTED = "vectors", "imported"
ENCODERS = (DENSE, SPARSE, MULTI_VECTOR)
"""The kinds of scorers that are encoders."""


@dataclass(frozen=True)
class Scorer:
    """What gives (query, document) pairs a score: a retriever, which also finds candidates, a reranker, or a
    judge."""

    number: int
    """Its place among the scorers of its run, from 0."""
    name: str
    """Unique in its run: `bm25`, or the short name of a model, a file or a folder."""
    kind: str
    """`bm25`, `dense`, `sparse`, `multi-vector`, `vectors`, `imported`, `reranker` or `judge`."""
    model: str | None
    """The fingerprint of a model or of what was imported; None for BM25. The key of a judge."""
    stage: str | None = None
    """The key of the rows in `scored` with a judge's grades; None for the others, whose key is the run's."""

    @property
    def is_reranker(self) -> bool:
        """Whether it scores pairs that others found."""
        return self.kind == RERANKER

    @property
    def is_judge(self) -> bool:
        """Whether it is a language model that grades pairs."""
        return self.kind == JUDGE

    @property
    def is_retriever(self) -> bool:
        """Whether it finds candidates."""
        return not (self.is_reranker or self.is_judge)

    @property
    def is_encoder(self) -> bool:
        """Whether it is an encoder."""
        return self.kind in ENCODERS


def keep_scorers(store: Database, run_id: str, scorers: Sequence[Scorer]) -> None:
    """Stores the scorers of a new run."""
    for one in scorers:
        store.execute(
            "INSERT INTO scorers VALUES (?, ?, ?, ?, ?, ?)",
            [run_id, one.number, one.name, one.kind, one.model, one.stage],
        )


def scorers_by_run(store: Database) -> dict[str, tuple[Scorer, ...]]:
    """Returns the scorers of every run, in order, by run_id."""
    rows = store.rows(
        "SELECT run_id, number, scorer, kind, model, stage FROM scorers ORDER BY run_id, number"
    )
    found: dict[str, list[Scorer]] = {}
    for run_id, *values in rows:
        found.setdefault(run_id, []).append(Scorer(*values))
    return {run_id: tuple(scorers) for run_id, scorers in found.items()}


def set_judge(store: Database, run_id: str, judge: Scorer) -> None:
    """Adds a judge to the scorers of a run, or replaces the one of its number."""
    with store.transaction():
        store.execute("DELETE FROM scorers WHERE run_id = ? AND number = ?", [run_id, judge.number])
        keep_scorers(store, run_id, [judge])
