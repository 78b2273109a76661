"""The terms of texts: lower-case words of two or more characters, without stop words, stemmed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import Int32s, Int64s, utf8
from miner.errors import UsageError, near
from miner.retrieval.config import Bm25Config
from miner.text import words_in_any_script

STOPWORDS = (
    "english", "german", "dutch", "french", "spanish", "portuguese", "italian", "russian",
    "swedish", "norwegian", "chinese", "turkish", "korean", "danish", "none",
)  # fmt: skip

Flags = npt.NDArray[np.bool_]

_FEW, _WORD_BYTES = 1 << 12, 8
"""The words that a new table has room for, and the bytes of each."""


def stemmer(name: str) -> Any:
    """Returns a Snowball stemmer, None for `none`; raises UsageError for an unknown name."""
    import Stemmer

    if name == "none":
        return None
    try:
        return Stemmer.Stemmer(name)
    except KeyError as error:
        known = [*Stemmer.algorithms(), "none"]
        raise UsageError(
            f"no stemmer '{name}'{near(name, known)}", f"choose one of {', '.join(known)}"
        ) from error


def require_stopwords(name: str) -> None:
    """Raises UsageError if there is no list of stop words with this name."""
    if name not in STOPWORDS:
        raise UsageError(
            f"no stop words for '{name}'{near(name, STOPWORDS)}", f"choose one of {', '.join(STOPWORDS)}"
        )


class Terms:
    """Numbers the terms of texts, in order of their first occurrence.

    In scripts without spaces the words are pairs of neighbouring characters (`text.words_in_any_script`).
    """

    def __init__(self, config: Bm25Config) -> None:
        self._stemmer = stemmer(config.stemmer)
        self._stopwords = _stopwords(config.stopwords)
        self._words = _Vocabulary()
        self._stems = _Vocabulary()
        self._term_of = np.zeros(0, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._stems)

    def numbers(self, texts: pa.Array) -> tuple[Int32s, Int64s]:
        """Returns the terms of all texts, one text after the other, and where each text ends.

        -1 stands for a stop word.
        """
        words, ends = self._words.numbers(*_prepared(texts))
        self._learn()
        return self._term_of[words], ends

    def names(self) -> pa.Array:
        """Returns the terms by number, as UTF-8."""
        return self._stems.names(0)

    def of_texts(self, texts: Sequence[str]) -> list[list[str]]:
        """Returns the terms of each text."""
        numbers, ends = self.numbers(pa.array(texts, pa.string()))
        names = self.names().to_pylist()
        known = numbers.tolist()
        spans = pairwise([0, *ends.tolist()])
        return [[names[one] for one in known[start:end] if one >= 0] for start, end in spans]

    def _learn(self) -> None:
        """Extends the map from words to terms by the words that were not known before."""
        known = len(self._term_of)
        if known == len(self._words):
            return
        words = self._words.names(known)
        stopped = pc.is_in(words, value_set=self._stopwords).to_numpy(zero_copy_only=False)
        kept = words.filter(pa.array(~stopped))
        if self._stemmer is not None:
            kept = pa.array(self._stemmer.stemWords(kept.to_pylist()), pa.large_string())
        terms = np.full(len(words), -1, dtype=np.int32)
        terms[~stopped], _ = self._stems.numbers(kept, np.ones(len(kept), dtype=np.bool_))
        self._term_of = np.concatenate([self._term_of, terms])


class _Vocabulary:
    """Numbers distinct words, in order of their first occurrence."""

    def __init__(self) -> None:
        from miner.retrieval.term_scan import WordTable

        self._table = WordTable(
            slots=np.zeros(2 * _FEW, dtype=np.int32),
            hashes=np.zeros(_FEW, dtype=np.uint64),
            starts=np.zeros(_FEW + 1, dtype=np.int64),
            arena=np.zeros(_WORD_BYTES * _FEW, dtype=np.uint8),
        )
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def numbers(self, texts: pa.Array, spaced: Flags) -> tuple[Int32s, Int64s]:
        """Returns the numbers of the texts' words and where each text ends.

        A word is a run of two or more letters, digits and underscores; of anything but spaces where a text
        is `spaced`.
        """
        from miner.retrieval.term_scan import Utf8, scan

        data, offsets = utf8(texts)
        ascii_only = not len(data) or int(data.max()) < 128
        letters = _letters(128 if ascii_only else 0x110000)
        read = Utf8(data, offsets, spaced)
        tokens = np.empty((len(data) + len(texts)) // 2 + 1, dtype=np.int32)
        ends = np.zeros(len(texts), dtype=np.int64)
        state = np.array([self._size, 0])
        row = 0
        while True:
            row = scan(read, row, letters, _fold(), self._table, state, tokens, ends)
            self._size = int(state[0])
            if row == len(texts):
                return tokens[: state[1]], ends
            self._grow()

    def names(self, first: int) -> pa.Array:
        """Returns the words from number `first` on, as UTF-8."""
        starts = self._table.starts[first : self._size + 1]
        parts = [None, pa.py_buffer(starts.copy()), pa.py_buffer(self._table.arena)]
        return pa.Array.from_buffers(pa.large_string(), self._size - first, parts)

    def _grow(self) -> None:
        """Makes room for twice as many words."""
        from miner.retrieval.term_scan import enter_words

        table = self._table
        if self._size < len(table.hashes):
            self._table = table._replace(arena=_grown(table.arena, 2 * len(table.arena)))
            return
        self._table = table._replace(
            slots=np.zeros(2 * len(table.slots), dtype=np.int32),
            hashes=_grown(table.hashes, 2 * self._size),
            starts=_grown(table.starts, 2 * self._size + 1),
        )
        enter_words(self._table, self._size)


def _grown(values: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    grown = np.zeros(size, dtype=values.dtype)
    grown[: len(values)] = values
    return grown


def _prepared(texts: pa.Array) -> tuple[pa.Array, Flags]:
    """Returns the texts, not in ASCII in lower case, and which of them are words between spaces."""
    spaced = np.zeros(len(texts), dtype=np.bool_)
    others = pc.invert(pc.string_is_ascii(texts))
    rows = np.flatnonzero(others.to_numpy(zero_copy_only=False))
    if not len(rows):
        return texts, spaced
    lowered = []
    for row, text in zip(rows, texts.filter(others).to_pylist(), strict=True):
        words = words_in_any_script(text)
        spaced[row] = words is not None
        lowered.append(text.lower() if words is None else " ".join(words))
    return pc.replace_with_mask(texts, others, pa.array(lowered, texts.type)), spaced


def _stopwords(name: str) -> pa.Array:
    require_stopwords(name)
    if name == "none":
        return pa.array([], pa.large_string())
    from bm25s import stopwords

    listed = getattr(stopwords, "STOPWORDS_EN" if name == "english" else f"STOPWORDS_{name.upper()}")
    return pa.array(sorted(set(listed)), pa.large_string())


@cache
def _fold() -> npt.NDArray[np.uint8]:
    """Returns the lower case of each ASCII byte; other bytes stay."""
    table = np.arange(256, dtype=np.uint8)
    table[ord("A") : ord("Z") + 1] += 32
    return table


@cache
def _letters(codes: int) -> npt.NDArray[np.uint8]:
    """Returns whether each of the first characters is one of words: a letter, a digit or an underscore."""
    table = np.fromiter((chr(code).isalnum() for code in range(codes)), dtype=np.uint8, count=codes)
    table[ord("_")] = 1
    return table
