"""What a reranker learns from: judged positives, mined negatives, random negatives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import drawn_share, pair_keys, positions, split_pairs
from miner.collection.collection import Collection, Ints
from miner.collection.exclusion import Exclusions
from miner.engine.progress import SILENT, Progress
from miner.models.reranker import fold_of
from miner.retrieval.bm25 import Bm25
from miner.retrieval.config import Bm25Config
from miner.retrieval.search import chunk_ranges
from miner.store import corpus
from miner.store.database import Store
from miner.store.silver import graded
from miner.training.reranker_config import RerankerConfig

Flags = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.int64]

KINDS = ("positive", "mined", "random")


@dataclass(frozen=True)
class LabelledPairs:
    """(query, document) pairs by position in a collection, ordered by query, kind, document."""

    collection: Collection
    query: Ints
    doc: Ints
    kind: Ints
    """Position in KINDS; 0 is a positive."""

    def __len__(self) -> int:
        return len(self.query)

    def where(self, chosen: Flags) -> LabelledPairs:
        """Returns some of the pairs."""
        return replace(self, query=self.query[chosen], doc=self.doc[chosen], kind=self.kind[chosen])

    def of_queries(self, chosen: Flags) -> LabelledPairs:
        """Returns the pairs of some queries; `chosen` holds one flag per query of the collection."""
        return self.where(chosen[self.query])

    @property
    def positive(self) -> Flags:
        """Whether each pair is a judged positive."""
        return np.asarray(self.kind == 0)

    def count(self, kind: str) -> int:
        """Returns how many pairs are of a kind."""
        return int((self.kind == KINDS.index(kind)).sum())

    @property
    def query_count(self) -> int:
        """How many distinct queries the pairs have."""
        return len(np.unique(self.query))

    def texts(self) -> tuple[list[str], list[str]]:
        """Returns the text of each pair's query and document; equal ones are one string in memory."""
        queries = self.collection.queries["text"].to_pylist()
        documents = self.collection.documents["text"].to_pylist()
        return [queries[i] for i in self.query], [documents[i] for i in self.doc]

    def positive_ids(self) -> pa.Table:
        """Returns the positives as (query_id, doc_id)."""
        kept = self.where(self.positive)
        columns = {
            "query_id": self.collection.query_column(kept.query),
            "doc_id": self.collection.doc_column(kept.doc),
        }
        return pa.table(columns)


def sample_queries(collection: Collection, config: RerankerConfig) -> Collection:
    """Returns the collection with at most `max_queries` queries, drawn with the seed."""
    total = collection.queries.num_rows
    if config.max_queries is None or config.max_queries >= total:
        return collection
    drawn = np.random.default_rng(config.seed).choice(total, config.max_queries, replace=False)
    return replace(collection, queries=collection.queries.take(pa.array(np.sort(drawn))))


@dataclass(frozen=True)
class Judged:
    """What a store knows of relevance, read into memory: query_id and doc_id each."""

    positives: pa.Table
    """Of the split."""
    known: pa.Table
    """As `corpus.known_positives`."""
    negatives: pa.Table
    """As `corpus.known_negatives`."""
    graded: str | None
    """What `silver.graded` says of the positives."""


def read_judged(store: Store, config: RerankerConfig) -> Judged:
    """Reads the judgments that `labelled_pairs` needs."""
    return Judged(
        corpus.positives(store, config.split),
        corpus.known_positives(store),
        corpus.known_negatives(store),
        graded(store, config.split, "gold judgments", "a reranker"),
    )


def labelled_pairs(
    judged: Judged, collection: Collection, config: RerankerConfig, progress: Progress = SILENT
) -> LabelledPairs:
    """Returns every judged positive of the collection's queries with its negatives.

    Mined negatives are drawn from BM25's ranks `skip_top` + 1 to `depth`, random ones from all
    documents. Neither is anything that `Exclusions` leaves out: judged positive in any split, of the
    text of a positive or of the query, of the query's label, or empty. Where too few are left there
    are fewer; none twice. Positives that are held out for an audit count as unjudged: they may be drawn
    as negatives, as those may that nobody found.
    """
    if judged.graded:
        progress.note(judged.graded)
    known = judged.known
    rng = np.random.default_rng([config.seed, 1])
    query, doc = _pairs(judged.positives, collection)
    filled = collection.documents["text_key"].to_numpy()[doc] != 0
    query, doc = query[filled], doc[filled]
    if config.hold_out:
        held = _held_out(collection, query, config)
        progress.note(f"{held.sum():,} of {len(query):,} positives are held out for an audit")
        known = _outside(known, pair_keys(query[held], doc[held]), collection)
        query, doc = query[~held], doc[~held]
    exclusions = Exclusions(collection, known, judged.negatives, overlaps=False, protected=())
    per_query = np.bincount(query, minlength=collection.queries.num_rows)
    window = _allowed(exclusions, _window(collection, config, progress))
    mined = _draw(*window, per_query * config.mined, rng)
    easy = _allowed(exclusions, _random_pairs(collection, per_query * config.random, rng))
    easy = _draw(*_without(easy, mined), per_query * config.random, rng)
    parts = ((query, doc), mined, easy)
    kind = np.repeat(np.arange(3, dtype=np.int32), [len(part[0]) for part in parts])
    all_query, all_doc = (np.concatenate(side).astype(np.int32) for side in zip(*parts, strict=True))
    order = np.lexsort((all_doc, kind, all_query))
    return LabelledPairs(collection, all_query[order], all_doc[order], kind[order])


def _held_out(collection: Collection, query: Ints, config: RerankerConfig) -> Flags:
    """Which positives (their queries, sorted) are held out: of queries whose text no other has."""
    keys = collection.queries["text_key"].to_numpy()
    _, place, times = np.unique(keys, return_inverse=True, return_counts=True)
    rng = np.random.default_rng([config.seed, 3])
    return drawn_share(query, times[place][query] == 1, config.hold_out, rng)


def _outside(judged: pa.Table, held: Keys, collection: Collection) -> pa.Table:
    """The judged pairs (query_id, doc_id) that are not held out."""
    query = positions(judged["query_id"], collection.query_ids)
    doc = positions(judged["doc_id"], collection.doc_ids)
    return judged.filter(pa.array(~np.isin(pair_keys(query, doc), held)))


def held_out_queries(collection: Collection, config: RerankerConfig) -> Flags:
    """Returns for each query whether no model trains on it; queries of equal text go together."""
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
    """BM25's hits in the ranks that negatives are mined from."""
    empty = np.empty(0, dtype=np.int32)
    if not config.mined:
        return empty, empty
    retriever = Bm25(collection, Bm25Config())
    found: list[tuple[Ints, Ints]] = [(empty, empty)]
    with progress.task("mining negatives", collection.queries.num_rows, unit="queries") as advance:
        for chunk in chunk_ranges(collection):
            hits = retriever.search(chunk, config.depth)
            kept = hits.rank > config.skip_top
            found.append((hits.query[kept], hits.doc[kept]))
            advance(len(chunk))
    return np.concatenate([query for query, _ in found]), np.concatenate([doc for _, doc in found])


def _random_pairs(collection: Collection, wanted: Keys, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Twice as many documents as wanted, and a few more: some will be banned or come up twice."""
    query = np.repeat(np.arange(len(wanted), dtype=np.int32), np.where(wanted, 2 * wanted + 8, 0))
    doc = rng.integers(0, collection.documents.num_rows, len(query), dtype=np.int32)
    return split_pairs(np.unique(pair_keys(query, doc)))


def _without(pairs: tuple[Ints, Ints], others: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    kept = ~np.isin(pair_keys(*pairs), pair_keys(*others))
    return pairs[0][kept], pairs[1][kept]


def _draw(query: Ints, doc: Ints, wanted: Keys, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Draws at most `wanted[q]` of the pairs of each query q."""
    order = np.lexsort((rng.random(len(query)), query))
    query, doc = query[order], doc[order]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    kept = place < wanted[query]
    return query[kept], doc[kept]
