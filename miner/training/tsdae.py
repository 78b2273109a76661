"""`miner pretrain`: an encoder adapted to a store's texts, without labels.

Work happens in `OUT.partial`, and OUT appears by one rename: see `workplace`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights
from sentence_transformers.sentence_transformer import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from transformers import set_seed

from miner.engine.files import locked, write_whole
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.faults import read_json
from miner.models.device import resolve_device, resolve_dtype
from miner.models.names import ModelFolder, resolve
from miner.models.quiet import quietly
from miner.store.corpus import ROLES, require_judgments, unlabelled_texts
from miner.store.database import Store
from miner.text import fingerprint
from miner.training.denoising import Denoising, TextBatches, denoising_loss, prepare
from miner.training.encoder_trainer import TRAINED, load_model, note_truncated
from miner.training.pretrain_card import WHAT, PretrainMetrics, PretrainReport, write_card
from miner.training.pretrain_config import PretrainConfig
from miner.training.steps import arguments_of, note_excess, run_training, training_threads
from miner.training.workspace import Job, finished, publish, workplace

_CODE = 3
"""Raised when the same texts and settings would give another model."""
_LOGS = 20
"""How often the loss is told."""
_DECODER = "decoder.safetensors"
"""The file of a checkpoint that holds what only training needs."""


def pretrain(
    store: Path, out: Path, config: PretrainConfig, progress: Progress = SILENT, *, force: bool = False
) -> PretrainReport:
    """Pretrains an encoder on the store's texts and writes it, with its card, to the folder `out`.

    No judgment is read but which queries `config.without` keeps apart, and the store is open only before
    the training. A killed pretraining goes on
    where it was; a finished one is not repeated; `force` replaces one that was made otherwise.
    Raises UsageError when there is no text or `out` is taken, ModelError when the base does not
    load or has no decoder, MinerError when the training diverges.
    """
    with Store.open(store, read_only=True) as opened, opened.snapshot():
        # Misspelt, it would let the test queries in; only the default may be missing.
        if config.without not in (None, PretrainConfig.without):
            require_judgments(opened, str(config.without), "--without ('' leaves none out)")
        table = unlabelled_texts(opened, config.roles, config.without)
    base = resolve(config.base)
    texts: list[str] = table["text"].to_pylist()
    if not texts:
        raise UsageError(f"{store} holds no {_missing(config)}", "choose other --texts, or ingest some")
    content = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    identity = _identity(content, base, config)
    job = Job(WHAT, identity, config.identity())
    with locked(out):
        found = finished(out, job, force)
        if found is not None:
            progress.note(f"{out} holds this encoder already")
            return PretrainReport(out, PretrainMetrics.parse(found), True)
        with workplace(out, job, force, progress) as work:
            metrics = PretrainMetrics(
                fingerprint=identity,
                base=base.name,
                base_fingerprint=base.fingerprint,
                texts=content,
                config=config.identity(),
                dtype=resolve_dtype(config.dtype, resolve_device()),
                **{role: pc.sum(pc.equal(table["role"], role)).as_py() for role in ROLES},
                **_trained(texts, base, work, config, progress),
            )
            write_card(work / TRAINED, out.name, metrics)
            publish(work / TRAINED, out, work)
    return PretrainReport(out, metrics, False)


def _missing(config: PretrainConfig) -> str:
    what = " or ".join(config.roles)
    left_out = config.without and "queries" in config.roles
    return f"{what} outside split '{config.without}'" if left_out else what


def _identity(content: str, base: ModelFolder, config: PretrainConfig) -> str:
    return fingerprint(
        {
            "texts": content,
            "base": base.fingerprint,
            "config": {**config.identity(), "base": None},
            "dtype": resolve_dtype(config.dtype, resolve_device()),
            "code": _CODE,
        }
    )


def step_count(texts: int, config: PretrainConfig) -> int:
    """Returns over how many batches a pretraining on so many texts goes."""
    steps = math.ceil(texts / config.batch_size) * config.epochs
    return min(steps, config.max_steps or steps)


def _trained(
    texts: list[str], base: ModelFolder, work: Path, config: PretrainConfig, progress: Progress
) -> dict[str, Any]:
    """Trains, unless a kill came between training and card; returns steps, losses and seconds."""
    told = work / "training.json"
    if not (told.exists() and (work / TRAINED).exists()):
        started = time.perf_counter()
        trained = _train(texts, base, work, config, progress)
        trained["seconds"] = round(time.perf_counter() - started, 1)
        write_whole(told, json.dumps(trained))
    return read_json(told, dict, f"remove {work}, then run the command again: it starts anew")


def _train(
    texts: list[str], base: ModelFolder, work: Path, config: PretrainConfig, progress: Progress
) -> dict[str, Any]:
    """Trains to the end from the last checkpoint in `work`, and saves the encoder to `work/trained`."""
    set_seed(config.seed)
    with training_threads(config.threads, work, progress), quietly():
        model = load_model(config.base)
        own_length = model.max_seq_length
        part = prepare(model, base, config)
        batches = TextBatches(texts, config.batch_size, config.seed)
        collator: Any = Denoising(part, batches, config)
        trainer = _Trainer(
            model=part,
            args=_arguments(len(texts), batches, work, config),
            train_dataset=Dataset.from_dict({"text": texts}),
            data_collator=collator,
            loss=denoising_loss(part, base),
        )
        whole = step_count(len(texts), replace(config, max_steps=None))
        note_excess(config.max_steps, whole, config.epochs, progress)
        seen = chain.from_iterable(islice(batches, trainer.args.max_steps))
        note_truncated(part, (texts[row] for row in seen), progress)
        run_training(trainer, work, "pretraining", progress)
        model.max_seq_length = own_length
        model.save_pretrained(str(work / TRAINED), create_model_card=False)
    history = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return {"steps": trainer.state.global_step, "losses": history}


def _arguments(
    texts: int, batches: TextBatches, work: Path, config: PretrainConfig
) -> SentenceTransformerTrainingArguments:
    return SentenceTransformerTrainingArguments(
        **arguments_of(config, work, step_count(texts, config), _LOGS),
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        batch_sampler=lambda *_, **__: batches,
    )


class _Trainer(SentenceTransformerTrainer):
    """The library's trainer with the decoder in its checkpoints, without model card and pickled settings."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Adds none."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = output_dir or str(self.args.output_dir)
        self.model.save_pretrained(folder, create_model_card=False)
        save_weights(self._decoder, str(Path(folder) / _DECODER))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint)
        file = Path(resume_from_checkpoint) / _DECODER
        load_weights(self._decoder, file, device=str(self.model.device))

    @property
    def _decoder(self) -> torch.nn.Module:
        loss: Any = self.loss
        decoder: torch.nn.Module = loss.decoder
        return decoder
