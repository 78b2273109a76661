"""Puts rows into batches, and masks the documents of a batch that are known positives of its anchors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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

_GROUP = 32
"""The number of batches that are ordered by length together."""
MASK = "known_positives"
"""The key of the mask in a batch."""
FORWARD = "query_to_doc"
"""The direction from anchors to documents, as the library names it."""


def length_grouped(
    rows: int, batch_size: int, rng: np.random.Generator, order_of: Callable[[Keys], Keys]
) -> Iterator[list[int]]:
    """Yields batches of rows of similar length, in random order: less padding makes the training faster.

    Rows are shuffled and cut into groups of 32 batches. `order_of` returns the order of a group's rows by
    length; each ordered group is cut into batches, and the batches are shuffled.
    """
    shuffled = rng.permutation(rows)
    size = batch_size * _GROUP
    groups = [shuffled[start : start + size] for start in range(0, rows, size)]
    order = np.concatenate([group[order_of(group)] for group in groups])
    batches = [order[start : start + batch_size] for start in range(0, rows, batch_size)]
    for number in rng.permutation(len(batches)):
        yield batches[number].tolist()


class PairBatches(DefaultBatchSampler):
    """Batches of the rows in a seeded order, in which no text is the anchor or positive of two rows.

    The order depends only on anchors and positives: two data sets that differ in their negatives have the
    same batches. A row whose texts are already in the batch waits for the next batch. An epoch has
    ceil(rows / batch size) batches; the few rows that would need more batches are left out of that epoch.

    With `one_positive`, an epoch has one row of each anchor, drawn anew: each of its positives has its turn.
    """

    def __init__(
        self, keys: Keys, batch_size: int, seed: int, distinct: bool, *, one_positive: bool = False
    ) -> None:
        super().__init__(range(len(keys)), batch_size, False, seed=seed)
        self._seed = seed
        self._keys = keys
        self._distinct = distinct
        self._one_positive = one_positive
        self.rows = len(np.unique(keys[:, 0])) if one_positive else len(keys)
        """The number of rows of an epoch."""

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yields the rows of each batch; the same ones for the same seed and epoch."""
        order = np.random.default_rng([self._seed, self.epoch]).permutation(len(self._keys))
        if self._one_positive:
            _, first = np.unique(self._keys[order, 0], return_index=True)
            order = order[np.sort(first)]
        if not self._distinct:
            for start in range(0, len(order), self.batch_size):
                yield order[start : start + self.batch_size].tolist()
            return
        for positions in self._without_duplicates(self._keys[order]):
            yield order[positions].tolist()

    def _without_duplicates(self, keys: Keys) -> Iterator[list[int]]:
        """The positions in `keys` of the rows of each batch."""
        texts = keys.tolist()
        waiting = _Waiting(texts, column=int(len(np.unique(keys[:, 1])) < len(np.unique(keys[:, 0]))))
        coming = iter(range(len(texts)))
        for _ in range(len(self)):
            batch = _Batch(self.batch_size)
            waiting.fill(batch)
            while not batch.is_full and (row := next(coming, None)) is not None:
                if not batch.add(row, texts[row]):
                    waiting.add(row)
            if batch.rows:
                yield batch.rows


class _Batch:
    """Rows of which no two share a text."""

    def __init__(self, size: int) -> None:
        self.rows: list[int] = []
        self.seen: set[int] = set()
        self._size = size

    @property
    def is_full(self) -> bool:
        """Whether no further row fits."""
        return len(self.rows) == self._size

    def add(self, row: int, texts: Sequence[int]) -> bool:
        """Adds a row and returns True, unless one of its texts is already in the batch."""
        if not self.seen.isdisjoint(texts):
            return False
        self.rows.append(row)
        self.seen.update(texts)
        return True


class _Waiting:
    """Rows that wait for a batch, in one queue per text of the column with fewer distinct texts.

    A queue whose text is in the batch is skipped as a whole. An epoch therefore takes about linear time, even
    if few texts are in many rows and nearly all rows wait.
    """

    def __init__(self, texts: Sequence[Sequence[int]], column: int) -> None:
        self._texts = texts
        self._column = column
        self._queues: dict[int, list[int]] = {}

    def add(self, row: int) -> None:
        """Appends a row behind the rows that wait."""
        self._queues.setdefault(self._texts[row][self._column], []).append(row)

    def fill(self, batch: _Batch) -> None:
        """Adds the rows that fit to the batch, in the order in which they wait."""
        heads = [(queue[0], 0) for queue in self._queues.values()]
        heapify(heads)
        while heads and not batch.is_full:
            row, position = heappop(heads)
            text = self._texts[row][self._column]
            queue = self._queues[text]
            if batch.add(row, self._texts[row]):
                del queue[position]
                if not queue:
                    del self._queues[text]
            elif text not in batch.seen and position + 1 < len(queue):
                heappush(heads, (queue[position + 1], position + 1))


class KnownPositives:
    """The pairs of texts that are known to be relevant: by their keys, or because they share a label."""

    def __init__(self, anchors: Keys, documents: Keys, labels: Mapping[int, str] | None = None) -> None:
        self._anchors, self._documents = np.unique(anchors), np.unique(documents)
        self._pairs = np.unique(self._numbers(anchors, documents))
        number = {name: index for index, name in enumerate(sorted(set((labels or {}).values())))}
        self._label = {key: number[name] for key, name in (labels or {}).items()}

    def without(self, anchors: Keys, documents: Keys) -> KnownPositives:
        """Returns a copy without these pairs, as if they were unjudged; labels stay."""
        other = copy(self)
        other._pairs = np.setdiff1d(self._pairs, self._numbers(anchors, documents))
        return other

    @property
    def fingerprint(self) -> str:
        """A hash of the pairs and labels."""
        anchor, document = np.divmod(self._pairs, max(len(self._documents), 1))
        digest = hashlib.sha256(self._anchors[anchor].tobytes())
        digest.update(self._documents[document].tobytes())
        digest.update(str(sorted(self._label.items())).encode())
        return digest.hexdigest()

    def mask(self, anchors: Keys, documents: Keys) -> npt.NDArray[np.bool_]:
        """Returns whether each document is a known positive of each anchor: shape (anchors, documents).

        It is if the pair is judged relevant, or if both texts have the same label.
        """
        numbers = self._numbers(anchors[:, None], documents[None, :])
        judged: npt.NDArray[np.bool_] = _positions(self._pairs, numbers) >= 0
        if not self._label:
            return judged
        left, right = (self._labels(keys) for keys in (anchors, documents))
        same: npt.NDArray[np.bool_] = (left[:, None] == right[None, :]) & (left >= 0)[:, None]
        return judged | same

    def _numbers(self, anchors: Keys, documents: Keys) -> Keys:
        """The number of each pair, anchor by anchor; -1 if one of the two texts is unknown."""
        anchor, document = _positions(self._anchors, anchors), _positions(self._documents, documents)
        return np.where((anchor < 0) | (document < 0), -1, anchor * len(self._documents) + document)

    def _labels(self, keys: Keys) -> npt.NDArray[np.int64]:
        """The number of each text's label; -1 without a label."""
        return np.array([self._label.get(key, -1) for key in keys.tolist()], dtype=np.int64)


def _positions(known: Keys, keys: Keys) -> Keys:
    """The position of each key in `known`, which is sorted and distinct; -1 if it is not there."""
    if not len(known):
        return np.full(keys.shape, -1, dtype=np.int64)
    position = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[position] == keys, position, -1)


class MaskingCollator:
    """Collates a batch and adds its mask: documents that are known positives or copies of an anchor.

    A document that a row has twice counts once.
    """

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
        """Returns the tensors of a batch with its mask, shape (rows, rows × document columns)."""
        batch = self._inner(rows)
        keys = np.array([[self._key_of[row[name]] for row in rows] for name in self._columns])
        documents = keys[1:].ravel()
        mask = self._known.mask(keys[0], documents) | (keys[0][:, None] == documents[None, :])
        again = [(keys[1:column] == keys[column]).any(axis=0) for column in range(1, len(keys))]
        mask |= np.concatenate(again)[None, :]
        own = np.arange(len(rows))
        mask[own, own] = False
        batch[MASK] = torch.from_numpy(mask)
        return batch


class MaskedSimilarity:
    """A similarity that is -inf for known positives, so that they do not count as negatives.

    `mask` is set before each batch. The rows of a batch may come in pieces, in order; of each piece, the
    loss asks for the similarities of every direction in turn.
    """

    def __init__(self, similarity: str = COSINE, directions: Sequence[str] = (FORWARD,)) -> None:
        from sentence_transformers import SimilarityFunction

        self.mask: torch.Tensor | None = None
        self._similarity = SimilarityFunction.to_similarity_fn(similarity)
        self._directions = directions
        self._row = self._turn = 0

    def __call__(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Returns the similarity of every text on the left with every one on the right."""
        scores: torch.Tensor = self._similarity(left, right)
        if self.mask is None:
            return scores
        direction = self._directions[self._turn]
        rows = slice(self._row, self._row + len(right if direction.startswith("doc") else left))
        own, count = self.mask[rows], len(self.mask)
        # The library asks for the transposed matrix of directions that start from documents.
        mask = {
            FORWARD: own,
            "query_to_query": own[:, :count],
            "doc_to_query": self.mask[:, rows],
            "doc_to_doc": own.T,
        }[direction]
        self._turn = (self._turn + 1) % len(self._directions)
        if not self._turn:
            self._row = rows.stop % count
        return scores.masked_fill(mask, -torch.inf)
