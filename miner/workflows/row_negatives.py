"""The negatives of training rows: mined, easy (random documents not known to be relevant), or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from miner.arrays import positions
from miner.collection.collection import Collection, Ints
from miner.collection.exclusion import Exclusions
from miner.mining.config import EXCLUDE
from miner.store import corpus, evidence
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.triplets import mined_pairs
from miner.workflows.bench_config import EASY, MINED

_ROUNDS = 20
"""The most times that excluded random documents are drawn again."""


def pairs_with(store: Database, run: StoredRun, kind: str, count: int, seed: int) -> pa.Table:
    """Returns the positives of a run with their negatives, as `mined_pairs`; for mined ones with scores too.

    Each positive gets `count` easy negatives of its own, drawn with the seed, but no in-batch ones.
    """
    if kind == MINED:
        return mined_pairs(store, run)
    pairs = evidence.positive_pairs(store, run.evidence).rename_columns(["query_id", "positive_id"])
    pairs = pairs.sort_by([("query_id", "ascending"), ("positive_id", "ascending")])
    negatives: list[list[str]] = [[]] * pairs.num_rows
    if kind == EASY:
        (negatives,) = random_negatives(store, run, pairs["query_id"].to_pylist(), count, [seed])
    return pairs.append_column("negative_ids", pa.array(negatives, pa.list_(pa.string())))


def random_negatives(
    store: Database, run: StoredRun, query_ids: Sequence[str], count: int, seeds: Sequence[int]
) -> Iterator[list[list[str]]]:
    """Yields, for each seed, random documents for each query of a run: at most `count` per query.

    What mining excludes whatever its score is never drawn: positives, their copies, the query itself. A query
    gets fewer if most documents are excluded. A query may come several times, each time with its own draw.
    """
    collection = Collection.load(store, run.split)
    exclusions = Exclusions.of(
        collection,
        corpus.known_positives(store),
        corpus.known_negatives(store),
        overlaps=bool(run.config["overlaps"]),
        protected=tuple(run.config["protected"]),
        same_document=run.config["same_document"] == EXCLUDE,
    )
    owners = positions(pa.chunked_array([pa.array(query_ids, pa.string())]), collection.query_ids)
    ids = collection.doc_ids.to_pylist()
    for seed in seeds:
        drawn = _draw(exclusions, owners, count, len(ids), np.random.default_rng(seed))
        yield [[ids[doc] for doc in row if doc >= 0] for row in drawn]


def _draw(exclusions: Exclusions, owners: Ints, count: int, documents: int, rng: np.random.Generator) -> Ints:
    """Returns `count` documents per owner, -1 for a missing one; shape (owners, count)."""
    drawn: Ints = np.full((len(owners), count), -1, dtype=np.int32)
    for _ in range(_ROUNDS):
        row, column = np.nonzero(drawn < 0)
        if not len(row):
            break
        new = rng.integers(0, documents, len(row)).astype(np.int32)
        free = exclusions.allowed(owners[row], new)
        free &= ~(drawn[row] == new[:, None]).any(axis=1)
        drawn[row[free], column[free]] = new[free]
    # One round may draw the same document twice for a row.
    drawn.sort(axis=1)
    drawn[:, 1:][drawn[:, 1:] == drawn[:, :-1]] = -1
    return rng.permuted(drawn, axis=1)
