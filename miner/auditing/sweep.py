"""A sweep: the hidden positives that many settings select, and the negatives that they leave.

A rule against high scores keeps the candidates up to a bound, one per query. With candidates sorted by score,
the negatives that `top` selects are then one range of rows: bisection finds it, and differences of running
sums count it. A hidden positive is among them if the bound is inside an interval, which the scores of two
rows give. The counts equal those of deciding each setting (`Replay.decide`), hundreds of times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.arrays import as_numpy, joined_ranges
from miner.auditing.replay import LeftSums, Replay, ReplayEvidence
from miner.errors import UsageError
from miner.mining import rules as ruling
from miner.mining.config import MiningConfig, Rules
from miner.schema import FREE
from miner.stats import limbs

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
    margin_limbs: Sequence[tuple[Ints, Fraction]]
    """The sum of the query's mean positive score minus the negative's, as `stats.limbs`."""

    def sums(self, among: Flags) -> LeftSums:
        """Returns the sums over some queries."""
        margins = (int(whole[among].sum()) * power for whole, power in self.margin_limbs)
        return LeftSums(
            int(among.sum()),
            int(self.negatives[among].sum()),
            int(self.covered[among].sum()),
            int((self.negatives[among] == 0).sum()),
            int(self.ranks[among].sum()),
            sum(margins, Fraction(0)),
        )


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
        codes = as_numpy(evidence.candidates["exclusion"])
        eligible = (codes[replay.order] == FREE) & np.isfinite(replay.sorted_score)
        if not self._visible.has_scored.all():
            eligible &= self._visible.has_scored[replay.query]
        self._positions = np.flatnonzero(eligible)
        self._last: tuple[tuple[int, int | None], _Window] | None = None

    @property
    def first(self) -> int:
        """The number of the first query in the run."""
        return self._replay.numbers.start

    def counts(self, settings: Sequence[Rules]) -> list[Counts]:
        """Returns the counts of each setting; settings with the same rank window share their sorted rows."""
        return [self._window(rules.skip_top, rules.max_rank).counts(rules) for rules in settings]

    def selected(self, settings: Sequence[Rules]) -> list[Ints]:
        """Returns the hidden positives that each setting selects, per query, as in its counts."""
        return [self._window(rules.skip_top, rules.max_rank).selected(rules) for rules in settings]

    def covering(self, rules: Rules) -> Floats:
        """Returns the lowest bound with which each query has all its negatives, whatever bounds the score.

        NaN for a query that never has them. Rules that bound the score have no effect.
        """
        return self._window(rules.skip_top, rules.max_rank).covering(rules)

    def negatives(self, rules: Rules) -> tuple[Ints, int]:
        """Returns the rows of the replay that a setting selects, and the number of all that it selects.

        They differ by the known negatives that only their judgment keeps.
        """
        window = self._window(rules.skip_top, rules.max_rank)
        return window.negatives(rules)

    def _window(self, skip_top: int, max_rank: int | None) -> _Window:
        """Returns the rows of a rank window; the last one is reused, as its settings follow each other."""
        if self._last is not None and self._last[0] == (skip_top, max_rank):
            return self._last[1]
        replay, positions = self._replay, self._positions
        if skip_top or max_rank is not None:
            outside = ruling.outside_window(Rules(skip_top=skip_top, max_rank=max_rank), replay.best_rank)
            positions = positions[~outside[replay.order[positions]]]
        edges = np.searchsorted(positions, replay.starts)
        window = _Window(replay, self._evidence, positions, edges, self._reference, self._shares)
        self._last = (skip_top, max_rank), window
        return window

    @cached_property
    def _reference(self) -> dict[str, Floats]:
        owner, score = self._visible.owner, self._visible.score
        return {
            kind: ruling.reference_scores(owner, score, self._visible.queries, kind)
            for kind in ("lowest", "median", "best")
        }

    @cached_property
    def _shares(self) -> dict[str, Floats]:
        positives = self._visible.sorted_scores
        return {kind: ruling.distribution(positives, scores) for kind, scores in self._reference.items()}


@dataclass(frozen=True)
class _Window:
    """The candidates inside one rank window, by query, then falling score."""

    replay: Replay
    evidence: ReplayEvidence
    positions: Ints
    """The position of each row in `Replay.order`."""
    edges: Ints
    """The first row of each query, and the row after the last."""
    reference: dict[str, Floats]
    """Reference score per query, for each kind of reference positive."""
    shares: dict[str, Floats]
    """The share of positives that score at most as high as each of these."""

    @cached_property
    def rows(self) -> Ints:
        """The row of each in the replay."""
        return self.replay.order[self.positions]

    @cached_property
    def score(self) -> Floats:
        """The deciding score of each, which is finite."""
        return self.replay.sorted_score[self.positions]

    @cached_property
    def judged_before(self) -> Int32s:
        """How many known negatives are before each row: no rule drops these for a high score."""
        return _running(self._judged)

    @property
    def _wanted(self) -> int:
        """Negatives requested per query."""
        return self.replay.config.selection.negatives

    def _bound(self, rules: Rules) -> Floats:
        """The highest score that the rules allow in each query."""
        kind = rules.reference_positive
        positives = self.evidence.visible.sorted_scores
        return ruling.highest(rules, self.reference[kind], positives, self.shares[kind])

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

    def _end(self, rules: Rules) -> Ints:
        """The row after the last of each query that scores enough."""
        if rules.min_score is None:
            return self.edges[1:]
        return self._first(np.full(len(self.edges) - 1, rules.min_score), below=True)

    def _selection(self, rules: Rules) -> tuple[Ints, Ints, Ints]:
        """Returns which rows of each query become negatives: the best-scored that the rules keep.

        These are `below` rows from `start`, and the first `above` of the known negatives before it.
        """
        begin, end = self.edges[:-1], self._end(rules)
        start = np.minimum(self._first(self._bound(rules)), end)
        above = np.minimum(self.judged_before[start] - self.judged_before[begin], self._wanted)
        return start, np.minimum(end - start, self._wanted - above), above

    def _score_of_unjudged(self, query: Ints, number: Ints, end: Ints) -> Floats:
        """The score of the candidate with this number, from 0, among those of a query that are not known
        negatives; -inf if it is not before the row `end`."""
        row = self.edges[query] + number
        if self.replay.has_judged:
            before = np.arange(len(self.positions) + 1) - self.judged_before
            row = np.append(np.flatnonzero(~self._judged), len(self.positions))[
                np.minimum(before[self.edges[query]] + number, before[-1])
            ]
        exists = (number >= 0) & (row < end)
        score = np.full(len(query), -np.inf)
        score[exists] = self.replay.sorted_score[self.positions[row[exists]]]
        return score

    @cached_property
    def _intervals(self) -> tuple[Ints, Ints, Floats, Floats]:
        """The query of each row with hidden positives, how many these are, and the bounds that select it.

        These are at least the first score and below the second, or any if it is NaN: the row scores no more
        than the bound, and too few others that become negatives first do.
        """
        rows = self.evidence.row[self.evidence.hidden]
        rows, hidden = np.unique(rows[rows >= 0], return_counts=True)
        position = self.replay.position[rows]
        at = np.searchsorted(self.positions, position)
        inside = np.append(self.positions, -1)[at] == position
        rows, hidden, at = rows[inside], hidden[inside], at[inside]
        query = self.replay.query[rows].astype(np.int64)
        number = at - self.edges[query] - self._wanted
        high = self._score_of_unjudged(query, number, self.edges[query + 1])
        high[number < 0] = np.nan
        return query, hidden, self.replay.score[rows], high

    def selected(self, rules: Rules) -> Ints:
        """Returns the hidden positives among the negatives of each query; none is a known negative."""
        query, number, low, high = self._intervals
        bound = self._bound(rules)[query]
        inside = (low <= bound) & ~(bound >= high)
        if rules.min_score is not None:
            inside &= low >= rules.min_score
        return np.bincount(query[inside], number[inside], len(self.edges) - 1).astype(np.int64)

    def covering(self, rules: Rules) -> Floats:
        """Returns what `Sweep.covering` does."""
        end = self._end(rules)
        number = end - self.edges[:-1] - self._wanted
        # Without such a candidate the known negatives alone are enough.
        least = self._score_of_unjudged(np.arange(len(number)), number, end)
        least[number < 0] = np.nan
        return least

    def negatives(self, rules: Rules) -> tuple[Ints, int]:
        """Returns what `Sweep.negatives` does."""
        start, below, above = self._selection(rules)
        return self.rows[joined_ranges(start, below)], int(below.sum() + above.sum())

    def counts(self, rules: Rules) -> Counts:
        """Returns the counts if the best-scored candidates that the rules keep become negatives."""
        start, below, above = self._selection(rules)
        first, taken = self.judged_before[self.edges[:-1]], above + below

        def _sum(sums: Ints, judged: Ints) -> Ints:
            return np.asarray(sums[start + below] - sums[start] + judged[first + above] - judged[first])

        limbs = [(taken * whole, power) for whole, power in self._mean_limbs]
        limbs += [(-_sum(*sums), power) for sums, power in self._score_sums]
        covered = (taken >= self._wanted).astype(np.int64)
        return Counts(self.selected(rules), taken, covered, _sum(*self._rank_sums), limbs)

    @cached_property
    def _judged(self) -> Flags:
        return self.replay.judged_negative[self.rows]

    def _sums(self, values: npt.NDArray[np.integer[Any]]) -> tuple[Ints, Ints]:
        """Running sums over all rows, and over the known negatives alone."""
        return _running(values, np.int64), _running(values[self._judged], np.int64)

    @cached_property
    def _rank_sums(self) -> tuple[Ints, Ints]:
        return self._sums(self.replay.fused_rank[self.rows])

    @cached_property
    def _score_sums(self) -> list[tuple[tuple[Ints, Ints], Fraction]]:
        """Running sums of the limbs of the scores."""
        return [(self._sums(whole), power) for whole, power in limbs(self.score)]

    @cached_property
    def _mean_limbs(self) -> list[tuple[Ints, Fraction]]:
        """The limbs of the mean score of each query's positives."""
        return limbs(self.evidence.visible.mean)


def _running(values: npt.NDArray[Any], dtype: npt.DTypeLike = np.int32) -> npt.NDArray[Any]:
    """Running sums: element i is the sum of the values before row i."""
    sums = np.zeros(len(values) + 1, dtype=dtype)
    np.cumsum(values, out=sums[1:])
    return sums


def only(rules: Rules, **kept: object) -> Rules:
    """Returns the rules with every bound on high scores turned off, except those in `kept`."""
    return replace(rules, **{**dict.fromkeys(ruling.BOUNDS), **kept})  # type: ignore[arg-type]
