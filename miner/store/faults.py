"""Turns DuckDB's errors into errors that name a file and say what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from miner.errors import StoreError
from miner.faults import AGAIN, hint_of

_DAMAGED = (
    "Corrupt database file",
    "Could not read enough bytes",
    "WAL does not match database file",
    "Failure while replaying WAL",
    "Failed to deserialize",
    "Checkpoint aborted due to corrupted",
)
_REFUSED = {
    "File too large": errno.EFBIG,
    "Disk quota exceeded": errno.EDQUOT,
    "No space left on device": errno.ENOSPC,
    "Failed to offload": errno.ENOSPC,
    "max_temp_directory_size": errno.ENOSPC,
}
"""DuckDB's messages for a file that the system does not let grow, and the error number of each."""
_OTHER_VERSION = "with storage version number"
_BECOMING: dict[Path, Path] = {}
"""Files that are being built, and the stores that they will become."""


@contextmanager
def becoming(new: Path, store: Path) -> Iterator[None]:
    """Makes errors about the file `new` name `store`, which it will become when it is complete."""
    _BECOMING[new] = store
    try:
        yield
    finally:
        del _BECOMING[new]


def known_as(file: Path) -> Path:
    """Returns the name by which the user knows a file that is a store or will become one."""
    return _BECOMING.get(file, file)


def is_database(path: Path) -> bool:
    """Returns whether the file at `path` is a DuckDB file, by its bytes 8 to 12.

    Not for a store that this process has open: closing the file ends the locks of its connection (POSIX).
    """
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            return False
        with path.open("rb") as stream:
            return stream.read(12)[8:] == b"DUCK"
    except OSError:
        return False


def require_store_file(path: Path) -> None:
    """Raises StoreError if `path` does not exist or is not a regular file."""
    if not path.exists():
        raise StoreError(f"there is no store at {path}", f"make one: miner ingest {path} SOURCE")
    if path.is_dir():
        raise StoreError(f"{path} is a folder, not a store", "name a file, such as my.duckdb")
    if not path.is_file():
        raise StoreError(f"{path} is a device or a pipe, not a store", "name a file, such as my.duckdb")


def require_database(path: Path) -> None:
    """Raises StoreError for a file that holds something else than a database, such as a CSV file.

    DuckDB opens some of them without an error. A file that is missing, empty or not readable passes.
    """
    if path.exists() and path.stat().st_size and os.access(path, os.R_OK) and not is_database(path):
        raise _not_a_database(path)


def _not_a_database(path: Path) -> StoreError:
    return StoreError(f"{path} is not a DuckDB file", "name a store made by miner ingest")


@contextmanager
def explaining(file: Path) -> Iterator[None]:
    """Turns DuckDB errors that the user can act on into StoreErrors that name `file`.

    An error in one of our own statements is a defect and stays as it is.
    """
    try:
        yield
    except duckdb.Error as error:
        known = store_error(file, error)
        if known is None:
            raise
        raise known from error


def store_error(file: Path, error: duckdb.Error) -> StoreError | None:
    """Returns the user's error for a DuckDB error in reading or writing `file`; None for a defect."""
    text, first = _message(file, error)
    if isinstance(error, duckdb.OutOfMemoryException):
        return StoreError(
            f"not enough memory for {known_as(file)}: {first.removeprefix('Out of Memory Error: ')}",
            f"free memory, {AGAIN}: {_outcome(file)}",
        )
    if refused := _refused(file, text):
        return refused
    file = known_as(file)
    if any(sign in text for sign in _DAMAGED) or isinstance(error, duckdb.SerializationException):
        if "WAL" in text:
            return StoreError(
                f"{file} is damaged: {file}.wal belongs to another file",
                "restore both files from a copy, or ingest the sources into a new file",
            )
        return StoreError(
            f"{file} is damaged: {_reason(text)}",
            "restore it from a copy, or ingest the sources into a new file",
        )
    if isinstance(error, duckdb.IOException) or type(error) in (duckdb.FatalException, duckdb.Error):
        return StoreError(f"cannot use {file}: {first}", "check the path, its permissions and its disk")
    return None


def _message(file: Path, error: Exception) -> tuple[str, str]:
    """Returns an error's whole message and its first line, with the file name that the user knows."""
    text = str(error).replace(str(file), str(known_as(file)))
    return text, next(iter(text.splitlines()), type(error).__name__)


def _outcome(file: Path) -> str:
    return "no store was made" if file in _BECOMING else "the store is unchanged"


def _refused(file: Path, text: str) -> StoreError | None:
    """Returns the user's error if the system does not let a file grow; None for another error."""
    number = next((number for sign, number in _REFUSED.items() if sign in text), None)
    if number is None:
        return None
    name = known_as(file)
    what = (
        f"{name} cannot grow: the limit on the size of files is reached"
        if number == errno.EFBIG
        else f"the disk of {name} is full"
    )
    return StoreError(what, f"{hint_of(number, '')}: {_outcome(file)}")


def _reason(text: str) -> str:
    if "Could not read enough bytes" in text:
        return "it ends too early"
    return "its checksums do not match" if "checksum" in text else "its content cannot be read"


def open_error(file: Path, error: Exception) -> StoreError:
    """Returns the user's error for a file that DuckDB cannot open."""
    text, first = _message(file, error)
    if refused := _refused(file, text):
        return refused
    if file.is_file() and not is_database(file):
        return _not_a_database(file)
    if _OTHER_VERSION in text:
        return StoreError(
            f"{file} was written by a version of DuckDB whose files DuckDB {duckdb.__version__} cannot read",
            "open it with the version of miner that wrote it, or ingest the sources into a new file",
        )
    if isinstance(error, duckdb.Error) and any(sign in text for sign in _DAMAGED):
        return store_error(file, error) or StoreError(f"{file} is damaged", "restore it from a copy")
    if "not a valid DuckDB" in text:
        return _not_a_database(file)
    return StoreError(f"cannot open {known_as(file)}: {first}", "check the path and its permissions")
