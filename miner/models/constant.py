"""Detects models that give everything the same vector or score, so that their rankings are arbitrary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from miner.arrays import Matrix
from miner.models.similarity import blocks, has_vector

_SPREAD = 1e-6
"""Numbers that differ by less than this share of the largest count as equal: fp32 has about seven digits, and
the last ones of a text's vector differ between batches."""


def same_score(pairs: int, lowest: float | None, highest: float | None) -> str | None:
    """Returns a clause for a message about the model if all pairs have one score, else None.

    `lowest` and `highest` are the extremes of the finite scores of `pairs` pairs, None if there are none.
    """
    if pairs < 2 or lowest is None or highest is None or not _same(np.array([[lowest], [highest]])):
        return None
    return f"gives all {pairs:,} pairs the same score, {lowest:.4g}: it cannot rank them"


def same_vector(**roles: tuple[Sequence[str], Matrix]) -> str | None:
    """Returns a clause for a message about the model if all texts of a role have one vector, else None.

    Each role comes with its texts and their vectors, in the same order; a NaN row is not a vector. A role
    with fewer than two distinct texts that have a vector is never reported.
    """
    same = []
    for role, (texts, vectors) in roles.items():
        if _same(vectors) and (number := _with_vector(texts, vectors)):
            same.append(f"all {number:,} {role}")
    return f"gives the same vector to {' and '.join(same)}: it cannot separate them" if same else None


def _with_vector(texts: Sequence[str], vectors: Matrix) -> int:
    """Returns how many texts have a vector; 0 if these are not at least two distinct texts."""
    has = np.concatenate([has_vector(block) for block in blocks(vectors)])
    first = next((text for text, filled in zip(texts, has, strict=True) if filled), None)
    is_distinct = any(filled and text != first for text, filled in zip(texts, has, strict=True))
    return int(has.sum()) if is_distinct else 0


def _same(rows: Matrix) -> bool:
    """Returns whether all rows are equal except for rounding; rows of NaN are ignored."""
    ends = [(np.fmin.reduce(block), np.fmax.reduce(block)) for block in blocks(rows)]
    if not ends:
        return False
    low, high = np.fmin.reduce([low for low, _ in ends]), np.fmax.reduce([high for _, high in ends])
    return bool(np.max(high - low) <= _SPREAD * max(np.max(np.abs(low)), np.max(np.abs(high))))
