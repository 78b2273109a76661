"""How to train a reranker: one frozen configuration. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from miner.errors import UsageError


@dataclass(frozen=True)
class RerankerConfig:
    """Everything that decides which weights come out. UsageError for a value that cannot be."""

    split: str = "train"
    """Learn from the positives of this split."""
    base: str = "bundled"
    """The model to start from: hub id, folder or `bundled`. One without a head gets a new, seeded one."""
    epochs: int = 2
    """Average precision on 60 held-out queries of perspectrum, trained on 60 others: 1 epoch .592, 2 .650."""
    max_steps: int | None = None
    """Stop after this many batches, whatever `epochs` says."""
    batch_size: int = 32
    """Pairs per batch."""
    learning_rate: float = 5e-5
    """At its peak; it rises over the warm-up and falls linearly to 0. In the same trial, 1e-4: .562."""
    warmup: float = 0.1
    """The share of the steps over which the learning rate rises."""
    mined: int = 4
    """Negatives from BM25's rank window per positive."""
    random: int = 2
    """Random negatives per positive: without them a model knows nothing of easy documents."""
    skip_top: int = 10
    """No mined negatives from these first ranks: that is where the unjudged positives are."""
    depth: int = 60
    """The last rank of the window."""
    folds: int = 0
    """Train this many models, each without the queries it will score; 0: one model on all queries."""
    held_out: float = 0.1
    """The share of the queries that no model trains on, for the average precision in the card."""
    hold_out: float = 0.0
    """The share of each query's positives that are treated as if nobody had judged them: for an audit."""
    calibrate: bool = True
    """Scale the scores to probabilities, on queries that no model trains on."""
    max_queries: int | None = None
    """Use only this many queries, drawn with the seed."""
    max_length: int = 256
    """Tokens read of a pair, special tokens included."""
    dtype: str = "auto"
    seed: int = 13
    threads: int | None = None
    """Processor threads; None: PyTorch's own choice. Another number can change the last digits."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "depth"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("max_steps", "max_queries", "threads"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1")
        for name in ("mined", "random", "skip_top"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(0 <= self.seed < 1 << 32, "seed", self.seed, "0 to 2**32 - 1")
        for name in ("warmup", "held_out", "hold_out"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")
        _require(self.mined + self.random > 0, "mined and random", 0, "at least one negative per positive")
        _require(self.depth > self.skip_top, "depth", self.depth, f"more than skip_top ({self.skip_top})")
        _require(self.folds == 0 or self.folds >= 2, "folds", self.folds, "0 for none, or 2 and more")
        _require(0 < self.learning_rate < inf, "learning_rate", self.learning_rate, "above 0")
        _require(self.max_length >= 16, "max_length", self.max_length, "at least 16")

    def identity(self) -> dict[str, Any]:
        """Returns the settings that the weights depend on, as JSON-able values."""
        return {name: value for name, value in asdict(self).items() if name != "threads"}


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise UsageError(f"{name} cannot be {value}", f"use {allowed}")
