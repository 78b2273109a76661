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


KEPT = -1
"""The code of a kept candidate in `decisions`, minus its slot. A code of 0 or more is a reason's position in
`Reason`."""
SUSPECTED = 64
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

HITS = pa.schema([("query_id", Id), ("doc_id", Id), ("rank", pa.int32()), ("score", pa.float64())])
CANDIDATES = pa.schema(
    [
        ("candidate", pa.int64()),
        ("query_id", Id),
        ("doc_id", Id),
        ("bm25_rank", pa.int32()),
        ("bm25_score", pa.float64()),
        ("dense_rank", pa.int32()),
        ("dense_score", pa.float64()),
        ("fused_rank", pa.int32()),
        ("exclusion", pa.string()),
        ("judged_negative", pa.bool_()),
    ]
)
"""The candidates of a set of searches: the rank by each retriever that returned the pair, the score by every
retriever in use, the exclusion that prevents it from being a negative, and whether a judgment or a label says
that it is a negative. `candidate` is the number of its query (ordered by query_id, from 0) times
`CANDIDATES_PER_QUERY`, plus its fused rank."""

CANDIDATES_PER_QUERY = 1 << 20

POSITIVES = pa.schema(
    [
        ("query_no", pa.int32()),
        ("query_id", Id),
        ("doc_id", Id),
        ("bm25_score", pa.float64()),
        ("dense_score", pa.float64()),
    ]
)
"""The positives of the mined split, with the scores of every retriever in use."""

TRIPLETS = pa.schema(
    [
        ("query_id", Id),
        ("positive_id", Id),
        ("negative_id", Id),
        ("positive_score", pa.float64()),
        ("negative_score", pa.float64()),
        ("rank", pa.int32()),
    ]
)
"""`rank` numbers a query's negatives from 1, hardest first. The scores are the deciding scores."""
