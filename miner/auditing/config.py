"""How positives are hidden: one frozen configuration. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from miner.ranges import BETWEEN, SEED, check_fields, whole, within


@dataclass(frozen=True)
class AuditConfig:
    """How positives are hidden. UsageError for a value that cannot be."""

    share: float = within(0.3, BETWEEN)
    """Of each query's positives; one is always left."""
    repeats: int = within(5, whole(1, 10_000))
    """How often others are drawn."""
    seed: int = within(13, SEED)

    def __post_init__(self) -> None:
        check_fields(self)
