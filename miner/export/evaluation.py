"""The format of sentence-transformers' CrossEncoderRerankingEvaluator: queries with documents to rerank."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from miner.export.formats import EVALUATE, Format, Shape
from miner.export.groups import both, column, joined, lists, negatives, positives, starts


def reranking(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns query, positive, negative: one row per query, with a list of each.

    With `include_positives`, `documents` replaces `negative`: the positives that a retriever found and the
    negatives, in the order of the run's candidates. A positive that none found is in `positive` alone.
    """
    good = positives(table)
    columns = {
        "query": column(table, "query").take(pa.array(starts(table, "query_id"))),
        "positive": good.of(joined(table, "positive")),
    }
    if not shape.include_positives:
        return pa.table(columns | {"negative": negatives(table).of(joined(table, "negative"))})
    return pa.table(columns | {"documents": _ranked(table)})


def _ranked(table: pa.Table) -> pa.ListArray:
    found = both(table)
    texts = found.of(joined(table, "positive"), joined(table, "negative"))
    positions = found.of(column(table, "positive_position"), column(table, "negative_position"))
    position = positions.fill_null(0).to_numpy(zero_copy_only=False)
    owner = np.repeat(np.arange(len(found.offsets) - 1), np.diff(found.offsets))
    order = np.lexsort((position, owner))
    order = order[position[order] > 0]
    sizes = np.bincount(owner[order], minlength=len(found.offsets) - 1)
    return lists(texts.take(pa.array(order)), np.concatenate([[0], np.cumsum(sizes)]))


_EVALUATION = """```python
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

model = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2")
print(CrossEncoderRerankingEvaluator(list(train), name="{split}")(model))
```

The negatives are those that the rules kept: a query's likely positives are not among them."""

FORMATS = {
    "reranking": Format(
        "One query with its positives and the documents to rank them against.",
        reranking,
        _EVALUATION,
        _EVALUATION,
        ("text-ranking",),
        ("jsonl", "parquet", "datasets"),
        use=EVALUATE,
        scores=False,
        positions=True,
    )
}
"""The formats of this family by name."""
