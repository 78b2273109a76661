"""Calibration: chooses the rules that meet a target rate with the most, hardest negatives.

If the run has labels, the rate is the false-negative rate that they predict (`auditing.transfer`), else the
hidden-positive rate. Every rule is tried over a range of its parameter, on stored evidence with positives
hidden: some of each query's, most of them, and all but one, several times each. A setting counts with the
highest of these rates. Half of the queries chooses the setting and the other half confirms it, because the
rate of the best of many settings is optimistic. Coverage and hardness are those without hidden positives:
they are known exactly.

The rules are tried on the scores of several scorers, each of which decides in turn: the run's own, and the
one of the others that separates hidden positives best (`auditing.separation`), or all of them. Draws, halves
and evidence are the same for each. A positive is hidden only if every scorer that can be compared gave it a
finite score, so that all rates are of the same hidden positives. Which other scorer is best is decided by the
half that chooses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.auditing.audit import require_hideable
from miner.auditing.choice import Figures, SweptRules, between, choose, frontier_of, least, rate_of
from miner.auditing.config import CalibrationConfig
from miner.auditing.grid import candidates, families, rounded
from miner.auditing.hiding import Hideable
from miner.auditing.labels import false_negative_rate
from miner.auditing.replay import Replay
from miner.auditing.separation import (
    Scores,
    Separation,
    below_depth,
    chances_of,
    comparable,
    separations,
)
from miner.auditing.sweep import Counts, Sweep, only
from miner.auditing.transfer import LabelledChances, PredictedRate
from miner.engine.progress import SILENT, Progress
from miner.engine.work import ordered_map, worker_count
from miner.errors import UsageError
from miner.mining.adaptive import note_reach
from miner.mining.config import Rules
from miner.reporting.readable import Readable
from miner.stats import Rate, clustered_rate
from miner.store.audits import record_calibration
from miner.store.database import Database
from miner.store.models import models_of_unknown_training
from miner.store.runs import StoredRun
from miner.store.scorers import Scorer

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

HIDDEN_SHARES = (0.3, 0.6, 1.0)
"""The shares of each query's positives that are hidden, one after the other; 1 leaves one of them."""
OF_SINGLES = 0.6
"""At most this share of the queries with a single positive loses it: percentiles need some visible ones."""
_BISECTIONS = 10
_HALVES = 1 << 20
"""The second number of the halves' seed; it differs from the number of every repeat."""


@dataclass(frozen=True, repr=False)
class Calibration(Readable):
    """The result of a calibration."""

    run: str
    target: float | None
    """The highest rate that was requested: false-negative rate by labels, else hidden-positive rate. None:
    the lowest rate at the coverage of the run's own rules."""
    settings: CalibrationConfig
    shares: tuple[float, ...]
    """The shares of positives that were hidden, of HIDDEN_SHARES."""
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
    labels: int
    """Labels that the predicted false-negative rates rest on; 0 without."""
    expected: Rate
    """The chosen setting's rate on the half that chose, with the 95 % interval expected on the other half."""
    decider: str
    """The scorer that decides in the run: the rules of settings without `decide_by` look at its scores."""
    tried: tuple[str, ...]
    """The scorers on whose scores the rules were tried, the run's own first."""
    separation: tuple[Separation, ...] = ()
    """How well each scorer that can be compared separates hidden positives, the best first; empty if no other
    is compared."""
    below_depth: int = 0
    """Positives that are not compared because a reranker scored candidates only down to less than theirs."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why each other scorer of the run cannot be compared, by name."""

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
        hidden, predicted = self.chosen.confirming_half.hidden_positive_rate, self.chosen.false_negatives
        rate = f"hidden-positive rate {hidden}" if predicted is None else f"false-negative rate {predicted}"
        state = "confirmed" if self.confirmed else "not confirmed"
        return f"Calibration of run '{self.run}': {self.name_of(self.chosen)}, {rate}, {state}"

    @property
    def limit(self) -> float:
        """The highest rate that meets the request: the target, or the rate of the run's own rules: by labels,
        or else of hidden positives on the half that did not choose."""
        if self.target is None and self.own.false_negatives is not None:
            return self.own.false_negatives.rate
        return rate_of(self.own.confirming_half) if self.target is None else self.target

    @property
    def confirmed(self) -> bool:
        """Whether the whole interval of the chosen setting's rate meets the request: that of the
        false-negative rate by labels, or else of the hidden-positive rate on the half that did not choose."""
        if self.labels:
            predicted = self.chosen.false_negatives
            return predicted is not None and predicted.high <= self.limit
        rate = self.chosen.confirming_half.hidden_positive_rate
        return rate.rate is not None and rate.high <= self.limit

    def name_of(self, one: SweptRules) -> str:
        """Returns the name of a setting; if several scorers were tried, with the one that decides."""
        named = one.rules.decide_by is None and len(self.tried) > 1
        return f"{one.name}, by {self.decider}" if named else one.name

    def frontier(self) -> list[SweptRules]:
        """Returns the settings that no other beats (`frontier_of`); the chosen one before equal ones."""
        return frontier_of((self.chosen, *self.sweep))

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
    store: Database,
    run: StoredRun,
    target: float | None,
    settings: CalibrationConfig,
    progress: Progress = SILENT,
) -> Calibration:
    """Tries every rule over a run's stored evidence and chooses the setting that meets the target.

    The target is a false-negative rate if the run has labels, else a hidden-positive rate. Without a target
    it chooses the setting with the lowest rate whose coverage is at least that of the run's own rules. No
    model runs. Without labels the store records which rules were chosen on its positives. Raises UsageError
    if no positive may be hidden, the run selects otherwise than by score, no setting meets the target, or the
    run has no negatives.
    """
    if target is not None and not 0 <= target < 1:
        raise UsageError(
            f"the target must be at least 0 and below 1, got {target}", "use a share such as 0.02"
        )
    note_reach(run, progress)
    trials = _Trials.of(store, run, settings)
    measurement, grid = trials.measurement, trials.grid
    strictest = measurement.strictest(trials.own, grid) if target is None else []
    own, *swept = measurement.settings([trials.own, *dict.fromkeys([*grid, *strictest])], progress)
    if measurement.chances is not None:
        own, *swept = _with_estimate(store, run, [own, *swept])
    if own.choosing_half.hidden_positive_rate.rate is None:
        raise UsageError(
            "the half of the queries that chooses has no positive that may be hidden",
            "judge more queries, or try another seed (--set seed=N)",
        )
    if target is None and not own.all_queries.per_query:
        raise UsageError(f"run '{run.name}' has no negatives to keep the coverage of", "use --target")
    if target is None:
        chosen = least([one for one in swept if one.rules in strictest], own)
    else:
        swept += measurement.settings(between(swept, target), progress)
        chosen = choose(swept, target, run.negatives)
    if measurement.chances is None:  # labels choose without the hidden positives
        rate = asdict(chosen.confirming_half.hidden_positive_rate)
        record_calibration(store, run, trials.decider(chosen.rules), asdict(chosen.rules), rate)
    return Calibration(
        run=run.name,
        target=target,
        settings=settings,
        shares=tuple(draws.share for draws in measurement.draws),
        negatives=run.negatives,
        sweep=tuple(swept),
        own=own,
        chosen=chosen,
        cannot_hide=trials.hideable.cannot_hide(),
        unknown_training=models_of_unknown_training(store, run),
        labels=0 if measurement.chances is None else measurement.chances.labels,
        expected=measurement.expected(chosen),
        decider=run.deciding.name,
        tried=tuple(one.name for one in trials.scorers.values()),
        separation=trials.separation,
        below_depth=trials.below_depth,
        left_out=trials.left_out,
    )


def _with_estimate(store: Database, run: StoredRun, swept: Sequence[SweptRules]) -> list[SweptRules]:
    """Returns the settings, the run's own rules with the rate that its sample estimates, not a prediction."""
    found, own = false_negative_rate(store, run), swept[0].rules
    assert found is not None  # the predictions are of the same labels
    estimate = PredictedRate(found.rate, found.low, found.high, 0.0)
    return [replace(one, false_negatives=estimate) if one.rules == own else one for one in swept]


def frontier(
    store: Database, run: StoredRun, settings: CalibrationConfig, progress: Progress = SILENT
) -> list[SweptRules]:
    """Returns the settings of a run's rules that no other beats, its own among them (`frontier_of`).

    Nothing is chosen or recorded. Raises UsageError as `calibrate`.
    """
    trials = _Trials.of(store, run, settings)
    return frontier_of(trials.measurement.settings([trials.own, *trials.grid], progress))


@dataclass(frozen=True)
class _Trials:
    """What a calibration tries, and how it measures it."""

    own: Rules
    """The run's own rules."""
    hideable: Hideable
    scorers: dict[str | None, Scorer]
    """The scorers that decide in turn, by `decide_by` of their rules; the run's own first."""
    grid: list[Rules]
    """The settings to try, those of one scorer after those of the other."""
    measurement: _Measurement
    separation: tuple[Separation, ...]
    below_depth: int
    """Positives that are not compared because a reranker did not score them as candidates."""
    left_out: dict[str, str]

    @classmethod
    def of(cls, store: Database, run: StoredRun, settings: CalibrationConfig) -> _Trials:
        """Returns the trials over a run's evidence."""
        replay = Replay.of(store, run)
        compared = [Scores(run.deciding, replay.score, replay.hideable.positives.score)]
        left_out: dict[str, str] = {}
        if settings.scorers != "deciding" and len(run.scorers) > 1:
            require_hideable(store, run, replay.hideable)
            compared, left_out = comparable(store, run, replay)
            hideable = replay.hideable.scored_by([one.positives for one in compared[1:]])
            replay = replace(replay, hideable=hideable)
        require_hideable(store, run, replay.hideable)
        separation, others = _best(replay, compared, settings)
        replays = [replay, *(replay.by(one.scorer, one.candidates, one.positives) for one in others)]
        chances = LabelledChances.of(store, run, replay, settings.seed) if settings.use_labels else None
        windows = settings.allow_rank_window or chances is not None
        scorers = (run.deciding, *(one.scorer for one in others))
        return cls(
            replay.config.rules,
            replay.hideable,
            {one.config.rules.decide_by: scorer for one, scorer in zip(replays, scorers, strict=True)},
            [rules for one in replays for rules in candidates(one.config.rules, one.hideable, windows)],
            _Measurement.of(replays, settings, chances),
            separation,
            below_depth(replay.hideable, compared) if len(compared) > 1 else 0,
            left_out,
        )

    def decider(self, rules: Rules) -> Scorer:
        """Returns the scorer whose scores these rules look at."""
        return self.scorers[rules.decide_by]


def _best(
    replay: Replay, compared: Sequence[Scores], settings: CalibrationConfig
) -> tuple[tuple[Separation, ...], Sequence[Scores]]:
    """Returns how well every compared scorer separates, and the other scorers that the rules are tried on.

    The half that chooses says which one is best; none is if it has nothing to compare.
    """
    others = compared[1:]
    if not others:
        return (), ()
    queries, values = chances_of(replay, replay.hideable, compared)
    chooses = halves(replay, settings.seed)[0][queries]
    if settings.scorers == "best":
        best = int(np.argmax(values[chooses, 1:].mean(axis=0))) if chooses.any() else len(others)
        others = others[best : best + 1]
    return separations(compared, values), others


def halves(replay: Replay, seed: int) -> tuple[Flags, Flags]:
    """Returns which queries choose the setting, and which confirm it, by query number."""
    queries = replay.hideable.positives.queries
    chooses = np.random.default_rng([seed, _HALVES]).permutation(queries) < queries // 2
    exists = np.bincount(replay.hideable.positives.owner, minlength=queries) > 0
    return chooses & exists, ~chooses & exists


@dataclass(frozen=True)
class _Draws:
    """Several draws of one share of hidden positives."""

    share: float
    sweeps: dict[str | None, list[Sweep]]
    """A sweep per draw, by the `decide_by` of the rules."""
    hidden: Ints
    """Positives hidden per query, over all draws; the same whichever scorer decides."""
    distinct: Ints
    """Different positives hidden per query."""

    @classmethod
    def of(cls, replays: Sequence[Replay], share: float, number: int, settings: CalibrationConfig) -> _Draws:
        """Returns the draws of a share, the `number`-th of HIDDEN_SHARES, on the evidence of every scorer."""
        hideable = replays[0].hideable
        seeds = ([settings.seed, number * settings.repeats + repeat] for repeat in range(settings.repeats))
        drawn = [hideable.draw(share, np.random.default_rng(seed), min(share, OF_SINGLES)) for seed in seeds]
        sweeps: dict[str | None, list[Sweep]] = {replay.config.rules.decide_by: [] for replay in replays}
        for hidden in drawn:
            exclusions = hideable.exclusions(hidden)
            for replay in replays:
                sweeps[replay.config.rules.decide_by].append(
                    Sweep(replay, replay.hide_with(hidden, exclusions))
                )
        owner, queries = hideable.positives.owner, hideable.positives.queries
        hidden_of = np.bincount(np.concatenate([owner[hidden] for hidden in drawn]), minlength=queries)
        distinct = np.bincount(owner[np.logical_or.reduce(drawn)], minlength=queries)
        return cls(share, sweeps, hidden_of, distinct)

    def rate(self, selected: npt.NDArray[Any], among: Flags, against: float = 0.0) -> Rate:
        """Returns the rate of some queries, from the hidden positives that are selected per query."""
        distinct = int(self.distinct[among].sum())
        return clustered_rate(selected[among], self.hidden[among], distinct, against=against)


@dataclass(frozen=True)
class _Measurement:
    """Measures settings on either half and on all queries."""

    mined: dict[str | None, Sweep]
    """Nothing is hidden. By the `decide_by` of the rules."""
    chances: LabelledChances | None
    """The chances of the candidates by labels, if the run has labels."""
    draws: list[_Draws]
    chooses: Flags
    confirms: Flags

    @classmethod
    def of(
        cls, replays: Sequence[Replay], settings: CalibrationConfig, chances: LabelledChances | None
    ) -> _Measurement:
        """Returns the measurement of a run; without queries of several positives, two shares are the same."""
        hideable = replays[0].hideable
        shares = HIDDEN_SHARES[:2] if hideable.single.all() else HIDDEN_SHARES
        mined = {replay.config.rules.decide_by: Sweep(replay, replay.mined) for replay in replays}
        draws = [_Draws.of(replays, share, number, settings) for number, share in enumerate(shares)]
        return cls(mined, chances, draws, *halves(replays[0], settings.seed))

    def settings(self, grid: Sequence[Rules], progress: Progress) -> list[SweptRules]:
        """Returns every setting of the grid with its figures, in order."""
        found: dict[Rules, SweptRules] = {}
        parts: dict[str | None, list[Rules]] = {}
        for rules in grid:
            parts.setdefault(rules.decide_by, []).append(rules)
        repeats = sum(len(draws.sweeps[decide_by]) for decide_by in parts for draws in self.draws)
        with progress.task("sweeping", repeats, unit="repeats") as advance:
            for decide_by, part in parts.items():
                found |= zip(part, self._of_scorer(decide_by, part, advance), strict=True)
        return [found[rules] for rules in grid]

    def _of_scorer(
        self, decide_by: str | None, grid: Sequence[Rules], advance: Callable[[int], None]
    ) -> list[SweptRules]:
        """Returns the settings of one scorer with their figures."""
        mined = self.mined[decide_by]
        costs = mined.counts(grid)
        sweeps = [
            (number, sweep) for number, draws in enumerate(self.draws) for sweep in draws.sweeps[decide_by]
        ]
        selected = np.zeros((len(self.draws), len(grid), mined.queries), dtype=np.int32)
        counted = ordered_map(lambda one: one[1].selected(grid), sweeps, worker_count())
        for (number, _), counts in zip(sweeps, counted, strict=True):
            selected[number] += np.asarray(counts, dtype=np.int32).reshape(selected[number].shape)
            advance(1)
        per_setting = selected.swapaxes(0, 1)
        found = [self._swept(*one) for one in zip(grid, costs, per_setting, strict=True)]
        if self.chances is None:
            return found
        rates = self.chances.rates(mined, grid)
        return [replace(one, false_negatives=rate) for one, rate in zip(found, rates, strict=True)]

    def _swept(self, rules: Rules, costs: Counts, selected: npt.NDArray[np.int32]) -> SweptRules:
        everything = self.chooses | self.confirms
        rates = [
            draws.rate(one, everything).rate or 0.0 for draws, one in zip(self.draws, selected, strict=True)
        ]
        worst = int(np.argmax(rates))
        draws, hits = self.draws[worst], selected[worst]
        parts = self.chooses, self.confirms, everything
        choosing, confirming, both = (self._figures(draws.rate(hits, part), costs, part) for part in parts)
        return SweptRules(rules, draws.share, choosing, confirming, both)

    def _figures(self, rate: Rate, costs: Counts, among: Flags) -> Figures:
        queries, negatives = max(1, int(among.sum())), int(costs.negatives[among].sum())
        return Figures(
            rate,
            negatives / queries,
            float(costs.covered[among].sum()) / queries,
            float(costs.ranks[among].sum()) / negatives if negatives else None,
            float(costs.margins[among].sum()) / negatives if negatives else None,
        )

    def expected(self, chosen: SweptRules) -> Rate:
        """Returns the rate on the choosing half, with the interval expected on the confirming half."""
        (draws,) = (draws for draws in self.draws if draws.share == chosen.share)
        sweeps = draws.sweeps[chosen.rules.decide_by]
        selected = np.sum([sweep.selected([chosen.rules])[0] for sweep in sweeps], axis=0)
        sizes = (int(draws.distinct[half].sum()) for half in (self.confirms, self.chooses))
        return draws.rate(selected, self.chooses, next(sizes) / max(1, next(sizes)))

    def strictest(self, own: Rules, grid: Sequence[Rules]) -> list[Rules]:
        """Returns the strictest setting of every rule whose coverage is at least that of the `own` rules.

        A stricter setting of one rule selects fewer false negatives, so only coverage bounds it.
        """
        (needed,) = self._covered([own])
        found = []
        for name, alike in families(grid):
            covered = self._covered(alike)
            first = int(np.argmax(covered >= needed))
            if covered[first] >= needed:
                found.append(self._refined(name, alike[max(0, first - 1)], alike[first], needed))
        return found

    def _refined(self, name: str, strict: Rules, loose: Rules, needed: int) -> Rules:
        """The strictest setting between two of which `loose` has the coverage."""
        for _ in range(_BISECTIONS):
            middle = rounded((getattr(strict, name) + getattr(loose, name)) / 2)
            tried = only(loose, **{name: middle})
            if self._covered([tried])[0] >= needed:
                loose = tried
            else:
                strict = tried
        return loose

    def _covered(self, settings: Sequence[Rules]) -> Ints:
        """How many queries have all their negatives with each setting."""
        return np.array(
            [int(self.mined[rules.decide_by].counts([rules])[0].covered.sum()) for rules in settings]
        )
