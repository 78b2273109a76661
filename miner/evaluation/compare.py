"""Two systems compared on the same queries: differences, intervals, p values."""

from __future__ import annotations

import numpy as np

from miner.errors import UsageError
from miner.evaluation.result import Evaluation
from miner.stats import ROUNDS, Difference, compare_correlations, compare_values


def compare(first: Evaluation, second: Evaluation, seed: int = 13, rounds: int = ROUNDS) -> list[Difference]:
    """Returns every measure of two systems with difference (first − second), interval and p value.

    Means are compared query by query. Spearman and Pearson belong to the whole set: there the two
    systems' predictions are swapped per pair (their ranks for Spearman, standardised similarities for
    Pearson, so that scales do not mix), and pairs are drawn for the interval; only pairs that both have
    scores for are compared. Raises UsageError unless both were measured on the same queries of the same task.
    """
    if (first.task, first.ids) != (second.task, second.ids):
        raise UsageError(
            f"{first.task} of {len(first.ids):,} and {second.task} of {len(second.ids):,} cannot be compared",
            "compare models on the same split, task and sample of queries",
        )
    found = []
    for name in first.means:
        if name in first.values:
            found.append(compare_values(name, first.values[name], second.values[name], seed, rounds))
        else:
            found.append(_compare_set(name, first, second, seed, rounds))
    return found


def _compare_set(measure: str, first: Evaluation, second: Evaluation, seed: int, rounds: int) -> Difference:
    if first.graded is None or second.graded is None:
        raise UsageError(f"{measure} has no values to compare", "measure both models again")
    columns = np.stack([first.graded.predicted, second.graded.predicted, first.graded.gold])
    scored = np.isfinite(columns).all(axis=0)
    if scored.sum() < 3:
        raise UsageError(
            "the models have scores for fewer than three pairs in common", "compare other models"
        )
    a, b, gold = columns[:, scored]
    return compare_correlations(measure, a, b, gold, seed, rounds)
