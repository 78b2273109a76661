"""Models that give everything the same vector or score: a ranking by them is arbitrary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from miner.models.similarity import found

_SPREAD = 1e-6
"""Numbers that differ by less than this share of the largest are the same: fp32 carries some seven digits,
and a text's vector differs in the last ones between batches."""


def same_score(pairs: int, lowest: float | None, highest: float | None) -> str | None:
    """Returns what is wrong, as a clause after the model's name, if all of several pairs have one score.

    `lowest` and `highest` are the extremes of the finite scores of `pairs` pairs, None if there are none.
    """
    if pairs < 2 or lowest is None or highest is None or not _same(np.array([[lowest], [highest]])):
        return None
    return f"gives all {pairs:,} pairs the same score, {lowest:.4g}: it does not separate anything"


def same_vector(**roles: tuple[Sequence[str], npt.NDArray[np.floating]]) -> str | None:
    """Returns what is wrong, as a clause after the model's name, if all texts of a role have one vector.

    A role is its texts and their vectors, in the same order; NaN rows are no vectors. A role with fewer than
    two distinct texts that have a vector is never reported.
    """
    told = []
    for role, (texts, vectors) in roles.items():
        with_vector = np.flatnonzero(found(vectors)).tolist()
        if len({texts[place] for place in with_vector}) > 1 and _same(vectors):
            told.append(f"all {len(with_vector):,} {role}")
    return f"gives the same vector to {' and '.join(told)}: it does not tell them apart" if told else None


def _same(rows: npt.NDArray[np.floating]) -> bool:
    """Returns whether all rows are equal but for rounding, those of NaN aside."""
    low, high = np.fmin.reduce(rows, axis=0), np.fmax.reduce(rows, axis=0)
    return bool(np.max(high - low) <= _SPREAD * max(np.max(np.abs(low)), np.max(np.abs(high))))
