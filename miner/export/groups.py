"""Rows of a triplet table by query: which documents a query has, each once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Rows = npt.NDArray[np.int64]
"""Places in a triplet table."""


@dataclass(frozen=True)
class Lists:
    """For every query, places in a triplet table: `rows[offsets[i]:offsets[i + 1]]` are query i's."""

    rows: Rows
    offsets: Rows

    @property
    def owner(self) -> Rows:
        """The number of the query that each row belongs to, from 0."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def of(self, values: pa.Array) -> pa.ListArray:
        """Returns one list per query: the values (one per row of the triplet table) at its rows."""
        return lists(values.take(pa.array(self.rows)), self.offsets)


def lists(values: pa.Array, offsets: Rows) -> pa.ListArray:
    """Returns the values cut at `offsets`, one list per query."""
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def column(table: pa.Table, name: str) -> pa.Array:
    """Returns a column as one array."""
    return table[name].combine_chunks()


def joined(table: pa.Table, side: str) -> pa.Array:
    """Returns the texts of `side` (`positive` or `negative`) as models read them: title before text."""
    title, text = column(table, f"{side}_title"), column(table, f"{side}_text")
    both = pc.binary_join_element_wise(title, text, " ")
    return pc.if_else(pc.equal(title, ""), text, both)


def _codes(table: pa.Table, name: str) -> Rows:
    """Returns an integer per row, equal where the values are, in order of first appearance."""
    codes: Rows = column(table, name).dictionary_encode().indices.to_numpy().astype(np.int64)
    return codes


def starts(table: pa.Table, *names: str) -> Rows:
    """Returns the rows where any of the columns differs from the row before; row 0 included."""
    new = np.zeros(table.num_rows, dtype=bool)
    new[:1] = True
    for name in names:
        codes = _codes(table, name)
        new[1:] |= codes[1:] != codes[:-1]
    return np.flatnonzero(new)


def _by_query(rows: Rows, query: Rows) -> Lists:
    """Returns rows that are already in order of their queries, cut by query."""
    count = int(query.max()) + 1 if len(query) else 0
    return Lists(rows, np.concatenate([[0], np.cumsum(np.bincount(query[rows], minlength=count))]))


def positives(table: pa.Table) -> Lists:
    """Returns where each query's positives first appear, in order of positive_id."""
    return _by_query(starts(table, "query_id", "positive_id"), _codes(table, "query_id"))


def negatives(table: pa.Table) -> Lists:
    """Returns where each query's negatives have their best rank, each once, the best rank first."""
    query, negative = _codes(table, "query_id"), _codes(table, "negative_id")
    rank = column(table, "rank").to_numpy()
    order = np.lexsort((rank, negative, query))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(query[order]) != 0) | (np.diff(negative[order]) != 0)
    once = order[new]
    return _by_query(once[np.lexsort((negative[once], rank[once], query[once]))], query)
