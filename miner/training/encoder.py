"""`miner train`: an encoder from rows of text.

Work happens in `OUT.partial`, and OUT appears by one rename: see `workplace`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from miner.engine.files import locked, write_whole
from miner.engine.progress import SILENT, Progress
from miner.faults import read_json
from miner.models.device import resolve_device, resolve_dtype
from miner.models.kinds import require_encoder
from miner.models.names import resolve
from miner.models.scratch import tokenizer_file
from miner.text import fingerprint, text_keys
from miner.training.batches import KnownPositives
from miner.training.encoder_card import WHAT, EncoderMetrics, EncoderReport, write_card
from miner.training.encoder_config import SCRATCH, EncoderConfig
from miner.training.encoder_trainer import TRAINED, DevTask, Training, require_ranking, train_model
from miner.training.examples import Examples
from miner.training.workspace import Job, finished, publish, workplace

_CODE = 2
"""Raised when the same rows and settings would give another model."""


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
    """Trains an encoder and writes it with its card, metrics and curve to the new folder `out`.

    `known` are the pairs that are no negatives of each other (default: every row's anchor and
    positive); `dev` scores the model on the way, and the best one is kept; `about` says in metrics.json
    where the rows come from. The same call after a
    kill goes on where it was, and does nothing when all is done. Raises UsageError when `out` is
    taken or the loss finds nothing to rank, ModelError when the base does not load, MinerError when
    the training diverges.
    """
    require_ranking(examples, config)
    if not (config.mask and config.reads("mask")):
        known = None
    elif known is None:
        known = known_positives(examples)
    if not config.evaluations:
        dev = None
    base = base_fingerprint(config)
    identity = fingerprint(
        {
            "examples": examples.fingerprint,
            "base": base,
            "guide": resolve(config.guide).fingerprint if config.guide else None,
            "config": {**config.identity(), "base": None},
            "dtype": resolve_dtype(config.dtype, resolve_device()),
            "dev": [dev.measure, dev.content] if dev else None,
            "known": known.fingerprint if known else None,
            "code": _CODE,
        }
    )
    job = Job(WHAT, identity, config.identity())
    with locked(out):
        found = finished(out, job, force)
        if found is not None:
            progress.note(f"{out} holds this encoder already")
            return EncoderReport(out, EncoderMetrics.parse(found), True)
        with workplace(out, job, force, progress) as work:
            started = time.perf_counter()
            training = _trained(examples, known, work, config, dev, progress)
            metrics = EncoderMetrics(
                fingerprint=identity,
                base=config.base,
                base_fingerprint=base,
                data=examples.fingerprint,
                about=dict(about or {}),
                config=config.identity(),
                dtype=resolve_dtype(config.dtype, resolve_device()),
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
    """Returns every row's anchor and positive."""
    anchor, positive, *_ = examples.texts.values()
    return KnownPositives(text_keys(anchor), text_keys(positive))


def base_fingerprint(config: EncoderConfig) -> str:
    """Returns what the weights to start from are known by; ModelError when there are none of a bi-encoder."""
    if config.base == SCRATCH:
        tokenizer = tokenizer_file(config.tokenizer).read_text("utf-8")
        return fingerprint({"scratch": config.dimension, "tokenizer": tokenizer, "seed": config.seed})
    folder = resolve(config.base)
    require_encoder(folder)
    return folder.fingerprint


def _trained(
    examples: Examples,
    known: KnownPositives | None,
    work: Path,
    config: EncoderConfig,
    dev: DevTask | None,
    progress: Progress,
) -> Training:
    """Trains, unless a kill came after the training and before the card."""
    told = work / "training.json"
    if not (told.exists() and (work / TRAINED).exists()):
        training = train_model(examples, known, work, config, dev, progress)
        write_whole(told, json.dumps(asdict(training)))
    return Training(**read_json(told, dict, f"remove {work}, then run the command again: it starts anew"))
