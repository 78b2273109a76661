"""`miner bench`: do hard negatives pay? The same training with other negatives, several times, compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from miner.engine.files import contents, discard, locked, write_whole
from miner.engine.progress import SILENT, Progress, WithoutNotes
from miner.errors import UsageError
from miner.evaluation.evaluate import (
    EncoderTask,
    EvaluationConfig,
    encoder_task,
    task_of_split,
)
from miner.evaluation.result import Evaluation, Floats
from miner.evaluation.retrieval import sampled_task
from miner.faults import read_json
from miner.models.cached_encoder import CachedEncoder
from miner.models.encoder import Encoder, Vectors
from miner.models.names import resolve
from miner.reporting.readable import Readable
from miner.stats import Difference, compare_values, holm
from miner.store import corpus
from miner.store.database import Store
from miner.store.triplets import TextsById
from miner.text import fingerprint
from miner.training.batches import KnownPositives
from miner.training.encoder import base_fingerprint, train_encoder
from miner.training.encoder_config import SCRATCH
from miner.training.encoder_trainer import load_base, rows_left_out
from miner.training.examples import Examples
from miner.workflows.arms import Arms, arms_of, rows_of_arm
from miner.workflows.bench_config import EASY, IN_BATCH, MOST, SHARES, BenchConfig
from miner.workflows.train import known_positives

_CODE = 2
"""Raised when the same rows and settings would give other figures."""
_ALPHA = 0.05
CELLS = "cells"
"""The folder in OUT of the finished trainings' figures. Its lock is the lock of OUT."""
_MODELS = ".models"
"""The folder in OUT of the model that is being trained or measured."""


@dataclass(frozen=True)
class Trained:
    """One arm at one size: what its trainings reached."""

    arm: str
    rows: int
    steps: int
    left_out: int
    """Rows of the first epoch that find no place in a batch without duplicates, with the first seed."""
    means: Mapping[str, tuple[float, ...]]
    """Per measure, the mean over queries for each seed."""
    values: Mapping[str, Floats]
    """Per measure and query, the mean over seeds."""

    def mean(self, measure: str) -> float:
        """The mean over queries and seeds."""
        return float(np.mean(self.means[measure]))


@dataclass(frozen=True)
class Comparison:
    """Two arms on one measure."""

    first: Trained
    second: Trained
    difference: Difference
    """Over queries, each query's value being its mean over the seeds."""
    holm: float
    """The p value, corrected for all the comparisons made together (Holm 1979)."""

    @property
    def per_seed(self) -> tuple[float, ...]:
        """The difference of the means for each seed: how much of it is the luck of a training."""
        name = self.difference.measure
        return tuple(a - b for a, b in zip(self.first.means[name], self.second.means[name], strict=True))

    @property
    def ahead(self) -> Trained | None:
        """The arm that is ahead with every seed and by more than the choice of queries explains; or None."""
        if self.holm >= _ALPHA:
            return None
        if all(gap > 0 for gap in self.per_seed):
            return self.first
        return self.second if all(gap < 0 for gap in self.per_seed) else None

    @property
    def verdict(self) -> str:
        """What may be said: who is ahead, or that it is open."""
        return "no difference shown" if self.ahead is None else f"{self.ahead.arm} is ahead"


@dataclass(frozen=True, repr=False)
class BenchReport(Readable):
    """What a bench found."""

    store: str
    run: str
    config: BenchConfig
    pairs: int
    left_out: int
    before: tuple[Evaluation, ...]
    """The base model, untrained; a table drawn from nothing is another for each seed."""
    trained: tuple[Trained, ...]
    comparisons: tuple[Comparison, ...]
    """Of the headline measure: every pair of arms of one size, and of those with sizes of their own."""

    def as_text(self) -> str:
        """Returns the figures and who is ahead, as `miner bench` shows them."""
        from miner.workflows.bench_report import table  # which needs this module

        return table(self)

    @property
    def measure(self) -> str:
        """The measure that verdicts are about."""
        return self.before[0].headline

    @property
    def means_before(self) -> dict[str, tuple[float, ...]]:
        """Per measure, the mean over queries of each base."""
        return {name: tuple(one.means[name] for one in self.before) for name in self.before[0].means}


@dataclass(frozen=True)
class _Plan:
    """Everything that was read from the store."""

    run: str
    arms: Arms
    sizes: tuple[tuple[str, int], ...]
    examples: Mapping[tuple[str, int, int], Examples]
    """By arm, rows and seed; arms that draw nothing share theirs."""
    known: KnownPositives
    task: EncoderTask
    content: str
    """Identifies what is measured on."""
    before: tuple[Evaluation, ...] = ()


def bench(
    store: Path, out: Path, config: BenchConfig | None = None, progress: Progress = SILENT
) -> BenchReport:
    """Trains every arm with every seed, measures each, and compares them.

    Finished trainings are kept in `out/cells` and not repeated. Raises UsageError when the run lacks
    what an arm needs or the split is one of graded pairs, MinerError when another process works in `out`.
    """
    config = config or BenchConfig()
    _require_own(out)
    with locked(out / CELLS):
        try:
            with Store.open(store, read_only=True) as opened:
                plan = _plan(opened, out, config, progress)
            found = _cells(plan, out, config, progress)
            discard(out / _MODELS)
        finally:
            with suppress(OSError):  # what an interrupted training goes on from stays
                (out / _MODELS).rmdir()
    first = config.training_seeds[0]
    lost = {cell: rows_left_out(plan.examples[*cell, first], config.training) for cell in found}
    trained = tuple(_trained(cell, results, lost[cell]) for cell, results in found.items())
    return BenchReport(
        store=store.name,
        run=plan.run,
        config=config,
        pairs=len(plan.arms.pairs),
        left_out=plan.arms.left_out,
        before=plan.before,
        trained=trained,
        comparisons=_comparisons(trained, config, plan.before[0].headline),
    )


def _require_own(out: Path) -> None:
    """Raises UsageError when `out` holds anything that no bench made."""
    names = {path.name for path in contents(out)}
    if (out.exists() and not out.is_dir()) or (names - {_MODELS} and CELLS not in names):
        raise UsageError(f"{out} exists and is not of a bench", "name a folder that does not exist yet")


def _plan(store: Store, out: Path, config: BenchConfig, progress: Progress) -> _Plan:
    with store.snapshot():
        read = _read(store, config, progress)
    store.release()
    return replace(read, before=_before(store, read.task, out, config, progress))


def _read(store: Store, config: BenchConfig, progress: Progress) -> _Plan:
    """Everything but what the base reaches."""
    task = _task(store, config, progress)
    arms = arms_of(store, config)
    progress.note(
        f"arms {', '.join(arms.names)}: {len(arms.pairs):,} positives have negatives in all of them, "
        f"{arms.left_out:,} have not and are left out"
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
    content = fingerprint(
        {
            **corpus.content_hashes(store, config.split),
            "measured": [config.split, config.queries, config.documents, config.training.seed],
        }
    )
    return _Plan(
        run=arms.run.name,
        arms=arms,
        sizes=sizes,
        examples=examples,
        known=known_positives(store),
        task=task,
        content=content,
    )


def _task(store: Store, config: BenchConfig, progress: Progress) -> EncoderTask:
    settings = EvaluationConfig(split=config.split, queries=config.queries, seed=config.training.seed)
    task = task_of_split(store, settings)
    if task == "similarity":
        raise UsageError(
            f"split '{config.split}' holds graded pairs: the arms are compared query by query",
            "name a split for retrieval or with labels",
        )
    if config.documents is None:
        return encoder_task(store, settings)
    if task != "retrieval":
        raise UsageError(f"--documents is for retrieval, split '{config.split}' has {task}", "leave it out")
    sample = sampled_task(store, config.split, config.queries, config.documents, config.training.seed)
    if len(sample.documents) > config.documents:
        progress.note(f"{len(sample.documents):,} documents are relevant: all of them are ranked")
    return sample


def _sizes(arms: Arms, config: BenchConfig, progress: Progress) -> tuple[tuple[str, int], ...]:
    """Every arm with its sizes, the smallest first."""
    most = len(arms.pairs)
    of_all = [size.rows for size in config.sizes if size.arm is None]
    if not config.sizes:
        of_all = [max(1, round(share * min(most, MOST))) for share in SHARES]
    if max(of_all, default=0) > most:
        progress.note(f"there are {most:,} pairs: larger sizes are cut to that")
    found = {(arm, min(rows, most)) for rows in of_all for arm in arms.names}
    for size in config.sizes:
        if size.arm is None:
            continue
        if size.arm not in arms.names:
            raise UsageError(f"a size for '{size.arm}', which is no arm", f"arms: {', '.join(arms.names)}")
        if size.arm == IN_BATCH and size.rows > most:
            raise UsageError(
                f"{IN_BATCH} cannot have {size.rows:,} rows: there are {most:,} pairs", "ask for fewer"
            )
        found.add((size.arm, size.rows))
    place = arms.names
    return tuple(sorted(found, key=lambda cell: (cell[1], place.index(cell[0]))))


def _before(
    store: Store, task: EncoderTask, out: Path, config: BenchConfig, progress: Progress
) -> tuple[Evaluation, ...]:
    """What the base reaches; of a table drawn from nothing, what that of each seed does."""
    base = config.training.base
    if base == SCRATCH:
        return tuple(_drawn(task, seed, out, config, progress) for seed in config.training_seeds)
    if _prompts(config):
        return (_measured(task, base, config, progress),)
    encoder = CachedEncoder(store.vectors, Encoder(base, dtype=config.training.dtype), progress=progress)
    return (task.measure(encoder, encoder.similarity),)


def _drawn(task: EncoderTask, seed: int, out: Path, config: BenchConfig, progress: Progress) -> Evaluation:
    """What the table of a seed reaches, which is saved to be measured like any model."""
    folder = out / _MODELS / "scratch"
    try:
        load_base(replace(config.training, seed=seed)).save_pretrained(str(folder), create_model_card=False)
        return _measured(task, folder, config, progress)
    finally:
        discard(folder)


def _measured(task: EncoderTask, model: Path | str, config: BenchConfig, progress: Progress) -> Evaluation:
    """What a model reaches with the prompts of the configuration; its vectors are not cached."""
    encoder = Encoder(str(model), dtype=config.training.dtype)
    prompts = encoder.prompts | _prompts(config)

    def encode(texts: Sequence[str], role: str) -> Vectors:
        """Returns the vectors of texts in that role."""
        return encoder.for_role(role).encode(texts, prompts[role], progress=progress)

    return task.measure(encode, encoder.similarity)


def _prompts(config: BenchConfig) -> dict[str, str]:
    given = {"query": config.training.query_prompt, "document": config.training.document_prompt}
    return {role: text for role, text in given.items() if text is not None}


def _cells(
    plan: _Plan, out: Path, config: BenchConfig, progress: Progress
) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Trains and measures every arm at every size; returns what each seed gave."""
    seeds = config.training_seeds
    found: dict[tuple[str, int], list[dict[str, Any]]] = {cell: [] for cell in plan.sizes}
    with progress.task("trainings", len(plan.sizes) * len(seeds), unit="trainings") as advance:
        # Seeds outside: whoever stops early has all arms equally often.
        for seed in seeds:
            for cell in plan.sizes:
                found[cell].append(_cell(plan, cell, seed, out, config, progress))
                advance(1)
    return found


def _cell(
    plan: _Plan, cell: tuple[str, int], seed: int, out: Path, config: BenchConfig, progress: Progress
) -> dict[str, Any]:
    """Trains and measures one arm with one seed, unless that was done before."""
    training = replace(config.training, seed=seed, evaluations=0, patience=None)
    examples = plan.examples[*cell, seed]
    identity = fingerprint(
        {
            "rows": examples.fingerprint,
            "training": {**training.identity(), "base": base_fingerprint(training)},
            "known": plan.known.fingerprint,
            "guide": resolve(training.guide).fingerprint if training.guide else None,
            "measured": plan.content,
            "code": _CODE,
        }
    )
    file = out / CELLS / f"{identity[:24]}.json"
    if file.exists():
        return read_json(file, dict, "remove it, then run the command again: it trains that model once more")
    arm, rows = cell
    progress.note(f"{arm}, {rows:,} triplets, seed {seed}")
    model = out / _MODELS / identity[:24]
    quiet = WithoutNotes(progress)
    report = train_encoder(examples, model, training, known=plan.known, progress=quiet)
    measured = _measured(plan.task, model, config, quiet)
    found = {
        "arm": arm,
        "rows": rows,
        "seed": seed,
        "steps": report.metrics.steps,
        "last_loss": report.metrics.losses[-1][1],
        "seconds": report.metrics.seconds,
        "means": dict(measured.means),
        "values": {name: column.tolist() for name, column in measured.values.items()},
    }
    progress.note(
        f"{arm}, {rows:,} triplets, seed {seed}: {measured.headline} {measured.means[measured.headline]:.4f}"
    )
    write_whole(file, json.dumps(found))
    discard(model)
    return found


def _trained(cell: tuple[str, int], results: Sequence[Mapping[str, Any]], left_out: int) -> Trained:
    measures = list(results[0]["values"])
    return Trained(
        arm=cell[0],
        rows=cell[1],
        steps=results[0]["steps"],
        left_out=left_out,
        means={name: tuple(result["means"][name] for result in results) for name in measures},
        values={name: np.mean([result["values"][name] for result in results], axis=0) for name in measures},
    )


def _comparisons(trained: Sequence[Trained], config: BenchConfig, measure: str) -> tuple[Comparison, ...]:
    """Compares all arms of one size, and all that were given sizes of their own."""
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
    """Returns the folder beside the store that a bench writes to if none is named."""
    return store.with_name(f"{store.name}.bench")


def settings(report: BenchReport) -> dict[str, Any]:
    """Returns the configuration as JSON has it, with what it came to."""
    return {**asdict(report.config), "run": report.run, "pairs": report.pairs, "left_out": report.left_out}
