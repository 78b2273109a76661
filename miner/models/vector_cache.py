"""The vector cache beside a store: one vector of float32 per text, in the file `vectors.f32`.

The guarantees and the locks are those of `RowCache`. Row n of the cache is row n of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Protocol

import numpy as np

from miner.arrays import Matrix
from miner.engine.cluster import current
from miner.engine.progress import SILENT, CountedInto, Progress
from miner.engine.work import in_order
from miner.models.encoder import TextEncoder, Vectors
from miner.models.remote import encoded_by, in_workers
from miner.models.row_cache import (
    Entries,
    Flags,
    Keys,
    RowCache,
    RowNumbers,
    among,
    gather,
    names_of,
    note_truncated,
    release,
    vector_keys,
)
from miner.store.aside import nameless_file

__all__ = [
    "ENTRY",
    "ChosenRows",
    "Keys",
    "RowNumbers",
    "Texts",
    "VectorCache",
    "column_blocks",
    "embed",
    "gather",
    "keys_of",
    "note_truncated",
    "release",
    "vector_keys",
    "vectors_of",
]

CHUNK = 1024
"""Texts encoded between two writes, times the encoder's `bulk`. Ctrl-C or a kill can lose this much work:
seconds of a small model."""

ENTRY = np.dtype(
    [
        ("key", "<u8", 2),
        ("vector", "<u4"),  # CRC-32 of the row
        ("dimension", "<u4"),  # 0: the row is dead
        ("truncated", "<u4"),  # 1: the text was longer than the model reads
        ("check", "<u4"),  # CRC-32 of the fields above
    ]
)


class VectorCache(RowCache[Vectors]):
    """The cached vectors of the encoder with the fingerprint `model`, in a folder below `root`."""

    _ITEMS = "vectors.f32"
    _ENTRY = ENTRY

    @property
    def vectors(self) -> Vectors:
        """All rows, mapped from disk: shape (rows, dimension). Only rows that `rows` returned are checked."""
        return self.items[: len(self)]

    def append(self, keys: Keys, rows: Vectors, truncated: Flags | None = None) -> Keys:
        """Adds vectors, except those whose keys another process has added meanwhile; returns their keys.

        Raises MinerError if they cannot be written; the cache is then unchanged.
        """
        matrix = np.ascontiguousarray(rows, dtype="<f4")
        return self._append(keys, matrix, np.ones(len(keys), dtype=np.int64), truncated)

    def _spans(self, rows: RowNumbers) -> tuple[RowNumbers, RowNumbers]:
        return rows, np.ones_like(rows)

    def _ends(self, entries: Entries) -> RowNumbers:
        return np.arange(self._count + 1, self._count + len(entries) + 1)

    def _begin(self, used: int) -> tuple[int, int]:
        first = max(self._count, used)
        return first, first - self._count


class ChosenRows:
    """Rows of a mapped matrix in an order of their own, which are read when they are needed."""

    def __init__(self, matrix: Matrix, rows: RowNumbers) -> None:
        self._matrix, self._rows = matrix, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows, and the length of a vector."""
        return len(self._rows), self._matrix.shape[1]

    def __getitem__(self, rows: slice | RowNumbers, /) -> Vectors:
        found = np.array(self._matrix[self._rows[rows]], dtype=np.float32)
        release(self._matrix)
        return found


Texts = Sequence[str] | Callable[[], Iterable[Sequence[str]]]
"""Texts, or a function that gives them in blocks, so that they are not all in memory; it is called again for
the texts that must be encoded."""


_BLOCK = 16_384
"""Texts of a table that are in memory as Python objects at a time."""
_CHARACTERS = 1 << 24
"""Texts of a sequence that are longer together than this are in blocks of their own."""


def column_blocks(column: Any) -> Iterator[list[str]]:
    """Yields the texts of a column of an Arrow table, a block at a time."""
    for start in range(0, len(column), _BLOCK):
        yield column.slice(start, _BLOCK).to_pylist()


def blocks_of(texts: Texts) -> Iterable[Sequence[str]]:
    """Returns the blocks of texts."""
    return texts() if callable(texts) else _in_blocks(texts)


def _in_blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    block, characters = [], 0
    for text in texts:
        block.append(text)
        characters += len(text)
        if len(block) == _BLOCK or characters >= _CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def keys_of(texts: Texts, prompt: str) -> Keys:
    """Returns the key of every (prompt, text): shape (texts, 2)."""
    return np.concatenate(
        [vector_keys([], prompt), *(vector_keys(part, prompt) for part in blocks_of(texts))]
    )


def _distinct(keys: Keys, rows: RowNumbers) -> RowNumbers:
    """Returns the first position of each distinct key that has no row."""
    missing = np.flatnonzero(rows < 0)
    if not len(missing):
        return missing
    wanted = keys[missing]
    order = np.lexsort((wanted[:, 1], wanted[:, 0]))  # equal keys in the order of their positions
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (wanted[order[1:]] != wanted[order[:-1]]).any(axis=1)
    return missing[np.sort(order[new])]


def _chunks(texts: Texts, positions: RowNumbers, size: int) -> Iterator[tuple[RowNumbers, list[str]]]:
    """Yields the texts at ascending positions, `size` at a time, with their positions."""
    found: list[str] = []
    done = start = 0
    for block in blocks_of(texts):
        stop = start + len(block)
        here = positions[np.searchsorted(positions, start) : np.searchsorted(positions, stop)]
        found += [block[position] for position in (here - start).tolist()]
        while len(found) >= size:
            yield positions[done : done + size], found[:size]
            found, done = found[size:], done + size
        start = stop
    if found:
        yield positions[done:], found


class _Encoded(Protocol):
    @property
    def vectors(self) -> Any:
        """What `append` of the cache takes."""
        ...

    @property
    def truncated(self) -> Flags:
        """Which texts are longer than the model reads."""
        ...


class _Encodes(Protocol):
    @property
    def bulk(self) -> int:
        """How many times as many texts as usual are encoded between two writes."""
        ...

    def encoded(
        self,
        texts: Sequence[str],
        prompt: str = "",
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> _Encoded:
        """Returns the vectors of texts."""
        ...


def embed(
    cache: RowCache[Any],
    encoder: _Encodes,
    texts: Texts,
    prompt: str,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> RowNumbers:
    """Returns the cache row of every text; encodes the texts that are not in the cache.

    Equal texts share a row. Raises MinerError if the vectors cannot be written.
    """
    keys = keys_of(texts, prompt)
    while len(missing := _distinct(keys, rows := cache.rows(keys))):
        others: set[bytes] = set()
        with progress.task("encoding", len(missing), unit="texts") as advance:
            part = CountedInto(advance, progress)

            def unknown() -> Iterator[tuple[RowNumbers, list[str]]]:
                """Yields the texts, by chunk, that no other process has encoded by then."""
                nonlocal others
                for chunk, given in _chunks(texts, missing, CHUNK * encoder.bulk):
                    others |= names_of(cache.refresh())
                    known = among(keys[chunk], others)
                    advance(int(known.sum()))
                    if not known.all():
                        left = [text for text, done in zip(given, known.tolist(), strict=True) if not done]
                        yield chunk[~known], left

            def encode(
                given: tuple[RowNumbers, list[str]], part: Progress = part
            ) -> tuple[RowNumbers, _Encoded]:
                """Returns the positions of texts, and their vectors."""
                positions, left = given
                return positions, encoded_by(encoder, left, prompt, workers=workers, progress=part)

            remote = in_workers(encoder) and current(progress) is not None
            for positions, made in in_order(encode, unknown(), progress, None if remote else 1):
                if remote:
                    advance(len(positions))
                others |= names_of(cache.append(keys[positions], made.vectors, made.truncated))
    cache.count_truncated(keys, rows)
    return rows


def vectors_of(
    cache: VectorCache, encoder: TextEncoder, texts: Sequence[str], prompt: str, progress: Progress = SILENT
) -> Matrix:
    """Returns the vector of every text: shape (len(texts), dimension). They stay on disk until they are read.

    If the cache's folder cannot be written, the vectors that it lacks are computed into a file that
    disappears with the process.
    """
    refusal = cache.refusal
    if not refusal:
        rows = embed(cache, encoder, texts, prompt, progress=progress)
        return ChosenRows(cache.vectors, rows)
    keys = keys_of(texts, prompt)
    rows = cache.rows(keys)
    cache.count_truncated(keys, rows)
    lacking = np.flatnonzero(rows < 0)
    if not len(lacking):
        return ChosenRows(cache.vectors, rows)
    cache.note_once(f"vectors are not cached: cannot write to {cache.folder}: {refusal}")
    _, first, copy = np.unique(keys[lacking], axis=0, return_index=True, return_inverse=True)
    wanted = np.sort(lacking[first])
    cached, copy_of_cached = np.unique(rows[rows >= 0], return_inverse=True)
    with nameless_file(Path(gettempdir())) as file:
        for chunk, given in _chunks(texts, wanted, CHUNK * encoder.bulk):
            encoded = encoded_by(encoder, given, prompt, workers=None, progress=progress)
            cache.add_truncated(keys[chunk], encoded.truncated)
            file.write(np.ascontiguousarray(encoded.vectors, dtype="<f4").data)
        for start in range(0, len(cached), CHUNK):
            file.write(ChosenRows(cache.vectors, cached[start : start + CHUNK])[:].data)
        file.flush()
        matrix = np.memmap(file, "<f4", mode="r").reshape(len(wanted) + len(cached), -1)
    placed = np.empty_like(rows)
    placed[rows < 0] = np.searchsorted(wanted, lacking[first])[copy.ravel()]
    placed[rows >= 0] = len(wanted) + copy_of_cached
    return ChosenRows(matrix, placed)
