"""Deciding over stored evidence: rules, selection and triplets. No model runs here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import as_lists, joined_ranges
from miner.engine.work import ordered_map, worker_count
from miner.errors import UsageError, listed, near, shown
from miner.mining import rules as ruling
from miner.mining.config import MiningConfig, Rules
from miner.mining.selection import Kept, quotas, select
from miner.schema import CANDIDATES_PER_QUERY, CODES, SUSPECTED, Reason
from miner.store import evidence as stored
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.scorers import Scorer

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

_ROWS = 4_000_000
"""Candidates that are read at once; this limits memory."""
_SLICE = 131_072
"""Candidates that one worker decides at once."""


@dataclass(frozen=True)
class Positives:
    """The positives of all queries, in order of query and document."""

    table: pa.Table
    """query_no, query_id, doc_id, score."""
    numbered: int | None = None
    """One more than the largest query number, if that is not of one of these positives."""
    stand_in: npt.NDArray[np.bool_] | None = None
    """Which rows have another score than their own, because an audit hides the only positive of their query.
    Margins are measured from it, and it is not one of the positives' scores that percentiles are of."""

    @cached_property
    def owner(self) -> Ints:
        """Each positive's query number."""
        owner: Ints = self.table["query_no"].to_numpy().astype(np.int64)
        return owner

    @cached_property
    def score(self) -> Floats:
        """Each positive's deciding score; NaN if it is not finite."""
        return np.asarray(self.table["score"].to_numpy(), dtype=np.float64)

    @cached_property
    def scored(self) -> Positives:
        """The positives with a finite score; only these affect decisions and are in triplets."""
        finite = np.isfinite(self.score)
        if finite.all():
            return self
        stand_in = None if self.stand_in is None else self.stand_in[finite]
        return Positives(self.table.filter(pa.array(finite)), self.queries, stand_in)

    @cached_property
    def has_scored(self) -> npt.NDArray[np.bool_]:
        """Whether each query, by number, has a positive with a finite score."""
        return np.bincount(self.owner[np.isfinite(self.score)], minlength=self.queries) > 0

    @cached_property
    def sorted_scores(self) -> Floats:
        """All finite deciding scores, ascending."""
        own = np.isfinite(self.score)
        if self.stand_in is not None:
            own &= ~self.stand_in
        return np.sort(self.score[own])

    @cached_property
    def mean(self) -> Floats:
        """The mean finite score of each query's positives, by query number; 0 without any."""
        finite = np.isfinite(self.score)
        known = np.bincount(self.owner[finite], minlength=self.queries)
        total = np.bincount(self.owner[finite], self.score[finite], self.queries)
        return np.asarray(total / np.maximum(1, known), dtype=np.float64)

    @cached_property
    def hashes(self) -> Hashes:
        """A hash of each query's id, by query number."""
        hashes = np.zeros(self.queries, dtype=np.uint64)
        numbers, first = np.unique(self.owner, return_index=True)
        hashes[numbers] = _hashes(self.table["query_id"].take(pa.array(first)).to_pylist())
        return hashes

    @property
    def queries(self) -> int:
        """One more than the largest query number."""
        if self.numbered is not None:
            return self.numbered
        return int(self.owner[-1]) + 1 if len(self.owner) else 0

    def of(self, query: Ints) -> tuple[Ints, Ints]:
        """Returns the row of each query's first positive, and the number of its positives."""
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
class Documents:
    """The documents that are candidates of a set of evidence, sorted by id."""

    numbers: Ints
    """The number of each in the evidence, ascending."""
    ids: pa.Array

    @classmethod
    def of(cls, store: Database, evidence: str) -> Documents:
        """Returns those of a set of evidence."""
        table = stored.pool_documents(store, evidence)
        return cls(table["doc_no"].to_numpy().astype(np.int64), table["doc_id"].combine_chunks())

    @cached_property
    def _index_of(self) -> Ints:
        index_of = np.full(int(self.numbers.max(initial=-1)) + 1, -1, dtype=np.int64)
        index_of[self.numbers] = np.arange(len(self.numbers))
        return index_of

    def indices_of(self, numbers: Ints) -> Ints:
        """Returns the index among these documents of the document with each number."""
        return np.asarray(self._index_of[numbers])

    def indices(self, candidates: pa.Table) -> Ints:
        """Returns the index among these documents of each candidate's document."""
        return self.indices_of(candidates["doc_no"].to_numpy())

    def ids_of(self, candidates: pa.Table) -> pa.ChunkedArray:
        """Returns the id of each candidate's document, dictionary-encoded."""
        indices = pa.array(self.indices(candidates).astype(np.int32))
        return pa.chunked_array([pa.DictionaryArray.from_arrays(indices, self.ids)])

    @cached_property
    def hashes(self) -> Hashes:
        """A hash of each id."""
        return _hashes(self.ids.to_pylist())


@dataclass(frozen=True)
class Decision:
    """The decisions over a range of candidates."""

    decisions: pa.Table
    """query_no, codes."""
    selected: pa.Table
    """As `schema.SELECTED`."""


def deciding_scorer(scorers: Sequence[Scorer], config: MiningConfig) -> Scorer:
    """Returns the scorer whose scores the rules look at: the one that is named, else the last.

    Raises UsageError if none has the name.
    """
    name = config.rules.decide_by
    if name is None:
        return scorers[-1]
    for one in scorers:
        if one.name == name:
            return one
    names = [one.name for one in scorers]
    raise UsageError(
        f"no scorer '{shown(name)}' decides here{near(name, names)}", f"scorers: {listed(names)}"
    )


def decide(store: Database, run: StoredRun, config: MiningConfig) -> Iterator[Decision]:
    """Yields the decisions over the evidence of a run, slice by slice, in order of query."""
    for _, decision in decide_each(store, run, [config]):
        yield decision


def decide_each(
    store: Database,
    run: StoredRun,
    configs: Sequence[MiningConfig],
    *,
    queries: Sequence[int] | None = None,
    given: stored.Given | None = None,
) -> Iterator[tuple[int, Decision]]:
    """Yields the decisions of several configurations, which differ in rules and selection alone.

    Each comes with the number of its configuration. One scorer decides in all of them. The evidence is read
    once. With `queries` only these, by number, are decided; `given` is as in `stored.scored_candidates`.
    """
    scorer = deciding_scorer(run.scorers, configs[0])
    others = run.scorers if any(config.rules.agree is not None for config in configs) else ()
    ranks = any(_needs_ranks(config) for config in configs)
    positives = Positives(stored.scored_positives(store, run, scorer, others, given))
    documents = Documents.of(store, run.evidence)
    deciders = [Decider(positives, documents, config, run.scorers) for config in configs]
    some = {"queries": queries, "given": given}
    for candidates in candidate_pieces(store, run, scorer, positives.queries, others, ranks, **some):
        for number, decider in enumerate(deciders):
            for decision in decider.decide(candidates):
                yield number, decision


def candidate_pieces(
    store: Database,
    run: StoredRun,
    scorer: Scorer,
    numbered: int,
    others: Sequence[Scorer] = (),
    ranks: bool = True,
    **some: Any,
) -> Iterator[pa.Table]:
    """Yields the candidates as `stored.scored_candidates`, of whole queries, a few million at a time.

    `numbered` is one more than the largest query number; `some` are further arguments of that function.
    """
    per_query = stored.candidate_count(store, run.evidence) // max(1, numbered) + 1
    step = max(1, _ROWS // per_query)
    for first in range(0, numbered, step):
        numbers = range(first, first + step)
        yield stored.scored_candidates(
            store, run, scorer, numbers=numbers, others=others, ranks=ranks, **some
        )


def _needs_ranks(config: MiningConfig) -> bool:
    """Returns whether the ranks by retrievers make a difference."""
    return bool(config.rules.skip_top or config.rules.max_rank is not None or config.selection.quota)


@dataclass(frozen=True)
class Agreement:
    """What each scorer says of the known positives, for the rule `agree`."""

    scorers: Sequence[Scorer]
    known: Sequence[Floats]
    """By scorer: its finite scores of all positives, ascending."""
    references: Sequence[Floats]
    """By scorer: the score of each group's reference positive; NaN without one."""

    @classmethod
    def of(cls, positives: Positives, scorers: Sequence[Scorer], rules: Rules) -> Agreement:
        """Returns what holds for these positives; raises UsageError if the rule needs more scorers."""
        if (rules.agree or 0) > len(scorers):
            raise UsageError(
                f"agree {rules.agree} needs as many scorers, and the run has {len(scorers)}",
                "use a smaller number, or mine with more scorers",
            )
        known, references = [], []
        own = np.ones(len(positives.owner), dtype=np.bool_)
        if positives.stand_in is not None:
            own = ~positives.stand_in
        for scorer in scorers:
            score = np.asarray(positives.table[stored.score_of(scorer)].to_numpy(), dtype=np.float64)
            known.append(np.sort(score[own & np.isfinite(score)]))
            kind = rules.reference_positive
            references.append(
                score
                if kind == "each"
                else ruling.reference_scores(positives.owner, score, positives.queries, kind)
            )
        return cls(scorers, known, references)

    def count(self, candidates: pa.Table, rows: Ints, group: Ints) -> Ints:
        """Returns how many scorers put each row of the candidates below its group's reference positive."""
        agreeing = np.zeros(len(rows), dtype=np.int64)
        for scorer, known, reference in zip(self.scorers, self.known, self.references, strict=True):
            score = np.asarray(candidates[stored.score_of(scorer)].to_numpy(), dtype=np.float64)[rows]
            both = np.isfinite(score) & np.isfinite(reference[group])
            lower = ruling.distribution(known, score) < ruling.distribution(known, reference[group])
            agreeing += both & lower
        return agreeing


class Decider:
    """Decides over candidates, in order of query, given the known positives."""

    def __init__(
        self, positives: Positives, documents: Documents, config: MiningConfig, scorers: Sequence[Scorer]
    ) -> None:
        self._positives, self._documents, self._config = positives.scored, documents, config
        self._quotas = quotas(config.selection, scorers)
        self._agreement = None
        if config.rules.agree is not None:
            self._agreement = Agreement.of(self._positives, scorers, config.rules)
        is_reranker = deciding_scorer(scorers, config).is_reranker
        self._unknown = Reason.NOT_RERANKED if is_reranker else Reason.NOT_SCORED
        kind = config.rules.reference_positive
        owned = self._positives.owner, self._positives.score, positives.queries
        self._reference = ruling.reference_scores(*owned, kind)
        self._median = ruling.reference_scores(*owned, "median")
        self._served = np.zeros(len(documents.ids), dtype=np.int64)

    def decide(self, candidates: pa.Table) -> Iterator[Decision]:
        """Yields the decisions over more candidates (`stored.scored_candidates`), slice by slice."""
        # A document cap depends on what earlier slices selected, so slices then run one after the other.
        workers = worker_count() if self._config.selection.document_cap is None else 1

        def _decide(part: pa.Table) -> Decision:
            known = self._positives, self._documents, self._reference, self._median
            rest = self._config, self._quotas, self._unknown, self._agreement
            return _Slice(part, *known, *rest).decide(self._served)

        yield from ordered_map(_decide, _slices(candidates), workers)


def _slices(candidates: pa.Table) -> Iterator[pa.Table]:
    """Yields the candidates in slices of whole queries."""
    numbers = candidates["candidate"].to_numpy()
    first = numbers[::_SLICE] // CANDIDATES_PER_QUERY * CANDIDATES_PER_QUERY
    cuts = np.unique(np.append(np.searchsorted(numbers, first), len(numbers))).tolist()
    for start, stop in pairwise(cuts):
        yield candidates.slice(start, stop - start)


@dataclass(frozen=True)
class _Slice:
    """The candidates of some queries."""

    candidates: pa.Table
    positives: Positives
    """Those with a finite score."""
    documents: Documents
    reference: Floats
    """Reference score of each query; NaN if no positive has a finite score."""
    median: Floats
    """Median score of each query's positives."""
    config: MiningConfig
    quotas: Mapping[int, int]
    """The most negatives that a retriever, by number, may rank best."""
    unknown: Reason
    """Why a candidate is dropped that the deciding scorer did not score."""
    agreement: Agreement | None

    @cached_property
    def _query(self) -> Ints:
        candidate: Ints = self.candidates["candidate"].to_numpy()
        return candidate // CANDIDATES_PER_QUERY

    @cached_property
    def _score(self) -> Floats:
        return np.asarray(self.candidates["score"].to_numpy(), dtype=np.float64)

    @cached_property
    def _doc(self) -> Ints:
        return self.documents.indices(self.candidates)

    def decide(self, served: Ints) -> Decision:
        """Returns the decision; with a document cap, adds to the counts in `served`."""
        codes: ruling.Codes = self.candidates["exclusion"].to_numpy().astype(np.int16)
        free = codes == ruling.KEPT
        if self.candidates["score"].null_count:
            codes[free & self.candidates["score"].is_null().to_numpy()] = CODES[self.unknown]
            free = codes == ruling.KEPT
        codes[free & self._not_scored()] = CODES[Reason.NOT_SCORED]
        rows, group, reference = self._units(np.flatnonzero(codes == ruling.KEPT))
        best_rank = self._ranks("best_rank")[rows]
        judged = self.candidates["judged_negative"].to_numpy()
        agreeing = None if self.agreement is None else self.agreement.count(self.candidates, rows, group)
        scored = ruling.Scored(self._score[rows], reference, best_rank, judged[rows], agreeing)
        ruled = ruling.apply(self.config.rules, scored, self.positives.sorted_scores)
        passed = np.flatnonzero(ruled == ruling.KEPT)
        kept = self._kept(rows[passed], group[passed], reference[passed])
        chosen, slots = select(kept, self.config.selection, served, self.quotas)
        ruled[passed[slots < 0]] = ruling.REASONS.index(Reason.DOCUMENT_CAP)
        suspected = np.isin(ruled, ruling.TOO_HIGH) & (scored.score > self.median[self._query[rows]])
        # A candidate is kept if any of its groups keeps it, else it has the reason of the last group.
        codes[rows[ruled != ruling.KEPT]] = ruled[ruled != ruling.KEPT]
        codes[rows[ruled == ruling.KEPT]] = ruling.KEPT
        return Decision(
            self._decisions(codes, rows[suspected], rows[passed], slots),
            self._selected(rows[passed[chosen]], kept.group[chosen], slots[chosen]),
        )

    def _not_scored(self) -> npt.NDArray[np.bool_]:
        """Which candidates, or all positives of their query, have no finite score."""
        unscored = ~np.isfinite(self._score)
        nothing_to_compare = np.isnan(self.median)
        return unscored | nothing_to_compare[self._query] if nothing_to_compare.any() else unscored

    def _units(self, rows: Ints) -> tuple[Ints, Ints, Floats]:
        """Returns rows of candidates, the group of each, and the score of its reference positive.

        A group is a query. With `reference_positive=each` it is one positive: a candidate then appears once
        for each positive of its query.
        """
        query = self._query[rows]
        if self.config.rules.reference_positive != "each":
            return rows, query, self.reference[query]
        starts, counts = self.positives.of(query)
        group = joined_ranges(starts, counts)
        order = np.argsort(group, kind="stable")
        rows, group = np.repeat(rows, counts)[order], group[order]
        return rows, group, self.positives.score[group]

    def _kept(self, rows: Ints, group: Ints, reference: Floats) -> Kept:
        scorer = self._ranks("best_scorer")
        key = np.zeros(len(rows), dtype=np.uint64)
        if self.config.selection.strategy != "top":
            key = self._keys[rows]
        return Kept(group, lambda: self._doc[rows], self._score[rows], reference, scorer[rows], key)

    def _ranks(self, name: str) -> Ints:
        """Returns a column of ranks; ones if no setting depends on it and it was not read."""
        if name not in self.candidates.column_names:
            return np.ones(len(self.candidates), dtype=np.int64)
        return np.asarray(self.candidates[name].to_numpy(), dtype=np.int64)

    @cached_property
    def _keys(self) -> Hashes:
        """A hash of each candidate's query and document ids."""
        document = self.documents.hashes[self._doc] * np.uint64(0x9E3779B97F4A7C15)
        return self.positives.hashes[self._query] ^ document

    def _decisions(self, codes: ruling.Codes, suspected: Ints, passed: Ints, slots: Ints) -> pa.Table:
        """One row per query, its candidates by fused rank: four times faster than one row per candidate."""
        codes[suspected[codes[suspected] != ruling.KEPT]] += SUSPECTED
        chosen = slots > 0
        # A candidate selected for several positives (`reference_positive=each`) gets its smallest slot.
        codes[passed[chosen]] = np.iinfo(np.int16).min
        np.maximum.at(codes, passed[chosen], (ruling.KEPT - slots[chosen]).astype(np.int16))
        starts = np.flatnonzero(np.diff(self._query, prepend=-1))
        offsets = pa.array(np.append(starts, len(codes)), pa.int32())
        return pa.table(
            {
                "query_no": self._query[starts].astype(np.int32),
                "codes": pa.ListArray.from_arrays(offsets, pa.array(codes)),
            }
        )

    def _selected(self, rows: Ints, group: Ints, slots: Ints) -> pa.Table:
        """Every positive with its negatives, by query and positive; the negatives by slot."""
        if self.config.rules.reference_positive == "each":
            positive, times = group, np.ones(len(rows), dtype=np.int64)
        elif self.config.selection.positives == "best":
            positive, times = self.positives.best[group], np.ones(len(rows), dtype=np.int64)
        else:
            starts, times = self.positives.of(group)
            positive = joined_ranges(starts, times)
        rows, slots = np.repeat(rows, times), np.repeat(slots, times)
        order = np.lexsort((slots, positive))
        rows, positive = rows[order], positive[order]
        owners, counts = np.unique(positive, return_counts=True)
        table = self.positives.table
        return pa.table(
            {
                "query_id": table["query_id"].take(pa.array(owners)),
                "positive_id": table["doc_id"].take(pa.array(owners)),
                "positive_score": self.positives.score[owners],
                "doc_nos": as_lists(self.candidates["doc_no"].to_numpy()[rows], counts),
                "scores": as_lists(self._score[rows], counts),
            }
        )


def _hashes(ids: list[str]) -> Hashes:
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, dtype=np.uint64)
