"""The texts of a store's documents by position, in a file that is mapped and never read whole."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import IO, overload

import numpy as np
import pyarrow as pa

from miner.arrays import Positions
from miner.memory import MemoryLimit
from miner.store import corpus
from miner.store.aside import nameless_file
from miner.store.database import Database

_MOST = 16_384
_COPIES = 8
"""What a text takes while it is worked on: also as a Python string, normalised, and as words."""


class Texts:
    """Texts by position, which `blocks` gives in order and `of` for some positions."""

    def __init__(
        self, texts: pa.Array, files: Iterable[mmap.mmap] = (), order: Positions | None = None
    ) -> None:
        self._texts, self._files, self._order = texts, tuple(files), order

    def __len__(self) -> int:
        return len(self._texts if self._order is None else self._order)

    @property
    def array(self) -> pa.Array:
        """The texts that are mapped, as one array, which reads them when they are needed."""
        return self._texts

    def chosen(self, positions: Positions) -> Texts:
        """Returns the texts at these positions, in their order, as texts by position; nothing is read."""
        order = positions if self._order is None else self._order[positions]
        return Texts(self._texts, self._files, order)

    def blocks(self, rows: int) -> Iterator[pa.Array]:
        """Yields all texts in order of position, at most `rows` at a time."""
        for start in range(0, len(self), rows):
            cut = slice(start, start + rows)
            if self._order is None:
                yield self._texts.slice(start, rows)
            else:
                yield self._texts.take(pa.array(self._order[cut]))
            self._release()

    def block(self, memory: MemoryLimit) -> int:
        """Returns how many texts may be in memory at a time, as they are on average; at most 16,384."""
        size = self._texts.nbytes // max(1, len(self._texts))
        return min(_MOST, memory.rows(_COPIES * size))

    def of(self, positions: Positions) -> pa.Array:
        """Returns the texts at these positions, in their order."""
        order = positions if self._order is None else self._order[positions]
        found = self._texts.take(pa.array(order))
        self._release()
        return found

    def _release(self) -> None:
        """Frees the memory of the mapped pages, which the process would else keep once it has read them."""
        for file in self._files:
            if hasattr(file, "madvise"):
                file.madvise(mmap.MADV_DONTNEED)


class Strings(Sequence[str]):
    """Texts by position as Python strings: those that are requested, or a block at a time when iterated."""

    def __init__(self, texts: Texts, block: int) -> None:
        self._texts, self._block = texts, block

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        """Returns one text, or a list of texts."""
        if isinstance(at, slice):
            return self.of(np.arange(len(self))[at])
        return self.of(np.array([range(len(self))[at]]))[0]

    def __iter__(self) -> Iterator[str]:
        for block in self._texts.blocks(self._block):
            yield from block.to_pylist()

    def of(self, positions: Positions) -> list[str]:
        """Returns the texts at these positions, in their order."""
        found: list[str] = self._texts.of(positions).to_pylist()
        return found


class StoredTexts:
    """The texts of all documents of a store, by position: sorted by doc_id.

    The first use writes them to a file beside the store that has no name, so that it needs no check later and
    disappears with the process, however that ends. A store that is open to read may change before the first
    use, so that its texts are written at once.
    """

    def __init__(self, store: Database) -> None:
        self._store = store
        self._lock = Lock()
        self._found: Texts | None = None
        if store.read_only:
            self._found = self.mapped

    @property
    def mapped(self) -> Texts:
        """The texts; several threads may ask for them."""
        with self._lock:
            if self._found is None:
                self._found = spooled(corpus.document_texts(self._store), self._store.path.parent)
            return self._found


def spooled(batches: Iterable[pa.RecordBatch], folder: Path) -> Texts:
    """Writes the first column of each batch to a file without a name, in `folder` if it can be written."""
    with ExitStack() as stack:
        data, offsets = (stack.enter_context(nameless_file(folder)) for _ in range(2))
        rows = end = 0
        offsets.write(bytes(8))
        for batch in batches:
            texts = batch.column(0).cast(pa.large_string())
            start = np.frombuffer(texts.buffers()[1], dtype=np.int64)[texts.offset :][: len(texts) + 1]
            data.write(memoryview(texts.buffers()[2] or b"")[start[0] : start[-1]])
            offsets.write((start[1:] - start[0] + end).data)
            end += int(start[-1] - start[0])
            rows += len(texts)
        maps = [_mapped(file) for file in (offsets, data) if file.tell()]
    buffers = [pa.py_buffer(one) for one in maps] + [pa.py_buffer(b"")] * (2 - len(maps))
    return Texts(pa.LargeStringArray.from_buffers(rows, *buffers), maps)


def _mapped(file: IO[bytes]) -> mmap.mmap:
    file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
