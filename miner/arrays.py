"""Operations on arrays: pairs as numbers, groups, positions of ids."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


class Matrix(Protocol):
    """Vectors by row, such as a mapped array: what a search reads, in pieces."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows, and the length of a vector."""
        ...

    def __getitem__(self, rows: slice | Int64s, /) -> npt.NDArray[np.float32]:
        """Returns these rows as float32."""
        ...


def pair_keys(query: npt.NDArray[Any], doc: npt.NDArray[Any]) -> Int64s:
    """Returns one number per (query, document) pair of positions; the numbers sort like the pairs."""
    return np.asarray((query.astype(np.int64) << 32) | doc.astype(np.int64))


def split_pairs(keys: Int64s) -> tuple[Int32s, Int32s]:
    """Returns the queries and the documents of `pair_keys`."""
    return (keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32)


def number_within(groups: npt.NDArray[Any]) -> Int64s:
    """Returns the number of each row within its run of equal groups, from 1."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    counts = np.diff(np.append(starts, len(groups)))
    return np.asarray(np.arange(len(groups)) - np.repeat(starts, counts) + 1)


def count_within(flags: npt.NDArray[np.bool_], groups: npt.NDArray[Any]) -> Int64s:
    """Returns how many flags are set up to each row within its run of equal groups, the row included."""
    total = np.cumsum(flags)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    before: Int64s = np.repeat(total[starts] - flags[starts], np.diff(np.append(starts, len(groups))))
    return np.asarray(total - before)


def drawn_share(
    owner: npt.NDArray[Any],
    allowed: npt.NDArray[np.bool_],
    share: float,
    rng: np.random.Generator,
    left: int = 1,
) -> npt.NDArray[np.bool_]:
    """Draws about `share` of each owner's rows, only `allowed` rows; `left` or more are not drawn.

    `owner` is sorted.

    Fractions are rounded up or down at random, so that the expected number is exact if enough rows are
    allowed. Returns which rows are drawn.
    """
    numbers, group, counts = np.unique(owner, return_inverse=True, return_counts=True)
    wanted = np.floor(share * counts + rng.random(len(numbers))).astype(np.int64)
    wanted = np.minimum(wanted, counts - left)
    order = np.lexsort((rng.random(len(owner)), ~allowed, owner))
    drawn = np.zeros(len(owner), dtype=np.bool_)
    drawn[order] = allowed[order] & (number_within(owner) <= wanted[group])
    return drawn


def joined_ranges(starts: Int64s, counts: Int64s) -> Int64s:
    """Returns start, start + 1, … of each range, one range after the other."""
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(np.repeat(starts, counts) + within)


def positions(ids: pa.ChunkedArray, known: pa.Array) -> Int32s:
    """Returns each id's position among the ids `known`; -1 if it is null or not among them."""
    indices = pc.index_in(ids, value_set=known, skip_nulls=True)
    result: Int32s = pc.fill_null(indices, -1).to_numpy().astype(np.int32)
    return result


def flat(lists: pa.ChunkedArray) -> pa.Array:
    """Returns the values of a column of lists, one list after the other."""
    return lists.combine_chunks().flatten()


def owners(table: pa.Table, lists: str, owner: str = "query_no") -> Int64s:
    """Returns the value of the column `owner` for each value of a column of lists."""
    counts = table[lists].combine_chunks().value_lengths().to_numpy()
    return np.repeat(table[owner].to_numpy().astype(np.int64), counts)


def numbered(table: pa.Table, lists: str, step: int, owner: str = "query_no") -> Int64s:
    """Returns, for each value of a column of lists, `step` times its owner plus its number in the list."""
    counts = table[lists].combine_chunks().value_lengths().to_numpy()
    first = table[owner].to_numpy().astype(np.int64) * step + 1 - (np.cumsum(counts) - counts)
    return np.asarray(np.arange(counts.sum()) + np.repeat(first, counts))


def as_lists(values: Any, counts: npt.NDArray[Any]) -> pa.ListArray:
    """Returns values (an array) as lists of so many each, one after the other."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    values = values if isinstance(values, pa.Array) else pa.array(values)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
