"""Files that are there as a whole or not at all, and folders in which one process works at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from miner.errors import MinerError, UsageError

LOCK = ".lock"
"""The file by which a process holds the folder that it works in."""


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields another name, which becomes `file` when all is written and vanishes otherwise.

    So a kill leaves the old file or the new one. Raises MinerError when it cannot be written, UsageError when
    `file` is a store or a folder.
    """
    from miner.store.faults import is_database  # brings DuckDB and Arrow, which a start does without

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

    The file LOCK in it is what is locked, and stays; who is killed holds nothing. A folder that was made
    and has nothing else at the end is removed. Raises UsageError when another process holds the folder, or
    when it is a file.
    """
    from filelock import FileLock, Timeout  # only who trains needs it

    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UsageError(f"{folder} is in the way", "move it, or name another OUT") from error
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"another process works in {folder}", "wait for it, or name another OUT") from error
    try:
        yield
    finally:
        lock.release()
        if is_new and folder.exists() and [path.name for path in folder.iterdir()] == [LOCK]:
            shutil.rmtree(folder)
