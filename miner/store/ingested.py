"""The result of an ingest: what was added, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from miner.reporting.readable import Readable


@dataclass(frozen=True)
class Rejection:
    """The rows that were left out for one reason."""

    reason: str
    rows: int
    first: tuple[str, ...]
    """The first rows: file, line and what is wrong."""


@dataclass(frozen=True)
class Identity:
    """Whether a query and the document with its id are the same text, and what the ids suggest."""

    queries_are_documents: bool
    without_document: int
    """Number of queries without a document of the same id."""
    other_text: int
    """Number of queries whose id belongs to a document with another text."""


@dataclass(frozen=True, repr=False)
class IngestReport(Readable):
    """The result of an ingest. The mappings have a key per table: documents, queries, judgments."""

    added: Mapping[str, int]
    already_there: Mapping[str, int]
    """Rows that the store already had."""
    splits: Mapping[str, int]
    """Positives per split that the store now has."""
    queries: Mapping[str, int]
    """Queries with positives per split, among the added rows."""
    in_several_splits: int
    """Query texts with positives in several splits: a model may be measured on what it was trained on."""
    kept_split: int
    """Query texts that stay in their split, though `dev`, `test` and the seed give them another."""
    cleaned: int
    """Texts from which NUL characters or lone surrogates were removed."""
    rejected: tuple[Rejection, ...]
    identity: Identity
    cut: int = 0
    """Documents that were cut into chunks."""
    all_chunks: int = 0
    """Relevant documents that were cut and share no word with the query: all their chunks are positives."""
    understood: tuple[str, ...] = ()
    """What each source was taken for, and its first rows as they were understood."""

    def __repr__(self) -> str:
        added = ", ".join(f"{number:,} {name}" for name, number in self.added.items())
        splits = ", ".join(f"{split} {number:,}" for split, number in self.splits.items())
        left_out = sum(one.rows for one in self.rejected)
        left = f"; {left_out:,} rows left out" if left_out else ""
        return f"Ingest: {added} added; positives: {splits or 'none'}{left}"
