"""Pairs of texts whose vectors are near."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Progress
from miner.models.cached_encoder import CachedEncoder
from miner.models.encoder import Encoder
from miner.models.similarity import without_gaps
from miner.retrieval.nearest import pairs_above
from miner.store.database import Store

Ints = npt.NDArray[np.int64]


def vector_pairs(
    store: Store, texts: Sequence[str], kind: str, model: str, cosine: float, progress: Progress = SILENT
) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    """Returns the pairs of positions whose vectors' cosine is at least `cosine`, left < right, ordered.

    Every pair is compared. A text without a vector is in no pair. Vectors are cached beside the store. Raises
    ModelError for an encoder that cannot be used.
    """
    encoder = CachedEncoder(store.vectors, Encoder(model), progress=progress)
    vectors = encoder(list(texts), "query" if kind == "queries" else "document")
    encoder.note_truncated()
    # The threshold is a cosine, whatever the model's own similarity.
    return pairs_above(without_gaps(vectors, normalise=True), cosine, progress)
