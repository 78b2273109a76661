"""What our pages say of sentence-transformers' `mine_hard_negatives`, held by calling it.

A query text with several positives, which score differently, has one reference positive there: the lowest, as
with our default. Its default call has no margin.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import mine
from miner.store.triplets import triplets as triplets_of
from tests.stores import make_store
from tests.test_oracle import Encoders, encoders, float64_scores, text

__all__ = ["encoders"]

MARGINS: list[dict[str, float | None]] = [
    {"relative_margin": 0.05},
    {"relative_margin": 0.3},
    {"absolute_margin": 0.1},
]
NONE: dict[str, float | None] = {"relative_margin": None}
POSITIVES, NEGATIVES = 3, 3


@pytest.fixture
def encoder(encoders: Encoders) -> Path:
    return encoders["cosine"][0]


@pytest.fixture
def model(encoders: Encoders) -> Any:
    return encoders["cosine"][1]


class Data:
    """Queries with three positives each that score differently, and the scores of all pairs."""

    def __init__(self, model: Any) -> None:
        rng = np.random.default_rng(3)
        self.corpus = {f"d{i:02}": text(rng, i) for i in range(40)}
        self.queries = {f"q{i}": text(rng, 100 + i) for i in range(8)}
        self.score = float64_scores(model, self.corpus, self.queries)
        ranked = {q: sorted(self.corpus, key=lambda d: -self.score[q, d]) for q in self.queries}
        # One among the best, one in the middle, one below: a margin leaves the first something to drop.
        self.judged = [(q, docs[position]) for q, docs in ranked.items() for position in (1, 6, 15)]

    def mined_by_peer(self, model: Any, **settings: Any) -> dict[str, set[str]]:
        """Returns the negatives of each query by `mine_hard_negatives`."""
        from datasets import Dataset
        from sentence_transformers.util import mine_hard_negatives

        pairs = {
            "query": [self.queries[q] for q, _ in self.judged],
            "positive": [self.corpus[d] for _, d in self.judged],
        }
        rows = mine_hard_negatives(
            Dataset.from_dict(pairs), model, corpus=[*self.corpus.values()], verbose=False, **settings
        )
        query_of, doc_of = ({t: i for i, t in texts.items()} for texts in (self.queries, self.corpus))
        found: dict[str, set[str]] = {q: set() for q in self.queries}
        for row in rows:
            found[query_of[row["query"]]].add(doc_of[row["negative"]])
        return found

    def mined_by_us(self, store: Path, encoder: Path, rules: Rules) -> dict[str, set[str]]:
        """Returns the negatives of each query by miner, from the encoder alone."""
        config = MiningConfig(
            bm25=False, encoder=str(encoder), overlaps=False, rules=rules,
            selection=Selection(negatives=NEGATIVES), dtype="fp32",
        )  # fmt: skip
        with make_store(store, self.corpus, self.queries, self.judged) as opened:
            rows = triplets_of(opened, mine(opened, config)).to_pylist()
        found: dict[str, set[str]] = {q: set() for q in self.queries}
        for row in rows:
            found[row["query_id"]].add(row["negative_id"])
        return found

    def hardest(self, query: str, reference: float, margin: dict[str, float | None]) -> set[str]:
        """Returns the best unjudged documents below a reference positive's score, less the margin."""
        limit = reference - abs(reference) * (margin.get("relative_margin") or 0)
        limit -= margin.get("absolute_margin") or 0
        free = [d for d in self.corpus if (query, d) not in self.judged and self.score[query, d] <= limit]
        return set(sorted(free, key=lambda d: -self.score[query, d])[:NEGATIVES])


@pytest.mark.parametrize("margin", MARGINS, ids=str)
def test_the_peer_measures_margins_from_the_lowest_positive_as_we_do(
    encoder: Path, model: Any, tmp_path: Path, margin: dict[str, float | None]
) -> None:
    data = Data(model)
    peer = data.mined_by_peer(model, num_negatives=NEGATIVES, range_max=40, **margin)
    positives = {q: sorted(data.score[q, d] for p, d in data.judged if p == q) for q in data.queries}
    by_reference = {
        name: {q: data.hardest(q, scores[position], margin) for q, scores in positives.items()}
        for name, position in (("lowest", 0), ("median", 1), ("best", 2))
    }
    assert peer == by_reference["lowest"]
    assert peer != by_reference["median"]
    assert peer != by_reference["best"]
    rules = {kind: Rules(reference_positive=kind, **margin) for kind in ("lowest", "median", "best", "each")}  # type: ignore[arg-type]
    ours = {kind: data.mined_by_us(tmp_path / f"{kind}.duckdb", encoder, one) for kind, one in rules.items()}
    assert ours["lowest"] == peer
    assert all(ours[kind] != peer for kind in ("median", "best", "each"))


def test_our_default_is_its_relative_margin_of_5_percent(encoder: Path, model: Any, tmp_path: Path) -> None:
    data = Data(model)
    peer = data.mined_by_peer(model, num_negatives=NEGATIVES, range_max=40, relative_margin=0.05)
    assert data.mined_by_us(tmp_path / "s.duckdb", encoder, Rules()) == peer


def test_its_default_call_has_no_margin_and_three_negatives(
    encoder: Path, model: Any, tmp_path: Path
) -> None:
    from sentence_transformers.util import mine_hard_negatives

    data = Data(model)
    peer = data.mined_by_peer(model)
    assert {len(found) for found in peer.values()} == {NEGATIVES}
    assert peer == {q: data.hardest(q, 9.0, NONE) for q in data.queries}
    assert data.mined_by_us(tmp_path / "s.duckdb", encoder, Rules(relative_margin=None)) == peer
    defaults = {name: p.default for name, p in inspect.signature(mine_hard_negatives).parameters.items()}
    assert [defaults[name] for name in ("absolute_margin", "relative_margin", "max_score")] == [None] * 3
