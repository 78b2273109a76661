"""A replay: decides a run's stored evidence again as if nobody had judged some of its positives.

Nothing is searched or scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.auditing.hiding import ExclusionsLeft, Hideable
from miner.mining.config import MiningConfig
from miner.mining.decide import Decider, Documents, Positives
from miner.mining.pipeline import config_of
from miner.mining.rules import KEPT
from miner.schema import CANDIDATES_PER_QUERY
from miner.store import evidence
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.scorers import Scorer

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int32]
Codes = npt.NDArray[np.int16]

NOT_FOUND = np.iinfo(np.int16).max
"""The code of a hidden positive that no retriever returned."""


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
    def mean(cls, several: list[NegativesLeft]) -> NegativesLeft:
        """Returns the means over repeats; those of rank and margin over the repeats that have negatives."""
        columns = [[getattr(one, field.name) for one in several] for field in fields(cls)]
        known = [[value for value in column if value is not None] for column in columns]
        return cls(*[float(np.mean(values)) if values else None for values in known])  # type: ignore[arg-type]


@dataclass(frozen=True)
class ReplayEvidence:
    """The evidence of a run with some positives hidden."""

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
    left: NegativesLeft
    negatives: Ints
    """Negatives per query."""

    @cached_property
    def selected(self) -> Flags:
        """Whether each positive was hidden and selected as a negative."""
        return self.hidden & (self.outcome < KEPT)


@dataclass(frozen=True)
class Replay:
    """A run's stored evidence, read once to decide it again many times."""

    config: MiningConfig
    scorers: Sequence[Scorer]
    """The scorers of the run."""
    hideable: Hideable
    candidates: pa.Table
    """As `evidence.scored_candidates`."""
    documents: Documents
    fused_rank: Positions

    @classmethod
    def of(cls, store: Database, run: StoredRun) -> Replay:
        """Returns the replay of a run; raises as `Hideable.of` and `config_of`."""
        config = config_of(run)
        others = run.scorers if config.rules.agree is not None else ()
        candidates = evidence.scored_candidates(store, run, others=others)
        documents = Documents.of(store, run.evidence)
        fused = (candidates["candidate"].to_numpy() % CANDIDATES_PER_QUERY).astype(np.int32)
        hideable = Hideable.of(store, run, config, candidates, documents)
        return cls(config, run.scorers, hideable, candidates, documents, fused)

    def by(self, scorer: Scorer, candidates: Floats, positives: Floats) -> Replay:
        """Returns the same evidence, on which the rules look at the scores of another scorer.

        `candidates` and `positives` are its scores of all candidates and positives, NaN without a finite one.
        The hidden positives are the same for every scorer. A lowest score (`min_score`) is turned off,
        because it is in the units of the run's own scorer.
        """
        rules = replace(self.config.rules, decide_by=scorer.name, min_score=None)
        # A reranker has no score of a pair that it did not read.
        unknown = np.isnan(candidates) if scorer.is_reranker else None
        table = _replaced(self.candidates, "score", pa.array(candidates, mask=unknown))
        config, hideable = replace(self.config, rules=rules), self.hideable.by(positives)
        return replace(self, config=config, hideable=hideable, candidates=table)

    @cached_property
    def query(self) -> Positions:
        """Each candidate's query number."""
        numbers: Ints = self.candidates["candidate"].to_numpy()
        return (numbers // CANDIDATES_PER_QUERY).astype(np.int32)

    @cached_property
    def score(self) -> Floats:
        """Each candidate's deciding score; NaN if the reranker did not score it, or the score is not
        finite."""
        return np.asarray(self.candidates["score"].to_numpy(), dtype=np.float64)

    @cached_property
    def best_rank(self) -> Ints:
        """The best rank that any retriever gave each candidate."""
        ranks: Ints = self.candidates["best_rank"].to_numpy().astype(np.int64)
        return ranks

    @cached_property
    def judged_negative(self) -> Flags:
        """Whether each candidate is a known negative."""
        return np.asarray(self.candidates["judged_negative"].to_numpy())

    @cached_property
    def order(self) -> Ints:
        """The rows by query, then falling score, then document: the order in which `top` selects."""
        return np.lexsort((self.documents.indices(self.candidates), -self.score, self.query))

    @cached_property
    def mined(self) -> ReplayEvidence:
        """The evidence with nothing hidden."""
        return self.hide(np.zeros(len(self.hideable.allowed), dtype=np.bool_))

    def hide(self, hidden: Flags) -> ReplayEvidence:
        """Returns the evidence as if nobody had judged the hidden positives.

        The candidates that only a hidden positive excluded are restored: its copies, and texts that contain
        it. A candidate below the rerank depth has no reranker's score.
        """
        return self.hide_with(hidden, self.hideable.exclusions(hidden))

    def hide_with(self, hidden: Flags, exclusions: ExclusionsLeft) -> ReplayEvidence:
        """Returns what `hide` does, given the exclusions that are left, which no score changes."""
        codes = self.candidates["exclusion"].to_numpy().copy()
        codes[exclusions.rows] = exclusions.reasons
        table = _replaced(self.candidates, "exclusion", pa.array(codes))
        return ReplayEvidence(hidden, self.hideable.visible(hidden), table, exclusions.replaced_by)

    def decide(self, evidence: ReplayEvidence) -> Trial:
        """Returns what the run's rules and selection decide over the evidence."""
        visible, row = evidence.visible, evidence.row
        codes = self.codes(evidence)
        outcome = np.full(len(row), NOT_FOUND, dtype=np.int16)
        outcome[row >= 0] = codes[row[row >= 0]]
        selected = np.flatnonzero(codes < KEPT)
        negatives = np.bincount(self.query[selected], minlength=visible.queries)
        left = self.left(selected, negatives, visible)
        return Trial(evidence.hidden, row, outcome, left, negatives)

    def codes(self, evidence: ReplayEvidence) -> Codes:
        """Returns every candidate's code, as in `decisions`."""
        decider = Decider(evidence.visible, self.documents, self.config, self.scorers)
        codes = [
            one.decisions["codes"].combine_chunks().values.to_numpy()
            for one in decider.decide(evidence.candidates)
        ]
        return np.concatenate([np.zeros(0, np.int16), *codes])

    def left(self, selected: Ints, negatives: Ints, visible: Positives) -> NegativesLeft:
        """Returns the figures of the `selected` rows of candidates, which are `negatives` per query."""
        counts = negatives[np.bincount(visible.owner, minlength=visible.queries) > 0]
        margin = visible.mean[self.query[selected]] - self.score[selected]
        return NegativesLeft(
            float(counts.mean()),
            float((counts >= self.config.selection.negatives).mean()),
            float((counts == 0).mean()),
            float(self.fused_rank[selected].mean()) if len(selected) else None,
            float(margin.mean()) if len(selected) else None,
        )


def _replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)
