"""Exclusions: the pairs that are never negatives, whatever their scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import Int64s, joined_ranges, pair_keys, positions, slices
from miner.collection.collection import Collection, Ints
from miner.schema import CODES, FREE, Reason

Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int8]

_PAIRS = 1 << 22
"""Pairs of texts compared at a time, which bounds the memory if queries have many positives."""


@dataclass(frozen=True)
class Exclusions:
    """What judgments, labels and texts say about a candidate.

    That is the first reason, in the order of the checks in `reasons`, why it can never be a negative, and
    whether it is known to be a negative.
    """

    collection: Collection
    positives: pa.Table
    """Positives of every split: query_id, doc_id."""
    negatives: pa.Table
    """Pairs judged not relevant: query_id, doc_id."""
    overlaps: bool
    protected: tuple[str, ...]

    def reasons(self, query: Ints, doc: Ints) -> Codes:
        """Returns the reason of each (query, document) pair as its place in `Reason`, FREE without one."""
        checks: tuple[tuple[Reason, Callable[[Ints, Ints], Flags]], ...] = (
            (Reason.JUDGED_POSITIVE, self._judged),
            (Reason.SAME_LABEL, self._same_label),
            (Reason.DUPLICATE_OF_POSITIVE, self._duplicates),
            (Reason.IS_QUERY, self._is_query),
            (Reason.EMPTY_TEXT, self._empty),
            (Reason.PROTECTED, self._protected),
            (Reason.OVERLAPS_POSITIVE, self._overlapping),
        )
        codes = np.full(len(query), FREE, dtype=np.int8)
        for reason, check in checks:
            pending = np.flatnonzero(codes == FREE)
            codes[pending[check(query[pending], doc[pending])]] = CODES[reason]
        return codes

    def of_candidates(self, query: Ints, doc: Ints) -> Codes:
        """Returns each candidate's exclusion; of a query's copies all but the best-ranked one are excluded.

        `query` is sorted, and a query's candidates are in fused order.
        """
        reasons = self.reasons(query, doc)
        cluster = self.clusters[doc]
        clustered = np.flatnonzero((reasons == FREE) & (cluster >= 0))
        _, first = np.unique(pair_keys(query[clustered], cluster[clustered]), return_index=True)
        reasons[np.delete(clustered, first)] = CODES[Reason.DUPLICATE_OF_CANDIDATE]
        return reasons

    def allowed(self, query: Ints, doc: Ints) -> Flags:
        """Returns which pairs may be negatives."""
        return np.asarray(self.reasons(query, doc) == FREE)

    def judged_negative(self, query: Ints, doc: Ints) -> Flags:
        """Returns which pairs are known negatives: judged not relevant, or with two different labels."""
        query_labels, doc_labels = self._labels
        labelled = (query_labels[query] >= 0) & (doc_labels[doc] >= 0)
        judged = np.isin(pair_keys(query, doc), self._negative_keys)
        return np.asarray((labelled & (query_labels[query] != doc_labels[doc])) | judged)

    @cached_property
    def _negative_keys(self) -> Int64s:
        """The pairs judged not relevant."""
        return pair_keys(*self._positions(self.negatives))

    def _positions(self, pairs: pa.Table) -> tuple[Ints, Ints]:
        """Returns the positions of the pairs whose query and document are in the collection."""
        query = positions(pairs["query_id"], self.collection.query_ids)
        doc = positions(pairs["doc_id"], self.collection.doc_ids)
        known = (query >= 0) & (doc >= 0)
        return query[known], doc[known]

    @cached_property
    def _pairs(self) -> tuple[Ints, Ints]:
        """The positions of the positives, sorted by query."""
        query, doc = self._positions(self.positives)
        order = np.lexsort((doc, query))
        return query[order], doc[order]

    @cached_property
    def _doc_keys(self) -> Int64s:
        keys: Int64s = self.collection.documents["text_key"].to_numpy()
        return keys

    @cached_property
    def _query_keys(self) -> Int64s:
        keys: Int64s = self.collection.queries["text_key"].to_numpy()
        return keys

    def _judged(self, query: Ints, doc: Ints) -> Flags:
        positive_query, positive_doc = self._pairs
        return np.isin(pair_keys(query, doc), pair_keys(positive_query, positive_doc))

    def _same_label(self, query: Ints, doc: Ints) -> Flags:
        query_labels, doc_labels = self._labels
        return np.asarray((query_labels[query] >= 0) & (query_labels[query] == doc_labels[doc]))

    @cached_property
    def _labels(self) -> tuple[Ints, Ints]:
        """The label of each query and of each document as a number, -1 without a label."""
        known = pa.chunked_array([self.collection.documents["label"].combine_chunks()]).unique().drop_null()
        query = positions(self.collection.queries["label"], known)
        return query, positions(self.collection.documents["label"], known)

    def _duplicates(self, query: Ints, doc: Ints) -> Flags:
        same_text = self._like_positive(self.collection.texts, query, doc)
        copy = (self.clusters[doc] >= 0) & self._like_positive(self.clusters, query, doc)
        if self.collection.passages is not self.collection.texts:
            copy |= self._like_positive(self.collection.passages, query, doc)
        return np.asarray(same_text | (copy & ~self.judged_negative(query, doc)))

    def _like_positive(self, numbers: Ints, query: Ints, doc: Ints) -> Flags:
        """Returns whether each document has the number of one of the query's positives."""
        positive_query, positive_doc = self._pairs
        return np.isin(pair_keys(query, numbers[doc]), pair_keys(positive_query, numbers[positive_doc]))

    @cached_property
    def clusters(self) -> Ints:
        """The number of each document's cluster of copies, -1 without copies."""
        cluster = self.collection.documents["cluster"].combine_chunks().dictionary_encode()
        return np.asarray(pc.fill_null(cluster.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32))

    def _is_query(self, query: Ints, doc: Ints) -> Flags:
        own = self._query_keys[query]
        same = (own == self._doc_keys[doc]) | (own == self._passage_keys[doc])
        if self.collection.queries_are_documents:
            same |= self._query_as_document[query] == doc
        return np.asarray(same)

    @cached_property
    def _passage_keys(self) -> Int64s:
        keys: Int64s = self.collection.documents["passage_key"].to_numpy()
        return keys

    @cached_property
    def _query_as_document(self) -> Ints:
        """The position of the document with the query's id, -1 if there is none."""
        return positions(pa.chunked_array([self.collection.query_ids]), self.collection.doc_ids)

    def _empty(self, query: Ints, doc: Ints) -> Flags:
        return np.asarray(self._doc_keys[doc] == 0)

    def _protected(self, query: Ints, doc: Ints) -> Flags:
        if not self.protected:
            return np.zeros(len(doc), dtype=np.bool_)
        ids = pa.chunked_array([pa.array(self.protected, pa.string())])
        return np.isin(doc, positions(ids, self.collection.doc_ids))

    def _overlapping(self, query: Ints, doc: Ints) -> Flags:
        """Returns whether the document and any positive contain each other's passage, at word boundaries."""
        overlap = np.zeros(len(doc), dtype=np.bool_)
        if not self.overlaps:
            return overlap
        positive_query, positive_doc = self._pairs
        starts = np.searchsorted(positive_query, query, side="left")
        counts = np.searchsorted(positive_query, query, side="right") - starts
        for rows in slices(counts, _PAIRS):
            owner = np.repeat(np.arange(rows.start, rows.stop), counts[rows])
            positive = positive_doc[joined_ranges(starts[rows], counts[rows])]
            overlap[owner[self.collection.words.overlap(doc[owner], positive)]] = True
        return overlap
