"""Judgments: BEIR's three columns between tabs, or TREC's four."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from miner.errors import InputError
from miner.sources.files import File, lines
from miner.sources.part import Part, Rows
from miner.sources.values import as_number


@dataclass(frozen=True)
class Layout:
    """What a line holds."""

    fields: Callable[[str], list[str]]
    """Cuts a line."""
    width: int
    """So many fields; the last is the relevance."""
    document: int
    """The place of the document's id; the query's stands first."""
    header: bool
    """Whether a first line without a number is one."""
    told: str
    """How an error goes on after the number of fields."""


BEIR = Layout(
    lambda line: line.rstrip("\r\n").split("\t"), 3, 1, True, " between tabs, not query, document, relevance"
)
TREC = Layout(str.split, 4, 2, False, ", not query, iteration, document, relevance")


def judgments(file: File, split: str, layout: Layout) -> Iterator[Part]:
    """Yields the judgments of one file, all of one split."""
    rows = Rows()
    for line in lines(file):
        rows.size += line.size
        fields = layout.fields(line.text)
        complete = len(fields) == layout.width
        header = layout.header and line.number == 1 and complete and as_number(fields[-1]) is None
        if line.text.strip() and not header:
            _judgment(rows, file.origin, line.number, fields, split, layout)
        if rows.full:
            yield rows.part()
    yield rows.part()


def _judgment(rows: Rows, origin: str, number: int, fields: list[str], split: str, layout: Layout) -> None:
    relevance = as_number(fields[-1])
    rows.start("judgments", origin, number, *fields, split)
    if len(fields) != layout.width:
        rows.reject("field_count", f"{len(fields)} fields{layout.told}")
    elif relevance is None:
        rows.reject("bad_relevance", f"relevance '{fields[-1]}' is not a number")
    else:
        rows.judgment(fields[0], fields[layout.document], split, relevance)


def read_judgments(path: Path) -> pa.Table:
    """Returns the judgments of a file: query_id, doc_id, relevance; a pair judged twice has the highest.

    Raises InputError when there is no such file or a line is no judgment.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", "name a file of judgments: query, document, relevance")
    file = File(path, str(path))
    first = next((line.text for line in lines(file) if line.text.strip()), "")
    found = []
    for part in judgments(file, "", BEIR if len(first.split("\t")) == 3 else TREC):
        if part.rejected is not None:
            bad = part.rejected.slice(0, 1).to_pylist()[0]
            raise InputError(
                f"{path}:{bad['line']}: {bad['detail']}",
                "a line is `query document relevance` between tabs, or TREC's `query 0 document relevance`",
            )
        if part.judgments is not None:
            found.append(part.judgments.select(["query_id", "doc_id", "relevance"]))
    if not found:
        raise InputError(f"{path} holds no judgments", "name a file of judgments: query, document, relevance")
    table = pa.concat_tables(found).group_by(["query_id", "doc_id"]).aggregate([("relevance", "max")])
    return table.rename_columns({"relevance_max": "relevance"})
