"""The names that all code uses: Arrow schemas, verdicts and reasons."""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa


class Verdict(StrEnum):
    """What became of a candidate in one run."""

    KEPT = "kept"
    """Passed every rule: a negative if it was selected, else a spare."""
    DROPPED = "dropped"
    SUSPECTED = "suspected"
    """Dropped for its score, which is above the median of the query's positives: perhaps one itself."""


class Reason(StrEnum):
    """Why a candidate was dropped or is suspected. The place of each is its code: add at the end."""

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
"""The code of a kept candidate in `decisions`, less its slot; one of 0 or more is a reason's place in
`Reason`."""
SUSPECTED = 64
"""Added to the code of a candidate that is a suspected positive."""

Id = pa.dictionary(pa.int32(), pa.string())
"""Ids travel between stages as dictionaries: an integer per row, each text once."""

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
"""A positive has relevance above 0; 0 or less is a judged negative."""

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
"""What one set of searches found: ranks where a retriever returned the pair, scores of every retriever
in use, the exclusion that makes it no negative whatever the scores say, and whether a judgment or a
label already says that it is one. `candidate` is the number
of its query (in order of query_id, from 0) times `CANDIDATES_PER_QUERY` plus its fused rank."""

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
"""The judged positives of the mined split, scored like candidates."""

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
"""`rank` counts a query's negatives from 1, hardest first. Scores are the deciding scores."""
