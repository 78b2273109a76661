"""The file of a store, open only while it is used: a writer and readers take turns at it.

DuckDB locks a file for as long as a connection to it is open: a writer shuts everybody else out, and a
reader shuts out writers. So a connection is closed when nobody used it for a while, or as soon as a
process that waits asks for it, and opened again with the next statement.
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
from miner.store.faults import unopened

Note = Callable[[str], None]

WAIT = 10.0
"""Seconds that opening a store waits for a process that has it open."""
_IDLE, _IDLE_READING = 2.0, 5.0
"""Seconds without a statement after which the file is closed, whether anybody waits or not."""
_TICK = 0.05
"""Seconds between two looks at whether somebody waits."""
_LEAST = 0.2
"""Seconds that a writer may work before it steps aside again."""
_PAUSE = 0.15
"""Seconds for which it steps aside: those who wait try several times meanwhile."""
_POLL = (0.02, 0.06)
"""Seconds between two tries to open the file, drawn anew each time."""
_SAY, _SAY_AGAIN = 5.0, 60.0
"""Seconds after which one who waits says so, for the first time and after that."""
_HELD = (
    "Could not set lock on file",
    "different configuration than existing connections",
    "Unique file handle conflict",
)
"""How DuckDB says that another process, or this one, has the file open in another way."""


_OPEN: weakref.WeakSet[Access] = weakref.WeakSet()


def quiet(message: str) -> None:
    """Says nothing."""


def connect(
    file: Path,
    read_only: bool,
    config: Mapping[str, Any],
    *,
    wait: float | None,
    note: Note = quiet,
) -> duckdb.DuckDBPyConnection:
    """Opens a DuckDB file, and waits for up to `wait` seconds (None: without end) for who has it open.

    Says so with `note` when it takes long. Raises BusyError when the time is up, StoreError for a file that
    cannot be opened.
    """
    return _patiently(
        lambda: duckdb.connect(str(file), read_only=read_only, config=dict(config)), file, wait, note
    )


def _patiently(
    opening: Callable[[], duckdb.DuckDBPyConnection], file: Path, wait: float | None, note: Note
) -> duckdb.DuckDBPyConnection:
    started, say = time.monotonic(), _SAY
    while True:
        try:
            return opening()
        except (duckdb.Error, MemoryError) as error:
            if not any(sign in str(error) for sign in _HELD):
                raise unopened(file, error) from error
            from miner.store.lock import BusyError, ask  # a reader who need not wait needs no lock

            waited = time.monotonic() - started
            if wait is not None and waited >= wait:
                raise BusyError(
                    f"another process holds {file}{_who(file, error)}", "wait until it ends, or end it"
                ) from error
            if waited >= say:
                note(f"waiting for another process that holds {file}{_who(file, error)}")
                say = waited + _SAY_AGAIN
        ask(file)
        time.sleep(random.uniform(*_POLL))


def _who(file: Path, error: Exception) -> str:
    found = re.search(r"\(PID (\d+)\)", str(error))
    if found is None:
        return ""
    from miner.store.lock import holder

    known = holder(file)
    return f": {known}" if known and known.pid == int(found[1]) else f": process {found[1]}"


class Access:
    """The connection of one store, which others get in between the uses of.

    One that writes gives way to whoever waits, and after a pause in its use; nobody else writes
    meanwhile, as its process has the `WriterLock`. One that reads closes after a pause as well, and sees
    one state of the store: when that has changed on the way back, using it raises StoreError.
    """

    def __init__(self, file: Path, read_only: bool, config: Mapping[str, Any], note: Note = quiet) -> None:
        self.note = note
        self._file, self._read_only, self._config = file, read_only, config
        self._guard = threading.RLock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._state: tuple[int, ...] | None = None
        self._holds = 0
        self._used = self._since = self._free_until = 0.0
        self._asked = 0
        self._closed = False
        self._ended = threading.Event()
        self._watcher = threading.current_thread()

    def open(self, wait: float) -> None:
        """Opens the file for the first time; raises as `connect`."""
        self._connect(wait)

    @contextmanager
    def using(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yields the connection for one statement; the file is opened again if it was given up."""
        with self._guard:
            connection = self._ready()
            try:
                yield connection
            finally:
                self._used = time.monotonic()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps the file open: nobody writes to it meanwhile, and while one writes, nobody reads."""
        with self._guard:
            self._ready()
            self._holds += 1
        try:
            yield
        finally:
            with self._guard:
                self._holds -= 1
                self._used = time.monotonic()

    def keep(self) -> None:
        """Keeps the connection until `close`, as for a database in memory."""
        with self._guard:
            self._ready()
            self._holds += 1

    @contextmanager
    def attached_to(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Attaches the file to another database's connection and makes its tables the ones that are meant.

        Waits without end for who has the file open. Writes what was committed into the file itself: the name
        of a new store is given to that file alone.
        """
        place = os.path.abspath(self._file).replace("'", "''")
        with self._guard:
            self._disconnect()
            if not self._file.exists():
                raise self._changed()  # DuckDB would make a new one
            attach = f"ATTACH '{place}' AS store (TYPE duckdb)"
            _patiently(lambda: connection.execute(attach), self._file, None, self.note)
            try:
                if self._state is None or self._look()[:2] != self._state[:2]:
                    raise self._changed()
                connection.execute("USE store")
                yield
                connection.execute("CHECKPOINT store")
            finally:
                with suppress(duckdb.Error):  # after a fatal error it goes when the connection is closed
                    connection.execute("USE memory")
                    connection.execute("DETACH store")

    def release(self) -> None:
        """Closes the file, unless it is held, until it is used again."""
        with self._guard:
            if not self._holds:
                self._disconnect()

    def close(self) -> None:
        """Closes the file for good."""
        with self._guard:
            self._disconnect()
            self._closed = True

    def _ready(self) -> duckdb.DuckDBPyConnection:
        rested = time.monotonic() - self._since < _LEAST
        if self._connection is not None and not self._holds and not rested and self._is_asked():
            self._step_aside()
        if self._connection is None:
            if self._closed:
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
        self._asked = self._asking()
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
        """Which file it is, and what changes with every commit to it."""
        found: list[int] = []
        for file in (self._file, Path(f"{self._file}.wal")):
            try:
                state = os.stat(file)
                found += [state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns]
            except FileNotFoundError:
                found += [0]
        return tuple(found)

    def _is_asked(self) -> bool:
        return not self._read_only and self._asking() != self._asked

    def _asking(self) -> int:
        """Returns a number that changes when somebody asks a writer to step aside."""
        if self._read_only:
            return 0
        from miner.store.lock import asked

        return asked(self._file)

    def _step_aside(self) -> None:
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
        """Closes the connection when somebody asks or nobody uses it; runs beside it until it is closed."""
        while not ended.wait(_TICK):
            if not self._guard.acquire(blocking=False):
                continue  # it is in use, or about to be closed by who waits for this thread
            try:
                if ended.is_set() or self._holds:
                    continue
                if self._is_asked():
                    self._step_aside()
                elif time.monotonic() - self._used >= (_IDLE_READING if self._read_only else _IDLE):
                    self._disconnect()
            finally:
                self._guard.release()


@atexit.register
def _close_all() -> None:
    """Closes what nobody closed: DuckDB does not like to be left open when Python ends."""
    for access in list(_OPEN):
        access.close()
