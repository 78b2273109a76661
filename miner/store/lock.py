"""The lock of a store: one process at a time can write to it, and the lock file names that process.

Readers need no lock. A process that waits for the writer touches the lock file; the writer then closes the
store for a moment.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from miner.errors import StoreError
from miner.faults import hint_of
from miner.store.faults import known_as

if TYPE_CHECKING:
    from filelock import FileLock

WAIT = 3.0
"""Seconds that a command waits for another command that writes to the store."""


class BusyError(StoreError):
    """Another process uses the store."""


@dataclass(frozen=True)
class Writer:
    """The process that writes to a store, as its lock file names it."""

    pid: int
    command: str
    since: str

    def __str__(self) -> str:
        return f"{self.command}, process {self.pid}, since {self.since} UTC"


def lock_file(store: Path) -> Path:
    """Returns the lock file of a store: it lies beside the file itself, not beside a link to it."""
    return Path(f"{os.path.realpath(store)}.lock")


def writer_of(store: Path) -> Writer | None:
    """Returns the process that writes to a store, or was killed while it did; None if the file names none."""
    try:
        content = json.loads(lock_file(store).read_text("utf-8"))
        return Writer(int(content["pid"]), str(content["command"]), str(content["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def request_access(store: Path) -> None:
    """Requests that the process that writes to a store closes it for a moment; does nothing without one."""
    with suppress(OSError):
        os.utime(lock_file(store))


def request_mark(store: Path) -> int:
    """Returns a number that changes with each `request_access`."""
    try:
        return lock_file(store).stat().st_mtime_ns
    except OSError:
        return 0


class WriterLock:
    """The right to write to a store, which one process has at a time.

    A process may acquire it several times; the last release frees it. The lock of a killed process is free.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._lock: FileLock | None = None

    @property
    def is_nested(self) -> bool:
        """Whether this process already had the lock."""
        return self._lock is not None and self._lock.lock_counter > 1

    def acquire(self, wait: float = WAIT) -> None:
        """Acquires the lock. Raises BusyError after `wait` seconds, StoreError without a lock file."""
        from filelock import FileLock, Timeout  # readers do not need it

        file = lock_file(self._store)
        lock = FileLock(file, is_singleton=True, thread_local=False)
        try:
            lock.acquire(timeout=wait)
        except Timeout as error:
            writer = writer_of(self._store)
            by_whom = f": {writer}" if writer else ""
            raise BusyError(
                f"another command writes to {self._store}{by_whom}", "wait until it ends, or end it"
            ) from error
        except OSError as error:
            store = known_as(self._store)
            raise StoreError(
                f"cannot write to {store}: cannot make a lock file beside it: {error.strerror}",
                hint_of(error.errno, "check the permissions of its folder, or copy it to another one"),
            ) from error
        self._lock = lock
        if lock.lock_counter == 1:
            since = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
            writer = Writer(os.getpid(), _command(), since)
            with suppress(OSError):  # the lock works without this content
                file.write_text(json.dumps(asdict(writer)) + "\n", "utf-8")

    def release(self) -> None:
        """Releases the lock; a second call does nothing. The last release in a process removes the file."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        if lock.lock_counter == 1:
            # Before the release: a process that has opened the file sees that it is gone and makes a new one.
            with suppress(OSError):
                lock_file(self._store).unlink()
        lock.release()

    def __enter__(self) -> WriterLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _command() -> str:
    program = Path(sys.argv[0] if sys.argv else "")
    if "miner" in (program.name, program.parent.name) and len(sys.argv) > 1:
        return f"miner {sys.argv[1]}"
    return program.name if program.name not in ("", "-c") else "python"
