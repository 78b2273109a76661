"""Files that are there as a whole or not at all, and folders in which one process works at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from miner.errors import MinerError, UsageError

LOCK = ".lock"
"""The file that is in a folder while a process works there."""


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields another name, which becomes `file` when all is written and vanishes otherwise.

    So a kill leaves the old file or the new one. Raises MinerError when it cannot be written, UsageError when
    `file` is a store or a folder.
    """
    from miner.store.database import is_database  # brings DuckDB and Arrow, which a start does without

    if is_database(file):
        raise UsageError(f"{file} is a DuckDB database, and would be lost", "name another file")
    if file.is_dir():
        raise UsageError(f"{file} is a folder", "name a file")
    partial = file.with_name(f".{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise MinerError(f"cannot write {file}: {error.strerror or error}", "check its folder") from error


def write_whole(file: Path, content: str) -> None:
    """Writes a text file as `replacing` does."""
    with replacing(file) as partial:
        partial.write_text(content, "utf-8")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder, which is made where it is missing: no other process holds it meanwhile.

    The file LOCK is in it for so long, or until the next one holds it if this process is killed. A folder
    that was made and stays empty is removed. Raises UsageError when another process holds the folder, or
    when it is a file.
    """
    lock, is_new = folder / LOCK, not folder.exists()
    handle = _hold(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        if is_new and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
        os.close(handle)


def _hold(lock: Path) -> int:
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # who held it has just removed the folder
        except FileExistsError as error:
            raise UsageError(f"{lock.parent} is in the way", "move it, or name another OUT") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise UsageError(
                f"another process works in {lock.parent}", "wait for it, or name another OUT"
            ) from error
        if _is_still(lock, handle):
            return handle
        os.close(handle)


def _is_still(lock: Path, handle: int) -> bool:
    """Whether the file is the one that is open: whoever held it may have removed it in between."""
    try:
        return os.path.samestat(os.stat(lock), os.fstat(handle))
    except FileNotFoundError:
        return False
