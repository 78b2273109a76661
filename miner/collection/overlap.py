"""Whether a text contains another, compared by words, or by characters in scripts without spaces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import Int64s, Positions, utf8
from miner.text import PASSAGE, normalise, words

Flags = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

_READ = 8192
"""The most texts that are read at a time."""
_BYTES = 1 << 19
"""Bytes of text whose words are hashed at a time; the arrays for it fit in a processor's cache."""
_KEPT = 4
"""How many times as many normalised texts are kept for further comparisons."""
_BASE = 0x9E3779B97F4A7C15
_MIX = np.uint64(0xD6E8FEB86659FD93)


def _split(text: str) -> list[str]:
    """Returns the words of the normalised text; in scripts without spaces each character is a word."""
    return words(normalise(text), size=1)


class Words:
    """The words of texts by position, to find which texts contain which.

    A text is contained in another if its passage is, that is, the part from `starts` on. So a title does not
    hide that two documents have the same words. Only texts that are compared are read, at most `block` of
    them at a time.
    """

    def __init__(
        self, texts_of: Callable[[Positions], pa.Array], starts: npt.NDArray[np.int32], block: int = _READ
    ) -> None:
        self._texts_of, self._starts, self._block = texts_of, starts, min(block, _READ)
        self._normal: dict[tuple[int, int], str] = {}
        # The system gives memory for a part of these arrays only once it is written to.
        self._all, self._required = np.zeros((2, len(starts)), dtype=np.uint64)
        self._known = np.zeros(len(starts), dtype=np.bool_)

    def overlap(self, left: Positions, right: Positions) -> Flags:
        """Returns for each pair of positions whether one normalised text contains the other's passage.

        The last word of a passage of four words or more may be cut. All its other words occur in a text that
        contains it, so that signatures of the words rule out most pairs.
        """
        self._sign(np.concatenate([left, right]))
        a, b = self._required[left], self._required[right]
        possible = np.flatnonzero((a & self._all[right] == a) | (b & self._all[left] == b))
        result = np.zeros(len(left), dtype=np.bool_)
        for start in range(0, len(possible), self._block):
            rows = possible[start : start + self._block]
            self._normalise(np.concatenate([left[rows], right[rows]]))
            pairs = zip(left[rows].tolist(), right[rows].tolist(), strict=True)
            result[rows] = [self._contains(x, y) or self._contains(y, x) for x, y in pairs]
        return result

    def _sign(self, positions: Positions) -> None:
        """Computes the signatures of texts that have none yet."""
        new = np.unique(positions)
        new = new[~self._known[new]]
        for start in range(0, len(new), self._block):
            rows = new[start : start + self._block]
            self._all[rows], self._required[rows] = signatures(self._texts_of(rows), self._starts[rows])
            self._known[rows] = True

    def _normalise(self, positions: Positions) -> None:
        """Reads texts, so that `_contains` can compare them."""
        if len(self._normal) > _KEPT * self._block:
            self._normal.clear()
        wanted = [one for one in np.unique(positions).tolist() if (one, 0) not in self._normal]
        for position, text in zip(wanted, self._texts_of(np.array(wanted, dtype=np.int64)), strict=True):
            for start in {0, int(self._starts[position])}:
                self._normal[position, start] = f" {' '.join(_split(text.as_py()[start:]))} "

    def _contains(self, whole: int, part: int) -> bool:
        long, short = self._normal[whole, 0], self._normal[part, int(self._starts[part])]
        if len(short) > len(long):
            return False
        return short in long or (short.count(" ") > PASSAGE and short.rstrip() in long)


def signatures(texts: pa.Array, starts: npt.NDArray[np.int32]) -> tuple[Bits, Bits]:
    """Returns two 64-bit signatures of each text: of its words, and of its passage's words but the last.

    A passage begins at its text's entry in `starts`. The last word of a passage of four words or more is left
    out, since it may be cut.
    """
    every, required = np.zeros((2, len(texts)), dtype=np.uint64)
    plain = pc.string_is_ascii(texts).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(plain)
    data, begin, end = _bytes(texts if len(rows) == len(texts) else texts.take(pa.array(rows)))
    every[rows], required[rows] = _signed(data, begin, end)
    titled = np.flatnonzero(starts[rows])
    if len(titled):
        # In ASCII a character is a byte.
        passages = np.minimum(begin[titled] + starts[rows[titled]], end[titled])
        required[rows[titled]] = _signed(data, passages, end[titled])[1]
    rows = np.flatnonzero(~plain)
    if len(rows):
        read = texts.take(pa.array(rows)).to_pylist()
        every[rows] = _signed(*_bytes(_normal(read)))[0]
        passages = (text[start:] for text, start in zip(read, starts[rows].tolist(), strict=True))
        required[rows] = _signed(*_bytes(_normal(passages)))[1]
    return every, required


def _normal(texts: Iterable[str]) -> pa.Array:
    """Returns the words of each normalised text, with spaces between them."""
    return pa.array([" ".join(_split(text)) for text in texts], pa.large_string())


def _bytes(texts: pa.Array) -> tuple[Bytes, Int64s, Int64s]:
    """Returns the bytes of texts, one after the other, and where each begins and ends."""
    data, offsets = utf8(texts)
    return data, offsets[:-1], offsets[1:]


def _signed(data: Bytes, begin: Int64s, end: Int64s) -> tuple[Bits, Bits]:
    """Returns the signatures of the texts at `data[begin:end]`: of all words, and without a last fourth.

    The texts are in order and do not overlap.
    """
    every, required = np.zeros((2, len(begin)), dtype=np.uint64)
    cuts = np.flatnonzero(np.diff(end // _BYTES, prepend=-1))
    for first, last in pairwise([*cuts.tolist(), len(begin)]):
        low, rows = int(begin[first]), slice(first, last)
        part = data[low : int(end[last - 1])]
        every[rows], required[rows] = _signed_part(part, begin[rows] - low, end[rows] - low)
    return every, required


def _signed_part(data: Bytes, begin: Int64s, end: Int64s) -> tuple[Bits, Bits]:
    """Does for some bytes what `_signed` does, with several arrays of their length."""
    owner, bits = _words(data, begin, end)
    counts = np.bincount(owner, minlength=len(begin))
    filled = np.flatnonzero(counts)
    every, required = np.zeros((2, len(begin)), dtype=np.uint64)
    if len(filled):
        firsts = np.concatenate([[0], np.cumsum(counts[filled])[:-1]])
        every[filled] = np.bitwise_or.reduceat(bits, firsts)
        cut = counts[filled] >= PASSAGE
        bits[(firsts + counts[filled] - 1)[cut]] = 0
        required[filled] = np.bitwise_or.reduceat(bits, firsts)
    return every, required


def _words(data: Bytes, begin: Int64s, end: Int64s) -> tuple[Int64s, Bits]:
    """Returns, for each word of texts, the number of its text, and a bit that depends on its letters only.

    A word is a run of bytes that are not white space, and ASCII letters count in lower case. Its hash is that
    of Rabin and Karp, modulo 2 ** 64: the difference of two sums over all bytes before.
    """
    lower, space = _tables()
    filled = np.concatenate([[False], ~space[data], [False]])
    edge = np.zeros(len(data) + 1, dtype=np.bool_)
    edge[begin] = edge[end] = True
    starts = np.flatnonzero(filled[1:] & (~filled[:-1] | edge))
    stops = np.flatnonzero(filled[:-1] & (~filled[1:] | edge))
    owner = np.searchsorted(begin, starts, side="right") - 1
    inside = (owner >= 0) & (starts < end[owner])
    starts, stops, owner = starts[inside], stops[inside], owner[inside]
    powers, inverses = _powers(1 << max(len(data), _BYTES).bit_length())
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(lower[data] * powers[: len(data)])])
    hashes = (sums[stops] - sums[starts]) * inverses[starts] * _MIX
    return owner, np.uint64(1) << (hashes >> np.uint64(58))


@cache
def _tables() -> tuple[Bits, Flags]:
    """Returns the lower case of each byte, and whether it is white space; as str.lower and str.split do."""
    letters = [chr(code) if code < 128 else "" for code in range(256)]
    lower = [ord(letter.lower()) if letter else code for code, letter in enumerate(letters)]
    return np.array(lower, dtype=np.uint64) + np.uint64(1), np.array([letter.isspace() for letter in letters])


@cache
def _powers(size: int) -> tuple[Bits, Bits]:
    """Returns the powers of an odd number and of its inverse, modulo 2 ** 64."""
    both = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        steps = np.full(size, base, dtype=np.uint64)
        steps[0] = 1
        both.append(np.cumprod(steps))
    return both[0], both[1]
