"""The configuration of `miner pretrain`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from miner.errors import UsageError
from miner.ranges import (
    BATCH,
    BELOW_1,
    COUNT,
    DTYPES,
    EPOCHS,
    RATE,
    SEED,
    THREADS,
    check_fields,
    require_one_of,
    whole,
    within,
)  # fmt: skip
from miner.training.encoder_config import SCRATCH

TEXTS = {"documents": ("documents",), "queries": ("queries",), "both": ("documents", "queries")}
"""The values of the setting `texts`, and the roles of the texts that each selects."""
POOLINGS = ("keep", "cls", "mean")


@dataclass(frozen=True)
class PretrainConfig:
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
    dtype: str = "auto"
    seed: int = within(13, SEED)
    threads: int | None = within(None, THREADS)
    """Processor threads; None: as many as are free. Another number can change the last digits of the
    weights."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.base == SCRATCH:
            raise UsageError(
                f"TSDAE cannot start from {SCRATCH}: it pretrains a transformer",
                "name one with --base, such as bundled",
            )
        require_one_of("texts", self.texts, TEXTS)
        require_one_of("pooling", self.pooling, POOLINGS)
        require_one_of("dtype", self.dtype, DTYPES)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the texts to train on."""
        return TEXTS[self.texts]

    def identity(self) -> dict[str, Any]:
        """Returns the settings that the weights depend on, as JSON-able values."""
        return {name: value for name, value in asdict(self).items() if name != "threads"}
