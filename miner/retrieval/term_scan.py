"""Compiled loops that number the words of texts and collect the postings of terms."""

from __future__ import annotations

from typing import Any

import numpy as np

from miner.compiled import compiled

SPACE = 32
_SEED, _PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)
"""FNV-1a."""
_PLAIN, _TWO, _THREE, _FOUR = 0x80, 0xC0, 0xE0, 0xF0


@compiled
def scan(
    data: Any,
    offsets: Any,
    first: int,
    spaced: Any,
    letters: Any,
    fold: Any,
    slots: Any,
    hashes: Any,
    starts: Any,
    arena: Any,
    state: Any,
    tokens: Any,
    ends: Any,
) -> int:
    """Numbers the tokens of texts from row `first` on; returns the row at which the vocabulary was too full.

    A text is the UTF-8 bytes `data[offsets[row]:offsets[row + 1]]`. A token is a run of two or more
    characters that `letters` allows; of anything but spaces where the text is `spaced`. `fold` gives the
    lower case of ASCII. The vocabulary is a hash table: `slots` holds term + 1, `hashes` the terms' hashes,
    and `arena[starts[term]:starts[term + 1]]` their bytes. `state` holds the numbers of terms and tokens.
    """
    mask = len(slots) - 1
    terms, written = state[0], state[1]
    for row in range(first, len(offsets) - 1):
        row_start, by_spaces = written, spaced[row]
        position, stop = offsets[row], offsets[row + 1]
        while position < stop:
            begin, characters, value = position, 0, _SEED
            while position < stop:
                byte = data[position]
                width = 1
                if byte < _PLAIN:
                    is_letter = byte != SPACE if by_spaces else letters[byte] != 0
                elif byte < _THREE:
                    width = 2
                    is_letter = by_spaces or letters[(byte & 0x1F) << 6 | (data[position + 1] & 0x3F)] != 0
                elif byte < _FOUR:
                    width = 3
                    code = (byte & 0x0F) << 12 | (data[position + 1] & 0x3F) << 6
                    is_letter = by_spaces or letters[code | (data[position + 2] & 0x3F)] != 0
                else:
                    width = 4
                    code = (byte & 0x07) << 18 | (data[position + 1] & 0x3F) << 12
                    code |= (data[position + 2] & 0x3F) << 6
                    is_letter = by_spaces or letters[code | (data[position + 3] & 0x3F)] != 0
                if not is_letter:
                    break
                for inner in range(position, position + width):
                    value = (value ^ np.uint64(fold[data[inner]])) * _PRIME
                characters += 1
                position += width
            size = position - begin
            if characters >= 2 or (by_spaces and characters):
                slot = np.int64((value ^ (value >> np.uint64(32))) & np.uint64(mask))
                term = -1
                while slots[slot]:
                    known = slots[slot] - 1
                    if hashes[known] == value and starts[known + 1] - starts[known] == size:
                        at = starts[known]
                        same = True
                        for inner in range(size):
                            if arena[at + inner] != fold[data[begin + inner]]:
                                same = False
                                break
                        if same:
                            term = known
                            break
                    slot = (slot + 1) & mask
                if term < 0:
                    if terms == len(hashes) or starts[terms] + size > len(arena):
                        state[0], state[1] = terms, row_start
                        return row
                    term = terms
                    slots[slot] = term + 1
                    hashes[term] = value
                    for inner in range(size):
                        arena[starts[term] + inner] = fold[data[begin + inner]]
                    terms += 1
                    starts[terms] = starts[term] + size
                tokens[written] = term
                written += 1
            if position < stop:
                position += 1
                while position < stop and (data[position] & _TWO) == _PLAIN:
                    position += 1
        ends[row] = written
    state[0], state[1] = terms, written
    return len(offsets) - 1


@compiled
def place_terms(hashes: Any, terms: int, slots: Any) -> None:
    """Fills an empty hash table of term + 1 by the terms' hashes."""
    mask = len(slots) - 1
    for term in range(terms):
        value = hashes[term]
        slot = np.int64((value ^ (value >> np.uint64(32))) & np.uint64(mask))
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = term + 1


@compiled
def holders(tokens: Any, ends: Any, terms: int) -> Any:
    """Returns the number of texts that hold each term; a negative token is none."""
    count = np.zeros(terms, dtype=np.int64)
    last = np.full(terms, -1, dtype=np.int32)
    start = 0
    for row in range(len(ends)):
        for place in range(start, ends[row]):
            term = tokens[place]
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
        for place in range(start, ends[row]):
            term = tokens[place]
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
