"""`miner train-reranker`: a cross-encoder, or an ensemble of folds, from a store's judgments.

Work happens in `OUT.partial`: `state.json` says for which data and settings, `training-0` and so
on hold the checkpoints of what is under way, `model` what is finished. OUT appears by one rename,
when all is done.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.models.device import resolve_device, resolve_dtype
from miner.models.names import ModelFolder, resolve
from miner.models.reranker import FOLDS_FILE, Reranker, fold_folder
from miner.retrieval.collection import Collection
from miner.store.database import Store
from miner.store.runs import record_model
from miner.store.training import is_recorded, record_training
from miner.text import fingerprint
from miner.training.card import Metrics, card, chance_precision, mean_average_precision
from miner.training.config import RerankerConfig
from miner.training.data import (
    KINDS,
    Flags,
    LabelledPairs,
    held_out_queries,
    labelled_pairs,
    query_folds,
    sample_queries,
)

_CODE = 1
"""Raised when the same data and settings would give another model."""
_METRICS = "metrics.json"


@dataclass(frozen=True)
class TrainingReport:
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

    A killed training goes on where it was; a finished one is not repeated. `force` replaces a
    reranker that was trained otherwise. Raises UsageError when the split has no positives or `out`
    is taken, ModelError when the base does not load.
    """
    base = resolve(config.base)
    collection = sample_queries(Collection.load(store, config.split), config)
    identity = _identity(collection, base, config)
    finished = _finished(out, identity, force)
    if finished is not None and is_recorded(store, Reranker(str(out)).fingerprint):
        progress.note(f"{out} holds this reranker already")
        return TrainingReport(out, Reranker(str(out)).fingerprint, finished, True)
    plan = _plan(labelled_pairs(store, collection, config, progress), base, config, identity)
    if finished is not None:
        return TrainingReport(out, _record(store, plan, out), finished, True)
    metrics = _train(plan, _workplace(out, identity, progress), out, progress)
    return TrainingReport(out, _record(store, plan, out), metrics, False)


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


def _finished(out: Path, identity: str, force: bool) -> Metrics | None:
    """Returns the metrics of `out` if it is this very training's result; None if `out` is free.

    Raises UsageError when `out` holds anything else, unless it is a reranker and `force` is given.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        metrics = Metrics.parse((out / _METRICS).read_text("utf-8"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{out} exists and is not a reranker that miner trained", "name a folder that does not exist yet"
        ) from error
    if metrics.fingerprint == identity:
        return metrics
    if not force:
        raise UsageError(
            f"{out} holds a reranker trained on other data or with other settings",
            "name another folder, or replace it with --force",
        )
    return None


def _plan(pairs: LabelledPairs, base: ModelFolder, config: RerankerConfig, identity: str) -> _Plan:
    held_out = held_out_queries(pairs.collection, config)
    shares = (~held_out,)
    if config.folds:
        folds = query_folds(pairs.collection, config.folds)
        shares = tuple(~held_out & (folds != fold) for fold in range(config.folds))
    plan = _Plan(pairs, held_out, shares, base, config, identity)
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


def _workplace(out: Path, identity: str, progress: Progress) -> Path:
    """Returns the folder of the work under way, emptied if it belongs to another training."""
    work = out.with_name(f"{out.name}.partial")
    state = work / "state.json"
    if work.exists():
        found = json.loads(state.read_text("utf-8")) if state.exists() else {}
        if found.get("fingerprint") == identity:
            return work
        if not found and any(work.iterdir()):
            raise UsageError(f"{work} is in the way", "move it, or name another OUT")
        progress.note(f"{work} was of other data or settings: starting anew")
        shutil.rmtree(work)
    work.mkdir(parents=True)
    state.write_text(json.dumps({"fingerprint": identity}), "utf-8")
    return work


def _train(plan: _Plan, work: Path, out: Path, progress: Progress) -> Metrics:
    """Trains what is missing in `work`, measures, writes the card, and renames the whole to `out`."""
    model = work / "model"
    trained = [_train_one(plan, number, work, progress) for number in range(len(plan.shares))]
    if plan.config.folds:
        (model / FOLDS_FILE).write_text(json.dumps({"folds": plan.config.folds}) + "\n", "utf-8")
    metrics = _measure(plan, trained, Reranker(str(model), dtype=plan.config.dtype), progress)
    (model / _METRICS).write_text(metrics.json(), "utf-8")
    (model / "README.md").write_text(card(out.name, plan.config, metrics), "utf-8")
    if out.exists():
        shutil.rmtree(out)
    model.rename(out)
    shutil.rmtree(work)
    return metrics


def _train_one(plan: _Plan, number: int, work: Path, progress: Progress) -> dict[str, Any]:
    """Trains one model into `work`, unless that was done before; returns its steps, losses, seconds."""
    folder = plan.folder(work / "model", number)
    told = work / f"trained-{number}.json"
    if not folder.exists():
        from miner.training.trainer import TRAINED, train_cross_encoder

        if plan.config.folds:
            progress.note(f"model {number + 1} of {len(plan.shares)}, without the queries of fold {number}")
        started = time.perf_counter()
        place = work / f"training-{number}"
        training = train_cross_encoder(plan.part(number), plan.base, place, plan.config, progress)
        seconds = time.perf_counter() - started
        told.write_text(json.dumps({**asdict(training), "seconds": seconds}), "utf-8")
        folder.parent.mkdir(exist_ok=True)
        (place / TRAINED).rename(folder)
        shutil.rmtree(place)
    result: dict[str, Any] = json.loads(told.read_text("utf-8"))
    return result


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
        **{f"{kind}{'s' * (kind == 'positive')}": learnt.count(kind) for kind in KINDS},
        steps=sum(one["steps"] for one in trained),
        losses=[one["losses"] for one in trained],
        held_out_queries=tested.query_count,
        held_out_pairs=len(tested),
        average_precision=precision,
        chance=chance,
        seconds=round(sum(one["seconds"] for one in trained), 1),
    )


def _record(store: Store, plan: _Plan, out: Path) -> str:
    """Notes in the store which positives each model used; returns the reranker's fingerprint.

    Of an ensemble it is the models that used them, not the ensemble: it scores a query with a
    model that did not. Noted for every dtype, as each is a fingerprint of its own.
    """
    reranker = Reranker(str(out))
    for number in range(len(plan.shares)):
        one = Reranker(str(plan.folder(out, number)))
        positives = plan.part(number).positive_ids()
        for dtype, model in one.fingerprints.items():
            record_training(store, model, positives)
            record_model(store, model, "reranker", one.name, _details(plan, dtype, number))
    for dtype, model in reranker.fingerprints.items():
        record_model(store, model, "reranker", reranker.name, _details(plan, dtype, None))
    return reranker.fingerprint


def _details(plan: _Plan, dtype: str, number: int | None) -> dict[str, Any]:
    details = {"dtype": dtype, "training": plan.fingerprint, "folds": plan.config.folds}
    return details if number is None or not plan.config.folds else {**details, "fold": number}
