"""BM25 over an inverted index: every score in float64, equal scores ranked by doc_id."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import pair_keys, split_pairs
from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.engine.cluster import Cluster, Resident, current
from miner.engine.files import WAIT, locked, new_folder
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.retrieval.config import Bm25Config
from miner.retrieval.postings import Postings, build
from miner.retrieval.shards import Here, Shards, shard_key, shard_ranges
from miner.retrieval.term_shard import Formula, TermQueries, TermShard, TermShardOpener, Totals
from miner.retrieval.terms import Terms, require_stopwords, stemmer
from miner.store.ledger import KEY
from miner.text import fingerprint

VARIANTS = {
    "bm25s": ("lucene", "robertson", "atire", "bm25l", "bm25+"),
    "rank-bm25": ("okapi", "bm25l", "bm25+"),
}

_CODE = 3


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
    in_workers = True

    def __init__(
        self,
        collection: Collection,
        config: Bm25Config,
        *,
        folder: Path | None = None,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """`folder` keeps the index for later; without it the index is gone with this object.

        In a cluster each worker has a part of the index, and `folder` is not used.
        """
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

    @property
    def _key(self) -> tuple[str, str]:
        """What the postings depend on: the documents, and how these become terms."""
        words = [self._config.stemmer, self._config.stopwords, self._versions(), _CODE]
        documents = fingerprint(self._collection.hashes["documents"])[:KEY]
        return documents, fingerprint(words)[:KEY]

    def search(self, queries: range, depth: int) -> Hits:
        """Returns, for each query, the best `depth` documents that share a term with it; ties by doc_id.

        A document whose score is not finite is not a hit.
        """
        return self._shards.search(queries, depth)

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the BM25 score of each (query, document) pair of positions, equal to that of `search`."""
        return self._shards.score_pairs(query, doc)

    @cached_property
    def _shards(self) -> Shards:
        """The index, with the queries."""
        cluster = current(self._progress)
        shards = self._here() if cluster is None else self._lent(cluster)
        self._give_queries(shards, cluster)
        return shards

    def _here(self) -> Shards:
        shard = TermShard(self._postings, self._config, workers=self._workers)
        return Shards([Here(shard)], [range(len(self._collection.doc_ids))])

    @cached_property
    def _postings(self) -> Postings:
        if self._folder is None:
            with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                self._build(Path(folder))
                return Postings.mapped(Path(folder))
        documents = self._key[0]
        kept = self._folder / "-".join(self._key)
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

    def _lent(self, cluster: Cluster) -> Shards:
        """Returns shards in the workers of a cluster."""
        ranges = shard_ranges(len(self._collection.doc_ids), cluster)
        residents = [
            Resident(cluster, self._opener(one, cluster), partial(self._made, one)) for one in ranges
        ]
        shards = Shards(residents, ranges, cluster.stop)
        with self._progress.task("index bm25", len(ranges), 0, "shards") as advance:
            shards.each("totals")
            advance(len(ranges))
        return shards

    def _opener(self, documents: range, cluster: Cluster) -> TermShardOpener:
        key = shard_key(self._key, documents, self._collection.doc_ids)
        return TermShardOpener(key, documents, self._config, cluster.work, cluster.number())

    def _made(self, documents: range) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Yields the calls that build the index of some documents in a worker."""
        for start in range(documents.start, documents.stop, self._collection.block):
            stop = min(start + self._collection.block, documents.stop)
            yield "add", (self._collection.texts_of(np.arange(start, stop)),)
        yield "finish", ()

    def _give_queries(self, shards: Shards, cluster: Cluster | None) -> None:
        """Gives the shards the terms of all queries, each query's in alphabetical order."""
        terms, formula = Terms(self._config), Formula.of(self._config)
        numbers, ends = terms.numbers(self._collection.queries["text"].combine_chunks())
        names = terms.names()
        order = pc.array_sort_indices(names).to_numpy()
        rank = np.argsort(order)
        names = names.take(pa.array(order))
        holders = np.sum(shards.each("holders", names), axis=0)
        asking = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))[numbers >= 0]
        wanted = rank[numbers[numbers >= 0]]
        known = holders[wanted] > 0
        keys, repeats = np.unique(pair_keys(asking[known], wanted[known]), return_counts=True)
        query, term = split_pairs(keys)
        starts = np.searchsorted(query, np.arange(len(ends) + 1))
        totals: list[Totals] = shards.each("totals")
        documents = sum(one.documents for one in totals)
        known_terms = np.flatnonzero(holders)
        idf = np.zeros(len(holders))
        idf[known_terms] = formula.idf(
            documents, holders[known_terms], self._mean_idf(shards, formula, documents)
        )
        weight = idf[term] * repeats
        given = TermQueries(
            names,
            starts,
            term.astype(np.int64),
            weight * formula.present,
            np.bincount(query, weight * formula.absent, minlength=len(ends)).astype(np.float64),
            sum(one.terms for one in totals) / documents if documents else 0.0,
        )
        shards.keep("take_queries", given if cluster is None else cluster.put(given))

    def _mean_idf(self, shards: Shards, formula: Formula, documents: int) -> float:
        """Returns the mean idf of all terms, if the formula needs it."""
        if not formula.needs_mean:
            return 0.0
        parts = shards.each("vocabulary")
        terms = pa.chunked_array([names for names, _ in parts]).combine_chunks().dictionary_encode()
        counts = np.concatenate([holders for _, holders in parts])
        holders = np.bincount(terms.indices.to_numpy(), counts).astype(np.int64)
        return float(formula.log_ratio(documents, holders).mean()) if len(holders) else 0.0


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
