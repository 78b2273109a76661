"""The rows of each arm of a bench: the same pairs in the same order, with other negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from miner.errors import UsageError
from miner.mining.exclusion import Exclusions
from miner.retrieval.collection import Collection, Ints
from miner.retrieval.search import positions
from miner.store import arms as stored
from miner.store import corpus
from miner.store.database import Store
from miner.store.mined import mined_pairs
from miner.store.runs import Run, find_run
from miner.training.examples import Examples
from miner.workflows.bench_config import ARMS, BM25, EASY, FILTERED, HARD, IN_BATCH, BenchConfig
from miner.workflows.train import rows_of

_RANKED = {BM25: "bm25", HARD: "dense"}
_ROUNDS = 20
"""How often random documents are drawn again in the place of those that may be relevant."""

Pair = tuple[str, str]
Lists = dict[Pair, list[str]]
"""Negatives by (query_id, positive_id), the preferred first."""


@dataclass(frozen=True)
class Arms:
    """The pairs that all arms have, and each arm's negatives for them."""

    pairs: tuple[Pair, ...]
    """Sorted."""
    negatives: dict[str, Lists]
    left_out: int
    """Pairs of the run for which some arm has too few negatives."""


def arms_of(store: Store, config: BenchConfig) -> Arms:
    """Reads or draws the negatives of every arm for the pairs of a run.

    Each arm has at most as many negatives per pair as the run. Raises UsageError for an arm that the
    run has no evidence for, or when no pair has enough negatives in all arms.
    """
    run = find_run(store, config.run)
    own = _of_run(store, run)
    found: dict[str, Lists] = {}
    fitting = [arm for arm in ARMS if arm != IN_BATCH or config.training.needs.texts[0] <= 2]
    for arm in config.arms or fitting:
        lists = _lists(store, run, arm, own, config)
        if lists is None and config.arms:
            raise UsageError(
                f"run {run.name} did not search with {_RANKED[arm]}: arm '{arm}' has no negatives",
                "mine with it, or leave the arm out",
            )
        if lists is not None:
            found[arm] = lists
    common = [
        pair
        for pair in sorted(own)
        if all(
            len(lists.get(pair, ())) >= config.negatives for arm, lists in found.items() if arm != IN_BATCH
        )
    ]
    if not common:
        raise UsageError(
            f"no positive of run {run.name} has {config.negatives} negatives in all of {', '.join(found)}",
            "mine with other rules, ask for fewer --negatives, or for fewer arms",
        )
    return Arms(tuple(common), found, len(own) - len(common))


def _lists(store: Store, run: Run, arm: str, own: Lists, config: BenchConfig) -> Lists | None:
    """None where the run has no evidence for the arm."""
    if arm == IN_BATCH:
        return {}
    if arm == FILTERED:
        return own
    if arm in _RANKED:
        table = stored.best_ranked(store, run, _RANKED[arm], run.negatives)
        of_query = dict(zip(table["query_id"].to_pylist(), table["negative_ids"].to_pylist(), strict=True))
        return {pair: of_query.get(pair[0], []) for pair in own} if of_query else None
    if arm == EASY:
        return _random(store, run, own, config.training.seed)
    return _of_run(store, find_run(store, arm.removeprefix("run:")))


def _of_run(store: Store, run: Run) -> Lists:
    table = mined_pairs(store, run)
    pairs = zip(table["query_id"].to_pylist(), table["positive_id"].to_pylist(), strict=True)
    return dict(zip(pairs, table["negative_ids"].to_pylist(), strict=True))


def _random(store: Store, run: Run, own: Lists, seed: int) -> Lists:
    """As many random documents per pair as the run has negatives per query, none of them excluded."""
    collection = Collection.load(store, run.split)
    exclusions = Exclusions(
        collection,
        corpus.known_positives(store),
        corpus.known_negatives(store),
        overlaps=bool(run.config["overlaps"]),
        protected=tuple(run.config["protected"]),
    )
    pairs = sorted(own)
    owners = positions(pa.chunked_array([pa.array([query for query, _ in pairs])]), collection.query_ids)
    drawn = _draw(exclusions, owners, run.negatives, len(collection.doc_ids), np.random.default_rng(seed))
    ids = collection.doc_ids.to_pylist()
    return {pair: [ids[doc] for doc in row if doc >= 0] for pair, row in zip(pairs, drawn, strict=True)}


def _draw(exclusions: Exclusions, owners: Ints, count: int, documents: int, rng: np.random.Generator) -> Ints:
    """Returns `count` documents per owner, -1 where none was found; shape (owners, count)."""
    drawn: Ints = np.full((len(owners), count), -1, dtype=np.int32)
    for _ in range(_ROUNDS):
        row, place = np.nonzero(drawn < 0)
        if not len(row):
            break
        new = rng.integers(0, documents, len(row)).astype(np.int32)
        free = exclusions.reasons(owners[row], new).is_null().to_numpy(zero_copy_only=False)
        free &= ~(drawn[row] == new[:, None]).any(axis=1)
        drawn[row[free], place[free]] = new[free]
    # The same document may have been drawn for two places of a row in one round.
    drawn.sort(axis=1)
    drawn[:, 1:][drawn[:, 1:] == drawn[:, :-1]] = -1
    return rng.permuted(drawn, axis=1)


def rows_of_arm(
    store: Store, arms: Arms, arm: str, config: BenchConfig, order: Sequence[int], rows: int
) -> Examples:
    """Returns the first `rows` rows of an arm: pairs in `order`, over and over, with their next negatives."""
    taken = 0 if arm == IN_BATCH else config.negatives
    lists = arms.negatives[arm]
    parts = []
    for turn in range(-(-rows // len(order))):
        shifted = [_shifted(lists.get(pair, []), turn * taken) for pair in arms.pairs]
        table = pa.table(
            {
                "query_id": [query for query, _ in arms.pairs],
                "positive_id": [positive for _, positive in arms.pairs],
                "negative_ids": pa.array(shifted, pa.list_(pa.string())),
            }
        )
        chosen = order[: min(len(order), rows - turn * len(order))]
        parts.append(rows_of(store, table, config.training.loss, taken, f"arm {arm}").take(chosen))
    return Examples.joined(parts)


def _shifted(ids: list[str], by: int) -> list[str]:
    start = by % len(ids) if ids else 0
    return [*ids[start:], *ids[:start]]
