"""The task labels: are texts with the same label near each other?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import Matrix, positions
from miner.collection.texts import Strings, spooled
from miner.errors import UsageError, listed
from miner.evaluation.ranking import Ints, QueryPairs, discount, named, ranked, scored
from miner.evaluation.result import Encode, Evaluation, Floats, from_values, unscored
from miner.memory import MemoryLimit
from miner.models.constant import same_vector
from miner.models.similarity import COSINE
from miner.store import corpus
from miner.store import corpus as evaluating
from miner.store.database import Database

NEIGHBOURS = 10
"""The k of k-NN, and the cut-off of P@10 and nDCG@10."""
_TRAIN = "train"

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class LabelledTexts:
    """Labelled texts, ordered by id."""

    ids: pa.Array
    texts: Sequence[str]
    """Those of documents are not in memory."""
    keys: Ints
    """Text keys: equal for texts that are equal after normalisation."""
    labels: Codes
    """Each text's label, as its position among all labels in sorted order."""


@dataclass(frozen=True)
class LabelTask:
    """Labelled queries, the documents to rank, and the documents whose labels vote."""

    queries: LabelledTexts
    documents: LabelledTexts
    """The labelled documents of the same split."""
    voters: LabelledTexts
    """The labelled documents of split train; `documents` if it has none."""
    memory: MemoryLimit
    headline: ClassVar[str] = "MAP"

    @property
    def ids(self) -> tuple[str, ...]:
        """`Evaluation.ids` of its result."""
        return tuple(self.queries.ids.to_pylist())

    def measure(self, encode: Encode, similarity: str = COSINE) -> Evaluation:
        """Returns MAP, P@1, P@10 and nDCG@10 of same-label retrieval, and the accuracy of k-NN (k = 10).

        A document is relevant if it has the query's label. A text never finds itself or a text that reads the
        same. All texts are encoded as queries, since the task is symmetric. Ties go to the smaller doc_id. A
        query counts as 0 if no other document has its label or the model has no vector for it; a document
        without a vector counts as missed.

        k-NN predicts the label with the largest sum of cosines among the ten nearest voters; of equal sums,
        the label that sorts first. With another similarity, whose sums may be negative, each voter has one
        vote, and of equal counts the label of the nearest voter wins.
        """
        vectors, documents = (encode(one.texts, "query") for one in (self.queries, self.documents))
        values = self._retrieval(vectors, documents, similarity)
        values["k-NN accuracy"] = self._votes(vectors, encode(self.voters.texts, "query"), similarity)
        chance = float(np.mean(self._same_label()))
        gaps = unscored(queries=vectors, documents=documents)
        constant = same_vector(
            queries=(self.queries.texts, vectors), documents=(self.documents.texts, documents)
        )
        result = from_values("labels", self.ids, values, len(self.documents.ids), chance, gaps)
        return replace(result, constant=constant)

    def _retrieval(self, vectors: Matrix, documents: Matrix, similarity: str) -> dict[str, Floats]:
        columns: dict[str, list[float]] = {"MAP": [], "P@1": [], "P@10": [], "nDCG@10": []}
        same_text = _same_text(self.queries, self.documents)
        for query, row in scored(vectors, documents, same_text, similarity, self.memory.block):
            order = ranked(row, len(row))
            same = self.documents.labels == self.queries.labels[query]
            total = int((same & (row != -np.inf)).sum())
            for name, value in zip(columns, _of_ranking(same[order], total), strict=True):
                columns[name].append(value)
        return named(columns)

    def _votes(self, vectors: Matrix, voters: Matrix, similarity: str) -> Floats:
        """Returns 1 for each query whose label k-NN predicts, else 0."""
        right = np.zeros(len(self.queries.ids))
        labels, same_text = self.voters.labels, _same_text(self.queries, self.voters)
        for query, row in scored(vectors, voters, same_text, similarity, self.memory.block):
            nearest = ranked(row, NEIGHBOURS)
            if not len(nearest):
                continue
            candidates, owner = np.unique(labels[nearest], return_inverse=True)
            # The fractions break ties for the nearest: together they are less than one vote.
            votes = row[nearest] if similarity == COSINE else 1 + 0.5 ** (2 + np.arange(len(nearest)))
            sums = np.round(np.bincount(owner, weights=votes), 9)
            right[query] = candidates[int(np.argmax(sums))] == self.queries.labels[query]
        return right

    def _same_label(self) -> Floats:
        """Returns for each query the share of the documents, itself excluded, that have its label."""
        unranked = _same_text(self.queries, self.documents)
        own = np.bincount(unranked.query, minlength=len(self.queries.ids))
        same = self.documents.labels[unranked.doc] == self.queries.labels[unranked.query]
        own_same = np.bincount(unranked.query, weights=same, minlength=len(self.queries.ids))
        size = max(int(self.documents.labels.max()), int(self.queries.labels.max())) + 1
        counts = np.bincount(self.documents.labels, minlength=size)[self.queries.labels] - own_same
        return np.asarray(counts / np.maximum(len(self.documents.ids) - own, 1), dtype=np.float64)


def label_task(store: Database, split: str, queries: int | None = None, seed: int = 13) -> LabelTask:
    """Reads the labelled queries of a split, or a seeded sample of `queries`, and labelled documents.

    The documents are those judged in the split. The voters of k-NN are those judged in split train; if it is
    the split itself or has none, the documents of the split. Raises UsageError if the split has no labelled
    queries or documents.
    """
    sampled = evaluating.labelled_queries(store, split)
    if queries is not None and queries < sampled.num_rows:
        drawn = np.random.default_rng(seed).choice(sampled.num_rows, queries, replace=False)
        sampled = sampled.take(pa.array(np.sort(drawn)))
    documents = evaluating.labelled_documents(store, split)
    if not sampled.num_rows or not documents.num_rows:
        raise UsageError(
            f"split '{split}' of {store.path} has no labelled texts",
            "ingest texts with labels: miner ingest STORE texts.tsv --label-column label; "
            f"splits: {listed(corpus.splits(store)) or 'none'}",
        )
    voters, voting = documents, split
    if split != _TRAIN and (of_train := evaluating.labelled_documents(store, _TRAIN)).num_rows:
        voters, voting = of_train, _TRAIN
    labels = _distinct(sampled, documents, voters)
    shown = _of_documents(store, split, documents, labels)
    return LabelTask(
        _labelled(sampled, sampled["text"].to_pylist(), labels),
        shown,
        shown if voting == split else _of_documents(store, voting, voters, labels),
        store.memory,
    )


def _distinct(*tables: pa.Table) -> pa.Array:
    """Returns the distinct labels of all the tables, sorted."""
    labels = pa.chunked_array([chunk for table in tables for chunk in table["label"].chunks]).unique()
    return labels.take(pc.sort_indices(labels))


def _of_documents(store: Database, split: str, table: pa.Table, labels: pa.Array) -> LabelledTexts:
    texts = spooled(evaluating.labelled_texts(store, split), store.path.parent)
    return _labelled(table, Strings(texts, texts.block(store.memory)), labels)


def _labelled(table: pa.Table, texts: Sequence[str], labels: pa.Array) -> LabelledTexts:
    return LabelledTexts(
        table.column(0).combine_chunks(),
        texts,
        table["text_key"].to_numpy(),
        positions(table["label"], labels),
    )


def _same_text(queries: LabelledTexts, documents: LabelledTexts) -> QueryPairs:
    """Returns every (query, document) pair with the same text, ordered by query."""
    order = np.argsort(documents.keys, kind="stable")
    ordered = documents.keys[order]
    first = np.searchsorted(ordered, queries.keys, side="left")
    last = np.searchsorted(ordered, queries.keys, side="right")
    query = np.repeat(np.arange(len(queries.ids)), last - first)
    spans = [order[a:b] for a, b in zip(first, last, strict=True)]
    return QueryPairs(query, np.concatenate(spans) if spans else np.empty(0, dtype=np.int64))


def _of_ranking(hits: npt.NDArray[np.bool_], total: int) -> tuple[float, float, float, float]:
    """Returns average precision, P@1, P@10 and nDCG@10; `hits` has for each rank whether it is relevant.

    There are `total` relevant documents; those that the ranking lacks count as missed. ir-measures gives the
    same values. On rankings of all documents it is 7 to 9 times slower (500 to 2,000 texts).
    """
    ranks = np.flatnonzero(hits) + 1
    if not len(ranks):
        return 0.0, 0.0, 0.0, 0.0
    precision = float(np.sum(np.arange(1, len(ranks) + 1) / ranks)) / total
    top = hits[:NEIGHBOURS].astype(np.float64)
    gain = float(top @ discount(len(top))) / float(discount(min(total, NEIGHBOURS)).sum())
    return precision, float(hits[0]), float(top.sum()) / NEIGHBOURS, gain
