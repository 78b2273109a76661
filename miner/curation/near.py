"""Near copies: texts of almost the same words.

Case, the order and the frequency of the words do not count. Punctuation and spaces count only on request:
"well-being", "well being" and "wellbeing" are the same. In scripts without spaces, words are pairs of
adjacent characters (`text.words`).
MinHash (Broder 1997, On the resemblance and containment of documents) with locality-sensitive hashing
proposes pairs; the Jaccard similarity of each is then computed exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Progress
from miner.text import is_marked, marks, normalise
from miner.text import words as split_words

if TYPE_CHECKING:
    from datasketch import MinHash

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PERMUTATIONS = 128
_LOWER = 0.1
"""The index searches this much below the threshold, so that it hardly misses pairs at the threshold."""
_WEIGHTS = (0.1, 0.9)
"""Weights of false positives and of false negatives when the index chooses its bands."""
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
    """The words of texts, by position."""

    def __init__(self, texts: Sequence[str], punctuation: bool = False) -> None:
        split = _tokens if punctuation else words
        self.sets: list[frozenset[int]] = []
        self.letters: list[bytes] = []
        """A hash of the letters and digits of each text; empty if punctuation counts."""
        for text in texts:
            found = split(normalise(text))
            self.sets.append(frozenset(map(_hashed, found)))
            if not punctuation:
                self.letters.append(_letters(found))

    def __len__(self) -> int:
        return len(self.sets)

    @property
    def minhashes(self) -> Iterator[MinHash]:
        """Yields one signature per text."""
        from datasketch import MinHash

        yield from MinHash.generator(self.sets, num_perm=PERMUTATIONS, hashfunc=int, scheme="affine32")


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


def jaccard(left: frozenset[int], right: frozenset[int]) -> float:
    """Returns the Jaccard similarity of two sets of words; 0 if they share none."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared) if shared else 0.0


def _of_same_letters(own: WordSets, other: WordSets, within: bool) -> Iterator[tuple[int, int]]:
    """Yields pairs of texts that differ only in spaces and punctuation."""
    rows: dict[bytes, list[int]] = {}
    for row, letters in enumerate(own.letters):
        if own.sets[row]:
            rows.setdefault(letters, []).append(row)
    for row, letters in enumerate(other.letters):
        for same in rows.get(letters, ()):
            if not within or same < row:
                yield same, row


def near_pairs(
    own: WordSets, threshold: float, progress: Progress = SILENT, against: WordSets | None = None
) -> Pairs:
    """Returns the pairs of texts that are at least as similar as `threshold`, ordered, left < right.

    With `against`, pairs of a text in `own` (left) and a text in `against` (right). A text without words is
    in no pair.
    """
    from datasketch import MinHashLSH

    other = own if against is None else against
    index = MinHashLSH(max(threshold - _LOWER, _LOWER), num_perm=PERMUTATIONS, weights=_WEIGHTS)
    found = dict.fromkeys(_of_same_letters(own, other, against is None), 1.0)

    def _look(row: int, signature: MinHash) -> None:
        for near in index.query(signature) if other.sets[row] else ():
            similarity = jaccard(own.sets[near], other.sets[row])
            if similarity >= threshold:
                found.setdefault((near, row), similarity)

    number = len(own) + (0 if against is None else len(against))
    with progress.task("looking for near copies", number, unit="texts") as advance:
        for row, one in enumerate(own.minhashes):
            if against is None:
                _look(row, one)  # before the index contains it
            if own.sets[row]:
                index.insert(row, one, check_duplication=False)
            advance(1)
        for row, one in enumerate(() if against is None else against.minhashes):
            _look(row, one)
            advance(1)
    table = np.array([(*pair, found[pair]) for pair in sorted(found)], dtype=np.float64).reshape(-1, 3)
    return Pairs(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2])
