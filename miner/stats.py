"""Statistics: paired tests and intervals of two systems' differences, shares with intervals, correlations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from miner.errors import UsageError

Floats = npt.NDArray[np.float64]

ROUNDS = 10_000
_CELLS = 1 << 22
"""Random numbers held at once."""
_EVEN = 1e-12
"""Sums that differ by less, relative to their size, are equal: floating point adds in some order."""


@dataclass(frozen=True)
class Difference:
    """One measure of two systems."""

    measure: str
    first: float
    second: float
    difference: float
    """first − second: above 0 the first system is ahead."""
    low: float
    """Of the 95 % bootstrap interval of the difference."""
    high: float
    p: float
    """Of the two-sided paired randomisation test."""
    n: int
    """Queries, or pairs, that were compared."""


def randomisation_test(differences: npt.ArrayLike, rounds: int = ROUNDS, seed: int = 13) -> float:
    """Returns the p value of the two-sided paired randomisation test (Smucker, Allan & Carterette 2007).

    Under the null hypothesis the two systems are interchangeable on every query, so each difference
    might as well have the other sign. p is the share of random sign flips whose mean is at least as
    far from 0 as the observed one, with the observed one among them: (hits + 1) / (rounds + 1).
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

    Queries are drawn with replacement, as many as there are. Raises UsageError without any.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        raise UsageError("there is nothing to compare", "evaluate on a split that has queries")
    means = [values[drawn].mean(axis=1) for drawn in _draws(len(values), rounds, seed)]
    return _interval(np.concatenate(means), level)


def compare_values(
    measure: str, first: Floats, second: Floats, seed: int = 13, rounds: int = ROUNDS
) -> Difference:
    """Returns the difference (first − second) of the means of two systems' values, query by query.

    The values are paired: place i is the same query in both. Raises UsageError without any.
    """
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    low, high = bootstrap_interval(gaps, rounds=rounds, seed=seed)
    p = randomisation_test(gaps, rounds, seed)
    means = float(np.mean(first)), float(np.mean(second))
    return Difference(measure, *means, means[0] - means[1], low, high, p, len(gaps))


def compare_correlations(
    measure: str, first: Floats, second: Floats, gold: Floats, seed: int = 13, rounds: int = ROUNDS
) -> Difference:
    """Returns the difference (first − second) of two systems' correlations with `gold`, pair by pair.

    `measure` is Spearman or Pearson. The test swaps the two systems' predictions per pair (their ranks for
    Spearman, standardised for Pearson, so that scales do not mix); the interval draws pairs.
    """
    form = ranks if measure == "Spearman" else _standardised
    a, b, gold = form(first), form(second), form(gold)
    low, high = _resampled(a, b, gold, rounds, seed)
    correlations = pearson(a, gold), pearson(b, gold)
    p = _swapped(a, b, gold, rounds, seed)
    return Difference(measure, *correlations, correlations[0] - correlations[1], low, high, p, len(gold))


@dataclass(frozen=True)
class Rate:
    """A share, `hits` of `of`, with its 95 % interval."""

    hits: int
    of: int
    rate: float | None
    """hits / of; None of nothing."""
    low: float
    high: float

    def __str__(self) -> str:
        return "-" if self.rate is None else f"{self.rate:.2%} [{self.low:.2%}, {self.high:.2%}]"


def clustered_rate(
    hits: npt.ArrayLike, totals: npt.ArrayLike, distinct: int, level: float = 0.95, against: float = 0.0
) -> Rate:
    """Returns the share Σ hits / Σ totals with an interval that holds for clusters and for rare events.

    `hits` and `totals` have one place per cluster, such as a query; items of one cluster go together,
    and `distinct` says how many there are when repeats count one several times. The interval is that
    of Clopper and Pearson over the effective sample size (Korn & Graubard 1998, Confidence intervals
    for proportions with small expected number of positive counts estimated from survey data), which is
    at most `distinct`. With `against`, the size of another sample, relative to this one, it is where
    that sample's share is to be expected: both vary.
    """
    from scipy.special import betaincinv

    found, asked = np.asarray(hits, dtype=np.float64), np.asarray(totals, dtype=np.float64)
    hit, total = float(found.sum()), float(asked.sum())
    if not total:
        return Rate(0, 0, None, 0.0, 1.0)
    rate = hit / total
    size = float(distinct)
    if 0 < rate < 1:
        clusters = int((asked > 0).sum())
        spread = float((((found - rate * asked) / total) ** 2).sum()) * clusters / max(1, clusters - 1)
        # Clusters that all have one rate tell nothing of how much they differ: each counts once.
        size = min(size, rate * (1 - rate) / spread if spread > 0 else clusters)
    if against:
        size /= 1 + 1 / against
    tail = (1 - level) / 2
    low = float(betaincinv(rate * size, size - rate * size + 1, tail)) if hit else 0.0
    high = float(betaincinv(rate * size + 1, size - rate * size, 1 - tail)) if hit < total else 1.0
    return Rate(int(hit), int(total), rate, low, high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values corrected for being several (Holm 1979, A Simple Sequentially Rejective Test)."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    factors = len(p_values) - np.arange(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1.0)
    return [float(p) for p in corrected]


def _swapped(a: Floats, b: Floats, gold: Floats, rounds: int, seed: int) -> float:
    """p value: how often swapping the two predictions of random pairs gives as large a difference.

    A swap changes the sums that a correlation is made of by a fixed amount per pair, so one
    product of flips and amounts does all rounds.
    """
    gold = gold - gold.mean()
    amounts = np.column_stack([b - a, b * b - a * a, (b - a) * gold])
    starts = [np.array([x.sum(), x @ x, x @ gold]) for x in (a, b)]
    observed = abs(pearson(a, gold) - pearson(b, gold))
    hits = 0
    for flips in _flips(len(a), rounds, seed):
        moved = flips @ amounts
        left, right = (_from_sums(x, len(a), gold) for x in (starts[0] + moved, starts[1] - moved))
        hits += int((np.abs(left - right) >= observed - _EVEN).sum())
    return (hits + 1) / (rounds + 1)


def _from_sums(sums: Floats, size: int, gold: Floats) -> Floats:
    """Correlations with the centred `gold` from rows of Σx, Σx² and Σx·gold."""
    spread = np.maximum(sums[:, 1] - sums[:, 0] ** 2 / size, 0) * (gold @ gold)
    quotient: Floats = np.divide(sums[:, 2], np.sqrt(spread), out=np.zeros(len(sums)), where=spread > _EVEN)
    return quotient


def _resampled(a: Floats, b: Floats, gold: Floats, rounds: int, seed: int) -> tuple[float, float]:
    gaps = [
        _weighted(counts, a, gold) - _weighted(counts, b, gold) for counts in _counts(len(a), rounds, seed)
    ]
    return _interval(np.concatenate(gaps), 0.95)


def _weighted(counts: Floats, x: Floats, gold: Floats) -> Floats:
    """Correlations of x and gold, one per row of counts of how often each pair was drawn."""
    size = len(x)
    columns = np.column_stack([x, gold, x * x, gold * gold, x * gold])
    x1, g1, x2, g2, xg = (counts @ columns / size).T
    spread = np.maximum(x2 - x1 * x1, 0) * np.maximum(g2 - g1 * g1, 0)
    together = xg - x1 * g1
    quotient: Floats = np.divide(together, np.sqrt(spread), out=np.zeros(len(counts)), where=spread > _EVEN)
    return quotient


def _standardised(values: Floats) -> Floats:
    spread = float(values.std())
    centred = values - values.mean()
    return np.asarray(centred / spread if spread > _EVEN else centred, dtype=np.float64)


def _flips(size: int, rounds: int, seed: int) -> Iterator[Floats]:
    """Yields blocks of rows of 0 and 1, `rounds` in all, each of `size`."""
    rng = np.random.default_rng(seed)
    for rows in _blocks(size, rounds):
        yield rng.integers(0, 2, (rows, size), dtype=np.int8).astype(np.float64)


def _draws(size: int, rounds: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yields blocks of rows of `size` positions drawn with replacement, `rounds` in all."""
    rng = np.random.default_rng(seed)
    for rows in _blocks(size, rounds):
        yield rng.integers(0, size, (rows, size))


def _counts(size: int, rounds: int, seed: int) -> Iterator[Floats]:
    """Yields how often each position was drawn, in blocks of rows."""
    for drawn in _draws(size, rounds, seed):
        cells = drawn + np.arange(len(drawn))[:, None] * size
        counted = np.bincount(cells.ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield counted.astype(np.float64)


def _blocks(size: int, rounds: int) -> Iterator[int]:
    most = max(1, _CELLS // max(1, size))
    for start in range(0, rounds, most):
        yield min(most, rounds - start)


def _interval(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def pearson(first: Floats, second: Floats) -> float:
    """Returns Pearson's product-moment correlation; 0 where either side does not vary."""
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 1e-12 else 0.0


def spearman(first: Floats, second: Floats) -> float:
    """Returns Spearman's rank correlation: Pearson's of the ranks, equal values sharing their mean rank."""
    return pearson(ranks(first), ranks(second))


def ranks(values: Floats) -> Floats:
    """Returns ranks from 1; equal values share the mean of theirs."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)
