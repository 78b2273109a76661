"""How to make silver judgments: one frozen configuration. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from miner.errors import UsageError, near
from miner.ranges import DEPTH, DTYPES, SHARE, check_fields, require_one_of, within
from miner.store.silver import QUERIES

AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class SilverConfig:
    """What is asked of the reranker. UsageError for a value that cannot be."""

    split: str = "train"
    """Of the gold judgments that the reranker learns from, and of the silver ones it makes."""
    reranker: str | None = None
    """Hub id or folder; None: one is trained on the split, in a folder beside the store."""
    encoder: str = AUTO
    """Finds pairs together with BM25: hub id, folder, `bundled`; `none`: BM25 alone; `auto`: the bundled
    encoder where it is installed."""
    queries: str = "all"
    """`judged`: those with a positive in the split; `unjudged`: those without any judgment; or `all`."""
    depth: int = within(20, DEPTH)
    """Documents that each retriever returns per query."""
    per_query: int = within(10, DEPTH)
    """Unjudged pairs scored per query, the best by reciprocal rank fusion."""
    positive: float = within(0.9, SHARE)
    """Pairs that score at least this become silver positives."""
    negative: float = within(0.1, SHARE)
    """Pairs that score at most this become silver negatives; what is between is left out."""
    soft: bool = False
    """Whether every pair becomes a judgment whose relevance is its score, in the place of the sure ones."""
    dtype: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        require_one_of("dtype", self.dtype, DTYPES)
        if not 0 <= self.negative < self.positive <= 1:
            raise UsageError(
                f"thresholds cannot be {self.negative:g} and {self.positive:g}",
                "use 0 <= --negative < --positive <= 1",
            )
        if self.soft and (self.positive, self.negative) != (SilverConfig.positive, SilverConfig.negative):
            raise UsageError(
                "thresholds have no effect on soft judgments: every score is kept",
                "leave --positive and --negative out, or --soft",
            )
        if self.queries not in QUERIES:
            raise UsageError(
                f"no queries '{self.queries}'{near(self.queries, QUERIES)}", f"use {', '.join(QUERIES)}"
            )
