"""Sets of documents with scores, mined elsewhere: sources of an ingest, and candidates of a run.

There are two layouts.

Lists: Parquet files `queries` (query_id, query), `documents` (document_id, document) and `scores` (query_id,
lists document_ids and scores), as in lightonai/embeddings-fine-tuning on the Hugging Face hub. `scores` has a
row there for each positive of a query: its first document is the positive, the others are mined. In
cross-encoder/lightonai-embeddings-fine-tuning-reranked-v1 there is a list of positive_ids too. In the sets of
PyLate the third part is `train`, and nothing says which documents are relevant.

Rows: FlagEmbedding's JSON lines with a query, lists `pos` and `neg` of texts, and lists `pos_scores` and
`neg_scores`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from miner.arrays import pair_keys
from miner.collection.given import Candidates
from miner.errors import InputError, counted, listed, near, shown
from miner.sources.columns import (
    ArrowColumns,
    Choice,
    as_numbers,
    candidates_table,
    column_named,
    digest_of,
    encoded,
    ids,
    read_columns,
    require_lists,
)
from miner.sources.config import SourceConfig, require_splits
from miner.sources.files import File, lines, tree, unread
from miner.sources.layouts import SCORES_BESIDE, Layout, find_layout
from miner.sources.part import Part, Rows, Source
from miner.sources.qrels import DOCUMENT, QUERY
from miner.sources.table import Record
from miner.sources.tabular import one_kind_parts, open_table, passage_id
from miner.sources.values import NotTextError, Passage, as_number, as_text, is_blank, parse_json
from miner.text import content_id

_DOCUMENT_LISTS = ("document_ids", "doc_ids", "docids", "corpus_ids")
_POSITIVES = ("positive_ids",)
_DOCUMENT_IDS = (*DOCUMENT[:9], "_id", "id")
_QUERY_IDS = (*QUERY[:4], "_id", "id")
_TEXTS = {"documents": ("document", "text", "contents", "passage"), "queries": ("query", "text", "question")}
_JUDGED, _UNJUDGED = "scores", "train"
"""The parts with lists; in the first, the first document of a row is relevant."""
_SHARD = re.compile(r"-?\d{5}-of-\d{5}$")
_ROWS_AT_ONCE = 1000


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


def is_scored_set(folder: Path) -> bool:
    """Returns whether a folder has queries, documents, and lists of scores, as Parquet files."""
    parts = {name: _files(str(folder), folder, name) for name in ("documents", "queries")}
    return all(parts.values()) and _scored_part(str(folder), folder) is not None


def _files(source: str, folder: Path, name: str) -> list[File]:
    """Returns the Parquet files of a part: NAME.parquet, NAME-….parquet, or all in the folder NAME."""
    base = source.rstrip("/")
    beside = [
        path for path in folder.glob("*.parquet") if path.stem == name or path.stem.startswith(f"{name}-")
    ]
    paths = sorted([*beside, *(folder / name).glob("*.parquet")])
    return [File(path, f"{base}/{path.relative_to(folder)}") for path in paths]


def _scored_part(source: str, folder: Path) -> tuple[str, list[File]] | None:
    """Returns the name and the files of the part with the lists; None if there is none."""
    for name in (_JUDGED, _UNJUDGED):
        files = _files(source, folder, name)
        if files and list_columns(open_table(files[0]).columns) is not None:
            return name, files
    return None


def _require_one_corpus(source: str, files: Sequence[File]) -> None:
    """Raises InputError if the files belong to several corpora, whose ids each begin anew."""
    corpora = sorted({_SHARD.sub("", file.path.stem) for file in files})
    if len(corpora) > 1:
        one = corpora[0]
        raise InputError(
            f"{source}: {len(corpora)} corpora ({listed(corpora)}), and the ids begin anew in each",
            f"name a folder with the files of one, such as {one}: */{one}-*.parquet",
        )


def open_scored_set(source: str, folder: Path, config: SourceConfig) -> Source:
    """Returns a set with lists as a source; the relevant documents of each row become judgments.

    Raises InputError for several corpora in one folder, and for missing columns.
    """
    scored = _scored_part(source, folder)
    if scored is None:
        raise InputError(f"{source}: no lists of scores", "it needs query_id, document_ids and scores")
    name, lists = scored
    texts = {kind: _files(source, folder, kind) for kind in ("documents", "queries")}
    for files in (*texts.values(), lists):
        _require_one_corpus(source, files)
    split = config.split or "train"
    require_splits(config, source, [split])
    tables = [
        (table := open_table(file), _text_layout(table.origin, table.columns, kind), split)
        for kind, files in texts.items()
        for file in files
    ]
    read = [*lists, *(file for files in texts.values() for file in files)]
    known = {file.path for file in read}
    left = [(file, "not a part of the set") for file in tree(source, folder) if file.path not in known]
    notes = [
        *unread(left, folder),
        *_unread_columns(tables),
        f"not read: the scores in {name}; miner mine --candidates {quote(source)} reads them",
        *_without_judgments(source, name, lists),
    ]

    def _parts() -> Iterator[Part]:
        for table in tables:
            yield from one_kind_parts(source, [table], config)
        for file in lists:
            yield from _judgments(file, split, first_is_relevant=name == _JUDGED)

    return Source(source, sum(file.size for file in read), "bytes", _parts(), "\n".join(notes))


def _text_layout(origin: str, names: Sequence[str], kind: str) -> Layout:
    identity = column_named(names, _DOCUMENT_IDS if kind == "documents" else _QUERY_IDS)
    text = column_named(names, _TEXTS[kind])
    wanted = ("document_id", "document") if kind == "documents" else ("query_id", "query")
    for found, name in zip((identity, text), wanted, strict=True):
        if found is None:
            raise InputError(
                f"{origin}: no column '{name}'{near(name, names)}", f"its columns: {listed(names)}"
            )
    if kind == "queries":
        return Layout(kind, query_id=identity, text=text or "")
    return Layout(kind, document_id=identity, text=text or "", title=column_named(names, ("title",)))


def _unread_columns(tables: Sequence[tuple[object, Layout, str]]) -> list[str]:
    found = {
        name: table
        for table, layout, _ in tables
        for name in table.columns  # type: ignore[attr-defined]
        if name not in layout.read
    }
    return [f"not read: columns {listed(found)}"] if found else []


def _without_judgments(source: str, name: str, files: Sequence[File]) -> list[str]:
    choice = list_columns(open_table(files[0]).columns) or {}
    if name == _JUDGED or "positives" in choice:
        return []
    return [f"{source}: {name} does not say which documents are relevant: no judgments"]


def _judgments(file: File, split: str, first_is_relevant: bool) -> Iterator[Part]:
    """Yields a judgment for each relevant document of each row."""
    choice = list_columns(open_table(file).columns)
    if choice is None or not ("positives" in choice or first_is_relevant):
        return
    rows, line = Rows(), 0
    with pq.ParquetFile(file.path) as parquet:
        share = file.size // max(parquet.metadata.num_rows, 1)
        column = choice.get("positives", choice["documents"])
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=[choice["query"], column]):
            relevant = batch.column(column)
            if "positives" not in choice:
                relevant = pc.list_slice(relevant, 0, 1)
            for query, found in zip(
                batch.column(choice["query"]).to_pylist(), relevant.to_pylist(), strict=True
            ):
                line += 1
                rows.size += share
                _judge(rows, (file.origin, line), (query, found or []), split, column)
            if rows.ready:
                yield rows.part()
    yield rows.part()


def _judge(
    rows: Rows, where: tuple[str, int], row: tuple[object, list[object]], split: str, column: str
) -> None:
    query, found = row
    rows.start("judgments", *where, query, *found, split)
    try:
        query_id, relevant = as_text(query, "query_id"), [as_text(one, column) for one in found]
    except NotTextError as error:
        rows.reject("not_text", str(error))
        return
    if not relevant:
        rows.reject("empty_list", f"'{shown(column)}' is empty")
    elif not query_id or not all(relevant):
        rows.reject("empty_id", "an id is missing")
    else:
        for doc_id in relevant:
            rows.judgment(query_id, doc_id or "", split)


def candidates_of_set(source: str, folder: Path) -> Candidates:
    """Returns the scored documents of a set with lists, the relevant ones included, as candidates."""
    scored = _scored_part(source, folder)
    if scored is None:
        raise InputError(f"{source}: no lists of scores", "it needs query_id, document_ids and scores")
    _require_one_corpus(source, scored[1])
    return candidates_of_lists([read_columns(file, _choose_lists) for file in scored[1]], source)


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
    return _merged(
        _one_array(pa.chunked_array(queries).unify_dictionaries()),
        _one_array(pa.chunked_array(docs).unify_dictionaries()),
        pa.concat_arrays(scores),
        origin,
        [columns.file for columns in parts],
    )


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _merged(
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


def is_labelled_with_scores(file: File) -> bool:
    """Returns whether the rows of a file have scores of positives or negatives, by its first row."""
    if file.suffix in (".csv", ".tsv"):
        return False
    first = (
        next((line for line in lines(file) if line.text.strip()), None) if file.suffix != ".parquet" else None
    )
    if first is not None and first.text.lstrip().startswith("{"):
        names = list(parse_json(first.text, file.origin, first.number, json.JSONDecoder()))
    else:
        names = list(open_table(file).columns)
    return bool(set(SCORES_BESIDE.values()) & set(names))


def candidates_of_rows(file: File) -> Candidates:
    """Returns the positives and negatives of FlagEmbedding's rows, with their scores, as candidates.

    Their ids are those that an ingest of the file gives them. Raises InputError for lists of different
    lengths.
    """
    table = open_table(file)
    layout = find_layout(table, SourceConfig())
    pairs = [
        (name, SCORES_BESIDE[name]) for name in layout.passages if SCORES_BESIDE.get(name) in table.columns
    ]
    several = [*(name for name, _ in pairs), *(scores for _, scores in pairs)]
    queries, docs, values = list[str](), list[str](), list[float]()
    for record in table.read(layout.texts, several, [layout.query]):
        query = _query_of(record, layout)
        if query is None:
            continue
        half = len(pairs)
        for at, (name, _) in enumerate(pairs):
            scored = _scored_passages(file, record, name, record.passages[at], record.passages[half + at])
            queries += [query] * len(scored)
            docs += [doc_id for doc_id, _ in scored]
            values += [value for _, value in scored]
    query_ids, doc_ids = (pa.array(one, pa.string()).dictionary_encode() for one in (queries, docs))
    return _merged(query_ids, doc_ids, pa.array(values, pa.float64()), file.origin, [file])


def _query_of(record: Record, layout: Layout) -> str | None:
    """Returns the id of a row's query; None if an ingest leaves the row out."""
    if record.problem is not None or is_blank(record.values[0]):
        return None
    return record.values[1] if layout.query_id else content_id("q-", record.values[0] or "")


def _scored_passages(
    file: File, record: Record, name: str, passages: Sequence[Passage], scores: Sequence[Passage]
) -> list[tuple[str, float]]:
    """Returns the id and the score of each passage with a text."""
    where = f"{file.origin}:{record.line}"
    if len(passages) != len(scores):
        raise InputError(
            f"{where}: {counted(len(passages), 'passage')} in '{name}', but "
            f"{counted(len(scores), 'score')} in '{SCORES_BESIDE[name]}'",
            "give every passage a score",
        )
    found = []
    for passage, score in zip(passages, scores, strict=True):
        value = as_number(score.text)
        if value is None:
            raise InputError(
                f"{where}: '{SCORES_BESIDE[name]}' has {shown(score.text)}, not a finite number",
                "write a finite number for each passage",
            )
        if not is_blank(passage.text):
            found.append((passage_id(passage), value))
    return found
