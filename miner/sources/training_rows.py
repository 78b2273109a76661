"""Rows of training data as other tools write them, recognised by the names of their columns.

Each row has a query, and texts that are relevant to it or not: in lists (FlagEmbedding, Tevatron, DPR), in
columns of single texts, or in one list with a label for each (sentence-transformers).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from miner.errors import counted, shown
from miner.sources.table import Record, Table
from miner.sources.values import Passage, as_number

if TYPE_CHECKING:
    from miner.sources.layouts import Layout

QUERIES = ("query", "question", "anchor", "query_text")
"""The names of the query beside lists of passages."""
HAS_ANSWER = "has_answer"
"""The key of DPR's passages that says whether they contain an answer."""
RETRIEVED = "documents"
"""A column of negatives of which some may be positives: what a retriever found."""
PLAIN = "pairs or triplets"
_SCORES = ("scores", "score")


@dataclass(frozen=True)
class RowShape:
    """The columns of one tool's rows."""

    format: str
    """The value of --format; empty if the columns alone recognise it."""
    called: str
    """What messages call it."""
    positive: str
    negatives: tuple[str, ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict)
    """Columns of passages, and those of their ids."""
    scores: Mapping[str, str] = field(default_factory=dict)
    """Columns of passages, and those of their scores."""
    grades: tuple[str, ...] = ()
    """Columns that say which passages of `positive` are relevant."""
    beside: tuple[str, ...] = ()
    """Columns of which one must be there too, since the name of `positive` alone says too little."""
    queries: tuple[str, ...] = QUERIES
    passages: bool = False
    """Whether the lists have objects with a text, an id and perhaps a score."""

    @property
    def has_ids(self) -> bool:
        """Whether a column `query_id` beside these columns has the ids of the queries."""
        return self.passages or bool(self.ids)

    def fits(self, columns: Collection[str]) -> bool:
        """Returns whether a table with these columns has this shape."""
        return (
            self.positive in columns
            and any(name in columns for name in self.queries)
            and (not self.beside or any(name in columns for name in self.beside))
        )


SHAPES = (
    # FlagEmbedding 1.4: {"query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "type"}, of which its
    # loaders of embedders and rerankers read these; pos_id and neg_id are in its own mined data.
    RowShape(
        "flagembedding",
        "FlagEmbedding",
        "pos",
        ("neg",),
        {"pos": "pos_id", "neg": "neg_id"},
        {"pos": "pos_scores", "neg": "neg_scores"},
    ),
    # Tevatron 1 and 2: lists of {"docid", "title", "text"}; id_rows.py reads its newer files of ids.
    RowShape("tevatron", "Tevatron", "positive_passages", ("negative_passages",), passages=True),
    # DPR 1.0: lists of {"title", "text", "score", "title_score", "passage_id" or "psg_id"}.
    RowShape("dpr", "DPR", "positive_ctxs", ("hard_negative_ctxs", "negative_ctxs"), passages=True),
    # The output of DPR's dense_retriever.py: {"id", "title", "text", "score", "has_answer"}.
    RowShape("dpr", "output of DPR's retriever", "ctxs", grades=(HAS_ANSWER,), passages=True),
    RowShape("", "lists of texts", "positives", ("negatives", "hard_negatives")),
    # sentence-transformers 6.2: the formats labeled-list and labeled-pair.
    RowShape(
        "sentence-transformers",
        "lists with labels",
        "documents",
        scores={"documents": "scores"},
        grades=("labels",),
        beside=("labels", "scores"),
    ),
    RowShape(
        "sentence-transformers",
        "pairs with labels",
        "document",
        scores={"document": "score"},
        grades=("label",),
        beside=("label", "score"),
        queries=("anchor",),
    ),
    # The samples of its CrossEncoderRerankingEvaluator: a retriever found the documents.
    RowShape(
        "sentence-transformers",
        "samples for reranking",
        "positive",
        ("negative", RETRIEVED),
        beside=(RETRIEVED,),
        queries=("query",),
    ),
    RowShape("sentence-transformers", PLAIN, "positive", queries=("anchor", "query")),
)
"""The shapes that are recognised, the first that fits."""

SHAPE_FORMATS = tuple(dict.fromkeys(shape.format for shape in SHAPES if shape.format))
"""The values of --format that name a shape."""


def shape_of(columns: Collection[str], format: str = "auto") -> RowShape | None:
    """Returns the first shape that columns have, only one of `format` if that names some; else None."""
    known = [shape for shape in SHAPES if format not in SHAPE_FORMATS or shape.format == format]
    return next((shape for shape in known if shape.fits(columns)), None)


def score_columns(table: Table, shape: RowShape | None, several: bool) -> dict[str, str]:
    """Returns the columns with the scores of a table's passages, by the columns of the passages.

    `several`: the rows have negatives. Then the key "" is for a list with the scores of the positive and of
    the negatives, in this order.
    """
    found = {
        name: scores for name, scores in (shape.scores if shape else {}).items() if scores in table.columns
    }
    if not found and several:
        row = next((name for name in _SCORES if name in table.nested), None)
        return {} if row is None else {"": row}
    return found


class RowPassages(NamedTuple):
    """The passages of a row."""

    positives: Sequence[Passage]
    grades: Sequence[str | None] | None
    """What says how relevant each of `positives` is; None if all are relevant."""
    negatives: Sequence[tuple[str, Sequence[Passage]]]
    """Columns with their passages."""
    mined: bool
    """Whether a retriever found the negatives, so that nobody judged them."""


class NotFittingError(ValueError):
    """The lists of a row do not fit together; its arguments are a reason and a detail."""


def passages_of(record: Record, layout: Layout) -> RowPassages:
    """Returns the passages of a row, with the ids in columns of their own.

    Raises NotFittingError if a list of ids or labels has another length than its passages.
    """
    columns = dict(zip(layout.passages, record.passages, strict=True))
    for name, ids in layout.ids.items():
        if not columns[ids]:
            continue
        require_as_many(name, columns[name], ids, columns[ids])
        columns[name] = [
            passage._replace(id=identity.text or passage.id)
            for passage, identity in zip(columns[name], columns[ids], strict=True)
        ]
    positives = columns[layout.positive]
    grades: Sequence[str | None] | None = None
    if layout.grades == HAS_ANSWER:
        grades = [passage.has_answer for passage in positives]
    elif layout.grades is not None:
        require_as_many(layout.positive, positives, layout.grades, columns[layout.grades])
        grades = [grade.text for grade in columns[layout.grades]]
    negatives = [(name, columns[name]) for name in layout.negatives]
    every = (*positives, *(passage for _, found in negatives for passage in found))
    mined = layout.mined or any(has_score(passage) for passage in every)
    return RowPassages(positives, grades, negatives, mined)


def has_score(passage: Passage) -> bool:
    """Returns whether a retriever scored a passage; DPR writes 0 if none did."""
    return passage.score is not None and as_number(passage.score) not in (None, 0.0)


def require_as_many(name: str, passages: Sequence[Passage], others: str, values: Sequence[Passage]) -> None:
    """Raises NotFittingError unless a list of values has as many entries as that of passages beside it."""
    if len(passages) != len(values):
        raise NotFittingError(
            "different_lengths",
            f"{counted(len(passages), 'passage')} in '{shown(name)}', but {counted(len(values), 'value')} in "
            f"'{shown(others)}'",
        )
