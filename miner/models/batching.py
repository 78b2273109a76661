"""Batches of texts for a transformer, by their length in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

CPU_TOKENS = 1024
"""Tokens per batch on a CPU: 512 to 2,048 are equally fast, more do not fit into its cache."""
GPU_TOKENS = 32_768

Indices = npt.NDArray[np.int64]


def equal_length_batches(lengths: npt.ArrayLike, tokens: int = CPU_TOKENS) -> list[Indices]:
    """Returns batches of indices, each of texts of one length and of about `tokens` tokens.

    Nothing is padded, so that no computation is wasted and a text's vector does not depend on longer texts in
    its batch. The batches depend only on the lengths.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    batches: list[Indices] = []
    cuts = np.append(np.flatnonzero(np.diff(sizes[order], prepend=-1)), len(order)).tolist()
    for start, stop in pairwise(cuts):
        per_batch = max(1, tokens // max(1, int(sizes[order[start]])))
        batches += [order[i : min(i + per_batch, stop)] for i in range(start, stop, per_batch)]
    return batches


def units_of(batches: Sequence[Indices], lengths: npt.ArrayLike) -> list[int]:
    """Returns the progress units of each batch: its share of the tokens, scaled to the number of texts.

    Batches are ordered by length; counting texts would make the work look fast while the texts are short.
    """
    sizes = np.maximum(1.0, np.asarray(lengths, dtype=np.float64))
    tokens = np.cumsum([sizes[batch].sum() for batch in batches])
    texts = np.floor(tokens / sizes.sum() * len(sizes) + 0.5).astype(np.int64)
    units: list[int] = np.diff(texts, prepend=0).tolist()
    return units


def padded_batches(lengths: npt.ArrayLike, tokens: int = GPU_TOKENS) -> list[Indices]:
    """Returns batches of indices, longest texts first, of at most `tokens` tokens after padding."""
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    batches: list[Indices] = []
    start = 0
    while start < len(order):
        per_batch = max(1, tokens // max(1, int(sizes[order[start]])))
        batches.append(order[start : start + per_batch])
        start += per_batch
    return batches
