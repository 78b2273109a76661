"""Rows of ids: a query and documents by their ids, with what says which of them are relevant.

The texts are elsewhere: in other parts of a set (`id_sets.py`) or in another source. The row itself may have
the text of the query, as in the newer files of Tevatron (query_id, query_text, positive_document_ids,
negative_document_ids).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from miner.sources.part import Part, Rows
from miner.sources.table import Record, Table
from miner.sources.training_rows import NotFittingError, require_as_many
from miner.sources.values import JSON, Passage, as_number, is_blank

_QUERY_IDS = ("query_id", "query-id", "queryid", "qid")
_QUERY_TEXTS = ("query_text", "query")
_DOCUMENTS = (
    "document_ids", "doc_ids", "docids", "corpus_ids", "passage_ids",
    "document_id", "doc_id", "docid", "corpus_id", "corpus-id", "passage_id", "pid",
)  # fmt: skip
_GRADES = ("labels", "label", "relevance", "relevances")
_SCORES = ("scores", "score")
_ID = r"(?:[_-](?:document|doc|corpus|passage))?[_-]?ids?"
_POSITIVE = re.compile(rf"(?:positive|pos){_ID}", re.IGNORECASE)
_NEGATIVE = re.compile(rf"(?:hard_)?(?:negative|neg)(?:{_ID}(?:_\d+)?|_\d+{_ID})", re.IGNORECASE)


class IdRows(NamedTuple):
    """The columns of rows of ids."""

    query: str
    text: str | None
    """The column with the text of the query."""
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    documents: str | None
    """The column of documents that may or may not be relevant."""
    grades: str | None
    """The column that says how relevant each of `documents` is."""
    scores: str | None

    @property
    def is_qrels(self) -> bool:
        """Whether a row may be one judgment: a query, a document and a number."""
        return bool(self.documents and not self.positives and not self.has_lists)

    @property
    def are_scored(self) -> bool:
        """Whether scores are beside negatives or lists of documents: a retriever found these."""
        return bool(self.scores and (self.negatives or self.has_lists))

    @property
    def has_lists(self) -> bool:
        """Whether `documents` is a list in each row, by its name."""
        return (self.documents or "").lower().endswith("ids")

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that an ingest reads."""
        columns = (self.query, self.text, *self.positives, *self.negatives, self.documents, self.grades)
        return tuple(column for column in columns if column is not None)

    @property
    def roles(self) -> dict[str, str]:
        """The columns that an ingest reads, and what they hold."""
        found = {self.query: "query id", self.text: "query"}
        found |= dict.fromkeys(self.positives, "ids of relevant documents")
        found |= dict.fromkeys(self.negatives, "ids of negatives")
        found |= {self.documents: "ids of documents", self.grades: "their relevance"}
        return {column: role for column, role in found.items() if column is not None}


def id_rows(columns: Sequence[str]) -> IdRows | None:
    """Returns the columns of rows of ids, by their names; None for another table."""
    by_name = {name.strip().lower(): name for name in reversed(columns)}

    def _first(names: Sequence[str]) -> str | None:
        return next((by_name[name] for name in names if name in by_name), None)

    query, documents, scores = _first(_QUERY_IDS), _first(_DOCUMENTS), _first(_SCORES)
    positives, negatives = (
        tuple(name for name in columns if pattern.fullmatch(name.strip()))
        for pattern in (_POSITIVE, _NEGATIVE)
    )
    if query is None or (documents is None and not positives):
        return None
    grades = _first(_GRADES) if documents else None
    found = IdRows(query, _first(_QUERY_TEXTS), positives, negatives, documents, grades, scores)
    if found.is_qrels and grades is None:
        found = found._replace(grades=scores, scores=None)
    return None if found.is_qrels and found.grades is None else found


class Reading(NamedTuple):
    """How to read a table of rows of ids."""

    table: Table
    columns: IdRows
    split: str
    mined: bool
    """Whether a retriever found the negatives: nobody judged them."""
    first_is_relevant: bool = False
    """Whether the first of `documents` is relevant, and nothing else says so."""
    exported: bool = False
    """Whether labels of 0 are for mined negatives too."""


def id_parts(readings: Sequence[Reading]) -> Iterator[Part]:
    """Yields the judgments in rows of ids, and the queries whose texts are in the rows."""
    rows = Rows()
    for reading in readings:
        names = reading.columns
        texts = [names.query] if names.text is None else [names.query, names.text]
        lists = [name for name in names.read if name not in texts]
        for record in reading.table.read(texts, lists):
            rows.size += record.size
            rows.start("rows of ids", reading.table.origin, record.line, *record.content, reading.split)
            _take(rows, record, lists, reading)
            if rows.ready:
                yield rows.part()
    yield rows.part()


def _take(rows: Rows, record: Record, lists: Sequence[str], reading: Reading) -> None:
    names = reading.columns
    if record.problem is not None:
        rows.reject(*record.problem)
        return
    query = record.values[0] or ""
    found = {name: unpacked(ids) for name, ids in zip(lists, record.passages, strict=True)}
    try:
        judged = list(_judged(found, reading))
    except NotFittingError as error:
        rows.reject(*error.args)
        return
    if not query or not all(doc_id for doc_id, _ in judged):
        rows.reject("empty_id", "an id is missing")
    elif not judged:
        rows.reject("empty_list", f"no judged documents in {', '.join(found)}")
    elif names.text is not None and is_blank(record.values[1]):
        rows.reject("empty_text", f"column '{names.text}' is empty")
    else:
        if names.text is not None:
            rows.query(query, record.values[1] or "")
        for doc_id, relevance in judged:
            rows.judgment(query, doc_id or "", reading.split, relevance)


def _judged(found: dict[str, Sequence[Passage]], reading: Reading) -> Iterator[tuple[str | None, float]]:
    """Yields the judged documents of a row; raises NotFittingError if a relevance is not a number."""
    names = reading.columns
    for columns, relevance in ((names.positives, 1.0), (() if reading.mined else names.negatives, 0.0)):
        yield from ((one.text, relevance) for column in columns for one in found[column])
    documents = found.get(names.documents or "", ())
    if names.grades is None:
        yield from ((one.text, 1.0) for one in documents[: int(reading.first_is_relevant)])
        return
    require_as_many(names.documents or "", documents, names.grades, found[names.grades])
    for one, grade in zip(documents, found[names.grades], strict=True):
        if (number := as_number(grade.text)) is None:
            raise NotFittingError("bad_relevance", f"relevance '{grade.text}' is not a number")
        if number > 0 or not reading.exported:
            yield one.text, number


def unpacked(values: Sequence[Passage]) -> Sequence[Passage]:
    """Returns the values of a list; some sets write a list as the text `[1, 2]`."""
    text = values[0].text if len(values) == 1 else None
    if text is None or not text.lstrip().startswith("["):
        return values
    try:
        found = JSON.decode(text.replace("'", '"'))
    except (json.JSONDecodeError, RecursionError):
        return values
    return [Passage(str(one)) for one in found]
