"""The documents and queries of a search by position. Ids are sorted, so that positions break ties."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import Int64s, Positions, pair_keys, positions
from miner.collection.overlap import Words
from miner.collection.texts import StoredTexts, Strings, Texts
from miner.memory import MemoryLimit
from miner.store import corpus
from miner.store.database import Database
from miner.store.duplicates import clusters_hash

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Collection:
    """Documents and the queries of one split, each ordered by id."""

    documents: pa.Table
    """doc_id, text_key, passage_key, passage_start, label, cluster, parent (or no such column); also text if
    there is no `source`."""
    queries: pa.Table
    """query_id, text, text_key, label."""
    hashes: dict[str, str]
    """Content hashes of documents, queries and judgments, and of clusters of copies if there are any."""
    split: str
    queries_are_documents: bool = False
    """Whether a query and the document with its id are the same text."""
    source: StoredTexts | Texts | None = None
    """The documents' texts, which are not in memory; None if the column text has them."""
    memory: MemoryLimit = field(default_factory=MemoryLimit.of)
    """The memory that work with the collection should not exceed."""

    @classmethod
    def load(cls, store: Database, split: str, sample: int | None = None, seed: int = 13) -> Collection:
        """Reads the store's documents and the split's queries, or a seeded sample of the queries.

        Raises UsageError if the split has no queries.
        """
        queries = corpus.queries(store, split)
        hashes = corpus.content_hashes(store, split)
        if (clusters := clusters_hash(store)) is not None:
            hashes["clusters"] = clusters
        if sample is not None and sample < queries.num_rows:
            queries = queries.take(seeded_sample(queries["query_id"].to_pylist(), sample, seed))
            hashes["queries"] += f"/{sample}/{seed}"
        return cls.over(store, queries, hashes, split)

    @classmethod
    def over(cls, store: Database, queries: pa.Table, hashes: dict[str, str], split: str) -> Collection:
        """Returns all documents of a store with these queries."""
        same = corpus.queries_are_documents(store)
        documents, source = corpus.documents(store), StoredTexts(store)
        return cls(documents, queries, hashes, split, same, source, memory=store.memory)

    def of_documents(self, positions: Positions) -> Collection:
        """Returns the same queries with the documents at these positions, in that order."""
        documents = self.documents.take(pa.array(positions))
        source = None if self.source is None else self._texts.chosen(positions)
        return replace(self, documents=documents, source=source)

    def text_blocks(self, rows: int) -> Iterator[pa.Array]:
        """Returns the texts of all documents in order of position, at most `rows` at a time.

        A block is an array of strings over a mapped file, whose pages leave the memory with the next block.
        """
        return self._texts.blocks(rows)

    def texts_of(self, positions: Positions) -> pa.Array:
        """Returns the texts of the documents at these positions, in their order."""
        return self._texts.of(positions)

    @cached_property
    def strings(self) -> Strings:
        """The texts of all documents by position, of which few are in memory at a time."""
        return Strings(self._texts, self.block)

    def text_lengths(self, positions: Positions) -> npt.NDArray[np.int64]:
        """Returns the number of characters of the texts of the documents at these positions."""
        wanted, row = np.unique(positions, return_inverse=True)
        lengths = np.zeros(len(wanted), dtype=np.int64)
        for start in range(0, len(wanted), self.block):
            cut = slice(start, start + self.block)
            lengths[cut] = pc.utf8_length(self.texts_of(wanted[cut])).to_numpy()
        return lengths[row]

    @cached_property
    def block(self) -> int:
        """How many texts may be in memory at a time."""
        return self._texts.block(self.memory)

    @property
    def _texts(self) -> Texts:
        if isinstance(self.source, StoredTexts):
            return self.source.mapped
        return self._own if self.source is None else self.source

    @cached_property
    def _own(self) -> Texts:
        return Texts(self.documents["text"].combine_chunks())

    @cached_property
    def doc_ids(self) -> pa.Array:
        """The ids of all documents, sorted."""
        return self.documents["doc_id"].combine_chunks()

    @cached_property
    def query_ids(self) -> pa.Array:
        """The ids of all queries, sorted."""
        return self.queries["query_id"].combine_chunks()

    @cached_property
    def words(self) -> Words:
        """The words of all documents, which are read when they are compared."""
        return Words(self.texts_of, self.documents["passage_start"].to_numpy(), self.block)

    @cached_property
    def texts(self) -> Ints:
        """One number per document; equal texts have equal numbers."""
        keys = self.documents["text_key"].to_numpy()
        return np.unique(keys, return_inverse=True)[1].astype(np.int32)

    @cached_property
    def passages(self) -> Ints:
        """One number per document, equal for documents of the same text or passage."""
        text, passage = (self.documents[name].to_numpy() for name in ("text_key", "passage_key"))
        return same_passage(text, passage) if np.any(text != passage) else self.texts

    @cached_property
    def clusters(self) -> Ints:
        """The number of each document's cluster of copies, -1 without copies."""
        return _numbers(self.documents["cluster"])

    @cached_property
    def parents(self) -> Ints:
        """The number of the document that each chunk is part of, -1 for a whole document."""
        if "parent" not in self.documents.column_names:
            return np.full(len(self.documents), -1, dtype=np.int32)
        return _numbers(self.documents["parent"])

    @cached_property
    def labels(self) -> tuple[Ints, Ints]:
        """The label of each query and of each document as a number, -1 without a label."""
        known = pa.chunked_array([self.documents["label"].combine_chunks()]).unique().drop_null()
        return positions(self.queries["label"], known), positions(self.documents["label"], known)

    @cached_property
    def query_as_document(self) -> Ints:
        """The position of the document with each query's id, -1 if there is none."""
        return positions(pa.chunked_array([self.query_ids]), self.doc_ids)

    def keys_of(self, pairs: pa.Table) -> Int64s:
        """Returns the `pair_keys` of the pairs (query_id, doc_id) whose texts are in the collection."""
        query = positions(pairs["query_id"], self.query_ids)
        doc = positions(pairs["doc_id"], self.doc_ids)
        known = (query >= 0) & (doc >= 0)
        return pair_keys(query[known], doc[known])

    def doc_column(self, positions: Ints) -> pa.DictionaryArray:
        """Returns doc ids for positions, dictionary-encoded."""
        return pa.DictionaryArray.from_arrays(pa.array(positions, pa.int32()), self.doc_ids)

    def query_column(self, positions: Ints) -> pa.DictionaryArray:
        """Returns query ids for positions, dictionary-encoded."""
        return pa.DictionaryArray.from_arrays(pa.array(positions, pa.int32()), self.query_ids)


def _numbers(column: pa.ChunkedArray) -> Ints:
    """Returns one number per text of a column, -1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32))


def same_passage(text_keys: npt.NDArray[np.int64], passage_keys: npt.NDArray[np.int64]) -> Ints:
    """Returns one number per document, equal for documents that shared texts or passages link."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, text = np.unique(text_keys, return_inverse=True)
    _, passage = np.unique(passage_keys, return_inverse=True)
    texts, both = int(text.max(initial=-1)) + 1, int(passage.max(initial=-1)) + 1
    graph = coo_array(
        (np.ones(len(text), dtype=np.int8), (text, texts + passage)), shape=(texts + both, texts + both)
    )
    _, component = connected_components(graph, directed=False)
    return np.asarray(component[text], dtype=np.int32)


def seeded_sample(ids: list[str], size: int, seed: int) -> pa.Array:
    """Returns the positions, ascending, of the ids with the smallest hashes of seed and id."""
    keys = [hashlib.blake2b(f"{seed} {i}".encode(), digest_size=8).digest() for i in ids]
    return pa.array(sorted(sorted(range(len(ids)), key=keys.__getitem__)[:size]))


@dataclass(frozen=True)
class Hits:
    """The hits of a retriever: four arrays of one length, ordered by query, then rank."""

    query: Ints
    """Positions of queries."""
    doc: Ints
    """Positions of documents."""
    rank: Ints
    """From 1."""
    score: Floats
