"""The similarities of sentence-transformers models; those of two vectors in float64.

All are scores: higher means nearer. A distance is negated, as in `sentence_transformers.util.similarity`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from miner.arrays import Matrix

_BLOCK = 8192
"""Rows of a matrix that `blocks` reads at a time."""

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

COSINE, DOT, EUCLIDEAN, MANHATTAN = SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
"""The names in `config_sentence_transformers.json`. Vectors for COSINE have length 1."""
MAXSIM, MEAN_MAXSIM = "maxsim", "meanmaxsim"
"""The names of late interaction: the sum, or the mean, over a query's tokens of each token's largest dot
product with a token of the document."""

SCORES = {
    COSINE: "cosines",
    DOT: "dot products",
    EUCLIDEAN: "negated Euclidean distances",
    MANHATTAN: "negated Manhattan distances",
    MAXSIM: "sums of the largest dot products per query token",
    MEAN_MAXSIM: "means of the largest dot products per query token",
}
"""The name of each similarity's scores."""


def pairwise(similarity: str, left: Vectors | Floats, right: Vectors | Floats) -> Floats:
    """Returns the similarity of left[i] and right[i] for every i, summed in float64.

    It does not use BLAS, so that the order of the sums does not depend on the number of threads.
    """
    if similarity in (COSINE, DOT):
        return np.asarray(np.einsum("nd,nd->n", left, right, dtype=np.float64))
    difference = left.astype(np.float64) - right
    if similarity == EUCLIDEAN:
        return np.asarray(-np.sqrt(np.einsum("nd,nd->n", difference, difference)))
    return np.asarray(-np.abs(difference).sum(axis=1))


def matrix(similarity: str, left: Floats, right: Floats) -> Floats:
    """Returns the similarity of every left[i] and right[j]; a row of NaN gives NaN."""
    if similarity in (COSINE, DOT):
        return np.asarray(left @ right.T, dtype=np.float64)
    from scipy.spatial.distance import cdist

    # ‖a‖² + ‖b‖² − 2ab would lose half of the digits for vectors that are near each other.
    return np.asarray(-cdist(left, right, "euclidean" if similarity == EUCLIDEAN else "cityblock"))


def has_vector(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Returns which rows are vectors; a text without a vector has a row of NaN (`Encoder.encode`)."""
    return np.asarray(np.isfinite(vectors[:, 0])) if vectors.shape[1] else np.zeros(len(vectors), np.bool_)


def blocks(vectors: Matrix) -> Iterator[Vectors]:
    """Yields the rows in order, a few thousand at a time."""
    for start in range(0, vectors.shape[0], _BLOCK):
        yield vectors[start : start + _BLOCK]


def gaps(vectors: Matrix) -> int:
    """Returns how many rows have no vector."""
    return sum(int((~has_vector(block)).sum()) for block in blocks(vectors))


def without_gaps(vectors: Vectors, normalise: bool) -> Vectors:
    """Returns the rows, with `normalise` of length 1; a row that is not finite becomes NaN.

    With `normalise` a row shorter than 1e-12 becomes NaN too; sentence-transformers does not normalise it.
    """
    if normalise:
        # In float64: the square of a large number is infinite in fp32.
        length = np.linalg.norm(vectors.astype(np.float64), axis=1)
        usable = np.isfinite(length) & (length >= 1e-12)
        rows = (vectors / np.where(usable, length, 1.0)[:, None]).astype(np.float32)
    else:
        rows = np.array(vectors, dtype=np.float32)
        usable = np.isfinite(rows).all(axis=1)
    rows[~usable] = np.nan
    return rows
