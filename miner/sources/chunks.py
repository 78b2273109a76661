"""Long documents cut into chunks of words, sentences or tokens, as they are read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from miner.errors import ModelError, UsageError, shown
from miner.models.names import resolve
from miner.sources.config import SourceConfig
from miner.text import part_spans

UNITS = ("words", "sentences", "tokens")
_CLOSING = "\"'”’)\\]»"
_SENTENCE_END = re.compile(
    rf"(?:(?<=[.!?…])|(?<=[.!?…][{_CLOSING}]))\s+|(?<=[。！？])(?![{_CLOSING}」』])\s*|\s*\n\s*\n\s*"
)
"""What separates two sentences: white space after a full stop, the mark itself in Chinese and Japanese, an
empty line."""
_PARENTS = pa.schema(
    [("doc_id", pa.string()), ("parent", pa.string()), ("number", pa.int32()), ("start", pa.int64())]
)

Span = tuple[int, int]


@dataclass(frozen=True)
class Chunking:
    """How to cut documents: at most `size` units a chunk, of which `overlap` are in the one before too."""

    unit: str
    """One of UNITS."""
    size: int
    overlap: int
    tokenizer: str
    """The model whose tokens count."""

    @classmethod
    def of(cls, config: SourceConfig) -> Chunking | None:
        """Returns what a configuration says; None to leave documents whole. Raises UsageError."""
        unit, _, number = (config.chunk or "").partition(":")
        default = SourceConfig()
        for name, counts in (("overlap", bool(unit)), ("chunk_tokenizer", unit == "tokens")):
            if not counts and getattr(config, name) != getattr(default, name):
                kind = "chunk" if name == "overlap" else "chunk=tokens:N"
                raise UsageError(f"{name} has no effect without {kind}", f"add --set {kind}, or leave it out")
        if config.chunk is None:
            return None
        if unit not in UNITS or not number.isdecimal() or not 0 < int(number) <= 1_000_000:
            raise UsageError(
                f"chunk must be {', '.join(f'{one}:N' for one in UNITS)}, got '{shown(config.chunk)}'",
                "write such as --set chunk=words:200",
            )
        if config.overlap >= int(number):
            raise UsageError(
                f"overlap must be below the size of a chunk ({number}), got {config.overlap}",
                f"write at most --set overlap={int(number) - 1}",
            )
        return cls(unit, int(number), config.overlap, config.chunk_tokenizer)

    def spans(self, text: str) -> list[Span]:
        """Returns the chunks of a text, each by its first character and the one after its last.

        A text of at most `size` units is one chunk, and so is one without any.
        """
        units = self._units(text)
        if len(units) <= self.size:
            return [(0, len(text))]
        # A chunk ends where the next unit begins: what a tokenizer passes over, such as marks, is not lost.
        starts = [0, *(start for start, _ in units[1:]), len(text)]
        found = list[Span]()
        for first in range(0, len(units), self.size - self.overlap):
            stop = min(first + self.size, len(units))
            found.append(_trimmed(text, starts[first], starts[stop]))
            if stop == len(units):
                break
        return found

    def _units(self, text: str) -> list[Span]:
        if self.unit == "words":
            return part_spans(text)
        if self.unit == "sentences":
            return list(_sentences(text))
        return [span for span in self._tokenizer.encode(text, add_special_tokens=False).offsets if span[1]]

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        file = resolve(self.tokenizer).path / "tokenizer.json"
        if not file.is_file():
            raise ModelError(
                f"{self.tokenizer} has no tokenizer.json", "name another with --set chunk_tokenizer=MODEL"
            )
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def cut(self, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """Returns the tables of a part with chunks in place of long documents.

        The chunks of a document `d` are `d#1`, `d#2`, and so on, with its title and label; the table
        `parents` says which document each is part of, and at which character it starts.
        """
        if "documents" not in tables:
            return dict(tables)
        documents = tables["documents"]
        spans = [self.spans(text) for text in documents["text"].to_pylist()]
        if all(len(found) == 1 for found in spans):
            return dict(tables)
        row = [number for number, found in enumerate(spans) for _ in found]
        parents = list[dict[str, Any]]()
        ids, texts = list[str](), list[str]()
        rows = zip(documents["doc_id"].to_pylist(), documents["text"].to_pylist(), spans, strict=True)
        for parent, text, found in rows:
            for number, (start, stop) in enumerate(found, start=1):
                is_whole = len(found) == 1
                ids.append(parent if is_whole else f"{parent}#{number}")
                texts.append(text if is_whole else text[start:stop])
                if not is_whole:
                    own = {"doc_id": ids[-1], "parent": parent, "number": number, "start": start}
                    parents.append(own)
        chunks = _replaced(documents.take(pa.array(row)), {"doc_id": ids, "text": texts})
        return {**tables, "documents": chunks, "parents": pa.Table.from_pylist(parents, _PARENTS)}


def _replaced(table: pa.Table, columns: Mapping[str, Sequence[str]]) -> pa.Table:
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, pa.string()))
    return table


def _sentences(text: str) -> Iterator[Span]:
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if text[start : end.start()].strip():
            yield _trimmed(text, start, end.start())
            start = end.end()
    if text[start:].strip():
        yield _trimmed(text, start, len(text))


def _trimmed(text: str, start: int, stop: int) -> Span:
    piece = text[start:stop]
    return start + len(piece) - len(piece.lstrip()), stop - len(piece) + len(piece.rstrip())
