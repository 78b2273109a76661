"""The format of DPR (dense passage retrieval): one JSON list of questions with their contexts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from miner.export.formats import Format, Shape
from miner.export.groups import Lists, column, lists, negatives, positives, starts


def rows(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns dataset, question, answers, positive_ctxs, negative_ctxs, hard_negative_ctxs per query.

    A context is {title, text, score, title_score, passage_id}; `score` is 0 unless scores are exported.
    `answers` and `negative_ctxs` are empty: DPR's retriever training needs neither.
    """
    first = pa.array(starts(table, "query_id"))
    none = np.zeros(len(first) + 1, dtype=np.int64)
    hard = _contexts(table, "negative", negatives(table), shape.scores)
    return pa.table(
        {
            "dataset": pa.array([shape.run] * len(first), pa.string()),
            "question": column(table, "query").take(first),
            "answers": lists(pa.array([], pa.string()), none),
            "positive_ctxs": _contexts(table, "positive", positives(table), shape.scores),
            "negative_ctxs": lists(hard.values[:0], none),
            "hard_negative_ctxs": hard,
        }
    )


def _contexts(table: pa.Table, side: str, where: Lists, scores: bool) -> pa.ListArray:
    taken = pa.array(where.rows)
    zeros = pa.array(np.zeros(len(taken)))
    values = {
        "title": column(table, f"{side}_title").take(taken),
        "text": column(table, f"{side}_text").take(taken),
        "score": column(table, f"{side}_score").take(taken) if scores else zeros,
        "title_score": zeros,
        "passage_id": column(table, f"{side}_id").take(taken),
    }
    return lists(pa.StructArray.from_arrays(list(values.values()), names=list(values)), where.offsets)


_TRAINING = """```sh
python train_dense_encoder.py train_datasets=[PATH/{file}] train=biencoder_local output_dir=model
```"""

FORMATS = {
    "dpr": Format(
        "One question with its positive contexts and its mined hard negative contexts.",
        rows,
        _TRAINING,
        _TRAINING,
        ("text-retrieval",),
        ("json",),
    )
}
"""The formats of this family by name."""
