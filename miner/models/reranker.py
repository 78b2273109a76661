"""The reranker (cross-encoder), which scores (query, document) pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Progress
from miner.errors import ModelError
from miner.models.batch_limit import PLAIN_TEXTS, BatchLimit, Computing, in_batches
from miner.models.batching import Indices
from miner.models.device import resolve_device, resolve_dtype
from miner.models.kinds import no_instruction, require_head, takes_instruction
from miner.models.names import resolve
from miner.models.padding import GENERATES, complete_padding
from miner.models.pairs import ModelTokenizer, PairTokenizer, PairTokens
from miner.models.quiet import FROM_DISK, loading
from miner.models.weights import FOLDS_FILE
from miner.ranges import DTYPES
from miner.text import fingerprint, text_key

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Scores = npt.NDArray[np.float64]

_CODE = 3
"""The version of this code: a new number if the same pairs get other scores."""


def fold_of(query: str, folds: int) -> int:
    """Returns the fold of a query; queries of equal normalised text have the same fold."""
    return (text_key(query) % 2**64) % folds


def fold_folder(folder: Path, fold: int) -> Path:
    """Returns the folder of an ensemble's model for a fold, which was not trained on that fold's queries."""
    return folder / f"fold-{fold}"


class Reranker:
    """A cross-encoder or an ensemble of folds, by name. The weights are loaded at the first pair.

    A classifier scores a pair with its head, a language model with the logit of its answer `yes`, or the
    difference of `yes` and `no` (`LogitScore` of sentence-transformers). `dtype` is `auto`, `fp32` or `bf16`;
    `auto` is bf16 if the hardware supports it, else fp32. `instruction` replaces the model's own prompt, as
    `prompt` in `CrossEncoder.predict`; an empty one removes it. Raises ModelError if there is no such model,
    it is not a reranker, or it takes no instruction.
    """

    def __init__(
        self, name: str, *, revision: str | None = None, dtype: str = "auto", instruction: str | None = None
    ) -> None:
        self._folder = resolve(name, revision)
        self._revision = revision
        self.name = name
        self.instruction = instruction
        self.device = resolve_device()
        self.dtype = resolve_dtype(dtype, self.device)
        self.truncated = 0
        """Number of pairs scored so far that are longer than the model reads."""
        self.folds = _fold_count(self._folder.path)
        """Number of models of an ensemble; 0 for a single model."""
        for path in self._paths:
            require_head(name, path)
            if instruction is not None and not takes_instruction(path):
                raise no_instruction(name)

    @property
    def arguments(self) -> dict[str, Any]:
        """What opens the same reranker in another process."""
        return {
            "name": self.name,
            "revision": self._revision,
            "dtype": self.dtype,
            "instruction": self.instruction,
        }

    @property
    def weights(self) -> str:
        """sha256 over the weights, configuration and tokenizer: `ModelFolder.fingerprint`."""
        return self._folder.fingerprint

    @property
    def fingerprint(self) -> str:
        """sha256 over the weights, the dtype, the instruction if there is one, and this code's version."""
        return self.fingerprints[self.dtype]

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of these weights for each dtype."""
        given = {} if self.instruction is None else {"instruction": self.instruction}
        return {
            dtype: fingerprint({"reranker": self.weights, "dtype": dtype, "code": _CODE, **given})
            for dtype in DTYPES
            if dtype != "auto"
        }

    @property
    def max_length(self) -> int:
        """The number of tokens that the model reads of a pair, with special tokens."""
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

        Equal to `CrossEncoder.predict` up to rounding; does not depend on `workers`. In an ensemble, the
        model that was not trained on a query scores it.
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
        fold = {query: fold_of(query, self.folds) for query in set(queries)}
        folds = np.fromiter((fold[query] for query in queries), dtype=np.int64)
        return [np.flatnonzero(folds == fold) for fold in range(self.folds)]

    @property
    def _paths(self) -> list[Path]:
        path = self._folder.path
        return [fold_folder(path, fold) for fold in range(self.folds)] if self.folds else [path]

    @cached_property
    def _models(self) -> list[PairScorer]:
        models = [
            PairScorer(
                _load(self.name, path, self.device, self.instruction),
                self.dtype,
                self.instruction,
                self.name,
            )
            for path in self._paths
        ]
        self._folder.require_unchanged()
        return models


class PairScorer:
    """A loaded cross-encoder, which computes in `dtype` on its device."""

    def __init__(
        self,
        model: CrossEncoder,
        dtype: str,
        instruction: str | None = None,
        name: str = "the reranker",
    ) -> None:
        import torch

        from miner.models.first_token import read_first_token_only
        from miner.models.packed import pack

        self._model: Any = model.float().eval()
        self._limit = BatchLimit(name)
        self._prompt = instruction
        self._generates = getattr(model[0], "transformer_task", "") in GENERATES
        self._tokenizer = self._tokenizer_of(model)
        if isinstance(self._tokenizer, PairTokenizer):
            read_first_token_only(self._model[0].model)
        self._model.to(torch.bfloat16 if dtype == "bf16" else torch.float32)
        if isinstance(self._tokenizer, PairTokenizer):
            probe = self._tokenizer.pairs(["a query", "another"], ["a text", "another, longer text"])
            transformer: Any = self._model[0].model
            pack(transformer, lambda: self._logits(probe, np.arange(2)))

    def _tokenizer_of(self, model: CrossEncoder) -> PairTokenizer | ModelTokenizer | None:
        """Returns what makes the batches of a model that reads tokens only; None for any other."""
        from sentence_transformers.base.modules import Transformer

        if not isinstance(model[0], Transformer):
            return None
        if _is_text_classifier(model) and self._prompt is None:
            return PairTokenizer(model.tokenizer, self.max_length)
        model.max_seq_length = self.max_length
        prompt = model.prompts.get(model.default_prompt_name or "") if self._prompt is None else self._prompt
        tokenizer = ModelTokenizer(model, prompt)
        return tokenizer if tokenizer.fits else None

    @property
    def max_length(self) -> int:
        """The number of tokens that the model reads of a pair."""
        config = self._model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None) or 512
        return min(self._model.max_seq_length or positions, positions)

    def score(
        self, queries: Sequence[str], documents: Sequence[str], workers: int | None, progress: Progress
    ) -> tuple[Scores, int]:
        """Returns the score of each pair, and the number of pairs that were cut."""
        if self._tokenizer is None:
            pairs = list(zip(queries, documents, strict=True))

            def predict(size: int) -> Any:
                """Returns the scores, computed with so many pairs per batch."""
                return self._model.predict(
                    pairs, prompt=self._prompt, batch_size=size, show_progress_bar=False
                )

            scores = self._limit.in_halves(predict, PLAIN_TEXTS, progress)
            return np.asarray(scores, dtype=np.float64), 0
        tokens = self._tokenizer.pairs(queries, documents)
        return self._score_by_length(tokens, workers, progress), tokens.truncated

    def _score_by_length(self, tokens: PairTokens, workers: int | None, progress: Progress) -> Scores:
        scores = np.empty(len(tokens.lengths), dtype=np.float64)
        how = Computing(
            self._limit, self._model.device.type, workers, progress, task="reranking", unit="tokens"
        )
        for batch, result in in_batches(
            tokens.lengths, lambda batch: batch, lambda batch: self._forward(tokens, batch), how
        ):
            scores[batch] = result
        return scores

    def _forward(self, tokens: PairTokens, batch: Indices) -> Scores:
        import torch

        with torch.inference_mode():
            scores = self._model.activation_fn(self._logits(tokens, batch))[:, 0].cpu().numpy()
        return np.asarray(scores, dtype=np.float64)

    def _logits(self, tokens: PairTokens, batch: Indices) -> Any:
        """Returns the model's output for a batch: shape (pairs, 1)."""
        import torch

        own = self._tokenizer if isinstance(self._tokenizer, ModelTokenizer) else None
        tokenizer = self._model.tokenizer
        ids, types, mask = tokens.matrix(batch, tokenizer.pad_token_id or 0, left=self._generates)
        features = {"input_ids": torch.from_numpy(ids)}
        if own.has_types if own else "token_type_ids" in tokenizer.model_input_names:
            features["token_type_ids"] = torch.from_numpy(types)
        if not mask.all():
            features["attention_mask"] = torch.from_numpy(mask)
            if self._generates:
                # A model that learned its positions must count them from the first token of a pair.
                features["position_ids"] = torch.from_numpy(np.maximum(mask.cumsum(axis=1) - 1, 0))
        features = {name: value.to(self._model.device) for name, value in features.items()}
        if own:
            return self._model({**features, **own.constants})["scores"].float()
        return self._model[0].model(**features).logits.float()


def _fold_count(folder: Path) -> int:
    file = folder / FOLDS_FILE
    if not file.exists():
        return 0
    try:
        folds = int(json.loads(file.read_text("utf-8"))["folds"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} does not name the number of folds", "train the reranker again") from error
    missing = [fold for fold in range(folds) if not fold_folder(folder, fold).is_dir()]
    if missing or folds < 1:
        raise ModelError(f"{folder} lacks fold-{min(missing, default=0)}", "train the reranker again")
    return folds


def _load(name: str, folder: Path, device: str, instruction: str | None) -> CrossEncoder:
    from sentence_transformers import CrossEncoder

    with loading(
        f"cannot load {name} as a cross-encoder",
        "name a reranker, such as cross-encoder/ms-marco-MiniLM-L6-v2",
    ):
        model: CrossEncoder = CrossEncoder(str(folder), device=device, **FROM_DISK)
        complete_padding(model)
        # A chat template that has no place for a query and a document raises here.
        model.preprocess([("a query", "a document")])
    if model.num_labels != 1:
        raise ModelError(
            f"{name} gives {model.num_labels} scores per pair; a reranker gives one",
            "name a cross-encoder with num_labels = 1",
        )
    _require_answers(model, name)
    if instruction is not None and not _reads_instruction(model):
        raise no_instruction(name)
    return model


def _require_answers(model: CrossEncoder, name: str) -> None:
    """Raises ModelError for a language model without tokens of its own for its two answers.

    The library names the tokens `yes` and `no` if the model's files name none; a vocabulary without these
    words has the token for unknown words for both, and all pairs would score 0.
    """
    from sentence_transformers.cross_encoder.modules import LogitScore

    for module in model:
        if isinstance(module, LogitScore) and module.true_token_id == module.false_token_id:
            raise ModelError(
                f"{name} has no tokens 'yes' and 'no' to answer with, and its files name no others",
                "name a reranker whose folder has a LogitScore module",
            )


def _reads_instruction(model: CrossEncoder) -> bool:
    """Returns whether a prompt belongs to what the model reads.

    A chat template may ignore the system message, which is where the library puts a prompt. Without a
    template, the library writes a prompt before the query, which only a model with prompts was trained on.
    """
    first: Any = model[0]
    if "message" not in getattr(first, "modality_config", ()):
        return any(model.prompts.values())
    pair = [("a query", "a document")]
    one, other = (model.preprocess(pair, prompt=prompt)["input_ids"].tolist() for prompt in ("1", "2 3"))
    return bool(one != other)


def _is_text_classifier(model: CrossEncoder) -> bool:
    """Returns whether the model is one transformer with a head that reads a query and a document only."""
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
