"""Comparing two models on the same queries: differences, intervals and p values."""

from __future__ import annotations

import numpy as np

from miner.errors import UsageError, counted
from miner.evaluation.result import Evaluation
from miner.stats import ROUNDS, Difference, compare_correlations, compare_values


def compare(first: Evaluation, second: Evaluation, seed: int = 13, rounds: int = ROUNDS) -> list[Difference]:
    """Returns for every measure the difference (first − second) with its 95 % interval and p value.

    A measure that is a mean is compared query by query. Spearman and Pearson have no values per query: they
    are compared by `stats.compare_correlations`, on the pairs that both models have scores for. Raises
    UsageError unless both models were measured on the same queries of the same task.
    """
    if (first.task, first.ids) != (second.task, second.ids):
        raise UsageError(
            f"cannot compare {first.task} on {counted(len(first.ids), 'query', 'queries')} with "
            f"{second.task} on {counted(len(second.ids), 'query', 'queries')}",
            "compare models on the same split, task and sample of queries",
        )
    return [
        compare_values(name, first.values[name], second.values[name], seed, rounds)
        if name in first.values
        else _compare_set(name, first, second, seed, rounds)
        for name in first.means
    ]


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
