"""Candidates that another tool found: runs, tables with a pair in each row, and sets with lists."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from miner.arrays import pair_keys
from miner.collection.given import Candidates
from miner.errors import InputError, counted, listed, near, shown
from miner.sources import exported, row_candidates, scored_sets
from miner.sources.columns import (
    BLOCK,
    ArrowColumns,
    Choice,
    as_numbers,
    candidates_table,
    column_named,
    digest_of,
    encoded,
    ids,
    numbers,
    read_columns,
)
from miner.sources.files import File, lines, locate, require_kind, require_local
from miner.sources.id_sets import find_set
from miner.sources.rankings import (
    DOCUMENT,
    PLAIN_RUN,
    QUERY,
    RANK,
    RUN,
    SCORE,
    are_ranks,
    is_trec_line,
    number_in,
)
from miner.sources.tabular import is_table, open_table
from miner.sources.values import as_number

_COLUMNS = "a table of candidates has the columns query_id, doc_id, and rank or score"
_KINDS = "name a TREC run, a table, or a folder with documents, queries and scores"
_HIGHEST_RANK = 2**31 - 1
_APART = "\x01"
"""A character that no line of a run has, so that Arrow reads each line as one field."""


def read_candidates(source: str | os.PathLike[str]) -> Candidates:
    """Returns the candidates in a run, in a table, or in a set of scored documents.

    A run has six fields in each line, as TREC's, or three: query, document, and a score or a rank.
    A table (.csv, .tsv, .json, .jsonl or .parquet) has a query id, a document id, and a rank or a score in
    each row; `scored_sets` describes the layouts with lists. Raises InputError, with file and line, for a
    file that is none of these, for a pair that occurs twice, and for a score that is not a finite number.
    """
    origin = os.fspath(source)
    path = _local(origin)
    if (export := exported.export_at(origin, path)) is not None:
        return exported.candidates_of_export(export)
    if path.is_dir():
        if (found := find_set(origin, path)) is not None:
            return scored_sets.candidates_of_set(found)
        raise InputError(
            f"{origin}: a folder, not a file of candidates",
            f"{_KINDS}; a folder of vectors is for --vectors",
        )
    file = File(path, origin)
    try:
        if _is_run(file):
            return _pairs(file, *_run(file), at=partial(_at_line, file))
        if _is_plain_run(file):
            return _plain_run(file)
        if not is_table(file):
            if not _has_header(file):
                raise _no_run(file)
            file = replace(file, holds=".tsv")
        return _table(file)
    except OSError as error:
        raise InputError(
            f"{origin}: cannot be read: {error}", "check the file and its permissions"
        ) from error


def _local(origin: str) -> Path:
    require_local(origin, "candidates")
    try:
        return locate(origin)
    except InputError as error:
        raise InputError(error.message, _KINDS) from error


def _has_header(file: File) -> bool:
    """Returns whether the first line names columns of ids and of a rank or score, between tabs."""
    first = next((line.text for line in lines(file) if line.text.strip()), "")
    return number_in([name.strip() for name in first.split("\t")]) is not None


def _table(file: File) -> Candidates:
    if file.suffix in (".csv", ".tsv"):
        first = next((line.text for line in lines(file) if line.text.strip()), "").strip()
        names = first.split("," if file.suffix == ".csv" else "\t")
        if len(set(names)) < len(names):
            _require_header(file, names)
    if row_candidates.has_passages(file):
        return row_candidates.candidates_of_rows([open_table(file)], file.origin, [file])
    columns = read_columns(file, partial(_choose, file))
    if "documents" in columns.choice:
        return scored_sets.candidates_of_lists([columns], file.origin)
    rank = None
    if "rank" in columns.choice:
        # Beside scores a rank only shows whether they are distances, so it may be missing.
        known = columns["rank"].is_valid() if "score" in columns.choice else None
        rank = _ranks(columns, known)
    score = numbers(columns, "score") if "score" in columns.choice else None
    note = f"{file.origin}: not read: columns {listed(columns.unread)}" if columns.unread else ""
    return _pairs(
        file, ids(columns, "query"), ids(columns, "document"), rank, score, at=columns.at, note=note
    )


def _choose(file: File, names: Sequence[str]) -> Choice:
    """Returns the columns to read; raises InputError if query, document, or rank and score are missing."""
    if (lists := scored_sets.list_columns(names)) is not None:
        return lists
    found = {
        role: name
        for role, known in (("query", QUERY), ("document", DOCUMENT), ("rank", RANK), ("score", SCORE))
        if (name := column_named(names, known)) is not None
    }
    first = "query_id" if "query" not in found else "doc_id" if "document" not in found else None
    if first is None and not {"rank", "score"} & set(found):
        first = "score"
    if first is None:
        return found
    _require_header(file, names)
    raise InputError(
        f"{file.origin}: no column '{first}'{near(first, names)}", f"its columns: {listed(names)}; {_COLUMNS}"
    )


def _require_header(file: File, names: Sequence[str]) -> None:
    """Raises InputError if the names of columns are a row of data: one of them is a number."""
    if any(as_number(name) is not None for name in names):
        raise InputError(
            f"{file.origin}: the file seems to have no header, its first row is {listed(names)}",
            "write a header line, such as query_id, doc_id, rank or query_id, doc_id, score",
        )


def _ranks(columns: ArrowColumns, known: pa.ChunkedArray | None) -> pa.Array:
    """Returns the ranks as int32; raises InputError for one that is not a whole number from 0."""
    column, name = columns["rank"], f"column '{shown(columns.choice['rank'])}'"
    if pa.types.is_string(column.type) and known is not None:
        known = pc.and_(known, pc.not_equal(column, ""))
    if known is None:
        return _whole(as_numbers(column, name, columns.at, columns.file.origin), name, columns.at)
    rows = np.flatnonzero(known.to_numpy())

    def _at(row: int, what: str, hint: str) -> InputError:
        return columns.at(int(rows[row]), what, hint)

    whole = _whole(as_numbers(column.filter(known), name, _at, columns.file.origin), name, _at)
    ranks = np.zeros(len(column), dtype=np.int32)
    ranks[rows] = whole.to_numpy()
    return pa.array(ranks, mask=~known.to_numpy())


def _whole(values: pa.Array, name: str, at: Callable[[int, str, str], InputError]) -> pa.Array:
    found = values.to_numpy(zero_copy_only=False)
    wrong = (found != np.floor(found)) | (found < 0) | (found > _HIGHEST_RANK)
    if wrong.any():
        row = int(wrong.argmax())
        raise at(row, f"{name} is {found[row]:g}, not a rank", "ranks are whole numbers, 1 for the best")
    return pa.array(found.astype(np.int32))


def _pairs(
    file: File,
    query: pa.DictionaryArray,
    doc: pa.DictionaryArray,
    rank: pa.Array | None,
    score: pa.Array | None,
    *,
    at: Callable[[int, str, str], InputError],
    note: str = "",
) -> Candidates:
    """Returns the candidates of rows of one pair each; raises InputError for a pair that occurs twice."""
    keys = pair_keys(query.indices.to_numpy(), doc.indices.to_numpy())
    order = np.argsort(keys, kind="stable")
    again = order[1:][keys[order[1:]] == keys[order[:-1]]]
    if len(again):
        row = int(again.min())
        pairs = counted(len(again), "pair occurs", "pairs occur")
        raise at(
            row,
            f"query '{shown(query[row])}' and document '{shown(doc[row])}' were in an earlier row "
            f"({pairs} more than once)",
            "give every pair one row",
        )
    if not len(keys):
        raise InputError(f"{file.origin} has no candidates", "name a file with rows")
    return Candidates(file.origin, candidates_table(query, doc, rank, score), digest_of([file]), note)


def _is_run(file: File) -> bool:
    """Returns whether the first line of a file is one of a TREC run, also if one of its values is bad.

    A table of candidates (.csv, .tsv) may have lines of as many fields, but not with numbers in these places.
    """
    if file.suffix in (".json", ".jsonl", ".ndjson", ".parquet"):
        return False
    first = next((line.text.split() for line in lines(file) if line.text.strip()), [])
    return is_trec_line(first) if is_table(file) else len(first) == len(RUN)


def _is_plain_run(file: File) -> bool:
    """Returns whether the first line of a file is a query, a document and a number, without a header."""
    if file.suffix in (".csv", ".json", ".jsonl", ".ndjson", ".parquet"):
        return False
    first = next((line.text.split() for line in lines(file) if line.text.strip()), [])
    return len(first) == len(PLAIN_RUN) and as_number(first[2]) is not None


def _no_run(file: File) -> InputError:
    require_kind(file, "text") if file.path.suffix != ".gz" else None
    first = next((line for line in lines(file) if line.text.strip()), None)
    if first is None:
        return InputError(f"{file.origin}: the file is empty", "name a file with rows")
    fields = first.text.split()
    if len(fields) == 4 and as_number(fields[-1]) is not None:
        return InputError(
            f"{file.origin}:{first.number}: 4 fields, as in judgments; a TREC run has {len(RUN)}",
            "name a run; miner ingest reads judgments",
        )
    return InputError(
        f"{file.origin}:{first.number}: {counted(len(fields), 'field')}; a line of a TREC run is "
        f"`{' '.join(RUN)}`",
        "correct the line, or end the name of a table in .csv, .tsv, .jsonl or .parquet",
    )


def _run(file: File) -> tuple[pa.DictionaryArray, pa.DictionaryArray, pa.Array, pa.Array]:
    """Returns the queries, documents, ranks and scores of a TREC run."""
    query, _, doc, rank, score, _ = _fields(file, RUN, "a TREC run")
    at = partial(_at_line, file)
    return (
        encoded(query, "the query", at, file.origin),
        encoded(doc, "the document", at, file.origin),
        _whole(as_numbers(rank, "the rank", at, file.origin), "the rank", at),
        as_numbers(score, "the score", at, file.origin),
    )


def _plain_run(file: File) -> Candidates:
    """Returns the candidates of a run with three fields: ranks if each query has 1 to n, else scores.

    Raises InputError for other whole numbers, which may be judgments.
    """
    first, second, third = _fields(file, PLAIN_RUN, "such a run")
    at = partial(_at_line, file)
    query, doc = (
        encoded(first, "the query", at, file.origin),
        encoded(second, "the document", at, file.origin),
    )
    value = as_numbers(third, "the score or rank", at, file.origin)
    found, queries = value.to_numpy(), query.indices.to_numpy()
    if (found != np.floor(found)).any():
        note = f"{file.origin}: read as query, document and score"
        return _pairs(file, query, doc, None, value, at=at, note=note)
    if not are_ranks(queries, found):
        raise InputError(
            f"{file.origin}: 3 fields, as in judgments: the third has whole numbers that are not 1, 2, 3 … "
            "for each query",
            "to read them as ranks or scores, write query_id, doc_id, rank or query_id, doc_id, score as a "
            "first line, between tabs; miner ingest reads judgments",
        )
    note = f"{file.origin}: read as query, document and rank"
    return _pairs(file, query, doc, _whole(value, "the rank", at), None, at=at, note=note)


def _fields(file: File, names: Sequence[str], what: str) -> list[pa.ChunkedArray]:
    """Returns the fields of the lines of a run; raises InputError for a line with more or fewer."""
    parts: list[list[pa.Array]] = [[] for _ in names]
    before = 0
    for chunk in _text_lines(file):
        rows = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(chunk))
        rows = rows.filter(pc.not_equal(pc.list_element(rows, 0), ""))
        wrong = pc.not_equal(pc.list_value_length(rows), len(names))
        if pc.any(wrong).as_py():
            row = pc.index(wrong, True).as_py()
            fields = counted(len(rows[row]), "field")
            raise _at_line(
                file,
                before + row,
                f"{fields}; a line of {what} is `{' '.join(names)}`",
                "correct the line",
            )
        before += len(rows)
        words = pc.list_flatten(rows)
        for field, part in enumerate(parts):
            part.append(words.take(pa.array(np.arange(field, len(words), len(names)))))
    return [pa.chunked_array(part, pa.string()) for part in parts]


def _text_lines(file: File) -> Iterator[pa.Array]:
    """Yields the lines of a text file in pieces, without empty ones."""
    try:
        with pa.csv.open_csv(
            file.path,
            pa.csv.ReadOptions(column_names=["line"], block_size=BLOCK),
            pa.csv.ParseOptions(delimiter=_APART, quote_char=False),
            pa.csv.ConvertOptions(column_types={"line": pa.string()}, strings_can_be_null=False),
        ) as reader:
            for batch in reader:
                yield batch.column(0)
    except pa.ArrowException as error:
        for _ in lines(file):  # raises an error with the line
            pass
        raise InputError(f"{file.origin}: cannot be read: {error}", "write the file again") from error


def _at_line(file: File, row: int, what: str, hint: str) -> InputError:
    """Returns an error at a row of a run, with its line."""
    line = next(islice((line for line in lines(file) if line.text.strip()), row, None))
    return InputError(f"{file.origin}:{line.number}: {what}", hint)
