"""One DuckDB file: opening it, transactions, and moving Arrow tables in and out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

from miner.errors import StoreError
from miner.processors import cores
from miner.store.faults import explaining, require_file, unopened
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
    """A miner store, open for as long as this object is.

    Made with `Store.open`; closes as a context manager. One process writes at a time, and
    nobody else can open the file while it does.
    """

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        create: bool = False,
        read_only: bool = False,
        threads: int | None = None,
        memory_limit: str = MEMORY_LIMIT,
    ) -> Store:
        """Opens the store at `path`, which must exist unless `create` is given.

        Raises StoreError when there is no such store, another process holds it, the file is damaged,
        or it is no store of this version: such a file is only ever opened for reading.
        """
        file = Path(path)
        is_new = _require_file(file, create)
        config: dict[str, Any] = {
            "memory_limit": memory_limit,
            "threads": threads or cores(),
            "temp_directory": f"{file}.tmp",
            "checkpoint_threshold": CHECKPOINT,
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
        }
        if not is_new and not read_only:
            # DuckDB may change a file by opening it to write, as it folds the log in: look first.
            try:
                is_new = cls(file, _connect(file, True, config))._require_ours(create) == 0
            except StoreError as error:
                if not isinstance(error.__cause__, duckdb.ConnectionException):
                    raise  # otherwise this process has it open, and looked at it before
        store = cls(file, _connect(file, read_only, config))
        if is_new:
            with store.transaction():
                for statement in (*TABLES, *VIEWS):
                    store.execute(statement)
                store.execute("INSERT INTO meta VALUES ('format', ?)", [str(FORMAT)])
        elif read_only:
            store._require_ours(close=False)
        return store

    def _require_ours(self, create: bool = False, close: bool = True) -> int:
        """Returns how many tables there are; none only with `create`, for a database that is empty.

        Raises StoreError for one that is no store of this version. Closes it, unless that is not wanted.
        """
        found, things = None, 0
        try:
            tables = {name for (name,) in self.rows("SELECT table_name FROM duckdb_tables()")}
            ((things,),) = self.rows(_THINGS)
            if "meta" in tables:
                with suppress(duckdb.BinderException, duckdb.ConversionException):  # another's table
                    found = next(iter(self.rows("SELECT value FROM meta WHERE key = 'format'")), None)
        except BaseException:
            self.close()
            raise
        right = found == (str(FORMAT),) or (create and not things)
        if close or not right:
            self.close()
        if right:
            return len(tables)
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

    def close(self) -> None:
        """Closes the file; other processes can open it again."""
        self._connection.close()

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
        with explaining(self.path):
            self._connection.begin()
            try:
                yield
            except BaseException:
                with suppress(duckdb.Error):  # after a fatal error there is nothing to roll back
                    self._connection.rollback()
                raise
            self._connection.commit()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Runs one statement for its effect."""
        with explaining(self.path):
            self._connection.execute(statement, list(values))

    def rows(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Returns the rows of a small result; `values` as in `table`."""
        bound = dict(values) if isinstance(values, Mapping) else list(values)
        with explaining(self.path):
            rows: list[tuple[Any, ...]] = self._connection.execute(query, bound).fetchall()
        return rows

    def table(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> pa.Table:
        """Returns a result as an Arrow table, in the order of the query.

        `values` are bound to `?` by place, or to `$name` by name.
        """
        bound = dict(values) if isinstance(values, Mapping) else list(values)
        with explaining(self.path):
            relation = self._connection.sql(query, params=bound)
            result: pa.Table = relation.to_arrow_table()
        return result

    def insert(self, name: str, table: pa.Table | pa.RecordBatch, **constants: str) -> None:
        """Appends an Arrow table to a base table, columns matched by name.

        `constants` are columns that have the same text in every row, such as `run_id`.
        """
        columns = [_quoted(column) for column in (*constants, *table.schema.names)]
        values = [*("?" for _ in constants), *(_quoted(c) for c in table.schema.names)]
        self._connection.register("arriving", table)
        try:
            self.execute(
                f"INSERT INTO {_quoted(name)} ({', '.join(columns)}) "
                f"SELECT {', '.join(values)} FROM arriving",
                list(constants.values()),
            )
        finally:
            # An aborted transaction, or a database that a fatal error closed, forgets the name by itself.
            with suppress(duckdb.TransactionException, duckdb.FatalException):
                self._connection.unregister("arriving")


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _require_file(file: Path, create: bool) -> bool:
    """Returns whether the store is to be made; raises StoreError for what can be no store."""
    if file.exists() or not create:
        require_file(file)
        return False
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot make the folder {file.parent}: {error.strerror}", "check the path"
        ) from error
    return True


def _connect(file: Path, read_only: bool, config: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    try:
        return duckdb.connect(str(file), read_only=read_only, config=config)
    except (duckdb.Error, MemoryError) as error:
        raise unopened(file, error) from error
