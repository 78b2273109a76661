"""Trains one encoder on rows of text, from its last checkpoint if there is one."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.modules import StaticEmbedding, Transformer
from transformers import TrainerCallback, set_seed

from miner.engine.files import new_folder, write_whole
from miner.engine.progress import Progress
from miner.errors import UsageError, counted
from miner.evaluation.evaluate import warnings
from miner.evaluation.result import Evaluation
from miner.faults import read_json
from miner.models.device import resolve_device
from miner.models.kinds import own_prompts, require_encoder
from miner.models.names import resolve
from miner.models.padding import complete_padding
from miner.models.quiet import FROM_DISK, loading, quietly
from miner.models.scratch import scratch_model
from miner.text import text_keys
from miner.training.batches import MASK, KnownPositives, MaskedSimilarity, MaskingCollator, PairBatches
from miner.training.encoder_config import ONE, SCRATCH, EncoderConfig
from miner.training.encoder_losses import encoder_loss, has_routes, masked_similarity
from miner.training.examples import Examples
from miner.training.lora import add_lora, without_lora
from miner.training.steps import (
    LeanCheckpoints,
    arguments_of,
    note_excess,
    run_training,
    step_count,
    training_threads,
)
from miner.training.unpadded import Unpadded
from miner.training.workspace import TRAINED, remove_hint

BEST = "best"
"""The folder in the workspace of the model with the best dev score so far."""
_SCORES = "scores.json"
_LOGS = 20
"""How often the loss is reported."""
_RATE, _LORA_RATE, _STATIC_RATE = 2e-5, 2e-4, 2e-2
_SLICE = 1024
"""Texts that are tokenised at once, which bounds the number of Python integers in memory."""


@dataclass(frozen=True)
class DevTask:
    """How to score a model during training."""

    measure: str
    """The measure that decides which model is best; more is better."""
    name: str
    """The split, the store, and the size of the sample, in words."""
    content: str
    """A hash of the split's content: another dev split may choose another model."""
    score: Callable[[SentenceTransformer], Evaluation]


@dataclass(frozen=True)
class Training:
    """The result of one training."""

    steps: int
    left_out: int
    """Rows of the first epoch that are in no batch, because their texts would be there twice."""
    losses: list[tuple[int, float]]
    """Step, and the mean loss since the step before."""
    scores: list[tuple[int, dict[str, float]]]
    """Step, and the measures on the dev split."""
    best_step: int | None
    """The step whose model was kept; None if nothing was scored and the last model was kept."""
    truncated: int | None = None
    """Distinct texts of the first epoch, with their prompts, that are longer than the model reads."""


def require_ranking(examples: Examples, config: EncoderConfig) -> None:
    """Raises UsageError if a loss that ranks the batch has no negative in any batch, or none to weigh."""
    if config.hardness == "hard" and len(examples.texts) == 2:
        raise UsageError(
            "hardness=hard weighs the negatives of a row, and the rows have none",
            "use hardness=in-batch, or rows with negatives",
        )
    if not config.needs.ranks_batch or len(examples.texts) > 2:
        return
    nothing = f"loss {config.loss} has nothing to rank: no negatives, and"
    if config.batch_size < 2:
        raise UsageError(f"{nothing} 1 row per batch", "use batch_size 2 or more, or rows with negatives")
    if min(len(set(column)) for column in examples.texts.values()) < 2:
        raise UsageError(
            f"{nothing} no two of the {len(examples):,} rows differ in anchor and positive",
            "add such rows, or use rows with negatives",
        )


def load_base(config: EncoderConfig) -> SentenceTransformer:
    """Loads the base, or draws a new one; raises ModelError if it does not load."""
    if config.base == SCRATCH:
        model = scratch_model(config.tokenizer, config.dimension, config.seed)
    else:
        model = load_model(config.base, Unpadded, "name a bi-encoder, such as bundled, or scratch")
        model.prompts |= own_prompts(resolve(config.base).path)
    own = model.max_seq_length
    if own is not None and own != math.inf:
        model.max_seq_length = min(config.max_length, int(own))
    given = {"query": config.query_prompt, "document": config.document_prompt}
    chosen = {role: text for role, text in given.items() if text is not None}
    model.prompts |= chosen
    return model


def load_model(
    name: str,
    kind: type[SentenceTransformer] = SentenceTransformer,
    hint: str = "name a bi-encoder, such as bundled",
) -> SentenceTransformer:
    """Loads an encoder in fp32, as a base or a guide; raises ModelError with the hint."""
    folder = resolve(name)
    require_encoder(folder)
    with loading(f"{name} does not load as a base for an encoder", hint):
        model = kind(str(folder.path), device=resolve_device(), **FROM_DISK)
    complete_padding(model)
    return model.float()


def train_model(
    examples: Examples,
    known: KnownPositives | None,
    work: Path,
    config: EncoderConfig,
    dev: DevTask | None,
    progress: Progress,
) -> Training:
    """Trains a model and saves the one with the best score, or else the last one, to `work/trained`.

    Goes on from the last checkpoint in `work`, which must be of the same examples and configuration. Raises
    MinerError if the training diverges.
    """
    set_seed(config.seed)
    with training_threads(config.threads, work, progress), quietly():
        model = load_base(config)
        if config.lora is not None:
            add_lora(model, config.lora, config.base)
        masked = masked_similarity(model, config)
        guide = load_model(config.guide) if config.guide else None
        if guide is not None:
            _note_prompts(model, guide, config, progress)
        trainer = _EncoderTrainer(
            masked,
            model=model,
            args=_arguments(examples, model, work, config),
            train_dataset=_dataset(examples),
            loss=encoder_loss(model, guide, examples, config, masked),
        )
        if known is not None:
            masking: Any = MaskingCollator(trainer.data_collator, examples.texts, known)
            trainer.data_collator = masking
        sampler = _batches(examples, config)
        steps, batches = step_count(sampler.rows, config), list(sampler)
        left_out = sampler.rows - sum(map(len, batches))
        _note_rows(examples, config, left_out, progress)
        truncated = note_truncated(model, _texts_of(examples, batches[:steps], model), progress)
        watcher = _Watcher(dev, model, work, config, steps, progress)
        trainer.add_callback(watcher)
        run_training(trainer, work, "training", progress)
        _save(model, str(work / TRAINED))
    best = watcher.take_best()
    history = [(int(entry["step"]), entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return Training(trainer.state.global_step, left_out, history, watcher.scores, best, truncated)


def _note_rows(examples: Examples, config: EncoderConfig, left_out: int, progress: Progress) -> None:
    """Notes a step limit beyond the epochs, and the rows that are in no batch."""
    rows = _batches(examples, config).rows
    note_excess(rows, config, progress)
    if rows < len(examples):
        progress.note(f"each epoch has one of the positives of {rows:,} anchors, drawn anew")
    if left_out:
        progress.note(
            f"each epoch leaves out {left_out:,} of {rows:,} rows: every batch already contains "
            "their texts; smaller batches leave out fewer"
        )


def _texts_of(
    examples: Examples, batches: Sequence[Sequence[int]], model: SentenceTransformer
) -> Iterator[str]:
    """The texts of some batches with their prompts, as the model reads them."""
    prompts = _prompts(examples, model) or {}
    for name, column in examples.texts.items():
        for row in chain.from_iterable(batches):
            yield prompts.get(name, "") + column[row]


def note_truncated(model: SentenceTransformer, texts: Iterable[str], progress: Progress) -> int:
    """Returns and notes how many distinct texts are longer than the model reads."""
    limit = model.max_seq_length
    if limit is None or not isinstance(model[0], Transformer):
        return 0
    # A token is rarely shorter than a byte, so only longer texts need tokenising.
    least = limit - model.tokenizer.num_special_tokens_to_add()
    long = list(dict.fromkeys(text for text in texts if len(text.encode()) > least))
    truncated = sum(
        len(ids) > limit
        for start in range(0, len(long), _SLICE)
        for ids in model.tokenizer(
            long[start : start + _SLICE],
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    )
    if truncated:
        found = counted(truncated, "text is", "texts are")
        progress.note(f"{found} longer than {limit} tokens: only the start is read")
    return truncated


def rows_left_out(examples: Examples, config: EncoderConfig) -> int:
    """Returns how many rows of the first epoch are in no batch, because their texts would be there twice."""
    batches = _batches(examples, config)
    return batches.rows - sum(map(len, batches))


def _batches(examples: Examples, config: EncoderConfig) -> PairBatches:
    keys = [text_keys(column) for column in list(examples.texts.values())[:2]]
    return PairBatches(
        np.stack(keys, axis=1),
        config.batch_size,
        config.seed,
        config.needs.ranks_batch,
        one_positive=config.epoch_positives == ONE,
    )


def _dataset(examples: Examples) -> Dataset:
    columns: dict[str, Any] = {name: list(column) for name, column in examples.texts.items()}
    return Dataset.from_dict(
        columns if examples.target is None else {**columns, "label": list(examples.target)}
    )


def _arguments(
    examples: Examples, model: SentenceTransformer, work: Path, config: EncoderConfig
) -> SentenceTransformerTrainingArguments:
    static = isinstance(model[0], StaticEmbedding)
    return SentenceTransformerTrainingArguments(
        **arguments_of(config, work, _batches(examples, config).rows, _LOGS),
        learning_rate=config.learning_rate
        or (_STATIC_RATE if static else _LORA_RATE if config.lora else _RATE),
        prompts=_prompts(examples, model),
        router_mapping=_routes(examples) if has_routes(model) else None,
        batch_sampler=lambda *_, **__: _batches(examples, config),
    )


def _note_prompts(
    model: SentenceTransformer, guide: SentenceTransformer, config: EncoderConfig, progress: Progress
) -> None:
    """Reports that the guide reads the base's prompts, as the losses give it the same texts, not its own."""
    own, given = ([one.prompts.get(role) or "" for role in ("query", "document")] for one in (guide, model))
    if own != given:
        progress.note(
            f"warning: guide {config.guide} has prompts {own} for queries and documents, but reads the "
            f"texts with those of the base, {given}: its scores may be off"
        )


def _prompts(examples: Examples, model: SentenceTransformer) -> dict[str, str] | None:
    query, document = (model.prompts.get(role) or "" for role in ("query", "document"))
    anchor, *others = examples.texts
    prompts = {anchor: query} | dict.fromkeys(others, document)
    return prompts if query or document else None


def _routes(examples: Examples) -> dict[str, str]:
    """The role of each column of texts: the anchors are queries."""
    anchor, *others = examples.texts
    return {anchor: "query"} | dict.fromkeys(others, "document")


class _EncoderTrainer(LeanCheckpoints, SentenceTransformerTrainer):
    """The library's trainer with masked similarities."""

    def __init__(self, masked: MaskedSimilarity, **settings: Any) -> None:
        self._masked = masked
        super().__init__(**settings)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **settings: Any) -> Any:
        """Computes the loss of a batch whose known positives are masked."""
        self._masked.mask = inputs.pop(MASK, None)
        return super().compute_loss(model, inputs, *args, **settings)


class _Watcher(TrainerCallback):
    """Scores the model during training, keeps the best one, and stops when the scores no longer rise."""

    def __init__(
        self,
        dev: DevTask | None,
        model: SentenceTransformer,
        work: Path,
        config: EncoderConfig,
        steps: int,
        progress: Progress,
    ) -> None:
        self._dev = dev
        self._model = model
        self._work = work
        self._patience = config.patience
        self._progress = progress
        self._due = {math.ceil(steps * i / config.evaluations) for i in range(1, config.evaluations + 1)}
        self.scores: list[tuple[int, dict[str, float]]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Scores the base; after a kill, restores the scores up to the step of the checkpoint."""
        if self._dev is None:
            return
        file = self._work / _SCORES
        known = read_json(file, list, remove_hint(self._work)) if file.exists() else []
        self.scores = [(step, means) for step, means in known if step <= state.global_step]
        if not self.scores:
            self._score(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Scores the model if a score is due at this step."""
        if self._dev is None or state.global_step not in self._due:
            return
        if self.scores and self.scores[-1][0] == state.global_step:
            return
        self._score(state.global_step)
        since_best = len(self.scores) - 1 - self._best_index()
        if self._patience is not None and since_best >= self._patience:
            self._progress.note(f"no better score in {self._patience} evaluations: stopped")
            control.should_training_stop = True

    def _score(self, step: int) -> None:
        assert self._dev is not None
        self._model.eval()
        measured = self._dev.score(self._model)
        self._model.train()
        means = {name: float(value) for name, value in measured.means.items()}
        self.scores.append((step, means))
        self._progress.note(f"step {step}: dev {self._dev.measure} {means[self._dev.measure]:.4f}")
        for warning in warnings("the base" if step == 0 else f"the model of step {step}", measured):
            self._progress.note(f"warning: {warning}")
        if self.scores[self._best_index()][0] == step:
            _replace(self._work / BEST, lambda folder: _save(self._model, folder))
        write_whole(self._work / _SCORES, json.dumps(self.scores))

    def _best_index(self) -> int:
        """The position of the best score, the first of equal ones; NaN is below all others."""
        assert self._dev is not None
        values = [means[self._dev.measure] for _, means in self.scores]
        return max(range(len(values)), key=lambda i: (-math.inf if math.isnan(values[i]) else values[i], -i))

    def take_best(self) -> int | None:
        """Replaces the last model by the best; returns its step, or None if nothing was scored."""
        if not self.scores:
            return None
        # A copy, not a rename: after a kill before the result is recorded, the best model is still there.
        _replace(
            self._work / TRAINED, lambda new: shutil.copytree(self._work / BEST, new, dirs_exist_ok=True)
        )
        return self.scores[self._best_index()][0]


def _save(model: SentenceTransformer, folder: str) -> None:
    """Writes a model as users load it, without a card."""
    without_lora(model).save_pretrained(folder, create_model_card=False)


def _replace(folder: Path, write: Callable[[str], object]) -> None:
    """Writes a new folder, then renames it to `folder`."""
    with new_folder(folder) as new:
        write(str(new))
