"""How audits and calibrations hide positives: frozen configurations. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

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


SCORERS = ("best", "all", "deciding")


@known_keywords
@dataclass(frozen=True)
class CalibrationConfig:
    """How a calibration hides positives, and which rules it tries. Raises UsageError at construction for a
    value out of range."""

    repeats: int = within(5, whole(1, 10_000))
    """Number of draws of each share of hidden positives (`measurement.HIDDEN_SHARES`)."""
    seed: int = within(13, SEED)
    allow_rank_window: bool = False
    """Whether to try rank windows too. They drop known positives, which rank high, and keep unknown ones."""
    use_labels: bool = True
    """Whether the false-negative rate that the labels of the run predict decides, if it has labels."""
    scorers: str = field(default="best", metadata={"choices": SCORERS})
    """Whose scores the rules are tried on. `best`: the scorer that decides in the run, and the one of the
    others that separates hidden positives best; `all` of the run; `deciding`: the run's own alone."""

    def __post_init__(self) -> None:
        check_fields(self)
