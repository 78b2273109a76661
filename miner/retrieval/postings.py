"""An inverted index on disk: which documents hold each term, and how often. It is built in bounded memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import Int32s, Int64s
from miner.retrieval.config import Bm25Config
from miner.retrieval.terms import Terms

_RUN = 1 << 22
"""Tokens whose postings are sorted in memory at a time."""
_PART = 1 << 24
"""Postings that are joined in memory at a time."""


@dataclass(frozen=True)
class Postings:
    """The postings of a collection's terms, mapped from a folder.

    The documents that hold term t are `docs[starts[t]:starts[t + 1]]`, in order, and `counts` says how often
    each holds it.
    """

    names: pa.Array
    """The terms by number."""
    starts: Int64s
    docs: npt.NDArray[np.uint32]
    counts: npt.NDArray[Any]
    """In the smallest unsigned type that has room for the largest count."""
    lengths: Int32s
    """The number of terms in each document, repetitions included."""

    @cached_property
    def mean_length(self) -> float:
        """The mean length of a document."""
        return int(self.lengths.sum(dtype=np.int64)) / len(self.lengths) if len(self.lengths) else 0.0

    @property
    def holders(self) -> Int64s:
        """How many documents hold each term."""
        return np.diff(self.starts)

    def find(self, terms: pa.Array) -> Int64s:
        """Returns the number of each of some distinct terms; -1 if no document holds it."""
        found = np.full(len(terms), -1, dtype=np.int64)
        at = pc.index_in(self.names, value_set=terms)
        numbers = pc.indices_nonzero(pc.is_valid(at)).to_numpy()
        found[at.take(pa.array(numbers)).to_numpy()] = numbers
        return found

    @classmethod
    def mapped(cls, folder: Path) -> Postings:
        """Maps the postings in a folder."""
        with pa.memory_map(str(folder / "terms.arrow")) as source:
            names = pa.ipc.open_file(source).read_all()["term"].combine_chunks()
        return cls(names, *(_mapped(folder / f"{one}.npy") for one in _COLUMNS))


_COLUMNS = ("starts", "docs", "counts", "lengths")


@dataclass(frozen=True)
class _Run:
    """The postings of some consecutive documents, sorted by term."""

    terms: Int64s
    """The terms that these documents hold, sorted."""
    sizes: Int64s
    """How many of the documents hold each."""
    docs: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint32]

    def save(self, folder: Path, number: int) -> None:
        """Writes the run to files."""
        for name in self.__dataclass_fields__:
            np.save(folder / f"{number}.{name}.npy", getattr(self, name))

    @classmethod
    def mapped(cls, folder: Path, number: int) -> _Run:
        """Maps a saved run."""
        return cls(*(_mapped(folder / f"{number}.{name}.npy") for name in cls.__dataclass_fields__))


def build(texts: Iterable[pa.Array], config: Bm25Config, folder: Path) -> None:
    """Writes the postings of the documents with these texts, in order, into an empty folder."""
    runs = folder / "runs"
    runs.mkdir()
    terms, lengths, made = Terms(config), [np.zeros(0, dtype=np.int32)], 0
    for tokens, ends in _batches(texts, terms):
        run, counted = _sorted_run(tokens, ends, len(terms), sum(map(len, lengths)))
        run.save(runs, made)
        lengths.append(counted)
        made += 1
    np.save(folder / "lengths.npy", np.concatenate(lengths))
    _write_terms(folder / "terms.arrow", terms.names())
    _join(folder, runs, made, len(terms))
    shutil.rmtree(runs)


def _batches(texts: Iterable[pa.Array], terms: Terms) -> Iterator[tuple[Int32s, Int64s]]:
    """Yields the terms of consecutive texts and where each text ends, at least `_RUN` terms at a time."""
    parts: list[tuple[Int32s, Int64s]] = []
    size = 0
    for block in texts:
        tokens, ends = terms.numbers(block)
        parts.append((tokens, ends + size))
        size += len(tokens)
        if size >= _RUN:
            yield _concatenated(parts)
            parts, size = [], 0
    if parts:
        yield _concatenated(parts)


def _concatenated(parts: Sequence[tuple[Int32s, Int64s]]) -> tuple[Int32s, Int64s]:
    return np.concatenate([one for one, _ in parts]), np.concatenate([ends for _, ends in parts])


def _sorted_run(tokens: Int32s, ends: Int64s, terms: int, first: int) -> tuple[_Run, Int32s]:
    """Returns the postings of consecutive documents, of which `first` is the first, and their lengths."""
    from miner.retrieval.term_scan import collect, holders

    sizes = holders(tokens, ends, terms)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    docs, counts = (np.empty(starts[-1], dtype=np.uint32) for _ in range(2))
    lengths = np.empty(len(ends), dtype=np.int32)
    collect(tokens, ends, first, starts[:-1], docs, counts, lengths)
    found = np.flatnonzero(sizes)
    return _Run(found, sizes[found], docs, counts), lengths


def _join(folder: Path, runs: Path, made: int, terms: int) -> None:
    """Writes the postings of all runs by term, a part of the terms at a time."""
    from miner.retrieval.term_scan import join_runs

    holders, most = np.zeros(terms, dtype=np.int64), 0
    for number in range(made):
        run = _Run.mapped(runs, number)
        holders[run.terms] += run.sizes
        most = max(most, int(run.counts.max(initial=0)))
    starts = np.concatenate([[0], np.cumsum(holders)])
    np.save(folder / "starts.npy", starts)
    read = np.zeros((made, 2), dtype=np.int64)
    sizes = {"docs": np.dtype(np.uint32), "counts": np.min_scalar_type(most)}
    with (
        _column(folder / "docs.npy", sizes["docs"], int(starts[-1])) as all_docs,
        _column(folder / "counts.npy", sizes["counts"], int(starts[-1])) as all_counts,
    ):
        for low, high in _parts(starts):
            size = starts[high] - starts[low]
            docs, counts = np.empty(size, sizes["docs"]), np.empty(size, sizes["counts"])
            cursor = starts[low:high] - starts[low]
            for number in range(made):
                run = _Run.mapped(runs, number)
                term, posting = read[number]
                stop = int(np.searchsorted(run.terms, high))
                last = posting + int(run.sizes[term:stop].sum())
                part = run.terms[term:stop], run.sizes[term:stop], run.docs[posting:last]
                join_runs(*part, run.counts[posting:last], cursor, low, docs, counts)
                read[number] = stop, last
            docs.tofile(all_docs)
            counts.tofile(all_counts)


def _parts(starts: Int64s) -> Iterator[tuple[int, int]]:
    """Yields ranges of terms with about `_PART` postings each."""
    low = 0
    while low < len(starts) - 1:
        high = max(low + 1, int(np.searchsorted(starts, starts[low] + _PART, side="right")) - 1)
        yield low, high
        low = high


@contextmanager
def _column(file: Path, dtype: np.dtype[Any], size: int) -> Iterator[Any]:
    """Yields a file to which the numbers of an array are written in parts."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (size,)}
    with file.open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, described)
        yield opened


def _write_terms(file: Path, names: pa.Array) -> None:
    table = pa.table({"term": names})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _mapped(file: Path) -> npt.NDArray[Any]:
    """Returns an array from its file, mapped; an empty one cannot be mapped."""
    try:
        return np.asarray(np.load(file, mmap_mode="r"))
    except ValueError:
        return np.asarray(np.load(file))
