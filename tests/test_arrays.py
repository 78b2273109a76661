"""Arrays between NumPy and Arrow, groups, and what a process that decides imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from miner.arrays import as_arrow, as_lists, as_numpy, first_within, flat, in_order, list_sizes, number_within
from miner.mining.config import MiningConfig
from miner.mining.pipeline import mine
from tests.stores import make_store, new_store

TYPES = ("int8", "int16", "int32", "int64", "float32", "float64", "bool")


@given(st.sampled_from(TYPES), st.lists(st.integers(0, 100), max_size=40), st.integers(0, 45))
def test_numbers_survive_arrow_also_in_a_slice_and_in_several_chunks(
    dtype: str, values: list[int], start: int
) -> None:
    array = np.array(values).astype(dtype)
    assert as_arrow(array).equals(pa.array(array))
    assert as_numpy(as_arrow(array).slice(start)).tolist() == array[start:].tolist()
    chunks = pa.chunked_array([as_arrow(array[:start]), as_arrow(array[start:])])
    assert as_numpy(chunks).tolist() == array.tolist()
    assert as_numpy(chunks).dtype == array.dtype


def test_a_null_is_nan() -> None:
    assert np.isnan(as_numpy(pa.array([1.0, None]))).tolist() == [False, True]


@given(st.lists(st.integers(0, 4), max_size=20), st.integers(0, 25))
def test_lists_are_flattened_also_in_a_slice(counts: list[int], start: int) -> None:
    lists = pa.chunked_array([as_lists(np.arange(sum(counts)), np.array(counts, dtype=np.int64))])
    some = lists.slice(start)
    assert list_sizes(some).tolist() == counts[start:]
    assert flat(some).to_pylist() == list(range(sum(counts[:start]), sum(counts)))


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4))
def test_the_first_rows_of_a_group(groups: list[int], most: int) -> None:
    array = np.array(groups, dtype=np.int64)
    assert first_within(array, most).tolist() == np.flatnonzero(number_within(array) <= most).tolist()


def test_rows_are_put_in_order_only_if_they_are_not() -> None:
    table = pa.table({"number": [2, 1, 2, 1], "text": ["a", "b", "c", "d"]})
    assert in_order(table, "number")["text"].to_pylist() == ["b", "d", "a", "c"]
    assert in_order(table.slice(1, 2), "number")["text"].to_pylist() == ["b", "c"]


def test_several_tables_are_those_of_one_after_the_other(tmp_path: Path) -> None:
    queries = [("SELECT key FROM meta WHERE key = ?", ["x"]), ("SELECT count(*) AS n FROM meta", [])]
    with new_store(tmp_path / "s.duckdb") as store:
        assert [one.num_rows for one in store.tables(*queries)] == [0, 1]
        with store.transaction():
            store.set_meta("x", 1)
            assert store.tables(*queries)[0]["key"].to_pylist() == ["x"]
        assert [one["key"].to_pylist() for one in store.tables(queries[0], queries[0])] == [["x"], ["x"]]


def test_a_process_that_decides_imports_neither_pandas_nor_compute(tmp_path: Path) -> None:
    documents = {f"d{i}": f"word{i} common text {i % 3}" for i in range(12)}
    queries = {f"q{i}": f"word{i} common" for i in range(4)}
    with make_store(
        tmp_path / "s.duckdb", documents, queries, [(f"q{i}", f"d{i}") for i in range(4)]
    ) as store:
        mine(store, MiningConfig())
    code = f"""
import sys
from miner.cli.main import main
try:
    main(["decide", {str(tmp_path / "s.duckdb")!r}, "--relative-margin", "0.3"])
except SystemExit as end:
    assert end.code == 0, end.code
print([name for name in ("pandas", "pyarrow.compute", "scipy", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
