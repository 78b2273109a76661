"""The format of Tevatron: one query per line with its passages, titles in a field of their own."""

from __future__ import annotations

import pyarrow as pa

from miner.export.formats import Format, Shape
from miner.export.groups import Lists, column, lists, negatives, positives, starts


def rows(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns query_id, query, positive_passages, negative_passages, one row per query.

    A passage is {docid, title, text}, with scores {docid, title, text, score}.
    """
    first = pa.array(starts(table, "query_id"))
    return pa.table(
        {
            "query_id": column(table, "query_id").take(first),
            "query": column(table, "query").take(first),
            "positive_passages": _passages(table, "positive", positives(table), shape.scores),
            "negative_passages": _passages(table, "negative", negatives(table), shape.scores),
        }
    )


def _passages(table: pa.Table, side: str, where: Lists, scores: bool) -> pa.ListArray:
    fields = {"docid": f"{side}_id", "title": f"{side}_title", "text": f"{side}_text"}
    if scores:
        fields["score"] = f"{side}_score"
    values = [column(table, name).take(pa.array(where.rows)) for name in fields.values()]
    return lists(pa.StructArray.from_arrays(values, names=list(fields)), where.offsets)


_TRAINING = """```sh
python -m tevatron.retriever.driver.train --output_dir model \\
    --model_name_or_path BAAI/bge-small-en-v1.5 --dataset_name json --dataset_path PATH/{file} \\
    --train_group_size {group}
```"""

FORMATS = {
    "tevatron": Format(
        "One query with its positive passages and its mined negative passages.",
        rows,
        _TRAINING,
        _TRAINING,
        ("text-retrieval",),
        ("jsonl",),
    )
}
"""The formats of this family by name."""
