"""How positives are hidden: one frozen configuration. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from miner.errors import UsageError


@dataclass(frozen=True)
class AuditConfig:
    """How positives are hidden. UsageError for a value that cannot be."""

    share: float = 0.3
    """Of each query's positives; one is always left."""
    repeats: int = 5
    """How often others are drawn."""
    seed: int = 13

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UsageError(f"share cannot be {self.share}", "use a share such as 0.3")
        if self.repeats < 1 or self.seed < 0:
            raise UsageError(
                f"repeats {self.repeats} with seed {self.seed} cannot be", "use at least 1 and 0"
            )
