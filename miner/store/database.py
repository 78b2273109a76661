"""One DuckDB file: opening it, transactions, and moving Arrow tables in and out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import duckdb
import pyarrow as pa

from miner.errors import StoreError
from miner.processors import cores
from miner.store.access import WAIT, Access, Note, quiet
from miner.store.faults import explaining, require_file
from miner.store.lock import WAIT as LOCK_WAIT
from miner.store.lock import WriterLock
from miner.store.tables import FORMAT, TABLES, VIEWS

MEMORY_LIMIT = "4GB"
"""What DuckDB may hold before it spills to disk; models and vectors need the rest."""

CHECKPOINT = "256MB"
"""How large the write-ahead log grows before it is folded into the file; closing folds it anyway."""

_THINGS = """SELECT count(*) FROM (
    SELECT 1 FROM duckdb_tables() UNION ALL
    SELECT 1 FROM duckdb_views() WHERE NOT internal UNION ALL
    SELECT 1 FROM duckdb_sequences() UNION ALL
    SELECT 1 FROM duckdb_schemas() WHERE NOT internal UNION ALL
    SELECT 1 FROM duckdb_functions() WHERE NOT internal UNION ALL
    SELECT 1 FROM duckdb_types() WHERE NOT internal)"""
"""Counts all that somebody may have put into a database."""


class Store:
    """A miner store, made with `Store.open`; closes as a context manager.

    One process at a time has a store open to write, and keeps that right until it closes it. The file
    itself is only open while it is used, so that others can read between two writes. A store that is open
    to read shows one state: when that has changed since its last use, the next one raises StoreError.
    """

    def __init__(self, path: Path, access: Access, lock: WriterLock | None) -> None:
        self.path = path
        self._access = access
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        create: bool = False,
        read_only: bool = False,
        threads: int | None = None,
        memory_limit: str = MEMORY_LIMIT,
        wait: float | None = None,
        note: Note = quiet,
    ) -> Store:
        """Opens the store at `path`, which must exist unless `create` is given.

        Waits some seconds for other processes, or `wait` seconds; `note` gets a line when work has waited
        for long. Raises BusyError, which is a StoreError, when another process still uses the store, and
        StoreError when there is no such store, the file is damaged, or it is no store of this version: such
        a file is only ever opened for reading.
        """
        file = Path(path)
        _require_file(file, create)
        config = _config(f"{file}.tmp", threads or cores(), memory_limit)
        access = Access(file, read_only, config, note)
        store = cls(file, access, None if read_only else WriterLock(file))
        patience = WAIT if wait is None else wait
        try:
            if store._lock is not None:
                store._lock.acquire(LOCK_WAIT if wait is None else wait)
            log = Path(f"{file}.wal")
            if store._lock is not None and not store._lock.is_nested and log.exists():
                # DuckDB folds the log into the file as it opens it to write: look first whose file it is.
                with cls(file, Access(file, True, config, note), None) as looked:
                    looked._access.open(patience)
                    looked._require_ours(create)
            access.open(patience)
            if not store._require_ours(create and not read_only):
                store._make()
            if not read_only:
                from miner.store.pending import take_in  # which needs this module

                take_in(store)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def in_memory(cls, path: Path, spill: Path) -> Store:
        """Opens an empty database in memory, for what is on its way into the store at `path`.

        It spills to the folder `spill`, which no other process may use. Its errors name the store.
        """
        access = Access(Path(":memory:"), False, _config(str(spill), cores(), MEMORY_LIMIT))
        access.open(WAIT)
        access.keep()
        return cls(path, access, None)

    @contextmanager
    def attached_to(self, other: Store) -> Iterator[None]:
        """Lets the statements of a database in memory use this store's tables by their names.

        Waits without end for readers; what is committed is in the file at the end. Raises StoreError.
        """
        with explaining(self.path), other._access.using() as connection, self._access.attached_to(connection):
            yield

    def _make(self) -> None:
        with self.transaction():
            for statement in (*TABLES, *VIEWS):
                self.execute(statement)
            self.set_meta("format", FORMAT)
            self.set_meta("id", uuid4().hex)

    def _require_ours(self, create: bool) -> bool:
        """Returns whether this is a store, and not an empty database, which passes with `create` only.

        Raises StoreError for one that is no store of this version.
        """
        found = None
        if self.rows("SELECT 1 FROM duckdb_tables() WHERE table_name = 'meta'"):
            with suppress(duckdb.BinderException, duckdb.ConversionException):  # another's table
                found = next(iter(self.rows("SELECT value FROM meta WHERE key = 'format'")), None)
        if found == (str(FORMAT),):
            return True
        if create and self.rows(_THINGS) == [(0,)]:
            return False
        if found is None:
            raise StoreError(f"{self.path} is a DuckDB database, but not a miner store", "name another file")
        raise StoreError(
            f"{self.path} is not a store of this version of miner: its format is {found[0]}, not {FORMAT}",
            "ingest the sources again into a new file",
        )

    @property
    def vectors(self) -> Path:
        """The folder beside the store that holds cached vectors."""
        return self.path.with_name(f"{self.path.name}.vectors")

    @property
    def id(self) -> str:
        """The identity of this store, which its copies share; renaming the file does not change it."""
        return str(self.meta("id"))

    def meta(self, key: str) -> Any:
        """Returns the value of a key in the table `meta`; None if the table does not have the key."""
        found = self.rows("SELECT value FROM meta WHERE key = ?", [key])
        return json.loads(found[0][0]) if found else None

    def set_meta(self, key: str, value: Any) -> None:
        """Sets a key in the table `meta` to a JSON value; None removes the key.

        It runs two statements: call it within a transaction if something else may interrupt them.
        """
        self.execute("DELETE FROM meta WHERE key = ?", [key])
        if value is not None:
            self.execute("INSERT INTO meta VALUES (?, ?)", [key, json.dumps(value, sort_keys=True)])

    @property
    def read_only(self) -> bool:
        """Whether the store was opened to read."""
        return self._lock is None

    @property
    def note(self) -> Note:
        """What gets a line when work has waited long for another process."""
        return self._access.note

    @note.setter
    def note(self, note: Note) -> None:
        self._access.note = note

    def held(self) -> AbstractContextManager[None]:
        """Keeps the file open: nobody else writes to it meanwhile, nor reads it if this store writes."""
        return self._access.held()

    def snapshot(self) -> AbstractContextManager[None]:
        """Keeps what is read inside together: others write before or after. A writer is alone anyway."""
        return self.held() if self.read_only else nullcontext()

    def release(self) -> None:
        """Closes the file until the next use, for others to write to. A writer gives way by itself."""
        self._access.release()

    def close(self) -> None:
        """Closes the store; other processes can write to it again."""
        self._access.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Store:
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
        """Commits everything inside it at once, or nothing of it when anything raises."""
        with explaining(self.path), self.held(), self._access.using() as connection:
            connection.begin()
            try:
                yield
            except BaseException:
                with suppress(duckdb.Error):  # after a fatal error there is nothing to roll back
                    connection.rollback()
                raise
            connection.commit()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Runs one statement for its effect."""
        with explaining(self.path), self._access.using() as connection:
            connection.execute(statement, list(values))

    def rows(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Returns the rows of a small result; `values` as in `table`."""
        bound = dict(values) if isinstance(values, Mapping) else list(values)
        with explaining(self.path), self._access.using() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(query, bound).fetchall()
        return rows

    def table(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> pa.Table:
        """Returns a result as an Arrow table, in the order of the query.

        `values` are bound to `?` by place, or to `$name` by name.
        """
        bound = dict(values) if isinstance(values, Mapping) else list(values)
        with explaining(self.path), self._access.using() as connection:
            relation = connection.sql(query, params=bound)
            result: pa.Table = relation.to_arrow_table()
        return result

    def insert(self, name: str, table: pa.Table | pa.RecordBatch, **constants: str) -> None:
        """Appends an Arrow table to a base table, columns matched by name.

        `constants` are columns that have the same text in every row, such as `run_id`.
        """
        columns = [_quoted(column) for column in (*constants, *table.schema.names)]
        values = [*("?" for _ in constants), *(_quoted(c) for c in table.schema.names)]
        with self._access.using() as connection:
            connection.register("arriving", table)
            try:
                self.execute(
                    f"INSERT INTO {_quoted(name)} ({', '.join(columns)}) "
                    f"SELECT {', '.join(values)} FROM arriving",
                    list(constants.values()),
                )
            finally:
                # An aborted transaction, or a database that a fatal error closed, forgets the name by itself.
                with suppress(duckdb.TransactionException, duckdb.FatalException):
                    connection.unregister("arriving")


def _config(spill: str, threads: int, memory_limit: str) -> dict[str, Any]:
    return {
        "memory_limit": memory_limit,
        "threads": threads,
        "temp_directory": spill,
        "checkpoint_threshold": CHECKPOINT,
        "python_enable_replacements": False,
        "autoinstall_known_extensions": False,
    }


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _require_file(file: Path, create: bool) -> None:
    """Raises StoreError for what can be no store; makes the folder of one that is to be made."""
    if file.exists() or not create:
        require_file(file)
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot make the folder {file.parent}: {error.strerror}", "check the path"
        ) from error
