"""The sparse encoder: weights of some of many dimensions for every text (SPLADE, inference-free, CSR)."""

from __future__ import annotations

from typing import Any

import numpy as np

from miner.models.library_encoder import LibraryEncoder, only_finite
from miner.models.row_cache import Items
from miner.models.similarity import COSINE, DOT, EUCLIDEAN, MANHATTAN
from miner.store.scorers import SPARSE

WEIGHT = np.dtype([("dimension", "<u4"), ("weight", "<f4")])
"""One weight of a sparse vector. The dimensions of a row ascend."""


class SparseEncoder(LibraryEncoder):
    """A SparseEncoder of sentence-transformers. A row has its non-zero weights: shape (weights, 1)."""

    KIND = SPARSE
    SIMILARITIES = (DOT, COSINE, EUCLIDEAN, MANHATTAN)
    _CODE = 2
    # A token has one logit per word of the vocabulary: 8,192 tokens take 1 GB in fp32.
    _GPU_TOKENS = 8192

    @property
    def item_dtype(self) -> np.dtype[Any]:
        """The type of an item: `WEIGHT`."""
        return WEIGHT

    def _library_class(self) -> Any:
        from sentence_transformers import SparseEncoder as Library

        return Library

    def _options(self) -> dict[str, Any]:
        most = self._whole._loaded.max_active_dims
        return {} if most is None else {"max_active_dims": most}

    def _items(self, features: dict[str, Any]) -> list[Items]:
        from sentence_transformers.util import select_max_active_dims

        most = self._whole._loaded.max_active_dims
        vectors = select_max_active_dims(features["sentence_embedding"], most).float().cpu().numpy()
        return [_weights(vector) for vector in vectors]


def _weights(vector: Items) -> Items:
    dimensions = np.flatnonzero(vector)
    items = np.empty((len(dimensions), 1), WEIGHT)
    items["dimension"][:, 0], items["weight"][:, 0] = dimensions, vector[dimensions]
    return only_finite(items, items["weight"])
