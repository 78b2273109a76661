"""What an ingest understood: the format of a source, what its columns hold, and its first rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from miner.errors import shown
from miner.sources.layouts import Layout
from miner.sources.part import Part
from miner.sources.table import Table
from miner.sources.training_rows import HAS_ANSWER, PLAIN, RETRIEVED

ROWS = 3
"""How many rows are shown of each source."""
_LONGEST_TEXT = 40
_MOST_TEXTS = 2
_MINED = "mined, not judged"


def read_as(tables: Sequence[tuple[Table, Layout]]) -> str:
    """Returns what tables are read as, and what each column holds: `pairs: query = query, …`."""
    called = dict.fromkeys(_called(table, layout) for table, layout in tables)
    roles: dict[str, str] = {}
    for _, layout in tables:
        roles |= {name: role for name, role in _roles(layout).items() if name not in roles}
    columns = ", ".join(f"{shown(name)} = {role}" for name, role in roles.items())
    return f"{' and '.join(called)}: {columns}"


def _called(table: Table, layout: Layout) -> str:
    exported = "an export of miner, " if table.mined else ""
    shape = layout.shape
    if layout.kind == "ids":
        return f"{exported}rows of ids"
    if shape is None or shape.called == PLAIN:
        return exported + layout.kind
    return f"{exported}{shape.called}"


def _roles(layout: Layout) -> dict[str, str]:
    """Returns the columns that are read with what each holds."""
    if layout.id_rows is not None:
        mined = {name: f"ids of negatives, {_MINED}" for name in layout.id_rows.negatives if layout.mined}
        if not layout.has_negatives:
            mined = dict.fromkeys(layout.id_rows.negatives, "ids of negatives (none)")
        return layout.id_rows.roles | mined
    if layout.kind == "labels":
        return {layout.text: "text", layout.label: "label"}
    if layout.kind in ("documents", "queries"):
        noun = {"documents": "document", "queries": "query"}[layout.kind]
        named = {
            layout.query_id or layout.document_id: f"{noun} id",
            layout.text: noun,
            layout.title: "title",
        }
        return {name: role for name, role in named.items() if name is not None}
    graded = layout.grades is not None or layout.relevance is not None
    positive = "documents" if graded else "positives" if layout.judged else "documents, not judged"
    found: dict[str | None, str] = {
        layout.query_id: "query id",
        layout.query: "query",
        layout.document_id: "document id",
        layout.positive: positive,
    }
    with_scores = f"; with scores: {_MINED}" if layout.shape and layout.shape.passages else ""
    for name in layout.negatives:
        is_mined = layout.mined or name == RETRIEVED
        how = _MINED if is_mined else f"judged not relevant{with_scores}"
        found[name] = f"negatives ({how if layout.has_negatives else 'none'})"
    for name, column in layout.ids.items():
        found[column] = f"ids of {name}"
    relevance = layout.relevance or layout.grades
    found[relevance] = f"relevance of {layout.positive}"
    if relevance == HAS_ANSWER:
        found.pop(relevance)
        found[f"{layout.positive}.{HAS_ANSWER}"] = f"relevance of {layout.positive}"
    return {name: role for name, role in found.items() if name is not None}


class _Line(NamedTuple):
    origin: str
    line: int | None

    def __str__(self) -> str:
        return self.origin if self.line is None else f"{self.origin}:{self.line}"


class FirstRows:
    """Keeps the first rows of a source as documents, queries and judgments; `add` gets each of its parts."""

    def __init__(self) -> None:
        self._lines: dict[str, list[_Line]] = {}
        self._found: dict[_Line, dict[str, list[dict[str, Any]]]] = {}

    def add(self, part: Part) -> None:
        """Keeps the rows of a part that are among the first of their kind."""
        if part.rows is None:
            return
        kinds = part.rows["kind"]
        for kind in pc.unique(kinds).to_pylist():
            lines = self._lines.setdefault(kind, [])
            if len(lines) < ROWS:
                found = _first_lines(part.rows.filter(pc.equal(kinds, kind)), ROWS + len(lines))
                lines += [line for line in found if line not in lines][: ROWS - len(lines)]
        new = {line: None for lines in self._lines.values() for line in lines if line not in self._found}
        for name, table in part.tables().items() if new else ():
            for line in new:
                rows = _at(table, line)
                self._found.setdefault(line, {}).setdefault(name, []).extend(rows)

    def lines(self) -> Iterator[str]:
        """Yields a line for each row, at most ROWS, some of each kind."""
        chosen: list[_Line] = []
        for number in range(ROWS):
            chosen += [lines[number] for lines in self._lines.values() if number < len(lines)]
        shown = list(dict.fromkeys(chosen))[:ROWS]
        order = [line for lines in self._lines.values() for line in lines if line in shown]
        for line in dict.fromkeys(order):
            yield f"  {line}: {'; '.join(_described(self._found[line]))}"


def _first_lines(rows: pa.Table, count: int) -> list[_Line]:
    """Returns the first `count` lines; a line may have several rows, such as one for each annotator."""
    lines = rows.select(["origin", "line"]).group_by(["origin", "line"], use_threads=False).aggregate([])
    return [_Line(row["origin"], row["line"]) for row in lines.slice(0, count).to_pylist()]


def _at(table: pa.Table, line: _Line) -> list[dict[str, Any]]:
    at = pc.is_null(table["line"]) if line.line is None else pc.equal(table["line"], line.line)
    found = table.filter(pc.and_(pc.equal(table["origin"], line.origin), at))
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows


def _described(tables: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Yields the parts of a row: its query, the documents by their relevance, and what is left out."""
    texts = {row["doc_id"]: _text(row) for row in tables.get("documents", [])}
    queries = tables.get("queries", [])
    judgments = tables.get("judgments", [])
    yield from (f"query {_text(row) if row['text'] else shown(row['query_id'])}" for row in queries[:1])
    if judgments and not queries:
        yield f"query id {shown(judgments[0]['query_id'])}"
    by_role: dict[str, dict[str, str]] = {}
    for row in judgments:
        relevance = row["relevance"]
        role = (
            "not relevant" if relevance <= 0 else "relevant" if relevance == 1 else f"relevance {relevance:g}"
        )
        identity = row["doc_id"]
        by_role.setdefault(role, {})[identity] = texts.get(identity, f"id {shown(identity)}")
    judged = {row["doc_id"] for row in judgments}
    if others := {identity: text for identity, text in texts.items() if identity not in judged}:
        by_role["document, not judged" if queries else "document"] = others
    for role, by_id in by_role.items():
        found = list(by_id.values())
        more = f" and {len(found) - _MOST_TEXTS} more" if len(found) > _MOST_TEXTS else ""
        yield f"{role} {', '.join(found[:_MOST_TEXTS])}{more}"
    yield from (f"left out ({row['reason']})" for row in tables.get("rejected", [])[:1])


def _text(row: dict[str, Any]) -> str:
    title = f"{row['title']}: " if row.get("title") else ""
    return f'"{shown(title + row["text"], _LONGEST_TEXT)}"'
