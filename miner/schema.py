"""Arrow schemas, verdicts and reasons, which all code shares."""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa


class Verdict(StrEnum):
    """The verdict on a candidate in a run."""

    KEPT = "kept"
    """It passed every rule; it may be selected as a negative."""
    DROPPED = "dropped"
    """It failed a rule or is excluded."""
    SUSPECTED = "suspected"
    """A rule dropped it, and its score is above the median of the query's positives: it may be a positive."""


class Reason(StrEnum):
    """Why a candidate was dropped or is suspected. Its position is its code: add new reasons at the end."""

    JUDGED_POSITIVE = "judged_positive"
    SAME_LABEL = "same_label"
    DUPLICATE_OF_POSITIVE = "duplicate_of_positive"
    OVERLAPS_POSITIVE = "overlaps_positive"
    IS_QUERY = "is_query"
    EMPTY_TEXT = "empty_text"
    PROTECTED = "protected"
    RANK_WINDOW = "rank_window"
    MAX_SCORE = "max_score"
    MIN_SCORE = "min_score"
    ABSOLUTE_MARGIN = "absolute_margin"
    RELATIVE_MARGIN = "relative_margin"
    PERCENTILE = "percentile"
    RELATIVE_PERCENTILE = "relative_percentile"
    DOCUMENT_CAP = "document_cap"
    DUPLICATE_OF_CANDIDATE = "duplicate_of_candidate"
    NOT_SCORED = "not_scored"
    NOT_RERANKED = "not_reranked"
    AGREE = "agree"
    NOT_JUDGED = "not_judged"
    SAME_DOCUMENT = "same_document"


CODES = {reason: code for code, reason in enumerate(Reason)}
"""The code of each reason."""
FREE = -1
"""The code of a candidate that nothing excludes."""
KEPT = -1
"""The code of a kept candidate in `decisions`, minus its slot. A code of 0 or more is a reason's position in
`Reason`."""
SUSPECTED = 32
"""A number that is added to the code of a suspected positive."""

Id = pa.dictionary(pa.int32(), pa.string())
"""The type of id columns between stages: an integer per row, and each id once."""

DOCUMENTS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("label", pa.string()),
    ]
)
QUERIES = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("label", pa.string()),
    ]
)
JUDGMENTS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("relevance", pa.float64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)
"""A positive has a relevance above 0, a judged negative 0 or less."""

HITS = pa.schema(
    [("query_no", pa.int32()), ("doc_nos", pa.list_(pa.int32())), ("scores", pa.list_(pa.float64()))]
)
"""The hits of a search: one row per query, the best document first; a document's rank is its place. Queries
and documents are numbered by id, from 0, among those that were searched."""

CANDIDATES_PER_QUERY = 1 << 20
"""The number of a candidate is the number of its query (ordered by query_id, from 0) times this, plus its
fused rank."""

POOLS = pa.schema(
    [
        ("query_no", pa.int32()),
        ("query_id", Id),
        ("doc_nos", pa.list_(pa.int32())),
        ("exclusions", pa.list_(pa.int8())),
        ("judged_negative", pa.list_(pa.bool_())),
        ("best_ranks", pa.list_(pa.int32())),
        ("best_scorers", pa.list_(pa.int8())),
    ]
)
"""The candidates of each query by fused rank: the number of each document, the exclusion that prevents it
from being a negative (its code, FREE without one), whether a judgment or a label says that it is a negative,
its best rank from any retriever, and the number of that retriever (the smallest if several rank it equally).
"""

SCORED = pa.schema(
    [
        ("query_no", pa.int32()),
        ("scorer", pa.int16()),
        ("ranks", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float64())),
        ("positives", pa.list_(pa.float64())),
    ]
)
"""The ranks and scores of one retriever for a query: the rank (null if it did not return it) and the score
(null without one) of every candidate by fused rank, and the score of every positive by doc_id."""

SELECTED = pa.schema(
    [
        ("query_id", Id),
        ("positive_id", Id),
        ("positive_score", pa.float64()),
        ("doc_nos", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float64())),
    ]
)
"""The negatives of a positive, hardest first: their numbers in the evidence, and their deciding scores."""
