"""Static models: a text's vector is the mean of its tokens' vectors in a table, so tokenising takes longest.

Several threads tokenise and look up at once, which takes less than half of the time of sentence-transformers
6.2.0 with its best batch size (benchmarks/results/encoding.md, 2 cores).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from miner.models.routes import known_words, unknown_token

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS = 256
"""Texts that a thread encodes at a time on a CPU: 64 to 4,096 are about equally fast."""
GPU_TEXTS = 4096

Vectors = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


class StaticTable:
    """Encodes texts with a model whose first module is a StaticEmbedding."""

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model
        self._tokenizer: Any = model[0].tokenizer
        self._known_words = known_words(model[0])
        self._unknown = unknown_token(self._tokenizer)

    @staticmethod
    def of(model: SentenceTransformer) -> StaticTable | None:
        """Returns the table of a model; None for a model of another kind."""
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        return StaticTable(model) if isinstance(model[0], StaticEmbedding) else None

    def encoded(self, texts: Sequence[str], prompt: str) -> tuple[Vectors, Flags]:
        """Returns the vectors as the model makes them, and which texts its tokenizer cut.

        A text without a word that the table knows has a row of NaN. It may be called in several threads.
        """
        import torch

        encodings = self._tokenizer.encode_batch_fast(
            [prompt + one for one in texts], add_special_tokens=False
        )
        rows = [one.ids for one in encodings]
        sizes = np.fromiter(map(len, rows), np.int64, len(rows))
        starts = np.cumsum(sizes) - sizes
        ids = np.fromiter(chain.from_iterable(rows), np.int64, int(sizes.sum()))
        with torch.inference_mode():
            features = {"input_ids": torch.from_numpy(ids), "offsets": torch.from_numpy(starts)}
            features = {name: value.to(self._model.device) for name, value in features.items()}
            output = self._model(features)["sentence_embedding"].float().cpu().numpy()
        vectors = np.array(output[:, : self._model.truncate_dim], dtype=np.float32)
        vectors[~self._known(texts, prompt, ids, starts, sizes)] = np.nan
        cut = self._tokenizer.truncation is not None
        return vectors, np.array([cut and bool(one.overflowing) for one in encodings], dtype=np.bool_)

    def _known(
        self,
        texts: Sequence[str],
        prompt: str,
        ids: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
    ) -> Flags:
        """Returns which texts have a token that the table knows; the words of the prompt do not count."""
        if prompt:
            assert self._known_words is not None
            return self._known_words(texts)
        known = np.concatenate([[0], np.cumsum(ids != self._unknown)])
        return np.asarray(known[starts + sizes] > known[starts])
