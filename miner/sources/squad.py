"""SQuAD and data sets in its layouts: questions, the paragraph of each, and answers.

Nested, as SQuAD 1.1 and 2.0 are distributed: one JSON object, `data` with articles, `paragraphs` with a
`context`, and `qas` with questions. Flat, as they are on the Hugging Face hub: columns `question`, `context`
and `answers`. The paragraph is the relevant document of its questions. A question without an answer in it
(`is_impossible`, or an empty list of answers) is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from miner.errors import InputError, listed, shown
from miner.sources.config import SourceConfig, require_splits, split_in
from miner.sources.files import File, files_in, first_files, head, tree, unread
from miner.sources.json_rows import json_objects, whole_object
from miner.sources.part import Part, Rows, Source
from miner.sources.table import Record, Table
from miner.sources.tabular import open_table, passage_id
from miner.sources.values import NotTextError, Passage, as_text, is_blank
from miner.text import content_id

_NESTED = re.compile(r'\s*\{.*"paragraphs"\s*:', re.DOTALL)
_HEAD = 1 << 16
_FLAT = ("question", "context", "answers")
_READ_AS = "SQuAD: question = query, context = its relevant document, if answers has one"
_NO_ANSWER = "the paragraph does not answer the question"


def is_squad(source: str, path: Path) -> bool:
    """Returns whether a file, or a file of a folder, is in one of SQuAD's layouts."""
    return any(_is_nested(file) or _is_flat_file(file) for file in first_files(source, path))


def _is_nested(file: File) -> bool:
    begins = head(file, _HEAD) if file.suffix == ".json" else ""
    return '"data"' in begins and _NESTED.match(begins) is not None


def _is_flat_file(file: File) -> bool:
    try:
        if file.suffix == ".parquet":
            return set(_FLAT) <= set(open_table(file).columns)
        if file.suffix in (".json", ".jsonl", ".ndjson"):
            array = head(file, _HEAD).lstrip("\xef\xbb\xbf \r\n\t").startswith("[")
            return set(_FLAT) <= set(next((one.record for one in json_objects(file, array)), ()))
    except (InputError, OSError):
        pass
    return False


def is_flat(tables: Sequence[Table], config: SourceConfig) -> bool:
    """Returns whether tables have the columns of the flat layout, and no option names other columns."""
    flat = all(set(_FLAT) <= set(table.columns) and "query" not in table.columns for table in tables)
    return flat and config.format in ("auto", "hf", "squad") and not config.names_columns


def open_squad(source: str, path: Path, config: SourceConfig) -> Source:
    """Returns a file, or the files of a folder, as a source; the split is in the name of the file.

    Reads a nested file at once. Raises InputError for a file in neither layout.
    """
    files = [file for file in files_in(source, path) if _is_nested(file) or _is_flat_file(file)]
    if not files:
        raise InputError(
            f"{source}: not SQuAD's layout",
            f"it has one object with data, paragraphs and qas, or the columns {listed(_FLAT)}",
        )
    named = [(file, split_in(file.stem) or "train") for file in files]
    require_splits(config, source, [split for _, split in named])
    chosen = [(file, config.split or split) for file, split in named]
    left = [(file, "not SQuAD's layout") for file in tree(source, path) if file not in files]
    notes = unread(left, path) if path.is_dir() else []
    nested = [(file, split) for file, split in chosen if _is_nested(file)]
    tables = [(open_table(file), split) for file, split in chosen if not _is_nested(file)]
    notes += _unread_columns([table for table, _ in tables])

    def _parts() -> Iterator[Part]:
        for file, split in nested:
            yield from _articles(file, split)
        yield from _flat_parts(tables)

    total = sum(file.size for file in files)
    return Source(source, total, "bytes", _parts(), "\n".join(notes), read_as=_READ_AS)


def flat_source(
    source: str, tables: Sequence[tuple[Table, str]], config: SourceConfig, notes: Sequence[str] = ()
) -> Source:
    """Returns tables in the flat layout, each with the split in its name, as a source."""
    require_splits(config, source, [split for _, split in tables])
    chosen = [(table, config.split or split) for table, split in tables]
    notes = [*notes, *_unread_columns([table for table, _ in tables])]
    total = sum(table.size for table, _ in tables)
    return Source(source, total, tables[0][0].unit, _flat_parts(chosen), "\n".join(notes), read_as=_READ_AS)


def _unread_columns(tables: Sequence[Table]) -> list[str]:
    known = {"id", "title", "is_impossible", *_FLAT}
    others = dict.fromkeys(name for table in tables for name in table.columns if name not in known)
    return [f"not read: columns {listed(others)}"] if others else []


def _flat_parts(tables: Sequence[tuple[Table, str]]) -> Iterator[Part]:
    rows = Rows()
    for table, split in tables:
        optional = [name for name in ("id", "title", "is_impossible") if name in table.columns]
        for record in table.read(("question", *optional), ("context", "answers")):
            rows.size += record.size
            rows.start("questions", table.origin, record.line, *record.content, split)
            if record.problem is not None:
                rows.reject(*record.problem)
            else:
                _require_one_context(table, record)
                _flat_row(rows, record, optional, split)
            if rows.ready:
                yield rows.part()
    yield rows.part()


def _require_one_context(table: Table, record: Record) -> None:
    """Raises InputError for a row with several paragraphs: nothing says which of them has the answer."""
    contexts = record.passages[0]
    if len(contexts) > 1:
        raise InputError(
            f"{table.origin}:{record.line}: {len(contexts)} paragraphs in 'context', and nothing says which "
            "of them are relevant",
            "if all are: --query-column question --positive-column context",
        )


def _flat_row(rows: Rows, record: Record, optional: Sequence[str], split: str) -> None:
    """Adds a row: its paragraph, and the question if the paragraph answers it."""
    question, *values = record.values
    contexts, answers = record.passages
    known = dict(zip(optional, values, strict=True))
    context = Passage(contexts[0].text if contexts else None, known.get("title") or "")
    impossible = (known.get("is_impossible") or "").lower() in ("true", "1") or not answers
    if is_blank(context.text):
        rows.reject("empty_text", "column 'context' is empty")
        return
    rows.document(passage_id(context), context.text or "", context.title)
    _ask(rows, (known.get("id"), question), passage_id(context), split, impossible)


def _ask(
    rows: Rows, question: tuple[str | None, str | None], document: str, split: str, impossible: bool
) -> None:
    """Adds a question, by its id and text, with its paragraph as the relevant document."""
    identity, text = question
    if impossible:
        rows.reject("unanswerable", _NO_ANSWER)
    elif is_blank(text):
        rows.reject("empty_text", "the question is empty")
    else:
        query_id = identity or content_id("q-", text or "")
        rows.query(query_id, text or "")
        rows.judgment(query_id, document, split)


def _articles(file: File, split: str) -> Iterator[Part]:
    """Yields the paragraphs and the questions of a nested file."""
    rows, paragraphs, questions = Rows(), 0, 0
    for article in _list(whole_object(file), "data", file.origin):
        title = _text(article, "title", file.origin) or ""
        for paragraph in _list(article, "paragraphs", file.origin):
            paragraphs += 1
            where = f"{file.origin}/paragraphs:{paragraphs}"
            context = Passage(_text(paragraph, "context", where), title)
            rows.start("paragraphs", f"{file.origin}/paragraphs", paragraphs, title, context.text)
            if is_blank(context.text):
                rows.reject("empty_text", "the paragraph has no context")
            else:
                rows.document(passage_id(context), context.text or "", title)
            for question in _list(paragraph, "qas", where):
                questions += 1
                where = f"{file.origin}/questions:{questions}"
                identity, text = (_text(question, key, where) for key in ("id", "question"))
                rows.start("questions", f"{file.origin}/questions", questions, identity, text, context.text)
                impossible = question.get("is_impossible") is True or question.get("answers") == []
                _ask(rows, (identity, text), passage_id(context), split, impossible)
            if rows.ready:
                yield rows.part()
    rows.size = file.size
    yield rows.part()


def _list(record: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    found = record.get(key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InputError(
            f"{where}: no list of objects '{key}'", f"its keys: {listed(map(shown, record)) or 'none'}"
        )
    return found


def _text(record: dict[str, Any], key: str, where: str) -> str | None:
    try:
        return as_text(record.get(key), key)
    except NotTextError as error:
        raise InputError(f"{where}: {error}", "write it as a text") from error
