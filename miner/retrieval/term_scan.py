"""Compiled loops that number the words of texts and collect the postings of terms."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from miner.compiled import compiled

SPACE = 32
_SEED, _PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)
"""FNV-1a."""
_PLAIN, _THREE, _FOUR = 0x80, 0xE0, 0xF0
"""The first bytes of characters of two, three and four bytes begin with bits of these."""


class Utf8(NamedTuple):
    """Texts as UTF-8."""

    data: Any
    """The bytes of all texts, one after the other."""
    offsets: Any
    """Text n is `data[offsets[n]:offsets[n + 1]]`."""
    spaced: Any
    """By text: whether its words are what stands between spaces."""


class WordTable(NamedTuple):
    """Words by number, and a hash table of them."""

    slots: Any
    """A word's number + 1, or 0, at the slot of its hash or one of the next."""
    hashes: Any
    starts: Any
    """Word n is the bytes `arena[starts[n]:starts[n + 1]]`."""
    arena: Any


@compiled
def _is_letter(data: Any, at: int, letters: Any) -> Any:
    """Returns the bytes of the character at a position, and whether it is one of words."""
    byte = data[at]
    if byte < _PLAIN:
        return 1, letters[byte] != 0
    if byte < _THREE:
        return 2, letters[(byte & 0x1F) << 6 | (data[at + 1] & 0x3F)] != 0
    if byte < _FOUR:
        code = (byte & 0x0F) << 12 | (data[at + 1] & 0x3F) << 6
        return 3, letters[code | (data[at + 2] & 0x3F)] != 0
    code = (byte & 0x07) << 18 | (data[at + 1] & 0x3F) << 12 | (data[at + 2] & 0x3F) << 6
    return 4, letters[code | (data[at + 3] & 0x3F)] != 0


@compiled
def _slot(value: Any, slots: Any) -> Any:
    """Returns the first slot of a hash."""
    return np.int64((value ^ (value >> np.uint64(32))) & np.uint64(len(slots) - 1))


@compiled
def _find(value: Any, word: Any, fold: Any, table: Any) -> Any:
    """Returns the number of a word, or -1, and the slot in which the search ended."""
    slot = _slot(value, table.slots)
    while table.slots[slot]:
        number = table.slots[slot] - 1
        start, stop = table.starts[number], table.starts[number + 1]
        if table.hashes[number] == value and stop - start == len(word):
            same = True
            for at in range(len(word)):
                if table.arena[start + at] != fold[word[at]]:
                    same = False
                    break
            if same:
                return number, slot
        slot = (slot + 1) & (len(table.slots) - 1)
    return -1, slot


@compiled
def scan(
    texts: Any, first: int, letters: Any, fold: Any, table: Any, state: Any, tokens: Any, ends: Any
) -> int:
    """Numbers the words of texts from text `first` on; returns the text at which the table was too full.

    A word is a run of two or more characters that `letters` allows, or of anything but spaces where the text
    is `spaced`; `fold` gives the lower case of ASCII. `state` holds how many words the table has, and how
    many `tokens` were written; `ends` says where each text's tokens end.
    """
    data = texts.data
    words, written = state[0], state[1]
    for row in range(first, len(texts.offsets) - 1):
        before, spaced = written, texts.spaced[row]
        at, stop = texts.offsets[row], texts.offsets[row + 1]
        while at < stop:
            begin, characters, value = at, 0, _SEED
            width = 1
            while at < stop:
                width, is_letter = _is_letter(data, at, letters)
                if not (data[at] != SPACE if spaced else is_letter):
                    break
                for inner in range(at, at + width):
                    value = (value ^ np.uint64(fold[data[inner]])) * _PRIME
                characters += 1
                at += width
            if characters >= 2 or (spaced and characters):
                size = at - begin
                number, slot = _find(value, data[begin:at], fold, table)
                if number < 0:
                    if words == len(table.hashes) or table.starts[words] + size > len(table.arena):
                        state[0], state[1] = words, before
                        return row
                    number = words
                    table.slots[slot] = number + 1
                    table.hashes[number] = value
                    for inner in range(size):
                        table.arena[table.starts[number] + inner] = fold[data[begin + inner]]
                    words += 1
                    table.starts[words] = table.starts[number] + size
                tokens[written] = number
                written += 1
            at += width  # that of the character which ended the word
        ends[row] = written
    state[0], state[1] = words, written
    return len(texts.offsets) - 1


@compiled
def enter_words(table: Any, words: int) -> None:
    """Fills the empty slots of a table of so many words."""
    for number in range(words):
        slot = _slot(table.hashes[number], table.slots)
        while table.slots[slot]:
            slot = (slot + 1) & (len(table.slots) - 1)
        table.slots[slot] = number + 1


@compiled
def holders(tokens: Any, ends: Any, terms: int) -> Any:
    """Returns the number of texts that hold each term; a negative token is none."""
    count = np.zeros(terms, dtype=np.int64)
    last = np.full(terms, -1, dtype=np.int32)
    start = 0
    for row in range(len(ends)):
        for at in range(start, ends[row]):
            term = tokens[at]
            if term >= 0 and last[term] != row:
                last[term] = row
                count[term] += 1
        start = ends[row]
    return count


@compiled
def collect(tokens: Any, ends: Any, first: int, starts: Any, docs: Any, counts: Any, lengths: Any) -> None:
    """Writes each term's documents, in order, with its count in each, and the length of each document.

    The first text is document `first`; the documents of a term begin at `starts[term]`.
    """
    cursor = starts.copy()
    last = np.full(len(starts), -1, dtype=np.int32)
    start = 0
    for row in range(len(ends)):
        length = 0
        for at in range(start, ends[row]):
            term = tokens[at]
            if term < 0:
                continue
            length += 1
            if last[term] != row:
                last[term] = row
                docs[cursor[term]] = first + row
                counts[cursor[term]] = 1
                cursor[term] += 1
            else:
                counts[cursor[term] - 1] += 1
        lengths[row] = length
        start = ends[row]


@compiled
def join_runs(
    terms: Any, sizes: Any, docs: Any, counts: Any, cursor: Any, low: int, all_docs: Any, all_counts: Any
) -> None:
    """Copies a run's postings, sorted by term, to `cursor[term - low]` of the whole; moves the cursors."""
    read = 0
    for number in range(len(terms)):
        write = cursor[terms[number] - low]
        for _ in range(sizes[number]):
            all_docs[write] = docs[read]
            all_counts[write] = counts[read]
            write += 1
            read += 1
        cursor[terms[number] - low] = write
