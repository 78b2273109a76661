"""What sources hand over: documents, queries and judgments as Arrow tables, piece by piece."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from miner.schema import DOCUMENTS, JUDGMENTS, QUERIES
from miner.text import clean

ROWS_PER_PART = 50_000
CHARACTERS_PER_PART = 50_000_000
"""Whichever comes first ends a part, so that memory stays bounded for long texts too."""

_PLACE = [pa.field("origin", pa.string(), nullable=False), pa.field("line", pa.int64())]

_SCHEMAS: dict[str, pa.Schema] = {
    "documents": pa.schema([*DOCUMENTS, *_PLACE]),
    "queries": pa.schema([*QUERIES, *_PLACE]),
    "judgments": pa.schema([*JUDGMENTS, *_PLACE]),
    "rows": pa.schema([pa.field("kind", pa.string()), *_PLACE, pa.field("key", pa.int64())]),
    "rejected": pa.schema([*_PLACE, pa.field("reason", pa.string()), pa.field("detail", pa.string())]),
}


@dataclass(frozen=True)
class Part:
    """A piece of a source, as `Rows` collects it; a table without rows is None.

    Every table has two columns more than its schema: `origin`, the file as the user named it, and
    `line`, the line or row number there.
    """

    documents: pa.Table | None = None
    queries: pa.Table | None = None
    judgments: pa.Table | None = None
    rows: pa.Table | None = None
    """The rows of the source itself: kind, origin, line and a key of the content, equal for equal rows."""
    rejected: pa.Table | None = None
    """Rows that the source could not use: origin, line, reason, detail."""
    cleaned: int = 0
    """How many texts held characters that no store can keep."""
    size: int = 0
    """How much of `Source.total` this part used up."""
    note: str = ""
    """What the user should know about what was read up to here; empty if nothing."""

    def tables(self) -> Mapping[str, pa.Table]:
        """Returns the tables that have rows, by name."""
        return {name: table for name in _SCHEMAS if (table := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Source:
    """One source, opened: its parts are read as they are asked for."""

    name: str
    total: int
    unit: str
    """What `total` and the parts' `size` count: bytes, rows or files."""
    parts: Iterator[Part]
    note: str = ""
    """What the user should know about how it is read; empty if nothing."""


class Rows:
    """Collects what a source finds, row by row, and hands it out as parts.

    `start` opens a row of the source; what follows until the next `start` belongs to that row.
    """

    def __init__(self) -> None:
        self.size = 0
        """How much of the source was read since the last part; the source counts it up."""
        self._place: tuple[str, int | None] = ("", None)
        self._clear()

    def _clear(self) -> None:
        self._tables: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _SCHEMAS}
        self._rows = self._characters = self.size = 0

    def _add(self, table: str, *values: Any) -> None:
        self._rows += 1
        self._tables[table].append((*values, *self._place))

    def start(self, kind: str, origin: str, line: int | None, *content: object) -> None:
        """Opens a row of the source; `kind` names such rows in the plural, for messages.

        Two rows of one kind with equal `content` count as exact duplicates.
        """
        self.at(origin, line)
        self._tables["rows"].append((kind, *self._place, _key(content)))

    def at(self, origin: str, line: int | None = None) -> None:
        """Names the place of what follows when it is no row of the source itself."""
        self._place = (origin, line)

    def document(self, doc_id: str, text: str, title: str = "", label: str | None = None) -> None:
        """Adds a document."""
        self._characters += len(title) + len(text)
        self._add("documents", doc_id, title, text, label)

    def query(self, query_id: str, text: str, label: str | None = None) -> None:
        """Adds a query."""
        self._characters += len(text)
        self._add("queries", query_id, text, label)

    def judgment(self, query_id: str, doc_id: str, split: str, relevance: float = 1.0) -> None:
        """Adds a judgment; a relevance of 0 or less is a judged negative."""
        self._add("judgments", query_id, doc_id, relevance, split, "gold")

    def reject(self, reason: str, detail: str) -> None:
        """Notes that the row cannot be used, or only in part; it counts as bad."""
        self._rows += 1
        self._tables["rejected"].append((*self._place, reason, detail))

    @property
    def full(self) -> bool:
        """Whether it is time to hand out a part."""
        return self._rows >= ROWS_PER_PART or self._characters >= CHARACTERS_PER_PART

    def part(self) -> Part:
        """Returns what was collected since the last part, cleaned, and starts anew."""
        tables, cleaned = {}, 0
        for name, rows in self._tables.items():
            if rows:
                tables[name], changed = _table(rows, _SCHEMAS[name])
                cleaned += changed
        part = Part(**tables, cleaned=cleaned, size=self.size)
        self._clear()
        return part


def _key(content: tuple[object, ...]) -> int:
    digest = hashlib.blake2b(repr(content).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> tuple[pa.Table, int]:
    """Returns the rows as a table without characters that cannot be stored, and how many texts had some."""
    arrays, cleaned = [], 0
    for column, field in zip(zip(*rows, strict=True), schema, strict=True):
        values = list(column)
        if field.type == pa.string() and clean("".join(filter(None, values)))[1]:
            pairs = [(value, False) if value is None else clean(value) for value in values]
            values = [value for value, _ in pairs]
            cleaned += sum(changed for _, changed in pairs)
        arrays.append(pa.array(values, type=field.type))
    return pa.Table.from_arrays(arrays, schema=schema), cleaned
