"""Collections and retrievers for the tests of sparse and multi-vector encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.collection.collection import Collection, Hits
from miner.models.vector_cache import vector_keys
from miner.retrieval.config import DenseConfig
from miner.retrieval.encoders import encoder_retriever

Floats = npt.NDArray[np.float64]

TEXTS = [
    "How to bake bread at home",
    "",
    "Bread, butter: and more!",
    "!!!",
    "word " * 90,
    "The engine of a diesel car",
    "How to bake bread at home",
    "Überraschung, 東京 и ещё: ½ ﬁ ☃ 🙂",
    *(f"bread number {i} {'and so on ' * (i % 9)}" for i in range(30)),
]
QUERIES = ["bread", "a diesel engine at home", "number 7 and so on", "word", ""]


def collection(documents: Sequence[str], queries: Sequence[str]) -> Collection:
    """Returns documents d0, d1, … and queries q0, q1, …"""
    return Collection(
        pa.table({"doc_id": [f"d{i:05}" for i in range(len(documents))], "text": list(documents)}),
        pa.table({"query_id": [f"q{i:05}" for i in range(len(queries))], "text": list(queries)}),
        {},
        "train",
    )


def retriever(
    vectors: Path,
    model: Path,
    documents: Sequence[str] = TEXTS,
    queries: Sequence[str] = QUERIES,
    *,
    workers: int | None = None,
    **settings: Any,
) -> Any:
    """Returns the retriever of a model over documents and queries, with its cache in the folder `vectors`."""
    store: Any = SimpleNamespace(vectors=vectors)
    config = DenseConfig(str(model), dtype="fp32", **settings)
    return encoder_retriever(store, collection(documents, queries), config, name=model.name, workers=workers)


def filled(made: Any, role: str, texts: Sequence[str], rows: Any) -> None:
    """Puts rows into the cache of a role."""
    made._cached.cache(role).append(vector_keys(texts, made.prompts[role]), rows)


def every_pair(made: Any, queries: int = len(QUERIES), documents: int = len(TEXTS)) -> Floats:
    """Returns the scores of all pairs: shape (queries, documents)."""
    query, doc = np.meshgrid(
        np.arange(queries, dtype=np.int32), np.arange(documents, dtype=np.int32), indexing="ij"
    )
    scores: Floats = made.score_pairs(query.ravel(), doc.ravel()).reshape(queries, documents)
    return scores


def brute_force(scores: Floats, depth: int) -> list[list[int]]:
    """Returns each query's best documents by score, ties by position; NaN is not ranked."""
    orders = [np.lexsort((np.arange(len(row)), -row)) for row in scores]
    return [
        order[np.isfinite(row[order])][:depth].tolist() for row, order in zip(scores, orders, strict=True)
    ]


def documents_of(hits: Hits, queries: int = len(QUERIES)) -> list[list[int]]:
    """Returns the documents of each query in the order of their ranks, which is checked."""
    for query in range(queries):
        ranks = hits.rank[hits.query == query].tolist()
        assert ranks == list(range(1, len(ranks) + 1))
    assert hits.query.tolist() == sorted(hits.query.tolist())
    return [hits.doc[hits.query == query].tolist() for query in range(queries)]


def bytes_of(hits: Hits) -> tuple[bytes, ...]:
    """Returns all bytes of hits."""
    return tuple(column.tobytes() for column in (hits.query, hits.doc, hits.rank, hits.score))


def files_below(folder: Path) -> dict[str, bytes]:
    """Returns the content of every file below a folder."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
