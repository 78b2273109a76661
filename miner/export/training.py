"""The formats that sentence-transformers trains on without changes.

Its collators use a column named label, labels, score or scores as the target and every other column, in
order, as an input. So there are no ids, and the order of the columns is part of the format.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from miner.export.formats import GRADE, Format, Rows, Shape
from miner.export.groups import Both, both, column, joined, lists, pairs_with, score_lists, starts


def triplet(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns anchor, positive, negative, with scores `[positive, negative]`, one row per triplet."""
    columns = {
        "anchor": column(table, "query"),
        "positive": joined(table, "positive"),
        "negative": joined(table, "negative"),
    }
    if shape.scores:
        columns["scores"] = score_lists(table, np.arange(table.num_rows), 1)
    return pa.table(columns)


def n_tuple(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns anchor, positive, negative_1 … negative_n, one row per (query, positive).

    With scores, a column has `[positive, negative_1, …]`. Pairs with fewer than n negatives are left out.
    """
    first = pairs_with(table, shape.negatives)
    texts = joined(table, "negative")
    columns = {
        "anchor": column(table, "query").take(pa.array(first)),
        "positive": joined(table, "positive").take(pa.array(first)),
        **{f"negative_{i + 1}": texts.take(pa.array(first + i)) for i in range(shape.negatives)},
    }
    if shape.scores:
        columns["scores"] = score_lists(table, first, shape.negatives)
    return pa.table(columns)


def _labels(table: pa.Table, shape: Shape) -> tuple[pa.Array, pa.Array]:
    """Returns the labels of the positives and of the negatives, one per row of the table."""
    rows = table.num_rows
    if shape.labels == GRADE:
        return column(table, "positive_grade"), pa.array(np.zeros(rows))
    return pa.array(np.ones(rows, np.int64)), pa.array(np.zeros(rows, np.int64))


def targets(table: pa.Table, shape: Shape, found: Both) -> pa.Array:
    """Returns the labels of each query's positives and negatives, or with scores their scores."""
    if shape.scores:
        return found.of(column(table, "positive_score"), column(table, "negative_score"))
    return found.of(*_labels(table, shape))


def labeled_pair(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns anchor, document, label (of a positive 1 or its grade, else 0): a row per (query, document).

    With scores, the column `score` replaces `label`.
    """
    query, found = column(table, "query"), both(table)
    return pa.table(
        {
            "anchor": found.of(query, query),
            "document": found.of(joined(table, "positive"), joined(table, "negative")),
            "score" if shape.scores else "label": targets(table, shape, found),
        }
    )


def labeled_list(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns query, documents, labels (a positive 1 or its grade, a negative 0), one row per query.

    All positives of the query come first. With scores, the column `scores` replaces `labels`.
    """
    found = both(table)
    columns = {
        "documents": found.of(joined(table, "positive"), joined(table, "negative")),
        "scores" if shape.scores else "labels": targets(table, shape, found),
    }
    queries = column(table, "query").take(pa.array(starts(table, "query_id")))
    return pa.table({"query": queries} | {n: lists(v, found.offsets) for n, v in columns.items()})


_ENCODER = """```python
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import {loss}

model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
SentenceTransformerTrainer(model=model, train_dataset=train, loss={loss}(model)).train()
```"""

_RERANKER = """```python
from sentence_transformers import CrossEncoder, CrossEncoderTrainer
from sentence_transformers.cross_encoder.losses import {loss}

model = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2", num_labels=1)
CrossEncoderTrainer(model=model, train_dataset=train, loss={loss}(model)).train()
```"""


def _of_encoders(summary: str, rows: Rows, loss: str, scored: str, **facts: Any) -> Format:
    """Returns a format that bi-encoders train on: by one loss, and by another one with scores."""
    train, with_scores = _ENCODER.format(loss=loss), _ENCODER.format(loss=scored)
    return Format(summary, rows, train, with_scores, ("sentence-similarity",), **facts)


FORMATS = {
    "triplet": _of_encoders(
        "One (anchor, positive, negative) triplet.",
        triplet,
        "MultipleNegativesRankingLoss",
        "MarginMSELoss",
    ),
    "n-tuple": _of_encoders(
        "One (anchor, positive) pair with its negatives, the hardest first.",
        n_tuple,
        "MultipleNegativesRankingLoss",
        "MarginMSELoss",
        full_rows="n-tuple",
    ),
    "labeled-pair": _of_encoders(
        "One (anchor, document) pair, labelled 1 for a positive and 0 for a mined negative.",
        labeled_pair,
        "ContrastiveLoss",
        "CoSENTLoss",
        labels=True,
    ),
    "labeled-list": Format(
        "One query with its positives (label 1) and its mined negatives (label 0).",
        labeled_list,
        _RERANKER.format(loss="LambdaLoss"),
        _RERANKER.format(loss="ListNetLoss"),
        ("text-ranking",),
        labels=True,
    ),
}
"""The formats of this family by name."""
