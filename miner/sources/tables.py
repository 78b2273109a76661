"""Tabular files (TSV, CSV, JSONL, Parquet): their columns, and the chosen columns row by row."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from miner.errors import InputError, listed, near
from miner.sources.files import File, Line, lines
from miner.sources.values import NotTextError, as_text, parse_json

LONGEST_FIELD = 2**31 - 1
ROWS_PER_BATCH = 10_000


class Record(NamedTuple):
    """One row: the values of the chosen columns as text, or why there are none."""

    line: int
    size: int
    """How many units of the table's `size` the row used up."""
    values: Sequence[str | None]
    problem: tuple[str, str] | None = None
    """Reason and detail of a row that cannot be used."""

    @property
    def content(self) -> tuple[object, ...]:
        """What makes two rows exact duplicates: their values; an unusable row is like no other."""
        return tuple(self.values) if self.problem is None else (self.line, *self.problem)


Read = Callable[[Sequence[str]], Iterator[Record]]


@dataclass(frozen=True)
class Table:
    """Something with named columns: a file, or a split of a data set."""

    origin: str
    columns: tuple[str, ...]
    size: int
    unit: str
    read: Read
    """Yields the rows with the values of these columns, which must be among `columns`."""

    def require(self, columns: Sequence[str]) -> None:
        """Raises InputError that names the first column that is not there and the nearest one."""
        for column in columns:
            if column not in self.columns:
                raise InputError(
                    f"{self.origin}: no column '{column}'{near(column, self.columns)}",
                    f"its columns: {listed(self.columns)}; name yours with an option such as --query-column",
                )


def is_table(file: File) -> bool:
    """Tells whether the file's ending is one that `open_table` reads."""
    return file.suffix in _OPENERS


def open_table(file: File) -> Table:
    """Returns a tabular file, its header read.

    Raises InputError when the file is empty, broken, or its ending is unknown.
    """
    opener = _OPENERS.get(file.suffix)
    if opener is None:
        raise InputError(
            f"{file.origin}: cannot tell the format from the ending '{file.suffix}'",
            f"name the file {', '.join(_OPENERS)}, or choose --format",
        )
    columns, read = opener(file)
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise InputError(f"{file.origin}:1: two columns named '{twice}'", "rename one of them")
    return Table(file.origin, columns, file.size, "bytes", read)


def _empty(file: File) -> InputError:
    needs = "rows, an object in each line" if file.suffix == ".jsonl" else "a header line and rows"
    return InputError(f"{file.origin}: the file is empty", f"it needs {needs}")


def _require_parted(file: File, header: tuple[str, ...], by: str) -> None:
    other = next((sign for sign in ",;\t|" if len(header) == 1 and sign in header[0]), None)
    if other is not None:
        raise InputError(
            f"{file.origin}:1: one column, named {header[0]!r}",
            f"a {file.suffix} file has its columns parted by {by}, not by {other!r}: save it so",
        )


def _by_position(
    header: tuple[str, ...], fields: Sequence[str], chosen: Sequence[int], line: int, size: int
) -> Record:
    if len(fields) != len(header):
        problem = ("field_count", f"{len(fields)} fields where the header has {len(header)}")
        return Record(line, size, (), problem)
    return Record(line, size, [fields[place] for place in chosen])


def _tsv_fields(line: Line) -> list[str]:
    return line.text.removesuffix("\n").removesuffix("\r").split("\t")


def _open_tsv(file: File) -> tuple[tuple[str, ...], Read]:
    first = next(lines(file), None)
    if first is None:
        raise _empty(file)
    header = tuple(_tsv_fields(first))
    _require_parted(file, header, "tabs")

    def _read(columns: Sequence[str]) -> Iterator[Record]:
        chosen = [header.index(column) for column in columns]
        for line in lines(file):
            if line.number > 1 and line.text.strip("\r\n"):
                yield _by_position(header, _tsv_fields(line), chosen, line.number, line.size)

    return header, _read


class _CsvRows:
    """Rows of a CSV file with the line each starts on and its size in bytes."""

    def __init__(self, file: File) -> None:
        csv.field_size_limit(LONGEST_FIELD)
        self._file = file
        self._size = 0
        self._reader = csv.reader(self._lines(), strict=True)

    def _lines(self) -> Iterator[str]:
        for line in lines(self._file):
            self._size += line.size
            yield line.text

    def __iter__(self) -> Iterator[tuple[int, int, list[str]]]:
        while True:
            start = self._reader.line_num + 1
            try:
                fields = next(self._reader, None)
            except csv.Error as error:
                where = f"{self._file.origin}:{start}"
                raise InputError(
                    f"{where}: broken CSV: {error}", 'close every quote, and write a quote in a field as ""'
                ) from error
            if fields is None:
                return
            size, self._size = self._size, 0
            if fields:
                yield start, size, fields


def _open_csv(file: File) -> tuple[tuple[str, ...], Read]:
    first = next(iter(_CsvRows(file)), None)
    if first is None:
        raise _empty(file)
    header = tuple(first[2])
    _require_parted(file, header, "commas")

    def _read(columns: Sequence[str]) -> Iterator[Record]:
        chosen = [header.index(column) for column in columns]
        rows = iter(_CsvRows(file))
        next(rows)
        for start, size, fields in rows:
            yield _by_position(header, fields, chosen, start, size)

    return header, _read


def _open_jsonl(file: File) -> tuple[tuple[str, ...], Read]:
    first = next((line for line in lines(file) if line.text.strip()), None)
    if first is None:
        raise _empty(file)
    header = tuple(parse_json(first.text, file.origin, first.number))

    def _read(columns: Sequence[str]) -> Iterator[Record]:
        for line in lines(file):
            if line.text.strip():
                yield _json_record(file.origin, line, columns)

    return header, _read


def _json_record(origin: str, line: Line, columns: Sequence[str]) -> Record:
    record = parse_json(line.text, origin, line.number)
    for column in columns:
        if column not in record:
            raise InputError(
                f"{origin}:{line.number}: no key '{column}'{near(column, record)}",
                "each line needs the keys that the first has; write null where there is no value",
            )
    return text_record(line.number, line.size, [record[column] for column in columns], columns)


def text_record(number: int, size: int, values: Sequence[object], columns: Sequence[str]) -> Record:
    """Returns a row of any values as a Record: texts, or a problem if one is a list or an object."""
    try:
        texts = [as_text(value, column) for value, column in zip(values, columns, strict=True)]
    except NotTextError as error:
        return Record(number, size, (), ("not_text", str(error)))
    return Record(number, size, texts)


def _open_parquet(file: File) -> tuple[tuple[str, ...], Read]:
    try:
        parquet = pq.ParquetFile(file.path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file.origin}: not a Parquet file: {error}", "write it again") from error
    share = file.size // max(parquet.metadata.num_rows, 1)

    def _read(columns: Sequence[str]) -> Iterator[Record]:
        number = 0
        try:
            for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=list(dict.fromkeys(columns))):
                for record in batch_records(batch, columns, number, share):
                    number = record.line
                    yield record
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{file.origin}:{number + 1}: cannot be read: {error}", "write the file again, as UTF-8"
            ) from error

    return tuple(parquet.schema_arrow.names), _read


def batch_records(
    batch: pa.RecordBatch | pa.Table, columns: Sequence[str], before: int, size: int
) -> Iterator[Record]:
    """Yields the rows of an Arrow batch, numbered from `before` + 1, each of `size` units."""
    values = [batch.column(column).to_pylist() for column in columns]
    for number, row in enumerate(zip(*values, strict=True), before + 1):
        yield text_record(number, size, row, columns)


_OPENERS: dict[str, Callable[[File], tuple[tuple[str, ...], Read]]] = {
    ".tsv": _open_tsv,
    ".csv": _open_csv,
    ".jsonl": _open_jsonl,
    ".parquet": _open_parquet,
}
