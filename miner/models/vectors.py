"""Vectors cached beside the store: no text is encoded twice, and no damaged vector is served.

A cache belongs to one encoder fingerprint. `vectors.f32` holds rows of float32 and `rows.idx` an entry
per row: the key of its text, the CRC-32 of the vector, and a CRC-32 of the entry itself. Both checksums
start from the fingerprint, so that another model's files do not pass. Rows are only ever added: a row
number stays valid while other processes write. A damaged row is marked as dead, and its text gets a new one.

Writers hold an exclusive lock on `vectors.f32` itself, readers a shared one, so that stores that share the
file through a link exclude each other too. Vectors are synced before their entries are written: a killed
writer leaves rows without entries, which nobody reads.
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

from miner.engine.progress import SILENT, CountedInto, Progress
from miner.errors import MinerError
from miner.models.encoder import Encoder, Flags, Vectors

CHUNK = 1024
"""Texts encoded between two writes: what Ctrl-C or a kill can cost, some seconds of a small model."""
_CHECKED = 2048
"""Rows whose checksums are computed at once: bounds the memory that checking takes."""

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
    """The cached vectors of the encoder with fingerprint `model`, in a folder below `root`.

    Raises MinerError when its files cannot be read.
    """

    def __init__(self, root: Path, model: str, progress: Progress = SILENT) -> None:
        self.folder = root / model[:16]
        """Where its files are."""
        self._file, self._entries_file = self.folder / "vectors.f32", self.folder / "rows.idx"
        self._start = zlib.crc32(model.encode())
        self._progress = progress
        self._identity: tuple[int, int] | None = None
        """Device and inode of the vectors that the row numbers belong to."""
        self._dimension = self._count = self._stored = 0
        self._parts: list[Entries] = []
        self._trusted: list[Flags] = []
        self._truncated: set[bytes] = set()
        self._said: set[str] = set()
        self.refresh()

    def __len__(self) -> int:
        """How many rows there are, dead ones included."""
        return self._count

    @property
    def truncated(self) -> int:
        """How many distinct texts served so far are longer than the model reads."""
        return len(self._truncated)

    @property
    def keys(self) -> Keys:
        """The key of every row: shape (rows, 2); 0 for dead rows."""
        return np.ascontiguousarray(self._index[0]["key"])

    @cached_property
    def vectors(self) -> Vectors:
        """All rows, mapped from disk: shape (rows, dimension). Only rows that `rows` returns are checked."""
        if not self._stored:
            return np.empty((0, self._dimension), dtype=np.float32)
        with self._readable(), self._file.open("rb") as file:
            self._require_same(file)
            return np.memmap(file, np.float32, mode="r", shape=(self._stored, self._dimension))

    def rows(self, keys: Keys) -> RowNumbers:
        """Returns the row of every key, -1 where there is none that is whole."""
        found = self._find(keys)
        damaged = self._damaged(found)
        if len(damaged):
            self._mend(damaged)
            found[np.isin(found, damaged)] = -1
        return found

    def refresh(self) -> Keys:
        """Takes in what other processes have added since; returns the keys of it."""
        with self._readable(), self._locked("rb") as file:
            added, damaged = (_NO_KEYS, _NO_ROWS) if file is None else self._read(file)
        self._mend(damaged)
        return added

    def append(self, keys: Keys, vectors: Vectors, truncated: Flags | None = None) -> Keys:
        """Adds the rows whose keys no other process has added meanwhile; returns the keys that one has.

        Raises MinerError when they cannot be written; the cache is then as it was.
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
        """Adds to `truncated` the texts of these keys, which are in these rows, that are longer than the
        model reads."""
        rows = self._find(keys) if rows is None else rows
        there = np.flatnonzero(rows >= 0)
        if len(there):
            self.add_truncated(keys[there], self._index[0]["truncated"][rows[there]] > 0)

    def add_truncated(self, keys: Keys, truncated: Flags) -> None:
        """Adds to `truncated` the flagged ones of the texts of these keys."""
        self._truncated |= _names(keys[truncated])

    def note_once(self, message: str) -> None:
        """Says a line, unless it was said before."""
        if message not in self._said:
            self._said.add(message)
            self._progress.note(message)

    @property
    def refusal(self) -> str:
        """Why nothing can be written into its folder, which is made; empty where it can."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return error.strerror or str(error)
        files = [path for path in (self.folder, self._file, self._entries_file) if path.exists()]
        return "" if all(os.access(path, os.W_OK) for path in files) else os.strerror(errno.EACCES)

    # Looking up

    @cached_property
    def _index(self) -> tuple[Entries, RowNumbers, npt.NDArray[np.uint64]]:
        """All entries, the order of the live ones' keys, and their first words in that order."""
        entries = np.concatenate(self._parts) if self._parts else np.zeros(0, ENTRY)
        trusted = np.concatenate(self._trusted) if self._trusted else np.zeros(0, dtype=bool)
        self._parts, self._trusted = [entries], [trusted]
        live = np.flatnonzero(entries["dimension"])
        keys = entries["key"][live]
        order = live[np.lexsort((keys[:, 1], keys[:, 0]))]
        return entries, order, entries["key"][order, 0]

    def _find(self, keys: Keys) -> RowNumbers:
        found = np.full(len(keys), -1, dtype=np.int64)
        if not len(self):
            return found
        entries, order, sorted_words = self._index
        stored = entries["key"]
        place = np.searchsorted(sorted_words, keys[:, 0])
        pending = np.flatnonzero(place < len(order))
        while len(pending):
            row = order[place[pending]]
            same = (stored[row] == keys[pending]).all(axis=1)
            found[pending[same]] = row[same]
            again = ~same & (stored[row, 0] == keys[pending, 0])
            pending = pending[again]
            place[pending] += 1
            pending = pending[place[pending] < len(order)]
        return found

    def _damaged(self, rows: RowNumbers) -> RowNumbers:
        """Returns which of these rows differ from their checksums; each row is checked once."""
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
        """Opens and locks the vectors: to write in mode `r+b`, to read in `rb`, which yields None without a
        file."""
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
        """Raises MinerError when the row numbers in use belong to a file that was replaced."""
        state = os.fstat(file.fileno())
        if self._identity not in (None, (state.st_dev, state.st_ino)):
            raise MinerError(
                f"the vectors in {self.folder} were replaced while they were in use", "run the command again"
            )
        if self._count:
            self._identity = state.st_dev, state.st_ino

    def _read(self, file: BinaryIO) -> tuple[Keys, RowNumbers]:
        """Reads the entries that are new on disk; returns their keys, and which rows are damaged."""
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
        """Writes rows behind all that either file holds: what is there may be in use."""
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
        """Marks rows as dead, on disk too where that can be written, and says so."""
        if not len(rows):
            return
        self._note_lost(len(rows), "damaged")
        self._index[0][rows] = self._sealed(np.zeros(1, ENTRY))
        self.__dict__.pop("_index")
        with suppress(OSError):  # in a folder that can only be read the damage stays, and is found again
            self._mark_dead(rows)

    def _mark_dead(self, rows: RowNumbers) -> None:
        """Writes dead entries over those of damaged rows."""
        with self._locked("r+b"), self._entries_file.open("r+b") as index:
            count = os.fstat(index.fileno()).st_size // ENTRY.itemsize
            if count:
                entries = np.memmap(index, ENTRY, mode="r+", shape=(count,))
                entries[rows[rows < count]] = self._sealed(np.zeros(1, ENTRY))

    def _note_lost(self, rows: int, why: str) -> None:
        what = "1 vector is" if rows == 1 else f"{rows:,} vectors are"
        self._progress.note(f"{self.folder}: {what} {why}; those that are needed are computed again")

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
                "make room, or check its permissions; then run the command again: what is there is kept",
            ) from error


_NO_KEYS = np.zeros((0, 2), dtype=np.uint64)
_NO_ROWS = np.zeros(0, dtype=np.int64)


def _covered(entries: Entries) -> npt.NDArray[np.uint8]:
    """The bytes of each entry that its check is computed from: shape (len(entries), bytes)."""
    matrix = np.ascontiguousarray(entries).view(np.uint8).reshape(len(entries), ENTRY.itemsize)
    return np.ascontiguousarray(matrix[:, : ENTRY.fields["check"][1]])  # type: ignore[index]


def _crcs(matrix: npt.NDArray[Any], start: int) -> npt.NDArray[np.uint32]:
    """Returns the CRC-32 of every row's bytes, from the value `start`."""
    found = np.empty(len(matrix), dtype=np.uint32)
    if found.size:
        width = matrix[0].nbytes
        data = memoryview(matrix).cast("B")  # type: ignore[arg-type]
        for row, at in enumerate(range(0, len(matrix) * width, width)):
            found[row] = zlib.crc32(data[at : at + width], start)
    return found


def _put(file: BinaryIO, at: int, data: npt.NDArray[Any]) -> None:
    """Writes at a place in a file, and waits until it is on disk."""
    file.seek(at)
    file.write(data.tobytes())
    file.flush()
    os.fsync(file.fileno())


def _names(keys: Keys) -> set[bytes]:
    return {key.tobytes() for key in keys}


def _among(keys: Keys, known: set[bytes]) -> Flags:
    """Returns which of the keys are among those that are known."""
    return np.fromiter((bool(known) and key.tobytes() in known for key in keys), bool, len(keys))


def gather(matrix: Vectors, rows: RowNumbers) -> Vectors:
    """Returns `matrix[rows]`, without a copy where the rows follow one another."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return np.ascontiguousarray(matrix[rows[0] : rows[-1] + 1])
    return np.ascontiguousarray(matrix[rows])


def release(vectors: Vectors) -> None:
    """Gives back the memory of a mapped matrix's pages; they are read from disk when next needed.

    Without it a pass over a large collection leaves all its vectors in the process.
    """
    mapping = getattr(vectors, "_mmap", None)
    if mapping is not None and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def note_truncated(name: str, truncated: int, progress: Progress) -> None:
    """Says how many texts are longer than the model `name` reads, if there are any."""
    if truncated:
        what = "1 text is" if truncated == 1 else f"{truncated:,} texts are"
        progress.note(f"{what} longer than {name} reads: only the beginning was encoded")


def _distinct(keys: Keys, rows: RowNumbers) -> RowNumbers:
    """Returns the first position of each distinct key that has no row."""
    missing = np.flatnonzero(rows < 0)
    if not len(missing):
        return missing
    _, first = np.unique(keys[missing], axis=0, return_index=True)
    return missing[np.sort(first)]


def embed(
    cache: VectorCache,
    encoder: Encoder,
    texts: Sequence[str],
    prompt: str,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> RowNumbers:
    """Returns the cache row of every text, encoding those that the cache lacks.

    Equal texts share a row. Raises MinerError when the vectors cannot be written.
    """
    keys = vector_keys(texts, prompt)
    while len(missing := _distinct(keys, rows := cache.rows(keys))):
        others: set[bytes] = set()
        with progress.task("encoding", len(missing), unit="texts") as advance:
            part = CountedInto(advance, progress)
            for start in range(0, len(missing), CHUNK):
                chunk = missing[start : start + CHUNK]
                others |= _names(cache.refresh())
                there = _among(keys[chunk], others)
                advance(int(there.sum()))
                chunk = chunk[~there]
                if not len(chunk):
                    continue
                encoded = encoder.encoded([texts[i] for i in chunk], prompt, workers=workers, progress=part)
                others |= _names(cache.append(keys[chunk], encoded.vectors, encoded.truncated))
    cache.count_truncated(keys, rows)
    return rows


def vectors_of(
    cache: VectorCache, encoder: Encoder, texts: Sequence[str], prompt: str, progress: Progress = SILENT
) -> Vectors:
    """Returns the vector of every text: shape (len(texts), dimension).

    Beside a store that can only be read, those that the cache lacks are computed and not kept.
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
    cache.note_once(f"vectors are not kept: cannot write to {cache.folder}: {refusal}")
    encoded = encoder.encoded([texts[i] for i in missing], prompt, progress=progress)
    cache.add_truncated(keys[missing], encoded.truncated)
    place = {keys[i].tobytes(): place for place, i in enumerate(missing)}
    computed = [place.get(key.tobytes(), -1) for key in keys]
    vectors = encoded.vectors[computed]
    there = np.flatnonzero(rows >= 0)
    if len(there):
        vectors[there] = cache.vectors[rows[there]]
    return vectors
