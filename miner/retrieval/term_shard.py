"""A shard of a BM25 index: the postings of consecutive documents, and the search of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from miner.arrays import Int64s
from miner.collection.collection import Floats, Hits, Ints
from miner.engine.work import ordered_map, worker_count
from miner.retrieval.config import Bm25Config
from miner.retrieval.postings import Postings, build
from miner.retrieval.ranked import stacked
from miner.retrieval.shards import ShardFiles

if TYPE_CHECKING:
    from miner.retrieval.term_search import Index, Queries

DELTA = {"bm25l": 0.5, "bm25+": 1.0}
"""Lower-bounding constants (Lv & Zhai 2011)."""

_QUERIES = 128
"""Queries that a worker answers at a time."""
_READ = 1 << 21
"""Postings of which a worker finds the largest weights at a time."""
_SLACK = 2.0**-22
"""Bounds what each term adds to the relative error of a sum in float32."""
_EPSILON = 0.25
"""What rank-bm25's Okapi gives instead of a negative idf: this share of the average."""


class Totals(NamedTuple):
    """The size of a shard."""

    documents: int
    terms: int
    """The terms of all its documents, repetitions included."""


class TermQueries(NamedTuple):
    """All queries, with what the documents of all shards make of their terms."""

    names: pa.Array
    """The terms that documents hold, in alphabetical order."""
    starts: Int64s
    """The terms of query q are `terms[starts[q]:starts[q + 1]]`, in order."""
    terms: Int64s
    """Positions in `names`."""
    factors: Floats
    """The factor of each of `terms`."""
    bases: Floats
    """What is added to every score of a query."""
    mean_length: float


class TermShard:
    """The documents of one shard, from position `first` of the collection on."""

    def __init__(
        self, postings: Postings, config: Bm25Config, first: int = 0, workers: int | None = None
    ) -> None:
        self._postings, self._config, self._first, self._workers = postings, config, first, workers

    def totals(self) -> Totals:
        """Returns the size of the shard."""
        lengths = self._postings.lengths
        return Totals(len(lengths), int(lengths.sum(dtype=np.int64)))

    def holders(self, names: pa.Array) -> Int64s:
        """Returns how many documents hold each term."""
        found = self._postings.find(names)
        return np.append(self._postings.holders, 0)[found]

    def vocabulary(self) -> tuple[pa.Array, Int64s]:
        """Returns all terms, in order of their first occurrence, and how many documents hold each."""
        return self._postings.names, self._postings.holders

    def take_queries(self, given: TermQueries) -> None:
        """Takes the queries that are then searched."""
        self._given = given

    @cached_property
    def _formula(self) -> Formula:
        return Formula.of(self._config)

    @cached_property
    def _index(self) -> Index:
        from miner.retrieval.term_search import Index

        postings, config = self._postings, self._config
        lengths = np.arange(int(postings.lengths.max(initial=0)) + 1)
        with np.errstate(over="ignore"):
            relative = 1 - config.b + config.b * (lengths / (self._given.mean_length or 1.0))
            norm_of = self._formula.scale * relative
            norms = norm_of.astype(np.float32)[postings.lengths]
        columns = postings.starts, postings.docs, postings.counts, postings.lengths
        return Index(*columns, norm_of, norms, self._formula.bonus)

    @cached_property
    def _queries(self) -> Queries:
        """The queries with the terms that documents of the shard hold."""
        from miner.retrieval.term_search import Queries

        given = self._given
        in_index = self._postings.find(given.names)
        terms, starts, factors = in_index[given.terms], given.starts, np.array(given.factors)
        known = terms >= 0
        if not known.all():
            starts = np.concatenate([[0], np.cumsum(known)])[starts]
            terms, factors = terms[known], factors[known]
        largest = self._largest(in_index)[given.terms[known]]
        return Queries(np.array(starts), terms, factors, largest, np.array(given.bases))

    def _largest(self, terms: Int64s) -> Floats:
        """Returns the largest part of each term in any document; 0 for a term that no document holds."""
        from miner.retrieval.term_search import largest_weights

        known = np.flatnonzero(terms >= 0)
        read = np.cumsum(self._postings.holders[terms[known]]) // _READ
        parts = np.split(terms[known], np.flatnonzero(np.diff(read)) + 1)

        def largest(part: Int64s) -> Floats:
            """Returns the largest part of some terms."""
            found: Floats = largest_weights(part, self._index)
            return found

        result = np.zeros(len(terms))
        result[known] = np.concatenate(list(ordered_map(largest, parts, worker_count(self._workers))))
        return result

    @cached_property
    def _slack(self) -> float:
        """A bound for the relative error of a sum in float32; infinity where float32 lacks the range."""
        parts = np.concatenate([np.abs(self._queries.factors), self._index.norm_of])
        parts = parts[parts > 0]
        if not np.all(np.isfinite(parts)) or parts.min(initial=1) < 1e-30 or parts.max(initial=1) > 1e30:
            return np.inf
        return 1e-6 + _SLACK * int(np.diff(self._queries.starts).max(initial=0))

    def search(self, queries: range, depth: int) -> Hits:
        """Returns, for each query, the best `depth` documents that share a term with it; ties by position.

        A document whose score is not finite is not a hit.
        """
        pieces = [
            range(start, min(start + _QUERIES, queries.stop))
            for start in range(queries.start, queries.stop, _QUERIES)
        ]
        found = ordered_map(lambda piece: self._search(piece, depth), pieces, worker_count(self._workers))
        return stacked(list(found))

    def _search(self, queries: range, depth: int) -> Hits:
        from miner.retrieval.term_search import search

        depth = min(depth, len(self._index.lengths))
        docs = np.empty((len(queries), depth), dtype=np.int32)
        scores = np.empty((len(queries), depth))
        own = self._queries._replace(
            starts=self._queries.starts[queries.start : queries.stop + 1],
            bases=self._queries.bases[queries.start : queries.stop],
        )
        sizes = search(own, self._index, self._slack, docs, scores)
        best = np.arange(depth) < sizes[:, None]
        query = np.repeat(np.arange(queries.start, queries.stop, dtype=np.int32), sizes)
        rank = np.broadcast_to(np.arange(1, depth + 1, dtype=np.int32), best.shape)[best]
        return Hits(query, docs[best] + np.int32(self._first), rank, scores[best])

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the BM25 score of each (query, document) pair of positions, equal to that of `search`."""
        from miner.retrieval.term_search import score_pairs

        own = np.subtract(doc, self._first, dtype=doc.dtype)
        scores: Floats = score_pairs(np.array(query), own, self._queries, self._index)
        return scores


@dataclass(frozen=True)
class TermShardOpener:
    """How a worker gets the index of consecutive documents, whose texts it is then given."""

    key: str
    """What the postings depend on."""
    documents: range
    config: Bm25Config
    work: str | None
    number: int
    """Tells openers of the same documents apart, whose queries may differ."""

    def open(self) -> GivenTermShard:
        """Returns the shard without its documents."""
        return GivenTermShard(self)


class GivenTermShard(TermShard):
    """A shard in a worker, which builds the index of texts that it is given, or reads it if it is kept."""

    def __init__(self, opener: TermShardOpener) -> None:
        self._opener = opener
        self._kept = ShardFiles(opener.work, opener.key)
        self._files: list[Path] = []

    def restored(self) -> bool:
        """Returns whether the shard is complete, because its index is kept in the work folder."""
        found = self._kept.restored()
        if found:
            self._open()
        return found

    def add(self, texts: pa.Array) -> None:
        """Takes the next texts."""
        self._files.append(self._kept.folder / f"texts-{len(self._files)}.arrow")
        table = pa.table({"text": texts})
        with pa.OSFile(str(self._files[-1]), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    def finish(self) -> None:
        """Builds the index of the texts."""
        build(self._texts(), self._opener.config, self._kept.folder)
        self._kept.save()
        self._open()

    def _texts(self) -> Iterator[pa.Array]:
        for file in self._files:
            with pa.memory_map(str(file)) as source:
                yield pa.ipc.open_file(source).read_all()["text"].combine_chunks()
            file.unlink()

    def _open(self) -> None:
        postings = Postings.mapped(self._kept.folder)
        self._kept.remove()
        super().__init__(postings, self._opener.config, self._opener.documents.start)


@dataclass(frozen=True)
class Formula:
    """A formula of BM25 as idf · present · tf / (tf + norm), and idf · absent for every document.

    The norm is scale · (1 - b + b · length / mean length). BM25L is (k1+1)(c+δ)/(k1+c+δ) with
    c = tf / (1 - b + b · length / mean length), which is (k1+1)δ/(k1+δ) + (k1+1)k1/(k1+δ) · tf/(tf+norm) with
    scale k1 + δ. Only rank-bm25's, which multiplies by tf once more, has no such form: `bonus`.
    That a document gets a part for words that it lacks is the libraries' doing, not the papers':
    findings/delta-of-bm25-plus-changes-no-ranking.sh.
    """

    backend: str
    variant: str
    present: float
    absent: float
    scale: float
    bonus: float

    @classmethod
    def of(cls, config: Bm25Config) -> Formula:
        """Returns the formula of a configuration."""
        k1, delta = config.k1, DELTA.get(config.variant, 0.0)
        named = config.backend, config.variant
        if named == ("bm25s", "bm25l"):
            parts = (k1 + 1) * k1 / (k1 + delta), (k1 + 1) * delta / (k1 + delta), k1 + delta, 0.0
        elif named == ("rank-bm25", "bm25l"):
            parts = k1 + 1, 0.0, k1 + delta, delta / (k1 + delta)
        else:
            parts = (1.0 if config.variant in ("lucene", "robertson") else k1 + 1), delta, k1, 0.0
        return cls(*named, *parts)

    @property
    def needs_mean(self) -> bool:
        """Whether the idf of a term depends on the mean idf of all terms."""
        return self.variant == "okapi"

    def idf(self, documents: int, holders: Int64s, mean: float = 0.0) -> Floats:
        """Returns the idf of terms that so many of the documents hold (Kamphuis et al. 2020, table 1).

        `mean` is that of all terms, for a formula that needs it.
        """
        idf = self.log_ratio(documents, holders)
        return np.where(idf < 0, _EPSILON * mean, idf) if self.needs_mean else idf

    def log_ratio(self, documents: int, holders: Int64s) -> Floats:
        """Returns the logarithm that the idf of each term is made of."""
        odds = (documents - holders + 0.5) / (holders + 0.5)
        ratio = {
            "lucene": 1 + odds,
            "robertson": np.maximum(1, odds),
            "atire": documents / holders,
            "bm25l": (documents + 1) / (holders + 0.5),
            "bm25+": (documents + 1) / holders,
            "okapi": odds,
        }
        found: Floats = np.log(ratio[self.variant])
        return found
