"""Whether one text contains another, word for word."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.text import normalise


class Words:
    """The words of texts by position: which texts contain which."""

    def __init__(self, texts: pa.ChunkedArray) -> None:
        self._texts = texts.combine_chunks()
        self._normal: dict[int, str] = {}
        self._signatures = np.fromiter(map(_signature, texts.to_pylist()), dtype=np.uint64, count=len(texts))

    def overlap(self, left: npt.NDArray[np.int32], right: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Returns for each pair of positions whether one normalised text contains the other.

        A text's words are all in a text that contains it. Signatures of the words tell most pairs
        apart without reading them.
        """
        a, b = self._signatures[left], self._signatures[right]
        shared = a & b
        possible = np.flatnonzero((shared == a) | (shared == b))
        found = np.zeros(len(left), dtype=np.bool_)
        pairs = zip(left[possible].tolist(), right[possible].tolist(), strict=True)
        found[possible] = [_contains(self._padded(x), self._padded(y)) for x, y in pairs]
        return found

    def _padded(self, position: int) -> str:
        if position not in self._normal:
            self._normal[position] = f" {normalise(self._texts[position].as_py())} "
        return self._normal[position]


def _signature(text: str) -> int:
    """One bit of 64 for each word of the normalised text."""
    bits = 0
    for word in normalise(text).split():
        bits |= 1 << (crc32(word.encode()) & 63)
    return bits


def _contains(left: str, right: str) -> bool:
    return left in right if len(left) < len(right) else right in left
