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


@dataclass(frozen=True)
class Both:
    """Each query's positives, then its negatives, each document once."""

    positives: Lists
    negatives: Lists

    @property
    def offsets(self) -> RowNumbers:
        """The first entry of each query, and at the end the number of entries."""
        return self.positives.offsets + self.negatives.offsets

    def of(self, of_positives: pa.Array, of_negatives: pa.Array) -> pa.Array:
        """Returns the values of the positives and negatives; both arrays have one per row of the table."""
        owner = np.concatenate([self.positives.owner, self.negatives.owner])
        parts = [
            of_positives.take(pa.array(self.positives.rows)),
            of_negatives.take(pa.array(self.negatives.rows)),
        ]
        return pa.concat_arrays(parts).take(pa.array(np.argsort(owner, kind="stable")))


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


def both(table: pa.Table) -> Both:
    """Returns each query's positives and negatives."""
    return Both(positives(table), negatives(table))


def score_lists(table: pa.Table, first: RowNumbers, count: int) -> pa.ListArray:
    """Returns lists of the positive's score and those of `count` negatives, from each row of `first` on."""
    positive = column(table, "positive_score").to_numpy()
    negative = column(table, "negative_score").to_numpy()
    scores = np.column_stack([positive[first], *(negative[first + i] for i in range(count))])
    return lists(pa.array(scores.ravel()), np.arange(len(first) + 1) * (count + 1))


def pairs_with(table: pa.Table, negatives: int) -> RowNumbers:
    """Returns the first row of each (query, positive) that has at least so many negatives."""
    first = starts(table, "query_id", "positive_id")
    sizes = np.diff(np.append(first, table.num_rows))
    return first[sizes >= negatives]


def negatives(table: pa.Table) -> Lists:
    """Returns the row with the best rank of each negative of each query, the best rank first."""
    query, negative = _codes(table, "query_id"), _codes(table, "negative_id")
    rank = column(table, "rank").to_numpy()
    order = np.lexsort((rank, negative, query))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(query[order]) != 0) | (np.diff(negative[order]) != 0)
    once = order[new]
    return _by_query(once[np.lexsort((negative[once], rank[once], query[once]))], query)
