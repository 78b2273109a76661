"""A vector cache with an encoder whose vectors are known beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Advance, Progress
from miner.models.encoder import Encoded
from miner.models.vector_cache import VectorCache, embed, vector_keys

DIMENSION = 5
MODEL = "5c1e" * 16
"""A fingerprint."""


class Lengths:
    """An encoder whose vector tells the text and the prompt, and that counts what it was asked."""

    bulk = 1

    def __init__(self) -> None:
        self.requested: list[str] = []

    def encoded(
        self,
        texts: Sequence[str],
        prompt: str = "",
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> Encoded:
        """Returns vectors made of the texts alone; texts that begin with `long` are truncated."""
        self.requested += texts
        vectors = np.stack([vector_of(text, prompt) for text in texts])
        return Encoded(vectors, np.array([text.startswith("long") for text in texts]))


class Notes:
    """Progress that keeps its notes."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields a function that does nothing."""
        yield lambda _: None

    def note(self, message: str) -> None:
        """Keeps the message."""
        self.said.append(message)


def vector_of(text: str, prompt: str = "") -> npt.NDArray[np.float32]:
    """Returns the vector that `Lengths` gives a text."""
    seed = int(vector_keys([text], prompt)[0, 0])
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)


def files_of(folder: Path, model: str = MODEL) -> tuple[Path, Path]:
    """Returns the files of a cache below `folder`: its vectors, and their entries."""
    return folder / model[:16] / "vectors.f32", folder / model[:16] / "rows.idx"


def cached(folder: Path, texts: Sequence[str], prompt: str = "", progress: Progress = SILENT) -> list[str]:
    """Embeds texts into the cache below `folder`, checks every vector, returns what had to be encoded."""
    cache, encoder = VectorCache(folder, MODEL, progress), Lengths()
    rows = embed(cache, encoder, texts, prompt)  # type: ignore[arg-type]
    assert rows.shape == (len(texts),)
    for row, text in zip(rows.tolist(), texts, strict=True):
        assert np.array_equal(cache.vectors[row], vector_of(text, prompt))
    again = VectorCache(folder, MODEL)
    assert np.array_equal(again.rows(vector_keys(texts, prompt)), rows)
    return encoder.requested
