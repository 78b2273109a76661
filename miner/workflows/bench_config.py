"""What to compare in a bench: one frozen configuration. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

from miner.errors import UsageError, near
from miner.ranges import COUNT, ROW_NEGATIVES, SEED, SEEDS, check_fields, within
from miner.training.encoder_config import LOSSES, EncoderConfig

IN_BATCH, EASY, BM25, HARD, FILTERED = "in-batch", "easy", "bm25", "hard", "hard-filtered"
ARMS = {
    IN_BATCH: "no negatives but the other rows' documents",
    EASY: "random documents that are not known to be relevant",
    BM25: "BM25's best documents that are not known to be relevant",
    HARD: "the encoder's best documents that are not known to be relevant: unfiltered",
    FILTERED: "what the run kept: filtered",
}
"""The arms that every bench can have, and where their negatives come from."""
FITTING = tuple(name for name, loss in LOSSES.items() if not loss.label)
"""The losses that negatives make a difference to."""
LEAST_SEEDS = 3
SHARES = (0.25, 0.5, 1.0)
"""The default sizes, as shares of `MOST` or of all pairs if there are fewer."""
MOST = 10_000


@dataclass(frozen=True)
class Size:
    """How many triplets: of every arm, or of one."""

    rows: int
    arm: str | None = None


@dataclass(frozen=True)
class BenchConfig:
    """Which arms, how large, how often, measured on what. UsageError for values that make no sense."""

    run: str | None = None
    """The run whose pairs all arms train on; None: the last."""
    arms: tuple[str, ...] = ()
    """Of ARMS, or `run:NAME` for the triplets of any run; none named: all of ARMS that the run has."""
    sizes: tuple[Size, ...] = ()
    """None given: a quarter, a half and all of the pairs, of 10,000 at most."""
    seeds: int = within(LEAST_SEEDS, SEEDS)
    """How often each arm is trained; the seeds count up from that of `training`."""
    negatives_per_row: int = within(1, ROW_NEGATIVES)
    """Negatives per row."""
    split: str = "test"
    """What is measured on."""
    queries: int | None = within(None, COUNT)
    """Measure only on so many queries, a seeded sample."""
    documents: int | None = within(None, COUNT)
    """Rank only so many documents: the relevant ones and a seeded sample."""
    training: EncoderConfig = field(default_factory=lambda: EncoderConfig(evaluations=0))

    @property
    def training_seeds(self) -> tuple[int, ...]:
        """The seed of each training of an arm."""
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
            raise UsageError("an arm is named twice", "name each once")
        if self.training.loss not in FITTING:
            raise UsageError(
                f"loss {self.training.loss} does not compare negatives", f"use {', '.join(FITTING)}"
            )
        loss, (least, most) = self.training.loss, self.training.needs.texts
        if self.negatives_per_row + 2 > most:
            raise UsageError(
                f"{self.negatives_per_row} negatives per row are too many for loss {loss}, "
                f"which takes at most {most - 2}",
                "leave negatives_per_row out, or use --loss mnr",
            )
        if least > 2 and IN_BATCH in self.arms:
            raise UsageError(
                f"loss {self.training.loss} needs a negative in every row, arm {IN_BATCH} has none",
                "leave the arm out, or use --loss mnr",
            )
        for size in self.sizes:
            if size.arm is not None and self.arms and size.arm not in self.arms:
                raise UsageError(f"a size for '{size.arm}', which is no arm", f"arms: {', '.join(self.arms)}")


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
