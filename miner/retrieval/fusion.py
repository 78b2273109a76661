"""Reciprocal rank fusion of several retrievers' hits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

K = 60
"""The constant of Cormack, Clarke & Büttcher (SIGIR 2009)."""

Ranks = npt.NDArray[np.int32]


def reciprocal_rank_fusion(ranks: Sequence[Ranks], k: int = K) -> npt.NDArray[np.float64]:
    """Returns Σ 1 / (k + rank) over the retrievers, for every candidate.

    Each array has one retriever's rank of every candidate, from 1, or 0 if it did not return the candidate
    (Cormack, Clarke & Büttcher 2009, section 2).
    """
    fused = np.zeros(len(ranks[0]), dtype=np.float64)
    for rank in ranks:
        returned = rank > 0
        fused[returned] += 1.0 / (k + rank[returned])
    return fused
