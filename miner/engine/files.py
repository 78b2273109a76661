"""Files that are there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from miner.errors import MinerError, UsageError


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields another name, which becomes `file` when all is written and vanishes otherwise.

    So a kill leaves the old file or the new one. Raises MinerError when it cannot be written, UsageError when
    `file` is a store.
    """
    from miner.store.database import is_database  # brings DuckDB and Arrow, which a start does without

    if is_database(file):
        raise UsageError(f"{file} is a DuckDB database, and would be lost", "name another file")
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
