"""`miner train-reranker`: trains a cross-encoder, or an ensemble of folds, on a store's judgments.

In the workspace, `training-0` and so on hold the checkpoints of unfinished models, `trained` the finished
models, and `model` the same models with probabilities as scores.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.collection.collection import Collection
from miner.engine.files import discard, locked, put, write_whole
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.faults import read_json
from miner.models.device import resolve_device, resolve_dtype
from miner.models.kinds import require_one_score
from miner.models.names import ModelFolder, resolve
from miner.models.remote import scores_of
from miner.models.reranker import Reranker, fold_folder
from miner.models.weights import FOLDS_FILE
from miner.store.database import Database
from miner.store.models import is_trained_here
from miner.store.pending import TrainedModel
from miner.text import fingerprint
from miner.training.model_card import RERANKER, RerankerMetrics, RerankerReport, write_card
from miner.training.probability import (
    FittedProbabilities,
    Sample,
    fit_probabilities,
    pair_logits,
    write_scaled,
)
from miner.training.record import note_training
from miner.training.reranker_config import RerankerConfig
from miner.training.reranker_pairs import (
    Flags,
    LabelledPairs,
    held_out_queries,
    labelled_pairs,
    query_folds,
    read_judgments,
    sample_queries,
)
from miner.training.reranker_teacher import RerankerTeacher
from miner.training.workspace import TRAINED, Job, finished, publish, remove_hint, workspace

_CODE = 4
"""Raise it when the same data and settings give another model."""


@dataclass(frozen=True)
class _RerankerPlan:
    """What to train: the pairs, the held-out queries, and the queries of each model."""

    pairs: LabelledPairs
    held_out: Flags
    trained_on: tuple[Flags, ...]
    """Per model, the queries that it trains on."""
    unseen: tuple[Flags, ...]
    """Per model, the queries that it scores and never trains on."""
    base: ModelFolder
    config: RerankerConfig
    fingerprint: str

    def pairs_of(self, model: int) -> LabelledPairs:
        """Returns the pairs that a model trains on."""
        return self.pairs.of_queries(self.trained_on[model])

    def folder(self, out: Path, model: int) -> Path:
        """Returns the folder of a model below `out`."""
        return fold_folder(out, model) if self.config.folds else out


def train_reranker(
    store: Database, out: Path, config: RerankerConfig, progress: Progress = SILENT, *, force: bool = False
) -> RerankerReport:
    """Trains a reranker on the store's judgments and writes it, with its card, to the folder `out`.

    The store may be open for reading; `note_training` records in it what the model was trained on. After a
    kill, the same call goes on from the last checkpoint; a finished training is not repeated; `force`
    replaces a reranker of other data or settings. Raises UsageError if the split has no positives or `out`
    is taken or the loss cannot use the labels, ModelError if the base or the teacher does not load,
    MinerError if the training diverges.
    """
    base = resolve(config.base)
    require_one_score(base.name, base.path)
    with store.snapshot():
        store_id = store.id
        collection = sample_queries(Collection.load(store, config.split), config)
        judgments = read_judgments(store, config)
        teacher = RerankerTeacher.of(config, progress)
    identity = fingerprint(
        {
            "data": collection.hashes,
            "base": base.fingerprint,
            "teacher": teacher.reranker.fingerprint if teacher else None,
            "config": {**config.identity(), "base": None, "teacher": None},
            "dtype": resolve_dtype(config.dtype, resolve_device()),
            "code": _CODE,
        }
    )
    job = Job(RERANKER, identity, config.identity())
    with locked(out):
        stored = finished(out, job, force)
        metrics = None if stored is None else RerankerMetrics.parse(stored)
        if metrics is not None and _is_recorded(store, out, config):
            progress.note(f"{out} holds this reranker already")
            return RerankerReport(out, Reranker(str(out)).fingerprint, metrics, True)
        if teacher is None or metrics is not None:
            store.release()  # other processes may write to it; the record at the end opens it again
            pairs = labelled_pairs(judgments, collection, config, progress)
        else:
            with store.snapshot():
                pairs = teacher.stored(store, labelled_pairs(judgments, collection, config, progress))
            store.release()
        plan = _plan(pairs, base, config, identity)
        if metrics is None:
            with workspace(out, job, force, progress) as work:
                if teacher is not None:
                    chosen = ~plan.held_out[pairs.query]
                    plan = replace(plan, pairs=teacher.label(pairs, chosen, work, config, progress))
                metrics = _train(plan, work, out, progress)
    note_training(store.path, store_id, out, _trained_models(plan, out), progress)
    return RerankerReport(out, Reranker(str(out)).fingerprint, metrics, stored is not None)


def _plan(pairs: LabelledPairs, base: ModelFolder, config: RerankerConfig, identity: str) -> _RerankerPlan:
    held_out = held_out_queries(pairs.collection, config)
    trained_on, unseen = (~held_out,), (held_out,)
    if config.folds:
        folds = query_folds(pairs.collection, config.folds)
        trained_on = tuple(~held_out & (folds != fold) for fold in range(config.folds))
        unseen = tuple(folds == fold for fold in range(config.folds))
    plan = _RerankerPlan(pairs, held_out, trained_on, unseen, base, config, identity)
    for model in range(len(trained_on)):
        part = plan.pairs_of(model)
        if not part.positive.any() or part.positive.all():
            missing = "positives" if not part.positive.any() else "negatives"
            raise UsageError(
                f"no {missing} to train on: {part.query_count} queries, {len(part)} pairs"
                + (f" in fold {model}" if config.folds else ""),
                "use more queries, fewer --folds, or another rank window",
            )
    return plan


def _train(plan: _RerankerPlan, work: Path, out: Path, progress: Progress) -> RerankerMetrics:
    """Trains the missing models in `work`, measures them, writes the card, and moves the result to `out`."""
    figures = [_train_one(plan, number, work, progress) for number in range(len(plan.trained_on))]
    model, fitted = _finished_models(plan, work, progress)
    if plan.config.folds:
        (model / FOLDS_FILE).write_text(json.dumps({"folds": plan.config.folds}) + "\n", "utf-8")
    metrics = _measure(plan, figures, Reranker(str(model), dtype=plan.config.dtype), progress)
    metrics = replace(metrics, probabilities=fitted.values() if fitted else None)
    write_card(model, out.name, metrics)
    publish(model, out, work)
    return metrics


def _train_one(plan: _RerankerPlan, number: int, work: Path, progress: Progress) -> dict[str, Any]:
    """Trains one model in `work`, unless it is trained already; returns its steps, losses and seconds."""
    folder = plan.folder(work / TRAINED, number)
    file = work / f"trained-{number}.json"
    if not folder.exists():
        from miner.training.reranker_trainer import train_cross_encoder

        if plan.config.folds:
            progress.note(
                f"model {number + 1} of {len(plan.trained_on)}, without the queries of fold {number}"
            )
        started = time.perf_counter()
        own = work / f"training-{number}"
        training = train_cross_encoder(plan.pairs_of(number), plan.base, own, plan.config, progress)
        seconds = time.perf_counter() - started
        write_whole(file, json.dumps({**asdict(training), "seconds": seconds}))
        folder.parent.mkdir(exist_ok=True)
        put(own / TRAINED, folder)
        discard(own)
    return read_json(file, dict, remove_hint(work))


def _finished_models(
    plan: _RerankerPlan, work: Path, progress: Progress
) -> tuple[Path, FittedProbabilities | None]:
    """Writes the models to `work/model`; their scores become probabilities if that can be fitted."""
    trained, model = work / TRAINED, work / "model"
    fitted = None
    if plan.config.probabilities:
        fitted = _fitted(plan, trained, model, progress)
        progress.note(
            f"scores are not probabilities: {fitted.reason}" if fitted.reason else "scores are probabilities"
        )
    if fitted is None or fitted.reason:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(trained, model)
    return model, fitted


def _fitted(plan: _RerankerPlan, trained: Path, model: Path, progress: Progress) -> FittedProbabilities:
    """Fits a scaling on the pairs that each model never trained on, and writes the scaled models."""
    pairs = [plan.pairs.of_queries(unseen) for unseen in plan.unseen]
    keys = plan.pairs.collection.queries["text_key"].to_numpy()
    folders = [plan.folder(trained, number) for number in range(len(pairs))]
    logits = [pair_logits(f, p.texts(), plan.config, progress) for f, p in zip(folders, pairs, strict=True)]
    samples = [Sample(x, p.positive, keys[p.query]) for x, p in zip(logits, pairs, strict=True)]
    fitted = fit_probabilities(samples)
    shutil.rmtree(model, ignore_errors=True)
    for number, scaling in enumerate(fitted.scalings):
        target, texts = plan.folder(model, number), pairs[number].texts()
        if not write_scaled(folders[number], target, scaling, texts, plan.config):
            return FittedProbabilities(
                fitted.pairs, fitted.positives, "the last layer of this base cannot be scaled"
            )
    return fitted


def _measure(
    plan: _RerankerPlan, figures: list[dict[str, Any]], model: Reranker, progress: Progress
) -> RerankerMetrics:
    held_out = plan.pairs.of_queries(plan.held_out)
    trained_on = plan.pairs.of_queries(~plan.held_out)
    precision = chance = None
    if held_out.positive.any():
        scores = scores_of(model, *held_out.texts(), workers=plan.config.threads, progress=progress)
        precision = mean_average_precision(held_out.query, held_out.positive, scores)
        chance = chance_precision(held_out.query, held_out.positive)
    return RerankerMetrics(
        fingerprint=plan.fingerprint,
        base=plan.base.name,
        base_fingerprint=plan.base.fingerprint,
        config=plan.config.identity(),
        dtype=model.dtype,
        seconds=round(sum(one["seconds"] for one in figures), 1),
        steps=sum(one["steps"] for one in figures),
        data=plan.pairs.collection.hashes,
        queries=trained_on.query_count,
        positives=trained_on.count("positive"),
        mined=trained_on.count("mined"),
        random=trained_on.count("random"),
        losses=[one["losses"] for one in figures],
        held_out_queries=held_out.query_count,
        held_out_pairs=len(held_out),
        average_precision=precision,
        chance=chance,
    )


def mean_average_precision(
    query: npt.NDArray[Any], positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> float:
    """Returns the mean over queries of the average precision of ranking by score.

    AP is the mean over a query's positives of the precision at their rank (Manning et al. 2008, 8.4). Among
    equal scores, negatives come first, so that a constant score gains nothing. All queries are computed at
    once, because `chance_precision` does so 20 times; scikit-learn computes one query per call.
    """
    order = np.lexsort((positive, -scores, query))
    query, positive = query[order], positive[order]
    start = np.searchsorted(query, query)
    rank = np.arange(len(query)) - start + 1
    positives = np.cumsum(positive)
    before: npt.NDArray[np.int64] = positives[start] - positive[start]
    precision = (positives - before)[positive] / rank[positive]
    owners, sums = np.unique(query[positive], return_inverse=True)
    totals = np.bincount(sums, weights=precision) / np.bincount(sums)
    return float(totals.mean()) if len(owners) else float("nan")


def chance_precision(
    query: npt.NDArray[Any], positive: npt.NDArray[np.bool_], rounds: int = 20, seed: int = 13
) -> float:
    """Returns the mean average precision of random scores, over a few seeded rounds."""
    rng = np.random.default_rng(seed)
    return float(
        np.mean([mean_average_precision(query, positive, rng.random(len(query))) for _ in range(rounds)])
    )


def _trained_models(plan: _RerankerPlan, out: Path) -> list[TrainedModel]:
    """The reranker and each of its models, with the positives that they trained on.

    An ensemble itself has no positives: the model that scores a query never trained on it. There is one
    record per dtype, because each dtype has its own fingerprint.
    """
    records = []
    base = plan.base.fingerprint
    for number in range(len(plan.trained_on)):
        one = Reranker(str(plan.folder(out, number)))
        positives = plan.pairs_of(number).positive_ids()
        for dtype, model in one.fingerprints.items():
            details = _details(plan, one, dtype) | ({"fold": number} if plan.config.folds else {})
            records.append(TrainedModel(model, "reranker", one.name, details, base, positives))
    whole = Reranker(str(out))
    none = plan.pairs.positive_ids().slice(0, 0) if plan.config.folds else None
    for dtype, model in whole.fingerprints.items():
        records.append(TrainedModel(model, "reranker", whole.name, _details(plan, whole, dtype), base, none))
    return records


def _is_recorded(store: Database, out: Path, config: RerankerConfig) -> bool:
    """Whether the store knows what every model of a finished training was trained on."""
    folders = [*(fold_folder(out, number) for number in range(config.folds)), out]
    models = [model for folder in folders for model in Reranker(str(folder)).fingerprints.values()]
    return all(is_trained_here(store, model) for model in models)


def _details(plan: _RerankerPlan, model: Reranker, dtype: str) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "training": plan.fingerprint,
        "folds": plan.config.folds,
        "weights": model.weights,
        "base": plan.base.fingerprint,
    }
