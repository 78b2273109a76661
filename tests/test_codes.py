"""The codes of candidates, as `decisions` stores them."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from miner.arrays import as_lists
from miner.schema import KEPT, SUSPECTED, Reason
from miner.store.codes import DECISION_CODES, decoded, encoded

MOST_NEGATIVES = 10_000
CODES = st.one_of(
    st.integers(KEPT - 40, 2 * SUSPECTED - 1),
    st.integers(KEPT - MOST_NEGATIVES, 2 * SUSPECTED - 1),
)


def table_of(lists: list[list[int]]) -> pa.Table:
    """Returns decisions with these codes."""
    codes = np.array([code for one in lists for code in one], dtype=np.int16)
    return pa.table(
        {
            "query_no": np.arange(len(lists), dtype=np.int32),
            "codes": as_lists(codes, np.array([*map(len, lists)])),
        }
    )


def lists_of(table: pa.Table) -> list[Any]:
    """Returns the codes of a table."""
    assert table["codes"].type == pa.list_(pa.int16())
    return table["codes"].to_pylist()


@given(st.lists(st.lists(CODES, max_size=6), min_size=1, max_size=8), st.integers(0, 8), st.integers(0, 8))
def test_codes_come_back_also_from_a_slice(lists: list[list[int]], start: int, number: int) -> None:
    table = table_of(lists)
    assert lists_of(decoded(encoded(table))) == lists
    some = lists[start : start + number]
    assert lists_of(decoded(encoded(table.slice(start, number)))) == some
    assert lists_of(decoded(encoded(table).slice(start, number))) == some
    halves = pa.concat_tables([encoded(table.slice(0, start)), encoded(table.slice(start))])
    assert lists_of(decoded(halves)) == lists


@given(st.lists(st.lists(CODES, min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_view_has_the_same_codes(lists: list[list[int]]) -> None:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE decisions (run_id VARCHAR, query_no INTEGER, codes VARCHAR)")
        connection.execute(DECISION_CODES)
        connection.register("arriving", encoded(table_of(lists)))
        connection.execute("INSERT INTO decisions SELECT 'r', query_no, codes FROM arriving")
        found = connection.execute("SELECT codes FROM decision_codes ORDER BY query_no").fetchall()
    assert [list(codes) for (codes,) in found] == lists


def test_what_is_common_takes_a_byte() -> None:
    codes = [*range(len(Reason)), *(SUSPECTED + code for code in range(len(Reason))), *range(KEPT - 29, 0)]
    (text,) = encoded(table_of([codes]))["codes"].to_pylist()
    assert text.isascii()
    assert text.isprintable()
    assert len(text) == len(codes)


def test_a_reason_and_the_same_one_of_a_suspected_positive_differ() -> None:
    assert len(Reason) <= SUSPECTED
