"""What `miner sql` prints and writes: every format, whole values, nothing lost."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from miner.errors import UsageError
from tests.sql_support import small_store, sql


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("store"))


ODD = """SELECT 1 AS n, [1, 2] AS l, 'x"y' AS s, 1.5::DECIMAL(3, 1) AS d, 'nan'::DOUBLE AS f, NULL AS u,
    'a'::BLOB AS b"""


def test_csv(store: Path) -> None:
    ended = sql(store, ODD, "--format", "csv")
    assert ended.stdout == 'n,l,s,d,f,u,b\n1,"[1, 2]","x""y",1.5,nan,,YQ==\n'


def test_json_and_jsonl_are_valid_whatever_the_value(store: Path) -> None:
    expected = {"n": 1, "l": [1, 2], "s": 'x"y', "d": 1.5, "f": None, "u": None, "b": "YQ=="}
    assert json.loads(sql(store, ODD, "--format", "json").stdout) == [expected]
    assert [json.loads(line) for line in sql(store, ODD, "--format", "jsonl").stdout.splitlines()] == [
        expected
    ]
    assert json.loads(sql(store, "SELECT 1 WHERE false", "--format", "json").stdout) == []
    assert json.loads(sql(store, "SELECT MAP([1], [2]) AS m", "--format", "jsonl").stdout) == {"m": {"1": 2}}


def test_times_with_a_zone_need_no_further_package(store: Path) -> None:
    ended = sql(store, "SELECT TIMESTAMPTZ '2026-01-02 03:04:05+00' AS t", "--format", "csv")
    assert ended.stdout.splitlines()[1].startswith("2026-01-02T03:04:05")


def test_table(store: Path) -> None:
    ended = sql(store, "SELECT doc_id, text, 0.5::DOUBLE AS score FROM documents ORDER BY doc_id")
    assert ended.stdout == (
        "doc_id   text    score\n──────────────────────\n007      bond      0.5\nd1       a cat     0.5\n"
    )


def test_table_cells_do_not_drive_the_terminal(store: Path) -> None:
    ended = sql(store, "SELECT chr(27) || '[31m' || chr(10) || 'x' AS text")
    assert ended.stdout.splitlines()[-1] == "\\x1b[31m\\nx"


def test_a_long_table_says_that_there_is_more(store: Path) -> None:
    ended = sql(store, "FROM range(1000)", "--limit-rows", "2")
    assert len(ended.stdout.splitlines()) == 4
    assert ended.stderr == "showing the first 2 rows; for all: --limit-rows 0 or --out FILE.csv\n"
    assert len(sql(store, "FROM range(1000)", "--limit-rows", "0").stdout.splitlines()) == 1002


def test_out_takes_its_format_from_the_ending(store: Path, tmp_path: Path) -> None:
    query = "SELECT doc_id FROM documents ORDER BY doc_id"
    for ending in ("csv", "tsv", "parquet"):
        assert sql(store, query, "--out", str(tmp_path / f"x.{ending}")).exit_code == 0
    assert (tmp_path / "x.csv").read_text() == "doc_id\n007\nd1\n"
    assert pq.read_table(tmp_path / "x.parquet").to_pydict() == {"doc_id": ["007", "d1"]}
    assert (tmp_path / "x.tsv").read_text() == "doc_id\n007\nd1\n"
    assert sorted(os.listdir(tmp_path)) == ["x.csv", "x.parquet", "x.tsv"]


def test_a_store_is_never_written_over(store: Path) -> None:
    before = store.read_bytes()
    for form in ("csv", "parquet"):
        ended = sql(store, "SELECT 1 AS a", "--format", form, "--out", str(store))
        assert str(ended.exception) == f"{store} is a DuckDB database and would be lost; name another file"
    assert store.read_bytes() == before


def test_tab_separated(store: Path) -> None:
    ended = sql(store, "SELECT 'a,b' AS x, 'tab\there' AS y", "--format", "tsv")
    assert ended.stdout == 'x\ty\na,b\t"tab\there"\n'


def test_a_suffix_of_no_format_is_refused(store: Path, tmp_path: Path) -> None:
    ended = sql(store, "FROM range(3)", "--out", str(tmp_path / "x.xlsx"))
    assert str(ended.exception).startswith(f"no format has the suffix of {tmp_path / 'x.xlsx'}; use .csv,")
    assert sql(store, "FROM range(3)", "--out", str(tmp_path / "x.dat"), "--format", "csv").exit_code == 0
    assert sorted(os.listdir(tmp_path)) == ["x.dat"]


def test_a_failing_query_leaves_the_old_file(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    out.write_text("old")
    ended = sql(store, "SELECT error('no') FROM range(3)", "--out", str(out))
    assert isinstance(ended.exception, UsageError)
    assert out.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.csv"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "txt"])
def test_the_time_limit_counts_the_writing_and_leaves_no_half_file(
    store: Path, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"x.{ending}"
    query = "SELECT range AS n, range::VARCHAR AS t FROM range(100000000)"
    ended = sql(store, query, "--out", str(out), "--timeout", "0.5", "--limit-rows", "0")
    assert str(ended.exception) == (
        "the query and writing its result took longer than 0.5 s: stopped; "
        "reduce the query, or raise --timeout"
    )
    assert os.listdir(tmp_path) == []


def test_many_rows_come_in_order(store: Path) -> None:
    ended = sql(store, "SELECT range AS n FROM range(50000) ORDER BY n DESC", "--format", "csv")
    numbers = [int(row[0]) for row in list(csv.reader(ended.stdout.splitlines()))[1:]]
    assert numbers == list(range(49_999, -1, -1))


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ("SELECT 1 AS a, 2 AS a", ["--format", "json"], "two columns are named 'a'"),
        ("SELECT 1", ["--format", "parquet"], "parquet cannot be written to the screen"),
    ],
)
def test_what_a_format_cannot_hold(store: Path, query: str, options: list[str], message: str) -> None:
    ended = sql(store, query, *options)
    assert isinstance(ended.exception, UsageError)
    assert ended.exception.message == message
