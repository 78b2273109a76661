"""Data that wait outside the memory, in files without a name: they disappear with the process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa


def nameless_file(folder: Path) -> IO[bytes]:
    """Returns a new file without a name: in `folder` if it can be written, else in the temporary folder."""
    with suppress(OSError):
        return tempfile.TemporaryFile(dir=folder)
    return tempfile.TemporaryFile()


@contextmanager
def set_aside(
    parts: Iterable[Mapping[str, pa.Table]], folder: Path
) -> Iterator[dict[str, pa.RecordBatchReader]]:
    """Writes the tables of each part to a file per name; yields a reader of all rows of each, in order."""
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        writers: dict[str, Any] = {}
        for part in parts:
            for name, table in part.items():
                if name not in files:
                    files[name] = stack.enter_context(nameless_file(folder))
                    writers[name] = pa.ipc.new_stream(files[name], table.schema)
                writers[name].write_table(table)
        for name, file in files.items():
            writers[name].close()
            file.seek(0)
        yield {name: pa.ipc.open_stream(file) for name, file in files.items()}
