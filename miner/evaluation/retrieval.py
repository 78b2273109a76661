"""The task retrieval: does an encoder rank the relevant documents of a query above all others?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import Int64s
from miner.collection.collection import Collection
from miner.evaluation.ranking import Judgments, QueryPairs, ranked, scored
from miner.evaluation.result import Encode, Evaluation, from_values, unscored
from miner.memory import MemoryLimit
from miner.models.constant import same_vector
from miner.models.similarity import COSINE
from miner.store import corpus as evaluating
from miner.store.database import Database

DEPTH = 100
"""How many documents of a ranking the measures use."""
MEASURES = ("nDCG@10", "MRR@10", "MAP", "R@10", "R@100")


@dataclass(frozen=True)
class RetrievalTask:
    """The queries of a split, all documents and the judgments; the store may be closed."""

    queries: tuple[str, ...]
    """The texts, in the order of `judgments.query_ids`."""
    documents: Sequence[str]
    """The texts, in the order of `judgments.doc_ids`; not in memory."""
    judgments: Judgments
    memory: MemoryLimit
    left_out: Mapping[str, int] = field(default_factory=dict)
    """See `Evaluation.left_out`."""
    headline: ClassVar[str] = "nDCG@10"

    @property
    def ids(self) -> tuple[str, ...]:
        """`Evaluation.ids` of its result."""
        return self.judgments.query_ids

    def measure(self, encode: Encode, similarity: str = COSINE) -> Evaluation:
        """Returns nDCG@10, MRR@10, MAP, R@10 and R@100 of exact search with the vectors of `encode`.

        A ranking has 100 documents, and MAP is over these; ties go to the smaller text_key, so ids do not
        matter. The gain of nDCG is the relevance; for the other measures a document is relevant above 0. A
        query counts as 0 if none of its documents is found or the model has no vector for it. A document
        without a vector is never found.
        """
        documents = encode(self.documents, "document")
        vectors = encode(self.queries, "query")
        scores = scored(vectors, documents, self.judgments.unranked, similarity, self.memory.block)
        rankings = [ranked(row, DEPTH) for _, row in scores]
        values = self.judgments.values(rankings, MEASURES)
        gaps = unscored(queries=vectors, documents=documents)
        ids = self.judgments.query_ids
        result = from_values("retrieval", ids, values, len(self.documents), unscored=gaps)
        constant = same_vector(queries=(self.queries, vectors), documents=(self.documents, documents))
        return replace(result, left_out=self.left_out, constant=constant)


def retrieval_task(store: Database, split: str, queries: int | None = None, seed: int = 13) -> RetrievalTask:
    """Reads the queries of a split, or a seeded sample of `queries`, with all documents and judgments.

    The judgments of this split count, for a query and for every query with the same text. Documents with the
    same text are one document, with the highest relevance among them. A query's ranking leaves out documents
    that are relevant to its text in another split only, and, unless it is judged, the query's own text as a
    document. Raises UsageError if no query of the split has a relevant document.
    """
    return task_of(store, *without_copies(Collection.load(store, split, queries, seed)))


def without_copies(collection: Collection) -> tuple[Collection, int]:
    """Returns the collection with `distinct` documents, and the number of the others."""
    chosen = distinct(collection)
    return collection.of_documents(chosen), collection.documents.num_rows - len(chosen)


def sampled_task(
    store: Database, split: str, queries: int | None, documents: int, seed: int
) -> RetrievalTask:
    """Reads a smaller task: all queries or a seeded sample of `queries`, and a sample of `documents`.

    The sample contains every relevant document, even if that makes it larger than `documents`. Measures are
    higher than over all documents. Raises UsageError as `retrieval_task`.
    """
    collection = Collection.load(store, split, queries, seed)
    chosen = distinct(collection)
    table = evaluating.relevant(store, split)
    sampled = pc.is_in(table["query_id"], value_set=collection.query_ids)
    keys = collection.documents["text_key"].combine_chunks().take(pa.array(chosen))
    needed = pc.is_in(keys, value_set=table["text_key"].filter(sampled).combine_chunks())
    kept = needed.to_numpy(zero_copy_only=False)
    others = np.flatnonzero(~kept)
    more = min(len(others), max(0, documents - int(kept.sum())))
    kept[np.random.default_rng(seed).choice(others, more, replace=False)] = True
    return task_of(store, collection.of_documents(chosen[kept]), copies=0)


def distinct(collection: Collection) -> Int64s:
    """Returns the positions of one document for each text, ordered by text_key.

    If several differ only in case or white space, the one whose text sorts first stays, whatever the ids.
    """
    documents = collection.documents
    keys = documents["text_key"].to_numpy()
    order = np.argsort(keys, kind="stable")
    first = np.flatnonzero(np.diff(keys[order], prepend=keys[order][:1] - 1))
    chosen = order[first]
    ends = np.append(first[1:], len(keys))
    for number in np.flatnonzero(ends - first > 1):
        same = order[first[number] : ends[number]]
        texts = collection.texts_of(same).to_pylist()
        chosen[number] = same[texts.index(min(texts))]
    return chosen


def task_of(store: Database, texts: Collection, copies: int) -> RetrievalTask:
    """Returns the retrieval task of a collection's queries and `distinct` documents; see `retrieval_task`.

    `copies` is the number of documents that were left out as copies.
    """
    query_ids, keys = texts.query_ids, texts.documents["text_key"].combine_chunks()
    table = evaluating.relevant(store, texts.split)
    relevant, rows = QueryPairs.locate(table, query_ids, keys)
    hidden = evaluating.unranked(store, texts.split)
    unranked, located = QueryPairs.locate(hidden, query_ids, keys)
    why = Counter(hidden["why"].take(pa.array(located)).to_pylist())
    left_out = {"copies": copies, **{name: why[name] for name in evaluating.UNRANKED}}
    return RetrievalTask(
        tuple(texts.queries["text"].to_pylist()),
        texts.strings,
        Judgments(
            tuple(query_ids.to_pylist()),
            texts.doc_ids,
            relevant,
            table["relevance"].to_numpy()[rows],
            unranked,
        ),
        texts.memory,
        {name: number for name, number in left_out.items() if number},
    )
