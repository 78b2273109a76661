"""The task similarity: does the similarity of two texts agree with the score that people gave the pair?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from miner.errors import UsageError, counted
from miner.evaluation.result import Encode, Evaluation, Floats, Graded
from miner.models.constant import same_vector
from miner.models.similarity import COSINE, pairwise
from miner.stats import pearson, spearman
from miner.store import corpus as evaluating
from miner.store.database import Database


@dataclass(frozen=True)
class SimilarityTask:
    """Pairs of texts with their scores, in memory."""

    ids: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    gold: Floats
    headline: ClassVar[str] = "Spearman"

    def measure(self, encode: Encode, similarity: str = COSINE) -> Evaluation:
        """Returns Spearman's and Pearson's correlation of the model's similarities with the gold scores.

        Both texts are encoded as queries, since the task is symmetric. If all similarities are equal, the
        correlations are 0. Pairs without a vector for both texts are left out and counted. Raises UsageError
        if fewer than three pairs are left.
        """
        size = len(self.ids)
        vectors = encode((*self.first, *self.second), "query")
        first, second = (vectors[side].astype(np.float64) for side in (slice(size), slice(size, None)))
        predicted = pairwise(similarity, first, second)
        kept = np.isfinite(predicted)
        if kept.sum() < 3:
            raise UsageError(
                f"the model has vectors for both texts of only {kept.sum()} of {counted(size, 'pair')}",
                "a correlation needs three pairs: measure another model",
            )
        scores, gold = predicted[kept], self.gold[kept]
        means = {"Spearman": float(spearman(scores, gold)), "Pearson": float(pearson(scores, gold))}
        gaps = {"pairs": int(size - kept.sum())} if not kept.all() else {}
        graded = Graded(self.gold, predicted)
        constant = same_vector(texts=((*self.first, *self.second), vectors))
        return Evaluation("similarity", self.ids, {}, means, graded=graded, unscored=gaps, constant=constant)


def similarity_task(
    store: Database, split: str, queries: int | None = None, seed: int = 13
) -> SimilarityTask:
    """Reads the judged pairs of a split, or a seeded sample of `queries` pairs, with their relevance.

    Raises UsageError if there are fewer than three pairs or all have the same relevance.
    """
    table = evaluating.graded_pairs(store, split)
    if queries is not None and queries < table.num_rows:
        drawn = np.random.default_rng(seed).choice(table.num_rows, queries, replace=False)
        table = table.take(pa.array(np.sort(drawn)))
    gold = table["relevance"].to_numpy()
    if len(gold) < 3 or gold.min() == gold.max():
        raise UsageError(
            f"split '{split}' has no graded pairs: {counted(len(gold), 'pair')}, "
            f"{counted(len(np.unique(gold)), 'distinct relevance')}",
            "ingest pairs with their scores: miner ingest STORE pairs.tsv --relevance-column score",
        )
    names = zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True)
    return SimilarityTask(
        tuple(f"{query} {doc}" for query, doc in names),
        tuple(table["first"].to_pylist()),
        tuple(table["second"].to_pylist()),
        gold,
    )
