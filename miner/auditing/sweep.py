"""Many settings over the same evidence at once: what each would leak, and what it would leave.

Rules against unjudged positives keep what scores at most some bound, one per query. With candidates
sorted by score the negatives that `top` selects are then one stretch of rows: found by bisection, counted by
differences of running sums. The same as deciding each setting (`Material.trial`), hundreds of times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.auditing.replay import Material, Unjudged
from miner.errors import UsageError
from miner.mining import rules as ruling
from miner.mining.config import MiningConfig, Rules

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """What one setting does, per query: arrays of one length, summed over repeats when added up."""

    leaked: Ints
    """Hidden positives that came back as negatives."""
    negatives: Ints
    full: Ints
    """1 where there are as many negatives as asked."""
    ranks: Ints
    """The sum of the negatives' fused ranks."""
    margins: Floats
    """The sum of the query's mean positive score minus the negative's."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.leaked + other.leaked,
            self.negatives + other.negatives,
            self.full + other.full,
            self.ranks + other.ranks,
            self.margins + other.margins,
        )


def require_sweepable(config: MiningConfig) -> None:
    """Raises UsageError for a run whose negatives are not simply its best-scored kept candidates."""
    selection, rules = config.selection, config.rules
    for name, plain in (
        ("strategy", "top"),
        ("bm25_quota", None),
        ("dense_quota", None),
        ("document_cap", None),
    ):
        if getattr(selection, name) != plain:
            raise UsageError(
                f"a run with {name} {getattr(selection, name)} cannot be calibrated",
                "decide again with --strategy top and neither quotas nor a cap, calibrate that, and use the "
                "rules it finds with any selection",
            )
    if rules.reference_positive == "each":
        raise UsageError(
            "a run with reference positive each cannot be calibrated",
            "decide again with another --reference-positive, and calibrate that",
        )


class Sweep:
    """The evidence with some positives hidden, sorted for counting."""

    def __init__(self, material: Material, evidence: Unjudged) -> None:
        require_sweepable(material.config)
        self._material = material
        self._evidence = evidence
        self._visible = evidence.visible
        table = evidence.candidates
        score = np.asarray(table["score"].to_numpy(), dtype=np.float64)
        comparable = self._visible.has_scored[material.query]
        eligible = table["exclusion"].is_null().to_numpy() & np.isfinite(score) & comparable
        self._rows = material.order[eligible[material.order]]
        self._score = score
        self._kept: tuple[tuple[int, int | None], _Window] | None = None

    @property
    def queries(self) -> int:
        """One more than the largest query number."""
        return self._visible.queries

    @cached_property
    def asked(self) -> Ints:
        """How many positives of each query are hidden."""
        owner = self._material.hideable.positives.owner
        return np.bincount(owner[self._evidence.hidden], minlength=self.queries)

    def counts(self, settings: Sequence[Rules]) -> list[Counts]:
        """Returns what each setting does; those of one rank window share their sorted rows."""
        found = []
        for rules in settings:
            window = self._window(rules.skip_top, rules.max_rank)
            found.append(window.counts(rules, self._material.config.selection.negatives))
        return found

    def _window(self, skip_top: int, max_rank: int | None) -> _Window:
        """The last one is kept: settings of one rank window come one after the other."""
        if self._kept is None or self._kept[0] != (skip_top, max_rank):
            self._kept = (skip_top, max_rank), self._cut(skip_top, max_rank)
        return self._kept[1]

    def _cut(self, skip_top: int, max_rank: int | None) -> _Window:
        material, best = self._material, self._material.best_rank[self._rows]
        inside = best > skip_top
        if max_rank is not None:
            inside &= best <= max_rank
        rows = self._rows[inside]
        return _Window(
            material.query[rows],
            self._score[rows],
            material.judged_negative[rows],
            self._evidence.hidden_in[rows],
            material.fused_rank[rows],
            self._visible.mean,
            self._reference,
            self._visible.sorted_scores,
        )

    @cached_property
    def _reference(self) -> dict[str, Floats]:
        owner, score = self._visible.owner, self._visible.score
        return {
            kind: ruling.reference_scores(owner, score, self.queries, kind)
            for kind in ("lowest", "median", "best")
        }


@dataclass(frozen=True)
class _Window:
    """The candidates inside one rank window, by query, the best score first: arrays of one length."""

    query: Ints
    score: Floats
    judged: Flags
    """Known negatives: no rule drops them for scoring high."""
    hidden: Ints
    """How many hidden positives each is, or stands for."""
    rank: Ints
    mean: Floats
    """Per query, the mean score of the positives."""
    reference: dict[str, Floats]
    """Per query, for each kind."""
    positives: Floats
    """Scores of all visible positives, sorted."""

    @cached_property
    def _edges(self) -> tuple[Ints, Ints]:
        """The first row of each query, and the first row after it."""
        numbers = np.arange(len(self.mean) + 1)
        edges = np.searchsorted(self.query, numbers)
        return edges[:-1], edges[1:]

    def _first(self, bound: Floats, below: bool = False) -> Ints:
        """The first row of each query that scores at most its bound, or `below` it: all bisected at once."""
        low, high = (edge.copy() for edge in self._edges)
        open_ = np.flatnonzero(low < high)
        while len(open_):
            middle = (low[open_] + high[open_]) // 2
            score, limit = self.score[middle], bound[open_]
            above = score >= limit if below else score > limit
            low[open_] = np.where(above, middle + 1, low[open_])
            high[open_] = np.where(above, high[open_], middle)
            open_ = open_[low[open_] < high[open_]]
        return low

    def counts(self, rules: Rules, negatives: int) -> Counts:
        """Returns what the rules do when the best-scored of what they keep become negatives."""
        begin, end = self._edges
        if rules.min_score is not None:
            end = self._first(np.full(len(begin), rules.min_score), below=True)
        bound = ruling.highest(rules, self.reference[rules.reference_positive], self.positives)
        start = np.minimum(self._first(bound), end)
        above_first = self._judged_before[begin]
        above = np.minimum(self._judged_before[start] - above_first, negatives)
        below = np.minimum(end - start, negatives - above)
        taken = above + below
        ranks, scores = (
            sums[start + below] - sums[start] + judged[above_first + above] - judged[above_first]
            for sums, judged in (self._rank_sums, self._score_sums)
        )
        return Counts(
            self._hidden_before[start + below] - self._hidden_before[start],
            taken,
            (taken >= negatives).astype(np.int64),
            ranks,
            taken * self.mean - scores,
        )

    @cached_property
    def _judged_before(self) -> Ints:
        return _running(self.judged)

    @cached_property
    def _hidden_before(self) -> Ints:
        return _running(self.hidden)

    @cached_property
    def _rank_sums(self) -> tuple[Ints, Ints]:
        """Of all rows, and of the known negatives alone."""
        return _running(self.rank), _running(self.rank[self.judged])

    @cached_property
    def _score_sums(self) -> tuple[Floats, Floats]:
        return _running(self.score), _running(self.score[self.judged])


def _running(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Running sums: place i holds the sum of what stands before row i."""
    return np.concatenate([[0], np.cumsum(values)])


def only(rules: Rules, **kept: object) -> Rules:
    """Returns the rules with every bound on high scores off but those given."""
    return replace(rules, **{**dict.fromkeys(ruling.BOUNDS), **kept})  # type: ignore[arg-type]
