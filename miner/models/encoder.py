"""The encoder (bi-encoder), which turns texts into vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Progress
from miner.engine.work import ordered_map, worker_count
from miner.errors import UsageError
from miner.models.batch_limit import PLAIN_TEXTS, BatchLimit, Computing, in_batches
from miner.models.device import resolve_device, resolve_dtype
from miner.models.kinds import has_routes, own_prompts, own_similarity, require_encoder, role_lengths
from miner.models.names import resolve
from miner.models.padding import complete_padding
from miner.models.quiet import FROM_DISK, loading
from miner.models.routes import known_words, one_vector_per_text, routed
from miner.models.similarity import COSINE, without_gaps
from miner.models.static_table import GPU_TEXTS, TEXTS, StaticTable
from miner.text import fingerprint

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

_CODE = 3
"""The version of this code: a new number if the same texts get other vectors."""
_BULK = 16


class Encoded(NamedTuple):
    """The vectors of texts."""

    vectors: Vectors
    """Shape (texts, dimension)."""
    truncated: Flags
    """Which texts are longer than the model reads."""


class TextEncoder(Protocol):
    """What a cache needs of an encoder: `Encoder`, or one that a server runs."""

    @property
    def bulk(self) -> int:
        """How many times as many texts as usual are encoded between two writes to the cache."""
        ...

    def encoded(
        self,
        texts: Sequence[str],
        prompt: str = "",
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> Encoded:
        """Returns the vectors of texts, and which of these are truncated."""
        ...


class Encoder:
    """A bi-encoder by name. The weights are loaded when the first text is encoded.

    `dtype` is `auto`, `fp32` or `bf16`; `auto` is bf16 if the hardware supports it, else fp32. `dimension`
    truncates the vectors to their first numbers (Matryoshka); None keeps the model's own setting. Raises
    ModelError if the model does not exist or is not a bi-encoder.
    """

    def __init__(
        self, name: str, *, revision: str | None = None, dtype: str = "auto", dimension: int | None = None
    ) -> None:
        if dimension is not None and dimension < 1:
            raise UsageError(f"dimension must be at least 1, got {dimension}")
        self._folder = resolve(name, revision)
        require_encoder(self._folder)
        self._truncate = dimension
        self.name = name
        self._revision = revision
        self.similarity = own_similarity(self._folder, truncated=dimension is not None)
        """The similarity by which the model compares vectors: one of `SIMILARITIES`."""
        self.has_routes = has_routes(self._folder.path)
        """Whether queries and documents go through different modules (see `for_role`)."""
        self._lengths = role_lengths(self._folder.path)
        self.device = resolve_device()
        self.dtype = resolve_dtype(dtype, self.device)
        self._limit = BatchLimit(name)
        self._role = ""
        self._whole = self
        self._roles: dict[str, Encoder] = {}

    def for_role(self, role: str) -> Encoder:
        """Returns the encoder of the role `query` or `document`: this one, unless the roles differ.

        They differ in a model with routes, or with a limit of tokens for a role. The encoder of such a role
        has its own fingerprint, so that its vectors are cached separately.
        """
        if self._role or not (self.has_routes or self._lengths):
            return self
        if role not in self._roles:
            self._roles[role] = copy(self)
            self._roles[role]._role = role
        return self._roles[role]

    @property
    def arguments(self) -> dict[str, Any]:
        """What opens the same encoder in another process."""
        return {
            "name": self.name,
            "revision": self._revision,
            "dtype": self.dtype,
            "dimension": self._truncate,
        }

    @property
    def role(self) -> str:
        """The role that `for_role` gave it; empty if it has none."""
        return self._role

    @property
    def weights(self) -> str:
        """sha256 over the weights, configuration and tokenizer: `ModelFolder.fingerprint`."""
        return self._folder.fingerprint

    @property
    def fingerprint(self) -> str:
        """sha256 over the weights, the dtype, the similarity, this code's version, and the role and the
        dimension if they make a difference."""
        identity: dict[str, object] = {
            "folder": self.weights,
            "dtype": self.dtype,
            "code": _CODE,
            "similarity": self.similarity,
        }
        if self._role:
            identity["side"] = self._role
        if self._truncate is not None:
            identity["dimension"] = self._truncate
        return fingerprint(identity)

    @cached_property
    def prompts(self) -> dict[str, str]:
        """The model's own prompts for the roles `query` and `document`; empty if it has none."""
        return own_prompts(self._folder.path)

    @cached_property
    def _model(self) -> SentenceTransformer:
        """The modules that the texts go through; for a model with routes, those of the role."""
        model = self._whole._loaded
        if self.has_routes:
            model = routed(model, self._role, self.name)
        from miner.models.packed import pack

        one_vector_per_text(model, self.name)
        features: Any = model.preprocess(["a text", "another text, which is longer"])
        pack(model, lambda: model(dict(features))["sentence_embedding"].float())
        return model

    @cached_property
    def _loaded(self) -> SentenceTransformer:
        import torch
        from sentence_transformers import SentenceTransformer

        with loading(
            f"cannot load {self.name} as a sentence-transformers model",
            "name a bi-encoder, such as sentence-transformers/all-MiniLM-L6-v2 or bundled",
        ):
            model = SentenceTransformer(
                str(self._folder.path), device=self.device, truncate_dim=self._truncate, **FROM_DISK
            )
        self._folder.require_unchanged()
        self._require_dimension(model)
        complete_padding(model)
        return model.to(torch.bfloat16 if self.dtype == "bf16" else torch.float32).eval()

    def _require_dimension(self, model: SentenceTransformer) -> None:
        """Raises UsageError if the vectors are to be truncated to more numbers than they have."""
        with model.truncate_embeddings(None):
            most = model.get_embedding_dimension()
        if self._truncate is not None and most is not None and self._truncate > most:
            raise UsageError(
                f"dimension {self._truncate} is too large: the vectors of {self.name} have {most} numbers",
                f"use at most {most}",
            )

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return int(self.for_role("query")._model.get_embedding_dimension() or 0)

    def encode(
        self,
        texts: Sequence[str],
        prompt: str = "",
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> Vectors:
        """Returns the vectors of `texts`, shape (len(texts), dimension), in their order.

        They have length 1 if the model compares by cosine. `prompt` is put before every text. A text without
        a vector gets a row of NaN: the model's vector is not finite, has length 0 under cosine, or is made of
        no word that a static table knows. The result does not depend on `workers`.
        """
        return self.encoded(texts, prompt, workers=workers, progress=progress).vectors

    def encoded(
        self,
        texts: Sequence[str],
        prompt: str = "",
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> Encoded:
        """Returns the vectors as `encode` does, and which texts are longer than the model reads."""
        if not texts:
            return Encoded(np.empty((0, self.dimension), dtype=np.float32), np.zeros(0, dtype=bool))
        if self._table is not None:
            vectors, truncated = self._look_up(self._table, texts, prompt, workers, progress)
        elif self._batches_by_length(prompt):
            tokens, truncated = self._tokenise(texts, prompt)
            vectors = self._encode_by_length(tokens, workers, progress)
        else:
            with progress.task("encoding", len(texts), unit="texts") as advance:
                vectors = self._encode_plainly(texts, prompt, progress)
                advance(len(texts))
            truncated = self._longer(texts, prompt)
        return Encoded(without_gaps(vectors, self.similarity == COSINE), truncated)

    def _batches_by_length(self, prompt: str) -> bool:
        """Returns whether the model is a text transformer whose batches this class can build."""
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        first = self._model[0]
        fast = isinstance(first, Transformer) and getattr(first.tokenizer, "is_fast", False)
        if isinstance(first, Transformer) and "message" in first.modality_config:
            fast = fast and not prompt  # the prompt of a chat model is a message of its own
        pooled = all(m.include_prompt for m in self._model if isinstance(m, Pooling))
        return bool(fast and (pooled or not prompt) and not self._lengths)

    @property
    def bulk(self) -> int:
        """How many times as many texts as usual are encoded between two writes to the cache.

        It is more for a static model, whose encoding would take less time than the writing, and on a GPU,
        whose batches would otherwise not be full.
        """
        return 1 if self.device == "cpu" and self._table is None else _BULK

    @cached_property
    def _table(self) -> StaticTable | None:
        return StaticTable.of(self._model)

    def _look_up(
        self, table: StaticTable, texts: Sequence[str], prompt: str, workers: int | None, progress: Progress
    ) -> tuple[Vectors, Flags]:
        """Returns the vectors of a static model, and which texts its tokenizer cut."""
        import torch

        on_cpu = self.device == "cpu"
        size = TEXTS if on_cpu else GPU_TEXTS
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        single = (lambda: torch.set_num_threads(1)) if on_cpu else None
        done = ordered_map(
            lambda part: table.encoded(part, prompt), parts, worker_count(workers) if on_cpu else 1, single
        )
        vectors, flags = np.empty((len(texts), self.dimension), dtype=np.float32), np.zeros(len(texts), bool)
        with progress.task("encoding", len(texts), unit="texts") as advance:
            for start, (rows, cut) in zip(range(0, len(texts), size), done, strict=True):
                stop = start + len(rows)
                vectors[start:stop], flags[start:stop] = rows, cut
                advance(len(rows))
        return vectors, flags

    def _encode_plainly(self, texts: Sequence[str], prompt: str, progress: Progress) -> Vectors:
        def encode(size: int) -> Any:
            """Returns the vectors, computed with so many texts per batch."""
            return self._model.encode(
                list(texts),
                prompt=prompt,
                task=self._role or None,
                batch_size=size,
                show_progress_bar=False,
            )

        vectors = np.array(self._limit.in_halves(encode, PLAIN_TEXTS, progress), dtype=np.float32)
        if self._known_words is not None:
            vectors[~self._known_words(texts)] = np.nan
        return vectors

    @cached_property
    def _known_words(self) -> Callable[[Sequence[str]], npt.NDArray[np.bool_]] | None:
        return known_words(self._model[0])

    def _encode_by_length(self, tokens: list[list[int]], workers: int | None, progress: Progress) -> Vectors:
        lengths = [len(ids) for ids in tokens]
        vectors = np.empty((len(tokens), self.dimension), dtype=np.float32)
        done = in_batches(
            lengths,
            lambda batch: [tokens[i] for i in batch],
            self._forward,
            Computing(self._limit, self.device, workers, progress),
        )
        for batch, result in done:
            vectors[batch] = result
        # The tokens of an empty text, if the tokenizer adds no special tokens.
        vectors[np.asarray(lengths) == 0] = np.nan
        return vectors

    def _longer(self, texts: Sequence[str], prompt: str) -> Flags:
        """Returns which texts have more tokens than the model reads, for models whose library cuts texts."""
        limit = self._lengths.get(self._role, self._model.max_seq_length)
        tokenizer = getattr(self._model, "tokenizer", None)
        flags = np.zeros(len(texts), dtype=bool)
        if limit is None or math.isinf(limit) or not callable(tokenizer):
            return flags
        # A token has at least one byte, so only long texts need tokenising.
        long = [i for i, text in enumerate(texts) if len((prompt + text).encode()) > limit - 8]
        for i in long:
            ids = tokenizer(prompt + texts[i], return_attention_mask=False, verbose=False)["input_ids"]
            flags[i] = len(ids) > limit
        return flags

    def _tokenise(self, texts: Sequence[str], prompt: str) -> tuple[list[list[int]], Flags]:
        """Returns the token ids of each text, cut to what the model reads, and which texts were cut."""
        limit = self._model.max_seq_length
        encoded = self._model.tokenizer(
            [prompt + text for text in texts],
            truncation=limit is not None,
            max_length=limit,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        tokens: list[list[int]] = encoded["input_ids"]
        truncated = np.zeros(len(texts), dtype=bool)
        for i, ids in enumerate(tokens):
            truncated[i] = limit is not None and len(ids) >= limit and bool(encoded.encodings[i].overflowing)
        return tokens, truncated

    def _forward(self, tokens: list[list[int]]) -> Vectors:
        import torch

        longest = max(map(len, tokens))
        if not longest:
            return np.full((len(tokens), self.dimension), np.nan, dtype=np.float32)
        pad = self._model.tokenizer.pad_token_id or 0
        rows = [ids + [pad] * (longest - len(ids)) for ids in tokens]
        mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in tokens]
        with torch.inference_mode():
            features = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}
            features = {name: value.to(self.device) for name, value in features.items()}
            output = self._model(features)["sentence_embedding"].float().cpu().numpy()
        return np.asarray(output[:, : self._model.truncate_dim], dtype=np.float32)
