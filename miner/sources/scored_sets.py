"""Candidates of sets of ids: rows with several documents and a list of their scores, mined elsewhere.

`id_sets.py` describes the sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import pair_keys
from miner.collection.given import Candidates
from miner.errors import InputError, counted, listed
from miner.sources.columns import (
    ArrowColumns,
    Choice,
    as_numbers,
    candidates_table,
    column_named,
    digest_of,
    encoded,
    ids,
    is_list,
    read_columns,
    require_lists,
)
from miner.sources.files import File
from miner.sources.id_rows import IdRows
from miner.sources.id_sets import IdSet, require_one_corpus
from miner.sources.rankings import QUERY

_DOCUMENT_LISTS = ("document_ids", "doc_ids", "docids", "corpus_ids", "passage_ids")
_POSITIVES = ("positive_ids",)


def list_columns(names: Sequence[str]) -> Choice | None:
    """Returns the columns of a table with a list of documents and of scores in each row; None for another."""
    found = {
        role: column_named(names, known)
        for role, known in (
            ("query", QUERY),
            ("documents", _DOCUMENT_LISTS),
            ("scores", ("scores",)),
            ("positives", _POSITIVES),
        )
    }
    chosen = {role: name for role, name in found.items() if name is not None}
    return chosen if {"query", "documents", "scores"} <= set(chosen) else None


def candidates_of_set(found: IdSet) -> Candidates:
    """Returns the scored documents of a set, the relevant ones included, as candidates.

    Raises InputError for several corpora in one set, and for a set without lists of scores.
    """
    require_one_corpus(found)
    parts = [
        read_columns(piece.file, _choose_lists)
        if piece.columns.has_lists
        else _read_triplets(piece.file, piece.columns)
        for piece in found.scored
        if piece.file is not None and piece.columns is not None
    ]
    if not parts:
        raise InputError(
            f"{found.source}: no part with lists of scores",
            "it needs query_id and a list scores, and document_ids, or positive_id and negative_id",
        )
    return candidates_of_lists(parts, found.source)


def _read_triplets(file: File, names: IdRows) -> ArrowColumns:
    """Returns the positives and then the negatives of each row as its list of documents."""
    several = [*names.positives, *names.negatives]
    singles = {f"document {number}": name for number, name in enumerate(several)}
    columns = read_columns(file, lambda _: {"query": names.query, "scores": names.scores or "", **singles})
    rows, values = [], []
    for name in several:
        column, row = _one_array(columns.values[name]), np.arange(len(columns.values))
        if is_list(column.type):
            row = np.repeat(row, pc.fill_null(pc.list_value_length(column), 0).to_numpy())
            column = pc.list_flatten(column)
        rows.append(row)
        values.append(column.cast(pa.string()))
    row_of = np.concatenate(rows)
    ends = np.cumsum(np.bincount(row_of, minlength=len(columns.values)))
    documents = pa.concat_arrays(values).take(pa.array(np.argsort(row_of, kind="stable")))
    lists = pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int64()), documents)
    # The lists replace a column that the file has, so that an error finds its line.
    position = columns.values.schema.get_field_index(several[0])
    return replace(
        columns,
        choice={"query": names.query, "documents": several[0], "scores": names.scores or ""},
        values=columns.values.set_column(position, several[0], lists),
    )


def _choose_lists(names: Sequence[str]) -> Choice:
    choice = list_columns(names)
    if choice is None:
        raise InputError(
            f"no columns query_id, document_ids and scores among {listed(names)}", "see the other files"
        )
    return {role: name for role, name in choice.items() if role != "positives"}


def candidates_of_lists(parts: Sequence[ArrowColumns], origin: str) -> Candidates:
    """Returns the pairs of rows with a list of documents and a list of scores as candidates.

    A pair may be in several rows of its query. Raises InputError for lists of different lengths.
    """
    queries, docs, scores = [], [], []
    for columns in parts:
        require_lists(columns)
        documents, score = (_one_array(columns[role]) for role in ("documents", "scores"))
        sizes = [pc.fill_null(pc.list_value_length(one), 0).to_numpy() for one in (documents, score)]
        wrong = sizes[0] != sizes[1]
        if wrong.any():
            row = int(wrong.argmax())
            raise columns.at(
                row,
                f"{counted(int(sizes[0][row]), 'document')}, but {counted(int(sizes[1][row]), 'score')}",
                "give every document a score",
            )
        row_of = np.repeat(np.arange(len(documents)), sizes[0])

        def _at(
            element: int, what: str, hint: str, columns: ArrowColumns = columns, rows: object = row_of
        ) -> InputError:
            return columns.at(int(rows[element]), what, hint)  # type: ignore[index]

        query = ids(columns, "query")
        queries.append(pa.DictionaryArray.from_arrays(query.indices.take(pa.array(row_of)), query.dictionary))
        flat = (pa.chunked_array([pc.list_flatten(one)]) for one in (documents, score))
        docs.append(encoded(next(flat), "a document id", _at, columns.file.origin))
        scores.append(as_numbers(next(flat), "a score", _at, columns.file.origin))
    return merged(
        _one_array(pa.chunked_array(queries).unify_dictionaries()),
        _one_array(pa.chunked_array(docs).unify_dictionaries()),
        pa.concat_arrays(scores),
        origin,
        [columns.file for columns in parts],
    )


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def merged(
    query: pa.DictionaryArray, doc: pa.DictionaryArray, score: pa.Array, origin: str, files: Sequence[File]
) -> Candidates:
    """Returns the distinct pairs; the first score of a pair counts."""
    if not len(query):
        raise InputError(f"{origin} has no candidates", "name a file with rows")
    keys = pair_keys(query.indices.to_numpy(), doc.indices.to_numpy())
    order = np.argsort(keys, kind="stable")
    new = np.diff(keys[order], prepend=-1) > 0
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    values = score.to_numpy()
    different = int(np.unique(keys[order[values[order] != values[first]]]).size)
    note = (
        f"{origin}: {counted(different, 'pair has', 'pairs have')} several scores in the rows of the query; "
        "the first one counts"
        if different
        else ""
    )
    rows = pa.array(np.sort(order[new]))
    return Candidates(
        origin,
        candidates_table(query.take(rows), doc.take(rows), None, score.take(rows)),
        digest_of(files),
        note,
    )
