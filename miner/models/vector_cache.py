"""The vector cache beside a store: no text is encoded twice, and no damaged vector is returned.

A cache belongs to one encoder fingerprint. `vectors.f32` contains rows of float32. `rows.idx` contains an
entry per row: the key of its text, the CRC-32 of the vector, and a CRC-32 of the entry itself. Both checksums
start from the fingerprint, so that they do not match another model's files. Rows are only added, so that a
row number stays valid while other processes write. A damaged row is marked as dead, and its text gets a new
row.

Writers have an exclusive lock on `vectors.f32` itself, readers a shared one, so that stores that share the
file through a link exclude each other too. Vectors are synced before their entries are written: a killed
writer leaves rows without entries, which are never read.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from miner.arrays import Matrix
from miner.engine.progress import SILENT, CountedInto, Progress
from miner.errors import MinerError
from miner.models.encoder import Flags, TextEncoder, Vectors

CHUNK = 1024
"""Texts encoded between two writes. Ctrl-C or a kill can lose this much work: seconds of a small model."""
_CHECKED = 2048
"""Rows whose checksums are computed at a time, which bounds the memory for checking."""

ENTRY = np.dtype(
    [
        ("key", "<u8", 2),
        ("vector", "<u4"),  # CRC-32 of the row
        ("dimension", "<u4"),  # 0: the row is dead
        ("truncated", "<u4"),  # 1: the text was longer than the model reads
        ("check", "<u4"),  # CRC-32 of the fields above
    ]
)

Keys = npt.NDArray[np.uint64]
RowNumbers = npt.NDArray[np.int64]
Entries = npt.NDArray[Any]


def vector_keys(texts: Sequence[str], prompt: str) -> Keys:
    """Returns the key of every (prompt, text): shape (len(texts), 2)."""
    start = hashlib.blake2b(f"{len(prompt)}\0{prompt}".encode(), digest_size=16)
    parts = bytearray()
    for text in texts:
        digest = start.copy()
        digest.update(text.encode())
        parts += digest.digest()
    return np.frombuffer(bytes(parts), dtype=np.uint64).reshape(-1, 2)


class VectorCache:
    """The cached vectors of the encoder with the fingerprint `model`, in a folder below `root`.

    Raises MinerError if its files cannot be read.
    """

    def __init__(self, root: Path, model: str, progress: Progress = SILENT) -> None:
        self.folder = root / model[:16]
        """The folder of its files."""
        self._file, self._entries_file = self.folder / "vectors.f32", self.folder / "rows.idx"
        self._start = zlib.crc32(model.encode())
        self._progress = progress
        self._identity: tuple[int, int] | None = None
        """Device and inode of the vectors file that the row numbers refer to."""
        self._dimension = self._count = self._stored = 0
        self._parts: list[Entries] = []
        self._trusted: list[Flags] = []
        self._truncated: set[bytes] = set()
        self._noted: set[str] = set()
        self.refresh()

    def __len__(self) -> int:
        """The number of rows, with dead ones."""
        return self._count

    @property
    def truncated(self) -> int:
        """Number of distinct texts requested so far that are longer than the model reads."""
        return len(self._truncated)

    @property
    def keys(self) -> Keys:
        """The key of every row: shape (rows, 2); 0 for a dead row."""
        return np.ascontiguousarray(self._index[0]["key"])

    @cached_property
    def vectors(self) -> Vectors:
        """All rows, mapped from disk: shape (rows, dimension). Only rows that `rows` returned are checked."""
        if not self._stored:
            return np.empty((0, self._dimension), dtype=np.float32)
        with self._readable(), self._file.open("rb") as file:
            self._require_same(file)
            return np.memmap(file, np.float32, mode="r", shape=(self._stored, self._dimension))

    def rows(self, keys: Keys) -> RowNumbers:
        """Returns the row of every key; -1 for a key without an undamaged row."""
        result = self._find(keys)
        damaged = self._damaged(result)
        if len(damaged):
            self._mend(damaged)
            result[np.isin(result, damaged)] = -1
        return result

    def refresh(self) -> Keys:
        """Reads the rows that other processes have added; returns their keys."""
        with self._readable(), self._locked("rb") as file:
            added, damaged = (_NO_KEYS, _NO_ROWS) if file is None else self._read(file)
        self._mend(damaged)
        return added

    def append(self, keys: Keys, vectors: Vectors, truncated: Flags | None = None) -> Keys:
        """Adds rows, except those whose keys another process has added meanwhile; returns the keys of these.

        Raises MinerError if they cannot be written; the cache is then unchanged.
        """
        matrix = np.ascontiguousarray(vectors, dtype="<f4")
        entries = np.zeros(len(keys), ENTRY)
        entries["key"], entries["dimension"] = keys, matrix.shape[1]
        entries["truncated"] = 0 if truncated is None else truncated
        entries["vector"] = _crcs(matrix, self._start)
        with self._writable(), self._locked("r+b") as file:
            assert file is not None
            added, damaged = self._read(file)
            new = ~_among(keys, _names(added))
            if new.any():
                self._write(file, self._sealed(entries[new]), matrix[new])
        self._mend(damaged)
        return added

    def count_truncated(self, keys: Keys, rows: RowNumbers | None = None) -> None:
        """Adds to `truncated` the texts of these keys and rows that are longer than the model reads."""
        rows = self._find(keys) if rows is None else rows
        cached = np.flatnonzero(rows >= 0)
        if len(cached):
            self.add_truncated(keys[cached], self._index[0]["truncated"][rows[cached]] > 0)

    def add_truncated(self, keys: Keys, truncated: Flags) -> None:
        """Adds to `truncated` those of the texts with these keys whose flag is set."""
        self._truncated |= _names(keys[truncated])

    def note_once(self, message: str) -> None:
        """Gives a note, unless it was given before."""
        if message not in self._noted:
            self._noted.add(message)
            self._progress.note(message)

    @property
    def refusal(self) -> str:
        """Why its folder cannot be written; empty if it can. The folder is made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return error.strerror or str(error)
        files = [path for path in (self.folder, self._file, self._entries_file) if path.exists()]
        return "" if all(os.access(path, os.W_OK) for path in files) else os.strerror(errno.EACCES)

    # Looking up

    @cached_property
    def _index(self) -> tuple[Entries, RowNumbers, npt.NDArray[np.uint64]]:
        """All entries, the live rows in the order of their keys, and the keys' first words in that order."""
        entries = np.concatenate(self._parts) if self._parts else np.zeros(0, ENTRY)
        trusted = np.concatenate(self._trusted) if self._trusted else np.zeros(0, dtype=bool)
        self._parts, self._trusted = [entries], [trusted]
        live = np.flatnonzero(entries["dimension"])
        keys = entries["key"][live]
        order = live[np.lexsort((keys[:, 1], keys[:, 0]))]
        return entries, order, entries["key"][order, 0]

    def _find(self, keys: Keys) -> RowNumbers:
        result = np.full(len(keys), -1, dtype=np.int64)
        if not len(self):
            return result
        entries, order, sorted_words = self._index
        stored = entries["key"]
        position = np.searchsorted(sorted_words, keys[:, 0])
        pending = np.flatnonzero(position < len(order))
        while len(pending):
            row = order[position[pending]]
            same = (stored[row] == keys[pending]).all(axis=1)
            result[pending[same]] = row[same]
            again = ~same & (stored[row, 0] == keys[pending, 0])
            pending = pending[again]
            position[pending] += 1
            pending = pending[position[pending] < len(order)]
        return result

    def _damaged(self, rows: RowNumbers) -> RowNumbers:
        """Returns those of these rows that do not match their checksums; each row is checked once."""
        if not (rows >= 0).any():
            return _NO_ROWS
        entries, trusted = self._index[0], self._trusted[0]
        wanted = np.zeros(len(entries), dtype=bool)
        wanted[rows[rows >= 0]] = True
        pending = np.flatnonzero(wanted & ~trusted)
        damaged = []
        for start in range(0, len(pending), _CHECKED):
            part = pending[start : start + _CHECKED]
            crcs = _crcs(gather(self.vectors, part), self._start)
            damaged.append(part[crcs != entries["vector"][part]])
            release(self.vectors)
        trusted[pending] = True
        return np.concatenate(damaged) if damaged else _NO_ROWS

    # Files

    @contextmanager
    def _locked(self, mode: str) -> Iterator[BinaryIO | None]:
        """Opens and locks the vectors file, in mode `r+b` for writing or `rb` for reading.

        For reading it yields None if there is no file.
        """
        write = mode == "r+b"
        while True:
            try:
                file: Any = self._file.open(mode)
            except (FileNotFoundError, NotADirectoryError):
                if not write:
                    yield None
                    return
                self.folder.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o666))
                continue
            with file:
                fcntl.flock(file, fcntl.LOCK_EX if write else fcntl.LOCK_SH)
                # Another process may have removed the file between opening and locking.
                if not (self._file.exists() and os.path.samestat(os.fstat(file.fileno()), self._file.stat())):
                    continue
                self._require_same(file)
                yield file
                return

    def _require_same(self, file: BinaryIO) -> None:
        """Raises MinerError if the file was replaced, so that the row numbers in use are no longer valid."""
        state = os.fstat(file.fileno())
        if self._identity not in (None, (state.st_dev, state.st_ino)):
            raise MinerError(
                f"the vectors in {self.folder} were replaced while they were in use", "run the command again"
            )
        if self._count:
            self._identity = state.st_dev, state.st_ino

    def _read(self, file: BinaryIO) -> tuple[Keys, RowNumbers]:
        """Reads the new entries on disk; returns their keys, and the damaged rows."""
        try:
            with self._entries_file.open("rb") as stream:
                stream.seek(self._count * ENTRY.itemsize)
                data = stream.read()
        except FileNotFoundError:
            return _NO_KEYS, _NO_ROWS
        entries = np.frombuffer(bytearray(data[: len(data) // ENTRY.itemsize * ENTRY.itemsize]), ENTRY)
        if not len(entries):
            return _NO_KEYS, _NO_ROWS
        whole = entries["check"] == _crcs(_covered(entries), self._start)
        live = whole & (entries["dimension"] > 0)
        self._dimension = self._dimension or int(entries["dimension"][live.argmax()] if live.any() else 0)
        size = os.fstat(file.fileno()).st_size // (4 * self._dimension) if self._dimension else 0
        rows = np.arange(self._count, self._count + len(entries))
        served = live & (entries["dimension"] == self._dimension) & (rows < size)
        damaged = rows[~served & ~(whole & ~live)]
        entries[~served] = self._sealed(np.zeros(1, ENTRY))
        self._add(entries, np.zeros(len(entries), dtype=bool), min(size, self._count + len(entries)))
        self._require_same(file)
        return np.ascontiguousarray(entries["key"][served]), damaged

    def _add(self, entries: Entries, trusted: Flags, stored: int) -> None:
        self._parts.append(entries)
        self._trusted.append(trusted)
        self._count += len(entries)
        self._stored = stored
        for name in ("_index", "vectors"):
            self.__dict__.pop(name, None)

    def _write(self, file: BinaryIO, entries: Entries, matrix: Vectors) -> None:
        """Appends rows after the end of both files, since existing rows may be in use."""
        width, size = matrix.shape[1] * 4, os.fstat(file.fileno()).st_size
        if self._dimension not in (0, matrix.shape[1]):
            raise MinerError(
                f"{self.folder} holds vectors of {self._dimension} numbers, not {matrix.shape[1]}",
                "remove the folder",
            )
        gap = max(0, -(-size // width) - self._count)
        entries = np.concatenate([self._sealed(np.zeros(gap, ENTRY)), entries])
        os.close(os.open(self._entries_file, os.O_WRONLY | os.O_CREAT, 0o666))
        with self._entries_file.open("r+b") as index:
            before = os.fstat(index.fileno()).st_size
            try:
                _put(file, (self._count + gap) * width, matrix)
                _put(index, self._count * ENTRY.itemsize, entries)
            except BaseException:
                with suppress(OSError):
                    index.truncate(before)
                    file.truncate(size)
                raise
        self._dimension = matrix.shape[1]
        self._add(entries, np.ones(len(entries), dtype=bool), self._count + len(entries))
        self._require_same(file)
        if gap:
            self._note_lost(gap, "incomplete, as after a kill")

    def _mend(self, rows: RowNumbers) -> None:
        """Marks rows as dead, with a note; on disk too if it can be written."""
        if not len(rows):
            return
        self._note_lost(len(rows), "damaged")
        self._index[0][rows] = self._sealed(np.zeros(1, ENTRY))
        self.__dict__.pop("_index")
        with suppress(OSError):  # in a read-only folder the damage stays and will be detected again
            self._mark_dead(rows)

    def _mark_dead(self, rows: RowNumbers) -> None:
        """Overwrites the entries of damaged rows with dead ones."""
        with self._locked("r+b"), self._entries_file.open("r+b") as index:
            count = os.fstat(index.fileno()).st_size // ENTRY.itemsize
            if count:
                entries = np.memmap(index, ENTRY, mode="r+", shape=(count,))
                entries[rows[rows < count]] = self._sealed(np.zeros(1, ENTRY))

    def _note_lost(self, rows: int, why: str) -> None:
        what = "1 vector is" if rows == 1 else f"{rows:,} vectors are"
        self._progress.note(f"{self.folder}: {what} {why}; miner computes the needed ones again")

    def _sealed(self, entries: Entries) -> Entries:
        """Returns the entries with their checks."""
        entries["check"] = _crcs(_covered(entries), self._start)
        return entries

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MinerError(
                f"cannot read the vectors in {self.folder}: {error.strerror or error}",
                "check its permissions",
            ) from error

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MinerError(
                f"cannot write vectors to {self.folder}: {error.strerror or error}",
                "free space, or check its permissions; then run the command again: cached vectors are kept",
            ) from error


_NO_KEYS = np.zeros((0, 2), dtype=np.uint64)
_NO_ROWS = np.zeros(0, dtype=np.int64)


def _covered(entries: Entries) -> npt.NDArray[np.uint8]:
    """Returns the bytes of each entry that its checksum covers: shape (len(entries), bytes)."""
    matrix = np.ascontiguousarray(entries).view(np.uint8).reshape(len(entries), ENTRY.itemsize)
    return np.ascontiguousarray(matrix[:, : ENTRY.fields["check"][1]])  # type: ignore[index]


def _crcs(matrix: npt.NDArray[Any], start: int) -> npt.NDArray[np.uint32]:
    """Returns the CRC-32 of every row's bytes, from the value `start`."""
    crcs = np.empty(len(matrix), dtype=np.uint32)
    if crcs.size:
        width = matrix[0].nbytes
        data = memoryview(matrix).cast("B")  # type: ignore[arg-type]
        for row, at in enumerate(range(0, len(matrix) * width, width)):
            crcs[row] = zlib.crc32(data[at : at + width], start)
    return crcs


def _put(file: BinaryIO, at: int, data: npt.NDArray[Any]) -> None:
    """Writes data at an offset in a file, and waits until it is on disk."""
    file.seek(at)
    file.write(data.tobytes())
    file.flush()
    os.fsync(file.fileno())


def _names(keys: Keys) -> set[bytes]:
    return {key.tobytes() for key in keys}


def _among(keys: Keys, known: set[bytes]) -> Flags:
    """Returns which of the keys are in `known`."""
    return np.fromiter((bool(known) and key.tobytes() in known for key in keys), bool, len(keys))


def gather(matrix: Matrix, rows: RowNumbers) -> Vectors:
    """Returns `matrix[rows]`, without a copy if the rows are consecutive."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return np.ascontiguousarray(matrix[rows[0] : rows[-1] + 1])
    return np.ascontiguousarray(matrix[rows])


def release(vectors: Matrix) -> None:
    """Frees the memory of a mapped matrix's pages; the next use reads them from disk again.

    Without it, the process keeps all vectors of a large collection in memory after reading them once.
    """
    mapping = getattr(vectors, "_mmap", None)
    if mapping is not None and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def note_truncated(name: str, truncated: int, progress: Progress) -> None:
    """Gives a note with the number of texts that are longer than the model `name` reads, if there are any."""
    if truncated:
        what = "1 text is" if truncated == 1 else f"{truncated:,} texts are"
        progress.note(f"{what} longer than {name} reads; only the beginning is encoded")


def _distinct(keys: Keys, rows: RowNumbers) -> RowNumbers:
    """Returns the first position of each distinct key that has no row."""
    missing = np.flatnonzero(rows < 0)
    if not len(missing):
        return missing
    _, first = np.unique(keys[missing], axis=0, return_index=True)
    return missing[np.sort(first)]


def embed(
    cache: VectorCache,
    encoder: TextEncoder,
    texts: Sequence[str],
    prompt: str,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> RowNumbers:
    """Returns the cache row of every text; encodes the texts that are not in the cache.

    Equal texts share a row. Raises MinerError if the vectors cannot be written.
    """
    keys = vector_keys(texts, prompt)
    while len(missing := _distinct(keys, rows := cache.rows(keys))):
        others: set[bytes] = set()
        with progress.task("encoding", len(missing), unit="texts") as advance:
            part = CountedInto(advance, progress)
            for start in range(0, len(missing), CHUNK):
                chunk = missing[start : start + CHUNK]
                others |= _names(cache.refresh())
                done = _among(keys[chunk], others)
                advance(int(done.sum()))
                chunk = chunk[~done]
                if not len(chunk):
                    continue
                encoded = encoder.encoded([texts[i] for i in chunk], prompt, workers=workers, progress=part)
                others |= _names(cache.append(keys[chunk], encoded.vectors, encoded.truncated))
    cache.count_truncated(keys, rows)
    return rows


def vectors_of(
    cache: VectorCache, encoder: TextEncoder, texts: Sequence[str], prompt: str, progress: Progress = SILENT
) -> Vectors:
    """Returns the vector of every text: shape (len(texts), dimension).

    If the cache's folder cannot be written, the vectors that it lacks are computed and not cached.
    """
    refusal = cache.refusal
    if not refusal:
        rows = embed(cache, encoder, texts, prompt, progress=progress)
        return np.asarray(cache.vectors[rows])
    keys = vector_keys(texts, prompt)
    rows = cache.rows(keys)
    cache.count_truncated(keys, rows)
    missing = _distinct(keys, rows)
    if not len(missing):
        return np.asarray(cache.vectors[rows])
    cache.note_once(f"vectors are not cached: cannot write to {cache.folder}: {refusal}")
    encoded = encoder.encoded([texts[i] for i in missing], prompt, progress=progress)
    cache.add_truncated(keys[missing], encoded.truncated)
    number = {keys[i].tobytes(): number for number, i in enumerate(missing)}
    computed = [number.get(key.tobytes(), -1) for key in keys]
    vectors = encoded.vectors[computed]
    cached = np.flatnonzero(rows >= 0)
    if len(cached):
        vectors[cached] = cache.vectors[rows[cached]]
    return vectors
