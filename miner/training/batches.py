"""Which rows make a batch, and which of its documents are known positives of which anchors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers.base.data_collator import BaseDataCollator
from sentence_transformers.base.sampler import DefaultBatchSampler

from miner.models.similarity import COSINE
from miner.text import text_keys

Keys = npt.NDArray[np.int64]

MASK = "known_positives"
"""The entry of a batch that holds the mask."""


class PairBatches(DefaultBatchSampler):
    """Batches of a seeded order of the rows in which no text is the anchor or positive of two rows.

    The order depends on anchors and positives alone: two data sets that differ in their negatives
    are seen in the same order. A row whose texts are in the batch already waits for the next one.
    An epoch has ceil(rows / batch size) batches; the few rows that would need more are left out of
    that epoch.
    """

    def __init__(self, keys: Keys, batch_size: int, seed: int, distinct: bool) -> None:
        super().__init__(range(len(keys)), batch_size, False, seed=seed)
        self._seed = seed
        self._keys = keys
        self._distinct = distinct

    def __len__(self) -> int:
        return -(-len(self._keys) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yields the rows of each batch; the same ones for the same seed and epoch."""
        order = np.random.default_rng([self._seed, self.epoch]).permutation(len(self._keys))
        if not self._distinct:
            for start in range(0, len(order), self.batch_size):
                yield order[start : start + self.batch_size].tolist()
            return
        for places in self._without_duplicates(self._keys[order]):
            yield order[places].tolist()

    def _without_duplicates(self, keys: Keys) -> Iterator[list[int]]:
        """The places, in the order of `keys`, of the rows of each batch."""
        texts = keys.tolist()
        waiting = _Waiting(texts, side=int(len(np.unique(keys[:, 1])) < len(np.unique(keys[:, 0]))))
        coming = iter(range(len(texts)))
        for _ in range(len(self)):
            batch = _Batch(self.batch_size)
            waiting.fill(batch)
            while not batch.is_full and (place := next(coming, None)) is not None:
                if not batch.takes(place, texts[place]):
                    waiting.add(place)
            if batch.places:
                yield batch.places


class _Batch:
    """Rows no two of which share a text."""

    def __init__(self, size: int) -> None:
        self.places: list[int] = []
        self.seen: set[int] = set()
        self._size = size

    @property
    def is_full(self) -> bool:
        """Whether no further row fits."""
        return len(self.places) == self._size

    def takes(self, place: int, texts: Sequence[int]) -> bool:
        """Takes a row and returns True, unless one of its texts is there already."""
        if not self.seen.isdisjoint(texts):
            return False
        self.places.append(place)
        self.seen.update(texts)
        return True


class _Waiting:
    """Rows that found no place yet, in a queue for each text of the side that has fewer.

    A queue whose text is in the batch has no row for it, and need not be walked. So an epoch is made in
    about linear time also where few texts are in many rows, and nearly all rows wait.
    """

    def __init__(self, texts: Sequence[Sequence[int]], side: int) -> None:
        self._texts = texts
        self._side = side
        self._queues: dict[int, list[int]] = {}

    def add(self, place: int) -> None:
        """Lets a row wait; it comes after those that wait already."""
        self._queues.setdefault(self._texts[place][self._side], []).append(place)

    def fill(self, batch: _Batch) -> None:
        """Puts into the batch what it takes, the first first."""
        heads = [(queue[0], 0) for queue in self._queues.values()]
        heapify(heads)
        while heads and not batch.is_full:
            place, position = heappop(heads)
            text = self._texts[place][self._side]
            queue = self._queues[text]
            if batch.takes(place, self._texts[place]):
                del queue[position]
                if not queue:
                    del self._queues[text]
            elif text not in batch.seen and position + 1 < len(queue):
                heappush(heads, (queue[position + 1], position + 1))


class KnownPositives:
    """Which texts are known to be relevant to which: pairs of text keys, and texts of one label."""

    def __init__(self, anchors: Keys, documents: Keys, labels: Mapping[int, str] | None = None) -> None:
        self._anchors, self._documents = np.unique(anchors), np.unique(documents)
        self._pairs = np.unique(self._numbers(anchors, documents))
        number = {name: place for place, name in enumerate(sorted(set((labels or {}).values())))}
        self._label = {key: number[name] for key, name in (labels or {}).items()}

    def without(self, anchors: Keys, documents: Keys) -> KnownPositives:
        """Returns the same without these pairs, as if nobody had judged them; labels stay."""
        other = copy(self)
        other._pairs = np.setdiff1d(self._pairs, self._numbers(anchors, documents))
        return other

    @property
    def fingerprint(self) -> str:
        """A hash of all that is known."""
        anchor, document = np.divmod(self._pairs, max(len(self._documents), 1))
        digest = hashlib.sha256(self._anchors[anchor].tobytes())
        digest.update(self._documents[document].tobytes())
        digest.update(str(sorted(self._label.items())).encode())
        return digest.hexdigest()

    def mask(self, anchors: Keys, documents: Keys) -> npt.NDArray[np.bool_]:
        """Returns whether each document is a known positive of each anchor: (anchors, documents).

        It is when the pair was judged so, or when both have the same label.
        """
        numbers = self._numbers(anchors[:, None], documents[None, :])
        found: npt.NDArray[np.bool_] = _places(self._pairs, numbers) >= 0
        if not self._label:
            return found
        left, right = (self._labels(keys) for keys in (anchors, documents))
        same: npt.NDArray[np.bool_] = (left[:, None] == right[None, :]) & (left >= 0)[:, None]
        return found | same

    def _numbers(self, anchors: Keys, documents: Keys) -> Keys:
        """The number of each pair, anchor by anchor; -1 where nothing is known of one of the two."""
        anchor, document = _places(self._anchors, anchors), _places(self._documents, documents)
        return np.where((anchor < 0) | (document < 0), -1, anchor * len(self._documents) + document)

    def _labels(self, keys: Keys) -> npt.NDArray[np.int64]:
        """The number of each text's label, -1 where it has none."""
        return np.array([self._label.get(key, -1) for key in keys.tolist()], dtype=np.int64)


def _places(known: Keys, keys: Keys) -> Keys:
    """The place of each key in what is known, in order and each once; -1 where it is not there."""
    if not len(known):
        return np.full(keys.shape, -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[place] == keys, place, -1)


class MaskingCollator:
    """Collates a batch and adds which of its documents are positives of which anchors, or copies."""

    def __init__(
        self, inner: BaseDataCollator, texts: Mapping[str, Sequence[str]], known: KnownPositives
    ) -> None:
        self._inner = inner
        self._columns = list(texts)
        distinct = sorted({text for column in texts.values() for text in column})
        self._key_of = dict(zip(distinct, text_keys(distinct).tolist(), strict=True))
        self._known = known
        self.valid_label_columns = inner.valid_label_columns

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns the tensors of a batch, and its mask of shape (rows, rows × document columns)."""
        batch = self._inner(rows)
        keys = np.array([[self._key_of[row[name]] for row in rows] for name in self._columns])
        documents = keys[1:].ravel()
        mask = self._known.mask(keys[0], documents) | (keys[0][:, None] == documents[None, :])
        own = np.arange(len(rows))
        mask[own, own] = False
        batch[MASK] = torch.from_numpy(mask)
        return batch


class MaskedSimilarity:
    """A similarity in which known positives do not count as negatives: they are -inf.

    `mask` is set before each batch. Rows may be asked for piece by piece, in order.
    """

    def __init__(self, similarity: str = COSINE) -> None:
        from sentence_transformers import SimilarityFunction

        self.mask: torch.Tensor | None = None
        self._similarity = SimilarityFunction.to_similarity_fn(similarity)
        self._row = 0

    def __call__(self, anchors: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """Returns the similarity of every anchor with every document."""
        scores: torch.Tensor = self._similarity(anchors, documents)
        if self.mask is None:
            return scores
        rows = slice(self._row, self._row + len(anchors))
        self._row = rows.stop % len(self.mask)
        return scores.masked_fill(self.mask[rows], -torch.inf)
