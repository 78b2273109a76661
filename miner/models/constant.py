"""Detects models that give everything the same vector or score, so that their rankings are arbitrary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from miner.models.similarity import has_vector

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


def same_vector(**roles: tuple[Sequence[str], npt.NDArray[np.floating]]) -> str | None:
    """Returns a clause for a message about the model if all texts of a role have one vector, else None.

    Each role comes with its texts and their vectors, in the same order; a NaN row is not a vector. A role
    with fewer than two distinct texts that have a vector is never reported.
    """
    same = []
    for role, (texts, vectors) in roles.items():
        with_vector = np.flatnonzero(has_vector(vectors)).tolist()
        if len({texts[row] for row in with_vector}) > 1 and _same(vectors):
            same.append(f"all {len(with_vector):,} {role}")
    return f"gives the same vector to {' and '.join(same)}: it cannot separate them" if same else None


def _same(rows: npt.NDArray[np.floating]) -> bool:
    """Returns whether all rows are equal except for rounding; rows of NaN are ignored."""
    low, high = np.fmin.reduce(rows, axis=0), np.fmax.reduce(rows, axis=0)
    return bool(np.max(high - low) <= _SPREAD * max(np.max(np.abs(low)), np.max(np.abs(high))))
