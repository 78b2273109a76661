"""The lock of a store: one process at a time writes to it, and says which one it is.

Readers need no lock. One that waits for the writer touches the lock file, and the writer steps aside.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from miner.errors import StoreError
from miner.faults import hint_of
from miner.store.faults import known_as

if TYPE_CHECKING:
    from filelock import FileLock

WAIT = 3.0
"""Seconds that a command waits for another one that writes to the store, before it gives up."""


class BusyError(StoreError):
    """Another process uses the store."""


@dataclass(frozen=True)
class Holder:
    """The process that writes to a store, by what it left in the lock file."""

    pid: int
    command: str
    since: str

    def __str__(self) -> str:
        return f"{self.command}, process {self.pid}, since {self.since} UTC"


def lock_file(store: Path) -> Path:
    """Returns the lock file of a store: beside the file itself, by whatever link it was named."""
    return Path(f"{os.path.realpath(store)}.lock")


def holder(store: Path) -> Holder | None:
    """Returns who writes to a store, or who did when it was killed; None where nobody left a name."""
    try:
        found = json.loads(lock_file(store).read_text("utf-8"))
        return Holder(int(found["pid"]), str(found["command"]), str(found["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ask(store: Path) -> None:
    """Asks the process that writes to a store to let others in; without effect where there is none."""
    with suppress(OSError):
        os.utime(lock_file(store))


def asked(store: Path) -> int:
    """Returns a number that is another one after each `ask`."""
    try:
        return lock_file(store).stat().st_mtime_ns
    except OSError:
        return 0


class WriterLock:
    """The right to write to a store, which one process has at a time.

    Within a process it may be taken several times, and is given back with the last. A killed process
    does not have it any more.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._lock: FileLock | None = None

    @property
    def is_nested(self) -> bool:
        """Whether this process had the lock before."""
        return self._lock is not None and self._lock.lock_counter > 1

    def acquire(self, wait: float = WAIT) -> None:
        """Takes the lock, or raises BusyError after `wait` seconds, StoreError where there can be no lock."""
        from filelock import FileLock, Timeout  # only who writes needs it

        file = lock_file(self._store)
        lock = FileLock(file, is_singleton=True, thread_local=False)
        try:
            lock.acquire(timeout=wait)
        except Timeout as error:
            who = holder(self._store)
            told = f": {who}" if who else ""
            raise BusyError(
                f"another command writes to {self._store}{told}", "wait until it ends, or end it"
            ) from error
        except OSError as error:
            store = known_as(self._store)
            raise StoreError(
                f"cannot write to {store}: no lock file can be made beside it: {error.strerror}",
                hint_of(error.errno, "check the rights of its folder, or copy it to another one"),
            ) from error
        self._lock = lock
        if lock.lock_counter == 1:
            since = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
            mark = {"pid": os.getpid(), "command": _command(), "since": since}
            with suppress(OSError):  # the lock holds without a name in it
                file.write_text(json.dumps(mark) + "\n", "utf-8")

    def release(self) -> None:
        """Gives the lock back; a second call does nothing. The last one in a process removes the file."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        if lock.lock_counter == 1:
            # Before the release: a process that opened it meanwhile sees that it is gone and opens another.
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
