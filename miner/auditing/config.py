"""How an audit hides positives: one frozen configuration. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from miner.ranges import BETWEEN, SEED, check_fields, known_keywords, whole, within


@known_keywords
@dataclass(frozen=True)
class AuditConfig:
    """How positives are hidden. Raises UsageError at construction for a value out of range."""

    share: float = within(0.3, BETWEEN)
    """Share of each query's positives to hide; one is left. This share of the queries with a single positive
    loses it."""
    repeats: int = within(5, whole(1, 10_000))
    """Number of draws."""
    seed: int = within(13, SEED)

    def __post_init__(self) -> None:
        check_fields(self)
