"""The rows that a run's positives and negatives give to a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner.errors import UsageError
from miner.store.triplets import TextsById
from miner.training.encoder_config import LOSSES
from miner.training.examples import Examples, examples_of
from miner.workflows.bench_config import LEAVE_OUT, REPEAT

LABELLED = ("cosine", "softmax")
"""The losses of labelled pairs."""


def usable(pairs: pa.Table, negatives: int, origin: str, fewer: str = LEAVE_OUT) -> pa.Table:
    """Returns the pairs (`mined_pairs`) with that many negatives; raises UsageError if there is none.

    With `fewer=REPEAT`, one negative is enough: `rows_of` repeats what there is.
    """
    if pairs.num_rows == 0:
        raise UsageError(f"{origin} has no triplets to train on", "mine with other rules, or another --run")
    least = min(negatives, 1) if fewer == REPEAT else negatives
    enough = pairs.filter(pc.greater_equal(pc.list_value_length(pairs["negative_ids"]), least))
    if enough.num_rows == 0:
        raise UsageError(f"no query of {origin} has {least} negatives", "lower negatives_per_row")
    return enough


def rows_of(texts_of: TextsById, pairs: pa.Table, loss: str, negatives: int, origin: str) -> Examples:
    """Returns `usable` pairs as rows for a loss, with scores if the loss needs them.

    The j-th positive of a query uses its negatives from the j-th on, in a circle: if there are too few, some
    come again, which the losses with a mask count once. For losses of labelled pairs, each positive has
    label 1 and its negatives have label 0. Raises UsageError if the loss allows fewer negatives.
    """
    most = LOSSES[loss].texts[1] - 2
    if negatives > most and loss not in LABELLED:
        raise UsageError(
            f"{negatives} negatives per row are too many for loss {loss}: at most {most}",
            "use negatives_per_row 1" + (", or loss cached-gist" if loss == "gist" else ""),
        )
    rows = pairs.to_pylist()
    chosen = [
        [(turn + k) % len(row["negative_ids"]) for k in range(negatives)]
        for turn, row in zip(_turns(pairs["query_id"]), rows, strict=True)
    ]
    texts: dict[str, Sequence[Any]] = {
        "anchor": texts_of.queries(pairs["query_id"]),
        "positive": texts_of.documents(pairs["positive_id"]),
    }
    for k in range(negatives):
        ids = [row["negative_ids"][indices[k]] for row, indices in zip(rows, chosen, strict=True)]
        name = "negative" if negatives == 1 else f"negative_{k + 1}"
        texts[name] = texts_of.documents(pa.chunked_array([ids], pa.string()))
    if loss in LABELLED:
        return examples_of(_labelled(texts), origin, loss)
    if LOSSES[loss].label == "scores":
        texts["scores"] = [
            [row["positive_score"], *(row["negative_scores"][i] for i in indices)]
            for row, indices in zip(rows, chosen, strict=True)
        ]
    return examples_of(pa.table(texts), origin, loss)


def _turns(owners: pa.ChunkedArray) -> list[int]:
    """Numbers the rows of each owner from 0; `owners` are sorted."""
    codes = owners.combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.searchsorted(codes, codes)
    return [int(turn) for turn in np.arange(len(codes)) - starts]


def _labelled(texts: dict[str, Sequence[Any]]) -> pa.Table:
    anchor, *documents = texts.values()
    rows, kinds = len(anchor), len(documents)
    order = np.arange(kinds * rows).reshape(kinds, rows).T.ravel()
    table = pa.table(
        {
            "anchor": [*anchor] * kinds,
            "document": [text for column in documents for text in column],
            "label": [1.0] * rows + [0.0] * rows * (kinds - 1),
        }
    )
    return table.take(pa.array(order))
