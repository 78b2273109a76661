"""The output of a source: documents, queries and judgments as Arrow tables, in parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from miner.schema import DOCUMENTS, JUDGMENTS, QUERIES
from miner.text import clean

ROWS_PER_PART = 50_000
CHARACTERS_PER_PART = 50_000_000
"""A part ends at either limit, so that memory stays bounded for long texts too."""

_LOCATION = [pa.field("origin", pa.string(), nullable=False), pa.field("line", pa.int64())]

_SCHEMAS: dict[str, pa.Schema] = {
    "documents": pa.schema([*DOCUMENTS, *_LOCATION]),
    "queries": pa.schema([*QUERIES, *_LOCATION]),
    "judgments": pa.schema([*JUDGMENTS, *_LOCATION]),
    "rows": pa.schema([pa.field("kind", pa.string()), *_LOCATION, pa.field("key", pa.int64())]),
    "rejected": pa.schema([*_LOCATION, pa.field("reason", pa.string()), pa.field("detail", pa.string())]),
}


@dataclass(frozen=True)
class Part:
    """A part of a source, as `Rows` collects it; a table without rows is None.

    Every table has two columns besides those of its schema: `origin`, the file as the user named it, and
    `line`, the number of the line or row there.
    """

    documents: pa.Table | None = None
    queries: pa.Table | None = None
    judgments: pa.Table | None = None
    rows: pa.Table | None = None
    """The rows of the source: kind, origin, line, and a key that rows with the same content share."""
    rejected: pa.Table | None = None
    """Rows that cannot be used: origin, line, reason, detail."""
    cleaned: int = 0
    """Number of texts with characters that a store cannot hold."""
    size: int = 0
    """How much of `Source.total` this part covers."""
    note: str = ""
    """A message to the user about what was read so far; empty for none."""

    def tables(self) -> Mapping[str, pa.Table]:
        """Returns the tables that have rows, by name."""
        return {name: table for name in _SCHEMAS if (table := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Source:
    """One opened source; reading a part happens when the iterator reaches it."""

    name: str
    total: int
    unit: str
    """The unit of `total` and of the parts' `size`: bytes, rows or files."""
    parts: Iterator[Part]
    note: str = ""
    """A message to the user about how the source is read; empty for none."""
    divided: bool = False
    """Whether the source itself divides its queries into the splits that `dev` and `test` ask for."""
    read_as: str = ""
    """The format that the source is read as, and what its columns hold; empty for what needs no word."""
    annotated: bool = False
    """Whether several people may have judged a pair: then they may disagree."""
    columns: tuple[str, ...] = ()
    """The columns that options may name."""


class Rows:
    """Collects documents, queries and judgments row by row, and turns them into parts.

    `start` begins a row of the source; what is added until the next `start` belongs to that row.
    """

    def __init__(self) -> None:
        self.size = 0
        """How much of the source was read since the last part; the source increases it."""
        self._location: tuple[str, int | None] = ("", None)
        self._clear()

    def _clear(self) -> None:
        # The values of each table row after row: a tuple per row would be an object more to look after.
        self._tables: dict[str, list[Any]] = {name: [] for name in _SCHEMAS}
        self._rows = self._characters = self.size = 0

    def _add(self, table: str, *values: Any) -> None:
        self._rows += 1
        self._tables[table] += (*values, *self._location)

    def start(self, kind: str, origin: str, line: int | None, *content: object) -> None:
        """Begins a row of the source; `kind` is the plural noun for such rows in messages.

        Two rows of one kind with the same `content` are exact duplicates.
        """
        self.at(origin, line)
        self._tables["rows"] += (kind, *self._location, _key(content))

    def at(self, origin: str, line: int | None = None) -> None:
        """Sets the file and line of what follows, if it does not come from a row of the source."""
        self._location = (origin, line)

    def document(self, doc_id: str, text: str, title: str = "", label: str | None = None) -> None:
        """Adds a document."""
        self._characters += len(title) + len(text)
        self._add("documents", doc_id, title, text, label)

    def query(self, query_id: str, text: str, label: str | None = None) -> None:
        """Adds a query."""
        self._characters += len(text)
        self._add("queries", query_id, text, label)

    def text(self, kind: str, identity: str, text: str, title: str = "", *, id_name: str = "the id") -> None:
        """Adds a document or, of another `kind`, a query; rejects one whose id is empty."""
        if not identity:
            self.reject("empty_id", f"{id_name} is empty")
        elif kind == "documents":
            self.document(identity, text, title)
        else:
            self.query(identity, text)

    def judgment(self, query_id: str, doc_id: str, split: str, relevance: float = 1.0) -> None:
        """Adds a judgment; a relevance of 0 or less means not relevant."""
        self._add("judgments", query_id, doc_id, relevance, split, "gold")

    def reject(self, reason: str, detail: str) -> None:
        """Records that the row cannot be used, or only in part; it counts as bad."""
        self._rows += 1
        self._tables["rejected"] += (*self._location, reason, detail)

    @property
    def ready(self) -> bool:
        """Whether enough rows are collected for a part."""
        return self._rows >= ROWS_PER_PART or self._characters >= CHARACTERS_PER_PART

    def part(self) -> Part:
        """Returns the part collected since the last call, with its texts cleaned."""
        tables, cleaned = {}, 0
        for name, values in self._tables.items():
            if values:
                tables[name], changed = _table(values, _SCHEMAS[name])
                cleaned += changed
        part = Part(**tables, cleaned=cleaned, size=self.size)
        self._clear()
        return part


def _key(content: tuple[object, ...]) -> int:
    """Returns a number for the content of a row, the same for equal content in this process only."""
    return hash(repr(content))  # -1 and -2 have one hash, 1 and True are equal


def _table(values: list[Any], schema: pa.Schema) -> tuple[pa.Table, int]:
    """Returns a table of values, row after row, without characters that stores cannot hold.

    Also returns the number of texts that had some.
    """
    arrays, cleaned = [], 0
    for number, field in enumerate(schema):
        column = values[number :: len(schema)]
        array = _storable(column, field.type)
        if array is None:
            pairs = [(value, False) if value is None else clean(value) for value in column]
            cleaned += sum(changed for _, changed in pairs)
            array = pa.array([value for value, _ in pairs], field.type)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema), cleaned


def _storable(column: list[Any], kind: pa.DataType) -> pa.Array | None:
    """Returns a column as an array; None if `clean` would remove characters from a text."""
    try:
        array = pa.array(column, kind)
    except UnicodeEncodeError:  # a lone surrogate
        return None
    if kind == pa.string() and (data := array.buffers()[2]) is not None:
        return array if np.frombuffer(data, np.uint8).all() else None  # no NUL character
    return array
