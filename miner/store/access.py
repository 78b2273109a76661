"""The connection to a store's file, open only while it is used, so that a writer and readers take turns.

DuckDB locks a file as long as a connection to it is open: a writer excludes every other process, a reader
excludes writers. A connection therefore closes after a pause in its use, or as soon as a waiting process
requests the file, and opens again with the next statement.
"""

from __future__ import annotations

import atexit
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb

from miner.errors import StoreError
from miner.store.faults import is_database, open_error

Note = Callable[[str], None]

WAIT = 10.0
"""Seconds that opening a store waits for another process that has it open."""
_IDLE, _IDLE_READING = 2.0, 5.0
"""Seconds without a statement after which a writer and a reader close the file."""
_TICK = 0.05
"""Seconds between two checks whether another process waits."""
_LEAST = 0.2
"""Seconds that a writer may work before it closes the file for others again."""
_PAUSE = 0.15
"""Seconds for which it keeps the file closed; waiting processes try several times in that time."""
_POLL = (0.02, 0.06)
"""Range of the random number of seconds between two attempts to open the file."""
_SAY, _SAY_AGAIN = 5.0, 60.0
"""Seconds of waiting before the first note about it, and between two further notes."""
_LOCKED = (
    "Could not set lock on file",
    "different configuration than existing connections",
    "Unique file handle conflict",
)
"""DuckDB's messages for a file that another process, or this one, has open in another mode."""


FAULTY = "projection_pullup"
"""An optimizer without which an export of 15 million triplets succeeds that DuckDB 2.0.0 ended with an
internal error. The fault is in joins that spill, so that other plans can still meet it: see
findings/duckdb-ends-a-join-that-spills-with-an-internal-error.sh."""


_OPEN: weakref.WeakSet[Access] = weakref.WeakSet()


def quiet(message: str) -> None:
    """Ignores the message."""


def connect(
    file: Path,
    read_only: bool,
    config: Mapping[str, Any],
    *,
    wait: float | None,
    note: Note = quiet,
) -> duckdb.DuckDBPyConnection:
    """Opens a DuckDB file; waits up to `wait` seconds (None: forever) for a process that has it open.

    Calls `note` if it waits long. Raises BusyError after `wait` seconds, StoreError for a file that cannot be
    opened.
    """
    settings = {"disabled_optimizers": FAULTY, **config}
    return _patiently(
        lambda: duckdb.connect(str(file), read_only=read_only, config=settings), file, wait, note
    )


def _patiently(
    opening: Callable[[], duckdb.DuckDBPyConnection], file: Path, wait: float | None, note: Note
) -> duckdb.DuckDBPyConnection:
    started, say = time.monotonic(), _SAY
    while True:
        try:
            return opening()
        except (duckdb.Error, MemoryError) as error:
            if not any(sign in str(error) for sign in _LOCKED):
                raise open_error(file, error) from error
            from miner.store.lock import BusyError, request_access  # only who waits needs them

            waited = time.monotonic() - started
            if wait is not None and waited >= wait:
                raise BusyError(
                    f"another process holds {file}{_by_whom(file, error)}", "wait until it ends, or end it"
                ) from error
            if waited >= say:
                note(f"waiting for another process that holds {file}{_by_whom(file, error)}")
                say = waited + _SAY_AGAIN
        request_access(file)
        time.sleep(random.uniform(*_POLL))


def _by_whom(file: Path, error: Exception) -> str:
    process = re.search(r"\(PID (\d+)\)", str(error))
    if process is None:
        return ""
    from miner.store.lock import writer_of

    writer = writer_of(file)
    return f": {writer}" if writer and writer.pid == int(process[1]) else f": process {process[1]}"


def is_store(path: Path) -> bool:
    """Returns whether there is a DuckDB file at `path`; does not open one that this process has open."""
    file = os.path.realpath(path)
    return any(access.file == file for access in list(_OPEN)) or is_database(path)


class Access:
    """The connection of one store; other processes can open the file between two uses of it.

    A writer closes the file if another process waits, and after a pause in its use. No other process writes
    meanwhile, since this one has the `WriterLock`. A reader closes after a pause too. It sees one state of
    the store: if the file has changed when it opens again, StoreError is raised.
    """

    def __init__(self, file: Path, read_only: bool, config: Mapping[str, Any], note: Note = quiet) -> None:
        self.note = note
        self._file, self._read_only, self._config = file, read_only, config
        self._guard = threading.RLock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._state: tuple[int, ...] | None = None
        self._keepers = 0
        self._used = self._since = self._free_until = 0.0
        self._requests = 0
        self.closed = False
        """Whether `close` was called."""
        self._ended = threading.Event()
        self._watcher = threading.current_thread()

    @property
    def file(self) -> str:
        """The path of the file, without links."""
        return os.path.realpath(self._file)

    def open(self, wait: float) -> None:
        """Opens the file for the first time; raises what `connect` raises."""
        self._connect(wait)

    @contextmanager
    def using(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yields the connection for one statement; opens the file again if it was closed."""
        with self._guard:
            connection = self._ready()
            try:
                yield connection
            finally:
                self._used = time.monotonic()

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keeps the file open: no other process can write to it, nor read it if this one writes."""
        with self._guard:
            self._ready()
            self._keepers += 1
        try:
            yield
        finally:
            with self._guard:
                self._keepers -= 1
                self._used = time.monotonic()

    def keep(self) -> None:
        """Keeps the connection open until `close`, as a database in memory needs."""
        with self._guard:
            self._ready()
            self._keepers += 1

    def share_done(self) -> float:
        """Returns DuckDB's estimate of how much is done of the statement that runs, from 0 to 1."""
        connection = self._connection  # the thread with the statement has the guard
        return 0.0 if connection is None else max(0.0, connection.query_progress()) / 100

    @contextmanager
    def attached_to(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Attaches the file to another database's connection and makes its tables the default ones.

        Waits forever for processes that have the file open. At the end it writes what was committed from the
        write-ahead log into the file, because only the file itself is renamed to the name of a new store.
        """
        path = os.path.abspath(self._file).replace("'", "''")
        with self._guard:
            self._disconnect()
            if not self._file.exists():
                raise self._changed()  # DuckDB would make a new one
            attach = f"ATTACH '{path}' AS store (TYPE duckdb)"
            _patiently(lambda: connection.execute(attach), self._file, None, self.note)
            try:
                if self._state is None or self._look()[:2] != self._state[:2]:
                    raise self._changed()
                connection.execute("USE store")
                yield
                connection.execute("CHECKPOINT store")
            finally:
                with suppress(duckdb.Error):  # after a fatal error, closing the connection detaches it
                    connection.execute("USE memory")
                    connection.execute("DETACH store")

    def release(self) -> None:
        """Closes the file until its next use, unless `kept_open` or `keep` keeps it open."""
        with self._guard:
            if not self._keepers:
                self._disconnect()

    def close(self) -> None:
        """Closes the file for good."""
        with self._guard:
            self._disconnect()
            self.closed = True

    def _ready(self) -> duckdb.DuckDBPyConnection:
        just_opened = time.monotonic() - self._since < _LEAST
        if self._connection is not None and not self._keepers and not just_opened and self._is_requested():
            self._give_way()
        if self._connection is None:
            if self.closed:
                raise duckdb.ConnectionException("Connection already closed")
            time.sleep(max(0.0, self._free_until - time.monotonic()))
            self._connect(WAIT if self._read_only else None)
        assert self._connection is not None
        return self._connection

    def _connect(self, wait: float | None) -> None:
        if self._state is not None and not self._file.exists():
            raise self._changed()  # DuckDB would make a new one
        connection = connect(self._file, self._read_only, self._config, wait=wait, note=self.note)
        state = self._look()
        if self._state is not None and (
            state != self._state if self._read_only else state[:2] != self._state[:2]
        ):
            connection.close()
            raise self._changed()
        self._connection, self._state = connection, state
        self._since = self._used = time.monotonic()
        self._requests = self._request_mark()
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, args=(self._ended,), daemon=True)
        self._watcher.start()
        _OPEN.add(self)

    def _changed(self) -> StoreError:
        if self._state is not None and self._file.exists() and self._look()[:2] == self._state[:2]:
            return StoreError(f"{self._file} changed while it was read", "start the same command again")
        return StoreError(
            f"{self._file} was moved, removed or replaced while it was in use",
            "start again with the right file",
        )

    def _look(self) -> tuple[int, ...]:
        """The identity of the file, and what changes with every commit to it."""
        state: list[int] = []
        for file in (self._file, Path(f"{self._file}.wal")):
            try:
                one = os.stat(file)
                state += [one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns]
            except FileNotFoundError:
                state += [0]
        return tuple(state)

    def _is_requested(self) -> bool:
        return not self._read_only and self._request_mark() != self._requests

    def _request_mark(self) -> int:
        """Returns a number that changes when somebody asks a writer to give way; 0 for a reader."""
        if self._read_only:
            return 0
        from miner.store.lock import request_mark

        return request_mark(self._file)

    def _give_way(self) -> None:
        self._disconnect()
        self._free_until = time.monotonic() + _PAUSE

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.close()
        self._ended.set()
        _OPEN.discard(self)
        if self._watcher is not threading.current_thread():
            self._watcher.join()

    def _watch(self, ended: threading.Event) -> None:
        """Closes the connection on a request or after a pause; runs in a thread until it is closed."""
        while not ended.wait(_TICK):
            if not self._guard.acquire(blocking=False):
                continue  # it is in use, or is being closed by a thread that waits for this one
            try:
                if ended.is_set() or self._keepers:
                    continue
                if self._is_requested():
                    self._give_way()
                elif time.monotonic() - self._used >= (_IDLE_READING if self._read_only else _IDLE):
                    self._disconnect()
            finally:
                self._guard.release()


@atexit.register
def _close_all() -> None:
    """Closes every open store before Python ends: DuckDB can fail if it is still open then."""
    for access in list(_OPEN):
        access.close()
