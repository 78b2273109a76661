"""The losses of a reranker: the rows that each one trains on, and the library's loss.

The formulas are those of sentence-transformers (`cross_encoder.losses`): LambdaLoss with the weights
NDCG-Loss2++ (Wang et al., CIKM 2018), ADR-MSE (Schlatt et al., ECIR 2025), MarginMSE (Hofstätter et al.
2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses

from miner.errors import UsageError
from miner.training.reranker_config import ADRMSE, BCE, LAMBDA, LISTWISE, MARGIN_MSE, RerankerConfig
from miner.training.reranker_pairs import LabelledPairs

LABEL = "label"
"""The column of the labels; all other columns are texts, or lists of texts."""
MOST_GAIN = 30.0
"""The largest label of loss lambda, whose gain is 2 to the power of the label."""


@dataclass(frozen=True)
class RerankerRows:
    """The rows of a training, and how many of them are in a batch."""

    rows: Dataset
    """Columns query, document and label; or query, positive, negative and label for loss margin-mse."""
    per_batch: int


def reranker_rows(pairs: LabelledPairs, config: RerankerConfig) -> RerankerRows:
    """Returns the rows of the loss. Their texts are in memory once, however many rows have them.

    bce: a pair and 1.0 or 0.0. lambda, adrmse: a query, its documents, and a label for each, positives first;
    a query with more than `list_size` documents gets several lists, each with positives and negatives.
    margin-mse: a query, a positive, a negative, and the two scores; each negative is in one row, with the
    query's positives in turn.

    Raises UsageError if the loss cannot use the labels.
    """
    queries, documents = pairs.texts()
    if config.loss == BCE:
        labels = pairs.labels.tolist()
        return RerankerRows(_dataset(query=queries, document=documents, label=labels), config.batch_size)
    _require_labels(pairs, config)
    if config.loss == MARGIN_MSE:
        positive, negative = _margins(pairs)
        rows = _dataset(
            query=[queries[row] for row in positive],
            positive=[documents[row] for row in positive],
            negative=[documents[row] for row in negative],
            label=pairs.labels[np.stack([positive, negative], axis=1)].tolist(),
        )
        return RerankerRows(rows, max(1, config.batch_size // 2))
    lists = _lists(pairs, config.list_size)
    rows = _dataset(
        query=[queries[members[0]] for members in lists],
        document=[[documents[row] for row in members] for members in lists],
        label=[pairs.labels[members].tolist() for members in lists],
    )
    return RerankerRows(rows, max(1, round(config.batch_size * len(lists) / len(pairs))))


def _dataset(**columns: Any) -> Dataset:
    return Dataset.from_dict(columns)


def _require_labels(pairs: LabelledPairs, config: RerankerConfig) -> None:
    labels = pairs.labels
    low, high = float(labels.min()), float(labels.max())
    if low == high:
        raise UsageError(
            f"all labels are {low:g}: loss {config.loss} has nothing to learn", "use another teacher"
        )
    require_gains(labels, config)


def require_gains(labels: npt.NDArray[np.float64], config: RerankerConfig) -> None:
    """Raises UsageError for loss lambda if a label has no gain that the loss can compute with."""
    low, high = float(labels.min()), float(labels.max())
    if config.loss != LAMBDA or (low >= 0 and high <= MOST_GAIN):
        return
    what = f"scores of {config.teacher}" if config.teacher else "grades"
    raise UsageError(
        f"loss {LAMBDA} weighs a label by 2 to its power, from 0 to {MOST_GAIN:g}, but the {what} go from "
        f"{low:g} to {high:g}",
        f"use --loss {ADRMSE}, which only ranks them"
        + (
            ", or a teacher that gives probabilities (miner train-reranker makes one)"
            if config.teacher
            else ""
        ),
    )


def _places(pairs: LabelledPairs) -> npt.NDArray[np.int64]:
    """The position of each pair among those of its query, which are neighbours, positives first."""
    return np.arange(len(pairs)) - np.searchsorted(pairs.query, pairs.query)


def _lists(pairs: LabelledPairs, most: int) -> list[npt.NDArray[np.int64]]:
    """The pairs of each list, by position.

    A long query is dealt out like cards, so that its lists have equal shares of positives and negatives; no
    list is without a positive.
    """
    _, query, size = np.unique(pairs.query, return_inverse=True, return_counts=True)
    positives = np.bincount(query, weights=pairs.positive).astype(np.int64)
    lists = np.minimum(-(-size // most), np.maximum(positives, 1))
    number = _places(pairs) % lists[query]
    order = np.lexsort((np.arange(len(pairs)), number, query))
    changes = (np.diff(query[order]) != 0) | (np.diff(number[order]) != 0)
    return list(np.split(order, np.flatnonzero(changes) + 1))


def _margins(pairs: LabelledPairs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The positive and the negative of each row, by position among the pairs."""
    _, start, query = np.unique(pairs.query, return_index=True, return_inverse=True)
    positives = np.bincount(query, weights=pairs.positive).astype(np.int64)
    negative = np.flatnonzero(~pairs.positive & (positives[query] > 0))
    owner = query[negative]
    turn = (_places(pairs)[negative] - positives[owner]) % positives[owner]
    return start[owner] + turn, negative


def reranker_loss(model: CrossEncoder, config: RerankerConfig, pairs: LabelledPairs) -> torch.nn.Module:
    """Returns the library's loss for the rows of `reranker_rows`.

    margin-mse compares probabilities if the teacher's scores are, and logits otherwise.
    """
    if config.loss in LISTWISE:
        listwise = losses.LambdaLoss if config.loss == LAMBDA else losses.ADRMSELoss
        return listwise(model, mini_batch_size=config.batch_size)
    if config.loss == MARGIN_MSE:
        low, high = pairs.labels.min(), pairs.labels.max()
        activation = torch.nn.Sigmoid() if low >= 0 and high <= 1 else torch.nn.Identity()
        return losses.MarginMSELoss(model, activation_fn=activation)
    return losses.BinaryCrossEntropyLoss(model)
