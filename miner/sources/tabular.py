"""Pairs and triplets in tabular files: each row a query, a positive and perhaps negatives."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from miner.errors import InputError, listed, near
from miner.sources.config import SourceConfig, require_one_split, split_in
from miner.sources.files import files_in
from miner.sources.labelled import label_parts
from miner.sources.part import Part, Rows, Source
from miner.sources.tables import Record, Table, is_table, open_table
from miner.sources.values import as_number, is_blank
from miner.text import content_id


def open_files(source: str, path: Path, config: SourceConfig) -> Source:
    """Returns a tabular file, or a folder of them, as a source.

    Of a folder, the files whose names tell a split are read; all of them if none does. Raises
    InputError when there is nothing to read or a column is missing.
    """
    files = files_in(source, path)
    if path.is_dir():
        files = [file for file in files if is_table(file)]
    telling = [file for file in files if split_in(file.stem)]
    left = [file.origin for file in files if telling and file not in telling]
    tables = [(open_table(file), split_in(file.stem)) for file in telling or files]
    notes = [f"not read, as their names tell no split: {listed(left)}"] if left else []
    return from_tables(source, tables, config, notes)


def from_tables(
    source: str, tables: Sequence[tuple[Table, str | None]], config: SourceConfig, notes: Sequence[str] = ()
) -> Source:
    """Returns tables, each with the split that its name tells, as a source of pairs, triplets or texts.

    Raises InputError when a column is missing, UsageError when --split fits no single table.
    """
    if not tables:
        raise InputError(f"{source}: no rows to read", "name a .tsv, .csv, .jsonl or .parquet file")
    require_one_split(config, source, [split or "train" for _, split in tables])
    formats = {layout(table, config) for table, _ in tables}
    if len(formats) > 1:
        raise InputError(
            f"{source}: its files have different columns", "ingest them one by one, or choose --format"
        )
    splits = [(table, config.split or split or "train") for table, split in tables]
    total = sum(table.size for table, _ in tables)
    found = formats.pop()
    parts = label_parts(splits, config) if found == "labels" else _parts(splits, found, config)
    told = [*notes, *_unread([table for table, _ in tables], found, config)]
    return Source(source, total, tables[0][0].unit, parts, "\n".join(told))


def _unread(tables: Sequence[Table], layout: str, config: SourceConfig) -> list[str]:
    """Says which columns are left where they are, and which of them may grade the pairs."""
    columns = dict.fromkeys(column for table in tables for column in table.columns)
    read = {name for table in tables for name in _chosen(table, layout, config)}
    unread = [column for column in columns if column not in read]
    if not unread:
        return []
    grading = [column for column in unread if column.lower() in _GRADING]
    hint = f"; if it grades the pairs: --relevance-column {grading[0]}" if grading else ""
    return [f"not read: columns {listed(unread)}{hint if layout != 'labels' else ''}"]


def _chosen(table: Table, layout: str, config: SourceConfig) -> tuple[str, ...]:
    if layout == "labels":
        return (config.text_column, config.label_column)
    return _columns(table, layout, config).chosen


def layout(table: Table, config: SourceConfig) -> str:
    """Returns `pairs`, `triplets` or `labels`: the format asked for, else the one the columns allow.

    Raises InputError when columns are missing.
    """
    if config.format in ("pairs", "triplets", "labels"):
        _require(table, config.format, config)
        return config.format
    columns = set(table.columns)
    if {config.query_column, config.positive_column} <= columns:
        found = "triplets" if _negative_columns(table, config) else "pairs"
    elif {config.text_column, config.label_column} <= columns:
        found = "labels"
    else:
        raise _no_layout(table, config)
    _require(table, found, config)
    return found


def _no_layout(table: Table, config: SourceConfig) -> InputError:
    def missing(*columns: str) -> str:
        """Names those of the columns that the table lacks."""
        absent = [f"'{c}'{near(c, table.columns)}" for c in columns if c not in table.columns]
        return f"{'column' if len(absent) == 1 else 'columns'} {' and '.join(absent)}"

    pairs = missing(config.query_column, config.positive_column)
    labels = missing(config.text_column, config.label_column)
    return InputError(
        f"{table.origin}: no {pairs} for pairs, nor {labels} for labels",
        f"its columns: {listed(table.columns)}; name yours with --query-column and --positive-column, "
        "or --text-column and --label-column",
    )


def _require(table: Table, layout: str, config: SourceConfig) -> None:
    if layout == "labels":
        table.require([config.text_column, config.label_column])
        return
    optional = (config.query_id_column, config.document_id_column, config.relevance_column)
    named = [column for column in optional if column is not None]
    table.require([config.query_column, config.positive_column, *named])
    if layout == "triplets" and not _negative_columns(table, config):
        table.require([config.negative_column])


def _negative_columns(table: Table, config: SourceConfig) -> list[str]:
    numbered = re.compile(re.escape(config.negative_column) + r"_([0-9]+)")
    found = [(int(match[1]), match[0]) for c in table.columns if (match := numbered.fullmatch(c))]
    plain = [config.negative_column] if config.negative_column in table.columns else []
    return plain + [column for _, column in sorted(found)]


_GRADING = {"score", "label", "relevance", "similarity", "grade", "rating"}
"""Names that columns of graded pairs go by."""


@dataclass(frozen=True)
class _Columns:
    """Where in a record the values of a pair or triplet stand; None if the table has no such column."""

    chosen: tuple[str, ...]
    query_id: int | None
    document_id: int | None
    relevance: int | None
    negatives: range


def _columns(table: Table, layout: str, config: SourceConfig) -> _Columns:
    optional = (config.query_id_column, config.document_id_column, config.relevance_column)
    named = [column for column in optional if column is not None]
    negatives = _negative_columns(table, config) if layout == "triplets" else []
    first = 2 + len(named)
    query_id, document_id, relevance = (
        None if column is None else 2 + named.index(column) for column in optional
    )
    chosen = (config.query_column, config.positive_column, *named, *negatives)
    return _Columns(chosen, query_id, document_id, relevance, range(first, first + len(negatives)))


def _parts(tables: Sequence[tuple[Table, str]], layout: str, config: SourceConfig) -> Iterator[Part]:
    rows = Rows()
    for table, split in tables:
        columns = _columns(table, layout, config)
        for record in table.read(columns.chosen):
            rows.size += record.size
            rows.start(layout, table.origin, record.line, *record.content, split)
            _take(rows, record, columns, split)
            if rows.full:
                yield rows.part()
    yield rows.part()


def _take(rows: Rows, record: Record, columns: _Columns, split: str) -> None:
    """Adds a pair or triplet; a row without query or positive is rejected as a whole."""
    if record.problem is not None:
        rows.reject(*record.problem)
        return
    values = record.values
    empty = next((place for place in (0, 1) if is_blank(values[place])), None)
    query_id, doc_id = _id(values, columns.query_id, 0, "q-"), _id(values, columns.document_id, 1, "d-")
    relevance = 1.0 if columns.relevance is None else as_number(values[columns.relevance])
    if empty is not None:
        rows.reject("empty_text", f"column '{columns.chosen[empty]}' is empty")
    elif not query_id or not doc_id:
        rows.reject("empty_id", "the id column is empty")
    elif relevance is None:
        rows.reject("bad_relevance", f"relevance {values[columns.relevance or 0]!r} is not a number")
    else:
        rows.query(query_id, values[0] or "")
        rows.document(doc_id, values[1] or "")
        rows.judgment(query_id, doc_id, split, relevance)
        _negatives(rows, values, columns, query_id, split)


def _negatives(
    rows: Rows, values: Sequence[str | None], columns: _Columns, query_id: str, split: str
) -> None:
    for place in columns.negatives:
        text = values[place] or ""
        if is_blank(text):
            rows.reject("empty_text", f"column '{columns.chosen[place]}' is empty")
            continue
        doc_id = content_id("d-", text)
        rows.document(doc_id, text)
        rows.judgment(query_id, doc_id, split, 0.0)


def _id(values: Sequence[str | None], place: int | None, text: int, prefix: str) -> str | None:
    return content_id(prefix, values[text] or "") if place is None else values[place]
