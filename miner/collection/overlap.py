"""Whether one text contains another, word for word; character for character in scripts without spaces."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.text import PASSAGE, normalise, words


def _split(text: str) -> list[str]:
    """The words of the normalised text; of scripts without spaces each character is one."""
    return words(normalise(text), size=1)


class Words:
    """The words of texts by position: which texts contain which.

    A text is contained in another when its passage is: what it has from `starts` on, so that titles
    do not hide the same words under them.
    """

    def __init__(self, texts: pa.ChunkedArray, starts: npt.NDArray[np.int32] | None = None) -> None:
        self._texts = texts.combine_chunks()
        self._starts = np.zeros(len(texts), dtype=np.int32) if starts is None else starts
        self._normal: dict[tuple[int, int], str] = {}
        pairs = zip(texts.to_pylist(), self._starts.tolist(), strict=True)
        signatures = np.array([_signatures(*pair) for pair in pairs], dtype=np.uint64)
        self._all, self._sure = signatures.reshape(-1, 2).T

    def overlap(self, left: npt.NDArray[np.int32], right: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Returns for each pair of positions whether one normalised text contains the other's passage.

        Of a passage of four words or more the last may be cut off anywhere. Its other words are all in a
        text that contains it: signatures of the words tell most pairs apart without reading them.
        """
        a, b = self._sure[left], self._sure[right]
        possible = np.flatnonzero((a & self._all[right] == a) | (b & self._all[left] == b))
        found = np.zeros(len(left), dtype=np.bool_)
        pairs = zip(left[possible].tolist(), right[possible].tolist(), strict=True)
        found[possible] = [self._contains(x, y) or self._contains(y, x) for x, y in pairs]
        return found

    def _contains(self, whole: int, part: int) -> bool:
        long, short = self._padded(whole, 0), self._padded(part, int(self._starts[part]))
        if len(short) > len(long):
            return False
        return short in long or (short.count(" ") > PASSAGE and short.rstrip() in long)

    def _padded(self, position: int, start: int) -> str:
        key = position, start
        if key not in self._normal:
            self._normal[key] = f" {' '.join(_split(self._texts[position].as_py()[start:]))} "
        return self._normal[key]


def _signatures(text: str, start: int) -> tuple[int, int]:
    """One bit of 64 for each word of the text, and for each of its passage but one that may be cut."""
    found = _split(text)
    passage = _split(text[start:]) if start else found
    return _bits(found), _bits(passage[:-1] if len(passage) >= PASSAGE else passage)


def _bits(found: list[str]) -> int:
    bits = 0
    for word in found:
        bits |= 1 << (crc32(word.encode()) & 63)
    return bits
