"""Retrieval: does the model rank the relevant documents of a query above all others?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner.collection.collection import Collection
from miner.evaluation.ranking import Judgments, QueryPairs, ranked, scored
from miner.evaluation.result import Encode, Evaluation, from_values, unscored
from miner.models.constant import same_vector
from miner.models.similarity import COSINE
from miner.store import corpus as evaluating
from miner.store.database import Store

DEPTH = 100
"""Documents of a ranking that the measures look at."""
MEASURES = ("nDCG@10", "MRR@10", "MAP", "R@10", "R@100")


@dataclass(frozen=True)
class RetrievalTask:
    """Queries of one split over all documents of a store, in memory: the store may be closed."""

    queries: tuple[str, ...]
    """The texts, in the order of `judgments.query_ids`."""
    documents: tuple[str, ...]
    """The texts, in the order of `judgments.doc_ids`."""
    judgments: Judgments
    left_out: Mapping[str, int] = field(default_factory=dict)
    """As `Evaluation.left_out`."""
    headline: ClassVar[str] = "nDCG@10"

    def measure(self, encode: Encode, similarity: str = COSINE) -> Evaluation:
        """Returns how well the vectors of `encode` retrieve: nDCG@10, MRR@10, MAP, R@10, R@100.

        Exact search by the similarity, the first 100 documents, ties by text_key: ids have no say. MAP is
        over these 100.
        nDCG takes the relevance as gain; the others count a document as relevant above 0. A query
        none of whose documents are found has 0, and counts; so does one that the model has no vector for.
        A document without a vector is never found.
        """
        documents = encode(self.documents, "document")
        vectors = encode(self.queries, "query")
        scores = scored(vectors, documents, self.judgments.unranked, similarity)
        rankings = [ranked(row, DEPTH) for _, row in scores]
        values = self.judgments.values(rankings, MEASURES)
        gaps = unscored(queries=vectors, documents=documents)
        found = from_values("retrieval", self.judgments.query_ids, values, len(self.documents), unscored=gaps)
        constant = same_vector(queries=(self.queries, vectors), documents=(self.documents, documents))
        return replace(found, left_out=self.left_out, constant=constant)


def retrieval_task(store: Store, split: str, queries: int | None = None, seed: int = 13) -> RetrievalTask:
    """Reads the queries of a split, or a seeded sample of `queries`, with all documents and judgments.

    Judgments of this split count, for a query and for every query that reads the same. Documents of the
    same text count as one, whose relevance is the highest of theirs. Not ranked, neither right nor wrong,
    are what is relevant to the query's text in another split only, and the query's own text as a document,
    unless it is judged. Raises UsageError when no query of the split has a relevant document.
    """
    return task_of(store, Collection.load(store, split, queries, seed))


def sampled_task(store: Store, split: str, queries: int | None, documents: int, seed: int) -> RetrievalTask:
    """Returns a smaller task: all queries or a seeded sample of them, over a sample of documents.

    What is relevant in the split is always there, beyond `documents` if need be; measures are
    higher than over all documents. Raises UsageError as `retrieval_task`.
    """
    collection = distinct(Collection.load(store, split, queries, seed))
    table = evaluating.relevant(store, split)
    asked = pc.is_in(table["query_id"], value_set=collection.query_ids)
    keys = collection.documents["text_key"].combine_chunks()
    needed = pc.is_in(keys, value_set=table["text_key"].filter(asked).combine_chunks())
    kept = needed.to_numpy(zero_copy_only=False)
    others = np.flatnonzero(~kept)
    more = min(len(others), max(0, documents - int(kept.sum())))
    kept[np.random.default_rng(seed).choice(others, more, replace=False)] = True
    return task_of(store, replace(collection, documents=collection.documents.filter(pa.array(kept))))


def distinct(collection: Collection) -> Collection:
    """Returns the collection with one document for each text, ordered by text_key.

    Of several that differ in case or white space, the one whose text sorts first: ids have no say.
    """
    documents = collection.documents
    keys = documents["text_key"].to_numpy()
    order = np.argsort(keys, kind="stable")
    first = np.flatnonzero(np.diff(keys[order], prepend=keys[order][:1] - 1))
    chosen = order[first]
    ends = np.append(first[1:], len(keys))
    for number in np.flatnonzero(ends - first > 1):
        same = order[first[number] : ends[number]]
        texts = documents["text"].take(pa.array(same)).to_pylist()
        chosen[number] = same[texts.index(min(texts))]
    return replace(collection, documents=documents.take(pa.array(chosen)))


def task_of(store: Store, collection: Collection) -> RetrievalTask:
    """Returns the task of a collection's queries and documents; see `retrieval_task`."""
    texts = distinct(collection)
    query_ids, keys = texts.query_ids, texts.documents["text_key"].combine_chunks()
    table = evaluating.relevant(store, collection.split)
    relevant, rows = QueryPairs.locate(table, query_ids, keys)
    hidden = evaluating.unranked(store, collection.split)
    unranked, places = QueryPairs.locate(hidden, query_ids, keys)
    why = Counter(hidden["why"].take(pa.array(places)).to_pylist())
    copies = collection.documents.num_rows - texts.documents.num_rows
    left_out = {"copies": copies, **{name: why[name] for name in evaluating.UNRANKED}}
    return RetrievalTask(
        tuple(texts.queries["text"].to_pylist()),
        tuple(texts.documents["text"].to_pylist()),
        Judgments(
            tuple(query_ids.to_pylist()),
            tuple(texts.doc_ids.to_pylist()),
            relevant,
            table["relevance"].to_numpy()[rows],
            unranked,
        ),
        {name: number for name, number in left_out.items() if number},
    )
