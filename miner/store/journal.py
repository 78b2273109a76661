"""Answers of language models on their way into the store: in files beside it, so that a kill loses none.

The files are in the folder `my.duckdb.answers`, with a line for each answer. A file is removed when its
answers are committed. Those of a killed process are committed by the next one that writes to the store.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa

from miner.errors import StoreError, counted
from miner.faults import hint_of

if TYPE_CHECKING:
    from miner.store.database import Database

TABLES = ("judge_answers", "generated_answers")
"""The tables of answers. Each has a column `answered`, the time at which an answer came."""

Row = Mapping[str, Any]


def journal_folder(store: Path) -> Path:
    """Returns the folder of the files: it is beside the store itself, not beside a link to it."""
    return Path(f"{os.path.realpath(store)}.answers")


class Journal:
    """Rows for one of TABLES that are not committed yet; a kill of the process loses none of them.

    `constants` are columns with one text for all rows. The store must be open for writing. `add` and `commit`
    may be called in different threads.
    """

    def __init__(self, store: Database, table: str, **constants: str) -> None:
        self._store, self._table, self._constants = store, table, constants
        self._schema = store.table(f"SELECT * FROM {table} LIMIT 0").schema
        self._prefix = _prefix(store)
        self._folder = journal_folder(store.path)
        self._guard = Lock()
        self._rows: list[dict[str, Any]] = []
        self._files: list[Path] = []
        """The files that have these rows."""
        self._open: int | None = None
        """The descriptor of the last of them, while it can be written."""

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> None:
        """Takes a row: it is in a file when this returns, with the present time as `answered`.

        Raises StoreError if the file cannot be written. `commit` stores the row all the same.
        """
        taken = {**self._constants, **row, "answered": datetime.now(UTC).replace(tzinfo=None)}
        line = _line(self._table, taken)
        with self._guard:
            self._rows.append(taken)
            try:
                self._write(line)
            except OSError as error:
                self._close()  # what was written of the line is no beginning for another one
                raise StoreError(
                    f"cannot write to {self._folder}: {error.strerror}",
                    hint_of(error.errno, "check the folder and its permissions"),
                ) from error

    def commit(self) -> None:
        """Stores the rows that were added until now, then removes their files. Raises StoreError."""
        with self._guard:
            rows, self._rows = self._rows, []
            files, self._files = self._files, []
            self._close()
        if rows:
            self._store.insert(self._table, pa.Table.from_pylist(rows, self._schema))
        _remove(files)

    def close(self) -> None:
        """Removes the folder of the files if it is empty. Rows that are not committed stay in it."""
        with self._guard:
            self._close()
            _remove_folder(self._folder)

    def _write(self, line: bytes) -> None:
        if self._open is None:
            self._folder.mkdir(exist_ok=True)
            self._files.append(self._folder / f"{self._prefix}{uuid4().hex}")
            self._open = os.open(self._files[-1], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
        # Not synced: what is written survives the process, though not a power failure.
        while line:  # the system writes a part only if it cannot write the rest: the next call says why
            line = line[os.write(self._open, line) :]

    def _close(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            os.close(opened)


def take_in(store: Database) -> None:
    """Commits what killed processes left in the journal of a store; `store.note` reports it.

    Nothing else, in this process or another, may be writing to the store.
    """
    folder = journal_folder(store.path)
    try:
        files = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        store.note(f"cannot read {folder} ({error.strerror}); the next command tries again")
        return
    prefix = _prefix(store)
    own = [file for file in files if file.name.startswith(prefix)]
    found: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
    damaged, read = 0, []
    for file in own:
        try:
            damaged += _read(file, found)
            read.append(file)
        except OSError as error:
            store.note(f"cannot read {file} ({error.strerror}); the next command tries again")
    with store.transaction():
        taken = sum(_insert_new(store, table, rows) for table, rows in found.items())
    _remove(read)
    _remove_folder(folder)
    if taken:
        store.note(f"stored {counted(taken, 'answer')} that an interrupted command had received")
    if damaged:
        damage = counted(damaged, "answer is", "answers are")
        store.note(f"{damage} cut off or damaged in {folder}, and not stored: a later call asks again")
    if len(own) < len(files):
        store.note(f"{folder} has answers for another store: remove it if that store no longer exists")


def _prefix(store: Database) -> str:
    """Returns what the names of a store's files begin with."""
    return f"{store.id}-"


def _line(table: str, row: Row) -> bytes:
    """Returns a row as a line: a checksum and JSON."""
    text = json.dumps({"table": table, "row": row}, default=datetime.isoformat).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _read(file: Path, found: Mapping[str, list[dict[str, Any]]]) -> int:
    """Adds the rows in a file to those of their table; returns the number of damaged lines."""
    damaged = 0
    for line in file.read_bytes().splitlines():
        check, _, text = line.partition(b" ")
        if check == b"%08x" % zlib.crc32(text):
            content = json.loads(text)
            row = content["row"]
            found[content["table"]].append(row | {"answered": datetime.fromisoformat(row["answered"])})
        else:
            damaged += 1
    return damaged


def _insert_new(store: Database, table: str, rows: list[dict[str, Any]]) -> int:
    """Stores rows, but those that were committed before the kill; returns how many it stored."""
    if not rows:
        return 0
    store.execute(f"CREATE TEMP TABLE arrived AS FROM {table} LIMIT 0")
    schema = store.table("FROM arrived").schema
    store.insert("arrived", pa.Table.from_pylist(rows, schema))
    stored = store.rows(
        f"""INSERT INTO {table} FROM (FROM arrived EXCEPT
            FROM {table} WHERE answered >= (SELECT min(answered) FROM arrived)) ORDER BY answered
            RETURNING 1"""
    )
    store.execute("DROP TABLE arrived")
    return len(stored)


def _remove(files: list[Path]) -> None:
    for file in files:
        with suppress(OSError):  # the answers in it are stored, and are not stored again
            file.unlink()


def _remove_folder(folder: Path) -> None:
    with suppress(OSError):  # it has other files
        folder.rmdir()
