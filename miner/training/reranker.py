"""`miner train-reranker`: a cross-encoder, or an ensemble of folds, from a store's judgments.

In the workplace, `training-0` and so on hold the checkpoints of what is under way, `trained` what is
finished, and `model` the same with calibrated scores.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from miner.collection.collection import Collection
from miner.engine.files import discard, locked, put, write_whole
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.faults import read_json
from miner.models.device import resolve_device, resolve_dtype
from miner.models.kinds import require_one_score
from miner.models.names import ModelFolder, resolve
from miner.models.reranker import Reranker, fold_folder
from miner.models.weights import FOLDS_FILE
from miner.reporting.readable import Readable
from miner.store.database import Store
from miner.store.models import is_trained_here
from miner.store.pending import TrainedModel
from miner.text import fingerprint
from miner.training.probability import Calibration, Sample, calibrate
from miner.training.record import note_training
from miner.training.reranker_card import WHAT, Metrics, card, chance_precision, mean_average_precision
from miner.training.reranker_config import RerankerConfig
from miner.training.reranker_head import pair_logits, write_scaled
from miner.training.reranker_pairs import (
    Flags,
    LabelledPairs,
    held_out_queries,
    labelled_pairs,
    query_folds,
    read_judged,
    sample_queries,
)
from miner.training.workspace import METRICS, Job, finished, publish, workplace

_CODE = 4
"""Raised when the same data and settings would give another model."""


@dataclass(frozen=True, repr=False)
class TrainingReport(Readable):
    """A finished reranker."""

    out: Path
    model: str
    """Its fingerprint, as runs and scores name it."""
    metrics: Metrics
    reused: bool
    """Whether it was finished before, and nothing was computed."""


@dataclass(frozen=True)
class _Plan:
    """What to train: pairs, who is held out, and each model's share of the queries."""

    pairs: LabelledPairs
    held_out: Flags
    shares: tuple[Flags, ...]
    """Per model, the queries that it trains on."""
    unseen: tuple[Flags, ...]
    """Per model, the queries that it scores and never trains on."""
    base: ModelFolder
    config: RerankerConfig
    fingerprint: str

    def part(self, model: int) -> LabelledPairs:
        """Returns the pairs that a model trains on."""
        return self.pairs.of_queries(self.shares[model])

    def folder(self, out: Path, model: int) -> Path:
        """Returns where below `out` a model belongs."""
        return fold_folder(out, model) if self.config.folds else out


def train_reranker(
    store: Store, out: Path, config: RerankerConfig, progress: Progress = SILENT, *, force: bool = False
) -> TrainingReport:
    """Trains a reranker on the store's judgments and writes it, with its card, to the folder `out`.

    The store may be open to read; what the model was trained on is noted in it as `note_training` does.
    A killed training goes on where it was; a finished one is not repeated. `force` replaces a
    reranker that was trained otherwise. Raises UsageError when the split has no positives or `out`
    is taken, ModelError when the base does not load, MinerError when the training diverges.
    """
    base = resolve(config.base)
    require_one_score(base.name, base.path)
    with store.snapshot():
        store_id = store.id
        collection = sample_queries(Collection.load(store, config.split), config)
        judged = read_judged(store, config)
    identity = _identity(collection, base, config)
    job = Job(WHAT, identity, config.identity())
    with locked(out):
        found = finished(out, job, force)
        known = None if found is None else Metrics.parse((out / METRICS).read_text("utf-8"))
        if known is not None and _is_recorded(store, out, config):
            progress.note(f"{out} holds this reranker already")
            return TrainingReport(out, Reranker(str(out)).fingerprint, known, True)
        store.release()  # for others to write to; what is noted at the end opens it anew
        plan = _plan(labelled_pairs(judged, collection, config, progress), base, config, identity)
        metrics = known
        if metrics is None:
            with workplace(out, job, force, progress) as work:
                metrics = _train(plan, work, out, progress)
    note_training(store.path, store_id, out, _models(plan, out), progress)
    return TrainingReport(out, Reranker(str(out)).fingerprint, metrics, known is not None)


def _identity(collection: Collection, base: ModelFolder, config: RerankerConfig) -> str:
    return fingerprint(
        {
            "data": collection.hashes,
            "base": base.fingerprint,
            "config": {**config.identity(), "base": None},
            "dtype": resolve_dtype(config.dtype, resolve_device()),
            "code": _CODE,
        }
    )


def _plan(pairs: LabelledPairs, base: ModelFolder, config: RerankerConfig, identity: str) -> _Plan:
    held_out = held_out_queries(pairs.collection, config)
    shares, unseen = (~held_out,), (held_out,)
    if config.folds:
        folds = query_folds(pairs.collection, config.folds)
        shares = tuple(~held_out & (folds != fold) for fold in range(config.folds))
        unseen = tuple(folds == fold for fold in range(config.folds))
    plan = _Plan(pairs, held_out, shares, unseen, base, config, identity)
    for model in range(len(shares)):
        part = plan.part(model)
        if not part.positive.any() or part.positive.all():
            what = "positives" if not part.positive.any() else "negatives"
            raise UsageError(
                f"no {what} to train on: {part.query_count} queries, {len(part)} pairs"
                + (f" in fold {model}" if config.folds else ""),
                "use more queries, fewer --folds, or another rank window",
            )
    return plan


def _train(plan: _Plan, work: Path, out: Path, progress: Progress) -> Metrics:
    """Trains what is missing in `work`, measures, writes the card, and renames the whole to `out`."""
    trained = [_train_one(plan, number, work, progress) for number in range(len(plan.shares))]
    model, calibration = _calibrated(plan, work, progress)
    if plan.config.folds:
        (model / FOLDS_FILE).write_text(json.dumps({"folds": plan.config.folds}) + "\n", "utf-8")
    metrics = _measure(plan, trained, Reranker(str(model), dtype=plan.config.dtype), progress)
    metrics = replace(metrics, calibration=calibration.values() if calibration else None)
    (model / METRICS).write_text(metrics.json(), "utf-8")
    (model / "README.md").write_text(card(out.name, plan.config, metrics), "utf-8")
    publish(model, out, work)
    return metrics


def _train_one(plan: _Plan, number: int, work: Path, progress: Progress) -> dict[str, Any]:
    """Trains one model into `work`, unless that was done before; returns its steps, losses, seconds."""
    folder = plan.folder(work / "trained", number)
    told = work / f"trained-{number}.json"
    if not folder.exists():
        from miner.training.reranker_trainer import TRAINED, train_cross_encoder

        if plan.config.folds:
            progress.note(f"model {number + 1} of {len(plan.shares)}, without the queries of fold {number}")
        started = time.perf_counter()
        place = work / f"training-{number}"
        training = train_cross_encoder(plan.part(number), plan.base, place, plan.config, progress)
        seconds = time.perf_counter() - started
        write_whole(told, json.dumps({**asdict(training), "seconds": seconds}))
        folder.parent.mkdir(exist_ok=True)
        put(place / TRAINED, folder)
        discard(place)
    return read_json(told, dict, f"remove {work}, then run the command again: it starts anew")


def _calibrated(plan: _Plan, work: Path, progress: Progress) -> tuple[Path, Calibration | None]:
    """Writes the trained models to `work/model`, with their scores made probabilities where that can be."""
    trained, model = work / "trained", work / "model"
    calibration = None
    if plan.config.calibrate:
        calibration = _calibrate(plan, trained, model, progress)
        progress.note(f"not calibrated: {calibration.reason}" if calibration.reason else "scores calibrated")
    if calibration is None or calibration.reason:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(trained, model)
    return model, calibration


def _calibrate(plan: _Plan, trained: Path, model: Path, progress: Progress) -> Calibration:
    """Fits on the pairs that each model never trained on, and writes the scaled models."""
    pairs = [plan.pairs.of_queries(unseen) for unseen in plan.unseen]
    keys = plan.pairs.collection.queries["text_key"].to_numpy()
    folders = [plan.folder(trained, number) for number in range(len(pairs))]
    logits = [pair_logits(f, p.texts(), plan.config, progress) for f, p in zip(folders, pairs, strict=True)]
    samples = [Sample(x, p.positive, keys[p.query]) for x, p in zip(logits, pairs, strict=True)]
    found = calibrate(samples)
    shutil.rmtree(model, ignore_errors=True)
    for number, scaling in enumerate(found.scalings):
        target, texts = plan.folder(model, number), pairs[number].texts()
        if not write_scaled(folders[number], target, scaling, texts, plan.config):
            return Calibration(found.pairs, found.positives, "the last layer of this base cannot be scaled")
    return found


def _measure(plan: _Plan, trained: list[dict[str, Any]], model: Reranker, progress: Progress) -> Metrics:
    tested = plan.pairs.of_queries(plan.held_out)
    learnt = plan.pairs.of_queries(~plan.held_out)
    precision = chance = None
    if tested.positive.any():
        scores = model.score(*tested.texts(), workers=plan.config.threads, progress=progress)
        precision = mean_average_precision(tested.query, tested.positive, scores)
        chance = chance_precision(tested.query, tested.positive)
    return Metrics(
        fingerprint=plan.fingerprint,
        base=plan.base.name,
        base_fingerprint=plan.base.fingerprint,
        data=plan.pairs.collection.hashes,
        config=plan.config.identity(),
        dtype=model.dtype,
        queries=learnt.query_count,
        positives=learnt.count("positive"),
        mined=learnt.count("mined"),
        random=learnt.count("random"),
        steps=sum(one["steps"] for one in trained),
        losses=[one["losses"] for one in trained],
        held_out_queries=tested.query_count,
        held_out_pairs=len(tested),
        average_precision=precision,
        chance=chance,
        seconds=round(sum(one["seconds"] for one in trained), 1),
    )


def _models(plan: _Plan, out: Path) -> list[TrainedModel]:
    """The reranker, each of its models, and the positives that they used.

    Of an ensemble it is the models that used them, not the ensemble: it scores a query with a
    model that did not. Noted for every dtype, as each is a fingerprint of its own.
    """
    found = []
    base = plan.base.fingerprint
    for number in range(len(plan.shares)):
        one = Reranker(str(plan.folder(out, number)))
        positives = plan.part(number).positive_ids()
        for dtype, model in one.fingerprints.items():
            details = _details(plan, one, dtype, number)
            found.append(TrainedModel(model, "reranker", one.name, details, base, positives))
    whole = Reranker(str(out))
    none = plan.pairs.positive_ids().slice(0, 0) if plan.config.folds else None
    for dtype, model in whole.fingerprints.items():
        details = _details(plan, whole, dtype, None)
        found.append(TrainedModel(model, "reranker", whole.name, details, base, none))
    return found


def _is_recorded(store: Store, out: Path, config: RerankerConfig) -> bool:
    """Whether the store knows what every model of a finished training was trained on."""
    folders = [*(fold_folder(out, number) for number in range(config.folds)), out]
    models = [model for folder in folders for model in Reranker(str(folder)).fingerprints.values()]
    return all(is_trained_here(store, model) for model in models)


def _details(plan: _Plan, model: Reranker, dtype: str, number: int | None) -> dict[str, Any]:
    details = {
        "dtype": dtype,
        "training": plan.fingerprint,
        "folds": plan.config.folds,
        "weights": model.weights,
        "base": plan.base.fingerprint,
    }
    return details if number is None or not plan.config.folds else {**details, "fold": number}
