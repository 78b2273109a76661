"""Successive halving: what a plan has, what a budget leaves of it, and who goes on. No test measures time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.workflows.halving import Cost, Scope, Timing, better_half

SCOPE = Scope(arms=16, rows=8000, finalists=2, always=3, seeds=3, least=512)

scopes = st.builds(
    Scope,
    arms=st.integers(0, 64),
    rows=st.integers(1, 100_000),
    finalists=st.integers(0, 8),
    always=st.integers(1, 3),
    seeds=st.integers(3, 9),
    least=st.integers(1, 2048),
).map(lambda scope: replace(scope, finalists=min(max(scope.finalists, min(1, scope.arms)), scope.arms)))
costs = st.builds(Cost, st.floats(0, 60), st.floats(1e-5, 1))


def test_each_rung_has_half_the_arms_for_twice_as_long() -> None:
    plan = SCOPE.whole
    assert [(rung.arms, rung.rows) for rung in plan.rungs] == [(16, 1000), (8, 2000), (4, 4000)]
    assert (plan.finalists, plan.always, plan.rows, plan.seeds) == (2, 3, 8000, 3)
    assert plan.trainings == 16 + 8 + 4 + 5 * 3


def test_few_rows_are_not_divided_below_the_least() -> None:
    plan = replace(SCOPE, rows=1200).whole
    assert [rung.rows for rung in plan.rungs] == [512, 512, 600]
    assert [rung.rows for rung in replace(SCOPE, rows=100).whole.rungs] == [100, 100, 100]


@given(scopes)
def test_a_plan_narrows_and_lengthens(scope: Scope) -> None:
    plan = scope.whole
    arms = [rung.arms for rung in plan.rungs]
    rows = [rung.rows for rung in plan.rungs]
    assert plan.arms == scope.arms
    assert arms == sorted(set(arms), reverse=True), "every rung drops some"
    assert all(after == max(scope.finalists, -(-before // 2)) for before, after in pairwise(arms))
    assert rows == sorted(rows)
    assert all(min(scope.rows, scope.least) <= count <= scope.rows for count in rows)
    assert plan.finalists == min(scope.finalists, scope.arms)
    assert plan.trainings == sum(arms) + (plan.finalists + plan.always) * plan.seeds


@given(scopes, costs, st.floats(0, 1e6), st.floats(2, 10))
def test_a_budget_bounds_the_plan(scope: Scope, cost: Cost, budget: float, width: float) -> None:
    plan = scope.within(budget, cost, width)
    smallest = scope.within(0, cost, width)
    assert plan.seconds(cost, width) <= budget or plan == smallest
    assert plan.arms <= scope.arms
    assert plan.rows <= scope.rows
    assert plan.seeds == scope.seeds
    assert plan.finalists == scope.finalists
    assert scope.within(float("inf"), cost, width) == scope.whole


@given(scopes, costs, st.floats(0, 1e6), st.floats(1, 10))
def test_more_time_never_plans_shorter_trainings_of_fewer_arms(
    scope: Scope, cost: Cost, budget: float, more: float
) -> None:
    small, large = scope.within(budget, cost, 3), scope.within(budget * more, cost, 3)
    assert not (large.rows < small.rows and large.arms < small.arms)


def test_a_budget_shortens_trainings_before_it_drops_arms() -> None:
    cost = Cost(1, 1e-3)
    whole = SCOPE.whole.seconds(cost, 3)
    assert SCOPE.within(whole, cost, 3) == SCOPE.whole
    less = SCOPE.within(0.9 * whole, cost, 3)
    assert (less.arms, less.rows) == (8, 8000), "half the arms, as 8 are enough"
    half = SCOPE.within(0.5 * whole, cost, 3)
    assert (half.arms, half.rows) == (8, 4000)
    tiny = SCOPE.within(1, cost, 3)
    assert (tiny.arms, tiny.rows) == (2, 512)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=64), st.data())
def test_the_better_half_goes_on(scores: list[float], data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, len(scores)))
    kept = better_half(scores, keep)
    assert kept == sorted(set(kept))
    assert len(kept) == keep
    left = [number for number in range(len(scores)) if number not in kept]
    for out in left:
        assert all((scores[number], -number) > (scores[out], -out) for number in kept)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40, unique=True), st.integers(1, 4))
def test_an_arm_that_is_always_best_reaches_the_final(scores: list[float], finalists: int) -> None:
    plan = Scope(len(scores), 8000, min(finalists, len(scores)), 3, 3, 512).whole
    arms = list(range(len(scores)))
    for number in range(len(plan.rungs)):
        after = [*plan.rungs[number + 1 :]]
        kept = better_half([scores[arm] for arm in arms], after[0].arms if after else plan.finalists)
        arms = [arms[position] for position in kept]
    assert len(arms) == plan.finalists
    assert max(range(len(scores)), key=scores.__getitem__) in arms


def test_cost_is_a_line_through_the_trainings() -> None:
    cost = Cost.of([Timing(1000, 3.0, 0.5), Timing(4000, 6.0, 0.5)])
    assert cost.fixed == pytest.approx(2.5)
    assert cost.per_text == pytest.approx(0.001)
    assert cost.seconds(10_000) == pytest.approx(12.5)
    one = Cost.of([Timing(1000, 3.0, 0.5), Timing(1000, 5.0, 0.7)])
    assert (one.fixed, one.per_text) == (pytest.approx(0.6), pytest.approx(0.004))
    noise = Cost.of([Timing(1000, 3.0, 0.5), Timing(4000, 2.0, 0.5)])
    assert noise.per_text == pytest.approx(0.25 * 2.0 / 4000), "never free"


@given(
    st.lists(
        st.builds(Timing, st.integers(1, 10**6), st.floats(0.01, 1e4), st.floats(0, 100)),
        min_size=1,
        max_size=20,
    )
)
def test_a_cost_is_positive(timings: list[Timing]) -> None:
    cost = Cost.of(timings)
    assert cost.fixed >= 0
    assert cost.per_text > 0
