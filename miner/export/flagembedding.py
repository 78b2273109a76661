"""The format of FlagEmbedding: one query per line with the texts of its positives and negatives."""

from __future__ import annotations

import pyarrow as pa

from miner.export.formats import Format, Shape
from miner.export.groups import column, joined, negatives, positives, starts


def rows(table: pa.Table, shape: Shape) -> pa.Table:
    """Returns query, pos, neg, with scores pos_scores and neg_scores, and the ids, one row per query.

    FlagEmbedding's loader reads columns by name and ignores the ids.
    """
    good, bad = positives(table), negatives(table)
    first = pa.array(starts(table, "query_id"))
    columns = {
        "query": column(table, "query").take(first),
        "pos": good.of(joined(table, "positive")),
        "neg": bad.of(joined(table, "negative")),
    }
    if shape.scores:
        columns["pos_scores"] = good.of(column(table, "positive_score"))
        columns["neg_scores"] = bad.of(column(table, "negative_score"))
    return pa.table(
        columns
        | {
            "query_id": column(table, "query_id").take(first),
            "pos_id": good.of(column(table, "positive_id")),
            "neg_id": bad.of(column(table, "negative_id")),
        }
    )


_TRAINING = """```sh
torchrun --nproc_per_node 1 -m FlagEmbedding.finetune.embedder.encoder_only.base \\
    --model_name_or_path BAAI/bge-small-en-v1.5 --output_dir model --train_data PATH/{file} \\
    --train_group_size {group} --knowledge_distillation SCORED
```"""

FORMATS = {
    "flagembedding": Format(
        "One query with the texts of its positives and its mined negatives.",
        rows,
        _TRAINING.replace("SCORED", "False"),
        _TRAINING.replace("SCORED", "True"),
        ("text-retrieval",),
        ("jsonl",),
    )
}
"""The formats of this family by name."""
