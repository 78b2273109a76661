"""Adaptive reranking: candidates are scored in rounds, until each query has the negatives requested.

A round scores more candidates of the queries that are short of negatives, by fused rank, and decides again.
How far a query comes depends on scores of positives and of its own candidates up to there, and not on what
other runs have scored. Audits and other rules see no further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import count_within
from miner.engine.progress import SILENT, Progress
from miner.errors import counted
from miner.mining.config import MiningConfig
from miner.mining.decide import decide_each
from miner.mining.rules import outside_window
from miner.store import evidence as stored
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.scorers import Scorer

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

FIRST = 2
"""Candidates that the first round scores, per negative; each later round doubles what a query has."""


def ends_of_rounds(
    config: MiningConfig, settings: Mapping[str, Any], scorers: Sequence[Scorer], decider: int,
    progress: Progress = SILENT,
) -> Mapping[str, Any] | None:  # fmt: skip
    """Returns what ends the rounds of an adaptive run: the settings that say when a query has its negatives.

    None if the last reranker scores every candidate. So it does if another scorer decides, and for strategies
    that draw from all candidates that the rules keep: it reports that `rerank=adaptive` then has no effect.
    `settings` are those of the run, as they are stored.
    """
    if config.rerank != "adaptive":
        return None
    last, strategy = scorers[-1], config.selection.strategy
    if strategy != "top":
        why = f"strategy {strategy} draws from all candidates that the rules keep"
    elif decider != last.number:
        why = f"{scorers[decider].name} decides"
    else:
        return {"rules": settings["rules"], "selection": settings["selection"], "first": FIRST}
    progress.note(f"rerank=adaptive has no effect, as {why}: every candidate is scored")
    return None


def note_reach(run: StoredRun, progress: Progress) -> None:
    """Reports that other rules and strategies see only a part of an adaptive run's candidates."""
    if run.is_adaptive:
        progress.note(
            f"run {run.name} has the reranker's scores only as far as the rules it was mined with needed "
            "them: mine with rerank=all for scores of every candidate"
        )


class Rounds:
    """How far each query is, by number, in its candidates."""

    number = 0
    """The number of the latest round."""
    rows: Ints
    """The candidates, by row, that the latest round has scored."""

    def __init__(
        self, store: Database, run: StoredRun, config: MiningConfig, pairs: stored.CandidatePairs, seen: Flags
    ) -> None:
        """`seen` are the candidates within the depths of the run."""
        self._store, self._run, self._config = store, run, config
        # No score can keep what is outside the window of ranks.
        self._pairs, self._seen = pairs, seen & ~outside_window(config.rules, pairs.best_rank)
        free = pairs.is_free & self._seen
        self._free_before = count_within(free, pairs.query) - free
        """How many candidates of its query that could be negatives come before each one."""
        queries = int(pairs.query[-1]) + 1 if len(pairs.query) else 0
        self._free = np.bincount(pairs.query[free], minlength=queries)
        self._size = np.full(queries, FIRST * config.selection.negatives, dtype=np.int64)
        self._done = np.zeros(len(pairs.query), dtype=np.bool_)

    @property
    def within(self) -> Flags:
        """Which candidates the run sees: those that its queries have reached."""
        ended = self._size >= self._free
        return np.asarray(
            self._seen & (ended[self._pairs.query] | (self._free_before < self._size[self._pairs.query]))
        )

    @property
    def summary(self) -> str:
        """How much was scored, in one line."""
        possible = int((self._pairs.is_scored & self._seen).sum())
        scored = counted(int(self._done.sum()), "candidate")
        rounds = counted(self.number, "round")
        return (
            f"{rounds} of reranking scored {scored} of {possible:,}: each query has its negatives then, "
            "or no candidates left"
        )

    def next(self) -> bool:
        """Begins the next round; returns False if no candidate is left to score."""
        rows = np.flatnonzero(self.within & self._pairs.is_scored & ~self._done)
        if not len(rows) and self.number:
            return False
        self.rows, self.number = rows, self.number + 1
        self._done[rows] = True
        return True

    def decide(self, given: stored.Given) -> None:
        """Decides with the scores so far; the queries that are short of negatives go on."""
        some = np.flatnonzero(self._size < self._free)
        if not len(some):
            return
        # With a document cap, what a query gets depends on all queries before it.
        queries = None if self._config.selection.document_cap is not None else some.tolist()
        complete = np.zeros(len(self._size), dtype=np.int64)
        for _, decision in decide_each(self._store, self._run, [self._config], queries=queries, given=given):
            table = decision.selected
            enough = table["doc_nos"].combine_chunks().value_lengths().to_numpy() >= self._run.negatives
            owner = self._numbers[pc.index_in(table["query_id"].cast(pa.string()), self._ids).to_numpy()]
            complete += np.bincount(owner[enough], minlength=len(complete))
        short = some[complete[some] < self._wanted(given)[some]]
        self._size[short] *= 2

    @cached_property
    def _positives(self) -> pa.Table:
        return stored.numbered_positives(self._store, self._run.evidence)

    @cached_property
    def _ids(self) -> pa.Array:
        """The ids of the queries with positives."""
        return pc.unique(self._positives["query_id"])

    @cached_property
    def _numbers(self) -> Ints:
        """The number of each of these queries."""
        return np.asarray(pc.unique(self._positives["query_no"]).to_numpy(), dtype=np.int64)

    def _wanted(self, given: stored.Given) -> Ints:
        """Returns the rows of triplets that each query has if it is not short: one per positive, or one.

        A query without a positive that has a score never gets any.
        """
        scored = np.isfinite(given.positives[self._run.decider])
        owner = self._positives["query_no"].to_numpy()[scored]
        wanted = np.bincount(owner, minlength=len(self._size))
        each = self._config.rules.reference_positive == "each" or self._config.selection.positives == "all"
        return wanted if each else np.minimum(wanted, 1)
