"""A replay: decides a run's stored evidence again as if nobody had judged some of its positives.

Nothing is searched or scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import as_arrow, as_numpy, group_sizes
from miner.auditing.hiding import ExclusionsLeft, Hidden, Hideable, Restorable, RunTexts, rows_of
from miner.mining.config import MiningConfig
from miner.mining.decide import Decider, Documents
from miner.mining.pipeline import config_of
from miner.mining.positives import Positives
from miner.mining.rules import KEPT
from miner.schema import CANDIDATES_PER_QUERY
from miner.stats import exact_sum
from miner.store import evidence
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.scorers import Scorer

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int32]
Codes = npt.NDArray[np.int16]

ROWS, _BYTES = 2_000_000, 128
"""The most candidates that are in memory at once, and about what each takes."""
NOT_FOUND = np.iinfo(np.int16).max
"""The code of a hidden positive that no retriever returned."""


@dataclass(frozen=True)
class LeftSums:
    """Sums over queries of their negatives, without rounding, so that sums of parts add up."""

    queries: int = 0
    negatives: int = 0
    covered: int = 0
    """Queries with all the negatives requested."""
    without: int = 0
    """Queries without negatives."""
    ranks: int = 0
    """The sum of the negatives' fused ranks."""
    margins: Fraction = Fraction(0)
    """The sum of the query's mean positive score minus the negative's."""

    def __add__(self, other: LeftSums) -> LeftSums:
        return LeftSums(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


@dataclass(frozen=True)
class NegativesLeft:
    """The negatives that the rules leave, over all queries of the run."""

    per_query: float
    """Mean number of negatives."""
    coverage: float
    """The share of queries with all the negatives requested."""
    without: float
    """The share of queries without negatives."""
    rank: float | None
    """Mean fused rank of the negatives; None without any."""
    margin: float | None
    """Mean of the query's mean positive score minus the negative's, in the deciding score."""

    @classmethod
    def of(cls, sums: LeftSums) -> NegativesLeft:
        """Returns the figures of sums over all queries; there is at least one."""
        number = sums.negatives
        shares = (number / sums.queries, sums.covered / sums.queries, sums.without / sums.queries)
        if not number:
            return cls(*shares, None, None)
        return cls(*shares, sums.ranks / number, float(sums.margins / number))

    @classmethod
    def mean(cls, several: list[NegativesLeft]) -> NegativesLeft:
        """Returns the means over repeats; those of rank and margin over the repeats that have negatives."""
        columns = [[getattr(one, field.name) for one in several] for field in fields(cls)]
        known = [[value for value in column if value is not None] for column in columns]
        return cls(*[float(np.mean(values)) if values else None for values in known])  # type: ignore[arg-type]


@dataclass(frozen=True)
class ReplayEvidence:
    """The evidence of a replay with some positives hidden."""

    hidden: Flags
    """Whether each positive is hidden."""
    visible: Positives
    """The other positives (`Hideable.visible`)."""
    candidates: pa.Table
    """As `Replay.candidates`, with the exclusions that hold without the hidden positives."""
    row: Ints
    """Per positive, the row of the candidate that it is, or of the copy that replaces it; -1 without
    either."""

    @cached_property
    def hidden_in(self) -> Ints:
        """How many hidden positives each candidate is, or replaces as their copy."""
        row = self.row[self.hidden]
        return np.bincount(row[row >= 0], minlength=len(self.candidates))


@dataclass(frozen=True)
class Trial:
    """One decision with some positives hidden."""

    hidden: Flags
    """Whether each positive was hidden."""
    row: Ints
    """As in `ReplayEvidence`."""
    outcome: Codes
    """Per positive, its code as in `decisions`, or NOT_FOUND; it has a meaning for hidden ones only."""
    left: LeftSums
    negatives: Ints
    """Negatives per query."""

    @cached_property
    def selected(self) -> Flags:
        """Whether each positive was hidden and selected as a negative."""
        return self.hidden & (self.outcome < KEPT)


@dataclass(frozen=True)
class Replays:
    """A run's stored evidence, read by ranges of queries to decide it again many times."""

    store: Database
    run: StoredRun
    config: MiningConfig
    hideable: Hideable
    documents: Documents
    texts: RunTexts
    others: Sequence[Scorer] = ()
    """Scorers whose scores are read too."""

    @classmethod
    def of(cls, store: Database, run: StoredRun) -> Replays:
        """Returns those of a run; raises as `Hideable.of` and `config_of`."""
        config = config_of(run)
        hideable = Hideable.of(store, run, config)
        documents = Documents.of(store, run.evidence)
        texts = RunTexts.of(store, run, config, hideable.table, documents)
        others = run.scorers if config.rules.agree is not None else ()
        return cls(store, run, config, hideable, documents, texts, others)

    def ranges(self) -> list[range]:
        """Returns ranges of query numbers, in order, of about as many candidates as may be in memory."""
        queries = self.hideable.positives.queries
        _, candidates = evidence.pool_size(self.store, self.run.evidence)
        per_query = candidates // max(1, queries) + 1
        step = max(1, min(ROWS, self.store.memory.rows(_BYTES)) // per_query)
        return [range(first, min(first + step, queries)) for first in range(0, queries, step)]

    def parts(self) -> Iterator[Replay]:
        """Yields the replays of the ranges, in order, one at a time."""
        return map(self.part, self.ranges())

    def part(self, numbers: range) -> Replay:
        """Returns the replay of the queries with these numbers."""
        first = numbers.start
        found = evidence.scored_candidates(self.store, self.run, numbers=numbers, others=self.others)
        candidate = as_numpy(found["candidate"]) - first * CANDIDATES_PER_QUERY
        found = _replaced(found, "candidate", as_arrow(candidate))
        owner = self.hideable.positives.owner
        rows = slice(*np.searchsorted(owner, [first, numbers.stop]).tolist())
        doc = self.texts.documents[self.documents.indices(found)]
        positive = self.texts.positives[rows] & 0xFFFFFFFF
        row = rows_of(owner[rows] - first, positive, candidate // CANDIDATES_PER_QUERY, doc)
        restorable = self.texts.restorable(found, doc, first, rows)
        return Replay(
            self.config,
            self.run.scorers,
            self.hideable,
            numbers,
            rows,
            found,
            self.documents,
            row,
            restorable,
        )

    def whole(self) -> Replay:
        """Returns the replay of all queries at once."""
        return self.part(range(self.hideable.positives.queries))


@dataclass(frozen=True)
class Replay:
    """The stored evidence of a range of a run's queries, to decide it again many times.

    Its queries are numbered from 0.
    """

    config: MiningConfig
    scorers: Sequence[Scorer]
    """The scorers of the run."""
    hideable: Hideable
    """The positives of all queries of the run."""
    numbers: range
    """The numbers of the queries in the run."""
    rows: slice
    """The rows of their positives among all of the run."""
    candidates: pa.Table
    """As `evidence.scored_candidates`, in order."""
    documents: Documents
    row: Ints
    """The row of `candidates` that each of their positives is, -1 if no retriever found it."""
    restorable: Restorable

    @classmethod
    def of(cls, store: Database, run: StoredRun) -> Replay:
        """Returns the replay of all queries of a run; raises as `Replays.of`."""
        return Replays.of(store, run).whole()

    def by(self, scorer: Scorer, hideable: Hideable) -> Replay:
        """Returns the same evidence, on which the rules look at the scores of another scorer that was read.

        `hideable` has its scores of all positives. The hidden positives are the same for every scorer. A
        lowest score (`min_score`) is turned off, because it is in the units of the run's own scorer.
        """
        rules = replace(self.config.rules, decide_by=scorer.name, min_score=None)
        scores = self.scores_of(scorer)
        # A reranker and a judge have no score of a pair that they did not read.
        unknown = None if scorer.is_retriever else np.isnan(scores)
        table = _replaced(self.candidates, "score", pa.array(scores, mask=unknown))
        return replace(self, config=replace(self.config, rules=rules), hideable=hideable, candidates=table)

    def scores_of(self, scorer: Scorer) -> Floats:
        """Returns each candidate's score by another scorer that was read; NaN without a finite one."""
        return np.asarray(as_numpy(self.candidates[evidence.score_of(scorer)]), dtype=np.float64)

    @cached_property
    def query(self) -> Positions:
        """Each candidate's query."""
        return (as_numpy(self.candidates["candidate"]) // CANDIDATES_PER_QUERY).astype(np.int32)

    @cached_property
    def fused_rank(self) -> Positions:
        """Each candidate's fused rank."""
        return (as_numpy(self.candidates["candidate"]) % CANDIDATES_PER_QUERY).astype(np.int32)

    @cached_property
    def score(self) -> Floats:
        """Each candidate's deciding score; NaN if the reranker did not score it, or the score is not
        finite."""
        return np.asarray(as_numpy(self.candidates["score"]), dtype=np.float64)

    @cached_property
    def best_rank(self) -> Ints:
        """The best rank that any retriever gave each candidate."""
        ranks: Ints = as_numpy(self.candidates["best_rank"]).astype(np.int64)
        return ranks

    @cached_property
    def judged_negative(self) -> Flags:
        """Whether each candidate is a known negative."""
        return as_numpy(self.candidates["judged_negative"])

    @cached_property
    def order(self) -> Ints:
        """The rows by query, then falling score, then document: the order in which `top` selects."""
        return sorted_rows(self.query, self.score, self.documents.indices(self.candidates))

    @cached_property
    def position(self) -> Ints:
        """Each row's position in `order`."""
        position = np.empty(len(self.order), dtype=np.int64)
        position[self.order] = np.arange(len(position))
        return position

    @cached_property
    def sorted_score(self) -> Floats:
        """The deciding scores in that order."""
        return self.score[self.order]

    @cached_property
    def starts(self) -> Ints:
        """The first row of each query, and the number of rows; the first position in `order` too."""
        return np.searchsorted(self.query, np.arange(len(self.numbers) + 1))

    @cached_property
    def has_judged(self) -> bool:
        """Whether any candidate is a known negative."""
        return bool(self.judged_negative.any())

    @cached_property
    def mined(self) -> ReplayEvidence:
        """The evidence with nothing hidden."""
        return self.hide(self.hideable.nothing)

    def hide(self, hidden: Hidden) -> ReplayEvidence:
        """Returns the evidence as if nobody had judged the hidden positives.

        The candidates that only a hidden positive excluded are restored: its copies, and texts that contain
        it. A candidate below the rerank depth has no reranker's score.
        """
        return self.hide_with(hidden, self.exclusions(hidden))

    def exclusions(self, hidden: Hidden) -> ExclusionsLeft:
        """Returns the exclusions that may differ with these positives hidden; no score changes them."""
        return self.restorable.exclusions(self.row, hidden.flags[self.rows])

    def hide_with(self, hidden: Hidden, exclusions: ExclusionsLeft) -> ReplayEvidence:
        """Returns what `hide` does, given the exclusions that are left."""
        codes = as_numpy(self.candidates["exclusion"]).copy()
        codes[exclusions.rows] = exclusions.reasons
        table = _replaced(self.candidates, "exclusion", as_arrow(codes))
        visible = self.hideable.visible(hidden, self.rows, self.numbers.start, len(self.numbers))
        return ReplayEvidence(hidden.flags[self.rows], visible, table, exclusions.replaced_by)

    def decide(self, evidence: ReplayEvidence, served: Ints | None = None) -> Trial:
        """Returns what the run's rules and selection decide over the evidence; `served` as in `Decider`."""
        row = evidence.row
        codes = self.codes(evidence, served)
        outcome = np.full(len(row), NOT_FOUND, dtype=np.int16)
        outcome[row >= 0] = codes[row[row >= 0]]
        selected = np.flatnonzero(codes < KEPT)
        negatives = np.bincount(self.query[selected], minlength=len(self.numbers))
        left = self.left(selected, negatives, evidence.visible)
        return Trial(evidence.hidden, row, outcome, left, negatives)

    def codes(self, evidence: ReplayEvidence, served: Ints | None = None) -> Codes:
        """Returns every candidate's code, as in `decisions`; `served` as in `Decider`."""
        decider = Decider(evidence.visible, self.documents, self.config, self.scorers, served)
        codes = [
            one.decisions["codes"].combine_chunks().values.to_numpy()
            for one in decider.decide(evidence.candidates)
        ]
        return np.concatenate([np.zeros(0, np.int16), *codes])

    def left(self, selected: Ints, negatives: Ints, visible: Positives) -> LeftSums:
        """Returns the sums of the `selected` rows of candidates, which are `negatives` per query."""
        counts = negatives[np.bincount(visible.owner, minlength=visible.queries) > 0]
        margin = visible.mean[self.query[selected]] - self.score[selected]
        return LeftSums(
            len(counts),
            int(counts.sum()),
            int((counts >= self.config.selection.negatives).sum()),
            int((counts == 0).sum()),
            int(self.fused_rank[selected].sum()),
            exact_sum(margin),
        )


def sorted_rows(query: Positions, score: Floats, doc: Positions) -> Ints:
    """Returns the rows by query, in whose order they are, then falling score, then document.

    As `numpy.lexsort` does, but several times as fast: it sorts the scores of each query by themselves.
    """
    starts, counts = group_sizes(query)
    order = np.empty(len(query), dtype=np.int64)
    for number in np.unique(counts):
        first = starts[counts == number]
        rows = first[:, None] + np.arange(number)
        order[rows] = first[:, None] + np.argsort(-score[rows], axis=1, kind="stable")
    ranked, owner = score[order], query[order]
    equal = (ranked[1:] == ranked[:-1]) | (np.isnan(ranked[1:]) & np.isnan(ranked[:-1]))
    equal &= owner[1:] == owner[:-1]
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    rows = order[tied]
    order[tied] = rows[np.lexsort((doc[rows], -score[rows], query[rows]))]
    return order


def _replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)
