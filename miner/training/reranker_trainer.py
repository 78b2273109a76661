"""Trains one cross-encoder on labelled pairs, from its last checkpoint if there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from transformers import set_seed

from miner.engine.progress import Progress
from miner.errors import counted
from miner.models.device import resolve_device
from miner.models.names import ModelFolder
from miner.models.padding import complete_padding
from miner.models.pairs import PairTokenizer
from miner.models.quiet import FROM_DISK, loading, quietly
from miner.training.batches import length_grouped
from miner.training.reranker_config import RerankerConfig
from miner.training.reranker_losses import LABEL, reranker_loss, reranker_rows
from miner.training.reranker_pairs import LabelledPairs
from miner.training.steps import (
    LeanCheckpoints,
    arguments_of,
    note_excess,
    run_training,
    training_threads,
)
from miner.training.workspace import TRAINED

_LOGS = 10
"""How often the loss is reported."""


@dataclass(frozen=True)
class RerankerTraining:
    """The result of one training."""

    steps: int
    losses: list[float]
    """The mean loss of each tenth of the steps."""


def train_cross_encoder(
    pairs: LabelledPairs, base: ModelFolder, work: Path, config: RerankerConfig, progress: Progress
) -> RerankerTraining:
    """Trains `base` to score positives above negatives and saves it to `work/trained`.

    Goes on from the last checkpoint in `work`, which must be of the same pairs, base and configuration.
    Raises MinerError if the training diverges, UsageError if the loss cannot use the labels.
    """
    set_seed(config.seed)
    with training_threads(config.threads, work, progress), quietly():
        model = load_base(base, config)
        made = reranker_rows(pairs, config)
        batches = replace(config, batch_size=made.per_batch)
        trainer = _RerankerTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(
                **arguments_of(batches, work, len(made.rows), _LOGS),
                learning_rate=config.learning_rate,
                weight_decay=0.01,
                batch_sampler=_by_length,
            ),
            train_dataset=made.rows,
            loss=reranker_loss(model, config, pairs),
        )
        note_excess(len(made.rows), batches, progress)
        _note_truncated(model, pairs, progress)
        run_training(trainer, work, "training reranker", progress)
        model.save_pretrained(str(work / TRAINED), create_model_card=False)
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return RerankerTraining(trainer.state.global_step, history)


def _note_truncated(model: CrossEncoder, pairs: LabelledPairs, progress: Progress) -> None:
    """Notes how many pairs are longer than the model reads."""
    limit: Any = model.max_seq_length
    least = limit - model.tokenizer.num_special_tokens_to_add(pair=True)
    queries, documents = pairs.texts()
    both = zip(queries, documents, strict=True)
    # A token is rarely shorter than a byte, so only longer pairs need tokenising.
    long = [row for row, texts in enumerate(both) if sum(len(text.encode()) for text in texts) > least]
    chosen = ([texts[row] for row in long] for texts in (queries, documents))
    if long and (truncated := PairTokenizer(model.tokenizer, limit).pairs(*chosen).truncated):
        found = counted(truncated, "pair is", "pairs are")
        progress.note(f"{found} longer than {limit} tokens: only the start is read")


def load_base(base: ModelFolder, config: RerankerConfig) -> CrossEncoder:
    """Loads the base with one output; a base without a head gets a new one, drawn with the seed."""
    with loading(
        f"{base.name} does not load as a base for a reranker",
        "name a transformer: an encoder, or a cross-encoder with one output, such as bundled",
    ):
        model: CrossEncoder = CrossEncoder(str(base.path), num_labels=1, device=resolve_device(), **FROM_DISK)
    positions = getattr(model.config, "max_position_embeddings", None) or config.max_length
    own = model.max_seq_length or positions
    model.max_seq_length = min(config.max_length, own, positions)
    complete_padding(model)
    return model.float()


def _by_length(
    dataset: Dataset,
    batch_size: int,
    drop_last: bool,
    valid_label_columns: list[str] | None = None,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> LengthGroupedBatches:
    return LengthGroupedBatches(dataset, batch_size, drop_last, valid_label_columns, generator, seed)


class LengthGroupedBatches(DefaultBatchSampler):
    """Batches of rows of similar length, in random order (see `length_grouped`).

    Within a group of labelled pairs, positives and negatives are each sorted by length and mixed evenly.
    Otherwise a batch could have one label only, if positives are shorter than negatives. Rows with several
    labels are sorted by length.
    """

    def __iter__(self) -> Iterator[list[int]]:
        """Yields the rows of each batch; the same ones for the same seed and epoch."""
        rows: Any = self.sampler
        lengths = np.sum([_lengths(rows[name]) for name in rows.column_names if name != LABEL], axis=0)
        labels = np.asarray([0.0 if isinstance(label, list) else label for label in rows[LABEL]])
        rng = np.random.default_rng([self.seed, self.epoch])
        yield from length_grouped(
            len(lengths), self.batch_size, rng, lambda group: _evenly_mixed(labels[group], lengths[group])
        )


def _lengths(texts: Sequence[str | list[str]]) -> npt.NDArray[np.int64]:
    """The number of characters of each text, or of each list of texts."""
    sizes = (len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts)
    return np.fromiter(sizes, dtype=np.int64)


def _evenly_mixed(labels: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns an order by quantile of length within the label, which spreads each label evenly."""
    order = np.lexsort((lengths, labels))
    _, start, label, count = np.unique(
        labels[order], return_index=True, return_inverse=True, return_counts=True
    )
    quantile = (np.arange(len(order)) - start[label] + 0.5) / count[label]
    mixed: npt.NDArray[np.int64] = order[np.argsort(quantile, kind="stable")]
    return mixed


class _RerankerTrainer(LeanCheckpoints, CrossEncoderTrainer):
    """The library's trainer."""
