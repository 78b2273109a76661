"""The share of a population from labels of a stratified sample: unbiased, with an interval that holds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.auditing.estimate import Design, Labelled, plain_width
from miner.stats import clustered_rate, exact_interval


def population(items: int, rate: float, quality: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which items are relevant, and predictions that are right to the degree `quality`."""
    random = np.random.default_rng(seed)
    logit = random.normal(0, 2, items)
    shift = np.log(rate / (1 - rate)) - 1.2
    relevant = (random.random(items) < 1 / (1 + np.exp(-(logit + shift)))).astype(float)
    noise = random.normal(0, 2, items)
    return relevant, 1 / (1 + np.exp(-(quality * logit + (1 - quality) * noise - 3)))


def estimated(relevant: np.ndarray, predicted: np.ndarray, labels: int, seed: int) -> tuple[float, ...]:
    design = Design.of(predicted, labels)
    drawn = design.draw(seed)
    means = np.bincount(design.stratum, predicted) / design.population
    return Labelled(
        design.stratum[drawn],
        relevant[drawn],
        predicted[drawn],
        np.ones(len(drawn)),
        design.population,
        means,
    ).estimate()


@given(
    predicted=st.lists(st.floats(0, 1), min_size=1, max_size=300),
    labels=st.integers(2, 400),
    seed=st.integers(0, 1000),
)
def test_the_sample_has_as_many_labels_as_were_requested(
    predicted: list[float], labels: int, seed: int
) -> None:
    design = Design.of(np.array(predicted), labels)
    drawn = design.draw(seed)
    assert len(set(drawn)) == len(drawn) == min(labels, len(predicted))
    assert (design.labels <= design.population).all()
    assert design.population.sum() == len(predicted)
    assert (np.bincount(design.stratum[drawn], minlength=len(design.labels)) == design.labels).all()


@given(
    items=st.integers(30, 300),
    few=st.integers(20, 100),
    more=st.integers(0, 100),
    seed=st.integers(0, 1000),
)
def test_a_larger_sample_keeps_the_labels_of_a_smaller_one(
    items: int, few: int, more: int, seed: int
) -> None:
    predicted = np.random.default_rng(seed).random(items)
    small, large = Design.of(predicted, few), Design.of(predicted, few + more)
    lost = set(small.draw(seed)) - set(large.draw(seed))
    assert len(lost) <= len(small.labels)  # a stratum's share may be rounded down


def test_likely_items_are_sampled_more() -> None:
    _, predicted = population(3000, 0.05, 1.0, 1)
    design = Design.of(predicted, 200)
    taken = design.labels / design.population
    assert taken[-1] > 3 * taken[0] > 0


def test_the_estimate_is_unbiased_for_any_predictions() -> None:
    """Over all samples of three of six items, the mean estimate without predictions is the share."""
    relevant = np.array([1.0, 0, 0, 1, 0, 0])
    zeros = np.zeros(6, dtype=np.int64)
    rates = [
        Labelled(
            zeros[:3], relevant[list(three)], np.zeros(3), np.ones(3), np.array([6]), np.zeros(1)
        ).estimate()[0]
        for three in combinations(range(6), 3)
    ]
    assert np.mean(rates) == pytest.approx(relevant.mean())


@pytest.mark.parametrize("quality", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_interval_contains_the_share(rate: float, quality: float) -> None:
    covered, errors, widths = [], [], []
    for seed in range(60):
        relevant, predicted = population(2000, rate, quality, seed)
        found, low, high = estimated(relevant, predicted, 200, seed)
        covered.append(low <= relevant.mean() <= high)
        errors.append(found - relevant.mean())
        widths.append((high - low) / plain_width(relevant.mean(), 200, 2000))
    assert np.mean(covered) >= 0.9
    assert abs(np.mean(errors)) < 0.3 * np.std(errors)
    assert np.mean(widths) < (0.85 if quality == 1 else 1.25)


def test_labels_of_everything_leave_no_doubt() -> None:
    relevant, predicted = population(100, 0.2, 0.5, 4)
    assert estimated(relevant, predicted, 100, 0) == pytest.approx((relevant.mean(),) * 3)


def test_without_a_relevant_label_the_interval_is_that_of_a_plain_sample() -> None:
    _, predicted = population(5000, 0.05, 1.0, 2)
    rate, low, high = estimated(np.zeros(5000), predicted, 200, 0)
    assert (rate, low) == (0, 0)
    assert high == pytest.approx(exact_interval(0.0, 200)[1], rel=0.15)


def test_strata_with_too_few_labels_are_joined_with_the_next() -> None:
    stratum = np.array([0, 2, 2, 2])
    found = Labelled(
        stratum,
        np.array([0.0, 1, 0, 1]),
        np.full(4, 0.5),
        np.ones(4),
        np.array([10, 10, 20]),
        np.full(3, 0.5),
    ).estimate()
    assert found[0] == pytest.approx(0.5)  # two of four: one stratum of forty


def test_no_label_says_nothing() -> None:
    empty = np.zeros(0)
    found = Labelled(empty.astype(np.int64), empty, empty, empty, np.array([4]), np.array([0.5])).estimate()
    assert np.isnan(found[0])
    assert found[1:] == (0.0, 1.0)


@settings(max_examples=30)
@given(items=st.integers(20, 400), labels=st.integers(2, 100), rate=st.floats(0.01, 0.5))
def test_the_expected_width_of_equal_predictions_is_about_that_of_a_plain_sample(
    items: int, labels: int, rate: float
) -> None:
    labels = min(labels, items)
    width = Design.of(np.full(items, 0.3), labels).expected_width(np.full(items, 0.3), rate)
    assert 0 <= width <= 1.3 * plain_width(rate, labels, items) + 0.05


def test_the_exact_interval_is_that_of_clopper_and_pearson() -> None:
    one = clustered_rate([1] * 5 + [0] * 95, [1] * 100, 100)
    assert exact_interval(0.05, 100) == pytest.approx((one.low, one.high), rel=0.1)
    assert exact_interval(0.0, 100)[0] == 0
    assert exact_interval(1.0, 100)[1] == 1
    assert exact_interval(0.05, 100) == pytest.approx((0.016431, 0.112835), abs=1e-6)
