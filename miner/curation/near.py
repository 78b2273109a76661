"""Near copies: texts of almost the same words.

Case, the order and the frequency of the words do not count. Punctuation and spaces count only on request:
"well-being", "well being" and "wellbeing" are the same. In scripts without spaces, words are pairs of
adjacent characters (`text.words`).
MinHash (Broder 1997, On the resemblance and containment of documents) with locality-sensitive hashing
proposes pairs; the Jaccard similarity of each is then computed exactly.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from tempfile import gettempdir
from typing import IO, Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from miner.arrays import joined_ranges, pair_keys, slices
from miner.engine.progress import SILENT, Advance, Progress
from miner.models.row_cache import release
from miner.store.aside import nameless_file
from miner.text import is_marked, marks, normalise
from miner.text import words as split_words

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PERMUTATIONS = 128
_LOWER = 0.1
"""The index searches this much below the threshold, so that it hardly misses pairs at the threshold."""
_WEIGHTS = (0.1, 0.9)
"""Weights of false positives and of false negatives when the index chooses its bands."""
_TEXTS = 1 << 14
"""Texts whose signatures are computed at a time."""
_PAIRS = 1 << 15
"""Pairs of texts compared at a time, which bounds the memory."""
_PUNCTUATION = r"(?<!\d)[^\w\s+#{marks}]+|[^\w\s+#{marks}]+(?!\d)"
"""Punctuation, except within numbers and in names such as C++ and C#."""
_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
"""White space, except between digits: 1 5 is not 15."""
_TOKEN = r"[\w{marks}]+|[^\w\s{marks}]+"


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts by position, and their similarity: three arrays of the same length."""

    left: Ints
    right: Ints
    similarity: Floats
    """Jaccard similarity of the words, 0 to 1; 1 if the texts differ only in spaces and punctuation."""


class WordSets:
    """The words of texts by position: the hashes of each text's distinct words, ascending.

    They wait in files without a name, in `folder` if one is given and can be written.
    """

    def __init__(self, texts: Iterable[str], punctuation: bool = False, folder: Path | None = None) -> None:
        self._folder = folder or Path(gettempdir())
        split = _tokens if punctuation else words
        sizes = array("q")
        with nameless_file(self._folder) as hashes, nameless_file(self._folder) as letters:
            for text in texts:
                found = split(normalise(text))
                own = sorted(set(map(_hashed, found)))
                hashes.write(array("I", own))
                sizes.append(len(own))
                if not punctuation:
                    letters.write(_letters(found))
            self._hashes = _mapped(hashes, np.uint32)
            self.letters = _mapped(letters, np.uint64).reshape(-1, 2)
            """A hash of the letters and digits of each text; no rows if punctuation counts."""
        self.sizes = np.array(sizes, dtype=np.int64)
        """The number of words of each text."""
        self._starts = np.cumsum(self.sizes) - self.sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def of(self, rows: Ints) -> npt.NDArray[np.uint32]:
        """Returns the hashes of the words of texts, one text after the other."""
        return np.asarray(self._hashes[joined_ranges(self._starts[rows], self.sizes[rows])])

    def release(self) -> None:
        """Frees the memory of the pages that were read."""
        release(self._hashes)

    @property
    def filled(self) -> Ints:
        """The texts with words."""
        return np.flatnonzero(self.sizes)

    def bands(self, number: int, size: int, advance: Advance) -> npt.NDArray[np.uint64]:
        """Returns a hash of each band of each text's MinHash signature, in a file: shape (bands, texts).

        A band is `size` neighbouring numbers of the signature. The hash of a text without words is 0.
        """
        factors = np.random.default_rng(1).integers(1 << 62, 1 << 63, size, dtype=np.uint64) | np.uint64(1)
        with nameless_file(self._folder) as file:
            file.truncate(max(1, number * len(self) * 8))
            keys = np.memmap(file, np.uint64, mode="r+", shape=(number, len(self)))
        for start in range(0, len(self), _TEXTS):
            part = slice(start, start + _TEXTS)
            found = np.zeros((len(self.sizes[part]), number), dtype=np.uint64)
            for row, values in enumerate(self._signatures(part)):
                if self.sizes[start + row]:
                    found[row] = (values[: number * size].reshape(number, size) * factors).sum(axis=1)
                advance(1)
            keys[:, part] = found.T
            release(keys)
            self.release()
        return keys

    def _signatures(self, part: slice) -> Iterator[npt.NDArray[np.uint64]]:
        """Yields the MinHash signature of each text of a part."""
        from datasketch import MinHash

        first = int(self._starts[part][0])
        hashes = np.array(self._hashes[first : first + int(self.sizes[part].sum())])
        sets = np.split(hashes, (self._starts[part] - first)[1:])
        for signature in MinHash.generator(sets, num_perm=PERMUTATIONS, hashfunc=int, scheme="affine32"):
            yield signature.hashvalues


def _mapped(file: IO[bytes], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Returns the numbers in a file; they are read from disk when they are needed."""
    file.flush()
    return np.memmap(file, dtype, mode="r") if file.tell() else np.zeros(0, dtype)


def words(text: str) -> list[str]:
    """Returns the words without punctuation: anti-terrorism is one word, antiterrorism."""
    return split_words(_pattern(_PUNCTUATION, is_marked(text)).sub("", text))


def _tokens(text: str) -> list[str]:
    """Returns the words and the punctuation between them."""
    marked = is_marked(text)
    found: list[str] = _pattern(_TOKEN, marked).findall(text)
    return [word for token in found for word in split_words(token)] if marked else found


@cache
def _pattern(pattern: str, marked: bool) -> re.Pattern[str]:
    """Returns the compiled pattern; `marked` adds combining marks to the letters, which is slower."""
    return re.compile(pattern.replace("{marks}", marks() if marked else ""))


def _hashed(word: str) -> int:
    return crc32(word.encode())


def _letters(found: Sequence[str]) -> bytes:
    return blake2b(_SPACE.sub("", " ".join(found)).encode(), digest_size=16).digest()


def jaccard(own: WordSets, left: Ints, other: WordSets, right: Ints) -> Floats:
    """Returns the Jaccard similarity of the words of each text `left` of `own` and `right` of `other`."""
    both = [(own.of(left), own.sizes[left]), (other.of(right), other.sizes[right])]
    pair = np.concatenate([np.repeat(np.arange(len(left)), sizes) for _, sizes in both])
    keys = np.sort((pair << 32) | np.concatenate([found for found, _ in both]).astype(np.int64))
    shared = np.bincount(keys[1:][keys[1:] == keys[:-1]] >> 32, minlength=len(left))
    return np.asarray(shared / np.maximum(1, own.sizes[left] + other.sizes[right] - shared))


def _of_equal_keys(
    own: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64] | None, rows: Ints, other_rows: Ints
) -> Iterator[tuple[Ints, Ints]]:
    """Yields pairs of the rows of `own` and of `other` that have equal keys, a limited number at a time.

    Without `other`, pairs of rows of `own`, the smaller one first.
    """
    order = rows[np.argsort(own[rows], kind="stable")]
    keys = own[order]
    wanted = keys if other is None else other[other_rows]
    right = order if other is None else other_rows
    starts = np.searchsorted(keys, wanted, side="left")
    stops = np.arange(len(order)) if other is None else np.searchsorted(keys, wanted, side="right")
    counts = stops - starts
    for cut in slices(counts, _PAIRS):
        yield order[joined_ranges(starts[cut], counts[cut])], np.repeat(right[cut], counts[cut])


def _of_same_letters(own: WordSets, other: WordSets, within: bool) -> Iterator[tuple[Ints, Ints]]:
    """Yields pairs of texts that differ only in spaces and punctuation."""
    if not len(own.letters) or not len(other.letters):
        return
    first, second = own.letters, other.letters
    for left, right in _of_equal_keys(
        first[:, 0], None if within else second[:, 0], own.filled, other.filled
    ):
        same = first[left, 1] == second[right, 1]
        yield left[same], right[same]


def near_pairs(
    own: WordSets, threshold: float, progress: Progress = SILENT, against: WordSets | None = None
) -> Pairs:
    """Returns the pairs of texts that are at least as similar as `threshold`, ordered, left < right.

    With `against`, pairs of a text in `own` (left) and a text in `against` (right). A text without words is
    in no pair.
    """
    from datasketch import MinHashLSH

    other = own if against is None else against
    plan = MinHashLSH(max(threshold - _LOWER, _LOWER), num_perm=PERMUTATIONS, weights=_WEIGHTS)
    number = len(own) + (0 if against is None else len(against))
    with progress.task("looking for near copies", number, unit="texts") as advance:
        keys = own.bands(plan.b, plan.r, advance)
        wanted = keys if against is None else against.bands(plan.b, plan.r, advance)
    parts = [
        (left, right, np.ones(len(left))) for left, right in _of_same_letters(own, other, against is None)
    ]
    for band in range(plan.b):
        both = np.array(keys[band]), None if against is None else np.array(wanted[band])
        release(keys)
        release(wanted)
        for left, right in _of_equal_keys(*both, own.filled, other.filled):
            new = ~(keys[:band, left] == wanted[:band, right]).any(axis=0)
            left, right = left[new], right[new]
            similarity = jaccard(own, left, other, right)
            near = similarity >= threshold
            parts.append((left[near], right[near], similarity[near]))
            for mapped in (own, other):
                mapped.release()
    return _each_once(parts)


def _each_once(parts: list[tuple[Ints, Ints, Floats]]) -> Pairs:
    """Returns the pairs in order, each with the similarity of its first occurrence."""
    none = np.zeros(0, dtype=np.int64)
    left, right, similarity = (
        np.concatenate(column) for column in zip((none, none, np.zeros(0)), *parts, strict=True)
    )
    _, first = np.unique(pair_keys(left, right), return_index=True)
    return Pairs(left[first], right[first], similarity[first])
