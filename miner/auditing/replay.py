"""A run's stored evidence, and deciding it again as if nobody had judged some of its positives.

Nothing is searched or scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import positions
from miner.auditing.hiding import Hideable
from miner.mining.config import MiningConfig
from miner.mining.decide import Decider, Documents, Positives, deciding_score
from miner.mining.pipeline import config_of
from miner.mining.rules import KEPT
from miner.schema import CANDIDATES_PER_QUERY
from miner.store import evidence
from miner.store.corpus import document_ids
from miner.store.database import Store
from miner.store.runs import Run

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int16]

NOT_FOUND = np.iinfo(np.int16).max
"""The code of a hidden positive that no retriever returned."""


@dataclass(frozen=True)
class Yield:
    """What the rules leave, over all queries of the run."""

    per_query: float
    """Negatives, mean."""
    full: float
    """The share of queries that got as many as asked."""
    without: float
    """The share that got none."""
    rank: float | None
    """Mean fused rank of the negatives; None where there are none."""
    margin: float | None
    """Mean of the query's mean positive score minus the negative's, in the deciding score."""

    @classmethod
    def mean(cls, several: list[Yield]) -> Yield:
        """Returns the means over repeats; of rank and margin over those that have negatives."""
        columns = [[getattr(one, field.name) for one in several] for field in fields(cls)]
        known = [[value for value in column if value is not None] for column in columns]
        return cls(*[float(np.mean(values)) if values else None for values in known])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Unjudged:
    """The evidence as if nobody had judged some positives."""

    hidden: Flags
    """Per positive."""
    visible: Positives
    candidates: pa.Table
    """As `Material.candidates`."""
    row: Ints
    """Per positive, the candidate that it is, or the copy that stands for it; -1 where neither was found."""

    @cached_property
    def hidden_in(self) -> Ints:
        """How many hidden positives each candidate is, or stands for."""
        row = self.row[self.hidden]
        return np.bincount(row[row >= 0], minlength=len(self.candidates))


@dataclass(frozen=True)
class Trial:
    """One decision with some positives hidden."""

    hidden: Flags
    """Per positive."""
    row: Ints
    """As in `Unjudged`."""
    outcome: Codes
    """Per positive, as in `decisions`, or NOT_FOUND; only of hidden ones does it say anything."""
    cost: Yield
    negatives: Ints
    """Negatives of each query."""
    wrong: Ints
    """Those of them that are hidden positives, or copies of them."""

    @cached_property
    def leaked(self) -> Flags:
        """Whether each positive was hidden and came back as a negative."""
        return self.hidden & (self.outcome < KEPT)


@dataclass(frozen=True)
class Material:
    """A run's stored evidence, read once."""

    config: MiningConfig
    hideable: Hideable
    candidates: pa.Table
    """As `evidence.scored_candidates`."""
    documents: Documents
    fused_rank: Ints

    @classmethod
    def of(cls, store: Store, run: Run) -> Material:
        """Reads the evidence of a run; errors as `Hideable.of` and `config_of`."""
        config = config_of(run)
        candidates = evidence.scored_candidates(
            store, run.evidence, deciding_score(config), run.reranker, 0, np.iinfo(np.int64).max
        )
        fused = candidates["candidate"].to_numpy() % CANDIDATES_PER_QUERY
        hideable = Hideable.of(store, run, config, candidates)
        return cls(config, hideable, candidates, Documents(document_ids(store)), fused)

    @cached_property
    def query(self) -> Ints:
        """Each candidate's query number."""
        numbers: Ints = self.candidates["candidate"].to_numpy()
        return numbers // CANDIDATES_PER_QUERY

    @cached_property
    def score(self) -> Floats:
        """Each candidate's deciding score; NaN where the reranker was not asked, or it is not finite."""
        return np.asarray(self.candidates["score"].to_numpy(), dtype=np.float64)

    @cached_property
    def best_rank(self) -> Ints:
        """The best rank that any retriever gave each candidate."""
        ranks: Ints = self.candidates["best_rank"].to_numpy().astype(np.int64)
        return ranks

    @cached_property
    def judged_negative(self) -> Flags:
        """Whether each candidate is known to be a negative."""
        return np.asarray(self.candidates["judged_negative"].to_numpy())

    @cached_property
    def order(self) -> Ints:
        """The rows by query, the best score first, then document: as `top` selects them."""
        place = positions(self.candidates["doc_id"], self.documents.ids)
        return np.lexsort((place, -self.score, self.query))

    def trial(self, evidence: Unjudged) -> Trial:
        """Decides as if nobody had judged what `evidence` hides."""
        visible, row = evidence.visible, evidence.row
        codes = self.codes(evidence)
        outcome = np.full(len(row), NOT_FOUND, dtype=np.int16)
        outcome[row >= 0] = codes[row[row >= 0]]
        chosen = np.flatnonzero(codes < KEPT)
        negatives = np.bincount(self.query[chosen], minlength=visible.queries)
        wrong = np.bincount(self.query[chosen[evidence.hidden_in[chosen] > 0]], minlength=visible.queries)
        cost = self.cost(chosen, negatives, visible)
        return Trial(evidence.hidden, row, outcome, cost, negatives, wrong)

    def codes(self, evidence: Unjudged) -> Codes:
        """Returns every candidate's code, as in `decisions`."""
        decider = Decider(evidence.visible, self.documents, self.config)
        return np.concatenate([np.zeros(0, np.int16), *_codes(decider.decide(evidence.candidates))])

    def without(self, hidden: Flags) -> Unjudged:
        """Returns the evidence as if nobody had judged the hidden positives.

        What was excluded for their sake is open again: copies, and texts that contain them. A reranker that
        was asked about the first so many candidates only has no score for one that ranks below.
        """
        found = self.hideable.exclusion(hidden)
        exclusion = self.candidates["exclusion"].combine_chunks()
        code_of = {reason: code for code, reason in enumerate(exclusion.dictionary.to_pylist())}
        none = code_of[None] = len(code_of)
        codes = exclusion.indices.fill_null(none).to_numpy(zero_copy_only=False).copy()
        codes[found.rows] = [code_of[reason] for reason in found.reasons.to_pylist()]
        indices = pa.array(codes, exclusion.indices.type, mask=codes == none)
        column = pa.DictionaryArray.from_arrays(indices, exclusion.dictionary)
        table = _replaced(self.candidates, "exclusion", column)
        if self.config.rerank_depth is not None:
            # Positives were scored at any rank; a candidate would not have been.
            asked = self.candidates["score"].is_valid().to_numpy().copy()
            asked[found.rows[self.fused_rank[found.rows] > self.config.rerank_depth]] = False
            table = _replaced(table, "score", pa.array(self.score, mask=~asked))
        return Unjudged(hidden, self.hideable.visible(hidden), table, found.stands_for)

    def cost(self, chosen: Ints, negatives: Ints, visible: Positives) -> Yield:
        """Returns what was left: `chosen` rows of candidates, as `negatives` of each query."""
        counts = negatives[np.bincount(visible.owner, minlength=visible.queries) > 0]
        margin = visible.mean[self.query[chosen]] - self.score[chosen]
        return Yield(
            float(counts.mean()),
            float((counts >= self.config.selection.negatives).mean()),
            float((counts == 0).mean()),
            float(self.fused_rank[chosen].mean()) if len(chosen) else None,
            float(margin.mean()) if len(chosen) else None,
        )


def _codes(decisions: Iterator[Any]) -> Iterator[Codes]:
    for decision in decisions:
        yield decision.decisions["codes"].combine_chunks().values.to_numpy()


def _replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)
