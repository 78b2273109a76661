"""Operations on arrays: pairs as numbers, groups, positions of ids."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Positions = npt.NDArray[np.integer[Any]]


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


def group_sizes(groups: npt.NDArray[Any]) -> tuple[Int64s, Int64s]:
    """Returns the first row and the number of rows of each run of equal groups."""
    if not len(groups):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[0], np.flatnonzero(groups[1:] != groups[:-1]) + 1])
    return starts, np.diff(starts, append=len(groups))


def number_within(groups: npt.NDArray[Any]) -> Int64s:
    """Returns the number of each row within its run of equal groups, from 1."""
    starts, counts = group_sizes(groups)
    return np.asarray(np.arange(len(groups)) - np.repeat(starts, counts) + 1)


def first_within(groups: npt.NDArray[Any], most: int) -> Int64s:
    """Returns the first `most` rows of each run of equal groups, or all of them if it has fewer."""
    starts, counts = group_sizes(groups)
    return joined_ranges(starts, np.minimum(counts, most))


def count_within(flags: npt.NDArray[np.bool_], groups: npt.NDArray[Any]) -> Int64s:
    """Returns how many flags are set up to each row within its run of equal groups, the row included."""
    total = np.cumsum(flags)
    starts, counts = group_sizes(groups)
    before: Int64s = np.repeat(total[starts] - flags[starts], counts)
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


def slices(counts: Int64s, most: int) -> Iterator[slice]:
    """Yields slices of rows, in order, each with counts that add up to about `most`, or of one row."""
    if len(counts):
        cuts = np.flatnonzero(np.diff(np.cumsum(counts) // most)) + 1
        yield from (slice(start, stop) for start, stop in pairwise([0, *cuts.tolist(), len(counts)]))


def positions(ids: pa.ChunkedArray, known: pa.Array) -> Int32s:
    """Returns each id's position among the distinct ids `known`; -1 if it is null or not among them."""
    import pyarrow.compute as pc  # 25 ms, and deciding needs none of it

    if len(ids) >= len(known):
        found = pc.index_in(ids, value_set=known, skip_nulls=True)
        result: Int32s = pc.fill_null(found, -1).to_numpy().astype(np.int32)
        return result
    # A hash table of the few ids is smaller, and sooner made, than one of all that are known.
    wanted = ids.unique().drop_null()
    number = pc.fill_null(pc.index_in(known, value_set=wanted), -1).to_numpy()
    at = np.flatnonzero(number >= 0)
    position_of = np.full(len(wanted) + 1, -1, dtype=np.int32)  # the last one is that of unknown ids
    position_of[number[at]] = at
    return position_of[positions(ids, wanted)]


def joined(column: pa.ChunkedArray) -> pa.Array:
    """Returns a column as one array. `combine_chunks` copies it even if it is one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def as_numpy(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Returns a column of numbers or booleans as NumPy does, NaN for null; numbers are not copied.

    Arrow's `to_numpy` imports pandas where it is installed, which takes 0.1 s.
    """
    array = joined(column) if isinstance(column, pa.ChunkedArray) else column
    if array.null_count:
        return np.asarray(array.to_numpy(zero_copy_only=False))
    data = array.buffers()[1]
    stop = array.offset + len(array)
    if data is None or not len(array):
        return np.zeros(0, dtype=array.type.to_pandas_dtype())
    if pa.types.is_boolean(array.type):
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=stop, bitorder="little")
        return bits[array.offset :].view(np.bool_)
    return np.frombuffer(data, dtype=array.type.to_pandas_dtype(), count=stop)[array.offset :]


def as_arrow(values: npt.NDArray[Any]) -> pa.Array:
    """Returns numbers or booleans as Arrow; numbers are not copied. `pa.array` imports pandas too."""
    kind, is_flag = pa.from_numpy_dtype(values.dtype), values.dtype == np.bool_
    data = np.packbits(values, bitorder="little") if is_flag else np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(data)])


def utf8(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], Int64s]:
    """Returns the UTF-8 bytes of texts, one after the other, and their offsets: one more than texts.

    A null is empty.
    """
    if not len(texts):
        return np.zeros(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    array = texts.cast(pa.large_string())
    if array.null_count:
        array = array.fill_null("")
    _, starts, content = array.buffers()
    offsets = np.frombuffer(starts, dtype=np.int64)[array.offset :][: len(array) + 1]
    return np.frombuffer(content or b"", dtype=np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]


def flat(lists: pa.ChunkedArray) -> pa.Array:
    """Returns the values of a column of lists, one list after the other."""
    array = joined(lists)
    if array.null_count:
        return array.flatten()
    # The same as `flatten`, which imports pyarrow.compute.
    offsets = as_numpy(array.offsets)
    return array.values.slice(offsets[0], offsets[-1] - offsets[0])


def in_order(table: pa.Table, column: str) -> pa.Table:
    """Returns a table by the numbers in a column; rows of one number stay in order.

    For rows that are stored in that order: looking is faster than sorting, which DuckDB does anyway.
    """
    numbers = as_numpy(table[column])
    if bool(np.all(numbers[1:] >= numbers[:-1])):
        return table
    return table.take(pa.array(np.argsort(numbers, kind="stable")))


def list_sizes(lists: pa.ChunkedArray) -> Int64s:
    """Returns the number of values in each list of a column without nulls."""
    array = joined(lists)
    offsets: Int64s = as_numpy(array.offsets).astype(np.int64)
    return offsets[1:] - offsets[:-1]


def owners(table: pa.Table, lists: str, owner: str = "query_no") -> Int64s:
    """Returns the value of the column `owner` for each value of a column of lists."""
    return np.repeat(as_numpy(table[owner]).astype(np.int64), list_sizes(table[lists]))


def numbered(table: pa.Table, lists: str, step: int, owner: str = "query_no") -> Int64s:
    """Returns, for each value of a column of lists, `step` times its owner plus its number in the list."""
    counts = list_sizes(table[lists])
    first = as_numpy(table[owner]).astype(np.int64) * step + 1 - (np.cumsum(counts) - counts)
    numbers = np.repeat(first, counts)
    numbers += np.arange(len(numbers))
    return numbers


def as_lists(values: Any, counts: npt.NDArray[Any]) -> pa.ListArray:
    """Returns values (an array) as lists of so many each, one after the other."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    values = values if isinstance(values, pa.Array) else as_arrow(values)
    return pa.ListArray.from_arrays(as_arrow(offsets), values)
