"""`miner tune`: finds the negatives that train best, by successive halving on the dev split.

Many settings are trained shortly, the better half goes on to longer trainings, and the last few are trained
with several seeds and compared with the default rules, easy and in-batch negatives.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from miner.engine.files import discard, locked
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.evaluation.evaluate import EvaluationConfig, task_of_split
from miner.mining.adaptive import note_reach
from miner.mining.pipeline import config_of
from miner.reporting.readable import Readable
from miner.store import corpus
from miner.store.database import Database
from miner.store.runs import StoredRun, find_run, staleness
from miner.training.batches import KnownPositives
from miner.training.encoder_trainer import rows_left_out
from miner.workflows.bench_result import Comparison, Trained, compared, trained_of
from miner.workflows.halving import Cost, HalvingPlan, Scope, Timing, better_half
from miner.workflows.train import known_positives
from miner.workflows.trial import CELLS, MODELS, Measured, require_own, trial
from miner.workflows.tune_arms import Arm, ArmRows, DataFacts, baselines, facts_of, pool, rules_to_try
from miner.workflows.tune_config import TuneConfig

_FEWEST = 0.1
"""An arm with a smaller share of the positives is not compared: it would train on too little."""
_BATCHES = 8
"""The fewest batches of a training of a rung."""
_PROBE = 4
"""The second training that times the machine is this many times as long as the first."""

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class RungResult:
    """One rung: trainings of one length with the first seed."""

    rows: int
    """Triplets of each training."""
    scores: Mapping[str, float]
    """The headline measure by arm, in the order of the arms."""
    left: tuple[str, ...]
    """The arms that went on."""


@dataclass(frozen=True, repr=False)
class TuneReport(Readable):
    """The result of a tuning."""

    store: str
    run: str
    config: TuneConfig
    facts: DataFacts
    measure: str
    """The headline measure of the dev split."""
    queries: int
    documents: int
    """What it was measured on."""
    plan: HalvingPlan
    arms: Mapping[str, Arm]
    """Every arm that was compared, by name."""
    rungs: tuple[RungResult, ...]
    finals: tuple[Trained, ...]
    """The arms of the final, the highest mean first."""
    comparisons: tuple[Comparison, ...]
    """The choice against every other arm of the final."""
    seconds: float
    """Seconds of all trainings and measurements, those of earlier calls included."""

    @property
    def chosen(self) -> Arm:
        """The arm with the highest mean on the dev split over all seeds of the final."""
        return self.arms[self.finals[0].arm]

    @cached_property
    def verdicts(self) -> list[str]:
        """What was chosen, how it compares with the baselines, and what to do next; one sentence each."""
        from miner.workflows.tune_report import verdicts  # it imports this module

        return verdicts(self)

    def as_text(self) -> str:
        """Returns the rungs, the final and the verdict, as `miner tune` prints them."""
        from miner.workflows.tune_report import table

        return table(self)

    def as_json(self) -> dict[str, Any]:
        """Returns the report as JSON-able values."""
        from miner.workflows.tune_report import as_json

        return as_json(self)

    def write_recipe(self, out: str | os.PathLike[str]) -> None:
        """Writes the choice to a TOML recipe for decide, mine and train.

        Raises UsageError if another file would be lost.
        """
        from miner.workflows.tune_report import write_recipe

        write_recipe(self, Path(out))

    def __repr__(self) -> str:
        best = self.finals[0]
        return f"Tuning of run '{self.run}': {best.arm}, {self.measure} {best.mean(self.measure):.4f}"


@dataclass(frozen=True)
class _TuneInputs:
    """Everything that is read from the store."""

    run: str
    facts: DataFacts
    known: KnownPositives
    measured: Measured
    rows: ArmRows
    fixed: list[Arm]
    """The baselines."""
    pool: list[Arm]
    """The other arms, the best bets first."""


def tune(
    store: Path, work: Path, config: TuneConfig | None = None, progress: Progress = SILENT
) -> TuneReport:
    """Compares settings by short trainings on the dev split, and returns the one that trains best.

    Finished trainings are stored in `work/cells` and not repeated: the same call after a kill goes on and
    chooses the same. The test split is not read. Raises StoreError without a finished run, UsageError without
    a dev split or for a run of it, MinerError if another process works in `work`.
    """
    config = config or TuneConfig()
    require_own(work, "a tuning")
    with locked(work / CELLS):
        try:
            with Database.open(store, read_only=True) as opened:
                with opened.snapshot():
                    inputs = _read(opened, config, progress)
                opened.release()
            report = _Tuning(store.name, inputs, work, config, progress).report()
            if (work / MODELS).exists():
                discard(work / MODELS)
            return report
        finally:
            with suppress(OSError):  # the checkpoint of an interrupted training stays
                (work / MODELS).rmdir()


def default_work(store: Path) -> Path:
    """Returns the default folder of finished trainings: beside the store."""
    return store.with_name(f"{store.name}.tune")


def _read(store: Database, config: TuneConfig, progress: Progress) -> _TuneInputs:
    run = find_run(store, config.run)
    _require_dev(store, run, config)
    if stale := staleness(store, run):
        progress.note(stale)
    note_reach(run, progress)
    measured = _measured(store, config, progress)
    facts = facts_of(store, run)
    for note in facts.notes():
        progress.note(note)
    training, own = config.training, config_of(run)
    rules = rules_to_try(store, run, facts, training.seed, progress)
    fixed = baselines(rules[0], own.selection, training)
    candidates = [arm for arm in pool(rules, own.selection, own.depth, training) if arm not in fixed]
    rows = ArmRows(store, run, [*fixed, *candidates], training, config.training_seeds)
    fixed = [arm for arm in fixed if rows.count(arm)]
    if not fixed:
        raise UsageError(f"run {run.name} has no positives to train on", "mine with other rules")
    usable = _usable(candidates, fixed, rows, config, progress)
    return _TuneInputs(run.name, facts, known_positives(store), measured, rows, fixed, usable[: config.arms])


def _require_dev(store: Database, run: StoredRun, config: TuneConfig) -> None:
    """Raises UsageError if the dev split has no judgments, or is the one that the run was mined from."""
    if run.split == config.dev_split:
        raise UsageError(
            f"run {run.name} is of split '{run.split}', which also chooses",
            "name another split with --set dev_split=SPLIT, or a run of another split with --run",
        )
    if config.dev_split not in corpus.judged_splits(store):
        raise UsageError(
            f"nothing is judged in split '{config.dev_split}' of {store.path}: tune chooses by such a split",
            "make a store with one: miner ingest NEW.duckdb SOURCE --dev 0.1; or name a split with "
            "--set dev_split=SPLIT",
        )


def _measured(store: Database, config: TuneConfig, progress: Progress) -> Measured:
    split, seed = config.dev_split, config.training.seed
    kind = task_of_split(store, EvaluationConfig(split=split, queries=config.queries, seed=seed))
    documents = config.documents if kind == "retrieval" else None
    return Measured.of(store, split, config.queries, documents, seed, progress)


def _usable(
    candidates: Sequence[Arm], fixed: Sequence[Arm], rows: ArmRows, config: TuneConfig, progress: Progress
) -> list[Arm]:
    """Returns the arms with enough rows of their own, none of which another arm has too."""
    seed = config.training.seed
    seen = {rows.examples(arm, config.rows, seed).fingerprint for arm in fixed}
    usable, few, same = list[Arm](), 0, 0
    for arm in candidates:
        if len(usable) == config.arms:
            break
        if rows.count(arm) < max(1, _FEWEST * rows.positives):
            few += 1
            continue
        content = rows.examples(arm, config.rows, seed).fingerprint
        if content in seen:
            same += 1
            continue
        seen.add(content)
        usable.append(arm)
    if few:
        progress.note(f"{few} settings leave negatives for less than a tenth of the positives: left out")
    if same:
        progress.note(f"{same} settings select the same negatives as others: left out")
    return usable


class _Tuning:
    """The trainings of one call."""

    def __init__(
        self, store: str, inputs: _TuneInputs, work: Path, config: TuneConfig, progress: Progress
    ) -> None:
        self._store, self._inputs, self._work = store, inputs, work
        self._config, self._progress = config, progress
        self._done: dict[tuple[Arm, int, int], Figures] = {}
        self._timings: dict[tuple[Arm, int, int], Timing] = {}

    def report(self) -> TuneReport:
        """Trains everything that the plan has, and returns the result."""
        fixed, rungs = self._inputs.fixed, list[RungResult]()
        scope = self._scope
        plan = self._first_plan(scope)
        arms = started = self._inputs.pool[: plan.arms]
        while len(rungs) < len(plan.rungs):
            scores = self._rung(arms, plan, len(rungs))
            plan = self._shortened(plan, scope, len(rungs), len(arms))
            after = plan.rungs[len(rungs) + 1 :]
            kept = better_half(scores, after[0].arms if after else plan.finalists)
            named = {arm.name: score for arm, score in zip(arms, scores, strict=True)}
            arms = [arms[number] for number in kept]
            rungs.append(RungResult(plan.rungs[len(rungs)].rows, named, tuple(arm.name for arm in arms)))
        finals = self._final([*fixed, *arms], plan)
        return TuneReport(
            store=self._store,
            run=self._inputs.run,
            config=self._config,
            facts=self._inputs.facts,
            measure=self._measure,
            queries=len(self._inputs.measured.task.ids),
            documents=next(iter(self._done.values()))["documents"],
            plan=plan,
            arms={arm.name: arm for arm in [*fixed, *started]},
            rungs=tuple(rungs),
            finals=finals,
            comparisons=compared([(finals[0], other) for other in finals[1:]], list(finals[0].values)),
            seconds=self._spent,
        )

    @property
    def _scope(self) -> Scope:
        config, inputs = self._config, self._inputs
        rows = min(config.rows, max(inputs.rows.count(arm) for arm in [*inputs.fixed, *inputs.pool]))
        least = min(rows, _BATCHES * config.training.batch_size)
        finalists = min(config.finalists, len(inputs.pool))
        return Scope(len(inputs.pool), rows, finalists, len(inputs.fixed), config.seeds, least)

    @property
    def _measure(self) -> str:
        return self._inputs.measured.task.headline

    @property
    def _spent(self) -> float:
        return sum(one.training + one.measuring for one in self._timings.values())

    @property
    def _texts_per_row(self) -> float:
        return float(np.mean([2 + arm.per_row for arm in [*self._inputs.fixed, *self._inputs.pool]]))

    def _first_plan(self, scope: Scope) -> HalvingPlan:
        """The plan; with a budget, after two trainings of the first baseline that time the machine."""
        plan, budget = scope.whole, self._config.seconds
        if budget is not None:
            rows = plan.rungs[0].rows if plan.rungs else scope.least
            for probe in (rows, min(_PROBE * rows, scope.rows)):
                self._train(self._inputs.fixed[0], probe, self._config.training.seed)
            plan = scope.within(budget - self._spent, self._cost, self._texts_per_row)
        self._progress.note(described(plan, scope))
        if budget is not None:
            self._note_time(plan.seconds(self._cost, self._texts_per_row) + self._spent, budget)
        return plan

    @property
    def _cost(self) -> Cost:
        return Cost.of(list(self._timings.values()))

    def _note_time(self, seconds: float, budget: float) -> None:
        over = "" if seconds <= budget else ": no smaller plan is left"
        self._progress.note(f"about {duration(seconds)} in all, of a budget of {duration(budget)}{over}")

    def _shortened(self, plan: HalvingPlan, scope: Scope, rung: int, arms: int) -> HalvingPlan:
        """The plan after a rung: the same, or a smaller one if the rest would exceed the budget."""
        rest = plan.seconds_from(rung + 1, self._cost, self._texts_per_row)
        budget = self._config.seconds
        done, after = plan.rungs[: rung + 1], plan.rungs[rung + 1 :]
        if budget is None or rest <= budget - self._spent:
            left = f", about {duration(rest)} left"
            self._progress.note(f"rung {rung + 1} of {len(plan.rungs)} is done{left}")
            return plan
        go_on = after[0].arms if after else plan.finalists
        smaller = replace(scope, arms=go_on, rows=plan.rows, least=min(plan.rows, done[-1].rows))
        new = smaller.within(budget - self._spent, self._cost, self._texts_per_row)
        self._progress.note(f"trainings take longer than the first ones: now {described(new, smaller)}")
        self._note_time(new.seconds(self._cost, self._texts_per_row) + self._spent, budget)
        return replace(new, rungs=(*done, *new.rungs))

    def _rung(self, arms: Sequence[Arm], plan: HalvingPlan, number: int) -> list[float]:
        """Trains every arm once; returns the headline measure of each."""
        rung, seed, scores = plan.rungs[number], self._config.training.seed, []
        name = f"rung {number + 1} of {len(plan.rungs)}, {rung.rows:,} triplets"
        with self._progress.task(name, len(arms), unit="trainings") as advance:
            for arm in arms:
                figures = self._train(arm, rung.rows, seed)
                scores.append(float(figures["means"][self._measure]))
                advance(1)
        return scores

    def _final(self, arms: Sequence[Arm], plan: HalvingPlan) -> tuple[Trained, ...]:
        """Trains every finalist with every seed; the highest mean comes first."""
        seeds = self._config.training_seeds
        with self._progress.task("final", len(arms) * len(seeds), unit="trainings") as advance:
            for seed in seeds:
                for arm in arms:
                    self._train(arm, plan.rows, seed)
                    advance(1)
        trained = [self._trained(arm, plan.rows) for arm in arms]
        return tuple(sorted(trained, key=lambda one: -one.mean(self._measure)))

    def _trained(self, arm: Arm, rows: int) -> Trained:
        seeds = self._config.training_seeds
        cells = [self._done[arm, rows, seed] for seed in seeds]
        examples = self._inputs.rows.examples(arm, rows, seeds[0])
        left_out = rows_left_out(examples, self._config.training)
        return trained_of(arm.name, len(examples), cells, left_out)

    def _train(self, arm: Arm, rows: int, seed: int) -> Figures:
        """Trains and measures an arm once, unless its figures are stored."""
        if (arm, rows, seed) in self._done:
            return self._done[arm, rows, seed]
        inputs = self._inputs
        training = replace(self._config.training, seed=seed, evaluations=0, patience=None)
        examples = inputs.rows.examples(arm, rows, seed)
        name = f"{arm.name}: {len(examples):,} triplets, seed {seed}"
        figures = trial(name, examples, training, inputs.known, inputs.measured, self._work, self._progress)
        for warning in figures["warnings"]:
            self._progress.note(f"warning: {warning}")
        read = len(examples) * training.epochs
        if training.max_steps is not None:
            read = min(read, training.max_steps * training.batch_size)
        timing = Timing(round(read * (2 + arm.per_row)), figures["seconds"], figures["measure_seconds"])
        self._timings[arm, rows, seed] = timing
        self._done[arm, rows, seed] = figures
        return figures


def described(plan: HalvingPlan, scope: Scope) -> str:
    """Returns a plan as people read it."""
    rungs = ", ".join(f"{rung.arms} of {rung.rows:,} triplets" for rung in plan.rungs)
    fewer = f" (of {scope.arms})" if plan.arms < scope.arms else ""
    shorter = f" (of {scope.rows:,})" if plan.rows < scope.rows else ""
    begin = f"{plan.arms}{fewer} settings: rungs of {rungs}; then" if rungs else ""
    final = f"{plan.finalists + plan.always} arms in the final, {plan.rows:,} triplets{shorter}"
    return f"{begin} {final}, {plan.seeds} seeds each: {plan.trainings} trainings".strip()


def duration(seconds: float) -> str:
    """Returns a time as people say it, such as `12 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
