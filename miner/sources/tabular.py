"""Tabular files (TSV, CSV, JSON lines, JSON, Parquet) into documents, queries and judgments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

import pyarrow as pa

from miner.errors import InputError, UsageError, listed, shown
from miner.sources.cards import read_card
from miner.sources.config import NO_COLUMN, SourceConfig, require_splits, split_in
from miner.sources.delimited import open_delimited
from miner.sources.files import AS_TABLE, SPREADSHEETS, File, files_in, lines, require_kind, tree, unread
from miner.sources.graded import is_known, known_pairs
from miner.sources.grades import Grades, is_grade, require_graded
from miner.sources.id_rows import Reading, id_parts
from miner.sources.json_rows import open_json
from miner.sources.labelled import label_parts
from miner.sources.layouts import Layout, find_layout, id_options, look_for_negatives
from miner.sources.part import Part, Rows, Source
from miner.sources.qrels import has_candidates, is_judgments
from miner.sources.rankings import is_run, run_error
from miner.sources.table import ROWS_PER_BATCH, Record, Table, batch_records, nested_in, open_parquet
from miner.sources.training_rows import HAS_ANSWER, RETRIEVED, NotFittingError, RowPassages, passages_of
from miner.sources.understood import read_as
from miner.sources.values import Passage, is_blank
from miner.text import content_id

SUFFIXES = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")

Read = tuple[Table, Layout, str]
"""A table, its layout, and the split of its judgments."""


def open_files(source: str, path: Path, config: SourceConfig) -> Source:
    """Returns a tabular file, or a folder of them, as a source.

    Reads the files of a folder whose names contain a split; all of them if none does. Raises InputError if
    there is nothing to read or a column is missing.
    """
    files = tables_in(source, path) if path.is_dir() else [_as_table(file) for file in files_in(source, path)]
    chosen = [file for file in files if split_in(file.stem)] or files
    texts = _texts_beside(files, chosen, config)
    notes = _left(source, path, [*chosen, *(file for file, _ in texts)]) if path.is_dir() else []
    try:
        tables = [(open_table(file, config), split_in(file.stem)) for file in chosen]
        return _with_texts(from_tables(source, tables, config, notes), texts, config)
    except InputError as error:
        if not config.header or config.format != "auto":
            raise
        run = next((file for file in chosen if is_run(file) or _has_candidates(file)), None)
        if run is not None:
            raise run_error(run) from error
        judgments = next((file for file in chosen if _has_judgments(file)), None)
        if judgments is None:
            raise
        raise InputError(
            f"{judgments.origin}: it seems to hold judgments (query, document, relevance), not texts",
            "add --format trec",
        ) from error


def _texts_beside(
    files: Sequence[File], chosen: Sequence[File], config: SourceConfig
) -> list[tuple[File, Table]]:
    """Returns the files of documents or queries alone, if those that are chosen have rows of their ids."""
    others = [file for file in files if file not in chosen]
    if not others or not any(has_layout(file, ("ids",)) for file in chosen):
        return []
    return [(file, open_table(file, config)) for file in others if has_layout(file, ("documents", "queries"))]


def _with_texts(opened: Source, texts: Sequence[tuple[File, Table]], config: SourceConfig) -> Source:
    """Returns a source that reads tables of documents or queries before its rows."""
    bare = replace(config, split=None, dev=0.0, test=0.0)
    every = [*(from_tables(file.origin, [(table, None)], bare) for file, table in texts), opened]
    return replace(
        opened,
        total=sum(one.total for one in every),
        parts=(part for one in every for part in one.parts),
        note="\n".join(one.note for one in every if one.note),
        read_as="; ".join(dict.fromkeys(one.read_as for one in every)),
        columns=tuple(column for one in every for column in one.columns),
    )


def _has_judgments(file: File) -> bool:
    try:
        return file.suffix != ".parquet" and is_judgments(file)
    except InputError:
        return False


def _has_candidates(file: File) -> bool:
    try:
        return has_candidates(open_table(file))
    except InputError:
        return False


def _left(source: str, folder: Path, read: Sequence[File]) -> list[str]:
    """Returns notes that list the files of a folder that are not read."""
    paths = {file.path for file in read}
    left = []
    for file in tree(source, folder):
        if file.path.parent != folder:
            left.append((file, "in a folder within the folder: name that folder or file"))
        elif file.path not in paths:
            left.append((file, "no split in its name, such as train" if is_table(file) else "not a table"))
    return [*filter(None, [read_card(source, folder).note]), *unread(left, folder)]


def from_tables(
    source: str, tables: Sequence[tuple[Table, str | None]], config: SourceConfig, notes: Sequence[str] = ()
) -> Source:
    """Returns tables, each with the split in its name, as a source of pairs, triplets or texts.

    Raises InputError if a column is missing, or looks like a label and no option mentions it. Raises
    UsageError if options do not fit the splits or the columns.
    """
    if not tables:
        raise InputError(f"{source}: no rows to read", "name a .tsv, .csv, .jsonl, .json or .parquet file")
    require_splits(config, source, [split or "train" for _, split in tables])
    config, called, note = known_pairs([table for table, _ in tables], config)
    read = [(table, find_layout(table, config), config.split or split or "train") for table, split in tables]
    kinds = sorted({layout.kind for _, layout, _ in read})
    if len(kinds) > 1:
        raise InputError(
            f"{source}: some files have {' and others '.join(kinds)}", "ingest each of them alone"
        )
    if kinds[0] not in ("pairs", "triplets") and config.relevance_column not in (None, NO_COLUMN):
        raise UsageError(
            f"--relevance-column has no effect on {source}, which has {kinds[0]}",
            "use it for pairs or triplets",
        )
    require_graded([(table, layout) for table, layout, _ in read], config)
    read = [(table, look_for_negatives(table, layout), split) for table, layout, split in read]
    total = sum(table.size for table, _ in tables)
    notes = [*notes, *(table.note for table, _ in tables if table.note), *_unread(read), note]
    notes += _without_judgments(source, [layout for _, layout, _ in read])
    if any(_may_be_mined(layout) for _, layout, _ in read):
        notes.append(if_mined(source))
    parts = _PARTS[kinds[0]](source, read, config)
    return Source(
        source,
        total,
        tables[0][0].unit,
        parts,
        "\n".join(filter(None, notes)),
        kinds[0] == "labels",
        read_as=(f"{called}, " if called else "") + read_as([(table, layout) for table, layout, _ in read]),
        columns=tuple(dict.fromkeys(column for table, layout, _ in read for column in _named(table, layout))),
    )


def _named(table: Table, layout: Layout) -> Iterator[str]:
    """Yields the columns of a table, and the key of its passages that says which are relevant."""
    yield from table.columns
    if layout.grades is not None:
        yield layout.grades


def _without_judgments(source: str, layouts: Sequence[Layout]) -> list[str]:
    """Returns a note if rows do not say which of their documents are relevant."""
    if all(layout.judged for layout in layouts):
        return []
    answers = any(layout.shape and HAS_ANSWER in layout.shape.grades for layout in layouts)
    hint = f"; to count those with an answer as relevant: --relevance-column {HAS_ANSWER}" if answers else ""
    return [f"{source}: nothing says which documents are relevant: no judgments{hint}"]


_MINERS = ("flagembedding", "tevatron", "dpr")
"""The tools whose own miners write negatives without scores into their rows."""


def _may_be_mined(layout: Layout) -> bool:
    """Returns whether negatives count as judged that a tool's own miner may have added."""
    if layout.mined or not layout.has_negatives:
        return False
    if layout.id_rows is not None:
        return bool(layout.id_rows.negatives)
    return bool(layout.negatives) and layout.shape is not None and layout.shape.format in _MINERS


def if_mined(source: str) -> str:
    """Returns the note on negatives that nothing says were mined."""
    return (
        f"{source}: negatives without a score are judged not relevant, and mining keeps them however high "
        "they score; if they were mined and nobody judged them: --set mined_negatives=true"
    )


def _unread(read: Sequence[Read]) -> list[str]:
    """Returns a note that lists the columns that are not read, and names one that may grade the pairs."""
    known = {name for _, layout, _ in read for name in layout.read}
    columns = {c: table for table, _, _ in read for c in table.columns if c not in known}
    if not columns:
        return []
    grading = [column for column, table in columns.items() if column not in table.nested and is_grade(column)]
    pairs = read[0][1].kind in ("pairs", "triplets") and read[0][1].judged
    hint = f"; if it grades the pairs: --relevance-column {quote(grading[0])}" if grading and pairs else ""
    scores = {name for _, layout, _ in read for name in layout.scores.values()}
    scored = [table.origin for name, table in columns.items() if name in scores]
    if scored and not any(table.mined for table, _, _ in read):
        hint = (
            f"; miner mine --candidates {quote(scored[0])} reads the scores. Negatives with scores were "
            "mined, so they are not judged"
        )
    names = listed(table.described(column) for column, table in columns.items())
    return [f"not read: columns {names}{hint}{id_options(list(columns), read[0][1])}"]


def _pairs(source: str, tables: Sequence[Read], config: SourceConfig) -> Iterator[Part]:
    rows, grades = Rows(), Grades(config)
    for table, layout, split in tables:
        taken = _Pairs(rows, layout, grades, split)
        for record in table.read(layout.texts, layout.passages):
            rows.size += record.size
            rows.start(layout.kind, table.origin, record.line, *record.content, split)
            taken.take(record)
            if rows.ready:
                yield rows.part()
    yield rows.part()
    grades.require_all_seen(source)


class _Pairs:
    """Adds the rows of one table of pairs or triplets to `rows`."""

    def __init__(self, rows: Rows, layout: Layout, grades: Grades, split: str) -> None:
        self._rows, self._layout, self._grades, self._split = rows, layout, grades, split
        optional = (layout.query_id, layout.document_id, layout.relevance)
        positions = iter(range(1, 4))
        self._query_id, self._doc_id, self._relevance = (
            None if column is None else next(positions) for column in optional
        )

    def take(self, record: Record) -> None:
        """Adds one row; rejects it if the query or the positive is missing."""
        rows = self._rows
        if record.problem is not None:
            rows.reject(*record.problem)
            return
        try:
            found = passages_of(record, self._layout)
        except NotFittingError as error:
            rows.reject(*error.args)
            return
        query, positives = record.values[0], found.positives
        relevance = 1.0 if self._relevance is None else self._grades.relevance(record.values[self._relevance])
        query_id = (
            content_id("q-", query or "") if self._query_id is None else record.values[self._query_id] or ""
        )
        if is_blank(query):
            rows.reject("empty_text", f"column '{self._layout.query}' is empty")
        elif not positives or any(is_blank(passage.text) for passage in positives):
            rows.reject("empty_text", f"column '{self._layout.positive}' is empty")
        elif not query_id or not all(self._id(record, passage) for passage in positives):
            rows.reject("empty_id", "the id column is empty")
        elif self._doc_id is not None and len(positives) > 1:
            rows.reject("one_id", f"{len(positives)} passages in '{self._layout.positive}' for one id")
        elif isinstance(relevance, tuple):
            rows.reject(*relevance)
        else:
            rows.query(query_id, query or "")
            values: list[float | tuple[str, str]] = [relevance] * len(positives)
            if found.grades is not None:
                values = [self._grades.relevance(value) for value in found.grades]
            graded = self._layout.shape is not None and bool(self._layout.shape.grades)
            for passage, value in zip(positives, values, strict=True):
                self._judge(query_id, self._id(record, passage), passage, value, graded and found.mined)
            self._negatives(query_id, found)

    def _id(self, record: Record, passage: Passage) -> str:
        if self._doc_id is not None:
            return record.values[self._doc_id] or ""
        return passage_id(passage)

    def _judge(
        self, query_id: str, doc_id: str, passage: Passage, relevance: float | tuple[str, str], mined: bool
    ) -> None:
        """Adds a document and its judgment; only the document if nobody judged it."""
        if isinstance(relevance, tuple):
            self._rows.reject(*relevance)
            return
        self._rows.document(doc_id, passage.text or "", passage.title)
        if self._layout.judged and not (mined and relevance <= 0):
            self._rows.judgment(query_id, doc_id, self._split, relevance)

    def _negatives(self, query_id: str, found: RowPassages) -> None:
        for name, passages in found.negatives:
            mined = found.mined or name == RETRIEVED
            for passage in passages:
                if is_blank(passage.text):
                    self._rows.reject("empty_text", f"column '{name}' is empty")
                else:
                    self._judge(query_id, passage_id(passage), passage, 0.0, mined)


def passage_id(passage: Passage) -> str:
    """Returns the id of a passage: its own, or one made from its title and text."""
    if passage.id is not None:
        return passage.id
    text = passage.text or ""
    return content_id("d-", f"{passage.title}\n{text}" if passage.title else text)


def one_kind_parts(source: str, tables: Sequence[Read], config: SourceConfig) -> Iterator[Part]:
    """Yields the rows of tables of queries or documents alone."""
    rows = Rows()
    for table, layout, _ in tables:
        named = layout.query_id or layout.document_id
        for record in table.read(layout.texts):
            rows.size += record.size
            rows.start(layout.kind, table.origin, record.line, *record.content)
            values = [value or "" for value in record.values]
            if record.problem is not None:
                rows.reject(*record.problem)
            elif named is None and layout.kind == "queries":
                rows.query(content_id("q-", values[0]), values[0])
            elif named is None:
                text, title = (*values, "")[:2]
                rows.document(passage_id(Passage(text, title)), text, title)
            else:
                identity, text, *titles = values
                rows.text(layout.kind, identity, text, "".join(titles), id_name=f"column '{named}'")
            if rows.ready:
                yield rows.part()
    yield rows.part()


def _labels(source: str, tables: Sequence[Read], config: SourceConfig) -> Iterator[Part]:
    return label_parts([(table, split) for table, _, split in tables], config)


def _ids(source: str, tables: Sequence[Read], config: SourceConfig) -> Iterator[Part]:
    return id_parts(
        [
            Reading(
                table,
                layout.id_rows,
                split,
                layout.mined,
                exported=table.mined or config.mined_negatives,
            )
            for table, layout, split in tables
            if layout.id_rows is not None
        ]
    )


_PARTS = {
    "pairs": _pairs, "triplets": _pairs, "labels": _labels, "ids": _ids,
    "documents": one_kind_parts, "queries": one_kind_parts,
}  # fmt: skip


def is_table(file: File) -> bool:
    """Returns whether the suffix of a file is one that `open_table` reads."""
    return file.suffix in SUFFIXES


def tables_in(source: str, path: Path) -> list[File]:
    """Returns the tables of a folder, or the file itself if it is one.

    A .txt is a table, and its File has the suffix `.tsv`, if its first line is the header of one that needs
    no options: SNLI and MultiNLI have such files.
    """
    return [file for file in map(_as_table, files_in(source, path)) if is_table(file)]


def _as_table(file: File) -> File:
    """Returns a file as it is, or a .txt that holds a table as a .tsv."""
    if file.suffix != ".txt":
        return file
    table = replace(file, holds=".tsv")
    try:
        if "\t" not in next((line.text for line in lines(file)), ""):
            return file
        found = open_delimited(table, SourceConfig(quoted=False))
        if not is_known(found):
            find_layout(found, SourceConfig())
    except InputError:
        return file
    return table


def has_layout(file: File, kinds: Sequence[str] = ()) -> bool:
    """Returns whether the columns of a file are those of some table that needs no options.

    `kinds` are the kinds of layouts that count; all do if it is empty.
    """
    try:
        found = find_layout(open_table(file), SourceConfig())
    except (InputError, OSError):
        return False
    return not kinds or found.kind in kinds


def open_table(file: File, config: SourceConfig | None = None) -> Table:
    """Returns a tabular file as a table with its columns.

    Reads TSV and JSON once from end to end, for the quotes of TSV and the keys of all rows of JSON. Raises
    InputError if the file is empty, broken, or has an unknown suffix.
    """
    config = config or SourceConfig()
    if file.suffix in SPREADSHEETS:
        raise InputError(f"{file.origin}: a spreadsheet, which miner does not read", AS_TABLE)
    if not is_table(file):
        raise InputError(
            f"{file.origin}: unknown format '{shown(file.suffix)}'",
            f"end its name in one of {', '.join(SUFFIXES)}, as its content is",
        )
    if not config.header and file.suffix not in (".tsv", ".csv"):
        raise UsageError(
            f"--no-header has no effect on {file.origin}: its columns have names",
            "leave --no-header out for this file",
        )
    if file.suffix in (".tsv", ".csv"):
        table = open_delimited(file, config)
    elif file.suffix == ".parquet":
        table = _open_parquet(file)
    else:
        table = open_json(file)
    twice = next((c for c in table.columns if table.columns.count(c) > 1), None)
    if twice is not None:
        if table.first_row is not None:
            raise table.no_header("query")
        raise InputError(
            f"{file.origin}:1: two columns named '{shown(twice)}'",
            "rename one of them, or add --no-header if this is a row of data",
        )
    return table


def _open_parquet(file: File) -> Table:
    require_kind(file, "Parquet")
    try:
        parquet = open_parquet(file.path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file.origin}: not a Parquet file: {error}", "write it again") from error
    share = file.size // max(parquet.metadata.num_rows, 1)

    def _read(texts: Sequence[str], passages: Sequence[str] = ()) -> Iterator[Record]:
        number = 0
        try:
            for batch in parquet.iter_batches(
                ROWS_PER_BATCH, columns=list(dict.fromkeys([*texts, *passages]))
            ):
                for record in batch_records(batch, texts, passages, number, share):
                    number = record.line
                    yield record
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{file.origin}:{number + 1}: cannot be read: {error}", "write the file again, as UTF-8"
            ) from error

    schema = parquet.schema_arrow
    return Table(file.origin, tuple(schema.names), file.size, "bytes", _read, nested_in(schema))
