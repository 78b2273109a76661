"""`miner train`: trains an encoder on rows of text.

The training works in `OUT.partial`; OUT appears by one rename when it is complete (see `workspace`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from miner.engine.files import locked
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.models.device import resolve_device, resolve_dtype
from miner.models.kinds import own_similarity, require_encoder
from miner.models.names import resolve
from miner.models.scratch import tokenizer_file
from miner.models.similarity import COSINE
from miner.text import fingerprint, text_keys
from miner.training.batches import KnownPositives
from miner.training.encoder_config import SCRATCH, EncoderConfig
from miner.training.encoder_trainer import DevTask, Training, require_ranking, train_model
from miner.training.examples import Examples
from miner.training.model_card import ENCODER, EncoderMetrics, EncoderReport, write_card
from miner.training.workspace import TRAINED, Job, finished, publish, trained_once, workspace

_CODE = 3
"""Raise it when the same rows and settings give another model."""
_WIDEST = 2
"""The largest margin between two cosines."""


def train_encoder(
    examples: Examples,
    out: Path,
    config: EncoderConfig,
    *,
    known: KnownPositives | None = None,
    dev: DevTask | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
    force: bool = False,
) -> EncoderReport:
    """Trains an encoder and writes it with its card, metrics and chart to the new folder `out`.

    `known` are the pairs that must not serve as negatives of each other; by default every row's anchor and
    positive. `dev` scores the model during training, and the best model is kept. `about` is stored in
    metrics.json to say where the rows come from. After a kill, the same call goes on from the last
    checkpoint; if everything is finished, it does nothing. Raises UsageError if `out` is taken or the rows
    do not fit the loss, ModelError if the base does not load, MinerError if the training diverges.
    """
    require_ranking(examples, config)
    base = base_fingerprint(config)
    _require_margins(examples, config)
    if not (config.mask and config.reads("mask")):
        known = None
    elif known is None:
        known = known_positives(examples)
    if not config.evaluations:
        dev = None
    dtype = resolve_dtype(config.dtype, resolve_device())
    identity = fingerprint(
        {
            "examples": examples.fingerprint,
            "base": base,
            "guide": resolve(config.guide).fingerprint if config.guide else None,
            "config": {**config.identity(), "base": None},
            "dtype": dtype,
            "dev": [dev.measure, dev.content] if dev else None,
            "known": known.fingerprint if known else None,
            "code": _CODE,
        }
    )
    job = Job(ENCODER, identity, config.identity())
    with locked(out):
        stored = finished(out, job, force)
        if stored is not None:
            progress.note(f"{out} holds this encoder already")
            return EncoderReport(out, EncoderMetrics.parse(stored), True)
        with workspace(out, job, force, progress) as work:
            started = time.perf_counter()
            training = Training(
                **trained_once(
                    work, lambda: asdict(train_model(examples, known, work, config, dev, progress))
                )
            )
            metrics = EncoderMetrics(
                fingerprint=identity,
                base=config.base,
                base_fingerprint=base,
                config=config.identity(),
                dtype=dtype,
                data=examples.fingerprint,
                about=dict(about or {}),
                rows=len(examples),
                columns=list(examples.texts),
                origin=Path(examples.origin).name,
                classes=list(examples.classes),
                dev=dev.name if dev else None,
                measure=dev.measure if dev else None,
                seconds=round(time.perf_counter() - started, 1),
                **asdict(training),
            )
            write_card(work / TRAINED, out.name, metrics)
            publish(work / TRAINED, out, work)
    return EncoderReport(out, metrics, False)


def known_positives(examples: Examples) -> KnownPositives:
    """Returns the anchor and the positive of every row as pairs that are known to be relevant."""
    anchor, positive, *_ = examples.texts.values()
    return KnownPositives(text_keys(anchor), text_keys(positive))


def _require_margins(examples: Examples, config: EncoderConfig) -> None:
    """Raises UsageError for margins that the base cannot reach, because it compares by cosine."""
    if config.loss != "margin-mse" or not examples.target:
        return
    if config.base != SCRATCH and own_similarity(resolve(config.base)) != COSINE:
        return
    widest = max(abs(scores[0] - score) for scores in examples.target for score in scores[1:])
    if widest > _WIDEST:
        raise UsageError(
            f"{examples.origin}: margins go up to {widest:g}, but those of cosines only to {_WIDEST}",
            "use scores that are probabilities or cosines (mine with --reranker, see train-reranker), or a "
            "--base that compares by dot product",
        )


def base_fingerprint(config: EncoderConfig) -> str:
    """Returns the fingerprint of the initial weights; raises ModelError if the base is not a bi-encoder."""
    if config.base == SCRATCH:
        tokenizer = tokenizer_file(config.tokenizer).read_text("utf-8")
        return fingerprint({"scratch": config.dimension, "tokenizer": tokenizer, "seed": config.seed})
    folder = resolve(config.base)
    require_encoder(folder)
    return folder.fingerprint
