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
from miner.store.tables import FORMAT, TABLES, VIEWS

MEMORY_LIMIT = "4GB"
"""What DuckDB may hold before it spills to disk; models and vectors need the rest."""

CHECKPOINT = "256MB"
"""How large the write-ahead log grows before it is folded into the file; closing folds it anyway."""


def is_database(path: Path) -> bool:
    """Returns whether the file at `path` is one of DuckDB's: bytes 8 to 12 say so."""
    try:
        with path.open("rb") as stream:
            return stream.read(12)[8:] == b"DUCK"
    except OSError:
        return False


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

        Raises StoreError when there is no such store, another process holds it, or the file is
        no store of this version.
        """
        file = Path(path)
        if not create and not file.exists():
            raise StoreError(f"there is no store at {file}", f"make one: miner ingest {file} SOURCE")
        if file.is_dir():
            raise StoreError(f"{file} is a folder, not a store", "name a file, such as my.duckdb")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot make the folder {file.parent}: {error.strerror}", "check the path"
            ) from error
        config: dict[str, Any] = {
            "memory_limit": memory_limit,
            "threads": threads or os.cpu_count() or 1,
            "temp_directory": f"{file}.tmp",
            "checkpoint_threshold": CHECKPOINT,
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
        }
        try:
            connection = duckdb.connect(str(file), read_only=read_only, config=config)
        except duckdb.Error as error:
            raise unopened(file, error) from error
        store = cls(file, connection)
        store._prepare(read_only)
        return store

    def _prepare(self, read_only: bool) -> None:
        tables = {name for (name,) in self.rows("SELECT table_name FROM duckdb_tables()")}
        if not tables and not read_only:
            with self.transaction():
                for statement in (*TABLES, *VIEWS):
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO meta VALUES ('format', ?)", [str(FORMAT)])
            return
        found = None
        if "meta" in tables:
            try:
                found = next(iter(self.rows("SELECT value FROM meta WHERE key = 'format'")), None)
            except duckdb.BinderException:
                found = None  # somebody else's table of that name
        if found != (str(FORMAT),):
            self.close()
            raise StoreError(
                f"{self.path} is not a store of this version of miner",
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
        self._connection.begin()
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Runs one statement for its effect."""
        self._connection.execute(statement, list(values))

    def rows(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Returns the rows of a small result; `values` as in `table`."""
        bound = dict(values) if isinstance(values, Mapping) else list(values)
        rows: list[tuple[Any, ...]] = self._connection.execute(query, bound).fetchall()
        return rows

    def table(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> pa.Table:
        """Returns a result as an Arrow table, in the order of the query.

        `values` are bound to `?` by place, or to `$name` by name.
        """
        bound = dict(values) if isinstance(values, Mapping) else list(values)
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
            self._connection.execute(
                f"INSERT INTO {_quoted(name)} ({', '.join(columns)}) "
                f"SELECT {', '.join(values)} FROM arriving",
                list(constants.values()),
            )
        finally:
            with suppress(duckdb.TransactionException):  # an aborted one forgets the name by itself
                self._connection.unregister("arriving")


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def unopened(file: Path, error: duckdb.Error) -> StoreError:
    """Returns what to tell the user when DuckDB cannot open a file."""
    text = str(error)
    if file.is_file() and file.stat().st_size and not is_database(file):
        return StoreError(f"{file} is not a DuckDB file", "name a store made by miner ingest")
    if "Could not set lock" in text:
        return StoreError(f"another process holds {file}", "wait until it ends, or end it")
    if text.startswith("Corrupt database file"):
        return StoreError(
            f"{file} is damaged: its checksums do not match", "ingest the sources into a new file"
        )
    if "not a valid DuckDB" in text or "DuckDB database file" in text:
        return StoreError(f"{file} is not a DuckDB file", "name a store made by miner ingest")
    return StoreError(f"cannot open {file}: {text.splitlines()[0]}", "check the path and its rights")
