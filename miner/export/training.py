"""The formats that sentence-transformers trains on without changes.

Its collators use a column named label, labels, score or scores as the target and every other column, in
order, as an input. So there are no ids, and the order of the columns is part of the format.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from miner.export.formats import Format, Rows, Shape
from miner.export.groups import RowNumbers, column, joined, lists, negatives, positives, starts


def triplet(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns anchor, positive, negative, with scores `[positive, negative]`, one row per triplet."""
    columns = {
        "anchor": column(table, "query"),
        "positive": joined(table, "positive"),
        "negative": joined(table, "negative"),
    }
    if shape.scores:
        columns["scores"] = _score_lists(table, np.arange(table.num_rows), 1)
    return pa.table(columns)


def n_tuple(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns anchor, positive, negative_1 … negative_n, one row per (query, positive).

    With scores, a column has `[positive, negative_1, …]`. Pairs with fewer than n negatives are left out.
    """
    first = starts(table, "query_id", "positive_id")
    sizes = np.diff(np.append(first, table.num_rows))
    first = first[sizes >= shape.negatives]
    texts = joined(table, "negative")
    columns = {
        "anchor": column(table, "query").take(pa.array(first)),
        "positive": joined(table, "positive").take(pa.array(first)),
        **{f"negative_{i + 1}": texts.take(pa.array(first + i)) for i in range(shape.negatives)},
    }
    if shape.scores:
        columns["scores"] = _score_lists(table, first, shape.negatives)
    return pa.table(columns)


def _score_lists(table: pa.Table, first: RowNumbers, count: int) -> pa.ListArray:
    """Returns lists of the positive's score and those of `count` negatives, from each row of `first` on."""
    positive = column(table, "positive_score").to_numpy()
    negative = column(table, "negative_score").to_numpy()
    scores = np.column_stack([positive[first], *(negative[first + i] for i in range(count))])
    return lists(pa.array(scores.ravel()), np.arange(len(first) + 1) * (count + 1))


@dataclass(frozen=True)
class _Labelled:
    """Each query's positives, then its negatives, each once."""

    query: pa.Array
    document: pa.Array
    label: pa.Array
    score: pa.Array
    offsets: RowNumbers
    """The first entry of each query, and at the end the number of entries."""


def _labelled(table: pa.Table) -> _Labelled:
    good, bad = positives(table), negatives(table)
    order = pa.array(np.argsort(np.concatenate([good.owner, bad.owner]), kind="stable"))

    def merged(of_positives: pa.Array, of_negatives: pa.Array) -> pa.Array:
        """Returns the values of each query's positives and negatives, each document once."""
        parts = [of_positives.take(pa.array(good.rows)), of_negatives.take(pa.array(bad.rows))]
        return pa.concat_arrays(parts).take(order)

    rows, query = table.num_rows, column(table, "query")
    return _Labelled(
        query=merged(query, query),
        document=merged(joined(table, "positive"), joined(table, "negative")),
        label=merged(pa.array(np.ones(rows, np.int64)), pa.array(np.zeros(rows, np.int64))),
        score=merged(column(table, "positive_score"), column(table, "negative_score")),
        offsets=good.offsets + bad.offsets,
    )


def labeled_pair(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns anchor, document, label (1 positive, 0 negative), one row per (query, document).

    With scores, the column `score` replaces `label`.
    """
    pairs = _labelled(table)
    target = {"score": pairs.score} if shape.scores else {"label": pairs.label}
    return pa.table({"anchor": pairs.query, "document": pairs.document, **target})


def labeled_list(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns query, documents, labels (1 positive, 0 negative), one row per query, positives first.

    With scores, the column `scores` replaces `labels`.
    """
    pairs = _labelled(table)
    target = {"scores": pairs.score} if shape.scores else {"labels": pairs.label}
    columns = {"documents": pairs.document, **target}
    queries = column(table, "query").take(pa.array(starts(table, "query_id")))
    return pa.table({"query": queries} | {n: lists(v, pairs.offsets) for n, v in columns.items()})


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


def _of_encoders(summary: str, rows: Rows, loss: str, scored: str) -> Format:
    """Returns a format that bi-encoders train on: by one loss, and by another one with scores."""
    train, with_scores = _ENCODER.format(loss=loss), _ENCODER.format(loss=scored)
    return Format(summary, rows, train, with_scores, "sentence-similarity")


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
    ),
    "labeled-pair": _of_encoders(
        "One (anchor, document) pair, labelled 1 for a positive and 0 for a mined negative.",
        labeled_pair,
        "ContrastiveLoss",
        "CoSENTLoss",
    ),
    "labeled-list": Format(
        "One query with its positives (label 1) and its mined negatives (label 0).",
        labeled_list,
        _RERANKER.format(loss="LambdaLoss"),
        _RERANKER.format(loss="ListNetLoss"),
        "text-ranking",
    ),
}
"""The formats of this family by name."""
