"""`miner bench`: compares trainings that differ only in their negatives, to see whether hard ones pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from miner.engine.files import discard, locked
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.evaluation.evaluate import warnings
from miner.evaluation.result import Evaluation, Floats
from miner.models.cached_encoder import CachedEncoder
from miner.models.encoder import Encoder
from miner.reporting.readable import Readable
from miner.stats import Difference, compare_values, holm
from miner.store.database import Database
from miner.store.triplets import TextsById
from miner.training.batches import KnownPositives
from miner.training.encoder_config import SCRATCH
from miner.training.encoder_trainer import load_base, rows_left_out
from miner.training.examples import Examples
from miner.workflows.arms import Arms, arms_of, rows_of_arm
from miner.workflows.bench_config import EASY, IN_BATCH, MOST, SHARES, BenchConfig
from miner.workflows.train import known_positives
from miner.workflows.trial import CELLS, MODELS, Measured, prompts_of, require_own, trial

_ALPHA = 0.05


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


@dataclass(frozen=True)
class Comparison:
    """Two arms on one measure."""

    first: Trained
    second: Trained
    difference: Difference
    """The difference over queries; a query's value is its mean over the seeds."""
    holm: float
    """The p value, corrected for all comparisons of the bench (Holm 1979)."""

    @property
    def per_seed(self) -> tuple[float, ...]:
        """The difference of the means for each seed: it shows how much depends on the seed."""
        name = self.difference.measure
        return tuple(a - b for a, b in zip(self.first.means[name], self.second.means[name], strict=True))

    @property
    def ahead(self) -> Trained | None:
        """The arm that is ahead with every seed and significantly over queries; None if there is none."""
        if self.holm >= _ALPHA:
            return None
        if all(gap > 0 for gap in self.per_seed):
            return self.first
        return self.second if all(gap < 0 for gap in self.per_seed) else None

    @property
    def verdict(self) -> str:
        """The arm that is ahead, or that no difference is shown."""
        return "no difference shown" if self.ahead is None else f"{self.ahead.arm} is ahead"


@dataclass(frozen=True, repr=False)
class BenchReport(Readable):
    """The result of a bench."""

    store: str
    run: str
    config: BenchConfig
    pairs: int
    left_out: int
    before: tuple[Evaluation, ...]
    """The base before training: one, or for a random table one per seed."""
    trained: tuple[Trained, ...]
    comparisons: tuple[Comparison, ...]
    """For the headline measure: all pairs of arms with one size, and all pairs of arms with their own
    sizes."""

    def as_text(self) -> str:
        """Returns the figures and the verdicts, as `miner bench` prints them."""
        from miner.workflows.bench_report import table  # it imports this module

        return table(self)

    @property
    def measure(self) -> str:
        """The measure of the comparisons."""
        return self.before[0].headline

    @property
    def means_before(self) -> dict[str, tuple[float, ...]]:
        """Per measure, the mean over queries of each base."""
        return {name: tuple(one.means[name] for one in self.before) for name in self.before[0].means}


@dataclass(frozen=True)
class _Inputs:
    """Everything that the bench reads from the store."""

    run: str
    arms: Arms
    sizes: tuple[tuple[str, int], ...]
    examples: Mapping[tuple[str, int, int], Examples]
    """By arm, rows and seed; arms without random negatives have the same rows for every seed."""
    known: KnownPositives
    measured: Measured


def bench(
    store: Path, out: Path, config: BenchConfig | None = None, progress: Progress = SILENT
) -> BenchReport:
    """Trains every arm with every seed, measures each, and compares them.

    Finished trainings are stored in `out/cells` and not repeated. Raises UsageError if the run lacks the
    evidence for an arm or the split has graded pairs, MinerError if another process works in `out`.
    """
    config = config or BenchConfig()
    require_own(out, "a bench")
    with locked(out / CELLS):
        try:
            with Database.open(store, read_only=True) as opened:
                with opened.snapshot():
                    inputs = _read(opened, config, progress)
                opened.release()
                before = _before(opened, inputs.measured, out, config, progress)
            results = _cells(inputs, out, config, progress)
            if (out / MODELS).exists():
                discard(out / MODELS)
        finally:
            with suppress(OSError):  # the checkpoint of an interrupted training stays
                (out / MODELS).rmdir()
    first = config.training_seeds[0]
    trained = tuple(
        _trained(cell, cells, rows_left_out(inputs.examples[*cell, first], config.training))
        for cell, cells in results.items()
    )
    return BenchReport(
        store=store.name,
        run=inputs.run,
        config=config,
        pairs=len(inputs.arms.pairs),
        left_out=inputs.arms.left_out,
        before=before,
        trained=trained,
        comparisons=_comparisons(trained, config, before[0].headline),
    )


def _read(store: Database, config: BenchConfig, progress: Progress) -> _Inputs:
    """Reads everything but the figures of the base."""
    measured = Measured.of(
        store, config.split, config.queries, config.documents, config.training.seed, progress
    )
    arms = arms_of(store, config)
    progress.note(
        f"arms {', '.join(arms.names)}: {len(arms.pairs):,} positives have enough negatives in all of them, "
        f"{arms.left_out:,} do not and are left out"
    )
    sizes = _sizes(arms, config, progress)
    order = np.random.default_rng(config.training.seed).permutation(len(arms.pairs)).tolist()
    texts = TextsById(store)
    examples = {}
    for arm, rows in sizes:
        first = rows_of_arm(texts, arms, arm, config.training.seed, config, order, rows)
        for seed in config.training_seeds:
            drawn = arm == EASY and seed != config.training.seed
            own = rows_of_arm(texts, arms, arm, seed, config, order, rows) if drawn else first
            examples[arm, rows, seed] = own
    return _Inputs(
        run=arms.run.name,
        arms=arms,
        sizes=sizes,
        examples=examples,
        known=known_positives(store),
        measured=measured,
    )


def _sizes(arms: Arms, config: BenchConfig, progress: Progress) -> tuple[tuple[str, int], ...]:
    """The arms with their sizes, the smallest size first."""
    most = len(arms.pairs)
    of_all = [size.rows for size in config.sizes if size.arm is None]
    if not config.sizes:
        of_all = [max(1, round(share * min(most, MOST))) for share in SHARES]
    if max(of_all, default=0) > most:
        progress.note(f"there are {most:,} pairs: larger sizes are cut to that")
    cells = {(arm, min(rows, most)) for rows in of_all for arm in arms.names}
    for size in config.sizes:
        if size.arm is None:
            continue
        if size.arm not in arms.names:
            raise UsageError(
                f"a size for '{size.arm}', which is not an arm", f"arms: {', '.join(arms.names)}"
            )
        if size.arm == IN_BATCH and size.rows > most:
            raise UsageError(
                f"{IN_BATCH} has at most one row for each of the {most:,} pairs, got {size.rows:,}",
                "name a smaller size",
            )
        cells.add((size.arm, size.rows))
    return tuple(sorted(cells, key=lambda cell: (cell[1], arms.names.index(cell[0]))))


def _before(
    store: Database, measured: Measured, out: Path, config: BenchConfig, progress: Progress
) -> tuple[Evaluation, ...]:
    """The figures of the base; for a random table, one per seed."""
    training, task = config.training, measured.task
    if training.base == SCRATCH:
        found = [_drawn(measured, seed, out, config, progress) for seed in config.training_seeds]
    elif prompts_of(training):
        found = [measured.figures(training.base, training, progress)]
    else:
        encoder = CachedEncoder(
            store.vectors, Encoder(training.base, dtype=training.dtype), progress=progress
        )
        found = [task.measure(encoder, encoder.similarity)]
    for warning in warnings_before(found):
        progress.note(f"warning: {warning}")
    return tuple(found)


def warnings_before(measured: Sequence[Evaluation]) -> list[str]:
    """Returns the reasons why the figures of the base may mislead, each once."""
    return list(dict.fromkeys(warning for one in measured for warning in warnings("the base", one)))


def _drawn(measured: Measured, seed: int, out: Path, config: BenchConfig, progress: Progress) -> Evaluation:
    """The figures of the random table of a seed, which is saved to be measured like any model."""
    folder = out / MODELS / "scratch"
    try:
        load_base(replace(config.training, seed=seed)).save_pretrained(str(folder), create_model_card=False)
        return measured.figures(folder, config.training, progress)
    finally:
        discard(folder)


def _cells(
    inputs: _Inputs, out: Path, config: BenchConfig, progress: Progress
) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Trains and measures every arm at every size; returns the figures of each seed."""
    seeds = config.training_seeds
    results: dict[tuple[str, int], list[dict[str, Any]]] = {cell: [] for cell in inputs.sizes}
    with progress.task("trainings", len(inputs.sizes) * len(seeds), unit="trainings") as advance:
        # The outer loop is over seeds: a bench that is stopped early has all arms equally often.
        for seed in seeds:
            for cell in inputs.sizes:
                figures = _cell(inputs, cell, seed, out, config, progress)
                for warning in figures.get("warnings", ()):
                    progress.note(f"warning: {warning}")
                results[cell].append(figures)
                advance(1)
    return results


def _cell(
    inputs: _Inputs, cell: tuple[str, int], seed: int, out: Path, config: BenchConfig, progress: Progress
) -> dict[str, Any]:
    """Trains and measures one arm with one seed, unless its figures are stored."""
    training = replace(config.training, seed=seed, evaluations=0, patience=None)
    arm, rows = cell
    name = f"{arm}, {rows:,} triplets, seed {seed}"
    return trial(name, inputs.examples[*cell, seed], training, inputs.known, inputs.measured, out, progress)


def _trained(cell: tuple[str, int], results: Sequence[Mapping[str, Any]], left_out: int) -> Trained:
    measures = list(results[0]["values"])
    return Trained(
        arm=cell[0],
        rows=cell[1],
        steps=results[0]["steps"],
        left_out=left_out,
        means={name: tuple(result["means"][name] for result in results) for name in measures},
        values={name: np.mean([result["values"][name] for result in results], axis=0) for name in measures},
        warnings=tuple(warning for result in results for warning in result.get("warnings", ())),
    )


def _comparisons(trained: Sequence[Trained], config: BenchConfig, measure: str) -> tuple[Comparison, ...]:
    """Compares all arms of one size, and all arms with sizes of their own."""
    own = {(size.arm, size.rows) for size in config.sizes if size.arm is not None}
    pairs = [
        (second, first)
        for first, second in combinations(trained, 2)
        if first.arm != second.arm
        and (first.rows == second.rows or {(first.arm, first.rows), (second.arm, second.rows)} <= own)
    ]
    differences = [compare_values(measure, a.values[measure], b.values[measure]) for a, b in pairs]
    corrected = holm([difference.p for difference in differences])
    return tuple(
        Comparison(a, b, difference, p)
        for (a, b), difference, p in zip(pairs, differences, corrected, strict=True)
    )


def default_out(store: Path) -> Path:
    """Returns the default folder of a bench: beside the store."""
    return store.with_name(f"{store.name}.bench")


def settings(report: BenchReport) -> dict[str, Any]:
    """Returns the configuration with the run and its pairs, as JSON-able values."""
    return {**asdict(report.config), "run": report.run, "pairs": report.pairs, "left_out": report.left_out}
