"""Files of judgments: query, document, relevance; with or without a header, TREC's columns, or JSON lines."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from miner.errors import InputError, counted, listed, shown
from miner.sources.config import SourceConfig, require_splits
from miner.sources.files import File, lines
from miner.sources.part import Part, Rows, Source
from miner.sources.rankings import DOCUMENT, QUERY, RANK, is_run
from miner.sources.table import Table
from miner.sources.values import NotTextError, as_number, as_text, parse_json

_LOOKED_AT = 100
_MOST_GRADES = 12
"""Most different relevances in the first lines of a file of three columns without a header."""
_RELEVANCE = ("score", "relevance", "rel", "label", "judgment", "judgement", "grade", "relevance_score")
"""Names of the columns in a header, or of the keys in JSON lines."""
_SCORES = ("score", "scores", "relevance_score")
_SCORES_LOOKED_AT = 1000
_TEXTS = ("query", "topic", "document", "doc")
"""Those that a table may give to texts."""
_BESIDE_IDS = {*_TEXTS, "text", "passage", "positive", "question", "answer", "title"}
"""Columns beside ids that make a table one of texts."""
_NOT_FINITE = ("nan", "inf", "infinity")


@dataclass(frozen=True)
class JudgmentLayout:
    """The fields of a line of judgments, by position."""

    width: int
    query: int
    document: int
    relevance: int
    separator: str | None
    """What is between the fields: a tab, a comma, or any white space (None)."""
    header: bool = False
    names: tuple[str, str, str] | None = None
    """JSON lines: the keys of query, document and relevance."""

    @property
    def order(self) -> str:
        """The fields of a line, for messages."""
        called = {self.query: "query", self.document: "document", self.relevance: "relevance"}
        return ", ".join(called.get(position, "iteration") for position in range(self.width))

    def fields(self, text: str) -> list[str]:
        """Returns the fields of a line."""
        if self.separator == ",":
            return _between_commas(text.rstrip("\r\n"))
        return text.split() if self.separator is None else text.rstrip("\r\n").split(self.separator)


def _between_commas(text: str) -> list[str]:
    try:
        fields = next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error:  # a line with a carriage return in it
        fields = text.split(",")
    return [field.strip() for field in fields]


_IN_ORDER = JudgmentLayout(3, 0, 1, 2, "\t")
"""Query, document, relevance."""


def judgment_layout(file: File) -> JudgmentLayout | None:
    """Returns the layout of a file of judgments from its first lines; None if it is not one.

    A header names the columns in any order. Without a header they are query, document, relevance, or query,
    iteration, document, relevance. A file with a column of ranks is a run.
    """
    first = [line.text.rstrip("\r\n") for line in islice(lines(file), _LOOKED_AT) if line.text.strip()]
    if not first:
        return None
    if first[0].lstrip().startswith("{"):
        return _json_layout(parse_json(first[0], file.origin, 1))
    separator = _separator(first, file)
    rows = [JudgmentLayout(0, 0, 0, 0, separator).fields(line) for line in first]
    positions = _named(rows[0])
    if None not in positions[:2] and _named(rows[0], (RANK,)) != [None]:
        return None
    if None not in positions:
        query, document, relevance = (position or 0 for position in positions)
        return JudgmentLayout(len(rows[0]), query, document, relevance, separator, True)
    named = as_number(rows[0][-1]) is None
    graded = [row for row in (rows[1:] if named else rows) if len(row) > 1 and as_number(row[-1]) is not None]
    widths = Counter(len(row) for row in graded or rows)
    width = max(widths, key=lambda width: (width in (3, 4), widths[width]))
    if width not in (3, 4):
        return None
    header_line = len(rows[0]) == width and len(rows) > 1 and _is_header(rows[0])
    return JudgmentLayout(width, 0, width - 2, width - 1, separator, header_line)


def _separator(first: Sequence[str], file: File) -> str | None:
    """Returns what separates the fields of the first lines; a comma only in a file that is named .csv."""
    if 2 * sum("\t" in line for line in first) > len(first):
        return "\t"
    return "," if file.suffix == ".csv" and 2 * sum("," in line for line in first) > len(first) else None


def _is_header(fields: list[str]) -> bool:
    """Returns whether a first line is a header, not a judgment whose relevance is bad, such as NaN."""
    if as_number(fields[-1]) is not None or fields[-1].strip().lower().lstrip("+-") in _NOT_FINITE:
        return False
    return len(fields) != 4 or (as_number(fields[1]) is None and fields[1].strip().upper() != "Q0")


_IDS = (*(tuple(name for name in names if name not in _TEXTS) for names in (QUERY, DOCUMENT)), _RELEVANCE)
"""The names in a header that are not those of texts."""


def _named(
    fields: Sequence[str], roles: Sequence[Sequence[str]] = (QUERY, DOCUMENT, _RELEVANCE)
) -> list[int | None]:
    """Returns the positions of query, document and relevance in a header, None for one without a name."""
    header = [name.strip().lower() for name in fields]
    return [next((header.index(name) for name in names if name in header), None) for names in roles]


def _json_layout(record: dict[str, object]) -> JudgmentLayout | None:
    found = [next((n for n in names if n in record), None) for names in (QUERY, DOCUMENT, _RELEVANCE)]
    if None in found or any(name in record for name in RANK):
        return None
    query, document, relevance = (name or "" for name in found)
    return JudgmentLayout(3, 0, 1, 2, None, names=(query, document, relevance))


def is_judgments(file: File) -> bool:
    """Returns whether the first lines of a file are judgments: ids without blanks, and whole numbers.

    Three columns without a header may also be three ids, or a query, a document and its rank: these are not
    judgments, nor is a .csv without names of ids.
    """
    layout = judgment_layout(file)
    if layout is None or layout.names is not None:
        return layout is not None
    rows = [layout.fields(line.text) for line in islice(lines(file), _LOOKED_AT) if line.text.strip()]
    names_ids = None not in _named(rows[0], _IDS)
    if names_ids and _BESIDE_IDS & set(map(str.lower, rows[0])):
        return False
    if layout.separator == "," and not names_ids:
        return False
    if layout.width == 3 and not layout.header:
        several = len({row[2] for row in rows if len(row) == 3}) > _MOST_GRADES
        if several or is_run(file):
            return False
    sound = [
        row
        for row in (rows[1:] if layout.header else rows)
        if len(row) == layout.width
        and float(as_number(row[layout.relevance]) or 0).is_integer()
        and as_number(row[layout.relevance]) is not None
        and not any(" " in row[position].strip() for position in (layout.query, layout.document))
    ]
    return len(sound) > 0.9 * (len(rows) - layout.header)


def judgments(file: File, split: str, layout: JudgmentLayout) -> Iterator[Part]:
    """Yields the judgments of one file, all in one split."""
    rows = Rows()
    for line in lines(file):
        rows.size += line.size
        if line.text.strip() and not (layout.header and line.number == 1):
            fields = _keys(line.text, file.origin, line.number, layout.names) or layout.fields(line.text)
            _judgment(rows, file.origin, line.number, fields, split, layout)
        if rows.ready:
            yield rows.part()
    yield rows.part()


def judgment_columns(table: Table) -> tuple[str, str, str] | None:
    """Returns the columns of query id, document id and relevance of a table of judgments, else None.

    Names that may mean texts, such as `query` and `document`, are not ids here.
    """
    found = id_columns(table) or ()
    return (found[0], found[1], found[2]) if len(found) == 3 else None


def id_columns(table: Table) -> tuple[str, ...] | None:
    """Returns the columns of query id, document id and, if there is one, relevance; else None."""
    found = [
        next((name for name in table.columns if name.lower() in names and name.lower() not in _TEXTS), None)
        for names in (QUERY, DOCUMENT, _RELEVANCE)
    ]
    return tuple(name for name in found if name) if found[0] and found[1] else None


def has_candidates(table: Table) -> bool:
    """Returns whether a table has ids, and ranks or scores of a model: what a search found."""
    found = id_columns(table)
    if found is None:
        return False
    return any(name.lower() in RANK for name in table.columns) or any(
        are_scores(table, name) for name in found[2:]
    )


def are_scores(table: Table, column: str) -> bool:
    """Returns whether a column `score` has what a model computes, by its first rows, and not grades.

    Such values have fractions, and are below 0 or of more than 12 kinds.
    """
    if column.lower() not in _SCORES:
        return False
    records = islice(table.read((column,)), _SCORES_LOOKED_AT)
    values = {as_number(record.values[0]) for record in records if record.problem is None}
    found = [value for value in values if value is not None]
    has_fractions = any(not value.is_integer() for value in found)
    return has_fractions and (min(found) < 0 or len(found) > _MOST_GRADES)


def is_judged(table: Table, config: SourceConfig) -> bool:
    """Returns whether a table holds judgments: ids and a relevance, and no texts."""
    texts = {config.query_column, config.positive_column, config.text_column}
    return (
        config.format in ("auto", "hf") and not texts & set(table.columns) and bool(judgment_columns(table))
    )


def judged_source(
    name: str, tables: Sequence[tuple[Table, str]], config: SourceConfig, notes: Sequence[str] = ()
) -> Source:
    """Returns tables with `judgment_columns`, each with the split in its name, as a source."""
    require_splits(config, name, [split for _, split in tables])
    for table, _ in tables:
        found = judgment_columns(table)
        if found is not None and are_scores(table, found[2]):
            raise InputError(
                f"{table.origin}: column '{shown(found[2])}' has scores of a model, not judgments",
                "miner mine --candidates FILE reads scores from a local file",
            )
    read = [(table, config.split or split) for table, split in tables]
    others = [c for table, _ in tables for c in table.columns if c not in (judgment_columns(table) or ())]
    notes = [*notes, *([f"not read: columns {listed(dict.fromkeys(others))}"] if others else [])]
    total = sum(table.size for table, _ in tables)
    return Source(
        name,
        total,
        tables[0][0].unit,
        table_judgments(read),
        "\n".join(notes),
        read_as="; ".join(judgments_as([table for table, _ in tables])),
        columns=tuple(dict.fromkeys(column for table, _ in tables for column in table.columns)),
    )


def judgments_as(tables: Sequence[Table]) -> list[str]:
    """Returns what the columns of tables with `id_columns` hold; one text for each choice of columns."""
    roles = ("query id", "document id", "relevance")
    found = dict.fromkeys(id_columns(table) or () for table in tables)
    named = (zip(columns, roles, strict=False) for columns in found)
    return [f"judgments: {', '.join(f'{shown(name)} = {role}' for name, role in pairs)}" for pairs in named]


def table_judgments(tables: Sequence[tuple[Table, str]]) -> Iterator[Part]:
    """Yields the judgments of tables with `id_columns`, each table with its split.

    Without a column of relevances, every pair is a positive.
    """
    rows = Rows()
    for table, split in tables:
        columns = id_columns(table) or ()
        for record in table.read(columns):
            rows.size += record.size
            if record.problem is not None:
                rows.start("judgments", table.origin, record.line, *record.content, split)
                rows.reject(*record.problem)
            else:
                fields = [*(value or "" for value in record.values), "1"][:3]
                _judgment(rows, table.origin, record.line, fields, split, _IN_ORDER)
            if rows.ready:
                yield rows.part()
    yield rows.part()


def _keys(text: str, origin: str, number: int, names: tuple[str, str, str] | None) -> list[str] | None:
    """Returns the fields of a line of JSON; a missing one is empty."""
    if names is None:
        return None
    record = parse_json(text, origin, number)
    try:
        return [as_text(record.get(name), name) or "" for name in names]
    except NotTextError as error:
        raise InputError(
            f"{origin}:{number}: {error}", "write ids as texts and the relevance as a number"
        ) from error


def _judgment(
    rows: Rows, origin: str, number: int, fields: list[str], split: str, layout: JudgmentLayout
) -> None:
    rows.start("judgments", origin, number, *fields, split)
    if len(fields) != layout.width:
        between = {"\t": " between tabs", ",": " between commas"}.get(layout.separator or "", "")
        rows.reject("field_count", f"{counted(len(fields), 'field')}{between}, not {layout.order}")
        return
    relevance = as_number(fields[layout.relevance])
    if relevance is None:
        rows.reject("bad_relevance", f"relevance '{shown(fields[layout.relevance])}' is not a number")
    else:
        rows.judgment(fields[layout.query], fields[layout.document], split, relevance)


def read_judgments(path: Path) -> pa.Table:
    """Returns the judgments of a file: query_id, doc_id, relevance; the highest of several for one pair.

    Raises InputError if there is no such file, or if a line is not a judgment.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", "name a file of judgments: query, document, relevance")
    file = File(path, str(path))
    found = []
    layout = judgment_layout(file) or _IN_ORDER
    for part in judgments(file, "", layout):
        if part.rejected is not None:
            bad = part.rejected.slice(0, 1).to_pylist()[0]
            raise InputError(
                f"{path}:{bad['line']}: {bad['detail']}",
                "write `query document relevance` between tabs (in a .csv, between commas), or TREC's "
                "`query 0 document relevance`",
            )
        if part.judgments is not None:
            found.append(part.judgments.select(["query_id", "doc_id", "relevance"]))
    if not found:
        raise InputError(f"{path} has no judgments", "name a file of judgments: query, document, relevance")
    table = pa.concat_tables(found).group_by(["query_id", "doc_id"]).aggregate([("relevance", "max")])
    return table.rename_columns({"relevance_max": "relevance"})
