"""Calibration: chooses the rules that meet a target hidden-positive rate with the most, hardest negatives.

Every rule is tried over a range of its parameter, on stored evidence with positives hidden. Half of the
queries chooses the setting and the other half confirms it, because the rate of the best of many settings is
optimistic.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.auditing.audit import require_hideable
from miner.auditing.config import AuditConfig
from miner.auditing.replay import Replay
from miner.auditing.sweep import Counts, Sweep, only
from miner.engine.progress import SILENT, Progress
from miner.engine.work import ordered_map, worker_count
from miner.errors import UsageError
from miner.mining.config import Rules
from miner.mining.rules import BOUNDS, name_of
from miner.reporting.readable import Readable
from miner.reporting.tables import percent
from miner.stats import Rate, clustered_rate
from miner.store.audits import record_calibration
from miner.store.database import Database
from miner.store.models import models_of_unknown_training
from miner.store.runs import StoredRun

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

REFERENCE_POSITIVES = ("lowest", "median", "best")
RELATIVE = (-0.2, -0.1, -0.05, 0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
ABSOLUTE = (-0.5, -0.25, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""In standard deviations of the positives' scores."""
PERCENTILES = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 75.0)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
SKIPS = (1, 2, 3, 5, 10, 20, 30, 50)
_REFINED, _STEPS = 4, 6
"""How many rules are tried between two steps of the sweep, and how many values of each."""
_HALVES = 1 << 20
"""The second number of the halves' seed; it differs from the number of every repeat."""
ENOUGH = 0.01
"""Settings whose negatives differ by less than this share of those requested count as equal: the harder
wins."""


@dataclass(frozen=True)
class Figures:
    """What one setting does on some queries, with positives hidden."""

    hidden_positive_rate: Rate
    per_query: float
    """Mean number of negatives."""
    coverage: float
    """The share of queries with all the negatives requested."""
    rank: float | None
    margin: float | None
    """Means over the negatives; None without any."""


@dataclass(frozen=True)
class SweptRules:
    """One setting of the rules, measured on both halves of the queries and on all."""

    rules: Rules
    choosing_half: Figures
    confirming_half: Figures
    all_queries: Figures

    @property
    def name(self) -> str:
        """The rules that are on, with their parameters; `no rule` if none is."""
        return name_of(self.rules)

    def as_json(self) -> dict[str, Any]:
        """Returns the setting as JSON-able values."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True, repr=False)
class Calibration(Readable):
    """The result of a calibration."""

    run: str
    target: float | None
    """The highest hidden-positive rate that was requested. None: the lowest rate at the coverage of the run's
    own rules."""
    settings: AuditConfig
    negatives: int
    """Negatives requested per query."""
    sweep: tuple[SweptRules, ...]
    own: SweptRules
    """The run's own rules."""
    chosen: SweptRules
    cannot_hide: dict[str, int]
    """How many positives may not be hidden, by reason (`stored.CANNOT_HIDE`)."""
    unknown_training: list[str]
    """Models of the run whose training data the store does not know."""
    expected: Rate
    """The chosen setting's rate on the half that chose, with the 95 % interval expected on the other half."""

    def as_text(self) -> str:
        """Returns the tables of the calibration, as `miner calibrate` shows them."""
        from miner.auditing.report import calibration_table  # which needs this module

        return calibration_table(self)

    def write_recipe(self, out: str | os.PathLike[str]) -> None:
        """Writes the chosen rules to a TOML recipe, and charts of all that were tried beside it.

        Raises UsageError if other files would be lost.
        """
        from miner.auditing.report import require_writable, write_recipe  # which need this module

        require_writable(Path(out))
        write_recipe(self, Path(out))

    def __repr__(self) -> str:
        rate = self.chosen.confirming_half.hidden_positive_rate
        state = "confirmed" if self.confirmed else "not confirmed"
        return f"Calibration of run '{self.run}': {self.chosen.name}, hidden-positive rate {rate}, {state}"

    @property
    def confirmed(self) -> bool:
        """Whether the chosen setting meets the request on the half that did not choose it."""
        chosen, own = self.chosen.confirming_half, self.own.confirming_half
        if chosen.hidden_positive_rate.rate is None:
            return False
        if self.target is None:
            return chosen.coverage >= own.coverage and rate_of(chosen) <= rate_of(own)
        return rate_of(chosen) <= self.target

    def frontier(self) -> list[SweptRules]:
        """Returns the settings that no other beats in rate, number and hardness of negatives; lowest rate
        first."""
        return frontier_of(self.sweep)

    def as_json(self) -> dict[str, Any]:
        """Returns the calibration as JSON-able values."""
        return {
            **asdict(self),
            "confirmed": self.confirmed,
            "sweep": [one.as_json() for one in self.sweep],
            "own": self.own.as_json(),
            "chosen": self.chosen.as_json(),
            "frontier": [one.name for one in self.frontier()],
        }


def calibrate(
    store: Database, run: StoredRun, target: float | None, settings: AuditConfig, progress: Progress = SILENT
) -> Calibration:
    """Tries every rule over a run's stored evidence and chooses the setting that meets the target.

    Without a target it chooses the setting with the lowest hidden-positive rate whose coverage is at least
    that of the run's own rules. No model runs. The store records which rules were chosen on its positives.
    Raises UsageError if no positive may be hidden, the run selects otherwise than by score, no setting meets
    the target, or the run has no negatives.
    """
    if target is not None and not 0 <= target < 1:
        raise UsageError(
            f"the target must be at least 0 and below 1, got {target}", "use a share such as 0.02"
        )
    measurement, sweeps, grid = _prepared(store, run, settings)
    own, *swept = measurement.settings(grid, sweeps, progress)
    if own.choosing_half.hidden_positive_rate.rate is None:
        raise UsageError(
            "the half of the queries that chooses has no positive that may be hidden",
            "judge more queries with two positives or more, or try another seed (--set seed=N)",
        )
    if target is None and not own.choosing_half.per_query:
        raise UsageError(f"run '{run.name}' has no negatives to keep the coverage of", "use --target")
    swept += measurement.settings(_finer(swept, own, target), sweeps, progress)
    chosen = least(swept, own) if target is None else choose(swept, target, run.negatives)
    record_calibration(store, run, asdict(chosen.rules), asdict(chosen.confirming_half.hidden_positive_rate))
    return Calibration(
        run=run.name,
        target=target,
        settings=settings,
        negatives=run.negatives,
        sweep=tuple(swept),
        own=own,
        chosen=chosen,
        cannot_hide=measurement.replay.hideable.cannot_hide(),
        unknown_training=models_of_unknown_training(store, run),
        expected=measurement.expected(reduce(add, (sweep.counts([chosen.rules])[0] for sweep in sweeps))),
    )


def frontier(
    store: Database, run: StoredRun, settings: AuditConfig, progress: Progress = SILENT
) -> list[SweptRules]:
    """Returns the settings of a run's rules that no other beats, as `Calibration.frontier`.

    Nothing is chosen or recorded. Raises UsageError as `calibrate`.
    """
    measurement, sweeps, grid = _prepared(store, run, settings)
    return frontier_of(measurement.settings(grid, sweeps, progress))


def frontier_of(sweep: Sequence[SweptRules]) -> list[SweptRules]:
    """Returns the settings that no other beats in rate, number and hardness of negatives; lowest rate
    first."""
    points = [_order(one.all_queries) for one in sweep]
    best = [
        one
        for one, point in zip(sweep, points, strict=True)
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points
        )
    ]
    return sorted(best, key=lambda one: (*_order(one.all_queries)[:2], one.name))


def _prepared(
    store: Database, run: StoredRun, settings: AuditConfig
) -> tuple[_Measurement, list[Sweep], list[Rules]]:
    """Returns how to measure settings, the evidence of each repeat, and the settings: the run's own first."""
    replay = Replay.of(store, run)
    require_hideable(store, run, replay.hideable)
    base = replay.config.rules
    grid = [base, *candidates(base, replay.hideable.positives.sorted_scores)]
    trials = replay.hideable.draws(settings)
    sweeps = [Sweep(replay, replay.hide(hidden)) for hidden in trials]
    hidden = np.sum([sweep.hidden for sweep in sweeps], axis=0)
    return _Measurement(replay, hidden, np.logical_or.reduce(trials), settings), sweeps, grid


def halves(replay: Replay, seed: int) -> tuple[Flags, Flags]:
    """Returns which queries choose the setting, and which confirm it, by query number."""
    queries = replay.hideable.positives.queries
    chooses = np.random.default_rng([seed, _HALVES]).permutation(queries) < queries // 2
    exists = np.bincount(replay.hideable.positives.owner, minlength=queries) > 0
    return chooses & exists, ~chooses & exists


def candidates(base: Rules, scores: npt.NDArray[np.float64]) -> list[Rules]:
    """Returns the settings to try: each rule alone over its parameter; the other settings of `base` stay."""
    spread = float(np.std(scores))
    tried = [only(base)]
    for kind in REFERENCE_POSITIVES:
        tried += [only(base, reference_positive=kind, relative_margin=m) for m in RELATIVE]
        tried += [only(base, reference_positive=kind, absolute_margin=_short(m * spread)) for m in ABSOLUTE]
        tried += [only(base, reference_positive=kind, relative_percentile=b) for b in SHARES]
    tried += [only(base, percentile=p) for p in PERCENTILES]
    tried += [only(base, max_score=_short(float(np.percentile(scores, p)))) for p in PERCENTILES]
    tried += [only(base, skip_top=n) for n in SKIPS if base.max_rank is None or n < base.max_rank]
    least = -np.inf if base.min_score is None else base.min_score
    return [rules for rules in dict.fromkeys(tried) if rules.max_score is None or rules.max_score >= least]


def _finer(swept: Sequence[SweptRules], own: SweptRules, target: float | None) -> list[Rules]:
    """Returns the settings between the best one of a rule that meets the request, and the next that does
    not."""
    if target is None:
        return between(swept, lambda one: one.coverage >= own.choosing_half.coverage, strictest=True)
    return between(swept, lambda one: rate_of(one) <= target)


def between(
    swept: Sequence[SweptRules], fits: Callable[[Figures], bool], strictest: bool = False
) -> list[Rules]:
    """Returns settings between the loosest one of a rule that fits, and the next looser one.

    With `strictest`: between the strictest that fits and the next stricter one. Only the rules with the most
    negatives on the choosing half (or the lowest rate) are refined. They fill the gaps between the steps of
    the sweep.
    """
    families: dict[tuple[str, str], list[SweptRules]] = {}
    for one in swept:
        if (name := _only_rule(one.rules)) is not None:
            families.setdefault((name, one.rules.reference_positive), []).append(one)
    gaps = []
    for (name, _), settings in families.items():
        settings.sort(
            key=lambda one: (rate_of(one.choosing_half), one.choosing_half.per_query), reverse=strictest
        )
        within = [one for one in settings if fits(one.choosing_half)]
        if within and len(within) < len(settings):
            gaps.append((name, within[-1], settings[len(within)].rules))
    if strictest:
        gaps.sort(key=lambda gap: rate_of(gap[1].choosing_half))
    else:
        gaps.sort(key=lambda gap: -gap[1].choosing_half.per_query)
    finer = []
    for name, inner, outer in gaps[:_REFINED]:
        steps = np.linspace(getattr(inner.rules, name), getattr(outer, name), _STEPS + 2)[1:-1]
        finer += [only(inner.rules, **{name: _short(float(step))}) for step in steps]
    known = {one.rules for one in swept}
    return [rules for rules in dict.fromkeys(finer) if rules not in known]


def _only_rule(rules: Rules) -> str | None:
    """The only rule against high scores that is on; None if none is, or several are."""
    on = [name for name in BOUNDS if getattr(rules, name) is not None]
    return on[0] if len(on) == 1 else None


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def choose(swept: Sequence[SweptRules], target: float, negatives: int) -> SweptRules:
    """Returns the setting with the most negatives that meets the target on the choosing half.

    The hardest wins among those with about as many. Raises UsageError if no setting meets the target.
    """
    useful = [one for one in swept if one.choosing_half.per_query > 0]
    if not useful:
        raise UsageError("no setting leaves a negative", "mine deeper")
    within = [one for one in useful if rate_of(one.choosing_half) <= target]
    if not within:
        best = min(useful, key=lambda one: rate_of(one.choosing_half))
        rate = rate_of(best.choosing_half)
        raise UsageError(
            f"no setting has a hidden-positive rate of at most {100 * target:g} %: the lowest is "
            f"{percent(rate, 2)} with {best.name}",
            f"use a target of {np.ceil(rate * 1e4) / 1e4:g} or more, mine with a reranker, or mine deeper",
        )
    most = max(one.choosing_half.per_query for one in within) - ENOUGH * negatives
    equals = [one for one in within if one.choosing_half.per_query >= most]
    return min(equals, key=lambda one: _easiness(one.choosing_half))


def least(swept: Sequence[SweptRules], own: SweptRules) -> SweptRules:
    """Returns the setting with the lowest rate whose coverage is at least that of the run's own rules.

    Both are measured on the choosing half; the hardest wins among equals.
    """
    enough = [one for one in swept if one.choosing_half.coverage >= own.choosing_half.coverage]
    return min(enough or [own], key=lambda one: (rate_of(one.choosing_half), _easiness(one.choosing_half)))


def rate_of(figures: Figures) -> float:
    """Returns the hidden-positive rate, 1 if nothing was hidden."""
    rate = figures.hidden_positive_rate.rate
    return 1.0 if rate is None else rate


def _easiness(figures: Figures) -> float:
    """The mean margin of the negatives: the less, the harder."""
    return np.inf if figures.margin is None else figures.margin


def _order(figures: Figures) -> tuple[float, float, float]:
    """Rate, number and easiness of the negatives: in each, less is better."""
    return rate_of(figures), -figures.per_query, _easiness(figures)


@dataclass(frozen=True)
class _Measurement:
    """Turns counts per query into figures of either half and of all queries."""

    replay: Replay
    hidden: Ints
    """Positives hidden per query, over all repeats."""
    distinct: Flags
    """Whether each positive was hidden in any repeat."""
    audit: AuditConfig

    def settings(
        self, grid: Sequence[Rules], sweeps: Sequence[Sweep], progress: Progress
    ) -> list[SweptRules]:
        """Returns every setting of the grid with its figures over all repeats."""
        totals: list[Counts] = []
        with progress.task("sweeping", len(sweeps), unit="repeats") as advance:
            for counts in ordered_map(lambda sweep: sweep.counts(grid), sweeps, worker_count()):
                totals = list(map(add, totals, counts)) if totals else counts
                advance(1)
        chooses, confirms = self._halves
        parts = chooses, confirms, chooses | confirms
        return [
            SweptRules(rules, *(self._figures(counts, part) for part in parts))
            for rules, counts in zip(grid, totals, strict=True)
        ]

    def expected(self, counts: Counts) -> Rate:
        """Returns the rate on the choosing half, with the interval expected on the confirming half."""
        chooses, confirms = self._halves
        against = self._number(confirms) / max(1, self._number(chooses))
        return self._rate(counts.selected, chooses, against)

    @cached_property
    def _halves(self) -> tuple[Flags, Flags]:
        return halves(self.replay, self.audit.seed)

    def _figures(self, counts: Counts, among: Flags) -> Figures:
        queries = max(1, int(among.sum())) * self.audit.repeats
        negatives = int(counts.negatives[among].sum())
        return Figures(
            self._rate(counts.selected, among),
            negatives / queries,
            float(counts.covered[among].sum()) / queries,
            float(counts.ranks[among].sum()) / negatives if negatives else None,
            float(counts.margins[among].sum()) / negatives if negatives else None,
        )

    def _rate(self, selected: Ints, among: Flags, against: float = 0.0) -> Rate:
        return clustered_rate(selected[among], self.hidden[among], self._number(among), against=against)

    def _number(self, among: Flags) -> int:
        """How many different positives of these queries were hidden."""
        owner = self.replay.hideable.positives.owner
        return int((self.distinct & among[owner]).sum())
