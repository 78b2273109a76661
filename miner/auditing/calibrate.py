"""Calibration: the rules that leak no more than asked and leave the most and the hardest negatives.

Every rule is tried over a range of its parameter, on stored evidence with positives hidden. One half of the
queries chooses, the other confirms: the figure of the half that chose flatters, as the best of many does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, reduce
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.auditing.audit import require_hideable
from miner.auditing.config import AuditConfig
from miner.auditing.replay import Material
from miner.auditing.sweep import Counts, Sweep, only
from miner.engine.progress import SILENT, Progress
from miner.engine.work import ordered_map, worker_count
from miner.errors import UsageError
from miner.mining.config import Rules
from miner.mining.rules import BOUNDS, name_of
from miner.stats import Rate, clustered_rate
from miner.store.audits import record_calibration
from miner.store.database import Store
from miner.store.models import models_of_unknown_training
from miner.store.runs import Run

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
"""How many rules are tried between two steps of the sweep, and at how many places."""
_HALVES = 1 << 20
"""What is drawn with it is no repeat."""
ENOUGH = 0.01
"""Yields that differ by less than this share of the negatives asked count as equal: then hardness decides."""


@dataclass(frozen=True)
class Measured:
    """One setting on some queries."""

    leak: Rate
    per_query: float
    """Negatives, mean, with positives hidden."""
    full: float
    """The share of queries with as many as asked."""
    rank: float | None
    margin: float | None
    """Means over the negatives; None without any."""


@dataclass(frozen=True)
class Setting:
    """One setting of the sweep."""

    rules: Rules
    chosen_on: Measured
    confirmed_on: Measured
    whole: Measured

    @property
    def name(self) -> str:
        """The rule that is on, with its parameter; `no rule` where none is."""
        return name_of(self.rules)

    def as_json(self) -> dict[str, Any]:
        """Returns the setting as JSON-able values."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Calibration:
    """What a sweep found."""

    run: str
    target: float | None
    """None: the least leak was asked for that leaves what the run's own rules leave."""
    settings: AuditConfig
    asked: int
    """Negatives per query."""
    sweep: tuple[Setting, ...]
    own: Setting
    """The run's own rules."""
    chosen: Setting
    barred: dict[str, int]
    """How many positives may not be hidden, by `stored.CANNOT_HIDE`."""
    untold: list[str]
    """Models of the run of whose training the store knows nothing."""
    expected: Rate
    """Where the half that chose says that the leak of the other half lies, with 95 %."""

    @property
    def confirmed(self) -> bool:
        """Whether the chosen setting does on the half that did not choose what was asked for."""
        found, own = self.chosen.confirmed_on, self.own.confirmed_on
        if found.leak.rate is None:
            return False
        if self.target is None:
            return found.full >= own.full and found.leak.rate <= _rate(own)
        return found.leak.rate <= self.target

    def frontier(self) -> list[Setting]:
        """Returns the settings that no other beats in leak, yield and hardness at once, by leak."""
        points = [(_rate(one.whole), -one.whole.per_query, _hardness(one.whole)) for one in self.sweep]
        best = [
            one
            for one, point in zip(self.sweep, points, strict=True)
            if not any(
                other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points
            )
        ]
        return sorted(best, key=lambda one: (_rate(one.whole), -one.whole.per_query, one.name))

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
    store: Store, run: Run, target: float | None, settings: AuditConfig, progress: Progress = SILENT
) -> Calibration:
    """Sweeps every rule over a run's stored evidence and picks the setting that meets the target leak.

    Without a target the one that leaks least where as many queries get all negatives as with the run's own
    rules. No model runs; the store notes which rules were chosen on its positives. Raises UsageError when no
    positive may be hidden, the run was selected otherwise than by score, no setting meets the target, or
    there is no yield to keep.
    """
    if target is not None and not 0 <= target < 1:
        raise UsageError(f"a target leak of {target} cannot be", "give a share such as 0.02")
    material = Material.of(store, run)
    require_hideable(store, run, material.hideable)
    base = material.config.rules
    grid = [base, *candidates(base, material.hideable.positives.sorted_scores)]
    trials = material.hideable.draws(settings)
    sweeps = [Sweep(material, material.without(hidden)) for hidden in trials]
    asked = np.sum([sweep.asked for sweep in sweeps], axis=0)
    judge = _Judge(material, asked, np.logical_or.reduce(trials), settings, run.negatives)
    own, *swept = judge.measure(grid, sweeps, progress)
    _require_hidden(own)
    if target is None and not own.chosen_on.per_query:
        raise UsageError(f"run '{run.name}' has no negatives to keep the yield of", "give a --target-leak")
    swept += judge.measure(_finer(swept, own, target), sweeps, progress)
    chosen = least(swept, own) if target is None else choose(swept, target, run.negatives)
    expected = judge.expected(reduce(add, (sweep.counts([chosen.rules])[0] for sweep in sweeps)))
    record_calibration(store, run, asdict(chosen.rules), asdict(chosen.confirmed_on.leak))
    barred, untold = material.hideable.bars(), models_of_unknown_training(store, run)
    return Calibration(
        run.name, target, settings, run.negatives, tuple(swept), own, chosen, barred, untold, expected
    )


def halves(material: Material, seed: int) -> tuple[Flags, Flags]:
    """Returns which queries choose the setting, and which confirm it, by query number."""
    queries = material.hideable.positives.queries
    chooses = np.random.default_rng([seed, _HALVES]).permutation(queries) < queries // 2
    exists = np.bincount(material.hideable.positives.owner, minlength=queries) > 0
    return chooses & exists, ~chooses & exists


def candidates(base: Rules, scores: npt.NDArray[np.float64]) -> list[Rules]:
    """Returns the settings to try: each rule alone over its parameter; what else `base` sets stays."""
    spread = float(np.std(scores))
    found = [only(base)]
    for kind in REFERENCE_POSITIVES:
        found += [only(base, reference_positive=kind, relative_margin=m) for m in RELATIVE]
        found += [only(base, reference_positive=kind, absolute_margin=_short(m * spread)) for m in ABSOLUTE]
        found += [only(base, reference_positive=kind, relative_percentile=b) for b in SHARES]
    found += [only(base, percentile=p) for p in PERCENTILES]
    found += [only(base, max_score=_short(float(np.percentile(scores, p)))) for p in PERCENTILES]
    found += [only(base, skip_top=n) for n in SKIPS if base.max_rank is None or n < base.max_rank]
    return [rules for rules in dict.fromkeys(found) if not _closed(rules)]


def _finer(swept: Sequence[Setting], own: Setting, target: float | None) -> list[Rules]:
    """The settings between the best of a rule that do what is asked for, and the next, which do not."""
    if target is None:
        return between(swept, lambda one: one.full >= own.chosen_on.full, strictest=True)
    return between(swept, lambda one: _rate(one) <= target)


def between(
    swept: Sequence[Setting], fits: Callable[[Measured], bool], strictest: bool = False
) -> list[Rules]:
    """Returns settings between the loosest one of a rule that fits, and the next looser one.

    With `strictest` between the strictest and the next stricter one. Of the rules that yield most, or leak
    least, on the half that chooses. A sweep in steps would leave out what lies between.
    """
    families: dict[tuple[str, str], list[Setting]] = {}
    for one in swept:
        if (name := _only_rule(one.rules)) is not None:
            families.setdefault((name, one.rules.reference_positive), []).append(one)
    gaps = []
    for (name, _), settings in families.items():
        settings.sort(key=lambda one: (_rate(one.chosen_on), one.chosen_on.per_query), reverse=strictest)
        within = [one for one in settings if fits(one.chosen_on)]
        if within and len(within) < len(settings):
            gaps.append((name, within[-1], settings[len(within)].rules))
    if strictest:
        gaps.sort(key=lambda gap: _rate(gap[1].chosen_on))
    else:
        gaps.sort(key=lambda gap: -gap[1].chosen_on.per_query)
    found = []
    for name, inner, outer in gaps[:_REFINED]:
        steps = np.linspace(getattr(inner.rules, name), getattr(outer, name), _STEPS + 2)[1:-1]
        found += [only(inner.rules, **{name: _short(float(step))}) for step in steps]
    known = {one.rules for one in swept}
    return [rules for rules in dict.fromkeys(found) if rules not in known]


def _only_rule(rules: Rules) -> str | None:
    """The one rule against unjudged positives that is on; None where none is, or a rank window decides."""
    on = [name for name in BOUNDS if getattr(rules, name) is not None]
    return on[0] if len(on) == 1 else None


def _closed(rules: Rules) -> bool:
    return rules.max_score is not None and rules.min_score is not None and rules.min_score > rules.max_score


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _require_hidden(one: Setting) -> None:
    if one.chosen_on.leak.rate is None:
        raise UsageError(
            "the half of the queries that chooses has no positive that may be hidden",
            "judge more queries with two positives or more, or try another --seed",
        )


def choose(swept: Sequence[Setting], target: float, negatives: int) -> Setting:
    """Returns the setting within the target on the half that chooses: the hardest of those that yield most.

    Raises UsageError when none is.
    """
    useful = [one for one in swept if one.chosen_on.per_query > 0]
    if not useful:
        raise UsageError("no setting leaves a negative", "mine deeper")
    within = [one for one in useful if _rate(one.chosen_on) <= target]
    if not within:
        best = min(useful, key=lambda one: _rate(one.chosen_on))
        rate = _rate(best.chosen_on)
        raise UsageError(
            f"no setting leaks at most {100 * target:g} %: the least is {100 * rate:.2f} % with {best.name}",
            f"give a target of {np.ceil(rate * 1e4) / 1e4:g} or more, mine with a reranker, or mine deeper",
        )
    most = max(one.chosen_on.per_query for one in within) - ENOUGH * negatives
    return min(
        (one for one in within if one.chosen_on.per_query >= most), key=lambda one: _hardness(one.chosen_on)
    )


def least(swept: Sequence[Setting], own: Setting) -> Setting:
    """Returns what leaks least on the half that chooses, and leaves there what the run's own rules leave.

    That is, all negatives for as many queries; of equals the hardest.
    """
    enough = [one for one in swept if one.chosen_on.full >= own.chosen_on.full]
    return min(enough or [own], key=lambda one: (_rate(one.chosen_on), _hardness(one.chosen_on)))


def _rate(measured: Measured) -> float:
    return 1.0 if measured.leak.rate is None else measured.leak.rate


def _hardness(measured: Measured) -> float:
    """Less is harder."""
    return np.inf if measured.margin is None else measured.margin


@dataclass(frozen=True)
class _Judge:
    """Turns counts per query into figures on either half."""

    material: Material
    asked: Ints
    """Per query, positives hidden, over all repeats."""
    distinct: Flags
    """Per positive, whether it was hidden in any repeat."""
    settings: AuditConfig
    negatives: int

    def measure(self, grid: Sequence[Rules], sweeps: Sequence[Sweep], progress: Progress) -> list[Setting]:
        """Returns what the sweeps say of each setting, over all repeats."""
        totals: list[Counts] = []
        with progress.task("sweeping", len(sweeps), unit="repeats") as advance:
            for counts in ordered_map(lambda sweep: sweep.counts(grid), sweeps, worker_count()):
                totals = list(map(add, totals, counts)) if totals else counts
                advance(1)
        return [self._setting(rules, one) for rules, one in zip(grid, totals, strict=True)]

    def _setting(self, rules: Rules, counts: Counts) -> Setting:
        chooses, confirms = self._halves
        return Setting(
            rules, *(self._measured(counts, part) for part in (chooses, confirms, chooses | confirms))
        )

    def expected(self, counts: Counts) -> Rate:
        """Returns the leak on the half that chooses, with where that of the other half is to be expected."""
        chooses, confirms = self._halves
        return self._leak(counts.leaked, chooses, self._distinct(confirms) / max(1, self._distinct(chooses)))

    @cached_property
    def _halves(self) -> tuple[Flags, Flags]:
        return halves(self.material, self.settings.seed)

    def _measured(self, counts: Counts, among: Flags) -> Measured:
        number = max(1, int(among.sum())) * self.settings.repeats
        negatives = int(counts.negatives[among].sum())
        return Measured(
            self._leak(counts.leaked, among),
            negatives / number,
            float(counts.full[among].sum()) / number,
            float(counts.ranks[among].sum()) / negatives if negatives else None,
            float(counts.margins[among].sum()) / negatives if negatives else None,
        )

    def _leak(self, leaked: Ints, among: Flags, against: float = 0.0) -> Rate:
        return clustered_rate(leaked[among], self.asked[among], self._distinct(among), against=against)

    def _distinct(self, among: Flags) -> int:
        owner = self.material.hideable.positives.owner
        return int((self.distinct & among[owner]).sum())
