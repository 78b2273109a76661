"""`miner pretrain`: adapts an encoder to the texts of a store, without labels (TSDAE).

Words of a text are deleted, and a decoder rebuilds the text from the vector of the words that are left. Wang,
Reimers, Gurevych: TSDAE: Using Transformer-based Sequential Denoising Auto-Encoder for Unsupervised Sentence
Embedding Learning, Findings of EMNLP 2021.

The training works in `OUT.partial`; OUT appears by one rename when it is complete (see `workspace`).
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Sequence
from itertools import chain, islice, pairwise
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, set_seed

from miner.collection.texts import Strings, Texts, spooled
from miner.engine.files import locked
from miner.engine.progress import SILENT, Progress
from miner.errors import ModelError, UsageError
from miner.memory import MemoryLimit
from miner.models.device import resolve_device, resolve_dtype
from miner.models.names import ModelFolder, resolve
from miner.models.quiet import quietly
from miner.models.weights import modules_of
from miner.store.corpus import ROLES, require_judgments, unlabelled_texts
from miner.store.database import Database
from miner.text import fingerprint, is_unspaced, parts
from miner.training.batches import length_grouped
from miner.training.encoder_trainer import load_model, note_truncated
from miner.training.model_card import PRETRAINED, PretrainMetrics, PretrainReport, write_card
from miner.training.pretrain_config import PretrainConfig
from miner.training.steps import (
    LeanCheckpoints,
    arguments_of,
    note_excess,
    run_training,
    training_threads,
)
from miner.training.workspace import TRAINED, Job, finished, publish, trained_once, workspace

_CODE = 3
"""Raise it when the same texts and settings give another model."""
_LOGS = 20
"""How often the loss is reported."""
_BASES = "name a BERT, RoBERTa or XLM-RoBERTa encoder, such as bundled"


def delete_words(text: str, deletion: float, seed: int, epoch: int) -> str:
    """Returns the text with randomly deleted words, and single spaces for white space.

    Words are separated by white space; in scripts without spaces, each character with its marks is a word
    (see `text.parts`). Each word is deleted with probability `deletion`; if all words would be deleted, one
    random word stays. The result depends only on the arguments.
    """
    pieces = parts(text)
    rng = random.Random(f"{seed} {epoch} {text}")
    kept = [[part for part in piece if rng.random() >= deletion] for piece in pieces]
    if pieces and not any(kept):
        kept = [[rng.choice([part for piece in pieces for part in piece])]]
    return " ".join(piece[0] if len(piece) == 1 else _joined(piece) for piece in kept if piece)


def _joined(piece: list[str]) -> str:
    """Joins the parts of a piece; two words whose characters in between are all deleted get a space."""
    joined = piece[0]
    for before, part in pairwise(piece):
        joined += part if is_unspaced(before) or is_unspaced(part) else f" {part}"
    return joined


class TextBatches(DefaultBatchSampler):
    """Batches of texts of similar length, in random order (see `length_grouped`)."""

    def __init__(self, texts: Sequence[str], batch_size: int, seed: int) -> None:
        super().__init__(range(len(texts)), batch_size, False, seed=seed)
        self._lengths = np.fromiter(map(len, texts), dtype=np.int64)

    def __iter__(self) -> Iterator[list[int]]:
        """Yields the rows of each batch; the same ones for the same seed and epoch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        lengths = self._lengths
        yield from length_grouped(
            len(lengths), self.batch_size, rng, lambda group: np.argsort(lengths[group], kind="stable")
        )


class Denoising:
    """Collates a batch: the tokens of each text without its deleted words, and of the whole text."""

    valid_label_columns: tuple[str, ...] = ()

    def __init__(self, model: SentenceTransformer, batches: TextBatches, config: PretrainConfig) -> None:
        self._inner = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)
        self._batches = batches
        self._config = config

    def __call__(self, rows: list[dict[str, str]]) -> dict[str, Any]:
        """Returns the tensors of a batch; the deleted words depend on the epoch."""
        epoch = self._batches.epoch
        pairs = [
            {"noisy": delete_words(row["text"], self._config.deletion, self._config.seed, epoch), **row}
            for row in rows
        ]
        collated: dict[str, Any] = self._inner(pairs)
        return collated


def prepare(model: SentenceTransformer, base: ModelFolder, config: PretrainConfig) -> SentenceTransformer:
    """Sets pooling and length, and returns the modules to train: all but the normalisation.

    The modules are those of `model`. With the normalisation, the decoder reads vectors of length 1 and
    rebuilds texts worse: 6.39 nats per token instead of 6.36 after 150 steps of `bundled` on 1,200 texts of
    perspectrum. Raises ModelError for a model that TSDAE cannot train.
    """
    if not isinstance(model[0], Transformer):
        raise ModelError(
            f"{base.name} is not a transformer: TSDAE cannot train a {type(model[0]).__name__}", _BASES
        )
    modules = [module for module in model if not isinstance(module, Normalize)]
    pooling = modules[1] if len(modules) == 2 else None
    if not isinstance(pooling, Pooling):
        raise ModelError(
            f"{base.name} has modules other than a transformer, pooling and normalisation", _BASES
        )
    if config.pooling != "keep":
        pooling.pooling_mode = config.pooling
        pooling.pooling_output_dimension = pooling.embedding_dimension
    if pooling.pooling_output_dimension != pooling.embedding_dimension:
        raise ModelError(
            f"{base.name} joins several poolings, but the decoder reads one vector",
            "choose --set pooling=cls or pooling=mean",
        )
    own = model.max_seq_length
    model.max_seq_length = min(config.max_length, int(own or config.max_length))
    return SentenceTransformer(modules=modules, device=str(model.device))


def denoising_loss(model: SentenceTransformer, base: ModelFolder) -> DenoisingAutoEncoderLoss:
    """Returns the loss with its decoder, which shares the encoder's weights, in fp32 and training mode.

    The weights of the cross attention are drawn with PyTorch's seed, and those of the language model's head
    if the base has none. Raises ModelError if the architecture has no decoder with cross attention.
    """
    network: Any = model[0]
    config = network.model.config
    no_decoder = ModelError(
        f"{base.name}: TSDAE has no decoder for architecture '{config.model_type}'", _BASES
    )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise no_decoder
    # The loss loads the decoder from here.
    config._name_or_path = str(_transformer_folder(base))
    try:
        loss = DenoisingAutoEncoderLoss(model)
    except Exception as error:  # damaged configurations and weights make the libraries raise anything
        raise no_decoder from error
    tied = loss.decoder.get_input_embeddings().weight is network.model.get_input_embeddings().weight
    if not tied or not any("crossattention" in name for name, _ in loss.decoder.named_parameters()):
        raise no_decoder
    return loss.float().to(model.device).train()


def _transformer_folder(base: ModelFolder) -> Path:
    """The folder of the transformer: the model's own, or the folder below it that modules.json names."""
    kinds = ("Transformer", "MLMTransformer")
    folder = base.path / next((module.folder for module in modules_of(base.path) if module.name in kinds), "")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{base.name} has no safetensors weights in {folder}",
            "only safetensors are loaded; convert it with model.save_pretrained(folder)",
        )
    return folder


def pretrain(
    store: Path, out: Path, config: PretrainConfig, progress: Progress = SILENT, *, force: bool = False
) -> PretrainReport:
    """Pretrains an encoder on the store's texts and writes it, with its card, to the folder `out`.

    Judgments are read only to leave out the queries of `config.without`, and the store is open only before
    the training. After a kill, the same call goes on from the last checkpoint; a finished pretraining is not
    repeated; `force` replaces one of other texts or settings. Raises UsageError if there is no text or `out`
    is taken, ModelError if the base does not load or has no decoder, MinerError if the training diverges.
    """
    with Database.open(store, read_only=True) as opened, opened.snapshot():
        # A misspelt split would let the test queries in, so only the default may be missing.
        if config.without not in (None, PretrainConfig.without):
            require_judgments(opened, str(config.without), "--set without (none leaves nothing out)")
        counts = dict.fromkeys(ROLES, 0)
        texts = spooled(_read(opened, config, counts), store.parent)
    base = resolve(config.base)
    if not texts:
        missing = " or ".join(config.roles)
        if config.without and "queries" in config.roles:
            missing += f" outside split '{config.without}'"
        raise UsageError(
            f"{store} holds no {missing}",
            f"choose other texts (--set texts=…), or ingest some: miner ingest {quote(str(store))} SOURCE",
        )
    content = _content(texts)
    dtype = resolve_dtype(config.dtype, resolve_device())
    identity = fingerprint(
        {
            "texts": content,
            "base": base.fingerprint,
            "config": {**config.identity(), "base": None},
            "dtype": dtype,
            "code": _CODE,
        }
    )
    job = Job(PRETRAINED, identity, config.identity())
    with locked(out):
        stored = finished(out, job, force)
        if stored is not None:
            progress.note(f"{out} holds this encoder already")
            return PretrainReport(out, PretrainMetrics.parse(stored), True)
        with workspace(out, job, force, progress) as work:
            metrics = PretrainMetrics(
                fingerprint=identity,
                base=base.name,
                base_fingerprint=base.fingerprint,
                config=config.identity(),
                dtype=dtype,
                texts=content,
                documents=counts["documents"],
                queries=counts["queries"],
                **trained_once(work, lambda: _train(texts, base, work, config, progress)),
            )
            write_card(work / TRAINED, out.name, metrics)
            publish(work / TRAINED, out, work)
    return PretrainReport(out, metrics, False)


def _read(store: Database, config: PretrainConfig, counts: dict[str, int]) -> Iterator[pa.RecordBatch]:
    """Yields the texts to train on, documents before queries; counts those of each role."""
    for role in [role for role in ROLES if role in config.roles]:
        for batch in unlabelled_texts(store, role, config.roles, config.without):
            counts[role] += len(batch)
            yield batch


def _content(texts: Texts) -> str:
    """Returns a hash of all texts, joined with zero bytes."""
    digest, between = hashlib.sha256(), b""
    for block in texts.blocks(texts.block(MemoryLimit.of())):
        for text in block.to_pylist():
            digest.update(between + text.encode())
            between = b"\0"
    return digest.hexdigest()


def _train(
    texts: Texts, base: ModelFolder, work: Path, config: PretrainConfig, progress: Progress
) -> dict[str, Any]:
    """Trains from the last checkpoint in `work`, saves the encoder there, and returns its figures."""
    started = time.perf_counter()
    set_seed(config.seed)
    with training_threads(config.threads, work, progress), quietly():
        model = load_model(config.base)
        own_length = model.max_seq_length
        part = prepare(model, base, config)
        batches = TextBatches(Strings(texts, texts.block(MemoryLimit.of())), config.batch_size, config.seed)
        collator: Any = Denoising(part, batches, config)
        trainer = _TsdaeTrainer(
            model=part,
            args=SentenceTransformerTrainingArguments(
                **arguments_of(config, work, len(texts), _LOGS),
                learning_rate=config.learning_rate,
                lr_scheduler_type="constant_with_warmup",
                batch_sampler=lambda *_, **__: batches,
            ),
            # With a fingerprint of its own, the library does not read all texts to compute one.
            train_dataset=Dataset(InMemoryTable(pa.table({"text": texts.array})), fingerprint="texts"),
            data_collator=collator,
            loss=denoising_loss(part, base),
        )
        note_excess(len(texts), config, progress)
        read = (texts.of(np.array(rows)).to_pylist() for rows in islice(batches, trainer.args.max_steps))
        note_truncated(part, chain.from_iterable(read), progress)
        run_training(trainer, work, "pretraining", progress)
        model.max_seq_length = own_length
        model.save_pretrained(str(work / TRAINED), create_model_card=False)
    losses = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    seconds = round(time.perf_counter() - started, 1)
    return {"steps": trainer.state.global_step, "losses": losses, "seconds": seconds}


class _TsdaeTrainer(LeanCheckpoints, SentenceTransformerTrainer):
    """The library's trainer; its checkpoints hold the decoder too."""
