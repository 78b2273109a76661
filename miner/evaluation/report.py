"""Evaluating several models on several stores: measures, differences, and stores that disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from miner.engine.progress import SILENT, Progress
from miner.evaluation.compare import compare
from miner.evaluation.evaluate import (
    AUTO,
    EvaluationConfig,
    Model,
    measure,
    open_models,
    task_of_split,
    warnings,
)
from miner.evaluation.result import Evaluation
from miner.models.loading import AnyReranker
from miner.ranges import split_name
from miner.reporting.tables import short_names, signed
from miner.stats import Difference
from miner.store.corpus import require_judgments
from miner.store.database import Database


@dataclass(frozen=True)
class StoreSplit:
    """A split of a store."""

    store: Path
    split: str

    def __str__(self) -> str:
        return f"{self.store.name} {self.split}"


@dataclass(frozen=True)
class ModelFacts:
    """Which model was measured."""

    name: str
    fingerprint: str
    dtype: str
    similarity: str | None
    """How an encoder compares vectors; None for a reranker."""


@dataclass(frozen=True)
class Section:
    """The measures of all models on one split of one store."""

    data: StoreSplit
    results: tuple[Evaluation, ...]
    """One per model, in the order of `EvaluationReport.models`."""
    differences: tuple[tuple[Difference, ...], ...]
    """For every model but the first: the first model's measures minus its."""


@dataclass(frozen=True)
class EvaluationReport:
    """The result of `miner evaluate`."""

    models: tuple[ModelFacts, ...]
    sections: tuple[Section, ...]
    """The user's own data first, then those of --beside."""

    def disagreements(self) -> list[str]:
        """Returns a line for each store of --beside on which the other of two models is ahead.

        Compares the differences in the first measure of each task; a difference of 0 disagrees with none.
        """
        lines = []
        own = self.sections[0]
        names = short_names([model.name for model in self.models])
        for other, name in enumerate(names[1:]):
            here = own.differences[other][0]
            for section in self.sections[1:]:
                there = section.differences[other][0]
                if here.difference * there.difference < 0:
                    ways = ("ahead of", "behind") if here.difference > 0 else ("behind", "ahead of")
                    lines.append(
                        f"disagree: {names[0]} is {ways[0]} {name} on {own.data} ({_figures(here)}), "
                        f"{ways[1]} it on {section.data} ({_figures(there)})"
                    )
        return lines


def _figures(difference: Difference) -> str:
    return f"{difference.measure} {signed(difference.difference)}, p {difference.p:.4f}"


def store_split(text: str, split: str) -> StoreSplit:
    """Returns what `STORE:SPLIT` names, or `STORE` with the default `split`."""
    store, colon, named = text.rpartition(":")
    if not colon or Path(text).exists():
        return StoreSplit(Path(text), split)
    return StoreSplit(Path(store), split_name(named) if named else split)


def evaluate_on(
    model: str,
    splits: Sequence[StoreSplit],
    config: EvaluationConfig,
    progress: Progress = SILENT,
) -> EvaluationReport:
    """Measures a model and those of `config.against` on every split, and compares them.

    `config.task` is for the first split; the task of the others is detected from their judgments.
    Raises ModelError, StoreError and UsageError.
    """
    models = open_models((model, *config.against), config.task, progress)
    tasks = [config.task, *[AUTO] * (len(splits) - 1)]
    settings = [replace(config, split=one.split, task=task) for one, task in zip(splits, tasks, strict=True)]
    for number, (data, own) in enumerate(zip(splits, settings, strict=True)):
        with Database.open(data.store, read_only=True) as store, store.snapshot():
            if number:
                require_judgments(store, own.split, f"--beside {data.store}:SPLIT")
            task_of_split(store, own)
    sections = [_section(data, models, own, progress) for data, own in zip(splits, settings, strict=True)]
    facts = tuple(
        ModelFacts(m.name, m.fingerprint, m.dtype, None if isinstance(m, AnyReranker) else m.similarity)
        for m in models
    )
    return EvaluationReport(facts, tuple(sections))


def _section(
    data: StoreSplit, models: Sequence[Model], config: EvaluationConfig, progress: Progress
) -> Section:
    with Database.open(data.store, read_only=True) as store:
        results = measure(store, models, config, progress)
    differences = [tuple(compare(results[0], other, config.seed)) for other in results[1:]]
    return Section(data, tuple(results), tuple(differences))


def as_json(report: EvaluationReport, per_query: bool = False) -> dict[str, Any]:
    """Returns the report as JSON-able values; with `per_query` also the values per query."""
    return {
        "models": [asdict(model) for model in report.models],
        "sections": [_section_json(section, report, per_query) for section in report.sections],
        "disagreements": report.disagreements(),
    }


def _section_json(section: Section, report: EvaluationReport, per_query: bool) -> dict[str, Any]:
    first, names = section.results[0], [model.name for model in report.models]
    content: dict[str, Any] = {
        "store": str(section.data.store),
        "split": section.data.split,
        "task": first.task,
        "queries": len(first.ids),
        "documents": first.documents,
        "left_out": dict(first.left_out),
        "chance": first.chance,
        "measures": [
            {"model": name, **result.means} for name, result in zip(names, section.results, strict=True)
        ],
        "unscored": [
            {"model": name, **result.unscored}
            for name, result in zip(names, section.results, strict=True)
            if result.unscored
        ],
        "warnings": [
            warning
            for name, result in zip(names, section.results, strict=True)
            for warning in warnings(name, result)
        ],
        "differences": [
            {"against": name, **asdict(difference)}
            for name, differences in zip(names[1:], section.differences, strict=True)
            for difference in differences
        ],
    }
    if per_query:
        content["ids"] = list(first.ids)
        content["per_query"] = [
            {"model": name, **_values(result)} for name, result in zip(names, section.results, strict=True)
        ]
    return content


def _values(result: Evaluation) -> dict[str, Any]:
    values: dict[str, Any] = {name: column.tolist() for name, column in result.values.items()}
    if result.graded is not None:
        predicted = [float(one) if isfinite(one) else None for one in result.graded.predicted]
        values |= {"gold": result.graded.gold.tolist(), "similarity": predicted}
    return values
