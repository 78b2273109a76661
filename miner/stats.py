"""Statistics: paired tests and intervals for two systems, shares with intervals, correlations."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from miner.errors import UsageError

Floats = npt.NDArray[np.float64]

ROUNDS = 10_000
_CELLS = 1 << 22
"""How many random numbers are in memory at once."""
_EVEN = 1e-12
"""Sums that differ by less, relative to their size, are equal: the order of additions changes that much."""


@dataclass(frozen=True)
class Difference:
    """The difference of two systems in one measure."""

    measure: str
    first: float
    second: float
    difference: float
    """first − second: above 0 if the first system is better."""
    low: float
    """Lower end of the 95 % bootstrap interval of the difference."""
    high: float
    """Upper end of the interval."""
    p: float
    """p value of the two-sided paired randomisation test."""
    n: int
    """How many queries, or pairs, were compared."""


def randomisation_test(differences: npt.ArrayLike, rounds: int = ROUNDS, seed: int = 13) -> float:
    """Returns the p value of the two-sided paired randomisation test (Smucker, Allan & Carterette 2007).

    Under the null hypothesis the two systems are interchangeable on every query, so each difference is as
    likely with the other sign. p is the share of random sign flips whose mean is at least as far from 0 as
    the observed mean, which counts as one of them: (hits + 1) / (rounds + 1).

    scipy.stats.permutation_test(permutation_type="samples") gives the same up to the random numbers. It is 7
    to 25 times slower (200 to 5,000 queries), because here one matrix product does many rounds.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    observed = abs(float(values.sum()))
    limit = observed - _EVEN * float(np.abs(values).sum())
    hits = 0
    for flips in _flips(len(values), rounds, seed):
        hits += int((np.abs(2 * (flips @ values) - values.sum()) >= limit).sum())
    return (hits + 1) / (rounds + 1)


def bootstrap_interval(
    differences: npt.ArrayLike, level: float = 0.95, rounds: int = ROUNDS, seed: int = 13
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of the mean (Efron & Tibshirani 1993, chapter 13).

    Queries are drawn with replacement, as many as there are. scipy.stats.bootstrap gives the same interval,
    but its import takes as long as the rest of an evaluation with cached vectors. Raises UsageError if there
    are no differences.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        raise UsageError("there is nothing to compare", "evaluate on a split that has queries")
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, len(values), (rows, len(values))) for rows in _blocks(len(values), rounds))
    means = np.concatenate([values[rows].mean(axis=1) for rows in drawn])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compare_values(
    measure: str, first: Floats, second: Floats, seed: int = 13, rounds: int = ROUNDS
) -> Difference:
    """Returns the difference (first − second) of the means of two systems.

    The values are paired: position i is the same query in both. Raises UsageError if there are none.
    """
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    low, high = bootstrap_interval(gaps, rounds=rounds, seed=seed)
    p = randomisation_test(gaps, rounds, seed)
    means = float(np.mean(first)), float(np.mean(second))
    return Difference(measure, *means, means[0] - means[1], low, high, p, len(gaps))


def compare_columns(
    measures: Sequence[str], first: Floats, second: Floats, seed: int = 13, rounds: int = ROUNDS
) -> list[Difference]:
    """Returns `compare_values` for many pairs of systems on the same queries.

    `first` and `second` have shape (queries, pairs), and `measures` names the measure of each column. All
    columns use the same random draws, so that hundreds of them take as long as a few; p of a column with
    zeros differs from that of `compare_values` by the random numbers alone. Raises UsageError if there are no
    queries.
    """
    if not len(first):
        raise UsageError("there is nothing to compare", "evaluate on a split that has queries")
    gaps = first - second
    size, sums = len(gaps), gaps.sum(axis=0)
    limits = np.abs(sums) - _EVEN * np.abs(gaps).sum(axis=0)
    hits = np.zeros(gaps.shape[1])
    for flips in _flips(size, rounds, seed):
        hits += (np.abs(2 * (flips @ gaps) - sums) >= limits).sum(axis=0)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, size, (rows, size)) for rows in _blocks(size, rounds))
    means = np.concatenate([_times(rows) @ gaps for rows in drawn]) / size
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    p = (hits + 1) / (rounds + 1)
    a, b = first.mean(axis=0), second.mean(axis=0)
    columns = zip(measures, a, b, low, high, p, strict=True)
    return [
        Difference(name, float(x), float(y), float(x - y), float(least), float(most), float(chance), size)
        for name, x, y, least, most, chance in columns
    ]


def _times(drawn: npt.NDArray[np.int64]) -> Floats:
    """Returns how often each number from 0 to the row's length occurs in each row; same shape."""
    rows, size = drawn.shape
    places = drawn + np.arange(rows)[:, None] * size
    return np.bincount(places.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def compare_correlations(
    measure: str, first: Floats, second: Floats, gold: Floats, seed: int = 13, rounds: int = ROUNDS
) -> Difference:
    """Returns the difference (first − second) of two systems' correlations with `gold`.

    `measure` is Spearman or Pearson; position i is the same pair in all arrays. The test swaps the two
    systems' predictions on random pairs: their ranks for Spearman, standardised predictions for Pearson, so
    that scales do not mix. The interval is a percentile bootstrap over pairs.
    """
    from scipy.stats import bootstrap

    form = ranks if measure == "Spearman" else _standardised
    a, b, gold = form(first), form(second), form(gold)
    interval = bootstrap(
        (a, b, gold),
        _gap,
        paired=True,
        vectorized=True,
        n_resamples=rounds,
        batch=max(1, _CELLS // (3 * len(gold))),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    correlations = float(pearson(a, gold)), float(pearson(b, gold))
    p = _swapped(a, b, gold, rounds, seed)
    return Difference(measure, *correlations, correlations[0] - correlations[1], low, high, p, len(gold))


@dataclass(frozen=True)
class Rate:
    """The share `hits` / `of` with its 95 % interval."""

    hits: int
    of: int
    rate: float | None
    """hits / of; None if `of` is 0."""
    low: float
    high: float

    def __str__(self) -> str:
        return "-" if self.rate is None else with_interval(self.rate, self.low, self.high)


def with_interval(rate: float, low: float, high: float) -> str:
    """Returns a share and its interval in percent, such as `11.17 % [8.64 %, 14.13 %]`."""
    return f"{100 * rate:.2f} % [{100 * low:.2f} %, {100 * high:.2f} %]"


@dataclass(frozen=True)
class ClusterSums:
    """Sums over clusters, such as queries, of their hits and their sizes: whole numbers, so exact."""

    hits: int = 0
    total: int = 0
    squared_hits: int = 0
    products: int = 0
    """The sum of hits × size."""
    squared_sizes: int = 0
    clusters: int = 0
    """Clusters with any item."""

    @classmethod
    def of(cls, hits: npt.ArrayLike, sizes: npt.ArrayLike) -> ClusterSums:
        """Returns the sums of counts, one of each per cluster."""
        hit, size = np.asarray(hits).astype(np.int64), np.asarray(sizes).astype(np.int64)
        sums = hit.sum(), size.sum(), hit @ hit, hit @ size, size @ size, np.count_nonzero(size)
        return cls(*map(int, sums))

    def __add__(self, other: ClusterSums) -> ClusterSums:
        return ClusterSums(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))

    def rate(self, distinct: int, level: float = 0.95, against: float = 0.0) -> Rate:
        """Returns the share hits / total with its interval; see `clustered_rate`."""
        if not self.total:
            return Rate(0, 0, None, 0.0, 1.0)
        hits, total, clusters = self.hits, self.total, self.clusters
        rate, size = hits / total, float(distinct)
        if 0 < rate < 1:
            # The sum of (hits - rate * size) ** 2 over the clusters, times the square of the total.
            squares = total**2 * self.squared_hits - 2 * hits * total * self.products
            squares += hits**2 * self.squared_sizes
            spread = squares / total**4 * clusters / max(1, clusters - 1)
            # If all clusters have the same rate, their variance is unknown: each counts as one item.
            size = min(size, rate * (1 - rate) / spread if spread > 0 else clusters)
        if against:
            size /= 1 + 1 / against
        low, high = exact_interval(rate, size, level)
        return Rate(hits, total, rate, low, high)


def clustered_rate(
    hits: npt.ArrayLike, totals: npt.ArrayLike, distinct: int, level: float = 0.95, against: float = 0.0
) -> Rate:
    """Returns the share Σ hits / Σ totals with an interval that is valid for clusters and for rare events.

    `hits` and `totals` have one count per cluster, such as a query; the items of a cluster are not
    independent. `distinct` is the number of different items, if repeats count an item several times. The
    interval is that of Clopper and Pearson with the effective sample size, at most `distinct` (Korn &
    Graubard 1998, Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data). With `against`, the size of a second sample divided by this one's, it is the
    interval in which the second sample's share is expected: both samples vary.
    """
    return ClusterSums.of(hits, totals).rate(distinct, level, against)


_LIMB = 31
"""The bits of a limb: 2 ** 32 of them add up within 64 bits."""


def limbs(values: Floats) -> list[tuple[npt.NDArray[np.int64], Fraction]]:
    """Returns finite numbers as sums of whole numbers times powers of two: (whole numbers, power).

    Sums of whole numbers have no rounding error, so that they are the same in any order.
    """
    found = []
    power = int(np.frexp(np.abs(values).max(initial=0.0))[1]) - _LIMB
    rest = np.ldexp(values, -power)
    while rest.any():
        whole = np.trunc(rest)
        found.append((whole.astype(np.int64), Fraction(2) ** power))
        rest, power = np.ldexp(rest - whole, _LIMB), power - _LIMB
    return found


def exact_sum(values: Floats) -> Fraction:
    """Returns the sum of finite numbers without rounding."""
    return sum((int(whole.sum()) * power for whole, power in limbs(values)), Fraction(0))


def exact_interval(rate: float, size: float, level: float = 0.95) -> tuple[float, float]:
    """Returns the interval of Clopper and Pearson (1934) for a share of `size` items, a fraction or not."""
    from scipy.special import betaincinv

    tail, hits = (1 - level) / 2, rate * size
    low = float(betaincinv(hits, size - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, size - hits, 1 - tail)) if rate < 1 else 1.0
    return low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values corrected for several comparisons (Holm 1979, A Simple Sequentially Rejective Test).

    scipy has no correction that controls the family-wise error rate.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    factors = len(p_values) - np.arange(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1.0)
    return [float(p) for p in corrected]


def _swapped(a: Floats, b: Floats, gold: Floats, rounds: int, seed: int) -> float:
    """Returns the p value: how often swapping predictions on random pairs gives a difference as large.

    A swap changes the sums that a correlation consists of by a fixed amount per pair, so one matrix product
    of flips and amounts does many rounds.
    """
    gold = gold - gold.mean()
    amounts = np.column_stack([b - a, b * b - a * a, (b - a) * gold])
    starts = [np.array([x.sum(), x @ x, x @ gold]) for x in (a, b)]
    observed = abs(float(_gap(a, b, gold)))
    hits = 0
    for flips in _flips(len(a), rounds, seed):
        moved = flips @ amounts
        left, right = (_from_sums(x, len(a), gold) for x in (starts[0] + moved, starts[1] - moved))
        hits += int((np.abs(left - right) >= observed - _EVEN).sum())
    return (hits + 1) / (rounds + 1)


def _from_sums(sums: Floats, size: int, gold: Floats) -> Floats:
    """Returns correlations with the centred `gold` from rows of Σx, Σx² and Σx·gold."""
    spread = np.maximum(sums[:, 1] - sums[:, 0] ** 2 / size, 0) * (gold @ gold)
    quotient: Floats = np.divide(sums[:, 2], np.sqrt(spread), out=np.zeros(len(sums)), where=spread > _EVEN)
    return quotient


def _gap(a: Floats, b: Floats, gold: Floats, axis: int = -1) -> Floats:
    """Returns the difference of the correlations of a and b with gold."""
    return pearson(a, gold, axis) - pearson(b, gold, axis)


def _standardised(values: Floats) -> Floats:
    spread = float(values.std())
    centred = values - values.mean()
    return np.asarray(centred / spread if spread > _EVEN else centred, dtype=np.float64)


def _flips(size: int, rounds: int, seed: int) -> Iterator[Floats]:
    """Yields `rounds` random rows of `size` zeros and ones, in blocks."""
    rng = np.random.default_rng(seed)
    for rows in _blocks(size, rounds):
        yield rng.integers(0, 2, (rows, size), dtype=np.int8).astype(np.float64)


def _blocks(size: int, rounds: int) -> Iterator[int]:
    """Yields how many rounds of `size` values to compute at once, `rounds` in all."""
    most = max(1, _CELLS // max(1, size))
    for start in range(0, rounds, most):
        yield min(most, rounds - start)


def pearson(first: Floats, second: Floats, axis: int = -1) -> Floats:
    """Returns Pearson's product-moment correlation along an axis; 0 if one of the arrays does not vary."""
    from scipy.stats import pearsonr

    varies = np.minimum(np.std(first, axis), np.std(second, axis)) > _EVEN
    with warnings.catch_warnings(action="ignore"):  # of arrays that do not vary
        return np.where(varies, pearsonr(first, second, axis=axis).statistic, 0.0)


def spearman(first: Floats, second: Floats) -> Floats:
    """Returns Spearman's rank correlation; equal values share their mean rank."""
    return pearson(ranks(first), ranks(second))


def ranks(values: Floats) -> Floats:
    """Returns ranks from 1; equal values share their mean rank."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)
