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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from miner.auditing.audit import require_hideable
from miner.auditing.choice import SweptRules, between, choose, frontier_of, least, rate_of
from miner.auditing.config import CalibrationConfig
from miner.auditing.grid import candidates
from miner.auditing.hiding import Hideable
from miner.auditing.labels import false_negative_rate
from miner.auditing.measurement import DecidingScores, Measurement, halves
from miner.auditing.replay import Replays
from miner.auditing.separation import (
    Scores,
    Separation,
    chances_of,
    comparable,
    separations,
)
from miner.auditing.sweep import require_sweepable
from miner.auditing.transfer import LabelledChances, PredictedRate
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.mining.adaptive import note_reach
from miner.mining.config import Rules
from miner.reporting.readable import Readable
from miner.stats import Rate
from miner.store.audits import keep_frontier, record_calibration
from miner.store.database import Database
from miner.store.models import models_of_unknown_training
from miner.store.runs import StoredRun
from miner.store.scorers import Scorer


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
    found = Calibration(
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
    keep_frontier(store, run, frontier_facts(found))
    return found


def frontier_facts(calibration: Calibration) -> dict[str, Any]:
    """Returns the frontier with the chosen rules and the run's own, as the store keeps it for reports.

    Keys: `target`, `labels` (0: the rates are hidden-positive rates) and `points`, each with `name`, `rate`,
    `low`, `high`, `per_query`, `coverage`, `rank`, `margin`, and whether it is `chosen`, `own`, or on the
    `frontier`.
    """
    chosen, own, best = calibration.chosen, calibration.own, calibration.frontier()
    points = []
    for one in dict.fromkeys(one.rules for one in (*best, chosen, own)):
        of = next(swept for swept in (chosen, own, *best) if swept.rules == one)
        rate, left = of.overall, of.all_queries
        points.append(
            {
                "name": calibration.name_of(of),
                "rate": rate.rate, "low": rate.low, "high": rate.high,
                "per_query": left.per_query, "coverage": left.coverage,
                "rank": left.rank, "margin": left.margin,
                "chosen": one == chosen.rules, "own": one == own.rules,
                "frontier": any(one == other.rules for other in best),
            }
        )  # fmt: skip
    return {"target": calibration.target, "labels": calibration.labels, "points": points}


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
    measurement: Measurement
    separation: tuple[Separation, ...]
    below_depth: int
    """Positives that are not compared because a reranker did not score them as candidates."""
    left_out: dict[str, str]

    @classmethod
    def of(cls, store: Database, run: StoredRun, settings: CalibrationConfig) -> _Trials:
        """Returns the trials over a run's evidence."""
        replays = Replays.of(store, run)
        compared = [Scores(run.deciding, replays.hideable.positives.score)]
        left_out: dict[str, str] = {}
        if settings.scorers != "deciding" and len(run.scorers) > 1:
            require_hideable(store, run, replays.hideable)
            compared, left_out = comparable(replays)
            hideable = replays.hideable.scored_by([one.positives for one in compared[1:]])
            replays = replace(replays, hideable=hideable)
        require_hideable(store, run, replays.hideable)
        require_sweepable(replays.config)
        separation, others, depth = _best(replays, compared, settings)
        replays = replace(replays, others=[one.scorer for one in others])
        own = replays.config.rules
        deciders = {own.decide_by: DecidingScores(run.deciding, own, replays.hideable)}
        for one in others:
            hideable = replays.hideable.by(one.positives)
            rules = replace(own, decide_by=one.scorer.name, min_score=None)
            deciders[one.scorer.name] = DecidingScores(one.scorer, rules, hideable)
        chances = LabelledChances.of(replays, settings.seed) if settings.use_labels else None
        windows = settings.allow_rank_window or chances is not None
        return cls(
            own,
            replays.hideable,
            {name: one.scorer for name, one in deciders.items()},
            [rules for one in deciders.values() for rules in candidates(one.rules, one.hideable, windows)],
            Measurement.of(replays, deciders, settings, chances),
            separation,
            depth,
            left_out,
        )

    def decider(self, rules: Rules) -> Scorer:
        """Returns the scorer whose scores these rules look at."""
        return self.scorers[rules.decide_by]


def _best(
    replays: Replays, compared: Sequence[Scores], settings: CalibrationConfig
) -> tuple[tuple[Separation, ...], Sequence[Scores], int]:
    """Returns how well every compared scorer separates, the other scorers that the rules are tried on, and
    how many positives are not compared because of their depth.

    The half that chooses says which scorer is best; none is if it has nothing to compare.
    """
    others = compared[1:]
    if not others:
        return (), (), 0
    queries, values, below_depth = chances_of(replays, compared)
    chooses = halves(replays.hideable, settings.seed)[0][queries]
    if settings.scorers == "best":
        best = int(np.argmax(values[chooses, 1:].mean(axis=0))) if chooses.any() else len(others)
        others = others[best : best + 1]
    return separations(compared, values), others, below_depth
