"""BM25 over an inverted index: every score in float64, equal scores ranked by doc_id."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import Int64s, pair_keys, split_pairs
from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.engine.files import WAIT, locked, new_folder
from miner.engine.progress import SILENT, Progress
from miner.engine.work import ordered_map, worker_count
from miner.errors import UsageError
from miner.retrieval.config import Bm25Config
from miner.retrieval.postings import Postings, build
from miner.retrieval.ranked import stacked
from miner.retrieval.terms import Terms, require_stopwords, stemmer
from miner.store.ledger import KEY
from miner.text import fingerprint

if TYPE_CHECKING:
    from miner.retrieval.term_search import Index, Queries

VARIANTS = {
    "bm25s": ("lucene", "robertson", "atire", "bm25l", "bm25+"),
    "rank-bm25": ("okapi", "bm25l", "bm25+"),
}
DELTA = {"bm25l": 0.5, "bm25+": 1.0}
"""Lower-bounding constants (Lv & Zhai 2011)."""

_CODE = 3
_QUERIES = 128
"""Queries that a worker answers at a time."""
_READ = 1 << 21
"""Postings of which a worker finds the largest weights at a time."""
_SLACK = 2.0**-22
"""Bounds what each term adds to the relative error of a sum in float32."""
_EPSILON = 0.25
"""What rank-bm25's Okapi gives instead of a negative idf: this share of the average."""


def check(config: Bm25Config) -> None:
    """Raises UsageError if the configuration names something that does not exist."""
    if config.backend not in VARIANTS:
        raise UsageError(f"unknown BM25 backend '{config.backend}'", f"choose one of {', '.join(VARIANTS)}")
    variants = VARIANTS[config.backend]
    if config.variant not in variants:
        raise UsageError(
            f"{config.backend} has no BM25 variant '{config.variant}'", f"it has {', '.join(variants)}"
        )
    require_stopwords(config.stopwords)
    stemmer(config.stemmer)


class Bm25:
    """Searches a collection with BM25; the index is built, or found beside the store, at the first search."""

    name = "bm25"
    kind = "bm25"
    proposes = True

    def __init__(
        self,
        collection: Collection,
        config: Bm25Config,
        *,
        folder: Path | None = None,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """`folder` keeps the index for later; without it the index is gone with this object."""
        check(config)
        self._progress = progress
        self._collection = collection
        self._config = config
        self._folder = folder
        self._workers = workers

    def inputs(self) -> dict[str, Any]:
        """Returns everything that its hits depend on, except the texts and the depth."""
        config = {name: getattr(self._config, name) for name in self._config.__dataclass_fields__}
        return {"bm25": config, "code": _CODE, **self._versions()}

    def _versions(self) -> dict[str, str]:
        import bm25s
        import Stemmer

        return {"bm25s": bm25s.__version__, "stemmer": Stemmer.version()}

    @cached_property
    def _postings(self) -> Postings:
        if self._folder is None:
            with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                self._build(Path(folder))
                return Postings.mapped(Path(folder))
        words = [self._config.stemmer, self._config.stopwords, self._versions(), _CODE]
        documents = fingerprint(self._collection.hashes["documents"])[:KEY]
        kept = self._folder / f"{documents}-{fingerprint(words)[:KEY]}"
        if not kept.exists():
            _remove_other(self._folder, documents)
            with locked(kept, WAIT), new_folder(kept) as new:
                self._build(new)
        return Postings.mapped(kept)

    def _build(self, folder: Path) -> None:
        documents = len(self._collection.doc_ids)
        with self._progress.task("index bm25", documents, 0, "documents") as advance:
            blocks = self._collection.text_blocks(self._collection.block)
            build(_counted(blocks, advance), self._config, folder)

    @cached_property
    def _index(self) -> Index:
        from miner.retrieval.term_search import Index

        postings = self._postings
        lengths = np.arange(int(postings.lengths.max(initial=0)) + 1)
        with np.errstate(over="ignore"):
            relative = 1 - self._config.b + self._config.b * (lengths / (postings.mean_length or 1.0))
            norm_of = self._formula.scale * relative
            norms = norm_of.astype(np.float32)[postings.lengths]
        columns = postings.starts, postings.docs, postings.counts, postings.lengths
        return Index(*columns, norm_of, norms, self._formula.bonus)

    @cached_property
    def _formula(self) -> _Formula:
        return _Formula.of(self._config)

    @cached_property
    def _queries(self) -> Queries:
        """The terms of all queries, each query's in alphabetical order."""
        from miner.retrieval.term_search import Queries

        terms = Terms(self._config)
        numbers, ends = terms.numbers(self._collection.queries["text"].combine_chunks())
        names = terms.names()
        order = pc.array_sort_indices(names).to_numpy()
        rank = np.argsort(order)
        in_index = self._postings.find(names)[order]
        asking = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))[numbers >= 0]
        wanted = rank[numbers[numbers >= 0]]
        known = in_index[wanted] >= 0
        keys, repeats = np.unique(pair_keys(asking[known], wanted[known]), return_counts=True)
        query, term = split_pairs(keys)
        starts = np.searchsorted(query, np.arange(len(ends) + 1))
        idf = np.append(self._formula.idf(len(self._postings.lengths), self._postings.holders), 0.0)[in_index]
        bases = np.bincount(query, idf[term] * repeats * self._formula.absent, minlength=len(ends))
        factors = idf[term] * repeats * self._formula.present
        return Queries(starts, in_index[term], factors, self._largest(in_index)[term], bases)

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
        """Returns, for each query, the best `depth` documents that share a term with it; ties by doc_id.

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
        return Hits(query, docs[best], rank, scores[best])

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the BM25 score of each (query, document) pair of positions, equal to that of `search`."""
        from miner.retrieval.term_search import score_pairs

        scores: Floats = score_pairs(query, doc, self._queries, self._index)
        return scores


def _counted(texts: Iterable[pa.Array], advance: Callable[[int], None]) -> Iterator[pa.Array]:
    """Yields blocks of texts and reports how many were used."""
    for block in texts:
        yield block
        advance(len(block))


def _remove_other(folder: Path, documents: str) -> None:
    """Removes the indexes of other documents than these, and what a kill left of them."""
    for other in folder.iterdir() if folder.is_dir() else ():
        if not other.name.lstrip(".").startswith(documents):
            shutil.rmtree(other) if other.is_dir() else other.unlink()


@dataclass(frozen=True)
class _Formula:
    """A formula of BM25 as idf · present · tf / (tf + norm), and idf · absent for every document.

    The norm is scale · (1 - b + b · length / mean length). BM25L is (k1+1)(c+δ)/(k1+c+δ) with
    c = tf / (1 - b + b · length / mean length), which is (k1+1)δ/(k1+δ) + (k1+1)k1/(k1+δ) · tf/(tf+norm) with
    scale k1 + δ. Only rank-bm25's, which multiplies by tf once more, has no such form: `bonus`.
    """

    backend: str
    variant: str
    present: float
    absent: float
    scale: float
    bonus: float

    @classmethod
    def of(cls, config: Bm25Config) -> _Formula:
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

    def idf(self, documents: int, holders: Int64s) -> Floats:
        """Returns the idf of terms that so many of the documents hold (Kamphuis et al. 2020, table 1)."""
        odds = (documents - holders + 0.5) / (holders + 0.5)
        ratio = {
            "lucene": 1 + odds,
            "robertson": np.maximum(1, odds),
            "atire": documents / holders,
            "bm25l": (documents + 1) / (holders + 0.5),
            "bm25+": (documents + 1) / holders,
            "okapi": odds,
        }
        idf: Floats = np.log(ratio[self.variant])
        if self.variant != "okapi" or not len(idf):
            return idf
        return np.where(idf < 0, _EPSILON * idf.mean(), idf)
