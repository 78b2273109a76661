"""Chosen columns of a tabular file as Arrow arrays: for ids and numbers, not for texts.

Arrow's own readers do the work. The readers of rows read a file again that Arrow refuses, or whose values it
would change, such as ids that look like times: they keep values as written, and know the line of an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from miner.collection.given import CANDIDATES, ID
from miner.errors import InputError, shown
from miner.sources.delimited import is_quoted
from miner.sources.files import File, lines, mentions
from miner.sources.table import LIST, Table
from miner.sources.tabular import open_table
from miner.sources.values import as_number, parse_json

BLOCK = 1 << 25
"""Bytes of a text file that Arrow parses at a time; a longer line of JSON is read row by row."""

Choice = Mapping[str, str]
"""The column of each role; the roles in TEXTS are ids, and those in LISTS have a list in each row."""
TEXTS = ("query", "document", "documents", "positives")
LISTS = ("documents", "scores", "positives")


@dataclass(frozen=True)
class ArrowColumns:
    """Columns of a file, by role."""

    file: File
    names: tuple[str, ...]
    """All columns of the file."""
    choice: Choice
    values: pa.Table
    """The chosen columns, with their own names."""

    def __getitem__(self, role: str) -> pa.ChunkedArray:
        return self.values[self.choice[role]]

    def at(self, row: int, what: str, hint: str) -> InputError:
        """Returns an error at a row, with its line."""
        table = open_table(self.file)
        columns = (
            [[], [*self.choice.values()]] if set(self.choice) & set(LISTS) else [[*self.choice.values()]]
        )
        record = next(islice(table.read(*columns), row, None))
        return InputError(f"{self.file.origin}:{record.line}: {what}", hint)

    @property
    def unread(self) -> list[str]:
        """The columns that were not chosen."""
        return [name for name in self.names if name not in self.choice.values()]


def read_columns(file: File, choose: Callable[[Sequence[str]], Choice]) -> ArrowColumns:
    """Returns the columns that `choose` picks from the names of a .csv, .tsv, .json, .jsonl or .parquet file.

    Raises InputError for a file that cannot be read, with its line if possible.
    """
    try:
        if file.suffix == ".parquet":
            return _parquet(file, choose)
        if file.suffix in (".csv", ".tsv"):
            return _delimited(file, choose)
        return _json(file, choose) or _rows(open_table(file), file, choose)
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: File, error: Exception) -> InputError:
    return InputError(f"{file.origin}: cannot be read: {error}", "check the file, or write it again")


def _parquet(file: File, choose: Callable[[Sequence[str]], Choice]) -> ArrowColumns:
    names = open_table(file).columns
    choice = choose(names)
    try:
        with pq.ParquetFile(file.path) as parquet:
            values = parquet.read(columns=list(choice.values()))
        values.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from error
    return ArrowColumns(file, names, choice, values)


def _delimited(file: File, choose: Callable[[Sequence[str]], Choice]) -> ArrowColumns:
    table = open_table(file)
    choice = choose(table.columns)
    sign = "\t" if file.suffix == ".tsv" else ","
    quoted = sign == "," or is_quoted(file)[0]
    parsing = pa.csv.ParseOptions(
        delimiter=sign,
        quote_char='"' if quoted else False,
        newlines_in_values=quoted and mentions(file, b'"'),
    )
    converting = pa.csv.ConvertOptions(
        include_columns=list(choice.values()),
        column_types=dict.fromkeys(choice.values(), pa.string()),
        strings_can_be_null=False,
    )
    try:
        values = pa.csv.read_csv(file.path, pa.csv.ReadOptions(block_size=BLOCK), parsing, converting)
    except (pa.ArrowException, UnicodeDecodeError):
        return _rows(table, file, choose)
    return ArrowColumns(file, table.columns, choice, values)


def _json(file: File, choose: Callable[[Sequence[str]], Choice]) -> ArrowColumns | None:
    """Returns the columns by Arrow's reader; None if only the reader of rows reads it as written."""
    first = next((line for line in lines(file) if line.text.strip()), None)
    if first is None or not first.text.lstrip().startswith("{"):
        return None
    record = parse_json(first.text, file.origin, first.number, json.JSONDecoder())
    try:
        choice = choose(list(record))
        types = {name: _type(role, record[name]) for role, name in choice.items()}
        schema = pa.schema([pa.field(name, kind) for name, kind in types.items() if kind is not None])
        values = pa.json.read_json(
            file.path, pa.json.ReadOptions(block_size=BLOCK), pa.json.ParseOptions(explicit_schema=schema)
        )
        values.validate(full=True)
        choice = choose(values.column_names)
    except (pa.ArrowException, InputError):
        return None
    chosen = values.select(list(dict.fromkeys(choice.values())))
    if not all(_as_written(role, chosen[name].type) for role, name in choice.items()):
        return None
    return ArrowColumns(file, tuple(values.column_names), choice, chosen)


def _type(role: str, value: object) -> pa.DataType | None:
    """Returns the type to read a column as, by its first value; None leaves it to Arrow."""
    if role in LISTS:
        if not isinstance(value, list) or not value:
            return None
        kind = _type("query" if role in TEXTS else "score", value[0])
        return None if kind is None else pa.list_(kind)
    if role not in TEXTS:
        return pa.float64()
    return pa.string() if isinstance(value, str) else None


def _as_written(role: str, kind: pa.DataType) -> bool:
    """Returns whether ids of this type were not changed when they were read."""
    inner = kind.value_type if role in LISTS and pa.types.is_list(kind) else kind
    return role not in TEXTS or pa.types.is_string(inner) or pa.types.is_integer(inner)


def _rows(table: Table, file: File, choose: Callable[[Sequence[str]], Choice]) -> ArrowColumns:
    """Returns the columns by the reader of rows, all as texts; raises InputError for a bad row."""
    choice = choose(table.columns)
    single = [name for role, name in choice.items() if role not in LISTS]
    several = [name for role, name in choice.items() if role in LISTS]
    found: dict[str, list[object]] = {name: [] for name in (*single, *several)}
    for record in table.read(single, several):
        if record.problem is not None:
            raise InputError(f"{file.origin}:{record.line}: {record.problem[1]}", "correct the row")
        for name, value in zip(single, record.values, strict=True):
            found[name].append(value)
        for name, passages in zip(several, record.passages, strict=True):
            found[name].append([passage.text for passage in passages])
    types = {name: pa.string() for name in single} | {name: pa.list_(pa.string()) for name in several}
    values = pa.table({name: pa.array(found[name], types[name]) for name in found})
    return ArrowColumns(file, table.columns, choice, values)


def ids(columns: ArrowColumns, role: str) -> pa.DictionaryArray:
    """Returns a column of ids as texts, dictionary-encoded.

    Raises InputError for a missing id, and for a column of anything but texts and whole numbers.
    """
    name, column = columns.choice[role], columns[role]
    return encoded(column, f"column '{shown(name)}'", partial(columns.at), columns.file.origin)


def encoded(
    column: pa.ChunkedArray, what: str, at: Callable[[int, str, str], InputError], origin: str
) -> pa.DictionaryArray:
    """Returns ids as texts, dictionary-encoded; `at` makes the error for a missing id at a row."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise InputError(f"{origin}: {what} has values of type {kind}", "write ids as texts or whole numbers")
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.cast(pa.dictionary(pa.int32(), kind)).unify_dictionaries()
    codes = pa.chunked_array([chunk.indices for chunk in column.chunks], pa.int32()).combine_chunks()
    values = column.chunk(0).dictionary if column.num_chunks else pa.array([], kind)
    if isinstance(codes, pa.ChunkedArray):
        codes = pa.concat_arrays(codes.chunks)
    values = values.cast(pa.string())
    empty = pc.fill_null(pc.equal(values, ""), True)
    missing = pc.is_null(codes).to_numpy(zero_copy_only=False)
    if pc.any(empty).as_py():
        missing |= pc.is_in(codes, pa.array(np.flatnonzero(empty), pa.int32())).to_numpy(zero_copy_only=False)
    if missing.any():
        raise at(int(missing.argmax()), f"{what} is empty", "give every row its ids")
    return pa.DictionaryArray.from_arrays(codes, values).cast(ID)


def numbers(columns: ArrowColumns, role: str) -> pa.Array:
    """Returns a column of numbers as float64; raises InputError for a value that is not a finite number."""
    name, column = columns.choice[role], columns[role]
    return as_numbers(column, f"column '{shown(name)}'", columns.at, columns.file.origin)


def as_numbers(
    column: pa.ChunkedArray, what: str, at: Callable[[int, str, str], InputError], origin: str
) -> pa.Array:
    """Returns numbers as float64; `at` makes the error for a row whose value is not a finite number."""
    kind, hint = column.type, "write a finite number in each row"
    if not any(
        is_it(kind)
        for is_it in (pa.types.is_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    ):
        raise InputError(f"{origin}: {what} has values of type {kind}", "write numbers")
    try:
        values = pc.utf8_trim_whitespace(column) if pa.types.is_string(kind) else column
        found = values.cast(pa.float64())
    except pa.ArrowInvalid:
        row, value = next(
            (row, value) for row, value in enumerate(column.to_pylist()) if as_number(value) is None
        )
        shown_value = "missing" if value in (None, "") else f"'{shown(value)}', not a finite number"
        raise at(row, f"{what} is {shown_value}", hint) from None
    wrong = pc.invert(pc.fill_null(pc.is_finite(found), False))
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        value = found[row].as_py()
        raise at(row, f"{what} is {'missing' if value is None else f'{value}, not a finite number'}", hint)
    return pa.concat_arrays(found.chunks) if found.num_chunks else pa.array([], pa.float64())


def is_list_column(columns: ArrowColumns, role: str) -> bool:
    """Returns whether a column has a list in each row."""
    return is_list(columns[role].type)


def is_list(kind: pa.DataType) -> bool:
    """Returns whether values of a type are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def require_lists(columns: ArrowColumns) -> None:
    """Raises InputError if a chosen column of lists has other values."""
    for role in columns.choice:
        if role in LISTS and not is_list_column(columns, role):
            raise InputError(
                f"{columns.file.origin}: column '{shown(columns.choice[role])}' has values of type "
                f"{columns[role].type}, not {LIST}",
                "write a list in each row, not its text",
            )


def column_named(names: Sequence[str], known: Sequence[str]) -> str | None:
    """Returns the first known name among the names of columns, in any case; None if there is none."""
    by_name = {name.strip().lower(): name for name in reversed(names)}
    return next((by_name[name] for name in known if name in by_name), None)


def candidates_table(
    query: pa.DictionaryArray, doc: pa.DictionaryArray, rank: pa.Array | None, score: pa.Array | None
) -> pa.Table:
    """Returns a table of candidates; ranks or scores that are None are missing."""
    return pa.Table.from_arrays(
        [
            query,
            doc,
            pa.nulls(len(query), pa.int32()) if rank is None else rank,
            pa.nulls(len(query), pa.float64()) if score is None else score,
        ],
        schema=CANDIDATES,
    )


def digest_of(files: Sequence[File]) -> str:
    """Returns the sha256 of the bytes of files, in this order."""
    total = hashlib.sha256()
    for file in files:
        with open(file.path, "rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
