"""The configuration of `miner pretrain`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from miner.errors import UsageError
from miner.ranges import BATCH, BELOW_1, COUNT, EPOCHS, RATE, known_keywords, require_one_of, whole, within
from miner.training.encoder_config import SCRATCH
from miner.training.training_config import TrainingConfig

TEXTS = {"documents": ("documents",), "queries": ("queries",), "both": ("documents", "queries")}
"""The values of the setting `texts`, and the roles of the texts that each selects."""
POOLINGS = ("keep", "cls", "mean")


@known_keywords
@dataclass(frozen=True)
class PretrainConfig(TrainingConfig):
    """All settings of a pretraining; UsageError for values out of range.

    Deletion, batch size and learning rate are those of the paper (Wang et al. 2021).
    """

    base: str = "bundled"
    """The transformer to start from: hub id, folder or `bundled`."""
    texts: str = "both"
    """The texts of the store to train on: `documents`, `queries` or `both`."""
    without: str | None = "test"
    """Leave out the queries that are judged in this split, which evaluation uses."""
    deletion: float = within(0.6, BELOW_1)
    """The probability that a word is deleted; in scripts without spaces, a character."""
    pooling: str = "keep"
    """How token vectors become one vector: `cls`, `mean`, or `keep` for the way of the base."""
    epochs: int = within(1, EPOCHS)
    max_steps: int | None = within(None, COUNT)
    """Stop after this many batches, even before the epochs end."""
    batch_size: int = within(8, BATCH)
    """Texts per batch."""
    learning_rate: float = within(3e-5, RATE)
    """Constant after the warm-up."""
    warmup: float = within(0.05, BELOW_1)
    """The share of the steps in which the learning rate rises."""
    max_length: int = within(128, whole(8, 1_000_000))
    """Maximum tokens of a text, special tokens included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base == SCRATCH:
            raise UsageError(
                f"TSDAE cannot start from {SCRATCH}: it pretrains a transformer",
                "name one with --base, such as bundled",
            )
        require_one_of("texts", self.texts, TEXTS)
        require_one_of("pooling", self.pooling, POOLINGS)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the texts to train on."""
        return TEXTS[self.texts]
