"""The choice of a setting: those of a sweep that no other beats, and the best one that meets a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from operator import attrgetter
from typing import Any

import numpy as np

from miner.auditing.grid import families, rounded
from miner.auditing.sweep import only
from miner.auditing.transfer import PredictedRate
from miner.errors import UsageError
from miner.mining.config import Rules
from miner.mining.rules import name_of
from miner.reporting.tables import percent
from miner.stats import Rate

_REFINED, _STEPS = 4, 6
"""How many rules are tried between two steps of the sweep, and how many values of each."""
ENOUGH = 0.01
"""Settings whose negatives differ by less than this share of those requested count as equal: the harder
wins."""


@dataclass(frozen=True)
class Figures:
    """What one setting does on some queries."""

    hidden_positive_rate: Rate
    """With positives hidden."""
    per_query: float
    """Mean number of negatives."""
    coverage: float
    """The share of queries with all the negatives requested."""
    rank: float | None
    margin: float | None
    """Means over the negatives; None without any. All but the rate are those without hidden positives."""


@dataclass(frozen=True)
class SweptRules:
    """One setting of the rules, measured on both halves of the queries and on all."""

    rules: Rules
    share: float
    """The share of hidden positives (of HIDDEN_SHARES) with the highest rate, which the figures have."""
    choosing_half: Figures
    confirming_half: Figures
    all_queries: Figures
    false_negatives: PredictedRate | None = None
    """The false-negative rate as the labels of the run predict it; None without labels."""

    @property
    def overall(self) -> Rate | PredictedRate:
        """The rate of all queries that tables and charts show: by labels, or else of hidden positives."""
        return self.false_negatives or self.all_queries.hidden_positive_rate

    @property
    def rate(self) -> float:
        """The rate that decides: the false-negative rate by labels, or else the hidden-positive rate on the
        half that chooses, 1 if nothing was hidden there."""
        predicted = self.false_negatives
        return rate_of(self.choosing_half) if predicted is None else predicted.rate

    @property
    def high(self) -> float:
        """The upper end of its interval."""
        predicted = self.false_negatives
        return self.choosing_half.hidden_positive_rate.high if predicted is None else predicted.high

    @property
    def supported(self) -> bool:
        """Whether the labels say enough about its negatives; True without labels."""
        return self.false_negatives is None or self.false_negatives.supported

    @property
    def name(self) -> str:
        """The rules that are on, with their parameters; `no rule` if none is."""
        return name_of(self.rules)

    def as_json(self) -> dict[str, Any]:
        """Returns the setting as JSON-able values."""
        return {"name": self.name, **asdict(self)}


def frontier_of(sweep: Sequence[SweptRules]) -> list[SweptRules]:
    """Returns the settings that no other beats in rate, number and hardness of negatives; lowest rate first.

    The first of several settings with equal figures is among them.
    """
    first: dict[tuple[float, float, float], SweptRules] = {}
    easiness = _easiness_in(sweep)
    for one in sweep:
        if one.supported:
            first.setdefault(_order(one, easiness), one)
    best = [
        one
        for point, one in first.items()
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in first
        )
    ]
    return sorted(best, key=lambda one: (*_order(one, easiness)[:2], one.name))


def between(swept: Sequence[SweptRules], target: float) -> list[Rules]:
    """Returns settings between the loosest one of a rule that meets the target, and the next looser one.

    They fill the gaps between the steps of the sweep, for the rules with the most negatives.
    """
    by_rules = {one.rules: one for one in swept}
    gaps = []
    for name, alike in families(list(by_rules)):
        meets = list(takewhile(lambda rules: by_rules[rules].rate <= target, alike))
        if meets and len(meets) < len(alike):
            gaps.append((by_rules[meets[-1]].all_queries.per_query, name, meets[-1], alike[len(meets)]))
    gaps.sort(key=lambda gap: -gap[0])
    finer = []
    for _, name, inner, outer in gaps[:_REFINED]:
        steps = np.linspace(getattr(inner, name), getattr(outer, name), _STEPS + 2)[1:-1]
        finer += [only(inner, **{name: rounded(float(step))}) for step in steps]
    return [rules for rules in dict.fromkeys(finer) if rules not in by_rules]


def choose(swept: Sequence[SweptRules], target: float, negatives: int) -> SweptRules:
    """Returns the setting with the most negatives that meets the target.

    The rate that decides (`SweptRules.rate`) meets it with its whole interval, or, if no setting does, alone;
    so do all stricter settings of its rule, as none of them can be worse. The hardest wins among those with
    about as many negatives. Raises UsageError if no setting meets the target.
    """
    useful = [one for one in swept if one.all_queries.per_query > 0]
    if not useful:
        raise UsageError("no setting leaves a negative", "mine deeper")
    useful = [one for one in useful if one.supported]
    if not useful:
        raise UsageError(
            "the labels support no setting: each selects many candidates that the labelled run dropped",
            "label a sample of a run with looser rules, or leave the labels out (--set use_labels=false)",
        )
    within = _within(swept, target, whole_interval=True) or _within(swept, target, whole_interval=False)
    if not within:
        best = min(useful, key=attrgetter("rate"))
        measure = "hidden-positive rate" if best.false_negatives is None else "false-negative rate by labels"
        raise UsageError(
            f"no setting has a {measure} of at most {100 * target:g} %: the lowest is "
            f"{percent(best.rate, 2)} with {best.name}",
            f"{_higher_target(best.rate)}mine with a reranker, or mine deeper",
        )
    most = max(one.all_queries.per_query for one in within) - ENOUGH * negatives
    equals = [one for one in within if one.all_queries.per_query >= most]
    easiness = _easiness_in(swept)
    return min(equals, key=lambda one: (easiness(one.all_queries), rate_of(one.choosing_half)))


def _higher_target(rate: float) -> str:
    """Returns the advice to accept a rate; empty for one that cannot be a target."""
    target = np.ceil(rate * 1e4) / 1e4
    return f"use a target of {target:g} or more, " if target < 1 else ""


def _within(swept: Sequence[SweptRules], target: float, whole_interval: bool) -> list[SweptRules]:
    """The settings that meet the target; without labels all stricter ones of their rule must meet it too."""
    if any(one.false_negatives is not None for one in swept):
        meeting = [one for one in swept if (one.high if whole_interval else one.rate) <= target]
        return [one for one in meeting if one.all_queries.per_query > 0 and one.supported]
    by_rules = {one.rules: one for one in swept}

    def _meets(rules: Rules) -> bool:
        return (by_rules[rules].high if whole_interval else by_rules[rules].rate) <= target

    known = list(families(list(by_rules)))
    inside = [rules for _, alike in known for rules in takewhile(_meets, alike)]
    others = set(by_rules).difference(*(alike for _, alike in known))
    inside += [rules for rules in by_rules if rules in others and _meets(rules)]
    return [by_rules[rules] for rules in inside if by_rules[rules].all_queries.per_query > 0]


def least(strictest: Sequence[SweptRules], own: SweptRules) -> SweptRules:
    """Returns the setting with the lowest rate that decides, of the strictest one of every rule that keeps
    the coverage of the run's own rules; among equals the lowest hidden-positive rate, then the hardest."""
    several = [*(one for one in strictest if one.supported), own]
    easiness = _easiness_in(several)
    return min(several, key=lambda one: (one.rate, rate_of(one.choosing_half), easiness(one.all_queries)))


def rate_of(figures: Figures) -> float:
    """Returns the hidden-positive rate, 1 if nothing was hidden."""
    rate = figures.hidden_positive_rate.rate
    return 1.0 if rate is None else rate


Easiness = Callable[[Figures], float]


def _easiness_in(swept: Sequence[SweptRules]) -> Easiness:
    """Returns how easy the negatives of one of these settings are: the less, the harder.

    It is their mean margin; if several scorers decide, whose margins have different units, the mean rank.
    """
    by_rank = len({one.rules.decide_by for one in swept}) > 1

    def _easiness(figures: Figures) -> float:
        value = figures.rank if by_rank else figures.margin
        return np.inf if value is None else value

    return _easiness


def _order(one: SweptRules, easiness: Easiness) -> tuple[float, float, float]:
    """Rate, number and easiness of the negatives: in each, less is better."""
    rate, figures = one.overall.rate, one.all_queries
    return 1.0 if rate is None else rate, -figures.per_query, easiness(figures)
