"""One SELECT over a store, for people: it reads, and can do nothing else.

The file is opened read-only with external access, extensions and settings locked; the statement is
parsed and looked through before it runs; memory and time are capped. Imports no pyarrow, so that a
question at the shell is answered at once.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from miner.errors import MinerError, StoreError, UsageError
from miner.processors import cores
from miner.ranges import check_fields, number, shown, within
from miner.store.access import WAIT, connect
from miner.store.faults import explained, require_file

if TYPE_CHECKING:
    import pyarrow as pa

Value = TypeVar("Value")

SECONDS = number(0, 1_000_000, above=True)
"""How long a query may be given."""
_MOST_THREADS = 8
_HEADROOM = 512 * 2**20
"""What the process may take beside the query's memory: thread stacks, Arrow buffers, output."""
LONGEST = 100_000
"""Characters of a query: DuckDB's parser cannot be interrupted."""
_GRACE = 2.0
"""Seconds that DuckDB has to heed an interrupt."""
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_LEAST, _MOST = 1, 1000**5
"""Bytes that `memory` may be."""
_LOCKS = (
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "allow_community_extensions = false",
    "python_enable_replacements = false",
    "enable_external_access = false",
    "lock_configuration = true",
)
"""In this order: after the last one none of them can be undone."""

READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""The parts of a parsed SELECT that only read. DuckDB also allows `WITH x AS (INSERT …)`."""

READING_TABLE_FUNCTIONS = frozenset(
    {
        "range", "generate_series", "unnest", "repeat", "json_each", "json_tree", "summary",
        "duckdb_columns", "duckdb_constraints", "duckdb_databases", "duckdb_functions", "duckdb_indexes",
        "duckdb_keywords", "duckdb_memory", "duckdb_schemas", "duckdb_sequences", "duckdb_settings",
        "duckdb_tables", "duckdb_types", "duckdb_views", "pragma_database_size", "pragma_show",
        "pragma_storage_info", "pragma_table_info", "pragma_version",
    }
)  # fmt: skip
"""Table functions that read the store or make rows up. The others read files, run further SQL,
follow memory addresses, or change state."""

REFUSED_FUNCTIONS = frozenset(
    {
        "nextval", "setval", "currval", "setseed", "sleep_ms", "pg_sleep", "write_log", "getenv",
        "combine", "combine_aggr", "finalize", "to_aggregate_state",
    }
)  # fmt: skip
"""Scalar functions that change state, wait, or take raw memory for a value."""


@dataclass(frozen=True)
class Limits:
    """What one query may use."""

    seconds: float = within(60.0, SECONDS)
    """Time inside DuckDB, and with `is_total` all time until the result is read."""
    memory: str = "2GB"
    is_total: bool = False
    """Whether the time that the caller takes between the rows counts, as it does for writing."""

    def __post_init__(self) -> None:
        check_fields(self)
        self.memory_bytes()

    def memory_bytes(self) -> int:
        """Returns `memory` in bytes; raises UsageError when it is no size from 1 byte to 1000TB."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", self.memory, re.IGNORECASE)
        size = 0.0
        if found is not None:
            unit = found[2].upper()
            size = float(found[1]) * (1024 ** list(_UNITS).index(unit) if found[3] else _UNITS[unit])
        if not _LEAST <= size <= _MOST:
            raise UsageError(
                f"memory must be a size from 1 byte to 1000TB, got {shown(self.memory)}",
                "give one such as 500MB or 2GB",
            )
        return int(size)


DEFAULT = Limits()


class Result:
    """The result of one query, read once: as rows or as Arrow. Made by `select`."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        path: Path,
        query: str,
        limits: Limits,
        abandon: Callable[[MinerError], None] | None,
    ) -> None:
        self._connection = connection
        self._path = path
        self._limits = limits
        self._abandon = abandon
        # DuckDB runs on a thread of its own: the caller's stays free to see Ctrl-C and the clock.
        self._worker = ThreadPoolExecutor(1)
        self._started, self._spent = time.monotonic(), 0.0
        self._stuck = False
        self._readers: list[pa.RecordBatchReader] = []
        self._statement = ""
        self._relation: duckdb.DuckDBPyRelation
        try:
            self._statement = self._call(lambda: checked(connection, query))
            self._relation = self._call(lambda: connection.sql(self._statement))
        except BaseException:
            self.close()
            raise
        self.columns: list[str] = list(self._relation.columns)
        self.types: list[str] = [str(kind) for kind in self._relation.types]
        """DuckDB's names, such as VARCHAR or DOUBLE."""

    def batches(self, rows: int = 10_000) -> Iterator[list[tuple[Any, ...]]]:
        """Yields the rows as lists of at most `rows` tuples of Python values, in the query's order."""
        if any("WITH TIME ZONE" in kind for kind in self.types):
            # DuckDB needs pytz to turn times with a zone into Python values; Arrow does not.
            for batch in self._record_batches(rows)[1]:
                yield list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
            return
        cursor = self._call(lambda: self._connection.execute(self._statement))
        while batch := self._call(lambda: cursor.fetchmany(rows)):
            yield batch

    def arrow(self) -> pa.RecordBatchReader:
        """Returns the rows as a stream of Arrow record batches."""
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(*self._record_batches(100_000))

    def close(self) -> None:
        """Closes the store; a query that does not stop is left behind."""
        self._worker.shutdown(wait=not self._stuck)
        if not self._stuck:
            # One that is left unread keeps the database half open: to open it again would wait forever.
            for reader in self._readers:
                reader.close()
            self._connection.close()

    def _record_batches(self, rows: int) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        reader = self._call(lambda: self._relation.to_arrow_reader(rows))
        self._readers.append(reader)
        return reader.schema, iter(lambda: self._call(lambda: next(reader, None)), None)

    def _call(self, function: Callable[[], Value]) -> Value:
        """Returns what one call into DuckDB returns; its time counts against the limit."""
        started = time.monotonic()
        future = self._worker.submit(function)
        try:
            spent = started - self._started if self._limits.is_total else self._spent
            return future.result(max(self._limits.seconds - spent, 0))
        except TimeoutError:
            what = "the query and the writing of its result" if self._limits.is_total else "the query"
            error = StoreError(
                f"{what} took longer than {self._limits.seconds:g} s: stopped",
                "ask for less, or give it longer with --timeout",
            )
            self._stop(future, error)
            raise error from None
        except KeyboardInterrupt:
            self._stop(future, MinerError("interrupted"))
            raise
        except (duckdb.Error, MemoryError) as error:
            raise self._explained(error) from error
        finally:
            self._spent += time.monotonic() - started

    def _stop(self, future: Future[Value], error: MinerError) -> None:
        """Interrupts DuckDB until it heeds; some of its work, such as parsing, never does."""
        until = time.monotonic() + _GRACE
        while not wait([future], timeout=0.05).done:
            self._connection.interrupt()
            if time.monotonic() > until:
                self._stuck = True
                if self._abandon is not None:
                    self._abandon(error)
                return

    def _explained(self, error: duckdb.Error | MemoryError) -> MinerError:
        if isinstance(error, (duckdb.OutOfMemoryException, MemoryError)):
            return StoreError(
                f"the query needs more than {self._limits.memory} of memory",
                "ask for less, or give it more with --memory",
            )
        if known := explained(self._path, error):
            return known
        hint = 'the tables and views: miner sql STORE "SHOW TABLES"'
        return UsageError(str(error).strip(), hint if isinstance(error, duckdb.CatalogException) else "")


@contextmanager
def select(
    path: str | os.PathLike[str],
    query: str,
    limits: Limits = DEFAULT,
    abandon: Callable[[MinerError], None] | None = None,
) -> Iterator[Result]:
    """Yields the result of one SELECT statement over the store at `path`, which it cannot change.

    `abandon` is called when a query whose time is up does not heed the interrupt: the caller may
    end the process. Raises UsageError for anything but one SELECT that only reads and for errors
    in it, StoreError when the store cannot be opened or a limit is met.
    """
    result = Result(_open(Path(path), limits), Path(path), query, limits, abandon)
    try:
        yield result
    finally:
        result.close()


@contextmanager
def confined(limits: Limits) -> Iterator[None]:
    """Holds the whole process to the query's memory plus some headroom; Linux only, no-op elsewhere.

    DuckDB's own limit does not count what one value takes: `range(1000000000)` is 8 GB.
    """
    size = limits.memory_bytes()
    try:
        import resource

        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except (ImportError, OSError):
        yield
        return
    used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData"))
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    ceiling = used + size + _HEADROOM
    if before != resource.RLIM_INFINITY:
        ceiling = min(ceiling, before)
    resource.setrlimit(resource.RLIMIT_DATA, (ceiling, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def _open(file: Path, limits: Limits) -> duckdb.DuckDBPyConnection:
    require_file(file)
    settings = {
        "memory_limit": f"{limits.memory_bytes()}B",
        "threads": min(cores(), _MOST_THREADS),
        "temp_directory": "",
    }
    connection = connect(file, True, settings, wait=WAIT)
    for setting in _LOCKS:
        connection.execute(f"SET {setting}")
    return connection


def checked(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    """Returns the one SELECT statement in `query`; raises UsageError for anything else."""
    if len(query) > LONGEST:
        raise _refused(f"this is longer than {LONGEST:,} characters")
    statements = connection.extract_statements(query)
    if len(statements) != 1:
        raise _refused("this holds none" if not statements else f"this holds {len(statements)} statements")
    kind = _kind(statements[0])
    if kind != "SELECT":
        raise _refused(f"this is {kind}")
    statement: str = statements[0].query
    (text,) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchall()[0]
    try:
        tree = json.loads(text)
    except RecursionError:
        raise _refused("this is nested too deeply") from None
    if tree["error"]:
        raise _refused(f"this is none that can be checked ({tree['error_message']})")
    for node in _nodes(tree["statements"]):
        _check_node(node)
    return statement


def _kind(statement: duckdb.Statement) -> str:
    try:
        name = statement.type.name
    except ValueError:
        return "of a kind that DuckDB's Python interface does not know"
    return "one that runs as several statements" if name == "MULTI" else name


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yields every object of a parsed statement."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def _check_node(node: dict[str, Any]) -> None:
    kind, group = str(node.get("type", "")), node.get("class")
    if kind.endswith("_NODE") and kind not in READING_NODES:
        raise _refused(f"this holds {kind.split('_')[0]}")
    if kind == "TABLE_FUNCTION":
        name = node["function"]["function_name"].lower()
        if name not in READING_TABLE_FUNCTIONS:
            raise _refused(f"{name}() may not be called")
    if group in ("FUNCTION", "WINDOW"):
        name = node["function_name"].lower()
        if name in REFUSED_FUNCTIONS or name.startswith("__internal"):
            raise _refused(f"{name}() may not be called")


def _refused(what: str) -> UsageError:
    return UsageError(
        f"only one SELECT statement that reads the store is taken; {what}",
        "SELECT, FROM, WITH, VALUES, DESCRIBE, SUMMARIZE and SHOW TABLES read it",
    )
