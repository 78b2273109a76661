"""The configuration of `miner train-reranker`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from miner.errors import UsageError
from miner.ranges import BATCH, BELOW_1, COUNT, DEPTH, EPOCHS, RATE, known_keywords, whole, within
from miner.training.training_config import TrainingConfig


@known_keywords
@dataclass(frozen=True)
class RerankerConfig(TrainingConfig):
    """All settings of a training; UsageError for values out of range."""

    split: str = "train"
    """Train on the positives of this split."""
    base: str = "bundled"
    """The model to start from: hub id, folder or `bundled`. A model without a head gets a new, seeded one."""
    epochs: int = within(2, EPOCHS)
    """Average precision on 60 held-out queries of perspectrum, trained on 60 others: 1 epoch .592, 2 .650."""
    max_steps: int | None = within(None, COUNT)
    """Stop after this many batches, even before the epochs end."""
    batch_size: int = within(32, BATCH)
    """Pairs per batch."""
    learning_rate: float = within(5e-5, RATE)
    """The peak rate; it rises during the warm-up and falls linearly to 0. 1e-4 gave .562 in the same
    trial."""
    warmup: float = within(0.1, BELOW_1)
    """The share of the steps in which the learning rate rises."""
    mined: int = within(4, whole(0, 10_000))
    """Negatives from BM25's rank window per positive."""
    random: int = within(2, whole(0, 10_000))
    """Random negatives per positive: without them, a model never sees easy documents."""
    skip_top: int = within(10, whole(0, 100_000))
    """Draw no negatives from these first ranks, where most unjudged positives are."""
    depth: int = within(60, DEPTH)
    """The last rank from which negatives are drawn."""
    folds: int = within(0, whole(0, 100))
    """Train this many models, each without the queries that it scores; 0: one model on all queries."""
    held_out: float = within(0.1, BELOW_1)
    """The share of the queries that no model trains on, for the figures in the card."""
    withheld: float = within(0.0, BELOW_1)
    """The share of each query's positives that are withheld from training, for an audit."""
    probabilities: bool = True
    """Make the scores probabilities, fitted on the queries that a model does not train on."""
    queries: int | None = within(None, COUNT)
    """Use only this many queries, drawn with the seed."""
    max_length: int = within(256, whole(16, 1_000_000))
    """Maximum tokens of a pair, special tokens included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.mined + self.random > 0, "mined and random", 0, "at least one negative per positive")
        _require(self.depth > self.skip_top, "depth", self.depth, f"more than skip_top ({self.skip_top})")
        _require(self.folds == 0 or self.folds >= 2, "folds", self.folds, "0 for none, or 2 and more")


def _require(valid: bool, name: str, value: object, allowed: str) -> None:
    if not valid:
        raise UsageError(f"{name} must be {allowed}, got {value}")
