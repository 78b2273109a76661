"""How far people agree: Cohen's kappa for two, Krippendorff's alpha for more, with intervals over queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

KAPPA, ALPHA = "Cohen's kappa", "Krippendorff's alpha"
MISSING = -1
"""The value of a unit that a rater did not rate."""
_ROUNDS = 2_000
_CELLS = 1 << 22
"""How many numbers of the bootstrap are in memory at once."""


@dataclass(frozen=True)
class RaterAgreement:
    """The agreement of raters beyond chance, with a 95 % bootstrap interval."""

    measure: str
    """KAPPA or ALPHA."""
    value: float | None
    """1 for complete agreement, 0 for that of chance; None if all ratings are equal, or too few."""
    low: float | None
    high: float | None
    units: int
    """Units that at least two raters rated."""
    clusters: int
    """Clusters, such as queries, of these units."""
    observed: float | None
    """The share of equal ratings among the pairs of raters."""


def cohen_kappa(table: Floats) -> Floats:
    """Returns Cohen's kappa of contingency tables of two raters, shape (…, categories, categories).

    J. Cohen (1960), A coefficient of agreement for nominal scales: (observed - expected) / (1 - expected).
    NaN if the expected agreement is 1. sklearn.metrics.cohen_kappa_score gives the same for one table of
    labels; this does thousands of tables at once, as the bootstrap needs.
    """
    total = table.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(table, axis1=-2, axis2=-1) / total
        expected = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1) / total**2
        result = (observed - expected) / (1 - expected)
    return np.where(expected < 1, result, np.nan)


def krippendorff_alpha(coincidences: Floats) -> Floats:
    """Returns Krippendorff's alpha for nominal data, from matrices of coincidences.

    K. Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, section on nominal data with any
    number of observers: 1 - (n - 1) * (sum of o_ck, c ≠ k) / (sum of n_c n_k, c ≠ k). `coincidences` has the
    shape (…, categories, categories), see `coincidences_of`. NaN if only one category occurs. scikit-learn
    and scipy do not have it.
    """
    margins = coincidences.sum(axis=-1)
    total = margins.sum(axis=-1)
    unlike = total - np.trace(coincidences, axis1=-2, axis2=-1)
    expected = total**2 - (margins**2).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        result = 1 - (total - 1) * unlike / expected
    return np.where(expected > 0, result, np.nan)


def coincidences_of(ratings: Ints, categories: int) -> Floats:
    """Returns each unit's matrix of coincidences, shape (units, categories, categories).

    `ratings` has shape (units, raters): a category from 0, or MISSING. A unit with m ratings has m (m - 1)
    ordered pairs of ratings, which count 1 / (m - 1) each.
    """
    counts = np.stack([(ratings == one).sum(axis=1) for one in range(categories)], axis=1).astype(np.float64)
    rated = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :]
    diagonal = np.arange(categories)
    pairs[:, diagonal, diagonal] -= counts
    return np.asarray(pairs / np.maximum(1, rated - 1)[:, None, None])


def agreement(ratings: Ints, clusters: Ints, categories: int = 2, seed: int = 13) -> RaterAgreement:
    """Returns the agreement of two or more raters, with an interval for clusters of units.

    `ratings` has shape (units, raters), see `coincidences_of`; `clusters` numbers the cluster of each unit.
    Clusters, such as queries, are drawn with replacement, because the units of one are not independent
    (percentile bootstrap, Efron & Tibshirani 1993). The interval is None with fewer than two clusters. Two
    raters get Cohen's kappa, more Krippendorff's alpha.
    """
    rated = (ratings != MISSING).sum(axis=1) >= 2
    ratings, clusters = ratings[rated], clusters[rated]
    measure = KAPPA if ratings.shape[1] == 2 else ALPHA
    if not len(ratings):
        return RaterAgreement(measure, None, None, None, 0, 0, None)
    if measure == KAPPA:
        units = np.zeros((len(ratings), categories, categories))
        units[np.arange(len(ratings)), ratings[:, 0], ratings[:, 1]] = 1
    else:
        units = coincidences_of(ratings, categories)
    statistic = cohen_kappa if measure == KAPPA else krippendorff_alpha
    names, cluster = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(names), categories, categories))
    np.add.at(sums, cluster, units)
    value = float(statistic(sums.sum(axis=0)))
    total = sums.sum(axis=0)
    low, high = _interval(sums, statistic, seed) if len(names) > 1 and np.isfinite(value) else (None, None)
    return RaterAgreement(
        measure=measure,
        value=value if np.isfinite(value) else None,
        low=low,
        high=high,
        units=len(ratings),
        clusters=len(names),
        observed=float(np.trace(total) / total.sum()),
    )


def _interval(sums: Floats, statistic: object, seed: int) -> tuple[float | None, float | None]:
    """Returns the percentile interval of a statistic of the sum of matrices, over draws of the matrices."""
    assert callable(statistic)
    rng = np.random.default_rng(seed)
    size, flat = len(sums), sums.reshape(len(sums), -1)
    values = []
    rows = max(1, _CELLS // size)
    for start in range(0, _ROUNDS, rows):
        drawn = rng.multinomial(size, np.full(size, 1 / size), min(rows, _ROUNDS - start))
        values.append(statistic((drawn @ flat).reshape(-1, *sums.shape[1:])))
    found = np.concatenate(values)
    found = found[np.isfinite(found)]
    if not len(found):
        return None, None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
