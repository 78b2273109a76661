"""What gave the scores in a training set, which a model may learn from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.models.similarity import COSINE
from miner.sources.exported import MANIFEST
from miner.store import scorers
from miner.store.database import Database
from miner.store.models import described_scorer
from miner.store.runs import StoredRun

RERANKER, ENCODER, BM25, IMPORTED, JUDGE = "reranker", "encoder", "BM25", "imported", "judge"


@dataclass(frozen=True)
class Teacher:
    """What scored a run's positives and negatives, for a model that learns from these scores."""

    kind: str
    """RERANKER, ENCODER, BM25, JUDGE or IMPORTED (a run or vectors that were given)."""
    name: str = ""
    """The name of the model, file or folder; empty for BM25."""
    similarity: str = COSINE
    """How an encoder compares vectors."""


def teacher_of_run(store: Database, run: StoredRun) -> Teacher:
    """Returns what gave a run its deciding scores."""
    return _teacher(described_scorer(store, run.deciding))


def teacher_of_manifest(manifest: Mapping[str, Any]) -> Teacher:
    """Returns what gave the scores of an export, from its manifest."""
    return _teacher(next(one for one in manifest["scorers"] if one["scorer"] == manifest["decided_by"]))


def teacher_of_export(folder: Path) -> Teacher | None:
    """Returns what gave the scores of the export in a folder; None if it has none or is not an export."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        return teacher_of_manifest(manifest) if manifest["scores"] else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StopIteration):
        return None


def _teacher(facts: Mapping[str, Any]) -> Teacher:
    kinds = {one: one for one in (RERANKER, JUDGE)}
    kinds |= {scorers.BM25: BM25, scorers.VECTORS: IMPORTED, scorers.IMPORTED: IMPORTED}
    kind = kinds.get(facts["kind"], ENCODER)
    return Teacher(kind, "" if kind == BM25 else facts["name"], facts.get("similarity") or COSINE)
