"""The configuration of `miner tune`. Imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from miner.errors import UsageError
from miner.ranges import COUNT, SEED, SEEDS, check_fields, known_keywords, literal, number, whole, within
from miner.training.encoder_config import EncoderConfig
from miner.workflows.bench_config import FITTING, LEAST_SEEDS, MOST

TEST = "test"
_UNITS = (3600.0, 60.0, 1.0)
_TIMES = "write 30m, 2h, 1h30m or 45s"
_BUDGET = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?")


def parse_budget(text: str) -> float:
    """Returns the seconds of a time such as `30m`, `2h`, `1h30m` or `45s`; UsageError for anything else."""
    found = _BUDGET.fullmatch(text.strip())
    numbers = found.groups() if found else ()
    seconds = sum(int(number or 0) * unit for number, unit in zip(numbers, _UNITS, strict=False))
    if not seconds:
        raise UsageError(f"budget must be a time such as 30m, got {literal(text)}", _TIMES)
    return seconds


@known_keywords
@dataclass(frozen=True)
class TuneConfig:
    """What to compare, for how long, and the split that chooses; UsageError for contradictory values."""

    run: str | None = None
    """The run whose evidence the settings decide over; None: the last run."""
    arms: int = within(16, whole(1, 256))
    """The most settings that are compared; the default rules, easy and in-batch negatives come on top."""
    rows: int = within(MOST, COUNT)
    """Triplets of each training of the final, at most those that a setting has."""
    finalists: int = within(2, whole(1, 64))
    """How many settings reach the final."""
    seeds: int = within(LEAST_SEEDS, SEEDS)
    """Trainings per finalist; their seeds count up from the seed of `training`."""
    budget: float | str | None = within(None, number(0, 1_000_000, above=True))
    """The most seconds of all trainings, or a time such as `30m`; None: no limit."""
    dev_split: str = "dev"
    """The split that chooses. It may be neither the run's nor `test`."""
    queries: int | None = within(500, COUNT)
    """Measure on this many queries of the split, a seeded sample; None: all."""
    documents: int | None = within(5000, COUNT)
    """Retrieval: rank only this many documents, the relevant ones and a seeded sample; None: all."""
    training: EncoderConfig = field(default_factory=lambda: EncoderConfig(evaluations=0))

    @property
    def training_seeds(self) -> tuple[int, ...]:
        """The seeds of a finalist's trainings; the rungs train with the first."""
        return tuple(self.training.seed + number for number in range(self.seeds))

    def __post_init__(self) -> None:
        if isinstance(self.budget, str):
            object.__setattr__(self, "budget", parse_budget(self.budget))
        check_fields(self)
        SEED.require("the last training's seed", self.training_seeds[-1])
        if self.dev_split == TEST:
            raise UsageError(
                "tune chooses by the split that it measures on, and test must not choose",
                "leave dev_split out, or name a split that is not for the final measurement",
            )
        if self.training.loss not in FITTING:
            raise UsageError(f"loss {self.training.loss} does not use negatives", f"use {', '.join(FITTING)}")

    @property
    def seconds(self) -> float | None:
        """The budget in seconds."""
        return None if self.budget is None else float(self.budget)
