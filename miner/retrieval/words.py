"""Whether one text contains another, word for word; character for character in scripts without spaces."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.text import normalise, words

_CUT = 4
"""Words from which on the last one may be cut."""


def _split(text: str) -> list[str]:
    """The words of the normalised text; of scripts without spaces each character is one."""
    return words(normalise(text), size=1)


class Words:
    """The words of texts by position: which texts contain which."""

    def __init__(self, texts: pa.ChunkedArray) -> None:
        self._texts = texts.combine_chunks()
        self._normal: dict[int, str] = {}
        signatures = np.array([_signatures(text) for text in texts.to_pylist()], dtype=np.uint64)
        self._all, self._sure = signatures.reshape(-1, 2).T

    def overlap(self, left: npt.NDArray[np.int32], right: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Returns for each pair of positions whether one normalised text contains the other.

        Of a text of four words or more the last may be cut off anywhere. Its other words are all in a
        text that contains it: signatures of the words tell most pairs apart without reading them.
        """
        a, b = self._sure[left], self._sure[right]
        possible = np.flatnonzero((a & self._all[right] == a) | (b & self._all[left] == b))
        found = np.zeros(len(left), dtype=np.bool_)
        pairs = zip(left[possible].tolist(), right[possible].tolist(), strict=True)
        found[possible] = [_contains(self._padded(x), self._padded(y)) for x, y in pairs]
        return found

    def _padded(self, position: int) -> str:
        if position not in self._normal:
            self._normal[position] = f" {' '.join(_split(self._texts[position].as_py()))} "
        return self._normal[position]


def _signatures(text: str) -> tuple[int, int]:
    """One bit of 64 for each word of the normalised text, and the same without a word that may be cut."""
    found = _split(text)
    sure = found[:-1] if len(found) >= _CUT else found
    return _bits(found), _bits(sure)


def _bits(found: list[str]) -> int:
    bits = 0
    for word in found:
        bits |= 1 << (crc32(word.encode()) & 63)
    return bits


def _contains(left: str, right: str) -> bool:
    short, long = (left, right) if len(left) < len(right) else (right, left)
    return short in long or (short.count(" ") > _CUT and short.rstrip() in long)
