"""The reranker (cross-encoder): a score for each (query, document) pair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Progress
from miner.engine.work import ordered_map, worker_count
from miner.errors import ModelError
from miner.models.batching import Indices, equal_length_batches, padded_batches
from miner.models.device import DTYPES, resolve_device, resolve_dtype
from miner.models.kinds import require_head
from miner.models.names import resolve
from miner.models.padding import complete_padding
from miner.models.pairs import PairTokenizer, PairTokens
from miner.models.quiet import quietly
from miner.models.weights import FOLDS_FILE
from miner.text import fingerprint, text_key

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Scores = npt.NDArray[np.float64]

_CODE = 1
"""Raised when the same pairs would get other scores."""


def fold_of(query: str, folds: int) -> int:
    """Returns the fold that a query belongs to: queries of equal normalised text share theirs."""
    return (text_key(query) % 2**64) % folds


def fold_folder(folder: Path, fold: int) -> Path:
    """Returns where an ensemble keeps the model of a fold, which never trained on that fold's queries."""
    return folder / f"fold-{fold}"


class Reranker:
    """A cross-encoder, or an ensemble of folds, by name. Weights are read at the first pair.

    `dtype` is `auto`, `fp32` or `bf16`; auto takes bf16 where the processor or the GPU multiplies
    in it. Raises ModelError when there is no such model, or it is not a reranker.
    """

    def __init__(self, name: str, *, revision: str | None = None, dtype: str = "auto") -> None:
        self._folder = resolve(name, revision)
        self.name = name
        self.device = resolve_device()
        self.dtype = resolve_dtype(dtype, self.device)
        self.truncated = 0
        """How many of the pairs scored so far were longer than the model reads."""
        self.folds = _fold_count(self._folder.path)
        """How many models the queries are shared out to; 0 for a single model."""
        for path in self._paths:
            require_head(name, path)

    @property
    def weights(self) -> str:
        """sha256 over the weights, configuration and tokenizer: `ModelFolder.fingerprint`."""
        return self._folder.fingerprint

    @property
    def fingerprint(self) -> str:
        """sha256 over the weights, the numbers they are computed in, and this code's version."""
        return self.fingerprints[self.dtype]

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint that these weights have with each dtype."""
        return {
            dtype: fingerprint({"reranker": self.weights, "dtype": dtype, "code": _CODE})
            for dtype in DTYPES
            if dtype != "auto"
        }

    @property
    def max_length(self) -> int:
        """How many tokens of a pair are read, special tokens included; the rest is cut off."""
        return self._models[0].max_length

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> Scores:
        """Returns the score of each pair (queries[i], documents[i]), after the model's own activation.

        Equal to `CrossEncoder.predict` up to rounding; does not depend on `workers`. With an
        ensemble, each query is scored by the model that did not train on it.
        """
        scores = np.empty(len(queries), dtype=np.float64)
        if not len(queries):
            return scores
        for model, members in zip(self._models, self._shares(queries), strict=True):
            if len(members):
                pairs = [queries[i] for i in members], [documents[i] for i in members]
                scores[members], cut = model.score(*pairs, workers, progress)
                self.truncated += cut
        return scores

    def _shares(self, queries: Sequence[str]) -> list[Indices]:
        if not self.folds:
            return [np.arange(len(queries))]
        places = {query: fold_of(query, self.folds) for query in set(queries)}
        folds = np.fromiter((places[query] for query in queries), dtype=np.int64)
        return [np.flatnonzero(folds == fold) for fold in range(self.folds)]

    @property
    def _paths(self) -> list[Path]:
        path = self._folder.path
        return [fold_folder(path, fold) for fold in range(self.folds)] if self.folds else [path]

    @cached_property
    def _models(self) -> list[PairScorer]:
        models = [PairScorer(_load(self.name, path, self.device), self.dtype) for path in self._paths]
        self._folder.require_unchanged()
        return models


class PairScorer:
    """One loaded cross-encoder, computing in `dtype` on the device that it is on."""

    def __init__(self, model: CrossEncoder, dtype: str) -> None:
        import torch

        from miner.models.first_token import read_first_token_only

        self._model: Any = model.float().eval()
        self._on_cpu = model.device.type == "cpu"
        self._tokenizer: PairTokenizer | None = None
        if _is_text_classifier(model):
            self._tokenizer = PairTokenizer(model.tokenizer, self.max_length)
            read_first_token_only(self._model[0].model)
        self._model.to(torch.bfloat16 if dtype == "bf16" else torch.float32)

    @property
    def max_length(self) -> int:
        """How many tokens of a pair the model reads."""
        positions = getattr(self._model.config, "max_position_embeddings", None) or 512
        return min(self._model.max_seq_length or positions, positions)

    def score(
        self, queries: Sequence[str], documents: Sequence[str], workers: int | None, progress: Progress
    ) -> tuple[Scores, int]:
        """Returns each pair's score, and how many pairs were cut."""
        if self._tokenizer is None:
            pairs = list(zip(queries, documents, strict=True))
            return np.asarray(self._model.predict(pairs, show_progress_bar=False), dtype=np.float64), 0
        tokens = self._tokenizer.pairs(queries, documents)
        return self._score_by_length(tokens, workers, progress), tokens.truncated

    def _score_by_length(self, tokens: PairTokens, workers: int | None, progress: Progress) -> Scores:
        import torch

        workers = worker_count(workers) if self._on_cpu else 1
        cut = equal_length_batches if self._on_cpu else padded_batches
        batches = cut(tokens.lengths)
        scores = np.empty(len(tokens.lengths), dtype=np.float64)
        threads = torch.get_num_threads()
        single = (lambda: torch.set_num_threads(1)) if self._on_cpu else None
        results = ordered_map(lambda batch: self._forward(tokens, batch), batches, workers, single)
        try:
            with progress.task("reranking", int(tokens.lengths.sum()), unit="tokens") as advance:
                for batch, result in zip(batches, results, strict=True):
                    scores[batch] = result
                    advance(int(tokens.lengths[batch].sum()))
        finally:
            torch.set_num_threads(threads)
        return scores

    def _forward(self, tokens: PairTokens, batch: Indices) -> Scores:
        import torch

        tokenizer = self._model.tokenizer
        ids, types, mask = tokens.matrix(batch, tokenizer.pad_token_id or 0)
        features = {"input_ids": torch.from_numpy(ids)}
        if "token_type_ids" in tokenizer.model_input_names:
            features["token_type_ids"] = torch.from_numpy(types)
        if not mask.all():
            features["attention_mask"] = torch.from_numpy(mask)
        with torch.inference_mode():
            features = {name: value.to(self._model.device) for name, value in features.items()}
            logits = self._model[0].model(**features).logits.float()
            scores = self._model.activation_fn(logits)[:, 0].cpu().numpy()
        return np.asarray(scores, dtype=np.float64)


def _fold_count(folder: Path) -> int:
    file = folder / FOLDS_FILE
    if not file.exists():
        return 0
    try:
        folds = int(json.loads(file.read_text("utf-8"))["folds"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file} does not say how many folds there are", "train the reranker again"
        ) from error
    missing = [fold for fold in range(folds) if not fold_folder(folder, fold).is_dir()]
    if missing or folds < 1:
        raise ModelError(f"{folder} lacks fold-{min(missing, default=0)}", "train the reranker again")
    return folds


def _load(name: str, folder: Path, device: str) -> CrossEncoder:
    from sentence_transformers import CrossEncoder

    try:
        with quietly():
            model: CrossEncoder = CrossEncoder(
                str(folder),
                device=device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
    except Exception as error:  # damaged configurations and weights make the libraries raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name} does not load as a cross-encoder: {reason}",
            "name a reranker, such as cross-encoder/ms-marco-MiniLM-L6-v2",
        ) from error
    if model.num_labels != 1:
        raise ModelError(
            f"{name} gives {model.num_labels} scores per pair, a reranker gives one",
            "name a cross-encoder with num_labels = 1",
        )
    complete_padding(model)
    return model


def _is_text_classifier(model: CrossEncoder) -> bool:
    """Whether the model is one transformer with a head, whose batches can be built here."""
    from sentence_transformers.base.modules import Transformer

    first = model[0]
    return bool(
        len(model) == 1
        and isinstance(first, Transformer)
        and first.transformer_task == "sequence-classification"
        and "message" not in first.modality_config
        and getattr(first.tokenizer, "is_fast", False)
        and not model.default_prompt_name
    )
