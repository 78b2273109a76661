"""A sweep: the hidden positives that many settings select, and the negatives that they leave.

A rule against high scores keeps the candidates up to a bound, one per query. With candidates sorted by score,
the negatives that `top` selects are then one range of rows: bisection finds it, and differences of running
sums count it. The counts equal those of deciding each setting (`Replay.decide`), hundreds of times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.arrays import joined_ranges
from miner.auditing.replay import Replay, ReplayEvidence
from miner.errors import UsageError
from miner.mining import rules as ruling
from miner.mining.config import MiningConfig, Rules
from miner.schema import FREE

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Counts:
    """The counts of one setting per query: arrays of one length."""

    selected: Ints
    """Hidden positives that are selected as negatives."""
    negatives: Ints
    covered: Ints
    """1 if the query has all the negatives requested, else 0."""
    ranks: Ints
    """The sum of the negatives' fused ranks."""
    margins: Floats
    """The sum of the query's mean positive score minus the negative's."""


def require_sweepable(config: MiningConfig) -> None:
    """Raises UsageError for a run whose negatives are not its kept candidates with the best scores."""
    selection, rules = config.selection, config.rules
    for name, plain in (
        ("strategy", "top"),
        ("quota", ()),
        ("document_cap", None),
    ):
        if (value := getattr(selection, name)) != plain:
            shown = " ".join(value) if isinstance(value, tuple) else value
            raise UsageError(
                f"a run with {name} {shown} cannot be calibrated",
                "decide again with --strategy top and without quotas or a cap, calibrate that run, and use "
                "the calibrated rules with any selection",
            )
    if rules.agree is not None:
        raise UsageError(
            "a run with the rule agree cannot be calibrated",
            "decide again without it, and calibrate that run",
        )
    if rules.reference_positive == "each":
        raise UsageError(
            "a run with reference positive each cannot be calibrated",
            "decide again with another reference_positive, and calibrate that run",
        )


class Sweep:
    """Evidence with some positives hidden, sorted for counting."""

    def __init__(self, replay: Replay, evidence: ReplayEvidence) -> None:
        require_sweepable(replay.config)
        self._replay = replay
        self._evidence = evidence
        self._visible = evidence.visible
        table = evidence.candidates
        score = np.asarray(table["score"].to_numpy(), dtype=np.float64)
        comparable = self._visible.has_scored[replay.query]
        eligible = (table["exclusion"].to_numpy() == FREE) & np.isfinite(score) & comparable
        self._rows = replay.order[eligible[replay.order]].astype(np.int32)
        self._score = score
        self._last: tuple[tuple[int, int | None], _Window] | None = None

    @property
    def queries(self) -> int:
        """One more than the largest query number."""
        return self._visible.queries

    def counts(self, settings: Sequence[Rules]) -> list[Counts]:
        """Returns the counts of each setting; settings with the same rank window share their sorted rows."""
        negatives = self._replay.config.selection.negatives
        return [self._window(rules.skip_top, rules.max_rank).counts(rules, negatives) for rules in settings]

    def selected(self, settings: Sequence[Rules]) -> list[Ints]:
        """Returns the hidden positives that each setting selects, per query, as in its counts."""
        negatives = self._replay.config.selection.negatives
        return [self._window(rules.skip_top, rules.max_rank).selected(rules, negatives) for rules in settings]

    def negatives(self, rules: Rules) -> tuple[Int32s, int]:
        """Returns the rows of the replay that a setting selects, and the number of all that it selects.

        They differ by the known negatives that only their judgment keeps.
        """
        window = self._window(rules.skip_top, rules.max_rank)
        return window.negatives(rules, self._replay.config.selection.negatives)

    def _window(self, skip_top: int, max_rank: int | None) -> _Window:
        """Returns the rows of a rank window; the last one is reused, as its settings follow each other."""
        if self._last is not None and self._last[0] == (skip_top, max_rank):
            return self._last[1]
        replay, best = self._replay, self._replay.best_rank[self._rows]
        inside = best > skip_top
        if max_rank is not None:
            inside &= best <= max_rank
        rows = self._rows[inside]
        edges = np.searchsorted(replay.query[rows], np.arange(self.queries + 1))
        window = _Window(
            replay,
            rows,
            edges,
            self._score[rows],
            _running(self._evidence.hidden_in[rows]),
            _running(replay.judged_negative[rows]),
            self._visible.mean,
            self._reference,
            self._shares,
            self._visible.sorted_scores,
        )
        self._last = (skip_top, max_rank), window
        return window

    @cached_property
    def _reference(self) -> dict[str, Floats]:
        owner, score = self._visible.owner, self._visible.score
        return {
            kind: ruling.reference_scores(owner, score, self.queries, kind)
            for kind in ("lowest", "median", "best")
        }

    @cached_property
    def _shares(self) -> dict[str, Floats]:
        positives = self._visible.sorted_scores
        return {kind: ruling.distribution(positives, scores) for kind, scores in self._reference.items()}


@dataclass(frozen=True)
class _Window:
    """The candidates inside one rank window, by query, then falling score.

    There is one per sweep, so they hold no array that only a sweep without hidden positives needs.
    """

    replay: Replay
    rows: Int32s
    """The row of each in the replay."""
    edges: Ints
    """The first row of each query, and the row after the last."""
    score: Floats
    hidden_before: Int32s
    """How many hidden positives the candidates before each row are, or replace as their copies."""
    judged_before: Int32s
    """How many known negatives are before each row: no rule drops these for a high score."""
    mean: Floats
    """Mean score of the positives, per query."""
    reference: dict[str, Floats]
    """Reference score per query, for each kind of reference positive."""
    shares: dict[str, Floats]
    """The share of positives that score at most as high as each of these."""
    positives: Floats
    """Scores of all visible positives, ascending."""

    def _first(self, bound: Floats, below: bool = False) -> Ints:
        """The first row of each query that scores at most its bound (or `below` it), by one bisection for
        all."""
        first, end = self.edges[:-1], self.edges[1:]
        step = 1 << int((end - first).max(initial=0)).bit_length()
        while (step := step // 2) and len(self.score):
            probe = first + step - 1
            score = self.score[np.minimum(probe, len(self.score) - 1)]
            above = score >= bound if below else score > bound
            first = first + step * (above & (probe < end))
        return first

    def _selection(self, rules: Rules, negatives: int) -> tuple[Ints, Ints, Ints]:
        """Returns which rows of each query become negatives: the best-scored that the rules keep.

        These are `below` rows from `start`, and the first `above` of the known negatives before it.
        """
        begin, end = self.edges[:-1], self.edges[1:]
        if rules.min_score is not None:
            end = self._first(np.full(len(begin), rules.min_score), below=True)
        kind = rules.reference_positive
        bound = ruling.highest(rules, self.reference[kind], self.positives, self.shares[kind])
        start = np.minimum(self._first(bound), end)
        if not self.judged_before[-1]:
            return start, np.minimum(end - start, negatives), np.zeros_like(start)
        above = np.minimum(self.judged_before[start] - self.judged_before[begin], negatives)
        return start, np.minimum(end - start, negatives - above), above

    def selected(self, rules: Rules, negatives: int) -> Ints:
        """Returns the hidden positives among the negatives of each query; none is a known negative."""
        start, below, _ = self._selection(rules, negatives)
        return np.asarray(self.hidden_before[start + below] - self.hidden_before[start])

    def negatives(self, rules: Rules, negatives: int) -> tuple[Int32s, int]:
        """Returns what `Sweep.negatives` does."""
        start, below, above = self._selection(rules, negatives)
        return self.rows[joined_ranges(start, below)], int(below.sum() + above.sum())

    def counts(self, rules: Rules, negatives: int) -> Counts:
        """Returns the counts if the best-scored candidates that the rules keep become negatives."""
        start, below, above = self._selection(rules, negatives)
        above_first = self.judged_before[self.edges[:-1]]
        taken = above + below
        ranks, scores = (
            sums[start + below] - sums[start] + judged[above_first + above] - judged[above_first]
            for sums, judged in (self._rank_sums, self._score_sums)
        )
        return Counts(
            self.selected(rules, negatives),
            taken,
            (taken >= negatives).astype(np.int64),
            ranks,
            taken * self.mean - scores,
        )

    @cached_property
    def _judged(self) -> Flags:
        return self.replay.judged_negative[self.rows]

    @cached_property
    def _rank_sums(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Running sums over all rows, and over the known negatives alone."""
        rank = self.replay.fused_rank[self.rows]
        return _running(rank, np.int64), _running(rank[self._judged], np.int64)

    @cached_property
    def _score_sums(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        return _running(self.score, np.float64), _running(self.score[self._judged], np.float64)


def _running(values: npt.NDArray[Any], dtype: npt.DTypeLike = np.int32) -> npt.NDArray[Any]:
    """Running sums: element i is the sum of the values before row i."""
    sums = np.zeros(len(values) + 1, dtype=dtype)
    np.cumsum(values, out=sums[1:])
    return sums


def only(rules: Rules, **kept: object) -> Rules:
    """Returns the rules with every bound on high scores turned off, except those in `kept`."""
    return replace(rules, **{**dict.fromkeys(ruling.BOUNDS), **kept})  # type: ignore[arg-type]
