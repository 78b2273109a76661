"""The result of a bench: trained and untrained models, comparisons, and test queries that occur in train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from miner.errors import counted, listed
from miner.evaluation.evaluate import warnings
from miner.evaluation.result import Evaluation, Floats
from miner.reporting.readable import Readable
from miner.reporting.tables import short_names
from miner.stats import Difference, compare_columns, holm
from miner.workflows.bench_config import BenchConfig

ALPHA = 0.05
"""A difference is shown if its p value, corrected, is below this."""
NOT_SHOWN = "no difference shown"


@dataclass(frozen=True)
class Trained:
    """The results of one arm at one size."""

    arm: str
    rows: int
    steps: int
    left_out: int
    """Rows of the first seed's first epoch that are in no batch, because their texts would be there twice."""
    means: Mapping[str, tuple[float, ...]]
    """Per measure, the mean over queries for each seed."""
    values: Mapping[str, Floats]
    """Per measure and query, the mean over seeds."""
    warnings: tuple[str, ...] = ()
    """The reasons why a model's figures may mislead, such as one vector for all texts."""

    def mean(self, measure: str) -> float:
        """The mean over queries and seeds."""
        return float(np.mean(self.means[measure]))


def trained_of(arm: str, rows: int, cells: Sequence[Mapping[str, Any]], left_out: int) -> Trained:
    """Returns the results of an arm from the figures of its trainings (`trial`), one per seed."""
    measures = list(cells[0]["values"])
    return Trained(
        arm=arm,
        rows=rows,
        steps=cells[0]["steps"],
        left_out=left_out,
        means={name: tuple(cell["means"][name] for cell in cells) for name in measures},
        values={name: np.mean([cell["values"][name] for cell in cells], axis=0) for name in measures},
        warnings=tuple(warning for cell in cells for warning in cell.get("warnings", ())),
    )


@dataclass(frozen=True)
class Untrained:
    """The results of a model that the bench does not train."""

    model: str
    """The name of the model."""
    evaluations: tuple[Evaluation, ...]
    """One; for a random table one per seed."""
    off_the_shelf: bool = False
    """Whether it is another model than the base of the trainings."""
    notes: tuple[str, ...] = ()
    """Reasons why its figures may mislead, besides those that its evaluations show."""

    @property
    def arm(self) -> str:
        """Its name beside the arms."""
        return f"off-the-shelf {self.short_name}" if self.off_the_shelf else "untrained base"

    @property
    def short_name(self) -> str:
        """The last part of the model's name; `the base` for the base."""
        return short_names([self.model])[0] if self.off_the_shelf else "the base"

    @cached_property
    def means(self) -> Mapping[str, tuple[float, ...]]:
        """Per measure, the mean over queries of each evaluation."""
        return {
            name: tuple(one.means[name] for one in self.evaluations) for name in self.evaluations[0].means
        }

    @cached_property
    def values(self) -> Mapping[str, Floats]:
        """Per measure and query, the mean over the evaluations."""
        names = self.evaluations[0].values
        return {name: np.mean([one.values[name] for one in self.evaluations], axis=0) for name in names}

    @property
    def warnings(self) -> list[str]:
        """The reasons why its figures may mislead, each once."""
        name = self.model if self.off_the_shelf else "the base"
        found = (warning for one in self.evaluations for warning in warnings(name, one))
        return list(dict.fromkeys((*self.notes, *found)))

    def mean(self, measure: str) -> float:
        """The mean over queries and evaluations."""
        return float(np.mean(self.means[measure]))

    def __str__(self) -> str:
        measure = self.evaluations[0].headline
        return f"{self.model} {measure} {self.mean(measure):.4f}"


Line = Trained | Untrained


@dataclass(frozen=True)
class Comparison:
    """Two models on one measure."""

    first: Trained
    second: Line
    difference: Difference
    """The difference over queries; a query's value is its mean over the seeds."""
    holm: float
    """The p value, corrected for all comparisons in this measure (Holm 1979)."""
    others: tuple[Comparison, ...] = ()
    """The two models on the other measures."""

    @property
    def per_seed(self) -> tuple[float, ...]:
        """The difference of the means for each seed: it shows how much depends on the seed."""
        first, second = (one.means[self.difference.measure] for one in (self.first, self.second))
        if len(second) == 1:
            second *= len(first)
        return tuple(a - b for a, b in zip(first, second, strict=True))

    @property
    def ahead(self) -> Line | None:
        """The model that is ahead with every seed and significantly over queries; None if there is none."""
        if self.holm >= ALPHA:
            return None
        if all(gap > 0 for gap in self.per_seed):
            return self.first
        return self.second if all(gap < 0 for gap in self.per_seed) else None

    @property
    def exceptions(self) -> tuple[Comparison, ...]:
        """The other measures in which the other model is ahead, by the same rule.

        If neither is ahead in this measure, these are all measures in which one is.
        """
        ahead = self.ahead
        return tuple(one for one in self.others if one.ahead is not None and one.ahead is not ahead)

    @property
    def verdict(self) -> str:
        """The model that is ahead, or that no difference is shown; and the exceptions by name."""
        ahead = self.ahead
        parts = [NOT_SHOWN if ahead is None else f"{ahead.arm} is ahead"]
        for line in (self.first, self.second):
            if measures := [one.difference.measure for one in self.exceptions if one.ahead is line]:
                parts.append(f"{line.arm} is ahead in {listed(measures)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Contaminated:
    """The measured queries that also occur, whole, nearly or in part, in the texts that arms train on."""

    ids: tuple[str, ...]
    of: int
    """How many queries are measured."""
    how: Mapping[str, int]
    """Their number by kind of match, as in `curation.contamination.HOW`."""
    roles: Mapping[str, int]
    """Their number by what the most similar training text is: `query` or `document`, a positive."""

    def __str__(self) -> str:
        return f"{len(self.ids):,} of {counted(self.of, 'query', 'queries')}"


@dataclass(frozen=True, repr=False)
class BenchReport(Readable):
    """The result of a bench."""

    store: str
    run: str
    config: BenchConfig
    pairs: int
    left_out: int
    base: Untrained
    """The base before training."""
    off_the_shelf: Untrained | None
    """An encoder as it is, to compare with: for base scratch, or if `off_the_shelf` names one."""
    contaminated: Contaminated
    trained: tuple[Trained, ...]
    comparisons: tuple[Comparison, ...]
    """All pairs of arms with one size, and all pairs of arms with their own sizes, on the first measure."""
    against: tuple[Comparison, ...]
    """Every arm against the base, unless that is a random table, and against the off-the-shelf encoder."""

    def as_text(self) -> str:
        """Returns the figures and the verdicts, as `miner bench` prints them."""
        from miner.workflows.bench_report import table  # it imports this module

        return table(self)

    @property
    def untrained(self) -> tuple[Untrained, ...]:
        """The base, and the off-the-shelf encoder if there is one."""
        return (self.base,) if self.off_the_shelf is None else (self.base, self.off_the_shelf)

    @property
    def measure(self) -> str:
        """The measure of the comparisons."""
        return self.base.evaluations[0].headline

    @property
    def ids(self) -> tuple[str, ...]:
        """The queries that every model is measured on."""
        return self.base.evaluations[0].ids

    def without_contaminated(self, line: Line) -> float | None:
        """Returns the mean of the first measure over the queries that do not occur in the training texts.

        None if there are no such queries.
        """
        gone = set(self.contaminated.ids)
        clean = np.array([one not in gone for one in self.ids])
        return float(line.values[self.measure][clean].mean()) if clean.any() else None


def compared(pairs: Sequence[tuple[Trained, Line]], measures: Sequence[str]) -> tuple[Comparison, ...]:
    """Returns a comparison for each pair, on the first measure, with those on the other measures in it.

    In each measure, p is corrected for the number of pairs.
    """
    if not pairs:
        return ()
    names = [name for name in measures for _ in pairs]
    columns = [
        [line.values[name] for name in measures for line in lines] for lines in zip(*pairs, strict=True)
    ]
    first, second = map(np.column_stack, columns)
    differences = compare_columns(names, first, second)
    by_measure = []
    for start in range(0, len(differences), len(pairs)):
        found = differences[start : start + len(pairs)]
        by_measure.append(list(zip(found, holm([one.p for one in found]), strict=True)))
    result = []
    for (a, b), (own, *others) in zip(pairs, zip(*by_measure, strict=True), strict=True):
        rest = tuple(Comparison(a, b, difference, p) for difference, p in others)
        result.append(Comparison(a, b, own[0], own[1], rest))
    return tuple(result)
