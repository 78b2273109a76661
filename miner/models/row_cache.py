"""Rows of numbers beside a store: no text is encoded twice, and no damaged row is returned.

This is what the caches of all kinds of encoders share. A cache belongs to one encoder fingerprint. One file
contains items of equal size, which are vectors or parts of them; a row is a run of items. `rows.idx` contains
an entry per row: the key of its text, the CRC-32 of the row, and a CRC-32 of the entry itself. Both checksums
start from the fingerprint, so that they do not match another model's files. Rows are only added, so that a
row number stays valid while other processes write. A damaged row is marked as dead, and its text gets a new
row.

Writers have an exclusive lock on the file of items itself, readers a shared one, so that stores that share
the file through a link exclude each other too. Items are synced before their entries are written: a killed
writer leaves items without entries, which are never read.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from miner.arrays import Matrix
from miner.engine.progress import SILENT, Progress
from miner.errors import MinerError, counted

_CHECKED = 2048
"""Rows whose checksums are computed at a time, which bounds the memory for checking."""

Keys = npt.NDArray[np.uint64]
RowNumbers = npt.NDArray[np.int64]
Entries = npt.NDArray[Any]
Items = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Rows = TypeVar("Rows")
"""How a cache's rows are given to it."""


def vector_keys(texts: Sequence[str], prompt: str) -> Keys:
    """Returns the key of every (prompt, text): shape (len(texts), 2)."""
    start = hashlib.blake2b(f"{len(prompt)}\0{prompt}".encode(), digest_size=16)
    parts = bytearray()
    for text in texts:
        digest = start.copy()
        digest.update(text.encode())
        parts += digest.digest()
    return np.frombuffer(bytes(parts), dtype=np.uint64).reshape(-1, 2)


class RowCache(ABC, Generic[Rows]):
    """The cached rows of the encoder with the fingerprint `model`, in a folder below `root`.

    A subclass defines what an entry contains, and which items belong to a row. Raises MinerError if the files
    cannot be read.
    """

    _ITEMS: ClassVar[str]
    """The name of the file of items."""
    _ENTRY: ClassVar[np.dtype[Any]]
    """Fields key, vector (CRC-32 of the row), dimension (numbers per item; 0: the row is dead), truncated,
    and at the end check (CRC-32 of the fields before it)."""

    def __init__(
        self, root: Path, model: str, progress: Progress = SILENT, *, dtype: npt.DTypeLike = "<f4"
    ) -> None:
        self.folder = root / model[:16]
        """The folder of its files."""
        self._file, self._entries_file = self.folder / self._ITEMS, self.folder / "rows.idx"
        self._dtype = np.dtype(dtype)
        self._start = zlib.crc32(model.encode())
        self._progress = progress
        self._identity: tuple[int, int] | None = None
        """Device and inode of the file of items that the row numbers refer to."""
        self._dimension = self._count = self._stored = 0
        self._parts: list[Entries] = []
        self._trusted: list[Flags] = []
        self.truncated_keys: set[bytes] = set()
        """The keys of the texts requested so far that are longer than the model reads."""
        self._noted: set[str] = set()
        self.refresh()

    @abstractmethod
    def append(self, keys: Keys, rows: Rows, truncated: Flags | None = None) -> Keys:
        """Adds rows, except those whose keys another process has added meanwhile; returns the keys of these.

        Raises MinerError if they cannot be written; the cache is then unchanged.
        """

    @abstractmethod
    def _spans(self, rows: RowNumbers) -> tuple[RowNumbers, RowNumbers]:
        """Returns the first item of each row, and its number of items."""

    @abstractmethod
    def _ends(self, entries: Entries) -> RowNumbers:
        """Returns the number of items up to the end of each new entry's row, for entries from disk."""

    @abstractmethod
    def _begin(self, used: int) -> tuple[int, int]:
        """Returns the item at which the next row begins, and how many dead entries come before its entry.

        `used` is the number of items in the file, with a last one that may be incomplete.
        """

    def _located(self, entries: Entries, sizes: RowNumbers, first: int) -> None:
        """Notes in new entries where their rows are: `sizes` items each, from the item `first` on."""

    def __len__(self) -> int:
        """The number of rows, with dead ones."""
        return self._count

    @property
    def truncated(self) -> int:
        """Number of distinct texts requested so far that are longer than the model reads."""
        return len(self.truncated_keys)

    @property
    def keys(self) -> Keys:
        """The key of every row: shape (rows, 2); 0 for a dead row."""
        return np.ascontiguousarray(self._index[0]["key"])

    @cached_property
    def items(self) -> Items:
        """All items, mapped from disk: shape (items, dimension). Only rows from `rows` are checked."""
        if not self._stored:
            return np.empty((0, self._dimension), dtype=self._dtype)
        with self._readable(), self._file.open("rb") as file:
            self._require_same(file)
            return np.memmap(file, self._dtype, mode="r", shape=(self._stored, self._dimension))

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

    def _append(self, keys: Keys, items: Items, sizes: RowNumbers, truncated: Flags | None) -> Keys:
        """Appends rows of `sizes` items each, as `append` does."""
        entries = np.zeros(len(keys), self._ENTRY)
        entries["key"], entries["dimension"] = keys, items.shape[1]
        entries["truncated"] = 0 if truncated is None else truncated
        entries["vector"] = _checksums(items, np.cumsum(sizes) - sizes, sizes, self._start)
        with self._writable(), self._locked("r+b") as file:
            assert file is not None
            added, damaged = self._read(file)
            new = ~among(keys, names_of(added))
            if new.any():
                self._write(file, entries[new], items[np.repeat(new, sizes)], sizes[new])
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
        self.truncated_keys |= names_of(keys[truncated])

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
        entries = np.concatenate(self._parts) if self._parts else np.zeros(0, self._ENTRY)
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
            crcs = _checksums(self.items, *self._spans(part), self._start)
            damaged.append(part[crcs != entries["vector"][part]])
            release(self.items)
        trusted[pending] = True
        return np.concatenate(damaged) if damaged else _NO_ROWS

    # Files

    @contextmanager
    def _locked(self, mode: str) -> Iterator[BinaryIO | None]:
        """Opens and locks the file of items, in mode `r+b` for writing or `rb` for reading.

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
                stream.seek(self._count * self._ENTRY.itemsize)
                data = stream.read()
        except FileNotFoundError:
            return _NO_KEYS, _NO_ROWS
        whole_entries = len(data) // self._ENTRY.itemsize * self._ENTRY.itemsize
        entries = np.frombuffer(bytearray(data[:whole_entries]), self._ENTRY)
        if not len(entries):
            return _NO_KEYS, _NO_ROWS
        whole = entries["check"] == _checks(entries, self._start)
        live = whole & (entries["dimension"] > 0)
        self._dimension = self._dimension or int(entries["dimension"][live.argmax()] if live.any() else 0)
        width = self._dimension * self._dtype.itemsize
        size = os.fstat(file.fileno()).st_size // width if width else 0
        rows = np.arange(self._count, self._count + len(entries))
        served = live & (entries["dimension"] == self._dimension) & (self._ends(entries) <= size)
        damaged = rows[~served & ~(whole & ~live)]
        entries[~served] = self._sealed(np.zeros(1, self._ENTRY))
        self._add(entries, np.zeros(len(entries), dtype=bool), size)
        self._require_same(file)
        return np.ascontiguousarray(entries["key"][served]), damaged

    def _add(self, entries: Entries, trusted: Flags, stored: int) -> None:
        self._parts.append(entries)
        self._trusted.append(trusted)
        self._count += len(entries)
        self._stored = stored
        for name in ("_index", "items"):
            self.__dict__.pop(name, None)

    def _write(self, file: BinaryIO, entries: Entries, items: Items, sizes: RowNumbers) -> None:
        """Appends rows after the end of both files, since existing rows may be in use."""
        width, size = items.shape[1] * self._dtype.itemsize, os.fstat(file.fileno()).st_size
        if self._dimension not in (0, items.shape[1]):
            raise MinerError(
                f"{self.folder} holds vectors of {self._dimension} numbers, not {items.shape[1]}",
                "remove the folder",
            )
        first, gap = self._begin(-(-size // width))
        self._located(entries, sizes, first)
        dead = self._sealed(np.zeros(gap, self._ENTRY))
        entries = np.concatenate([dead, self._sealed(entries)])
        os.close(os.open(self._entries_file, os.O_WRONLY | os.O_CREAT, 0o666))
        with self._entries_file.open("r+b") as index:
            before = os.fstat(index.fileno()).st_size
            try:
                _put(file, first * width, items)
                _put(index, self._count * self._ENTRY.itemsize, entries)
            except BaseException:
                with suppress(OSError):
                    index.truncate(before)
                    file.truncate(size)
                raise
        self._dimension = items.shape[1]
        stored = os.fstat(file.fileno()).st_size // width
        self._add(entries, np.ones(len(entries), dtype=bool), stored)
        self._require_same(file)
        if gap:
            self._note_lost(gap, "incomplete, as after a kill")

    def _mend(self, rows: RowNumbers) -> None:
        """Marks rows as dead, with a note; on disk too if it can be written."""
        if not len(rows):
            return
        self._note_lost(len(rows), "damaged")
        self._index[0][rows] = self._sealed(np.zeros(1, self._ENTRY))
        self.__dict__.pop("_index")
        with suppress(OSError):  # in a read-only folder the damage stays and will be detected again
            self._mark_dead(rows)

    def _mark_dead(self, rows: RowNumbers) -> None:
        """Overwrites the entries of damaged rows with dead ones."""
        with self._locked("r+b"), self._entries_file.open("r+b") as index:
            count = os.fstat(index.fileno()).st_size // self._ENTRY.itemsize
            if count:
                entries = np.memmap(index, self._ENTRY, mode="r+", shape=(count,))
                entries[rows[rows < count]] = self._sealed(np.zeros(1, self._ENTRY))

    def _note_lost(self, rows: int, why: str) -> None:
        what = counted(rows, "vector is", "vectors are")
        self._progress.note(f"{self.folder}: {what} {why}; miner computes the needed ones again")

    def _sealed(self, entries: Entries) -> Entries:
        """Returns the entries with their checks."""
        entries["check"] = _checks(entries, self._start)
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


def _checks(entries: Entries, start: int) -> npt.NDArray[np.uint32]:
    """Returns the checksum of every entry, which covers all fields before `check`."""
    matrix = np.ascontiguousarray(entries).view(np.uint8).reshape(len(entries), entries.dtype.itemsize)
    covered = np.ascontiguousarray(matrix[:, : entries.dtype.fields["check"][1]])  # type: ignore[index]
    rows = np.arange(len(entries))
    return _checksums(covered, rows, np.ones_like(rows), start)


def _checksums(items: Items, firsts: RowNumbers, sizes: RowNumbers, start: int) -> npt.NDArray[np.uint32]:
    """Returns the CRC-32 of the bytes of every run of items, from the value `start`."""
    crcs = np.empty(len(firsts), dtype=np.uint32)
    width = items.shape[1] * items.itemsize
    data = memoryview(np.ascontiguousarray(items).view(np.uint8).reshape(-1))  # type: ignore[arg-type]
    ends = (firsts + sizes) * width
    for row, (at, end) in enumerate(zip((firsts * width).tolist(), ends.tolist(), strict=True)):
        crcs[row] = zlib.crc32(data[at:end], start)
    return crcs


def _put(file: BinaryIO, at: int, data: npt.NDArray[Any]) -> None:
    """Writes data at an offset in a file, and waits until it is on disk."""
    file.seek(at)
    file.write(data.tobytes())
    file.flush()
    os.fsync(file.fileno())


def names_of(keys: Keys) -> set[bytes]:
    """Returns the bytes of every key."""
    return {key.tobytes() for key in keys}


def among(keys: Keys, known: set[bytes]) -> Flags:
    """Returns which of the keys are in `known`, which `names_of` made."""
    return np.fromiter((bool(known) and key.tobytes() in known for key in keys), bool, len(keys))


def gather(matrix: Matrix, rows: RowNumbers) -> Items:
    """Returns `matrix[rows]`, without a copy if the rows are consecutive."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return np.ascontiguousarray(matrix[rows[0] : rows[-1] + 1])
    return np.ascontiguousarray(matrix[rows])


def release(vectors: Any) -> None:
    """Frees the memory of the pages of a mapped array; the next use reads them from disk again.

    Without it, the process keeps all vectors of a large collection in memory after reading them once.
    """
    mapping = getattr(vectors, "_mmap", None)
    if mapping is not None and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def note_truncated(name: str, truncated: int, progress: Progress) -> None:
    """Gives a note with the number of texts that are longer than the model `name` reads, if there are any."""
    if truncated:
        what = counted(truncated, "text is", "texts are")
        progress.note(f"{what} longer than {name} reads; only the beginning is encoded")
