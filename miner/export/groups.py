"""Grouping a triplet table by query: each query's positives and negatives, each once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

RowNumbers = npt.NDArray[np.int64]
"""Row numbers of a triplet table."""


@dataclass(frozen=True)
class Lists:
    """Row numbers of a triplet table per query: `rows[offsets[i]:offsets[i + 1]]` belong to query i."""

    rows: RowNumbers
    offsets: RowNumbers

    @property
    def owner(self) -> RowNumbers:
        """The query number, from 0, of each entry of `rows`."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def of(self, values: pa.Array) -> pa.ListArray:
        """Returns one list per query with the values at its rows; `values` has one per row of the table."""
        return lists(values.take(pa.array(self.rows)), self.offsets)


def lists(values: pa.Array, offsets: RowNumbers) -> pa.ListArray:
    """Returns the values as one list per query, cut at `offsets`."""
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def column(table: pa.Table, name: str) -> pa.Array:
    """Returns a column as one array."""
    return table[name].combine_chunks()


def joined(table: pa.Table, side: str) -> pa.Array:
    """Returns the texts of the positives or negatives as models read them: title before text."""
    title, text = column(table, f"{side}_title"), column(table, f"{side}_text")
    both = pc.binary_join_element_wise(title, text, " ")
    return pc.if_else(pc.equal(title, ""), text, both)


def _codes(table: pa.Table, name: str) -> RowNumbers:
    """Returns an integer per row, equal for equal values, in order of first appearance."""
    codes: RowNumbers = column(table, name).dictionary_encode().indices.to_numpy().astype(np.int64)
    return codes


def starts(table: pa.Table, *names: str) -> RowNumbers:
    """Returns row 0 and the rows in which any of the columns differs from the row before."""
    new = np.zeros(table.num_rows, dtype=bool)
    new[:1] = True
    for name in names:
        codes = _codes(table, name)
        new[1:] |= codes[1:] != codes[:-1]
    return np.flatnonzero(new)


def _by_query(rows: RowNumbers, query: RowNumbers) -> Lists:
    """Returns row numbers, which are already in order of their queries, grouped by query."""
    count = int(query.max()) + 1 if len(query) else 0
    return Lists(rows, np.concatenate([[0], np.cumsum(np.bincount(query[rows], minlength=count))]))


def positives(table: pa.Table) -> Lists:
    """Returns the first row of each positive of each query, in order of positive_id."""
    return _by_query(starts(table, "query_id", "positive_id"), _codes(table, "query_id"))


def negatives(table: pa.Table) -> Lists:
    """Returns the row with the best rank of each negative of each query, the best rank first."""
    query, negative = _codes(table, "query_id"), _codes(table, "negative_id")
    rank = column(table, "rank").to_numpy()
    order = np.lexsort((rank, negative, query))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(query[order]) != 0) | (np.diff(negative[order]) != 0)
    once = order[new]
    return _by_query(once[np.lexsort((negative[once], rank[once], query[once]))], query)
