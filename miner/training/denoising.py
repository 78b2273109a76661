"""The denoising task of TSDAE: delete words, and rebuild the text from the vector of what is left.

Wang, Reimers, Gurevych: TSDAE: Using Transformer-based Sequential Denoising Auto-Encoder for
Unsupervised Sentence Embedding Learning, Findings of EMNLP 2021.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from miner.errors import ModelError
from miner.models.names import ModelFolder
from miner.models.weights import modules_of
from miner.text import is_unspaced, parts
from miner.training.pretrain_config import PretrainConfig

_GROUP = 32
"""Batches that are sorted by length together."""
_BASES = "name a BERT, RoBERTa or XLM-RoBERTa encoder, such as bundled"


def delete_words(text: str, deletion: float, seed: int, epoch: int) -> str:
    """Returns the text without the words that chance deletes, with single spaces where white space was.

    Words are what white space separates; in scripts without spaces, each character with its marks (see
    `text.parts`). Each is deleted with probability `deletion`; if none would stay, one drawn word does.
    Depends on nothing but the arguments.
    """
    pieces = parts(text)
    rng = random.Random(f"{seed} {epoch} {text}")
    kept = [[part for part in piece if rng.random() >= deletion] for piece in pieces]
    if pieces and not any(kept):
        kept = [[rng.choice([part for piece in pieces for part in piece])]]
    return " ".join(piece[0] if len(piece) == 1 else _joined(piece) for piece in kept if piece)


def _joined(piece: list[str]) -> str:
    """The parts of a piece in a row. Words between which all characters were deleted stay two words."""
    joined = piece[0]
    for before, part in pairwise(piece):
        joined += part if is_unspaced(before) or is_unspaced(part) else f" {part}"
    return joined


class TextBatches(DefaultBatchSampler):
    """Batches of texts of similar length, in random order: less padding, so faster training.

    Texts are shuffled and cut into groups of 32 batches; each group is sorted by length and cut
    into batches; last, the batches are shuffled.
    """

    def __init__(self, texts: Sequence[str], batch_size: int, seed: int) -> None:
        super().__init__(range(len(texts)), batch_size, False, seed=seed)
        self._lengths = np.fromiter(map(len, texts), dtype=np.int64)

    def __iter__(self) -> Iterator[list[int]]:
        """Yields the positions of each batch; the same ones for the same seed and epoch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        shuffled = rng.permutation(len(self._lengths))
        size = self.batch_size * _GROUP
        groups = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        order = np.concatenate([group[np.argsort(self._lengths[group], kind="stable")] for group in groups])
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        for number in rng.permutation(len(batches)):
            yield batches[number].tolist()


class Denoising:
    """Collates a batch: the tokens of each text without its deleted words, and those of the text."""

    valid_label_columns: tuple[str, ...] = ()

    def __init__(self, model: SentenceTransformer, batches: TextBatches, config: PretrainConfig) -> None:
        self._inner = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)
        self._batches = batches
        self._config = config

    def __call__(self, rows: list[dict[str, str]]) -> dict[str, Any]:
        """Returns the tensors of both; the deleted words depend on the epoch of the batches."""
        epoch = self._batches.epoch
        pairs = [
            {"noisy": delete_words(row["text"], self._config.deletion, self._config.seed, epoch), **row}
            for row in rows
        ]
        collated: dict[str, Any] = self._inner(pairs)
        return collated


def prepare(model: SentenceTransformer, base: ModelFolder, config: PretrainConfig) -> SentenceTransformer:
    """Sets pooling and length, and returns the part that is trained: all but the normalisation.

    The part shares its modules with `model`. With the normalisation the decoder read vectors of
    length 1, and rebuilt worse: 6.39 nats a token instead of 6.36 after 150 steps of `bundled` on
    1,200 texts of perspectrum. Raises ModelError for a model that TSDAE cannot train.
    """
    if not isinstance(model[0], Transformer):
        raise ModelError(
            f"{base.name} is no transformer: {type(model[0]).__name__} has nothing to denoise with", _BASES
        )
    modules = [module for module in model if not isinstance(module, Normalize)]
    pooling = modules[1] if len(modules) == 2 else None
    if not isinstance(pooling, Pooling):
        raise ModelError(f"{base.name} is not a transformer with pooling and nothing more", _BASES)
    if config.pooling != "keep":
        pooling.pooling_mode = config.pooling
        pooling.pooling_output_dimension = pooling.embedding_dimension
    if pooling.pooling_output_dimension != pooling.embedding_dimension:
        raise ModelError(
            f"{base.name} pools in several ways at once: the decoder reads one vector",
            "choose --pooling cls or mean",
        )
    own = model.max_seq_length
    model.max_seq_length = min(config.max_length, int(own or config.max_length))
    return SentenceTransformer(modules=modules, device=str(model.device))


def denoising_loss(model: SentenceTransformer, base: ModelFolder) -> DenoisingAutoEncoderLoss:
    """Returns the loss with its decoder, in fp32 and training mode, whose weights are the encoder's.

    The cross attention is new and drawn with PyTorch's seed; so is the language model's head where
    the base has none. Raises ModelError when the architecture has no decoder with cross attention.
    """
    network: Any = model[0]
    config = network.model.config
    no_decoder = ModelError(
        f"{base.name}: TSDAE has no decoder for architecture '{config.model_type}'", _BASES
    )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise no_decoder
    # Where the loss loads the decoder from.
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
    """The folder of the transformer itself: the model's, or the one below it that modules.json names."""
    place = next(
        (place for place, kind in modules_of(base.path) if kind in ("Transformer", "MLMTransformer")), ""
    )
    folder = base.path / place
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{base.name} has no safetensors weights in {folder}",
            "only safetensors are loaded; convert it with model.save_pretrained(folder)",
        )
    return folder
