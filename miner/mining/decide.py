"""Deciding over stored evidence: rules, selection and triplets. No model runs here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import as_arrow, as_lists, as_numpy, group_sizes, joined, joined_ranges
from miner.engine.work import ordered_map
from miner.errors import UsageError, listed, near, shown
from miner.mining import rules as ruling
from miner.mining.config import MiningConfig, Rules
from miner.mining.positives import Positives, hashes_of
from miner.mining.selection import Kept, quotas, select
from miner.schema import CANDIDATES_PER_QUERY, CODES, SUSPECTED, Reason
from miner.store import evidence as stored
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.scorers import Scorer

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]

ROWS, _BYTES = 4_000_000, 64
"""The most candidates that are read at once, and about what each takes in memory."""
_SLICE, _FIRST = 262_144, 65_536
"""Candidates that are decided at once, and fewer at first: writing begins when these are decided."""

_IS_TOO_HIGH = np.isin([*range(len(Reason)), ruling.KEPT], ruling.TOO_HIGH)
"""By code: whether it is that of a rule against high scores. The last one is KEPT, which is -1."""


@dataclass(frozen=True)
class Documents:
    """The documents that are candidates of a set of evidence, sorted by id."""

    numbers: Ints
    """The number of each in the evidence, ascending."""
    ids: pa.Array

    @classmethod
    def of(cls, store: Database, evidence: str) -> Documents:
        """Returns those of a set of evidence."""
        return cls.in_table(stored.pool_documents(store, evidence))

    @classmethod
    def in_table(cls, table: pa.Table) -> Documents:
        """Returns those of a table as `stored.pool_documents` returns it."""
        return cls(as_numpy(table["doc_no"]).astype(np.int64), joined(table["doc_id"]))

    @cached_property
    def _index_of(self) -> Positions:
        index_of = np.full(int(self.numbers.max(initial=-1)) + 1, -1, dtype=np.int32)
        index_of[self.numbers] = np.arange(len(self.numbers))
        return index_of

    def indices_of(self, numbers: Ints) -> Positions:
        """Returns the index among these documents of the document with each number."""
        return np.asarray(self._index_of[numbers])

    def indices(self, candidates: pa.Table) -> Positions:
        """Returns the index among these documents of each candidate's document."""
        return self.indices_of(as_numpy(candidates["doc_no"]))

    def ids_of(self, candidates: pa.Table) -> pa.ChunkedArray:
        """Returns the id of each candidate's document, dictionary-encoded."""
        indices = pa.array(self.indices(candidates))
        return pa.chunked_array([pa.DictionaryArray.from_arrays(indices, self.ids)])

    @cached_property
    def hashes(self) -> Hashes:
        """A hash of each id."""
        return hashes_of(self.ids.to_pylist())


@dataclass(frozen=True)
class Decision:
    """The decisions over a range of candidates."""

    decisions: pa.Table
    """query_no, codes."""
    selected: pa.Table
    """As `schema.SELECTED`."""


def deciding_scorer(scorers: Sequence[Scorer], config: MiningConfig) -> Scorer:
    """Returns the scorer whose scores the rules look at: the one that is named, else the last but judges.

    Raises UsageError if none has the name.
    """
    name = config.rules.decide_by
    if name is None:
        return [one for one in scorers if not one.is_judge][-1]
    for one in scorers:
        if one.name == name:
            return one
    names = [one.name for one in scorers]
    raise UsageError(
        f"no scorer '{shown(name)}' decides here{near(name, names)}", f"scorers: {listed(names)}"
    )


def decide(
    store: Database,
    run: StoredRun,
    config: MiningConfig,
    size: tuple[int, int],
    seen: stored.ScoreRange | None = None,
) -> Iterator[Decision]:
    """Yields the decisions over the evidence of a run, slice by slice, in order of query.

    `size` is the evidence's `stored.pool_size`; `seen` gets all scores of the scorer that decides.
    """
    for _, decision in decide_each(store, run, [config], size=size, seen=seen):
        yield decision


def decide_each(
    store: Database,
    run: StoredRun,
    configs: Sequence[MiningConfig],
    *,
    queries: Sequence[int] | None = None,
    given: stored.Given | None = None,
    size: tuple[int, int] | None = None,
    seen: stored.ScoreRange | None = None,
) -> Iterator[tuple[int, Decision]]:
    """Yields the decisions of several configurations, which differ in rules and selection alone.

    Each comes with the number of its configuration. One scorer decides in all of them. The evidence is read
    once. With `queries` only these, by number, are decided; `given` is as in `stored.scored_candidates`,
    `size` and `seen` as in `decide`.
    """
    scorer = deciding_scorer(run.scorers, configs[0])
    others = run.scorers if any(config.rules.agree is not None for config in configs) else ()
    ranks = any(_needs_ranks(config) for config in configs)
    more: dict[str, Any] = {"queries": queries, "others": others, "ranks": ranks, "given": given}
    pooled, candidates = size or stored.pool_size(store, run.evidence)
    step = max(1, min(ROWS, store.memory.rows(_BYTES)) // (candidates // max(1, pooled) + 1))
    known, found, lists = stored.begin_deciding(store, run, scorer, numbers=range(step), **more)
    positives, documents, first = Positives(known), Documents.in_table(found), [lists]
    del lists  # the memory of what is decided is for what comes next
    if seen is not None:
        seen.add(positives.score)
    deciders = [Decider(positives, documents, config, run.scorers) for config in configs]

    def decided(part: stored.CandidateLists) -> list[Decision]:
        """Returns the decision of each configuration."""
        rows = part.rows()
        if seen is not None:
            seen.add(as_numpy(rows["score"]))
        return [decider.decide_slice(rows) for decider in deciders]

    def parts() -> Iterator[stored.CandidateLists]:
        """Reads the candidates of whole queries, a few million at a time, and yields them in slices."""
        yield from first.pop().slices(_SLICE, _FIRST)
        for start in range(step, pooled, step):
            numbers = range(start, start + step)
            more_lists = stored.candidate_lists(store, run, scorer, numbers=numbers, **more)
            yield from more_lists.slices(_SLICE)

    # One thread: it decides while the caller writes what was decided last. Two would only wait for each
    # other, as they run Python most of the time. And what a document cap drops depends on earlier slices.
    for decisions in ordered_map(decided, parts(), 1):
        yield from enumerate(decisions)


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
        for scorer in scorers:
            score = np.asarray(as_numpy(positives.table[stored.score_of(scorer)]), dtype=np.float64)
            known.append(positives.sorted_by(stored.score_of(scorer)))
            kind = rules.reference_positive
            references.append(
                score
                if kind == "each"
                else ruling.reference_scores(positives.owner, score, positives.queries, kind)
            )
        return cls(scorers, known, references)

    def count(self, candidates: pa.Table, rows: Ints | slice, group: Ints) -> Ints:
        """Returns how many scorers put each row of the candidates below its group's reference positive."""
        agreeing = np.zeros(len(group), dtype=np.int64)
        for scorer, known, reference in zip(self.scorers, self.known, self.references, strict=True):
            score = np.asarray(as_numpy(candidates[stored.score_of(scorer)]), dtype=np.float64)[rows]
            both = np.isfinite(score) & np.isfinite(reference[group])
            lower = ruling.distribution(known, score) < ruling.distribution(known, reference[group])
            agreeing += both & lower
        return agreeing


class Decider:
    """Decides over candidates, in order of query, given the known positives."""

    def __init__(
        self,
        positives: Positives,
        documents: Documents,
        config: MiningConfig,
        scorers: Sequence[Scorer],
        served: Ints | None = None,
    ) -> None:
        """`served` are the negatives that each document already is, for a document cap (default: none)."""
        self._positives, self._documents, self._config = positives.scored, documents, config
        self._quotas = quotas(config.selection, scorers)
        self._agreement = None
        if config.rules.agree is not None:
            self._agreement = Agreement.of(self._positives, scorers, config.rules)
        decider = deciding_scorer(scorers, config)
        self._unknown = Reason.NOT_JUDGED if decider.is_judge else Reason.NOT_SCORED
        if decider.is_reranker:
            self._unknown = Reason.NOT_RERANKED
        kind = config.rules.reference_positive
        owned = self._positives.owner, self._positives.score, positives.queries
        self._reference = ruling.reference_scores(*owned, kind)
        self._median = ruling.reference_scores(*owned, "median")
        self._served = np.zeros(len(documents.ids), dtype=np.int64) if served is None else served

    def decide(self, candidates: pa.Table) -> Iterator[Decision]:
        """Yields the decisions over more candidates (`stored.scored_candidates`), slice by slice."""
        return map(self.decide_slice, _slices(candidates))

    def decide_slice(self, candidates: pa.Table) -> Decision:
        """Returns the decision over more candidates; the memory for this is many times theirs."""
        known = self._positives, self._documents, self._reference, self._median
        rest = self._config, self._quotas, self._unknown, self._agreement
        return _Slice(candidates, *known, *rest).decide(self._served)


def _slices(candidates: pa.Table) -> Iterator[pa.Table]:
    """Yields the candidates in slices of whole queries."""
    numbers = as_numpy(candidates["candidate"])
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
        return as_numpy(self.candidates["candidate"]) // CANDIDATES_PER_QUERY

    @cached_property
    def _sizes(self) -> tuple[Ints, Ints]:
        """The first candidate of each query, and the number of its candidates."""
        return group_sizes(self._query)

    @cached_property
    def _score(self) -> Floats:
        return np.asarray(as_numpy(self.candidates["score"]), dtype=np.float64)

    def _doc(self, rows: Ints) -> Ints:
        return self.documents.indices_of(as_numpy(self.candidates["doc_no"])[rows]).astype(np.int64)

    def _by_query(self, values: Floats) -> Floats:
        """Returns each candidate's value of those by query number."""
        starts, counts = self._sizes
        return np.repeat(values[self._query[starts]], counts)

    def decide(self, served: Ints) -> Decision:
        """Returns the decision; with a document cap, adds to the counts in `served`."""
        codes: ruling.Codes = as_numpy(self.candidates["exclusion"]).astype(np.int16)
        median = self._by_query(self.median)
        self._drop_unscored(codes, median)
        free = codes == ruling.KEPT
        each = self.config.rules.reference_positive == "each"
        rows: Ints | slice = slice(None)
        group, reference = self._query, self._by_query(self.reference)
        if each:
            rows, group = self._per_positive(np.flatnonzero(free))
            free, reference = free[rows], self.positives.score[group]
        judged = as_numpy(self.candidates["judged_negative"])[rows]
        agreeing = None if self.agreement is None else self.agreement.count(self.candidates, rows, group)
        best_rank = self._ranks("best_rank", rows, len(group))
        scored = ruling.Scored(self._score[rows], reference, best_rank, judged, agreeing)
        ruled = ruling.apply(self.config.rules, scored, self.positives.sorted_scores)
        passed = np.flatnonzero(free & (ruled == ruling.KEPT))
        candidate = rows[passed] if isinstance(rows, np.ndarray) else passed
        kept = self._kept(candidate, group[passed], reference[passed])
        chosen, slots = select(kept, self.config.selection, served, self.quotas)
        if self.config.selection.document_cap is not None:
            ruled[passed[slots < 0]] = ruling.REASONS.index(Reason.DOCUMENT_CAP)
        suspected = free & _IS_TOO_HIGH[ruled] & (scored.score > median[rows])
        if isinstance(rows, np.ndarray):
            _merge(codes, rows, ruled, suspected)
        else:
            np.copyto(codes, ruled, where=free)
            codes[suspected] += SUSPECTED
        return Decision(
            self._decisions(codes, candidate[chosen], slots[chosen]),
            self._selected(candidate[chosen], kept.group[chosen]),
        )

    def _drop_unscored(self, codes: ruling.Codes, median: Floats) -> None:
        """Gives a code to the candidates that have no finite score, or whose positives have none."""
        if self.candidates["score"].null_count:
            null = self.candidates["score"].is_null().to_numpy()
            codes[null & (codes == ruling.KEPT)] = CODES[self.unknown]
        unscored = ~np.isfinite(self._score) | np.isnan(median)
        if unscored.any():
            codes[unscored & (codes == ruling.KEPT)] = CODES[Reason.NOT_SCORED]

    def _per_positive(self, rows: Ints) -> tuple[Ints, Ints]:
        """Returns each candidate in `rows` once per positive of its query, and that positive; by positive."""
        starts, counts = self.positives.of(self._query[rows])
        group = joined_ranges(starts, counts)
        order = np.argsort(group, kind="stable")
        return np.repeat(rows, counts)[order], group[order]

    def _kept(self, rows: Ints, group: Ints, reference: Floats) -> Kept:
        key = np.zeros(len(rows), dtype=np.uint64)
        if self.config.selection.strategy != "top":
            key = self._keys[rows]
        scorer = self._ranks("best_scorer", rows, len(rows))
        return Kept(group, lambda some: self._doc(rows[some]), self._score[rows], reference, scorer, key)

    def _ranks(self, name: str, rows: Ints | slice, number: int) -> Ints:
        """Returns some rows of a column of ranks; ones if no setting depends on it and it was not read."""
        if name not in self.candidates.column_names:
            return np.broadcast_to(np.int64(1), number)
        return as_numpy(self.candidates[name])[rows].astype(np.int64)

    @cached_property
    def _keys(self) -> Hashes:
        """A hash of each candidate's query and document ids."""
        document = self.documents.hashes[self.documents.indices(self.candidates)] * np.uint64(
            0x9E3779B97F4A7C15
        )
        return self.positives.hashes[self._query] ^ document

    def _decisions(self, codes: ruling.Codes, chosen: Ints, slots: Ints) -> pa.Table:
        """One row per query, its candidates by fused rank: four times faster than one row per candidate."""
        # A candidate selected for several positives (`reference_positive=each`) gets its smallest slot.
        codes[chosen] = np.iinfo(np.int16).min
        np.maximum.at(codes, chosen, (ruling.KEPT - slots).astype(np.int16))
        starts, counts = self._sizes
        return pa.table(
            {
                "query_no": as_arrow(self._query[starts].astype(np.int32)),
                "codes": as_lists(codes, counts),
            }
        )

    def _selected(self, rows: Ints, group: Ints) -> pa.Table:
        """Every positive with its negatives, by query and positive; the rows are by group and slot."""
        first, counts = group_sizes(group)
        owner = group[first]
        if self.config.rules.reference_positive == "each":
            positive = owner
        elif self.config.selection.positives == "best":
            positive = self.positives.best[owner]
        else:
            starts, times = self.positives.of(owner)
            positive = joined_ranges(starts, times)
            first, counts = np.repeat(first, times), np.repeat(counts, times)
        rows = rows[joined_ranges(first, counts)]
        return pa.table(
            {
                "query_id": self.positives.ids("query_id", positive),
                "positive_id": self.positives.ids("doc_id", positive),
                "positive_score": as_arrow(self.positives.score[positive]),
                "doc_nos": as_lists(as_numpy(self.candidates["doc_no"])[rows], counts),
                "scores": as_lists(self._score[rows], counts),
            }
        )


def _merge(codes: ruling.Codes, rows: Ints, ruled: ruling.Codes, suspected: npt.NDArray[np.bool_]) -> None:
    """Gives each candidate in `rows` one code for those of its groups.

    It is kept if any of its groups keeps it, else it has the reason of the last group.
    """
    dropped = ruled != ruling.KEPT
    codes[rows[dropped]] = ruled[dropped]
    codes[rows[~dropped]] = ruling.KEPT
    high = rows[suspected]
    codes[high[codes[high] != ruling.KEPT]] += SUSPECTED
