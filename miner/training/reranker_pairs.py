"""The pairs that a reranker trains on: judged positives, mined negatives, random negatives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import drawn_share, pair_keys, positions, split_pairs
from miner.collection.collection import Collection, Ints
from miner.collection.exclusion import Exclusions
from miner.engine.progress import SILENT, Progress
from miner.errors import counted
from miner.models.reranker import fold_of
from miner.retrieval.bm25 import Bm25
from miner.retrieval.config import Bm25Config
from miner.retrieval.search import chunk_ranges
from miner.store import corpus
from miner.store.database import Database
from miner.store.silver import graded
from miner.training.reranker_config import BCE, RerankerConfig

Flags = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.int64]
Labels = npt.NDArray[np.float64]

KINDS = ("positive", "mined", "random")


@dataclass(frozen=True)
class LabelledPairs:
    """(query, document) pairs by position in a collection, ordered by query, kind, document."""

    collection: Collection
    query: Ints
    doc: Ints
    kind: Ints
    """Position in KINDS; 0 is a positive."""
    given: Labels | None = None
    """The label of each pair, if it is more than positive or negative: see `labels`."""

    def __len__(self) -> int:
        return len(self.query)

    def where(self, chosen: Flags | Keys) -> LabelledPairs:
        """Returns the chosen pairs, by a flag for each pair or by their positions."""
        given = None if self.given is None else self.given[chosen]
        return replace(
            self, query=self.query[chosen], doc=self.doc[chosen], kind=self.kind[chosen], given=given
        )

    def of_queries(self, chosen: Flags) -> LabelledPairs:
        """Returns the pairs of some queries; `chosen` holds one flag per query of the collection."""
        return self.where(chosen[self.query])

    @property
    def positive(self) -> Flags:
        """Whether each pair is a judged positive."""
        return np.asarray(self.kind == 0)

    @property
    def labels(self) -> Labels:
        """The label of each pair: a teacher's score, or the grade of a positive (1 without grades) and 0."""
        return self.positive.astype(np.float64) if self.given is None else self.given

    def count(self, kind: str) -> int:
        """Returns the number of pairs of a kind."""
        return int((self.kind == KINDS.index(kind)).sum())

    @property
    def query_count(self) -> int:
        """The number of distinct queries of the pairs."""
        return len(np.unique(self.query))

    def texts(self) -> tuple[list[str], list[str]]:
        """Returns the text of each pair's query and document; equal texts are one string in memory."""
        queries, query = np.unique(self.query, return_inverse=True)
        documents, doc = np.unique(self.doc, return_inverse=True)
        query_texts = self.collection.queries["text"].take(pa.array(queries)).to_pylist()
        doc_texts = self.collection.texts_of(documents).to_pylist()
        return [query_texts[i] for i in query], [doc_texts[i] for i in doc]

    def ids(self) -> pa.Table:
        """Returns the pairs as (query_id, doc_id)."""
        columns = {
            "query_id": self.collection.query_column(self.query),
            "doc_id": self.collection.doc_column(self.doc),
        }
        return pa.table(columns)

    def positive_ids(self) -> pa.Table:
        """Returns the positives as (query_id, doc_id)."""
        return self.where(self.positive).ids()


def sample_queries(collection: Collection, config: RerankerConfig) -> Collection:
    """Returns the collection with at most `queries` queries, drawn with the seed."""
    total = collection.queries.num_rows
    if config.queries is None or config.queries >= total:
        return collection
    drawn = np.random.default_rng(config.seed).choice(total, config.queries, replace=False)
    return replace(collection, queries=collection.queries.take(pa.array(np.sort(drawn))))


@dataclass(frozen=True)
class StoreJudgments:
    """The judgments of a store, read into memory; each table has the columns query_id and doc_id."""

    positives: pa.Table
    """The positives of the split, and their relevance."""
    known: pa.Table
    """The result of `corpus.known_positives`."""
    negatives: pa.Table
    """The result of `corpus.known_negatives`."""
    graded: str | None
    """The note of `silver.graded` about the positives, if the loss ignores their grades."""


def read_judgments(store: Database, config: RerankerConfig) -> StoreJudgments:
    """Reads the judgments that `labelled_pairs` needs."""
    return StoreJudgments(
        corpus.graded_positives(store, config.split),
        corpus.known_positives(store),
        corpus.known_negatives(store),
        graded(store, config.split, "gold judgments", f"loss {config.loss}") if config.loss == BCE else None,
    )


def labelled_pairs(
    judgments: StoreJudgments, collection: Collection, config: RerankerConfig, progress: Progress = SILENT
) -> LabelledPairs:
    """Returns every judged positive of the collection's queries with its negatives.

    Mined negatives are drawn from BM25's ranks `skip_top` + 1 to `depth`, random ones from all documents,
    none twice. `Exclusions` leaves out documents that are judged positive in any split, have the text of a
    positive or of the query, have the query's label, or are empty. If too few documents are left, a positive
    has fewer negatives. Withheld positives count as unjudged: they may be drawn as negatives, as unjudged
    positives may be.
    """
    if judgments.graded:
        progress.note(judgments.graded)
    known = judgments.known
    rng = np.random.default_rng([config.seed, 1])
    query, doc = _pairs(judgments.positives, collection)
    filled = collection.documents["text_key"].to_numpy()[doc] != 0
    query, doc = query[filled], doc[filled]
    if config.withheld:
        withheld = _withheld(collection, query, config)
        progress.note(f"an audit withholds {withheld.sum():,} of {counted(len(query), 'positive')}")
        known = _outside(known, pair_keys(query[withheld], doc[withheld]), collection)
        query, doc = query[~withheld], doc[~withheld]
    exclusions = Exclusions.of(collection, known, judgments.negatives, overlaps=False, protected=())
    per_query = np.bincount(query, minlength=collection.queries.num_rows)
    window = _allowed(exclusions, _window(collection, config, progress))
    mined = _draw(*window, per_query * config.mined, rng)
    easy = _allowed(exclusions, _random_pairs(collection, per_query * config.random, rng))
    new = ~np.isin(pair_keys(*easy), pair_keys(*mined))
    easy = _draw(easy[0][new], easy[1][new], per_query * config.random, rng)
    parts = ((query, doc), mined, easy)
    kind = np.repeat(np.arange(3, dtype=np.int32), [len(part[0]) for part in parts])
    all_query, all_doc = (np.concatenate(column).astype(np.int32) for column in zip(*parts, strict=True))
    order = np.lexsort((all_doc, kind, all_query))
    pairs = LabelledPairs(collection, all_query[order], all_doc[order], kind[order])
    return replace(pairs, given=_grades(judgments.positives, pairs)) if config.reads_grades else pairs


def _grades(judged: pa.Table, pairs: LabelledPairs) -> Labels:
    """The relevance of each positive among the pairs; 0 for the negatives."""
    query = positions(judged["query_id"], pairs.collection.query_ids)
    doc = positions(judged["doc_id"], pairs.collection.doc_ids)
    known = (query >= 0) & (doc >= 0)
    keys, relevance = pair_keys(query[known], doc[known]), judged["relevance"].to_numpy()[known]
    order = np.argsort(keys)
    wanted = pair_keys(pairs.query[pairs.positive], pairs.doc[pairs.positive])
    grades = np.zeros(len(pairs))
    grades[pairs.positive] = relevance[order][np.searchsorted(keys[order], wanted)]
    return grades


def _withheld(collection: Collection, query: Ints, config: RerankerConfig) -> Flags:
    """Draws the withheld positives (given by their sorted queries), of queries with a unique text only."""
    keys = collection.queries["text_key"].to_numpy()
    _, position, times = np.unique(keys, return_inverse=True, return_counts=True)
    rng = np.random.default_rng([config.seed, 3])
    return drawn_share(query, times[position][query] == 1, config.withheld, rng)


def _outside(judged: pa.Table, withheld: Keys, collection: Collection) -> pa.Table:
    """The judged pairs (query_id, doc_id) that are not withheld."""
    query = positions(judged["query_id"], collection.query_ids)
    doc = positions(judged["doc_id"], collection.doc_ids)
    return judged.filter(pa.array(~np.isin(pair_keys(query, doc), withheld)))


def held_out_queries(collection: Collection, config: RerankerConfig) -> Flags:
    """Returns for each query whether it is held out; queries with equal texts stay together."""
    keys = collection.queries["text_key"].to_numpy()
    distinct = np.unique(keys)
    number = min(max(1, round(config.held_out * len(distinct))), len(distinct) - 1) if config.held_out else 0
    drawn = np.random.default_rng([config.seed, 2]).permutation(distinct)[:number]
    return np.isin(keys, drawn)


def query_folds(collection: Collection, folds: int) -> Ints:
    """Returns each query's fold."""
    texts = collection.queries["text"].to_pylist()
    return np.fromiter((fold_of(text, folds) for text in texts), dtype=np.int32)


def _allowed(exclusions: Exclusions, pairs: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    kept = exclusions.allowed(*pairs)
    return pairs[0][kept], pairs[1][kept]


def _pairs(judged: pa.Table, collection: Collection) -> tuple[Ints, Ints]:
    query = positions(judged["query_id"], collection.query_ids)
    doc = positions(judged["doc_id"], collection.doc_ids)
    known = (query >= 0) & (doc >= 0)
    return query[known], doc[known]


def _window(collection: Collection, config: RerankerConfig, progress: Progress) -> tuple[Ints, Ints]:
    """BM25's hits in the ranks from which negatives are drawn."""
    empty = np.empty(0, dtype=np.int32)
    if not config.mined:
        return empty, empty
    retriever = Bm25(collection, Bm25Config())
    chunks: list[tuple[Ints, Ints]] = [(empty, empty)]
    with progress.task("mining negatives", collection.queries.num_rows, unit="queries") as advance:
        for chunk in chunk_ranges(collection):
            hits = retriever.search(chunk, config.depth)
            kept = hits.rank > config.skip_top
            chunks.append((hits.query[kept], hits.doc[kept]))
            advance(len(chunk))
    return np.concatenate([query for query, _ in chunks]), np.concatenate([doc for _, doc in chunks])


def _random_pairs(collection: Collection, wanted: Keys, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Twice the wanted number of documents and a few more: some are excluded or drawn twice."""
    query = np.repeat(np.arange(len(wanted), dtype=np.int32), np.where(wanted, 2 * wanted + 8, 0))
    doc = rng.integers(0, collection.documents.num_rows, len(query), dtype=np.int32)
    return split_pairs(np.unique(pair_keys(query, doc)))


def _draw(query: Ints, doc: Ints, wanted: Keys, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Draws at most `wanted[q]` of the pairs of each query q."""
    order = np.lexsort((rng.random(len(query)), query))
    query, doc = query[order], doc[order]
    position = np.arange(len(query)) - np.searchsorted(query, query)
    kept = position < wanted[query]
    return query[kept], doc[kept]
