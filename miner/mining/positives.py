"""The known positives of the queries that are decided on, with their scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import as_arrow, as_numpy, joined

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Positives:
    """The positives of all queries, in order of query and document."""

    table: pa.Table
    """query_no, query_id, doc_id, score."""
    numbered: int | None = None
    """One more than the largest query number, if that is not of one of these positives."""
    stand_in: npt.NDArray[np.bool_] | None = None
    """Which rows have another score than their own, because an audit hides the only positive of their query.
    Margins are measured from it, and it is not one of the positives' scores that percentiles are of."""
    of_all: Mapping[str, Floats] | None = None
    """The finite scores of all positives, ascending, by the name of the column; None if these are all."""

    @cached_property
    def owner(self) -> Ints:
        """Each positive's query number."""
        owner: Ints = as_numpy(self.table["query_no"]).astype(np.int64)
        return owner

    @cached_property
    def score(self) -> Floats:
        """Each positive's deciding score; NaN if it is not finite."""
        return np.asarray(as_numpy(self.table["score"]), dtype=np.float64)

    @cached_property
    def scored(self) -> Positives:
        """The positives with a finite score; only these affect decisions and are in triplets."""
        finite = np.isfinite(self.score)
        if finite.all():
            return self
        stand_in = None if self.stand_in is None else self.stand_in[finite]
        return Positives(self.table.filter(pa.array(finite)), self.queries, stand_in, self.of_all)

    @property
    def score_names(self) -> list[str]:
        """The names of the columns of scores, the deciding one first."""
        return [name for name in self.table.column_names if name.startswith("score")]

    @cached_property
    def has_scored(self) -> npt.NDArray[np.bool_]:
        """Whether each query, by number, has a positive with a finite score."""
        return np.bincount(self.owner[np.isfinite(self.score)], minlength=self.queries) > 0

    @cached_property
    def sorted_scores(self) -> Floats:
        """All finite deciding scores, ascending."""
        return self.sorted_by("score")

    def sorted_by(self, name: str) -> Floats:
        """Returns all finite scores in a column, ascending."""
        if self.of_all is not None:
            return self.of_all[name]
        score = np.asarray(as_numpy(self.table[name]), dtype=np.float64)
        own = np.isfinite(score)
        if self.stand_in is not None:
            own &= ~self.stand_in
        return np.sort(score[own])

    @cached_property
    def mean(self) -> Floats:
        """The mean finite score of each query's positives, by query number; 0 without any."""
        finite = np.isfinite(self.score)
        known = np.bincount(self.owner[finite], minlength=self.queries)
        total = np.bincount(self.owner[finite], self.score[finite], self.queries)
        return np.asarray(total / np.maximum(1, known), dtype=np.float64)

    @cached_property
    def hashes(self) -> Hashes:
        """A hash of each query's id, by query number."""
        hashes = np.zeros(self.queries, dtype=np.uint64)
        numbers, first = np.unique(self.owner, return_index=True)
        hashes[numbers] = hashes_of(self.table["query_id"].take(pa.array(first)).to_pylist())
        return hashes

    @cached_property
    def _ids(self) -> dict[str, pa.Array]:
        return {name: joined(self.table[name]) for name in ("query_id", "doc_id")}

    def ids(self, name: str, rows: Ints) -> pa.DictionaryArray:
        """Returns some rows of `query_id` or `doc_id`."""
        return pa.DictionaryArray.from_arrays(as_arrow(rows.astype(np.int32)), self._ids[name])

    @property
    def queries(self) -> int:
        """One more than the largest query number."""
        if self.numbered is not None:
            return self.numbered
        return int(self.owner[-1]) + 1 if len(self.owner) else 0

    @cached_property
    def _starts(self) -> Ints:
        """The row of the first positive of each query, by number, and the number of rows."""
        return np.searchsorted(self.owner, np.arange(self.queries + 1))

    def of(self, query: Ints) -> tuple[Ints, Ints]:
        """Returns the row of each query's first positive, and the number of its positives."""
        starts = self._starts[query]
        return starts, self._starts[query + 1] - starts

    @cached_property
    def best(self) -> Ints:
        """The row of each query's best-scored positive; ties go to the smaller doc_id."""
        order = np.lexsort((np.arange(len(self.owner)), -self.score, self.owner))
        numbers, first = np.unique(self.owner[order], return_index=True)
        rows = np.full(self.queries, -1, dtype=np.int64)
        rows[numbers] = order[first]
        return rows


def hashes_of(ids: list[str]) -> Hashes:
    """Returns a 64-bit hash of each id."""
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, dtype=np.uint64)
