"""A table of a source: its columns, and a reader that yields chosen columns row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from miner.errors import InputError, listed, near, shown
from miner.sources.values import NotTextError, Passage, as_passages, as_text

ROWS_PER_BATCH = 2_000
"""Few, since a text can be long."""
_BUFFER = 1 << 20
"""Bytes of a column of a Parquet file that are in memory before they are unpacked."""
LIST, OBJECT = "a list", "an object"
"""The kinds of nested values, for messages."""


class Record(NamedTuple):
    """One row: the values of the chosen columns, or the problem with the row."""

    line: int
    size: int
    """How much of the table's `size` the row covers."""
    values: Sequence[str | None]
    passages: Sequence[Sequence[Passage]] = ()
    problem: tuple[str, str] | None = None
    """Reason and detail if the row cannot be used."""

    @property
    def content(self) -> tuple[object, ...]:
        """The values, which exact duplicates have in common; an unusable row has no duplicate."""
        if self.problem is not None:
            return (self.line, *self.problem)
        texts = (p[0].text if len(p) == 1 and p[0] == Passage(p[0].text) else tuple(p) for p in self.passages)
        return (*self.values, *texts)


class Read(Protocol):
    """Yields the rows of a table with the values of chosen columns."""

    def __call__(self, texts: Sequence[str], passages: Sequence[str] = ()) -> Iterator[Record]:
        """Reads columns of single texts, and columns of passages, of which a row may have a list.

        All must be columns of the table. A value that a row of JSON lacks is None.
        """
        ...


@dataclass(frozen=True)
class Table:
    """Data with named columns: a file, or a split of a data set."""

    origin: str
    columns: tuple[str, ...]
    size: int
    unit: str
    read: Read
    nested: Mapping[str, str] = field(default_factory=dict)
    """The columns with nested values: `a list`, `an object` or both."""
    note: str = ""
    """A message to the user about how the table is read; empty for none."""
    mined: bool = False
    """Whether its negatives are known to be mined: `miner export` wrote it."""
    first_row: tuple[str, ...] | None = None
    """The names of the columns if they look like a row of data, so that the file seems to have no header."""

    def require(self, columns: Sequence[str], option: str) -> None:
        """Raises InputError with the first column that is missing, and the nearest name."""
        for column in columns:
            if column not in self.columns:
                if self.first_row is not None:
                    raise self.no_header(column)
                raise InputError(
                    f"{self.origin}: no column '{shown(column)}'{near(column, self.columns)}",
                    f"its columns: {self.listed}; name yours with {option}",
                )

    @property
    def listed(self) -> str:
        """The names of the columns, for messages."""
        return listed(self.described(column, 40) for column in self.columns)

    def described(self, column: str, most: int = 60) -> str:
        """Returns the name of a column, and whether it has lists or objects, for messages."""
        nested = f" ({self.nested[column]})" if column in self.nested else ""
        return f"{shown(column, most)}{nested}"

    def no_header(self, missing: str) -> InputError:
        """Returns the error for a missing column in a file that seems to have no header."""
        names = {2: "query_id,text", 3: "query,positive,negative"}.get(len(self.columns), "query,positive,…")
        return InputError(
            f"{self.origin}: no column '{shown(missing)}'; the file seems to have no header, "
            f"its first row is {self.listed}",
            f"add --no-header, and name the columns in order with --columns, such as {names}",
        )


def open_parquet(path: Path) -> pq.ParquetFile:
    """Returns a Parquet file for reading in batches; without `pre_buffer` it forgets what was read."""
    return pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)


def text_record(
    line: int,
    size: int,
    texts: tuple[Sequence[object], Sequence[str]],
    passages: tuple[Sequence[object], Sequence[str]] = ((), ()),
) -> Record:
    """Returns a Record of values and their columns; its `problem` says if a text is a list or an object."""
    try:
        values = [as_text(value, column) for value, column in zip(*texts, strict=True)]
        found = [as_passages(value, column) for value, column in zip(*passages, strict=True)]
    except NotTextError as error:
        return Record(line, size, (), (), ("not_text", str(error)))
    return Record(line, size, values, found)


def nested_in(schema: pa.Schema) -> dict[str, str]:
    """Returns the columns of a schema with nested values, as `Table.nested` has them."""
    return {
        found.name: OBJECT if pa.types.is_struct(found.type) or pa.types.is_map(found.type) else LIST
        for found in schema
        if pa.types.is_nested(found.type)
    }


def batch_records(
    batch: pa.RecordBatch | pa.Table, texts: Sequence[str], passages: Sequence[str], before: int, size: int
) -> Iterator[Record]:
    """Yields the rows of an Arrow batch, numbered from `before` + 1, each with this `size`."""
    columns = [batch.column(column).to_pylist() for column in (*texts, *passages)]
    if (
        texts
        and not passages
        and all(pa.types.is_string(batch.schema.field(column).type) for column in texts)
    ):
        for line, values in enumerate(zip(*columns, strict=True), before + 1):
            yield Record(line, size, values)
        return
    cut = len(texts)
    for number in range(batch.num_rows):
        row = [column[number] for column in columns]
        yield text_record(before + number + 1, size, (row[:cut], texts), (row[cut:], passages))
