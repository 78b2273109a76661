"""Successive halving: many short trainings, of which the better half goes on to longer ones.

Jamieson & Talwalkar, AISTATS 2016, Non-stochastic Best Arm Identification and Hyperparameter Optimization.
Nothing here measures time: what trainings took is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_ENOUGH = 8
"""A budget first shortens the trainings, as long as this many arms can start; then there are fewer arms."""
_FLAT = 0.25
"""A slope below this share of the largest training's own rate is noise of two short trainings."""


@dataclass(frozen=True)
class Timing:
    """What one training took."""

    texts: int
    """Texts that it read: rows × texts per row × epochs."""
    training: float
    """Seconds, loading included."""
    measuring: float
    """Seconds."""


@dataclass(frozen=True)
class Cost:
    """The seconds of a training: a fixed part, and one per text."""

    fixed: float
    per_text: float

    @classmethod
    def of(cls, timings: Sequence[Timing]) -> Cost:
        """Returns the cost by non-negative least squares; of trainings of one size, all but the measuring is
        by text."""
        from scipy.optimize import nnls

        texts, training = (np.array([getattr(one, name) for one in timings], dtype=np.float64)
                           for name in ("texts", "training"))  # fmt: skip
        measuring = float(np.mean([one.measuring for one in timings]))
        if len(set(texts)) == 1:
            return cls(measuring, float(training.mean() / texts[0]))
        (fixed, slope), _ = nnls(np.column_stack([np.ones(len(texts)), texts]), training)
        largest = int(texts.argmax())
        least = _FLAT * training[largest] / texts[largest]
        return cls(measuring + float(fixed), max(float(slope), float(least)))

    def seconds(self, texts: float) -> float:
        """Returns the seconds of a training that reads this many texts."""
        return self.fixed + self.per_text * texts

    def times(self, factor: float) -> Cost:
        """Returns the cost on a machine that is slower by this factor."""
        return Cost(self.fixed * factor, self.per_text * factor)


@dataclass(frozen=True)
class Rung:
    """Trainings of one length: one per arm."""

    arms: int
    rows: int
    """Triplets of each training."""


@dataclass(frozen=True)
class HalvingPlan:
    """The trainings to do: rungs of rising length, then the final."""

    rungs: tuple[Rung, ...]
    finalists: int
    """The arms that the last rung leaves for the final."""
    always: int
    """The arms that are in the final without a rung."""
    rows: int
    """Triplets of each training of the final."""
    seeds: int
    """Trainings of each arm of the final."""

    @property
    def arms(self) -> int:
        """The arms of the first rung; without rungs all are in the final."""
        return self.rungs[0].arms if self.rungs else self.finalists

    @property
    def trainings(self) -> int:
        """How many trainings there are."""
        return sum(rung.arms for rung in self.rungs) + (self.finalists + self.always) * self.seeds

    def seconds(self, cost: Cost, texts_per_row: float) -> float:
        """Returns the seconds of all trainings, of which each row has this many texts."""
        return self.seconds_from(0, cost, texts_per_row)

    def seconds_from(self, rung: int, cost: Cost, texts_per_row: float) -> float:
        """Returns the seconds of the trainings from this rung (counted from 0) to the end."""
        times = [one.arms * cost.seconds(one.rows * texts_per_row) for one in self.rungs[rung:]]
        final = (self.finalists + self.always) * self.seeds
        return sum(times) + final * cost.seconds(self.rows * texts_per_row)


@dataclass(frozen=True)
class Scope:
    """What a plan may have at most."""

    arms: int
    rows: int
    """Triplets of a training of the final."""
    finalists: int
    always: int
    seeds: int
    least: int
    """The fewest triplets that a training of a rung has, if there are as many."""

    def plan(self, arms: int, rows: int) -> HalvingPlan:
        """Returns the plan with this many arms and triplets: each rung has half the arms, of twice the
        length."""
        counts = []
        while arms > self.finalists:
            counts.append(arms)
            arms = max(self.finalists, -(-arms // 2))
        rungs = tuple(
            Rung(count, min(rows, max(self.least, rows >> (len(counts) - number))))
            for number, count in enumerate(counts)
        )
        return HalvingPlan(rungs, arms, self.always, rows, self.seeds)

    @property
    def whole(self) -> HalvingPlan:
        """The plan without a limit of time."""
        return self.plan(self.arms, self.rows)

    def within(self, budget: float, cost: Cost, texts_per_row: float) -> HalvingPlan:
        """Returns the largest plan that takes at most `budget` seconds; if none does, the smallest.

        First the trainings get shorter as long as 8 arms can start, then the arms fewer.
        """
        plans = list(self._plans())
        fitting = (plan for plan in plans if plan.seconds(cost, texts_per_row) <= budget)
        return next(fitting, min(plans, key=lambda plan: plan.seconds(cost, texts_per_row)))

    def _plans(self) -> Iterator[HalvingPlan]:
        """Yields all plans, the best first."""
        for fewest in (min(_ENOUGH, self.arms), min(self.finalists, self.arms)):
            for rows in _halves(self.rows, min(self.least, self.rows)):
                for arms in _halves(self.arms, fewest):
                    yield self.plan(arms, rows)


def _halves(most: int, least: int) -> Iterator[int]:
    """Yields a number and its halves, rounded up, down to `least`."""
    while True:
        yield most
        if most <= least:
            return
        most = max(least, -(-most // 2))


def better_half(scores: Sequence[float], keep: int) -> list[int]:
    """Returns the numbers of the `keep` highest scores in ascending order; the earlier wins among equals."""
    order = sorted(range(len(scores)), key=lambda number: (-scores[number], number))
    return sorted(order[:keep])
