"""The rows of each arm of a bench: the same pairs in the same order with different negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from miner.errors import UsageError
from miner.store import evidence as stored
from miner.store import scorers
from miner.store.database import Database
from miner.store.runs import StoredRun, find_run
from miner.store.triplets import TextsById, mined_pairs
from miner.training.examples import Examples
from miner.workflows.bench_config import ARMS, BM25, EASY, FILTERED, HARD, IN_BATCH, BenchConfig
from miner.workflows.row_negatives import random_negatives
from miner.workflows.run_rows import rows_of

_RANKED = {BM25: "BM25", HARD: "a retriever beside BM25"}

Pair = tuple[str, str]
Lists = dict[Pair, list[str]]
"""Negatives by (query_id, positive_id), the hardest first."""


@dataclass(frozen=True)
class Arms:
    """The pairs that all arms share, and each arm's negatives for them."""

    run: StoredRun
    pairs: tuple[Pair, ...]
    """Sorted."""
    negatives: dict[str, Lists]
    """By arm, for every arm but `easy`."""
    easy: dict[int, Lists]
    """Random negatives by seed: each training draws its own."""
    left_out: int
    """The number of the run's pairs for which some arm has too few negatives."""

    @property
    def names(self) -> tuple[str, ...]:
        """The arms: first in the order of ARMS, then those of other runs."""
        known = [arm for arm in ARMS if arm in self.negatives or (arm == EASY and self.easy)]
        return (*known, *(arm for arm in self.negatives if arm not in ARMS))

    def of(self, arm: str, seed: int) -> Lists:
        """Returns the negatives of an arm; only random ones depend on the seed."""
        return self.easy[seed] if arm == EASY else self.negatives[arm]


def arms_of(store: Database, config: BenchConfig) -> Arms:
    """Reads or draws the negatives of every arm for the pairs of a run.

    Each arm has at most as many negatives per pair as the run. Raises UsageError for an arm without evidence
    in the run, for a run of the split that is measured, or if no pair has enough negatives in all arms.
    """
    run = _trainable(find_run(store, config.run), config)
    own = _of_run(store, run)
    negatives: dict[str, Lists] = {}
    fitting = [arm for arm in ARMS if arm != IN_BATCH or config.training.needs.texts[0] <= 2]
    chosen = config.arms or fitting
    for arm in chosen:
        lists = None if arm == EASY else _lists(store, run, arm, own, config)
        if lists is None and config.arms and arm != EASY:
            raise UsageError(
                f"run {run.name} did not search with {_RANKED[arm]}: arm '{arm}' has no negatives",
                "mine with it, or leave the arm out",
            )
        if lists is not None:
            negatives[arm] = lists
    easy = _easy(store, run, sorted(own), config.training_seeds) if EASY in chosen else {}
    needed = [*(lists for arm, lists in negatives.items() if arm != IN_BATCH), *easy.values()]
    least = config.negatives_per_row
    common = [pair for pair in sorted(own) if all(len(lists.get(pair, ())) >= least for lists in needed)]
    arms = Arms(run, tuple(common), negatives, easy, len(own) - len(common))
    if not common:
        raise UsageError(
            f"no positive of {run.name} has {least} negatives in all of {', '.join(arms.names)}",
            "mine with other rules, ask for fewer negatives_per_row, or for fewer arms",
        )
    return arms


def _trainable(run: StoredRun, config: BenchConfig) -> StoredRun:
    if run.split == config.split:
        raise UsageError(
            f"run {run.name} is of split '{run.split}', which the bench measures on",
            "name a run of another split with --run, or another --split",
        )
    return run


def _lists(store: Database, run: StoredRun, arm: str, own: Lists, config: BenchConfig) -> Lists | None:
    """The negatives of an arm; None if the run has no evidence for it."""
    if arm == IN_BATCH:
        return {}
    if arm == FILTERED:
        return own
    if arm in _RANKED:
        found = [one for one in run.retrievers if (one.kind == scorers.BM25) == (arm == BM25)]
        if not found:
            return None
        table = stored.best_ranked(store, run, found[-1], run.negatives)
        of_query = dict(zip(table["query_id"].to_pylist(), table["negative_ids"].to_pylist(), strict=True))
        return {pair: of_query.get(pair[0], []) for pair in own} if of_query else None
    return _of_run(store, _trainable(find_run(store, arm.removeprefix("run:")), config))


def _of_run(store: Database, run: StoredRun) -> Lists:
    table = mined_pairs(store, run)
    pairs = zip(table["query_id"].to_pylist(), table["positive_id"].to_pylist(), strict=True)
    return dict(zip(pairs, table["negative_ids"].to_pylist(), strict=True))


def _easy(store: Database, run: StoredRun, pairs: Sequence[Pair], seeds: Sequence[int]) -> dict[int, Lists]:
    """Random negatives per pair and seed, as many as the run has per query."""
    drawn = random_negatives(store, run, [query for query, _ in pairs], run.negatives, seeds)
    return {seed: dict(zip(pairs, lists, strict=True)) for seed, lists in zip(seeds, drawn, strict=True)}


def rows_of_arm(
    texts: TextsById, arms: Arms, arm: str, seed: int, config: BenchConfig, order: Sequence[int], rows: int
) -> Examples:
    """Returns the first `rows` rows of an arm: the pairs in `order`, repeated with their next negatives."""
    taken = 0 if arm == IN_BATCH else config.negatives_per_row
    lists = arms.of(arm, seed)
    parts = []
    for turn in range(-(-rows // len(order))):
        shifted = []
        for pair in arms.pairs:
            ids = lists.get(pair, [])
            start = turn * taken % len(ids) if ids else 0
            shifted.append([*ids[start:], *ids[:start]])
        table = pa.table(
            {
                "query_id": [query for query, _ in arms.pairs],
                "positive_id": [positive for _, positive in arms.pairs],
                "negative_ids": pa.array(shifted, pa.list_(pa.string())),
            }
        )
        chosen = order[: min(len(order), rows - turn * len(order))]
        parts.append(rows_of(texts, table, config.training.loss, taken, f"arm {arm}").take(chosen))
    return Examples.joined(parts)
