"""The share of a finite population, from labels of a stratified random sample and predictions of all items.

The strata are intervals of the predicted chance of being relevant. Items that are likely to be relevant vary
most, so they are sampled most (Neyman 1934, On the two different aspects of the representative method). The
estimate is that of stratified sampling (Horvitz & Thompson 1952), with the predictions of unlabelled items as
a control variate whose weight is fitted: prediction-powered inference (Angelopoulos, Duchi & Zrnic 2023,
PPI++; with strata: Fisch et al. 2024, Stratified prediction-powered inference). Predictions do not bias
it. Poor ones widen the interval, and with predictions that are pure noise and few relevant labels it
contained the truth in 90 to 94 % of simulations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.stats import exact_interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ESTIMATOR = "stratified sampling with a prediction-powered control variate (PPI++)"
STRATA = 10
_LEAST = 2
"""Labels of a stratum without which its variance is unknown."""
_EVEN = 0.2
"""The share of the sample that is spread evenly: strata in which nothing is expected are sampled too."""
_PRIOR = 4.0
"""How many labels the variance that the predictions expect counts as, beside that of the labels."""


_HITS = 1.0
"""With this many relevant labels (or irrelevant ones, if those are fewer), half of the gain over a plain
sample is credited."""


@dataclass(frozen=True)
class Design:
    """The strata of a population and how many labels each gets."""

    stratum: Ints
    """The stratum of each item, from 0; a higher stratum has a higher predicted chance."""
    population: Ints
    """Items per stratum."""
    labels: Ints
    """Labels per stratum: at most its items."""

    @classmethod
    def of(cls, predicted: Floats, labels: int, strata: int = STRATA) -> Design:
        """Returns the design for `labels` labels of items with these predicted chances.

        An item's measure of size is the standard deviation that its chance gives it, up to a factor. Each
        stratum gets about the same sum of sizes, and hence about as many labels.
        """
        items = len(predicted)
        labels = min(labels, items)
        spread = np.sqrt(predicted * (1 - predicted))
        mean = spread.mean() if items else 0.0
        size = (1 - _EVEN) * spread / mean + _EVEN if mean > 0 else np.ones(items)
        order = np.argsort(predicted, kind="stable")
        strata = max(1, min(strata, labels // _LEAST))
        reached = np.cumsum(size[order])
        stratum = np.zeros(items, dtype=np.int64)
        if items:
            middle = (reached - size[order] / 2) / reached[-1]
            stratum[order] = np.minimum((middle * strata).astype(np.int64), strata - 1)
        _, stratum = np.unique(stratum, return_inverse=True)
        population = np.bincount(stratum)
        return cls(stratum, population, _shares(np.bincount(stratum, size), population, labels))

    def draw(self, seed: int) -> Ints:
        """Returns the items of the sample, in random order.

        With the same seed a larger sample contains a smaller one, up to the rounding of shares.
        """
        random = np.random.default_rng(seed)
        first = random.permutation(len(self.stratum))
        # Sort by stratum, and at random within it; take the first of each.
        order = first[np.argsort(self.stratum[first], kind="stable")]
        starts = np.cumsum(self.population) - self.population
        position = np.arange(len(order)) - np.repeat(starts, self.population)
        chosen = order[position < np.repeat(self.labels, self.population)]
        return chosen[random.permutation(len(chosen))]

    def expected_width(self, predicted: Floats, rate: float) -> float:
        """Returns the expected width of the interval if the share is `rate` and the predictions are right."""
        share = self.population / self.population.sum()
        means = np.bincount(self.stratum, predicted, len(self.population)) / self.population
        chance = _scaled(share, means, rate)
        variance = _variance(share, chance, self.labels, self.population)
        if variance <= 0:
            return 0.0
        size = rate * (1 - rate) / variance
        labels, hits = int(self.labels.sum()), float(self.labels @ chance)
        low, high = exact_interval(rate, _credited(size, labels, hits))
        return high - low


def plain_width(rate: float, labels: int, items: int) -> float:
    """Returns the width of the interval of a plain random sample of so many items if the share is `rate`."""
    if labels >= items:
        return 0.0
    low, high = exact_interval(rate, labels * (items - 1) / (items - labels))
    return high - low


def _scaled(share: Floats, predicted: Floats, rate: float) -> Floats:
    """Returns the chance in each stratum: the predicted ones, scaled so that their mean is `rate`."""
    mean = float(share @ predicted)
    chance = predicted * rate / mean if mean > 0 else np.full(len(share), rate)
    return np.asarray(np.minimum(chance, max(0.5, rate)))


def _variance(share: Floats, chance: Floats, labels: Ints, population: Ints) -> float:
    """The variance of a stratified estimate, drawn without replacement."""
    return float((share**2 * (1 - labels / population) * chance * (1 - chance) / labels).sum())


def _credited(size: float, labels: int, hits: float) -> float:
    """Returns the effective sample size that counts.

    The gain over a plain sample rests on the variance among relevant labels: without any it does not count.
    """
    hits = min(hits, labels - hits)
    return max(1.0, min(size, labels + max(0.0, size - labels) * hits / (hits + _HITS)))


def _shares(sizes: npt.NDArray[Any], population: Ints, labels: int) -> Ints:
    """Divides labels in proportion to sizes: at least two per stratum, at most its population."""
    shares = np.minimum(population, _LEAST)
    while (left := labels - int(shares.sum())) > 0:
        room = population - shares
        wanted = np.where(room > 0, np.maximum(labels * sizes / sizes.sum() - shares, 1e-9), 0.0)
        more = np.minimum(room, np.floor(left * wanted / wanted.sum()).astype(np.int64))
        if not more.any():
            more[np.argsort(-wanted, kind="stable")[:left]] = 1
            more = np.minimum(more, room)
        shares = shares + more
    return shares


@dataclass(frozen=True)
class Labelled:
    """The labelled items of a sample, and what is known of their strata: arrays of one length per part."""

    stratum: Ints
    """The stratum of each labelled item."""
    relevant: Floats
    """1 for a relevant one, else 0; a fraction where labels are uncertain."""
    predicted: Floats
    weight: Floats
    """How much each counts in the share, 1 on average over the population."""
    population: Ints
    """Items per stratum."""
    mean_predicted: Floats
    """Mean over the population of each stratum of predicted × weight."""
    predicted_items: Ints | None = None
    """Items per stratum whose mean `mean_predicted` is, if only a sample of them has predictions: a random
    one that contains the labelled ones."""
    mean_chance: Floats | None = None
    """Mean chance of being relevant that a stratum without labels would have, times the weight: by default
    `mean_predicted`."""

    def estimate(self, level: float = 0.95) -> tuple[float, float, float]:
        """Returns the share of relevant items in the population, and the ends of its interval.

        The interval is that of Clopper and Pearson with the effective sample size (Korn & Graubard 1998). A
        stratum's variance is that of its labels, and the one that the predictions expect with the weight of
        four labels: a stratum without relevant labels may still contain some. Strata with fewer than two
        labels are joined with the next. If everything is labelled, the interval is the share itself. Without
        labels the result is (nan, 0, 1).
        """
        if not len(self.stratum):
            return np.nan, 0.0, 1.0
        joined = self._joined()
        rate, variance, least = joined._moments()
        if variance <= 0:
            return rate, rate, rate
        size = least * (1 - least) / variance
        low, high = exact_interval(
            rate, _credited(size, len(self.stratum), float(self.relevant.sum())), level
        )
        return rate, low, high

    def _joined(self) -> Labelled:
        """Returns the same with sparse strata joined with their neighbours."""
        labels = np.bincount(self.stratum, minlength=len(self.population))
        group, groups, count, items = np.zeros(len(labels), dtype=np.int64), 0, 0, 0
        for stratum, (number, there) in enumerate(zip(labels, self.population, strict=True)):
            group[stratum] = groups
            count, items = count + number, items + there
            if count >= min(_LEAST, items):
                groups, count, items = groups + 1, 0, 0
        if items and groups:
            group[group == groups] = groups - 1
        population = np.bincount(group, self.population).astype(np.int64)

        def _mean(values: Floats) -> Floats:
            return np.asarray(np.bincount(group, self.population * values) / population)

        return Labelled(
            group[self.stratum],
            self.relevant,
            self.predicted,
            self.weight,
            population,
            _mean(self.mean_predicted),
            None
            if self.predicted_items is None
            else np.bincount(group, self.predicted_items).astype(np.int64),
            None if self.mean_chance is None else _mean(self.mean_chance),
        )

    def _moments(self) -> tuple[float, float, float]:
        """Returns the share, its variance, and the share that the variance assumes, which is never 0 or 1.

        If only a sample has predictions, the variance is that of two phases: the sample of the population,
        and the labels of the sample (Cochran 1977, Sampling Techniques, section 12.7).
        """
        strata = len(self.population)
        number = np.bincount(self.stratum, minlength=strata)
        share = self.population / self.population.sum()
        value, guess = self.relevant * self.weight, self.predicted * self.weight
        items = self.population if self.predicted_items is None else self.predicted_items
        cost = share**2 * (1 / number - 1 / items)
        sampling = share**2 * (1 / items - 1 / self.population)

        def _mean(values: Floats) -> Floats:
            return np.asarray(np.bincount(self.stratum, values, strata) / number)

        def _product(one: Floats, other: Floats) -> Floats:
            centred = (one - _mean(one)[self.stratum]) * (other - _mean(other)[self.stratum])
            return np.asarray(np.bincount(self.stratum, centred, strata) / np.maximum(1, number - 1))

        known = float(cost @ _product(guess, guess))
        weight = max(0.0, float(cost @ _product(value, guess)) / known) if known > 0 else 0.0
        rate = float(share @ (_mean(value - weight * guess) + weight * self.mean_predicted))
        rate = min(1.0, max(0.0, rate))
        half = 0.5 / max(1, len(self.stratum))
        assumed = min(1 - half, max(half, rate))
        chance = _scaled(
            share, self.mean_predicted if self.mean_chance is None else self.mean_chance, assumed
        )
        expected = chance * (1 - chance)

        def _variance_of(values: Floats) -> Floats:
            measured = _product(values, values)
            return np.asarray(((number - 1) * measured + _PRIOR * expected) / (number - 1 + _PRIOR))

        variance = float(cost @ _variance_of(value - weight * guess) + sampling @ _variance_of(value))
        return rate, variance, assumed
