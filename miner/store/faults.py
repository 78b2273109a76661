"""What DuckDB's errors mean for the user: here they become errors with a file and a hint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from miner.errors import StoreError

_DAMAGED = (
    "Corrupt database file",
    "Could not read enough bytes",
    "WAL does not match database file",
    "Failure while replaying WAL",
    "Failed to deserialize",
    "Checkpoint aborted due to corrupted",
)
_FULL = ("No space left on device", "Disk quota exceeded", "Failed to offload", "max_temp_directory_size")
_OTHER_VERSION = "with storage version number"
_RUNS_AGAIN = "then run the same command again: the store is as it was"


def is_database(path: Path) -> bool:
    """Returns whether the file at `path` is one of DuckDB's: bytes 8 to 12 say so."""
    try:
        if not path.is_file():  # to open a pipe would wait for its writer
            return False
        with path.open("rb") as stream:
            return stream.read(12)[8:] == b"DUCK"
    except OSError:
        return False


def require_file(path: Path) -> None:
    """Raises StoreError when there is no file at `path`, or what is there can be no store."""
    if not path.exists():
        raise StoreError(f"there is no store at {path}", f"make one: miner ingest {path} SOURCE")
    if path.is_dir():
        raise StoreError(f"{path} is a folder, not a store", "name a file, such as my.duckdb")
    if not path.is_file():
        raise StoreError(f"{path} is a device or a pipe, not a store", "name a file, such as my.duckdb")


@contextmanager
def explaining(file: Path) -> Iterator[None]:
    """Turns the errors of DuckDB that the user can act on into StoreErrors that name `file`.

    An error in a statement of ours stays what it is: it is a defect, not a state of the file.
    """
    try:
        yield
    except duckdb.Error as error:
        known = explained(file, error)
        if known is None:
            raise
        raise known from error


def explained(file: Path, error: duckdb.Error) -> StoreError | None:
    """Returns what to tell the user about an error while `file` was read or written; None for a defect."""
    text = str(error)
    first = next(iter(text.splitlines()), type(error).__name__)
    if isinstance(error, duckdb.OutOfMemoryException):
        return StoreError(
            f"not enough memory for {file}: {first.removeprefix('Out of Memory Error: ')}",
            f"free some memory, {_RUNS_AGAIN}",
        )
    if any(sign in text for sign in _FULL):
        return StoreError(
            f"no space is left on the disk of {file}", f"free some space on the disk, {_RUNS_AGAIN}"
        )
    if "File too large" in text:
        return StoreError(
            f"{file} cannot grow: a limit on the size of files is reached",
            f"raise the limit (ulimit -f), {_RUNS_AGAIN}",
        )
    if any(sign in text for sign in _DAMAGED) or isinstance(error, duckdb.SerializationException):
        if "WAL" in text:
            return StoreError(
                f"{file} is damaged: {file}.wal does not belong to it",
                "restore both files from a copy, or ingest the sources into a new file",
            )
        return StoreError(
            f"{file} is damaged: {_reason(text)}",
            "restore it from a copy, or ingest the sources into a new file",
        )
    if isinstance(error, duckdb.IOException) or type(error) in (duckdb.FatalException, duckdb.Error):
        return StoreError(f"cannot use {file}: {first}", "check the path, its rights and its disk")
    return None


def _reason(text: str) -> str:
    if "Could not read enough bytes" in text:
        return "it ends too early"
    return "its checksums do not match" if "checksum" in text else "its content cannot be read"


def unopened(file: Path, error: Exception) -> StoreError:
    """Returns what to tell the user when DuckDB cannot open a file."""
    text = str(error)
    if file.is_file() and not is_database(file):
        return StoreError(f"{file} is not a DuckDB file", "name a store made by miner ingest")
    if _OTHER_VERSION in text:
        return StoreError(
            f"{file} was written by a version of DuckDB whose files DuckDB {duckdb.__version__} cannot read",
            "open it with the version of miner that wrote it, or ingest the sources into a new file",
        )
    if isinstance(error, duckdb.Error) and any(sign in text for sign in (*_DAMAGED, *_FULL)):
        return explained(file, error) or StoreError(f"{file} is damaged", "restore it from a copy")
    if "not a valid DuckDB" in text:
        return StoreError(f"{file} is not a DuckDB file", "name a store made by miner ingest")
    first = next(iter(text.splitlines()), type(error).__name__)
    return StoreError(f"cannot open {file}: {first}", "check the path and its rights")
