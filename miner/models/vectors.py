"""Vectors cached beside the store: no text is encoded twice, none is served stale.

A cache belongs to one encoder fingerprint and only grows. `vectors.f32` holds rows of float32;
`keys.u64` two 64-bit words a row, a hash of prompt and text. Vectors are synced before their keys
are written, so a row exists once its key is whole, and a killed writer leaves nothing false behind.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Progress, Within
from miner.models.encoder import Encoder, Vectors

CHUNK = 1024
"""Texts encoded between two writes: what Ctrl-C or a kill can cost, some seconds of a small model."""

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


def vector_keys(texts: Sequence[str], prompt: str) -> Keys:
    """Returns the key of every (prompt, text): shape (len(texts), 2)."""
    start = hashlib.blake2b(prompt.encode() + b"\0", digest_size=16)
    parts = bytearray()
    for text in texts:
        digest = start.copy()
        digest.update(text.encode())
        parts += digest.digest()
    return np.frombuffer(bytes(parts), dtype=np.uint64).reshape(-1, 2)


class VectorCache:
    """The cached vectors of one encoder, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        keys, self._dimension = self._read()
        self._parts, self._count = [keys], len(keys)

    def _read(self) -> tuple[Keys, int]:
        """The keys of the rows that are whole, and the dimension; 0 where there is no row."""
        dimension = self._bytes("dimension")
        width = int(dimension) if dimension.isdigit() else 0
        data, file = self._bytes("keys.u64"), self._folder / "vectors.f32"
        stored = file.stat().st_size if file.exists() else 0
        whole = min(len(data) // 16, stored // (4 * width)) if width else 0
        return np.frombuffer(data[: whole * 16], dtype=np.uint64).reshape(-1, 2), width if whole else 0

    def _bytes(self, name: str) -> bytes:
        file = self._folder / name
        return file.read_bytes() if file.exists() else b""

    @cached_property
    def _index(self) -> tuple[Keys, Rows, npt.NDArray[np.uint64]]:
        """All keys, their order, and their first words in that order; made once after the last append."""
        keys = np.concatenate(self._parts)
        self._parts = [keys]
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        return keys, order, keys[order, 0]

    def __len__(self) -> int:
        return self._count

    @property
    def vectors(self) -> Vectors:
        """All rows, mapped from disk: shape (len(self), dimension)."""
        if not len(self):
            return np.empty((0, self._dimension), dtype=np.float32)
        return np.memmap(
            self._folder / "vectors.f32", np.float32, mode="r", shape=(len(self), self._dimension)
        )

    def rows(self, keys: Keys) -> Rows:
        """Returns the row of every key, -1 where there is none."""
        found = np.full(len(keys), -1, dtype=np.int64)
        if not len(self):
            return found
        stored, order, sorted_words = self._index
        place = np.searchsorted(sorted_words, keys[:, 0])
        pending = np.flatnonzero(place < len(self))
        while len(pending):
            row = order[place[pending]]
            same = (stored[row] == keys[pending]).all(axis=1)
            found[pending[same]] = row[same]
            again = ~same & (stored[row, 0] == keys[pending, 0])
            pending = pending[again]
            place[pending] += 1
            pending = pending[place[pending] < len(self)]
        return found

    def append(self, keys: Keys, vectors: Vectors) -> None:
        """Adds rows, first the vectors, then, once those are on disk, the keys."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._dimension:
            self._dimension = vectors.shape[1]
            _append(self._folder / "dimension", 0, str(self._dimension).encode())
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        _append(self._folder / "vectors.f32", len(self) * self._dimension * 4, rows.tobytes())
        _append(self._folder / "keys.u64", len(self) * 16, keys.tobytes())
        self._parts.append(keys)
        self._count += len(keys)
        self.__dict__.pop("_index", None)


def release(vectors: Vectors) -> None:
    """Gives back the memory of a mapped matrix's pages; they are read from disk when next needed.

    Without it a pass over a large collection leaves all its vectors in the process.
    """
    mapping = getattr(vectors, "_mmap", None)
    if mapping is not None and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _append(file: Path, size: int, data: bytes) -> None:
    """Cuts `file` to `size` bytes (what a killed writer left goes), appends and syncs."""
    with file.open("r+b" if file.exists() else "w+b") as stream:
        stream.truncate(size)
        stream.seek(size)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def embed(
    cache: VectorCache,
    encoder: Encoder,
    texts: Sequence[str],
    prompt: str,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Rows:
    """Returns the cache row of every text, encoding those that the cache lacks.

    Equal texts share a row.
    """
    keys = vector_keys(texts, prompt)
    rows = cache.rows(keys)
    missing = np.flatnonzero(rows < 0)
    if not len(missing):
        return rows
    _, first = np.unique(keys[missing], axis=0, return_index=True)
    missing = missing[np.sort(first)]
    with progress.task("encoding", len(missing), unit="texts") as advance:
        part = Within(advance, progress)
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            vectors = encoder.encode([texts[i] for i in chunk], prompt, workers=workers, progress=part)
            cache.append(keys[chunk], vectors)
    return cache.rows(keys)
