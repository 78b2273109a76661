"""Deciding over stored evidence: rules, selection and triplets. No model runs here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.mining import rules as ruling
from miner.mining.config import MiningConfig
from miner.mining.selection import Kept, select
from miner.retrieval.arrays import joined_ranges
from miner.retrieval.search import positions
from miner.schema import CANDIDATES_PER_QUERY, REVIEW, Reason
from miner.store import evidence as stored
from miner.store.database import Store

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_ROWS = 4_000_000
"""Candidates decided at once: bounds memory."""
_NO_SLOT = np.iinfo(np.int16).max


@dataclass(frozen=True)
class Positives:
    """The positives of all queries, in order of query and document."""

    table: pa.Table
    """query_no, query_id, doc_id, score."""

    @cached_property
    def owner(self) -> Ints:
        """Each positive's query number."""
        owner: Ints = self.table["query_no"].to_numpy().astype(np.int64)
        return owner

    @cached_property
    def score(self) -> Floats:
        """Each positive's deciding score."""
        score: Floats = self.table["score"].to_numpy()
        return score

    @cached_property
    def sorted_scores(self) -> Floats:
        """All deciding scores, ascending."""
        return np.sort(self.score)

    @property
    def queries(self) -> int:
        """One more than the largest query number."""
        return int(self.owner[-1]) + 1 if len(self.owner) else 0

    def of(self, query: Ints) -> tuple[Ints, Ints]:
        """Returns where each query's positives start, and how many there are."""
        starts = np.searchsorted(self.owner, query, side="left")
        return starts, np.searchsorted(self.owner, query, side="right") - starts

    @cached_property
    def best(self) -> Ints:
        """The row of each query's best-scored positive; ties go to the smaller doc_id."""
        order = np.lexsort((np.arange(len(self.owner)), -self.score, self.owner))
        numbers, first = np.unique(self.owner[order], return_index=True)
        rows = np.full(self.queries, -1, dtype=np.int64)
        rows[numbers] = order[first]
        return rows


@dataclass(frozen=True)
class Decision:
    """What one pass over a range of candidates decided."""

    decisions: pa.Table
    """query_no, codes, slots."""
    triplets: pa.Table
    """As `schema.TRIPLETS`, plain ids."""


def deciding_score(config: MiningConfig) -> str:
    """Returns which score the rules look at: `rerank`, `dense` or `bm25`."""
    if config.reranker:
        return "rerank"
    return "dense" if config.encoder else "bm25"


def decide(store: Store, evidence: str, reranker: str | None, config: MiningConfig) -> Iterator[Decision]:
    """Yields the decisions over one set of evidence, range by range, in order of query.

    `reranker` is the fingerprint whose scores decide, if the configuration has one.
    """
    score = deciding_score(config)
    positives = Positives(stored.scored_positives(store, evidence, score, reranker))
    documents = stored.document_ids(store)
    served = np.zeros(len(documents), dtype=np.int64)
    per_query = stored.candidate_count(store, evidence) // max(1, positives.queries) + 1
    step = max(1, _ROWS // per_query)
    for first in range(0, positives.queries, step):
        bounds = first * CANDIDATES_PER_QUERY, (first + step) * CANDIDATES_PER_QUERY
        candidates = stored.scored_candidates(store, evidence, score, reranker, *bounds)
        if candidates.num_rows:
            yield _Range(candidates, positives, documents, config).decide(served)


@dataclass(frozen=True)
class _Range:
    """The candidates of some queries."""

    candidates: pa.Table
    positives: Positives
    documents: pa.Array
    config: MiningConfig

    @cached_property
    def _query(self) -> Ints:
        candidate: Ints = self.candidates["candidate"].to_numpy()
        return candidate // CANDIDATES_PER_QUERY

    @cached_property
    def _score(self) -> Floats:
        return np.asarray(self.candidates["score"].to_numpy(), dtype=np.float64)

    @cached_property
    def _doc(self) -> Ints:
        return positions(self.candidates["doc_id"], self.documents).astype(np.int64)

    def decide(self, served: Ints) -> Decision:
        """Applies rules and selection; raises the counts in `served` when documents are capped."""
        codes = self._excluded()
        rows, group, anchor = self._units(np.flatnonzero(codes == ruling.KEPT))
        best_rank = self.candidates["best_rank"].to_numpy().astype(np.int64)
        judged = self.candidates["judged_negative"].to_numpy()
        scored = ruling.Scored(self._score[rows], anchor, best_rank[rows], judged[rows])
        ruled = ruling.apply(self.config.rules, scored, self.positives.sorted_scores)
        passed = np.flatnonzero(ruled == ruling.KEPT)
        kept = self._kept(rows[passed], group[passed], anchor[passed])
        chosen, slots = select(kept, self.config.selection, served)
        ruled[passed[slots < 0]] = ruling.REASONS.index(Reason.DOCUMENT_CAP)
        review = (ruled != ruling.KEPT) & (scored.score > anchor) & self.config.rules.review
        self._settle(codes, rows, ruled)
        return Decision(
            self._decisions(codes, rows[review], rows[passed], slots),
            self._triplets(rows[passed[chosen]], kept.group[chosen], slots[chosen]),
        )

    def _excluded(self) -> ruling.Codes:
        """Each candidate's exclusion as a reason's code, KEPT where it has none."""
        exclusion = self.candidates["exclusion"].cast(pa.string())
        known = pa.array([str(reason) for reason in ruling.REASONS])
        return positions(exclusion, known).astype(np.int8)

    def _units(self, rows: Ints) -> tuple[Ints, Ints, Floats]:
        """What the rules look at: rows of candidates, whose negatives they would be, the anchor.

        A group is a query, or with `--anchor each` one positive: then a candidate appears once for
        each positive of its query.
        """
        query = self._query[rows]
        if self.config.rules.anchor != "each":
            positives = self.positives
            anchor = ruling.anchors(
                positives.owner, positives.score, positives.queries, self.config.rules.anchor
            )
            return rows, query, anchor[query]
        starts, counts = self.positives.of(query)
        group = joined_ranges(starts, counts)
        order = np.argsort(group, kind="stable")
        rows, group = np.repeat(rows, counts)[order], group[order]
        return rows, group, self.positives.score[group]

    def _kept(self, rows: Ints, group: Ints, anchor: Floats) -> Kept:
        bm25_best = self.candidates["bm25_best"].to_numpy()
        key = np.zeros(len(rows), dtype=np.uint64)
        if self.config.selection.strategy != "top":
            key = self._keys[rows]
        return Kept(group, self._doc[rows], self._score[rows], anchor, bm25_best[rows], key)

    @cached_property
    def _keys(self) -> npt.NDArray[np.uint64]:
        """A hash of each candidate's query and document ids."""
        doc = _hashes(self.documents.to_pylist())
        names = self._query_ids.to_pylist()
        numbers, place = np.unique(self._query, return_inverse=True)
        query = _hashes([names[int(s)] for s in self.positives.of(numbers)[0]])[place]
        return query ^ (doc[self._doc] * np.uint64(0x9E3779B97F4A7C15))

    @property
    def _query_ids(self) -> pa.ChunkedArray:
        return self.positives.table["query_id"]

    def _settle(self, codes: ruling.Codes, rows: Ints, ruled: ruling.Codes) -> None:
        """Gives each candidate its code: kept if any of its groups kept it, else the last group's reason."""
        dropped = ruled != ruling.KEPT
        codes[rows[dropped]] = ruled[dropped]
        codes[rows[~dropped]] = ruling.KEPT

    def _decisions(self, codes: ruling.Codes, review: Ints, passed: Ints, slots: Ints) -> pa.Table:
        """One row per query, its candidates by fused rank: four times faster than a row for each."""
        codes[review[codes[review] != ruling.KEPT]] += REVIEW
        slot = np.full(len(codes), _NO_SLOT, dtype=np.int16)
        taken = slots > 0
        np.minimum.at(slot, passed[taken], slots[taken].astype(np.int16))
        slot[slot == _NO_SLOT] = 0
        starts = np.flatnonzero(np.diff(self._query, prepend=-1))
        offsets = pa.array(np.append(starts, len(codes)), pa.int32())
        return pa.table(
            {
                "query_no": self._query[starts].astype(np.int32),
                "codes": pa.ListArray.from_arrays(offsets, pa.array(codes)),
                "slots": pa.ListArray.from_arrays(offsets, pa.array(slot)),
            }
        )

    def _triplets(self, rows: Ints, group: Ints, slots: Ints) -> pa.Table:
        """Every chosen negative with its positives, by query, positive and slot."""
        if self.config.rules.anchor == "each":
            positive, times = group, np.ones(len(rows), dtype=np.int64)
        elif self.config.selection.positives == "best":
            positive, times = self.positives.best[group], np.ones(len(rows), dtype=np.int64)
        else:
            starts, times = self.positives.of(group)
            positive = joined_ranges(starts, times)
        rows, slots = np.repeat(rows, times), np.repeat(slots, times)
        order = np.lexsort((slots, positive))
        rows, positive = rows[order], positive[order]
        table = self.positives.table
        return pa.table(
            {
                "query_id": table["query_id"].take(pa.array(positive)),
                "positive_id": table["doc_id"].take(pa.array(positive)),
                "negative_id": self.candidates["doc_id"].take(pa.array(rows)),
                "positive_score": self.positives.score[positive],
                "negative_score": self._score[rows],
                "rank": slots[order].astype(np.int32),
            }
        )


def _hashes(ids: list[str]) -> npt.NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, dtype=np.uint64)
