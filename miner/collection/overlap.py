"""Whether a text contains another, compared by words, or by characters in scripts without spaces."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.text import PASSAGE, normalise, words


def _split(text: str) -> list[str]:
    """Returns the words of the normalised text; in scripts without spaces each character is a word."""
    return words(normalise(text), size=1)


class Words:
    """The words of texts by position, to find which texts contain which.

    A text is contained in another if its passage is, that is, the part from `starts` on. So a title does not
    hide that two documents have the same words.
    """

    def __init__(self, texts: pa.ChunkedArray, starts: npt.NDArray[np.int32] | None = None) -> None:
        self._texts = texts.combine_chunks()
        self._starts = np.zeros(len(texts), dtype=np.int32) if starts is None else starts
        self._normal: dict[tuple[int, int], str] = {}
        pairs = zip(texts.to_pylist(), self._starts.tolist(), strict=True)
        signatures = np.array([_signatures(*pair) for pair in pairs], dtype=np.uint64)
        self._all, self._required = signatures.reshape(-1, 2).T

    def overlap(self, left: npt.NDArray[np.int32], right: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Returns for each pair of positions whether one normalised text contains the other's passage.

        The last word of a passage of four words or more may be cut. All its other words occur in a text that
        contains it, so that signatures of the words rule out most pairs without reading the texts.
        """
        a, b = self._required[left], self._required[right]
        possible = np.flatnonzero((a & self._all[right] == a) | (b & self._all[left] == b))
        result = np.zeros(len(left), dtype=np.bool_)
        pairs = zip(left[possible].tolist(), right[possible].tolist(), strict=True)
        result[possible] = [self._contains(x, y) or self._contains(y, x) for x, y in pairs]
        return result

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
    """Returns 64-bit signatures: of the text's words, and of its passage's words but one that may be cut."""
    every = _split(text)
    passage = _split(text[start:]) if start else every
    return _bits(every), _bits(passage[:-1] if len(passage) >= PASSAGE else passage)


def _bits(some: list[str]) -> int:
    bits = 0
    for word in some:
        bits |= 1 << (crc32(word.encode()) & 63)
    return bits
