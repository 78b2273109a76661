"""The scorer of a run's deciding scores: its reranker, else its encoder, else BM25."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.export.manifest import MANIFEST
from miner.models.similarity import COSINE
from miner.store.database import Database
from miner.store.models import model_name, model_similarity
from miner.store.runs import StoredRun

RERANKER, ENCODER, BM25 = "reranker", "encoder", "BM25"


@dataclass(frozen=True)
class Scorer:
    """The model, or BM25, that scored a run's positives and negatives."""

    kind: str
    """RERANKER, ENCODER or BM25."""
    name: str = ""
    """The model's name, or its fingerprint if it has none; empty for BM25."""
    similarity: str = COSINE
    """How an encoder compares vectors."""


def scorer_of_run(store: Database, run: StoredRun) -> Scorer:
    """Returns the scorer of a run."""
    models = {RERANKER: run.reranker, ENCODER: run.encoder}
    names = {kind: model_name(store, model) or model for kind, model in models.items() if model}
    return _first(names, model_similarity(store, run.encoder))


def scorer_of_manifest(manifest: Mapping[str, Any]) -> Scorer:
    """Returns the scorer of an export from its manifest, which names the models of the run."""
    models = manifest["models"]
    names = {kind: one["name"] or one["fingerprint"] for kind, one in models.items()}
    return _first(names, models.get(ENCODER, {}).get("similarity"))


def scorer_of_export(folder: Path) -> Scorer | None:
    """Returns the scorer of the export in a folder; None if it has no scores or is not an export."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        return scorer_of_manifest(manifest) if manifest["scores"] else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _first(names: Mapping[str, str], similarity: str | None) -> Scorer:
    kind = next((kind for kind in (RERANKER, ENCODER) if kind in names), BM25)
    return Scorer(kind, names.get(kind, ""), similarity or COSINE)
