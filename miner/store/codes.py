"""How `decisions` stores the codes of a query's candidates: a text with one character for each.

DuckDB writes a text four times as fast as a list of numbers. `!` is the first reason, `A` the same one of a
suspected positive; `a` is kept, `b` the first negative, `c` the second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import as_lists, as_numpy, joined

_REASONS, _KEPT = ord("!"), ord("a")
_ASCII = 128

_CODE = f"CASE WHEN unicode(c) < {_KEPT} THEN unicode(c) - {_REASONS} ELSE {_KEPT - 1} - unicode(c) END"
DECISION_CODES = f"""CREATE VIEW decision_codes AS
    SELECT run_id, query_no,
        list_transform(string_split(nullif(codes, ''), ''), lambda c: {_CODE})::SMALLINT[] AS codes
    FROM decisions"""
"""SQL for the view of `decisions` with the codes as numbers."""


def encoded(decisions: pa.Table) -> pa.Table:
    """Returns the table with its lists of codes as `decisions` stores them."""
    array = joined(decisions["codes"])
    offsets: npt.NDArray[Any] = as_numpy(array.offsets)
    codes = as_numpy(array.values)[offsets[0] : offsets[-1]].astype(np.int32)
    points = np.where(codes < 0, _KEPT - 1 - codes, codes + _REASONS)
    ends = offsets - offsets[0]
    if points.max(initial=0) < _ASCII:
        data = points.astype(np.uint8).tobytes()
    else:
        data = points.astype("<u4").tobytes().decode("utf-32-le").encode()
        sizes = 1 + (points >= _ASCII) + (points >= 1 << 11)
        ends = np.concatenate([[0], np.cumsum(sizes)])[ends]
    starts = pa.py_buffer(ends.astype(np.int32).tobytes())
    return _with(decisions, pa.StringArray.from_buffers(len(array), starts, pa.py_buffer(data)))


def decoded(decisions: pa.Table) -> pa.Table:
    """Returns the table, as it is stored, with its codes as lists of 16-bit numbers."""
    array = joined(decisions["codes"])
    if not len(array):
        return _with(decisions, pa.array([], pa.list_(pa.int16())))
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    stored = np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]
    points: npt.NDArray[Any] = stored
    sizes = np.diff(ends)
    if stored.max(initial=0) >= _ASCII:
        begun = np.concatenate([[0], np.cumsum((stored & 0xC0) != 0x80)])  # not within a character
        sizes = np.diff(begun[ends - ends[0]])
        points = np.frombuffer(stored.tobytes().decode().encode("utf-32-le"), "<u4")
    code = np.arange(int(points.max(initial=0)) + 1, dtype=np.int16)
    code = np.where(code < _KEPT, code - _REASONS, _KEPT - 1 - code)
    return _with(decisions, as_lists(code[points], sizes))


def _with(decisions: pa.Table, codes: pa.Array) -> pa.Table:
    return decisions.set_column(decisions.column_names.index("codes"), "codes", codes)
