"""Pairs of texts with near vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Progress
from miner.models.encoder import Encoder
from miner.models.similarity import without_gaps
from miner.models.vectors import VectorCache, embed, note_truncated
from miner.store.database import Store

Ints = npt.NDArray[np.int64]

_BLOCK = 4096
"""Number of texts that are compared at once."""
_ROWS = 65_536
"""Number of texts that they are compared with at a time."""


def vector_pairs(
    store: Store, texts: Sequence[str], kind: str, model: str, cosine: float, progress: Progress = SILENT
) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    """Returns the pairs of positions whose vectors' cosine is at least `cosine`, left < right, ordered.

    Compares every pair: exact, in time that grows with the square of the number of texts. A text without a
    vector is in no pair. Vectors are cached beside the store. Raises ModelError for an encoder that cannot be
    used.
    """
    role = "query" if kind == "queries" else "document"
    encoder = Encoder(model).for_role(role)
    cache = VectorCache(store.vectors, encoder.fingerprint, progress)
    rows = embed(cache, encoder, list(texts), encoder.prompts[role], progress=progress)
    note_truncated(encoder.name, cache.truncated, progress)
    # Always the cosine, whatever similarity the model has: the threshold is a cosine.
    vectors = without_gaps(np.asarray(cache.vectors[rows]), normalise=True)
    found = []
    with progress.task("comparing vectors", len(rows), unit="texts") as advance:
        for start in range(0, len(rows), _BLOCK):
            block = vectors[start : start + _BLOCK]
            for other in range(start, len(rows), _ROWS):
                scores = block @ vectors[other : other + _ROWS].T
                left, right = np.nonzero(scores >= cosine)
                value = scores[left, right].astype(np.float64)
                left, right = left + start, right + other
                ahead = left < right
                found.append((left[ahead], right[ahead], value[ahead]))
            advance(len(block))
    left, right, value = (np.concatenate(column) for column in zip(*found, strict=True)) if found else _none()
    order = np.lexsort((right, left))
    return left[order], right[order], np.minimum(value[order], 1.0)


def _none() -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
