"""The configuration of `miner bench`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

from miner.errors import UsageError, near
from miner.ranges import COUNT, ROW_NEGATIVES, SEED, SEEDS, check_fields, known_keywords, within
from miner.training.encoder_config import LOSSES, EncoderConfig

IN_BATCH, EASY, BM25, HARD, FILTERED = "in-batch", "easy", "bm25", "hard", "hard-filtered"
ARMS = {
    IN_BATCH: "only the documents of the other rows",
    EASY: "random documents that are not known to be relevant",
    BM25: "BM25's best documents that are not known to be relevant",
    HARD: "the encoder's best documents that are not known to be relevant: unfiltered",
    FILTERED: "the negatives that the run selected: filtered",
}
"""The arms that every bench can have, with the source of their negatives."""
MINED = "mined"
KINDS = {
    MINED: "the negatives that the run selected",
    EASY: ARMS[EASY],
    IN_BATCH: ARMS[IN_BATCH],
}
"""What the negatives of a training row can be."""
LEAVE_OUT, REPEAT = "leave-out", "repeat"
FEWER = (LEAVE_OUT, REPEAT)
"""What becomes of positives with fewer negatives than a row has."""
FITTING = tuple(name for name, loss in LOSSES.items() if not loss.label)
"""The losses that use negatives."""
LEAST_SEEDS = 3
SHARES = (0.25, 0.5, 1.0)
"""The default sizes, as shares of `MOST`, or of all pairs if there are fewer."""
MOST = 10_000


@dataclass(frozen=True)
class Size:
    """A number of triplets, for every arm or for one."""

    rows: int
    arm: str | None = None


@known_keywords
@dataclass(frozen=True)
class BenchConfig:
    """The arms, their sizes and trainings, and the split to measure; UsageError for contradictory values."""

    run: str | None = None
    """The run whose pairs all arms train on; None: the last run."""
    arms: tuple[str, ...] = ()
    """Names from ARMS, or `run:NAME` for the triplets of a run; none named: all of ARMS that the run has."""
    sizes: tuple[Size, ...] = ()
    """None given: a quarter, a half and all of the pairs, at most 10,000."""
    seeds: int = within(LEAST_SEEDS, SEEDS)
    """Trainings per arm; their seeds count up from the seed of `training`."""
    negatives_per_row: int = within(1, ROW_NEGATIVES)
    """Negatives per row."""
    split: str = "test"
    """The split to measure on."""
    queries: int | None = within(None, COUNT)
    """Measure only on this many queries, a seeded sample."""
    documents: int | None = within(None, COUNT)
    """Rank only this many documents: the relevant ones and a seeded sample."""
    off_the_shelf: str | None = None
    """An encoder to measure as it is, beside the arms; None: for base scratch the run's own, else none."""
    training: EncoderConfig = field(default_factory=lambda: EncoderConfig(evaluations=0))

    @property
    def training_seeds(self) -> tuple[int, ...]:
        """The seeds of an arm's trainings."""
        return tuple(self.training.seed + number for number in range(self.seeds))

    def __post_init__(self) -> None:
        check_fields(self)
        SEED.require("the last training's seed", self.training_seeds[-1])
        for arm in self.arms:
            if arm not in ARMS and not arm.startswith("run:"):
                raise UsageError(
                    f"no arm '{arm}'{near(arm, ARMS)}", f"arms: {', '.join(ARMS)}, or run:NAME for a run"
                )
        if len(set(self.arms)) < len(self.arms):
            raise UsageError("an arm is named twice", "name each arm once")
        if self.training.loss not in FITTING:
            raise UsageError(f"loss {self.training.loss} does not use negatives", f"use {', '.join(FITTING)}")
        loss, (least, most) = self.training.loss, self.training.needs.texts
        if self.negatives_per_row + 2 > most:
            raise UsageError(
                f"{self.negatives_per_row} negatives per row are too many for loss {loss}, "
                f"which takes at most {most - 2}",
                "leave negatives_per_row out, or use loss mnr",
            )
        if least > 2 and IN_BATCH in self.arms:
            raise UsageError(
                f"loss {self.training.loss} needs a negative in every row, but arm {IN_BATCH} has none",
                "leave the arm out, or use loss mnr",
            )
        for size in self.sizes:
            if size.arm is not None and self.arms and size.arm not in self.arms:
                raise UsageError(
                    f"a size for '{size.arm}', which is not an arm", f"arms: {', '.join(self.arms)}"
                )


def parse_sizes(text: str | None) -> tuple[Size, ...]:
    """Returns the sizes in `1000,5000` or `easy=100000,hard-filtered=10000`; UsageError for anything else."""
    sizes = []
    for part in (text or "").split(","):
        if not part.strip():
            continue
        arm, given, number = part.strip().rpartition("=")
        if (
            not number.isdecimal()
            or int(number) < 1
            or (given and arm not in ARMS and not arm.startswith("run:"))
        ):
            raise UsageError(
                f"no size '{part.strip()}'{near(arm, ARMS) if arm else ''}",
                "write --sizes 1000,5000 or --sizes easy=100000,hard-filtered=10000",
            )
        sizes.append(Size(int(number), arm or None))
    return tuple(sizes)
