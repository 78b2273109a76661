"""A store is one DuckDB file: opening it, transactions, and Arrow tables in and out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import duckdb
import pyarrow as pa

from miner.errors import StoreError
from miner.memory import MemoryLimit
from miner.processors import cores
from miner.store.access import FAULTY, WAIT, Access, Note, quiet
from miner.store.faults import explaining, require_database, require_store_file
from miner.store.lock import WAIT as LOCK_WAIT
from miner.store.lock import WriterLock
from miner.store.tables import FORMAT, TABLES, VIEWS
from miner.text import fingerprint

CHECKPOINT = "256MB"
"""Size at which DuckDB merges the write-ahead log into the file; closing merges it as well."""
_BRIEF = {"checkpoint_threshold": "1MB", "max_vacuum_tasks": 0}
"""Settings that spare a process that commits once the log, and the merging of what it wrote with older pieces
of the tables: after 5 MB of decisions, DuckDB 2.0.0 closes in 0.01 s instead of 0.05 to 0.9."""

_OBJECTS = """SELECT count(*) FROM (
    SELECT 1 FROM duckdb_tables() UNION ALL
    SELECT 1 FROM duckdb_views() WHERE NOT internal UNION ALL
    SELECT 1 FROM duckdb_sequences() UNION ALL
    SELECT 1 FROM duckdb_schemas() WHERE NOT internal UNION ALL
    SELECT 1 FROM duckdb_functions() WHERE NOT internal UNION ALL
    SELECT 1 FROM duckdb_types() WHERE NOT internal)"""
"""Counts everything that a database can contain."""


class Database:
    """The DuckDB file of a store, opened with `Database.open`; as a context manager it closes at the end.

    One process at a time can open a store for writing, and keeps that right until it closes the store. The
    file itself is open only while it is used, so that other processes can read between two writes. A store
    that is open for reading shows one state: if the file has changed since the last use, the next use raises
    StoreError.
    """

    def __init__(self, path: Path, access: Access, lock: WriterLock | None, memory: MemoryLimit) -> None:
        self.path = path
        self.memory = memory
        """The memory that work with this store should not exceed."""
        self._access = access
        self._lock = lock
        self._is_changing = False
        """Whether a transaction is under way."""

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        create: bool = False,
        read_only: bool = False,
        threads: int | None = None,
        memory: MemoryLimit | str | None = None,
        wait: float | None = None,
        note: Note = quiet,
        brief: bool = False,
    ) -> Self:
        """Opens the store at `path`, which must exist unless `create` is given.

        `memory`, such as 2GiB, limits what work with the store uses (default: `MemoryLimit.of`). Waits some
        seconds for other processes, or `wait` seconds; calls `note` with a line if it waits long. `brief` is
        for a process that writes once and ends: it closes sooner, and leaves the merging of small pieces of
        tables to the next that writes. Raises BusyError, a StoreError, if another process still uses the
        store, and StoreError if there is no such store, the file is damaged, or it is not a store of this
        version. Such a file is never opened for writing.
        """
        file = Path(path)
        _require_file(file, create)
        limit = memory if isinstance(memory, MemoryLimit) else MemoryLimit.of(memory)
        config = _config(f"{file}.tmp", threads or cores(), limit) | (_BRIEF if brief else {})
        access = Access(file, read_only, config, note)
        store = cls(file, access, None if read_only else WriterLock(file), limit)
        patience = WAIT if wait is None else wait
        try:
            if store._lock is not None:
                store._lock.acquire(LOCK_WAIT if wait is None else wait)
            is_new = create and not read_only and not file.exists()
            log = Path(f"{file}.wal")
            is_first = store._lock is not None and not store._lock.is_nested
            if is_first:
                require_database(file)
            if is_first and log.exists():
                # Opening the file for writing merges the log into it: first check that it is a store.
                with cls(file, Access(file, True, config, note), None, limit) as looked:
                    looked._access.open(patience)
                    looked._require_ours(create)
            access.open(patience)
            if is_new or not store._require_ours(create and not read_only):
                store._make()
            if not read_only:
                store._renew_views()
                from miner.store import journal, pending  # which import this module

                pending.take_in(store)
                if is_first:  # else this process may be asking, and its own journal is in use
                    journal.take_in(store)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def in_memory(cls, path: Path, spill: Path) -> Self:
        """Opens an empty database in memory, for data that will go into the store at `path`.

        It spills to the folder `spill`, which no other process may use. Its errors name `path`.
        """
        limit = MemoryLimit.of()
        access = Access(Path(":memory:"), False, _config(str(spill), cores(), limit))
        access.open(WAIT)
        access.keep()
        database = cls(path, access, None, limit)
        # Refused in a notebook: findings/duckdb-measures-no-progress-in-a-notebook-without-ipywidgets.sh.
        with suppress(duckdb.InvalidInputException):
            database.execute("SET enable_progress_bar = true")  # DuckDB measures it only if it would show it
            database.execute("SET enable_progress_bar_print = false")
        return database

    def share_done(self) -> float:
        """Returns DuckDB's estimate, 0 to 1, of how much is done of the statement that another thread runs.

        0 if there is none; only a database in memory has estimates, and in a notebook only with ipywidgets.
        """
        return self._access.share_done()

    @contextmanager
    def attached_to(self, other: Database) -> Iterator[None]:
        """Lets the statements of `other`, a database in memory, use this store's tables by their names.

        Waits forever for readers. At the end the file contains what was committed. Raises StoreError.
        """
        with explaining(self.path), other._access.using() as connection, self._access.attached_to(connection):
            yield

    def _make(self) -> None:
        with self.transaction():
            for statement in (*TABLES, *VIEWS):
                self.execute(statement)
            self.set_meta("format", FORMAT)
            self.set_meta("views", fingerprint(VIEWS))
            self.set_meta("id", uuid4().hex)

    def _renew_views(self) -> None:
        """Replaces the views of a store whose views another version of miner defined."""
        if self.meta("views") == (wanted := fingerprint(VIEWS)):
            return
        with self.transaction():
            for statement in VIEWS:
                self.execute(statement.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))
            self.set_meta("views", wanted)

    def _require_ours(self, create: bool) -> bool:
        """Returns True for a store of this version, False for an empty database if `create` allows one.

        Raises StoreError for any other database.
        """
        version = None
        # There is no table `meta`, or it is another one.
        with suppress(duckdb.CatalogException, duckdb.BinderException, duckdb.ConversionException):
            version = next(iter(self.rows("SELECT value FROM meta WHERE key = 'format'")), None)
        if version == (str(FORMAT),):
            return True
        if create and self.rows(_OBJECTS) == [(0,)]:
            return False
        if version is None:
            raise StoreError(f"{self.path} is a DuckDB database, but not a miner store", "name another file")
        raise StoreError(
            f"{self.path} is not a store of this version of miner: its format is {version[0]}, not {FORMAT}",
            "make it again from its sources: miner ingest NEW.duckdb SOURCE",
        )

    @property
    def vectors(self) -> Path:
        """The folder beside the store that holds cached vectors."""
        return self.path.with_name(f"{self.path.name}.vectors")

    @property
    def indexes(self) -> Path:
        """The folder beside the store that holds BM25's index of its documents."""
        return self.path.with_name(f"{self.path.name}.bm25")

    @property
    def id(self) -> str:
        """The identity of this store, which its copies share; renaming the file does not change it."""
        return str(self.meta("id"))

    def meta(self, key: str) -> Any:
        """Returns the value of a key in the table `meta`; None if the table does not have the key."""
        rows = self.rows("SELECT value FROM meta WHERE key = ?", [key])
        return json.loads(rows[0][0]) if rows else None

    def set_meta(self, key: str, value: Any) -> None:
        """Sets a key in the table `meta` to a JSON value; None removes the key.

        It runs two statements: call it within a transaction if something else may interrupt them.
        """
        self.execute("DELETE FROM meta WHERE key = ?", [key])
        if value is not None:
            self.execute("INSERT INTO meta VALUES (?, ?)", [key, json.dumps(value, sort_keys=True)])

    @property
    def read_only(self) -> bool:
        """Whether the store was opened for reading only."""
        return self._lock is None

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._access.closed

    @property
    def note(self) -> Note:
        """The function that gets a line if the store waits long for another process."""
        return self._access.note

    @note.setter
    def note(self, note: Note) -> None:
        """Replaces that function."""
        self._access.note = note

    def kept_open(self) -> AbstractContextManager[None]:
        """Keeps the file open: no other process can write to it, nor read it if this store writes."""
        return self._access.kept_open()

    def snapshot(self) -> AbstractContextManager[None]:
        """Makes all reads within it see one state. A writer needs nothing for that: nobody else can write."""
        return self.kept_open() if self.read_only else nullcontext()

    def release(self) -> None:
        """Closes the file until its next use, so that other processes can write to it."""
        self._access.release()

    def close(self) -> None:
        """Closes the store, so that other processes can write to it."""
        self._access.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commits all statements within it at once, or none of them if anything raises."""
        with explaining(self.path), self.kept_open(), self._access.using() as connection:
            connection.begin()
            self._is_changing = True
            try:
                yield
            except BaseException:
                with suppress(duckdb.Error):  # after a fatal error there is nothing to roll back
                    connection.rollback()
                raise
            finally:
                self._is_changing = False
            connection.commit()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Runs one statement for its effect."""
        with explaining(self.path), self._access.using() as connection:
            connection.execute(statement, list(values))

    def rows(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Returns a small result as tuples; `values` as in `table`."""
        bound = dict(values) if isinstance(values, Mapping) else list(values)
        with explaining(self.path), self._access.using() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(query, bound).fetchall()
        return rows

    def table(
        self,
        query: str,
        values: Sequence[Any] | Mapping[str, Any] = (),
        *,
        without: str | None = None,
        **beside: pa.Table,
    ) -> pa.Table:
        """Returns a result as an Arrow table, in the order of the query.

        `values` are bound to `?` by position, or to `$name` by name. `without` is an optimizer of DuckDB that
        fails for the query. `beside` are tables in memory that the query names.
        """
        bound = dict(values) if isinstance(values, Mapping) else list(values)
        with (
            explaining(self.path),
            self._access.using() as connection,
            _registered(connection, beside),
        ):
            if without is not None:
                connection.execute(f"SET disabled_optimizers = '{FAULTY},{without}'")
            try:
                relation = connection.sql(query, params=bound)
                result: pa.Table = relation.to_arrow_table()
            finally:
                if without is not None:
                    with suppress(duckdb.Error):  # after a fatal error
                        connection.execute(f"SET disabled_optimizers = '{FAULTY}'")
        return result

    def tables(self, *queries: tuple[str, Sequence[Any] | Mapping[str, Any]]) -> list[pa.Table]:
        """Returns the results of several queries with their values, as `table`, read at the same time.

        In a transaction they are read one after the other, because only its connection sees its changes.
        """
        if self._is_changing or len(queries) == 1:
            return [self.table(query, values) for query, values in queries]

        def read(query: str, values: Sequence[Any] | Mapping[str, Any]) -> pa.Table:
            """Returns one result, over a connection of its own."""
            bound = dict(values) if isinstance(values, Mapping) else list(values)
            with connection.cursor() as cursor:
                return cursor.sql(query, params=bound).to_arrow_table()

        with explaining(self.path), self._access.using() as connection, ThreadPoolExecutor() as pool:
            return list(pool.map(read, *zip(*queries, strict=True)))

    def batches(self, query: str, rows: int, values: Sequence[Any] = ()) -> Iterator[pa.RecordBatch]:
        """Yields a result in batches of at most `rows` rows; nothing else uses the store until the last one.

        Only the batch that is yielded is in memory.
        """
        with explaining(self.path), self._access.using() as connection:
            yield from connection.sql(query, params=list(values) or None).to_arrow_reader(rows)

    def insert(
        self, name: str, table: pa.Table | pa.RecordBatch | pa.RecordBatchReader, **constants: str
    ) -> None:
        """Appends Arrow rows to a base table; columns are matched by name.

        `constants` are further columns with one text for all rows, such as `run_id`.
        """
        columns = [_quoted(column) for column in (*constants, *table.schema.names)]
        values = [*("?" for _ in constants), *(_quoted(c) for c in table.schema.names)]
        with self._access.using() as connection, _registered(connection, {"arriving": table}):
            self.execute(
                f"INSERT INTO {_quoted(name)} ({', '.join(columns)}) "
                f"SELECT {', '.join(values)} FROM arriving",
                list(constants.values()),
            )


@contextmanager
def _registered(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, Any]) -> Iterator[None]:
    """Lets statements of a connection name tables in memory."""
    for name, table in tables.items():
        connection.register(name, table)
    try:
        yield
    finally:
        # After an aborted transaction or a fatal error the names are already gone.
        with suppress(duckdb.TransactionException, duckdb.FatalException):
            for name in tables:
                connection.unregister(name)


def _config(spill: str, threads: int, memory: MemoryLimit) -> dict[str, Any]:
    return {
        "memory_limit": f"{memory.database}B",
        "threads": threads,
        "temp_directory": spill,
        "checkpoint_threshold": CHECKPOINT,
        "python_enable_replacements": False,
        "autoinstall_known_extensions": False,
    }


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _require_file(file: Path, create: bool) -> None:
    """Raises StoreError for a path that cannot be a store; makes the folder of a new store."""
    if file.exists() or not create:
        require_store_file(file)
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot make the folder {file.parent}: {error.strerror}", "check the path"
        ) from error
