"""What sparse and multi-vector encoders share: sentence-transformers runs them, for one role at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Progress
from miner.errors import ModelError
from miner.models.batch_limit import BatchLimit, Computing, in_batches
from miner.models.batching import Indices
from miner.models.device import resolve_device, resolve_dtype
from miner.models.kinds import own_prompts, own_scoring, require_kind
from miner.models.names import resolve
from miner.models.padding import complete_padding
from miner.models.quiet import FROM_DISK, loading, quietly
from miner.models.ragged_cache import Ragged
from miner.models.routes import route_modules
from miner.models.row_cache import Flags, Items
from miner.text import fingerprint

_TOKENISED = 256
"""Texts whose lengths in tokens are counted at a time."""


class EncodedRows(NamedTuple):
    """The rows of texts: weights of a sparse vector, or token vectors."""

    vectors: Ragged
    truncated: Flags
    """Which texts are longer than the model reads."""


class LibraryEncoder(ABC):
    """A sparse or multi-vector encoder by name. The weights are loaded when the first text is encoded.

    It gives the vectors of `encode_query` and `encode_document` of sentence-transformers: the model's routes,
    lengths, query expansion and masks apply; `for_role` chooses the role. `dtype` is as for `Encoder`.
    Raises ModelError if the model does not exist or is of another kind.
    """

    KIND: ClassVar[str]
    SIMILARITIES: ClassVar[Sequence[str]]
    """The similarities that the library's class knows, its default first."""
    _CODE: ClassVar[int]
    """The version of this code: a new number if the same texts get other vectors."""
    _GPU_TOKENS: ClassVar[int]
    """Tokens per batch on a GPU."""

    def __init__(self, name: str, *, revision: str | None = None, dtype: str = "auto") -> None:
        self._folder = resolve(name, revision)
        require_kind(self._folder, self.KIND)
        self.name = name
        self._revision = revision
        self.similarity = own_scoring(self._folder.path, self.SIMILARITIES)
        """The similarity by which the model compares texts: one of `SIMILARITIES`."""
        self.device = resolve_device()
        self.dtype = resolve_dtype(dtype, self.device)
        self.bulk = 1 if self.device == "cpu" else 4
        """How many times as many texts as usual are encoded between two writes to the cache: more on a GPU,
        whose batches would otherwise not be full."""
        self._limit = BatchLimit(name)
        self._role = ""
        self._whole = self
        self._roles: dict[str, Self] = {}

    def for_role(self, role: str) -> Self:
        """Returns the encoder of the role `query` or `document`, which has its own fingerprint."""
        if self._role:
            return self
        if role not in self._roles:
            self._roles[role] = copy(self)
            self._roles[role]._role = role
        return self._roles[role]

    @property
    def arguments(self) -> dict[str, Any]:
        """What opens the same encoder in another process."""
        return {"name": self.name, "revision": self._revision, "dtype": self.dtype}

    @property
    def role(self) -> str:
        """The role that `for_role` gave it; empty if it has none."""
        return self._role

    @property
    def fingerprint(self) -> str:
        """sha256 over the weights, the dtype, this code's version, and the role."""
        identity = {"folder": self._folder.fingerprint, "dtype": self.dtype, "code": self._CODE}
        return fingerprint(identity | self._identity() | ({"side": self._role} if self._role else {}))

    def _identity(self) -> dict[str, str]:
        """Returns what else the rows depend on."""
        return {"kind": self.KIND}

    @cached_property
    def prompts(self) -> dict[str, str]:
        """The model's own prompts for the roles `query` and `document`; empty if it has none."""
        return own_prompts(self._folder.path)

    @property
    @abstractmethod
    def item_dtype(self) -> np.dtype[Any]:
        """The type of the numbers in a row's items."""

    @abstractmethod
    def _library_class(self) -> Any:
        """Returns the model's class in sentence-transformers."""

    @abstractmethod
    def _items(self, features: dict[str, Any]) -> list[Items]:
        """Returns each text's items from the model's output: shape (items, dimension); none if not finite."""

    @cached_property
    def _model(self) -> Any:
        """The loaded model; raises ModelError if it has no route for the role."""
        from miner.models.packed import pack

        model = self._whole._loaded
        route_modules(model, self._role, self.name)
        features = model.preprocess(["a text", "another text, which is longer"], task=self._role)

        def probe() -> Any:
            """Returns the token vectors of two texts, or their vectors if the model has no others."""
            made = model(dict(features), task=self._role, **self._options())
            return made.get("token_embeddings", made.get("sentence_embedding")).float()

        if self.device == "cpu":
            pack(model, probe)
        return model

    @cached_property
    def _width(self) -> int:
        """The dimension of an item; raises ModelError if the model does not encode a text."""
        from sentence_transformers.util import batch_to_device

        model = self._model
        with loading(f"{self.name} cannot encode a text", "load it with sentence-transformers to see why"):
            features = batch_to_device(self._preprocessed(["a text"], ""), model.device)
            return int(self._forward(features)[0].shape[1])

    @cached_property
    def _loaded(self) -> Any:
        import torch

        hint = "see whether the same version of sentence-transformers loads it"
        with loading(f"cannot load {self.name} as a {self.KIND} encoder of sentence-transformers", hint):
            model = self._library_class()(str(self._folder.path), device=self.device, **FROM_DISK)
        self._folder.require_unchanged()
        complete_padding(model)
        return model.to(torch.bfloat16 if self.dtype == "bf16" else torch.float32).eval()

    def encoded(
        self,
        texts: Sequence[str],
        prompt: str = "",
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> EncodedRows:
        """Returns the rows of `texts` in their order, and which texts are longer than the model reads.

        `prompt` is put before every text. A text without a vector has a row without items: the model's output
        is not finite, is zero, or every token is masked. The result does not depend on `workers`. Raises
        ModelError without a role (see `for_role`).
        """
        if not self._role:
            raise ModelError(f"{self.name} needs a role", "call for_role first")
        with quietly():
            none = np.empty((0, self._width), self.item_dtype)
            lengths = self._lengths(texts, prompt)
            rows: list[Items] = [none] * len(texts)
            done = in_batches(
                lengths,
                lambda batch: self._prepared(batch, texts, prompt, lengths),
                self._forward,
                Computing(self._limit, self.device, workers, progress, tokens=self._GPU_TOKENS),
            )
            for batch, items in done:
                for position, one in zip(batch.tolist(), items, strict=False):
                    rows[position] = one
            truncated = self._longer(texts, prompt, lengths)
        sizes = np.array([len(row) for row in rows], dtype=np.int64)
        return EncodedRows(Ragged(np.concatenate([none, *rows]), sizes), truncated)

    def _preprocessed(self, texts: Sequence[str], prompt: str, **settings: Any) -> dict[str, Any]:
        features: dict[str, Any] = self._model.preprocess(
            list(texts), prompt=prompt or None, task=self._role, **settings
        )
        return features

    def _prepared(
        self, batch: Indices, texts: Sequence[str], prompt: str, lengths: Sequence[int]
    ) -> dict[str, Any] | None:
        """Returns the input of the model for a batch; None if no text of it has a token."""
        from sentence_transformers.util import batch_to_device

        if not any(lengths[i] for i in batch):
            return None
        features = self._preprocessed([texts[i] for i in batch], prompt)
        return batch_to_device(features, self._model.device)

    def _forward(self, features: dict[str, Any] | None) -> list[Items]:
        import torch

        if features is None:
            return []
        with torch.inference_mode():
            return self._items(self._model(features, task=self._role, **self._options()))

    def _options(self) -> dict[str, Any]:
        """Returns further arguments of the model's forward pass."""
        return {}

    def _lengths(self, texts: Sequence[str], prompt: str) -> list[int]:
        """Returns the number of tokens of every text that the model reads; 1 for a model without a mask."""
        lengths: list[int] = []
        for start in range(0, len(texts), _TOKENISED):
            part = texts[start : start + _TOKENISED]
            lengths += _tokens(self._preprocessed(part, prompt), len(part))
        return lengths

    def _longer(self, texts: Sequence[str], prompt: str, lengths: Sequence[int]) -> Flags:
        """Returns which texts the model cuts: their tokens, counted without a limit, are more than it reads.

        Only the longest can be cut, since all texts are cut to one length.
        """
        flags = np.zeros(len(texts), dtype=bool)
        most = max(lengths, default=0)
        for i, text in enumerate(texts):
            if lengths[i] == most:
                flags[i] = self._whole_length(text, prompt, most) > most
        return flags

    def _whole_length(self, text: str, prompt: str, otherwise: int) -> int:
        from sentence_transformers.base.modules import Transformer

        first = route_modules(self._model, self._role, self.name)[0]
        if isinstance(first, Transformer):
            uncut = {"text": {"truncation": False, "max_length": None}}
            return _tokens(self._preprocessed([text], prompt, processing_kwargs=uncut), 1)[0]
        tokenizer = getattr(first, "tokenizer", None)
        if not callable(tokenizer):
            return otherwise
        return len(tokenizer(prompt + text, add_special_tokens=False)["input_ids"])


def _tokens(features: dict[str, Any], texts: int) -> list[int]:
    """Returns the number of tokens of each text, with those of a query's expansion."""
    mask = features.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return [1] * texts
    expansion = features.get("query_expansion_positions")
    read = mask.bool() if expansion is None else mask.bool() | expansion.bool()
    counts: list[int] = read.sum(dim=1).tolist()
    return counts


def only_finite(items: npt.NDArray[Any], values: npt.NDArray[np.floating]) -> Items:
    """Returns a text's items, or none of them if a value is not finite."""
    return items if np.isfinite(values).all() else items[:0]
