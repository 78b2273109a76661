"""What trainings and benches wrote into their folders, as far as a report shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.errors import InputError, UsageError
from miner.faults import read_json
from miner.training.model_card import RERANKER
from miner.training.workspace import METRICS

RESULTS = "results.json"
"""The file of a bench with its figures and verdicts."""


@dataclass(frozen=True)
class TrainingRecord:
    """How a model was trained."""

    name: str
    """The name of its folder."""
    what: str
    """`an encoder`, `a pretrained encoder` or `a reranker`."""
    base: str
    steps: int
    seconds: float
    losses: tuple[tuple[tuple[float, float], ...], ...]
    """A curve per model: (step, or tenth of the training; mean loss since the one before)."""
    by_step: bool
    """Whether x is a step, rather than a tenth."""
    measure: str | None
    """The measure on the dev split; None if the model was not scored."""
    scores: tuple[tuple[float, float], ...]
    """(step, measure)."""
    best_step: int | None


def _training(folder: Path) -> TrainingRecord:
    metrics: dict[str, Any] = read_json(folder / METRICS, dict, "name another folder")
    try:
        is_reranker = metrics["what"] == RERANKER
        measure, scored = metrics.get("measure"), metrics.get("scores", ())
        curves = [enumerate(one, 1) for one in metrics["losses"]] if is_reranker else [metrics["losses"]]
        return TrainingRecord(
            name=folder.resolve().name,
            what=str(metrics["what"]),
            base=str(metrics["base"]),
            steps=int(metrics["steps"]),
            seconds=float(metrics["seconds"]),
            losses=tuple(tuple((float(x), float(loss)) for x, loss in one) for one in curves),
            by_step=not is_reranker,
            measure=measure,
            scores=tuple((float(step), float(means[measure])) for step, means in scored if measure),
            best_step=metrics.get("best_step"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / METRICS) from error


@dataclass(frozen=True)
class ArmScores:
    """The scores of one way to train, or of an untrained model."""

    name: str
    triplets: int | None
    """None for an untrained model."""
    means: tuple[float, ...]
    """The mean over queries for each seed."""

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return sum(self.means) / len(self.means)


@dataclass(frozen=True)
class Versus:
    """Two arms compared."""

    pair: str
    difference: float
    low: float
    high: float
    p: float
    verdict: str


@dataclass(frozen=True)
class BenchRecord:
    """The figures and verdicts of a bench."""

    name: str
    """The name of its folder."""
    store: str
    task: str
    measure: str
    queries: int
    contaminated: int
    """Measured queries that also occur in the training texts."""
    arms: tuple[ArmScores, ...]
    comparisons: tuple[Versus, ...]
    """The arms with each other, then with untrained models. `p` is corrected for several comparisons."""


def read_record(folder: Path) -> TrainingRecord | BenchRecord:
    """Returns the record of the trained model or of the bench in a folder.

    Raises UsageError for another folder, InputError if the record has another form.
    """
    if (folder / RESULTS).is_file():
        return _bench(folder)
    if (folder / METRICS).is_file():
        return _training(folder)
    raise UsageError(
        f"{folder} holds neither a trained model ({METRICS}) nor a finished bench ({RESULTS})",
        "name the folder that miner train or miner bench wrote",
    )


def _bench(folder: Path) -> BenchRecord:
    content: dict[str, Any] = read_json(folder / RESULTS, dict, "name another folder")
    try:
        measure = content["measure"]
        arms = [
            ArmScores(one["arm"], one.get("triplets"), tuple(map(float, one["means"][measure])))
            for one in (*content["untrained"], *content["arms"])
        ]
        compared = [
            Versus(
                _pair(one, arms), float(one["difference"]), float(one["low"]), float(one["high"]),
                float(one["holm"]), str(one["verdict"]),
            )
            for one in (*content["comparisons"], *content["against"])
        ]  # fmt: skip
        return BenchRecord(
            name=folder.resolve().name,
            store=str(content["store"]),
            task=str(content["task"]),
            measure=str(measure),
            queries=int(content["queries"]),
            contaminated=int(content["contaminated"]["queries"]),
            arms=tuple(one for one in arms if one.means),
            comparisons=tuple(compared),
        )
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise _damaged(folder / RESULTS) from error


def _pair(one: Mapping[str, Any], arms: Sequence[ArmScores]) -> str:
    """Returns the names of two arms, each with its triplets: `hard 300 − easy 300`.

    An older bench wrote only the means of the two: their arms are those with these means.
    """
    named = one.get("arms") or [
        next([of.name, of.triplets] for of in arms if abs(of.mean - one[which]) < 1e-9)
        for which in ("first", "second")
    ]
    texts = [[f"{part:,}" if isinstance(part, int) else str(part) for part in arm if part] for arm in named]
    return " − ".join(" ".join(parts) for parts in texts)


def _damaged(file: Path) -> InputError:
    return InputError(f"{file} has another form than this version of miner writes", "name another folder")
