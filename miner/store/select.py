"""One SELECT over a store, as `miner sql` runs it: it can read the store and nothing else.

DuckDB itself refuses everything else: the file is opened read-only, and external access (files, network,
extensions, other databases) is off and the configuration locked. This module adds what these locks lack: one
statement, which must be a SELECT, and limits on time and memory. It imports no pyarrow, so that a query at
the shell starts at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from miner.errors import MinerError, StoreError, UsageError
from miner.memory import parse_size
from miner.processors import cores
from miner.ranges import check_fields, known_keywords, number, within
from miner.store.access import WAIT, connect
from miner.store.faults import require_store_file, store_error

if TYPE_CHECKING:
    import pyarrow as pa

Value = TypeVar("Value")

SECONDS = number(0, 1_000_000, above=True)
"""The range of the time limit."""
_MOST_THREADS = 8
_HEADROOM = 512 * 2**20
"""Bytes that the process may use beside the query: thread stacks, Arrow buffers, output."""
LONGEST = 100_000
"""The most characters of a query, because DuckDB's parser cannot be interrupted."""
_GRACE = 2.0
"""Seconds that DuckDB has to react to an interrupt."""
_LOCKS = (
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "allow_community_extensions = false",
    "python_enable_replacements = false",
    "enable_external_access = false",
    "lock_configuration = true",
)
"""Settings of the connection; the last one locks them all."""


@known_keywords
@dataclass(frozen=True)
class Limits:
    """The limits of a query."""

    timeout: float = within(60.0, SECONDS)
    """Seconds within DuckDB; with `is_total`, all until the result has been read."""
    memory: str = "2GB"
    is_total: bool = False
    """Whether the caller's own time between the rows counts too, such as writing them to a file."""

    def __post_init__(self) -> None:
        check_fields(self)
        self.memory_bytes()

    def memory_bytes(self) -> int:
        """Returns `memory` in bytes; raises UsageError unless it is a size from 1 byte to 1000TB."""
        return parse_size(self.memory)


DEFAULT = Limits()


class Result:
    """The result of a query, which `select` makes; it can be read once, as rows or as Arrow."""

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
        # DuckDB runs in its own thread, so that the caller's thread can react to Ctrl-C and the time limit.
        self._worker = ThreadPoolExecutor(1)
        self._started, self._spent = time.monotonic(), 0.0
        self._stuck = False
        self._readers: list[pa.RecordBatchReader] = []
        self._statement = ""
        self._relation: duckdb.DuckDBPyRelation
        try:
            self._statement = self._call(lambda: _only_select(connection, query))
            self._relation = self._call(lambda: connection.sql(self._statement))
        except BaseException:
            self.close()
            raise
        self.columns: list[str] = list(self._relation.columns)
        self.types: list[str] = [str(kind) for kind in self._relation.types]
        """DuckDB's type names, such as VARCHAR or DOUBLE."""

    def batches(self, rows: int = 10_000) -> Iterator[list[tuple[Any, ...]]]:
        """Yields the rows as lists of at most `rows` tuples of Python values, in the query's order."""
        if any("WITH TIME ZONE" in kind for kind in self.types):
            # DuckDB needs pytz to convert times with a time zone to Python values; Arrow does not.
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
        """Closes the store. A query that does not react to the interrupt keeps running in its thread."""
        self._worker.shutdown(wait=not self._stuck)
        if not self._stuck:
            # An unread reader keeps the database open: opening it again would wait forever.
            for reader in self._readers:
                reader.close()
            self._connection.close()

    def _record_batches(self, rows: int) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        reader = self._call(lambda: self._relation.to_arrow_reader(rows))
        self._readers.append(reader)
        return reader.schema, iter(lambda: self._call(lambda: next(reader, None)), None)

    def _call(self, function: Callable[[], Value]) -> Value:
        """Returns the result of a call into DuckDB; its time counts against the limit."""
        started = time.monotonic()
        future = self._worker.submit(function)
        try:
            spent = started - self._started if self._limits.is_total else self._spent
            return future.result(max(self._limits.timeout - spent, 0))
        except TimeoutError:
            what = "the query and writing its result" if self._limits.is_total else "the query"
            error = StoreError(
                f"{what} took longer than {self._limits.timeout:g} s: stopped",
                "reduce the query, or raise --timeout",
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
        """Interrupts DuckDB until it stops; some work, such as parsing, does not react to an interrupt."""
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
                "reduce the query, or raise --memory",
            )
        if known := store_error(self._path, error):
            return known
        hint = 'list the tables and views: miner sql STORE "SHOW TABLES"'
        if isinstance(error, duckdb.ParserException):
            hint = "correct the query, one SELECT in DuckDB's SQL, such as: SELECT count(*) FROM queries"
        elif isinstance(error, duckdb.BinderException):
            hint = 'list the columns of a table: miner sql STORE "DESCRIBE TABLE_NAME"'
        elif not isinstance(error, duckdb.CatalogException):
            hint = ""
        return UsageError(str(error).strip(), hint)


@contextmanager
def select(
    path: str | os.PathLike[str],
    query: str,
    limits: Limits = DEFAULT,
    abandon: Callable[[MinerError], None] | None = None,
) -> Iterator[Result]:
    """Yields the result of one SELECT statement over the store at `path`, which the statement cannot change.

    `abandon` is called if a query exceeds its time and does not react to the interrupt: the caller may end
    the process. Raises UsageError for anything but one SELECT and for errors in it, StoreError if the store
    cannot be opened or a limit is exceeded.
    """
    result = Result(_open(Path(path), limits), Path(path), query, limits, abandon)
    try:
        yield result
    finally:
        result.close()


@contextmanager
def confined(limits: Limits) -> Iterator[None]:
    """Limits the memory of the whole process to the query's limit plus some headroom; on Linux only.

    DuckDB's own limit does not count the memory of a single value: `range(1000000000)` is 8 GB.
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
    require_store_file(file)
    settings = {
        "memory_limit": f"{limits.memory_bytes()}B",
        "threads": min(cores(), _MOST_THREADS),
        "temp_directory": "",
    }
    connection = connect(file, True, settings, wait=WAIT)
    for setting in _LOCKS:
        connection.execute(f"SET {setting}")
    return connection


def _only_select(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    """Returns the one SELECT statement in `query`; raises UsageError for anything else."""
    if len(query) > LONGEST:
        raise _refused(f"this is longer than {LONGEST:,} characters")
    statements = connection.extract_statements(query)
    if len(statements) != 1:
        raise _refused("this has none" if not statements else f"this has {len(statements)} statements")
    try:
        kind = statements[0].type.name
    except ValueError:
        kind = "a statement of another kind"
    if kind != "SELECT":
        raise _refused(f"this is {'several statements in one' if kind == 'MULTI' else kind}")
    text: str = statements[0].query
    return text


def _refused(why: str) -> UsageError:
    return UsageError(
        f"miner sql runs one SELECT statement; {why}",
        "use SELECT, FROM, WITH, VALUES, DESCRIBE, SUMMARIZE or SHOW TABLES",
    )
