"""Stores and encoders of which every measure can be computed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from miner.evaluation.result import Encode
from miner.models.encoder import Vectors
from miner.store.database import Database
from tests.stores import make_store


def add_judgments(store: Database, rows: Sequence[tuple[str, str, float, str]], source: str = "gold") -> None:
    """Adds (query_id, doc_id, relevance, split)."""
    query, doc, relevance, split = zip(*rows, strict=True)
    table = pa.table(
        {
            "query_id": list(query),
            "doc_id": list(doc),
            "relevance": pa.array(relevance, pa.float64()),
            "split": list(split),
        }
    )
    store.insert("judgments", table, source=source)


def judged_store(
    path: Path,
    documents: Mapping[str, str],
    queries: Mapping[str, str],
    judgments: Sequence[tuple[str, str, float, str]],
    labels: Mapping[str, str] | None = None,
) -> Database:
    """Returns a new open store with graded judgments."""
    store = make_store(path, documents, queries, [], labels)
    if judgments:
        add_judgments(store, judgments)
    return store


def points(places: Mapping[str, Sequence[float]]) -> Encode:
    """Returns an encoder that knows the direction of every text."""

    def encode(texts: Sequence[str], role: str) -> Vectors:
        vectors = np.array([places[text] for text in texts], dtype=np.float32)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    return encode


def angles(degrees: Mapping[str, float]) -> Encode:
    """Returns an encoder that puts texts on a circle: the nearer in degrees, the more alike."""
    return points({text: (np.cos(np.radians(a)), np.sin(np.radians(a))) for text, a in degrees.items()})


def letters() -> Encode:
    """Returns an encoder of letter counts: crude, but the same every time."""

    def encode(texts: Sequence[str], role: str) -> Vectors:
        rows = [[text.count(letter) + 0.01 for letter in "abcdefgh"] for text in texts]
        vectors = np.array(rows, dtype=np.float32)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    return encode
