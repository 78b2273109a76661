"""An encoder with cached vectors or rows: the one way to get the vectors of texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from miner.arrays import Matrix
from miner.engine.progress import SILENT, Progress
from miner.models.encoder import Vectors
from miner.models.library_encoder import LibraryEncoder
from miner.models.loading import AnyEncoder
from miner.models.ragged_cache import RaggedCache
from miner.models.served import require_same_model
from miner.models.vector_cache import (
    RowNumbers,
    Texts,
    VectorCache,
    embed,
    keys_of,
    note_truncated,
    vectors_of,
)

Model = TypeVar("Model", bound=AnyEncoder | LibraryEncoder)
Cache = TypeVar("Cache", bound=VectorCache | RaggedCache)


class RoleCaches(ABC, Generic[Model, Cache]):
    """The cache of each role of an encoder, in a folder that is usually `Database.vectors` beside a store.

    The role of a text, `query` or `document`, decides its prompt and, in a model with routes, its modules.
    `prompts` replaces the model's own prompts. Raises ModelError if a server runs the encoder and has another
    model than the one that filled the cache.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Model,
        prompts: Mapping[str, str] | None = None,
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.encoder = encoder
        self.similarity = encoder.similarity
        """The similarity by which its vectors are compared."""
        self._folder, self._prompts = folder, prompts
        self._workers, self._progress = workers, progress
        require_same_model(folder, encoder, progress)

    @cached_property
    def prompts(self) -> Mapping[str, str]:
        """The prompts in use for the roles `query` and `document`."""
        return self.encoder.prompts if self._prompts is None else self._prompts

    @abstractmethod
    def _open(self, model: str) -> Cache:
        """Returns the cache of the encoder with the fingerprint `model`."""

    @cached_property
    def _caches(self) -> dict[str, Cache]:
        """The cache of each role: the same one, unless the encoder has a route for each."""
        models = {role: self.encoder.for_role(role).fingerprint for role in ("query", "document")}
        caches = {model: self._open(model) for model in set(models.values())}
        return {role: caches[model] for role, model in models.items()}

    def rows(self, texts: Texts, role: str) -> RowNumbers:
        """Returns each text's row in the role's cache; raises MinerError if it cannot be written."""
        return embed(
            self._caches[role],
            self.encoder.for_role(role),
            texts,
            self.prompts[role],
            workers=self._workers,
            progress=self._progress,
        )

    @property
    def truncated(self) -> int:
        """Number of distinct texts so far that are longer than the model reads."""
        return len(set[bytes]().union(*(cache.truncated_keys for cache in self._caches.values())))

    def count_truncated(self, texts: Texts, role: str) -> None:
        """Adds texts to `truncated` whose vectors are cached and were not requested."""
        self._caches[role].count_truncated(keys_of(texts, self.prompts[role]))

    def note_truncated(self) -> None:
        """Reports the number of truncated texts to the progress, if there are any."""
        note_truncated(self.encoder.name, self.truncated, self._progress)


class CachedEncoder(RoleCaches[AnyEncoder, VectorCache]):
    """A dense encoder whose vectors are cached."""

    def _open(self, model: str) -> VectorCache:
        return VectorCache(self._folder, model, self._progress)

    def __call__(self, texts: Sequence[str], role: str) -> Matrix:
        """Returns the vectors of texts: shape (len(texts), dimension), NaN for a text without a vector.

        They are read from disk when they are needed. If the folder cannot be written, vectors that are not in
        it are computed and not cached, with a note.
        """
        encoder = self.encoder.for_role(role)
        return vectors_of(self._caches[role], encoder, texts, self.prompts[role], self._progress)

    def matrix(self, role: str) -> Vectors:
        """Returns all cached vectors of a role, mapped from disk."""
        return self._caches[role].vectors


class CachedRows(RoleCaches[LibraryEncoder, RaggedCache]):
    """A sparse or multi-vector encoder whose rows are cached."""

    def _open(self, model: str) -> RaggedCache:
        return RaggedCache(self._folder, model, self._progress, dtype=self.encoder.item_dtype)

    def cache(self, role: str) -> RaggedCache:
        """Returns the cache of a role."""
        return self._caches[role]
