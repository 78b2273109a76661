"""How to pretrain an encoder with TSDAE: one frozen configuration. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from miner.errors import UsageError
from miner.training.encoder_config import SCRATCH

TEXTS = {"documents": ("documents",), "queries": ("queries",), "both": ("documents", "queries")}
"""What `--texts` may name, and the sides of the store that it stands for."""
POOLINGS = ("keep", "cls", "mean")


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides which weights come out. UsageError for a value that cannot be.

    Deletion, batch size and learning rate are those of the paper (Wang et al. 2021).
    """

    base: str = "bundled"
    """The transformer to start from: hub id, folder or `bundled`."""
    texts: str = "both"
    """Which texts of the store to learn from: `documents`, `queries` or `both`."""
    without: str | None = "test"
    """Leave out the queries that are judged in this split: it is kept to measure on."""
    deletion: float = 0.6
    """The probability with which each word is deleted; one word stays."""
    pooling: str = "keep"
    """How token vectors become one: `cls`, `mean`, or as the base does it."""
    epochs: int = 1
    max_steps: int | None = None
    """Stop after this many batches, whatever `epochs` says."""
    batch_size: int = 8
    """Texts per batch."""
    learning_rate: float = 3e-5
    """Constant after the warm-up."""
    warmup: float = 0.05
    """The share of the steps over which the learning rate rises."""
    max_length: int = 128
    """Tokens read and written of a text, special tokens included."""
    dtype: str = "auto"
    seed: int = 13
    threads: int | None = None
    """Processor threads; None: PyTorch's own choice. Another number can change the last digits."""

    def __post_init__(self) -> None:
        if self.base == SCRATCH:
            raise UsageError(
                f"TSDAE cannot start from {SCRATCH}: it pretrains a transformer",
                "name one with --base, such as bundled",
            )
        _require(self.texts in TEXTS, "texts", self.texts, f"one of {', '.join(TEXTS)}")
        _require(self.pooling in POOLINGS, "pooling", self.pooling, f"one of {', '.join(POOLINGS)}")
        _require(self.dtype in ("auto", "fp32", "bf16"), "dtype", self.dtype, "auto, fp32 or bf16")
        for name in ("epochs", "batch_size"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("max_steps", "threads"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1")
        for name in ("deletion", "warmup"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")
        _require(0 < self.learning_rate < inf, "learning_rate", self.learning_rate, "above 0")
        _require(self.max_length >= 8, "max_length", self.max_length, "at least 8")
        _require(0 <= self.seed < 1 << 32, "seed", self.seed, "0 to 2**32 - 1")

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides of the store whose texts are learnt from."""
        return TEXTS[self.texts]

    def identity(self) -> dict[str, Any]:
        """Returns the settings that the weights depend on, as JSON-able values."""
        return {name: value for name, value in asdict(self).items() if name != "threads"}


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise UsageError(f"{name} cannot be {value}", f"use {allowed}")
