"""Writing rows to files: a writer per file type, which writes the same bytes for the same rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa

Write = Callable[[pa.Table], None]
"""A function that appends rows."""

Writer = Callable[[Path, pa.Schema], AbstractContextManager[Write]]
"""A context that opens a file or folder for rows of a schema; it is complete when the context ends."""


def json_lines(table: pa.Table) -> Iterator[str]:
    """Yields each row as a JSON object with its keys in the order of the columns."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    names = table.schema.names
    for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        yield encode(dict(zip(names, row, strict=True)))


@contextmanager
def jsonl(target: Path, schema: pa.Schema) -> Iterator[Write]:
    """Writes one JSON object per line."""
    with target.open("w", encoding="utf-8", newline="\n") as file:
        yield lambda table: file.writelines(f"{line}\n" for line in json_lines(table))


@contextmanager
def json_list(target: Path, schema: pa.Schema) -> Iterator[Write]:
    """Writes one JSON list with an object per line."""
    with target.open("w", encoding="utf-8", newline="\n") as file:
        separator = "[\n"

        def write(table: pa.Table) -> None:
            """Appends rows, each after a separator."""
            nonlocal separator
            for line in json_lines(table):
                file.write(separator + line)
                separator = ",\n"

        yield write
        file.write("\n]\n")


@contextmanager
def csv(target: Path, schema: pa.Schema) -> Iterator[Write]:
    """Writes comma-separated values with a header; texts are quoted, quotes doubled, lines end with LF."""
    from pyarrow.csv import CSVWriter

    with CSVWriter(target, schema) as writer:
        yield writer.write_table


@contextmanager
def parquet(target: Path, schema: pa.Schema) -> Iterator[Write]:
    """Writes Parquet, compressed with Zstandard."""
    from pyarrow.parquet import ParquetWriter

    with ParquetWriter(target, schema, version="2.6", compression="zstd") as writer:
        yield writer.write_table


@contextmanager
def datasets(target: Path, schema: pa.Schema) -> Iterator[Write]:
    """Writes a folder as `datasets.Dataset.save_to_disk` does."""
    rows = target.with_name(f"{target.name}.rows")
    with pa.ipc.new_stream(rows, schema) as stream:
        yield stream.write_table
    _save_to_disk(rows, target)
    rows.unlink()


def _save_to_disk(rows: Path, target: Path) -> None:
    """Saves an Arrow stream as a `datasets` folder without reading it into memory."""
    from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    # The default fingerprint depends on the time of day; this one depends on the content.
    with rows.open("rb") as file:
        fingerprint = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    rows_on_disk = Dataset(Dataset.from_file(str(rows)).data, fingerprint=fingerprint)
    quiet = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        rows_on_disk.save_to_disk(str(target))
    finally:
        if not quiet:
            enable_progress_bars()


SHARD = 500_000_000
"""The most bytes of Arrow data in a shard, as `datasets.Dataset.push_to_hub` makes them."""


@contextmanager
def shards(folder: Path, split: str) -> Iterator[Write]:
    """Writes `SPLIT-00000-of-00001.parquet` and so on into a folder; a shard has at most SHARD bytes.

    A larger table is a shard of its own. Without any table there is no file.
    """
    sizes: list[int] = []
    with ExitStack() as last:
        append: Write

        def write(table: pa.Table) -> None:
            """Appends rows, in a new shard if the last one is full."""
            nonlocal append
            if not sizes or sizes[-1] + table.nbytes > SHARD:
                last.close()
                folder.mkdir(parents=True, exist_ok=True)
                sizes.append(0)
                append = last.enter_context(parquet(folder / _shard(split, len(sizes) - 1), table.schema))
            sizes[-1] += table.nbytes
            append(table)

        yield write
    for number in range(len(sizes)):
        name = f"{split}-{number:05d}-of-{len(sizes):05d}.parquet"
        (folder / _shard(split, number)).rename(folder / name)


def _shard(split: str, number: int) -> str:
    """Returns the name of a shard while the number of shards is not known."""
    return f"{split}-{number:05d}.unfinished"


WRITERS: dict[str, Writer] = {
    "jsonl": jsonl,
    "json": json_list,
    "csv": csv,
    "parquet": parquet,
    "datasets": datasets,
}
"""The writers by file type."""

FLAT = ("csv",)
"""File types that cannot contain lists."""
