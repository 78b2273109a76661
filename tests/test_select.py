"""`miner sql` reads and can do nothing else: every way out is tried, and the store's bytes compared."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.errors import MinerError, StoreError, UsageError
from miner.ranges import literal
from miner.store.select import (
    DEFAULT,
    Limits,
    confined,
    select,
)
from tests.sql_support import small_store, sql
from tests.stores import new_store

ONE_SELECT = "miner sql runs one SELECT statement"
HARMLESS = {
    "FROM query('SELECT 1')", "FROM query_table('documents')", "FROM truncate_duckdb_logs()",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))", "FROM checkpoint()",
    "SELECT setseed(0.5)", "SELECT sleep_ms(1)", "SELECT pg_sleep(1)", "SELECT write_log('x')",
}  # fmt: skip
"""Calls that DuckDB's locks allow: they run a further SELECT, or change nothing outside the connection."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("store"))


def state(store: Path) -> dict[str, str]:
    """Returns a hash of every file in the store's folder."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in store.parent.iterdir()}


def rows(store: Path, query: str, limits: Limits = DEFAULT) -> list[tuple[object, ...]]:
    with select(store, query, limits) as result:
        return [row for batch in result.batches() for row in batch]


READING = [
    ("SELECT doc_id FROM documents ORDER BY doc_id", [("007",), ("d1",)]),
    ("FROM queries SELECT query_id", [("q1",)]),
    ("WITH x AS (SELECT 1 AS a) SELECT a FROM x;", [(1,)]),
    ("VALUES (1), (2)", [(1,), (2,)]),
    ("(SELECT 1) UNION ALL (SELECT 2) -- both", [(1,), (2,)]),
    ("WITH RECURSIVE r AS (SELECT 1 a UNION ALL SELECT a + 1 FROM r WHERE a < 3) FROM r", [(1,), (2,), (3,)]),
    ("SELECT unnest([x * 2 FOR x IN [1, 2]])", [(2,), (4,)]),
    ("SELECT upper(text) FROM documents WHERE text LIKE '%cat%'", [("A CAT",)]),
    ("SELECT count(*) OVER () FROM queries", [(1,)]),
    ("SELECT j.value FROM json_each('[1]') j", [("1",)]),
    ("SELECT * FROM range(2)", [(0,), (1,)]),
    ("FROM (PIVOT documents ON doc_id IN ('d1') USING count(*)) SELECT d1 WHERE title = ''", [(1,)]),
    ("SELECT 'INSERT; DROP TABLE documents' AS a", [("INSERT; DROP TABLE documents",)]),
]


@pytest.mark.parametrize(("query", "expected"), READING)
def test_reads(store: Path, query: str, expected: list[tuple[object, ...]]) -> None:
    assert rows(store, query) == expected


@pytest.mark.parametrize(
    "query", ["SHOW TABLES", "DESCRIBE documents", "SUMMARIZE documents", "TABLE triplet_texts",
              "FROM dropped", "SELECT * FROM information_schema.tables", "SELECT * FROM duckdb_views()",
              "SELECT random(), uuid()"],
)  # fmt: skip
def test_reads_what_describes_the_store(store: Path, query: str) -> None:
    with select(store, query) as result:
        assert result.columns
        list(result.batches())


OTHER_STATEMENTS = {
    "INSERT INTO queries VALUES ('q2', 'x', 1, NULL)": "this is INSERT",
    "INSERT INTO queries VALUES ('q2', 'x', 1, NULL) RETURNING *": "this is INSERT",
    "UPDATE queries SET text = 'x'": "this is UPDATE",
    "DELETE FROM queries": "this is DELETE",
    "TRUNCATE queries": "this is DELETE",
    "MERGE INTO queries USING (SELECT 'q1' i) s ON query_id = s.i WHEN MATCHED THEN DELETE": "this is MERGE",
    "CREATE TABLE t (a INTEGER)": "this is CREATE",
    "CREATE TEMP TABLE t AS SELECT 1": "this is CREATE",
    "CREATE VIEW v AS SELECT 1": "this is CREATE",
    "CREATE MACRO m() AS 1": "this is CREATE",
    "CREATE SECRET s (TYPE s3)": "",
    "DROP TABLE documents": "this is DROP",
    "ALTER TABLE documents ADD COLUMN x INTEGER": "this is ALTER",
    "COMMENT ON TABLE documents IS 'x'": "",
    "COPY documents TO 'out.csv'": "this is COPY",
    "COPY (SELECT 1) TO 'out.parquet' (FORMAT parquet)": "this is COPY",
    "COPY documents FROM 'in.csv'": "this is COPY",
    "COPY FROM DATABASE my TO other": "",
    "ATTACH 'other.duckdb'": "this is ATTACH",
    "DETACH my": "this is DETACH",
    "INSTALL httpfs": "this is LOAD",
    "LOAD httpfs": "this is LOAD",
    "UPDATE EXTENSIONS": "",
    "SET memory_limit = '100GB'": "this is SET",
    "SET lock_configuration = false": "this is SET",
    "SET GLOBAL enable_external_access = true": "this is SET",
    "SET VARIABLE x = 1": "this is SET",
    "RESET memory_limit": "this is SET",
    "PRAGMA enable_profiling": "this is PRAGMA",
    "PRAGMA table_info('documents')": "",
    "PRAGMA memory_limit = '100GB'": "",
    "CALL pragma_version()": "this is CALL",
    "CALL enable_logging()": "this is CALL",
    "CHECKPOINT": "",
    "FORCE CHECKPOINT": "",
    "VACUUM": "this is VACUUM",
    "ANALYZE": "",
    "EXPORT DATABASE 'folder'": "this is EXPORT",
    "IMPORT DATABASE 'folder'": "",
    "USE memory": "",
    "BEGIN": "this is TRANSACTION",
    "BEGIN TRANSACTION": "this is TRANSACTION",
    "COMMIT": "this is TRANSACTION",
    "ROLLBACK": "this is TRANSACTION",
    "PREPARE p AS SELECT 1": "this is PREPARE",
    "EXECUTE p": "this is EXECUTE",
    "DEALLOCATE p": "",
    "EXPLAIN SELECT 1": "this is EXPLAIN",
    "EXPLAIN ANALYZE DELETE FROM queries": "this is EXPLAIN",
    "PIVOT documents ON doc_id USING count(*)": "this is several statements in one",
    "SELECT 1; SELECT 2": "this has 2 statements",
    "SELECT 1; DROP TABLE documents": "this has 2 statements",
    "": "this has none",
    "/* nothing */": "this has none",
}


@pytest.mark.parametrize(("query", "why"), OTHER_STATEMENTS.items())
def test_refuses_every_other_statement(store: Path, query: str, why: str) -> None:
    before = state(store)
    ended = sql(store, query)
    assert isinstance(ended.exception, MinerError)
    assert ended.exception.exit_code == 2
    assert ONE_SELECT in ended.exception.message
    assert why in ended.exception.message
    assert ended.exception.hint == "use SELECT, FROM, WITH, VALUES, DESCRIBE, SUMMARIZE or SHOW TABLES"
    assert ended.stdout == ""
    assert state(store) == before


CALLS = [
    "FROM read_csv('/etc/passwd')",
    "FROM read_text('/etc/passwd')",
    "FROM read_blob('/etc/passwd')",
    "FROM read_parquet('x.parquet')",
    "FROM read_json('x.json')",
    "FROM read_duckdb('x.duckdb')",
    "FROM parquet_metadata('x.parquet')",
    "FROM sniff_csv('/etc/passwd')",
    "FROM glob('/etc/*')",
    "FROM query('SELECT 1')",
    "FROM query('DROP TABLE documents')",
    "FROM query_table('documents')",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "FROM arrow_scan(1, 2, 3)",
    "FROM arrow_scan_dumb(1, 2, 3)",
    "FROM pandas_scan(1)",
    "FROM python_map_function((SELECT 1))",
    "FROM seq_scan('documents')",
    "FROM enable_logging()",
    "FROM enable_logging(storage := 'file', storage_path := 'log')",
    "FROM enable_profiling(save_location := 'profile.json')",
    "FROM truncate_duckdb_logs()",
    "FROM checkpoint()",
    "FROM force_checkpoint()",
    "FROM duckdb_secrets()",
    "FROM create_external_resource('a')",
    "SELECT * FROM documents WHERE text IN (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "WITH x AS (FROM read_text('/etc/passwd')) FROM x",
    "SELECT 1 UNION ALL SELECT size FROM read_blob('/etc/passwd')",
    "DESCRIBE FROM read_csv('/etc/passwd')",
    "SELECT * FROM queries, LATERAL (FROM glob(text))",
    "SELECT 1 LIMIT (SELECT count(*) FROM glob('/etc/*'))",
    "SELECT nextval('counter')",
    "SELECT NEXTVAL('counter')",
    "SELECT 'counter'.nextval()",
    "SELECT [nextval('counter') FOR x IN [1]]",
    "SELECT sum(nextval('counter')) OVER () FROM queries",
    "SELECT currval('counter')",
    "SELECT setseed(0.5)",
    "SELECT sleep_ms(1)",
    "SELECT pg_sleep(1)",
    "SELECT write_log('x')",
    "SELECT getenv('HOME')",
    "SELECT finalize(1)",
    "SELECT __internal_decompress_string(1)",
]


WRITES_IN_A_SELECT = [
    "WITH x AS (INSERT INTO queries VALUES ('q2', 'x', 1, NULL) RETURNING *) FROM x",
    "WITH x AS (DELETE FROM queries RETURNING *) SELECT * FROM x",
    "WITH x AS (UPDATE queries SET text = 'x' RETURNING *) FROM x",
    "SELECT (WITH x AS (DELETE FROM queries RETURNING query_id) SELECT * FROM x)",
    "FROM query('WITH x AS (DELETE FROM queries RETURNING *) FROM x')",
    "FROM query('ATTACH ''other.duckdb''')",
    "FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "FROM destroy_external_resource('read_text', '/etc/passwd')",
    "FROM destroy_external_resource('query', 'DROP TABLE documents')",
]


@pytest.mark.parametrize("query", [*CALLS, *WRITES_IN_A_SELECT])
def test_a_select_neither_writes_nor_leaves_the_store(store: Path, query: str) -> None:
    before = state(store)
    if query in HARMLESS:
        rows(store, query)
    else:
        with pytest.raises((UsageError, StoreError)):
            rows(store, query)
    assert state(store) == before


@pytest.mark.parametrize(
    "query", ["FROM '/etc/passwd'", "FROM 'data.csv'", 'SELECT * FROM "x.parquet"', "FROM 'https://host/x.csv'",
              "SELECT set_config('memory_limit', '1GB', false)", "SELECT load_extension('x')"],
)  # fmt: skip
def test_finds_no_files_or_functions_of_other_databases(store: Path, query: str) -> None:
    with pytest.raises(UsageError, match=r"does not exist|file system operations are disabled"):
        rows(store, query)


def functions(kinds: str) -> list[str]:
    """Returns the names of DuckDB's functions of these kinds."""
    names = duckdb.sql(f"SELECT DISTINCT function_name FROM duckdb_functions() WHERE {kinds} ORDER BY ALL")
    return [name for (name,) in names.fetchall()]


def test_no_function_reads_a_file_or_changes_one(tmp_path: Path) -> None:
    """Every table function, and every scalar one with side effects, is called with a path to a secret."""
    store, secret = small_store(tmp_path), tmp_path / "secret"
    secret.write_text("a secret")
    tables = functions("function_type IN ('table', 'table_macro')")
    scalars = functions("function_type = 'scalar' AND has_side_effects")
    assert len(tables) > 80
    calls = [f'FROM "{name}"({value})' for name in tables for value in ("", f"'{secret}'")]
    before = state(store)
    for query in [*calls, *(f"SELECT \"{name}\"('{secret}')" for name in scalars)]:
        try:
            result = rows(store, query)
        except (UsageError, StoreError, OverflowError):  # a date that Python does not have
            result = []
        assert "a secret" not in str(result), query
        assert state(store) == before, query


@pytest.mark.parametrize("query", ["SELECT 1", "SHOW TABLES", "FROM '/etc/passwd'", "DROP TABLE documents"])
def test_reading_changes_no_byte_and_leaves_no_file(store: Path, query: str) -> None:
    before = state(store)
    sql(store, query)
    assert state(store) == before


def test_python_variables_are_not_tables(store: Path) -> None:
    secret = duckdb.sql("SELECT 42 AS answer").to_arrow_table()
    assert secret.num_rows == 1
    with pytest.raises(UsageError, match="Table with name secret does not exist"):
        rows(store, "FROM secret")


ENDLESS = "WITH RECURSIVE r AS (SELECT 1 a UNION ALL SELECT a + 1 FROM r) SELECT count(*) FROM r"


@pytest.mark.parametrize("query", [ENDLESS, "SELECT sum(range) FROM range(1000000000000)"])
def test_an_endless_query_is_stopped(store: Path, query: str) -> None:
    with pytest.raises(StoreError) as caught:
        rows(store, query, Limits(timeout=1))
    assert caught.value.message == "the query took longer than 1 s: stopped"
    assert caught.value.hint == "reduce the query, or raise --timeout"


def test_an_endless_result_is_stopped_while_it_is_read(store: Path) -> None:
    with (
        pytest.raises(StoreError, match="took longer than"),
        select(store, "FROM range(1000000000000)", Limits(timeout=1)) as result,
    ):
        for _ in result.batches():
            pass


@pytest.mark.parametrize(
    "query", ["SELECT list(range) FROM range(1000000000)", "FROM range(100000000) ORDER BY random()",
              "SELECT string_agg(repeat('x', 1000000), '') FROM range(3000)"],
)  # fmt: skip
def test_a_query_gets_no_more_memory_than_allowed(store: Path, query: str) -> None:
    with pytest.raises(StoreError) as caught:
        rows(store, query, Limits(memory="200MB"))
    assert caught.value.message == "the query needs more than 200MB of memory"
    assert list(store.parent.iterdir()) == [store]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the process is only confined on Linux")
@pytest.mark.parametrize("query", ["SELECT range(1000000000)", "SELECT length(repeat('x', 3000000000))"])
def test_one_huge_value_is_refused_too(store: Path, query: str) -> None:
    """DuckDB does not count what one value takes against its limit; the process does."""
    ended = CliRunner().invoke(group, ["--memory", "500MB", "sql", str(store), query])
    assert isinstance(ended.exception, StoreError)
    assert ended.exception.message == "the query needs more than 500MB of memory"


def test_the_process_is_confined_only_while_it_asks() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with confined(Limits()):
        pass
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize(
    "query", ["SELECT sum(length(repeat(repeat(range::VARCHAR, 100000), 1000))) FROM range(100)",
              "SELECT sleep_ms(1000000)"],
)  # fmt: skip
def test_a_query_that_ignores_the_interrupt_ends_the_process(store: Path, query: str) -> None:
    """DuckDB cannot interrupt a single call, such as one into a huge value."""
    ended = subprocess.run(
        [sys.executable, "-m", "miner", "sql", str(store), "--timeout", "0.2", "--memory", "6GB", query],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: the query ")
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2_000_000_000), ("1.5 gb", 1_500_000_000), ("512MiB", 2**29), ("100", 100), ("1k", 1000)],
)
def test_sizes(text: str, size: int) -> None:
    assert Limits(memory=text).memory_bytes() == size


@pytest.mark.parametrize(
    "text", ["lots", "1e400TB", "9" * 400 + "TB", "9" * 4000, "0GB", "-1GB", "80%", "2GB; SET x = 1"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Limits(memory=text).memory_bytes()
    assert caught.value.message == f"memory must be a size from 1 byte to 1000TB, got {literal(text)}"
    assert caught.value.hint == "give one such as 500MB or 2GB"


def test_a_query_can_be_too_long(store: Path) -> None:
    with pytest.raises(UsageError, match="this is longer than 100,000 characters"):
        rows(store, f"SELECT {'(' * 60_000}1{')' * 60_000}")


def test_a_writer_killed_with_a_log_left_can_still_be_read(tmp_path: Path) -> None:
    path = tmp_path / "killed.duckdb"
    script = f"""
import os, signal
from miner.store.database import Database
store = Database.open({str(path)!r}, create=True)
store.execute("CHECKPOINT")
store.execute("INSERT INTO queries VALUES ('q9', 'late', 1, NULL)")
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.with_name("killed.duckdb.wal").exists()
    before = state(path)
    assert rows(path, "SELECT query_id FROM queries") == [("q9",)]
    with pytest.raises(UsageError):
        rows(path, "DROP TABLE queries")
    assert state(path) == before


_ASK = """
import sys
import miner.store.select
miner.store.select.WAIT = 0.5
from miner.cli.main import main
main(sys.argv[1:])
"""


def test_a_store_is_read_between_two_writes_and_who_writes_for_long_is_named(tmp_path: Path) -> None:
    path = tmp_path / "busy.duckdb"
    command = [sys.executable, "-c", _ASK, "sql", str(path), "SELECT count(*) FROM queries"]
    with new_store(path) as store:
        with store.transaction():
            store.execute("INSERT INTO queries VALUES ('q', 'text', 1, NULL)")
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ended.returncode == 1
            assert re.fullmatch(
                rf"Error: another process holds {path}: .+, process {os.getpid()}, since [-0-9: ]+ UTC\n"
                "  wait until it ends, or end it\n",
                ended.stderr,
            )
        answered = subprocess.run([*command, "--format", "csv"], capture_output=True, text=True, check=True)
        assert answered.stdout == "count_star()\n1\n"


def test_a_missing_store_and_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        rows(tmp_path / "none.duckdb", "SELECT 1")
    other = tmp_path / "text.duckdb"
    other.write_text("hello" * 1000)
    with pytest.raises(StoreError) as caught:
        rows(other, "SELECT 1")
    assert caught.value.message == f"{other} is not a DuckDB file"


def test_rows_left_unread_do_not_keep_the_store(store: Path) -> None:
    with select(store, "FROM range(1000000)") as result:
        reader = result.arrow()
        next(reader)
    with select(store, "SELECT 1") as again:
        assert list(again.batches()) == [[(1,)]]
    del reader


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("selct 1", "correct the query, one SELECT in DuckDB's SQL, such as: SELECT count(*) FROM queries"),
        ("SELECT nope FROM queries", 'list the columns of a table: miner sql STORE "DESCRIBE TABLE_NAME"'),
    ],
)
def test_a_wrong_query_says_what_to_do(store: Path, query: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        rows(store, query)
    assert caught.value.hint == hint


def test_a_wrong_name_points_to_the_tables(store: Path) -> None:
    with pytest.raises(UsageError) as caught:
        rows(store, "FROM document")
    assert "Table with name document does not exist" in caught.value.message
    assert caught.value.hint == 'list the tables and views: miner sql STORE "SHOW TABLES"'
