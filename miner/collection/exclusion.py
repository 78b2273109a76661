"""Exclusions: the pairs that are never negatives, whatever their scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import Int64s, joined_ranges, pair_keys, positions, slices, split_pairs
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
    positives: Int64s
    """The `pair_keys` of the positives of every split, sorted."""
    negatives: Int64s
    """The `pair_keys` of the pairs judged not relevant."""
    overlaps: bool
    protected: tuple[str, ...]
    same_document: bool = True
    """Whether chunks of a positive's document are excluded."""

    @classmethod
    def of(
        cls,
        collection: Collection,
        positives: pa.Table,
        negatives: pa.Table,
        overlaps: bool,
        protected: tuple[str, ...],
        same_document: bool = True,
    ) -> Exclusions:
        """Returns the exclusions by pairs of ids: query_id, doc_id."""
        keys = np.sort(collection.keys_of(positives)), collection.keys_of(negatives)
        return cls(collection, *keys, overlaps, protected, same_document)

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
            (Reason.SAME_DOCUMENT, self._same_document),
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
        return self.without_copies(self.reasons(query, doc), query, doc)

    def causes(self, query: Ints, doc: Ints) -> list[tuple[Reason, Int64s, Int64s]]:
        """Returns which positives exclude which candidates, the weakest reason first.

        For each reason that depends on positives: rows of the candidates, and the numbers of the positives
        that exclude them, in `positives`. `reasons` without positives come before an overlap and the same
        document, after the others.
        """
        texts = self.collection
        queries, positive = self._pairs
        starts = np.searchsorted(queries, query, side="left")
        counts = np.searchsorted(queries, query, side="right") - starts
        can_copy = ~self.judged_negative(query, doc)
        found: dict[Reason, list[tuple[Int64s, Int64s]]] = {}
        for rows in slices(counts, _PAIRS):
            row = np.repeat(np.arange(rows.start, rows.stop), counts[rows])
            number = joined_ranges(starts[rows], counts[rows])
            one, other = doc[row], positive[number]
            is_copy = (texts.clusters[one] >= 0) & (texts.clusters[one] == texts.clusters[other])
            is_copy |= texts.passages[one] == texts.passages[other]
            same = (texts.texts[one] == texts.texts[other]) | (is_copy & can_copy[row])
            flags = {Reason.DUPLICATE_OF_POSITIVE: same, Reason.JUDGED_POSITIVE: one == other}
            if self.overlaps:
                overlap, others = np.zeros(len(one), dtype=np.bool_), np.flatnonzero(~same & (one != other))
                overlap[others] = texts.words.overlap(one[others], other[others])
                flags = {Reason.OVERLAPS_POSITIVE: overlap, **flags}
            if self.same_document:
                chunk = (texts.parents[one] >= 0) & (texts.parents[one] == texts.parents[other])
                flags = {Reason.SAME_DOCUMENT: chunk & can_copy[row] & (one != other), **flags}
            for reason, flag in flags.items():
                found.setdefault(reason, []).append((row[flag], number[flag]))
        return [
            (reason, np.concatenate([row for row, _ in some]), np.concatenate([number for _, number in some]))
            for reason, some in found.items()
        ]

    def without_copies(self, reasons: Codes, query: Ints, doc: Ints) -> Codes:
        """Returns the reasons with that of copies of a candidate: all but the best-ranked one are excluded.

        `query` is sorted, and a query's candidates are in fused order.
        """
        cluster = self.collection.clusters[doc]
        clustered = np.flatnonzero((reasons == FREE) & (cluster >= 0))
        _, first = np.unique(pair_keys(query[clustered], cluster[clustered]), return_index=True)
        reasons[np.delete(clustered, first)] = CODES[Reason.DUPLICATE_OF_CANDIDATE]
        return reasons

    def allowed(self, query: Ints, doc: Ints) -> Flags:
        """Returns which pairs may be negatives."""
        return np.asarray(self.reasons(query, doc) == FREE)

    def judged_negative(self, query: Ints, doc: Ints) -> Flags:
        """Returns which pairs are known negatives: judged not relevant, or with two different labels."""
        query_labels, doc_labels = self.collection.labels
        labelled = (query_labels[query] >= 0) & (doc_labels[doc] >= 0)
        judged = np.isin(pair_keys(query, doc), self.negatives)
        return np.asarray((labelled & (query_labels[query] != doc_labels[doc])) | judged)

    @cached_property
    def _pairs(self) -> tuple[Ints, Ints]:
        """The positions of the positives, sorted by query."""
        return split_pairs(self.positives)

    @cached_property
    def _doc_keys(self) -> Int64s:
        keys: Int64s = self.collection.documents["text_key"].to_numpy()
        return keys

    @cached_property
    def _query_keys(self) -> Int64s:
        keys: Int64s = self.collection.queries["text_key"].to_numpy()
        return keys

    def _judged(self, query: Ints, doc: Ints) -> Flags:
        return np.isin(pair_keys(query, doc), self.positives)

    def _same_label(self, query: Ints, doc: Ints) -> Flags:
        query_labels, doc_labels = self.collection.labels
        return np.asarray((query_labels[query] >= 0) & (query_labels[query] == doc_labels[doc]))

    def _duplicates(self, query: Ints, doc: Ints) -> Flags:
        same_text = self._like_positive(self.collection.texts, query, doc)
        copy = (self.collection.clusters[doc] >= 0) & self._like_positive(
            self.collection.clusters, query, doc
        )
        if self.collection.passages is not self.collection.texts:
            copy |= self._like_positive(self.collection.passages, query, doc)
        return np.asarray(same_text | (copy & ~self.judged_negative(query, doc)))

    def _same_document(self, query: Ints, doc: Ints) -> Flags:
        """Returns whether the document is a chunk of the same document as a positive of the query."""
        parents = self.collection.parents
        if not self.same_document or not len(doc) or parents.max(initial=-1) < 0:
            return np.zeros(len(doc), dtype=np.bool_)
        chunk = (parents[doc] >= 0) & self._like_positive(parents, query, doc)
        return np.asarray(chunk & ~self.judged_negative(query, doc))

    def _like_positive(self, numbers: Ints, query: Ints, doc: Ints) -> Flags:
        """Returns whether each document has the number of one of the query's positives."""
        positive_query, positive_doc = self._pairs
        return np.isin(pair_keys(query, numbers[doc]), pair_keys(positive_query, numbers[positive_doc]))

    def _is_query(self, query: Ints, doc: Ints) -> Flags:
        own = self._query_keys[query]
        same = (own == self._doc_keys[doc]) | (own == self._passage_keys[doc])
        if self.collection.queries_are_documents:
            same |= self.collection.query_as_document[query] == doc
        return np.asarray(same)

    @cached_property
    def _passage_keys(self) -> Int64s:
        keys: Int64s = self.collection.documents["passage_key"].to_numpy()
        return keys

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
