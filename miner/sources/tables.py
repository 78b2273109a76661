"""Opening tabular files: TSV, CSV, JSON lines, JSON, Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from miner.errors import InputError, UsageError, shown
from miner.sources.config import SourceConfig
from miner.sources.delimited import open_delimited
from miner.sources.files import File, require_kind
from miner.sources.json_rows import open_json
from miner.sources.table import Record, Table, batch_records, nested_in

ROWS_PER_BATCH = 10_000
ENDINGS = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")


def is_table(file: File) -> bool:
    """Tells whether the file's ending is one that `open_table` reads."""
    return file.suffix in ENDINGS


def open_table(file: File, config: SourceConfig | None = None) -> Table:
    """Returns a tabular file, its columns found.

    Reads TSV and all forms of JSON once from end to end, to find quotes, and the columns of all rows.
    Raises InputError when the file is empty, broken, or its ending is unknown.
    """
    config = config or SourceConfig()
    if not is_table(file):
        raise InputError(
            f"{file.origin}: cannot tell the format from the ending '{shown(file.suffix)}'",
            f"end its name in {', '.join(ENDINGS)}, as what it holds",
        )
    if not config.header and file.suffix not in (".tsv", ".csv"):
        raise UsageError(
            f"--no-header has no effect on {file.origin}: its columns have names",
            "leave it out for this file",
        )
    if file.suffix in (".tsv", ".csv"):
        table = open_delimited(file, config)
    elif file.suffix == ".parquet":
        table = _open_parquet(file)
    else:
        table = open_json(file)
    twice = next((c for c in table.columns if table.columns.count(c) > 1), None)
    if twice is not None:
        if table.first_row is not None:
            raise table.no_header("query")
        raise InputError(
            f"{file.origin}:1: two columns named '{shown(twice)}'",
            "rename one of them, or add --no-header if these are no names",
        )
    return table


def _open_parquet(file: File) -> Table:
    require_kind(file, "Parquet")
    try:
        parquet = pq.ParquetFile(file.path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file.origin}: not a Parquet file: {error}", "write it again") from error
    share = file.size // max(parquet.metadata.num_rows, 1)

    def _read(
        texts: Sequence[str], passages: Sequence[str] = (), required: Sequence[str] = ()
    ) -> Iterator[Record]:
        number = 0
        try:
            for batch in parquet.iter_batches(
                ROWS_PER_BATCH, columns=list(dict.fromkeys([*texts, *passages]))
            ):
                for record in batch_records(batch, texts, passages, number, share):
                    number = record.line
                    yield record
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{file.origin}:{number + 1}: cannot be read: {error}", "write the file again, as UTF-8"
            ) from error

    schema = parquet.schema_arrow
    return Table(file.origin, tuple(schema.names), file.size, "bytes", _read, nested_in(schema))
