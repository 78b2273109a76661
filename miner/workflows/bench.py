"""`miner bench`: compares trainings that differ only in their negatives, to see whether hard ones pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np

from miner.engine.files import discard, locked
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.store.database import Database
from miner.store.triplets import TextsById
from miner.training.batches import KnownPositives
from miner.training.encoder_config import SCRATCH
from miner.training.encoder_trainer import rows_left_out
from miner.training.examples import Examples
from miner.workflows.arms import Arms, arms_of, rows_of_arm
from miner.workflows.bench_config import EASY, IN_BATCH, MOST, SHARES, BenchConfig
from miner.workflows.bench_measure import Measuring, OffTheShelf, TrainingTexts, off_the_shelf
from miner.workflows.bench_result import BenchReport, Trained, compared, trained_of
from miner.workflows.train import known_positives
from miner.workflows.trial import CELLS, MODELS, Measured, require_own, trial


@dataclass(frozen=True)
class _Inputs:
    """Everything that the bench reads from the store."""

    arms: Arms
    sizes: tuple[tuple[str, int], ...]
    examples: Mapping[tuple[str, int, int], Examples]
    """By arm, rows and seed; arms without random negatives have the same rows for every seed."""
    known: KnownPositives
    measured: Measured
    texts: TrainingTexts
    off_the_shelf: OffTheShelf | None


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
                measuring = Measuring(inputs.measured, opened.vectors, out, config, progress)
                base = measuring.base()
                shelf = inputs.off_the_shelf
                other = None if shelf is None else measuring.off_the_shelf(shelf)
            contaminated = measuring.contaminated(inputs.texts)
            results = _cells(inputs, out, config, progress)
            if (out / MODELS).exists():
                discard(out / MODELS)
        finally:
            with suppress(OSError):  # the checkpoint of an interrupted training stays
                (out / MODELS).rmdir()
    first = config.training_seeds[0]
    trained = tuple(
        trained_of(*cell, cells, rows_left_out(inputs.examples[*cell, first], config.training))
        for cell, cells in results.items()
    )
    measures = list(base.values)
    # A random table knows nothing: every training is ahead of it.
    references = [one for one in (base, other) if one is not None and one.model != SCRATCH]
    against = [compared([(one, reference) for one in trained], measures) for reference in references]
    return BenchReport(
        store=store.name,
        run=inputs.arms.run.name,
        config=config,
        pairs=len(inputs.arms.pairs),
        left_out=inputs.arms.left_out,
        base=base,
        off_the_shelf=other,
        contaminated=contaminated,
        trained=trained,
        comparisons=compared(_pairs(trained, config), measures),
        against=tuple(chain.from_iterable(against)),
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
        arms=arms,
        sizes=sizes,
        examples=examples,
        known=known_positives(store),
        measured=measured,
        texts=TrainingTexts.read(store, measured.task.ids, arms.run, arms.pairs),
        off_the_shelf=off_the_shelf(store, arms.run, config, progress),
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


def _pairs(trained: Sequence[Trained], config: BenchConfig) -> list[tuple[Trained, Trained]]:
    """Returns all pairs of arms of one size, and all pairs of arms with sizes of their own."""
    own = {(size.arm, size.rows) for size in config.sizes if size.arm is not None}
    return [
        (second, first)
        for first, second in combinations(trained, 2)
        if first.arm != second.arm
        and (first.rows == second.rows or {(first.arm, first.rows), (second.arm, second.rows)} <= own)
    ]


def default_out(store: Path) -> Path:
    """Returns the default folder of a bench: beside the store."""
    return store.with_name(f"{store.name}.bench")


def settings(report: BenchReport) -> dict[str, Any]:
    """Returns the configuration with the run and its pairs, as JSON-able values."""
    return {**asdict(report.config), "run": report.run, "pairs": report.pairs, "left_out": report.left_out}
