"""The configuration of `miner silver`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from miner.errors import UsageError
from miner.ranges import DEPTH, DTYPES, SHARE, check_fields, known_keywords, require_one_of, within
from miner.store.silver import QUERIES

AUTO = "auto"


@known_keywords
@dataclass(frozen=True)
class SilverConfig:
    """How to make silver judgments. Raises UsageError for a value out of range."""

    split: str = "train"
    """Split of the gold judgments to train the reranker on, and of the silver judgments."""
    reranker: str | None = None
    """Hub id, folder or `URL#MODEL`; None trains one on the split, in a folder beside the store."""
    encoder: str = AUTO
    """Encoder that finds pairs besides BM25: hub id, folder, `bundled` or `URL#MODEL`; `none` for BM25 alone;
    `auto` for the bundled encoder if it is installed."""
    query_set: str = "all"
    """`judged`: queries with a positive in the split; `unjudged`: queries without a judgment; `all`: both."""
    depth: int = within(20, DEPTH)
    """Documents that each retriever returns per query."""
    per_query: int = within(10, DEPTH)
    """Unjudged pairs to score per query, the best by reciprocal rank fusion."""
    positive: float = within(0.9, SHARE)
    """Least score of a silver positive."""
    negative: float = within(0.1, SHARE)
    """Greatest score of a silver negative; pairs between the thresholds are left out."""
    soft: bool = False
    """Whether every pair becomes a judgment whose relevance is its score."""
    dtype: str = "auto"
    """Precision of the models: `auto`, `fp32` or `bf16`."""

    def __post_init__(self) -> None:
        check_fields(self)
        require_one_of("dtype", self.dtype, DTYPES)
        if not 0 <= self.negative < self.positive <= 1:
            raise UsageError(
                f"negative must be less than positive, got {self.negative:g} and {self.positive:g}",
                "give thresholds with 0 <= negative < positive <= 1",
            )
        if self.soft and (self.positive, self.negative) != (SilverConfig.positive, SilverConfig.negative):
            raise UsageError(
                "thresholds have no effect with --soft, which keeps every score",
                "leave out positive and negative, or soft",
            )
        require_one_of("query_set", self.query_set, QUERIES)
