"""Paired tests and intervals: exact small cases, uniform under the null, cover what is true."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.errors import UsageError
from miner.evaluation.compare import compare
from miner.evaluation.result import Evaluation, Floats, Graded, from_values
from miner.stats import bootstrap_interval, compare_values, pearson, randomisation_test, spearman


def exact(differences: list[float]) -> float:
    """Returns the p value over all sign flips."""
    observed = abs(sum(differences))
    flips = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((-1, 1), repeat=len(differences))
    ]
    return float(np.mean([flip >= observed - 1e-9 for flip in flips]))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 1.0, 1.0], 2 / 8),
        ([0.1] * 6, 2 / 64),
        ([1.0, -1.0], 1.0),
        ([0.5, 0.25, -0.25], exact([0.5, 0.25, -0.25])),
    ],
)
def test_small_cases_are_as_by_all_flips(differences: list[float], p: float) -> None:
    assert randomisation_test(differences) == pytest.approx(p, abs=0.015)


@given(st.lists(st.integers(-8, 8).map(lambda n: n / 8), min_size=1, max_size=8))
def test_it_estimates_the_share_of_all_flips(differences: list[float]) -> None:
    assert randomisation_test(differences, rounds=4000) == pytest.approx(exact(differences), abs=0.04)


def test_equal_systems_differ_by_chance_only() -> None:
    assert randomisation_test(np.zeros(50)) == 1.0
    assert bootstrap_interval(np.zeros(50)) == (0.0, 0.0)
    assert bootstrap_interval([0.25]) == (0.25, 0.25)


def test_p_is_never_0() -> None:
    assert randomisation_test(np.ones(60), rounds=999) == 1 / 1000


def test_the_sign_does_not_matter() -> None:
    values = np.random.default_rng(1).normal(0.2, 1, 40)
    assert randomisation_test(values) == randomisation_test(-values)


def test_p_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(7)
    found = [randomisation_test(rng.normal(0, 1, 30), rounds=400, seed=i) for i in range(400)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_the_interval_covers_what_is_true() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for number in range(300):
        low, high = bootstrap_interval(rng.normal(0.3, 1, 60), rounds=400, seed=number)
        covered += low <= 0.3 <= high
    assert covered / 300 == pytest.approx(0.94, abs=0.04)


def test_an_interval_of_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="there is nothing to compare"):
        bootstrap_interval([])


@pytest.mark.parametrize("size", [2, 7, 1500])
def test_the_interval_is_that_of_scipy(size: int) -> None:
    from scipy import stats

    values = np.random.default_rng(size).normal(0.1, 1, size)
    seeded = np.random.default_rng(13)
    whole = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=seeded)
    assert bootstrap_interval(values) == pytest.approx(tuple(whole.confidence_interval), abs=1e-12)


def test_the_same_seed_gives_the_same_numbers() -> None:
    values = np.random.default_rng(3).normal(0.1, 1, 100)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert randomisation_test(values) == randomisation_test(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=14)


def graded(predicted: Floats, gold: Floats) -> Evaluation:
    means = {"Spearman": float(spearman(predicted, gold)), "Pearson": float(pearson(predicted, gold))}
    ids = tuple(f"q{i} d{i}" for i in range(len(gold)))
    return Evaluation("similarity", ids, {}, means, graded=Graded(gold, predicted))


def test_correlations_equal_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(2)
    a, b = rng.normal(size=80), np.round(rng.normal(size=80), 1)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman(np.ones(80), b) == 0.0


def test_a_clearly_better_correlation_is_found() -> None:
    rng = np.random.default_rng(4)
    gold = rng.normal(size=120)
    good, bad = gold + rng.normal(0, 0.3, 120), gold + rng.normal(0, 2, 120)
    for difference in compare(graded(good, gold), graded(100 * bad, gold)):
        assert difference.p < 0.001
        assert 0 < difference.low < difference.difference < difference.high
        assert difference.difference == pytest.approx(difference.first - difference.second)
        assert difference.n == 120


@pytest.mark.slow
def test_p_of_correlations_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(11)
    found: dict[str, list[float]] = {"Spearman": [], "Pearson": []}
    for number in range(200):
        gold = rng.normal(size=40)
        one, other = (graded(gold + rng.normal(0, 1, 40), gold) for _ in range(2))
        for difference in compare(one, other, seed=number, rounds=300):
            found[difference.measure].append(difference.p)
    for values in found.values():
        assert np.mean(np.array(values) < 0.05) == pytest.approx(0.05, abs=0.05)
        assert np.mean(values) == pytest.approx(0.5, abs=0.08)


def test_swapping_is_as_by_all_swaps() -> None:
    rng = np.random.default_rng(6)
    gold, a, b = rng.normal(size=8), rng.normal(size=8), rng.normal(size=8)
    one, other = ((x - x.mean()) / x.std() for x in (a, b))
    gaps = []
    for swap in product((False, True), repeat=8):
        left, right = np.where(swap, other, one), np.where(swap, one, other)
        gaps.append(abs(pearson(left, gold) - pearson(right, gold)))
    share = np.mean(np.array(gaps) >= gaps[0] - 1e-9)
    (_, difference) = compare(graded(a, gold), graded(b, gold))
    assert difference.p == pytest.approx(share, abs=0.015)


def test_per_query_measures_are_compared_query_by_query() -> None:
    ids = [f"q{i}" for i in range(20)]
    better = from_values("retrieval", ids, {"MAP": np.linspace(0.2, 0.9, 20)}, 100)
    worse = from_values("retrieval", ids, {"MAP": np.linspace(0.1, 0.8, 20)}, 100)
    (found,) = compare(better, worse)
    assert found.difference == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    assert found.p == pytest.approx(1e-4, abs=1e-4)
    assert compare_values("MAP", better.values["MAP"], worse.values["MAP"]) == found


def test_other_queries_are_not_compared() -> None:
    one = from_values("retrieval", ["a"], {"MAP": np.ones(1)}, 1)
    other = from_values("retrieval", ["b"], {"MAP": np.ones(1)}, 1)
    with pytest.raises(UsageError, match="cannot compare retrieval on 1 query with retrieval on 1 query"):
        compare(one, other)
