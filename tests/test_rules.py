"""The rules against DESIGN 5.4 written down once more, candidate by candidate, in plain Python."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.mining.config import Rules
from miner.mining.rules import KEPT, REASONS, Scored, apply, distribution, reference_scores
from miner.schema import Reason

OFF = Rules(relative_margin=None)


@dataclass(frozen=True)
class Candidate:
    score: float
    reference: float
    best_rank: int


def share_at_or_below(positives: list[float], value: float) -> float:
    return sum(score <= value for score in positives) / len(positives) if positives else 0.0


def percentile(positives: list[float], p: float) -> float:
    """The p-th percentile with linear interpolation between the two nearest scores."""
    ordered = sorted(positives)
    position = (len(ordered) - 1) * p / 100
    low, high = ordered[math.floor(position)], ordered[math.ceil(position)]
    return low + (high - low) * (position - math.floor(position))


def reference(rules: Rules, row: Candidate, positives: list[float]) -> Reason | None:
    """Why a candidate is dropped: the first rule of DESIGN 5.4 that says so."""
    s, reference = row.score, row.reference
    if row.best_rank <= rules.skip_top:
        return Reason.RANK_WINDOW
    if rules.max_rank is not None and row.best_rank > rules.max_rank:
        return Reason.RANK_WINDOW
    if rules.max_score is not None and s > rules.max_score:
        return Reason.MAX_SCORE
    if rules.min_score is not None and s < rules.min_score:
        return Reason.MIN_SCORE
    if rules.absolute_margin is not None and s > reference - rules.absolute_margin:
        return Reason.ABSOLUTE_MARGIN
    if rules.relative_margin is not None and s > reference - abs(reference) * rules.relative_margin:
        return Reason.RELATIVE_MARGIN
    if rules.percentile is not None and positives and s > percentile(positives, rules.percentile):
        return Reason.PERCENTILE
    if rules.relative_percentile is not None:
        limit = rules.relative_percentile * share_at_or_below(positives, reference)
        if share_at_or_below(positives, s) > limit:
            return Reason.RELATIVE_PERCENTILE
    return None


def ruled(rules: Rules, rows: list[Candidate], positives: list[float]) -> list[Reason | None]:
    scored = Scored(
        np.array([row.score for row in rows], dtype=np.float64),
        np.array([row.reference for row in rows], dtype=np.float64),
        np.array([row.best_rank for row in rows], dtype=np.int64),
        np.zeros(len(rows), dtype=np.bool_),
    )
    codes = apply(rules, scored, np.sort(np.array(positives, dtype=np.float64)))
    return [None if code == KEPT else REASONS[code] for code in codes.tolist()]


# Quarters: sums and comparisons are exact, and scores fall on thresholds often.
quarters = st.integers(-12, 12).map(lambda number: number / 4)
score = st.one_of(quarters, st.floats(-20, 20))
candidates = st.lists(
    st.builds(Candidate, st.one_of(score, st.just(math.nan)), score, st.integers(1, 8)), max_size=12
)
all_positives = st.lists(quarters, max_size=9)
SETTINGS = {
    "skip_top": st.integers(0, 4),
    "max_rank": st.integers(5, 8),
    "max_score": quarters,
    "min_score": quarters,
    "absolute_margin": quarters,
    "relative_margin": st.sampled_from([-0.5, 0.0, 0.05, 0.25, 0.5, 1.0]),
    "percentile": st.sampled_from([0.0, 12.5, 25.0, 50.0, 75.0, 100.0]),
    "relative_percentile": st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 1.5]),
}


@pytest.mark.parametrize("name", SETTINGS)
@given(data=st.data(), rows=candidates, positives=all_positives)
def test_each_rule_alone_is_the_reference(
    name: str, data: st.DataObject, rows: list[Candidate], positives: list[float]
) -> None:
    values: dict[str, Any] = {name: data.draw(SETTINGS[name])}
    rules = replace(OFF, **values)
    assert ruled(rules, rows, positives) == [reference(rules, row, positives) for row in rows]


@settings(max_examples=400)
@given(st.fixed_dictionaries({}, optional=SETTINGS), candidates, all_positives)
def test_all_rules_together_are_the_reference_and_the_first_gives_the_reason(
    values: dict[str, Any], rows: list[Candidate], positives: list[float]
) -> None:
    rules = replace(OFF, **values)
    assert ruled(rules, rows, positives) == [reference(rules, row, positives) for row in rows]


def test_nothing_is_dropped_when_every_rule_is_off() -> None:
    rows = [Candidate(9.0, 1.0, 1), Candidate(-9.0, 1.0, 99)]
    assert ruled(OFF, rows, [1.0]) == [None, None]


@pytest.mark.parametrize(
    ("rules", "row", "expected"),
    [
        # At the threshold a candidate stays; a hair beyond, it goes.
        (replace(OFF, max_score=0.5), (0.5, 1, 1), None),
        (replace(OFF, max_score=0.5), (0.5000001, 1, 1), Reason.MAX_SCORE),
        (replace(OFF, min_score=0.5), (0.5, 1, 1), None),
        (replace(OFF, min_score=0.5), (0.4999999, 1, 1), Reason.MIN_SCORE),
        (replace(OFF, absolute_margin=0.25), (0.75, 1, 1), None),
        (replace(OFF, absolute_margin=0.25), (0.7500001, 1, 1), Reason.ABSOLUTE_MARGIN),
        (replace(OFF, relative_margin=0.25), (0.75, 1, 1), None),
        (replace(OFF, relative_margin=0.25), (0.7500001, 1, 1), Reason.RELATIVE_MARGIN),
        # A negative logit: a quarter of |-4| below it is -5; multiplying by 0.75 would give -3.
        (replace(OFF, relative_margin=0.25), (-4.5, -4, 1), Reason.RELATIVE_MARGIN),
        (replace(OFF, relative_margin=0.25), (-5.0, -4, 1), None),
        (replace(OFF, absolute_margin=0.0), (1.0, 1, 1), None),
        # Ranks: skip_top 3 drops 1 to 3, max_rank 5 drops from 6.
        (replace(OFF, skip_top=3), (0, 1, 3), Reason.RANK_WINDOW),
        (replace(OFF, skip_top=3), (0, 1, 4), None),
        (replace(OFF, max_rank=5), (0, 1, 5), None),
        (replace(OFF, max_rank=5), (0, 1, 6), Reason.RANK_WINDOW),
        # The first that applies, in the order of `Reason`.
        (Rules(skip_top=1, max_score=0, absolute_margin=9), (2, 1, 1), Reason.RANK_WINDOW),
        (Rules(max_score=0, min_score=5, absolute_margin=9), (2, 1, 1), Reason.MAX_SCORE),
        (Rules(absolute_margin=9, percentile=0), (2, 1, 1), Reason.ABSOLUTE_MARGIN),
        (Rules(relative_margin=0.05, percentile=0, relative_percentile=0), (2, 1, 1), Reason.RELATIVE_MARGIN),
    ],
)
def test_thresholds_and_order(rules: Rules, row: tuple[float, float, int], expected: Reason | None) -> None:
    assert ruled(rules, [Candidate(*row)], [1.0]) == [expected]


def test_percentiles_are_free_of_scale() -> None:
    """F(s) and the percentile see only the order of scores: squashing all of them changes no verdict."""
    rng = np.random.default_rng(0)
    positives = rng.normal(size=101)
    scores, tops = rng.normal(size=200), rng.choice(positives, size=200)
    for rules in (replace(OFF, percentile=30), replace(OFF, relative_percentile=0.7)):
        verdicts = [
            ruled(
                rules,
                [Candidate(s, a, 1) for s, a in zip(f(scores), f(tops), strict=True)],
                list(f(positives)),
            )
            for f in (lambda x: x, lambda x: 1 / (1 + np.exp(-x)), lambda x: 7 * x - 40)
        ]
        assert verdicts[0] == verdicts[1] == verdicts[2]
        assert len(set(verdicts[0])) == 2


def test_percentile_rules_without_any_positive_score() -> None:
    rows = [Candidate(1.0, 1.0, 1)]
    assert ruled(replace(OFF, percentile=50), rows, []) == [None]
    assert ruled(replace(OFF, relative_percentile=0.5), rows, []) == [None]


@given(all_positives, st.lists(quarters, max_size=8))
def test_distribution_is_the_share_at_or_below(positives: list[float], values: list[float]) -> None:
    found = distribution(np.sort(np.array(positives)), np.array(values))
    assert found.tolist() == [share_at_or_below(positives, value) for value in values]


@given(st.lists(st.lists(score, max_size=5), max_size=6))
def test_reference_scores_are_the_lowest_median_and_best_of_a_querys_positives(
    positives: list[list[float]],
) -> None:
    owner = np.array([query for query, scores in enumerate(positives) for _ in scores], dtype=np.int64)
    flat = np.array([score for scores in positives for score in scores], dtype=np.float64)
    for kind, function in (("lowest", min), ("median", statistics.median), ("best", max)):
        found = reference_scores(owner, flat, len(positives), kind).tolist()
        for scores, reference in zip(positives, found, strict=True):
            assert (
                math.isnan(reference)
                if not scores
                else reference == pytest.approx(function(scores), abs=1e-12)
            )


def test_reasons_are_in_the_order_in_which_they_are_given() -> None:
    ordered = [
        "rank_window", "max_score", "min_score", "absolute_margin", "relative_margin", "percentile",
        "relative_percentile",
    ]  # fmt: skip
    assert [str(reason) for reason in REASONS if reason in ordered] == ordered
