"""Reranking: BM25's candidates, ordered by given scores or by a real cross-encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from miner.evaluation.reranking import RerankingTask, rerank, reranking_task
from miner.evaluation.result import Evaluation
from miner.models.reranker import Reranker
from miner.store.database import Database
from miner.store.rerank_scores import known_scores
from tests.evaluation_support import judged_store
from tests.tiny import tiny_bert

DOCUMENTS = {
    "d0": "apple pie",
    "d1": "apple pie apple",
    "d2": "apple tart with cream",
    "d3": "plum jam",
    "d4": "apple juice",
}


def store_of(folder: Path) -> Database:
    queries = {"q": "apple", "p": "plum", "n": "nothing shared"}
    judgments = [
        ("q", "d2", 1.0, "test"), ("q", "d3", 1.0, "test"), ("q", "d4", 1.0, "train"),
        ("p", "d3", 1.0, "test"), ("n", "d0", 1.0, "test"),
    ]  # fmt: skip
    return judged_store(folder / "s.duckdb", DOCUMENTS, queries, judgments)


def scored(store: Database, reranker: Reranker, task: RerankingTask) -> Evaluation:
    """What the reranker reaches, with the scores that the store knows."""
    return rerank(store, reranker, task, known_scores(store, reranker.fingerprint))


def test_by_hand(tmp_path: Path) -> None:
    with store_of(tmp_path) as store:
        task = reranking_task(store, "test")
    ids = task.retrieval.judgments
    pairs = [
        (ids.query_ids[q], ids.doc_ids[d].as_py())
        for q, d in zip(task.candidates.query, task.candidates.doc, strict=True)
    ]
    assert sorted(pairs) == [("p", "d3"), ("q", "d0"), ("q", "d1"), ("q", "d2")]
    found = task.measure(np.array([{"d0": 0.5, "d2": 0.2}.get(doc, 0.1) for _, doc in pairs]))
    assert found.ids == ("n", "p", "q")
    assert list(found.means) == ["nDCG@10", "MRR@10", "MAP"]
    assert found.values["MRR@10"] == pytest.approx([0, 1, 1 / 2])
    assert found.values["MAP"] == pytest.approx([0, 1, (1 / 2) / 2])
    ideal = 1 + 1 / np.log2(3)
    assert found.values["nDCG@10"] == pytest.approx([0, 1, (1 / np.log2(3)) / ideal])


def test_depth(tmp_path: Path) -> None:
    with store_of(tmp_path) as store:
        task = reranking_task(store, "test", depth=1)
    assert np.bincount(task.candidates.query).tolist() == [0, 1, 1]


def test_a_pair_is_scored_once(tmp_path: Path) -> None:
    model = str(tiny_bert(tmp_path / "model", labels=1))
    with store_of(tmp_path) as store:
        reranker = Reranker(model)
        first = scored(store, reranker, reranking_task(store, "test", depth=2))
        assert known_scores(store, reranker.fingerprint).num_rows == 3
        every = scored(store, reranker, reranking_task(store, "test"))
        known = known_scores(store, reranker.fingerprint)
        again = scored(store, reranker, reranking_task(store, "test"))
        assert known_scores(store, reranker.fingerprint).num_rows == known.num_rows == 4
    assert dict(again.means) == dict(every.means)
    assert first.ids == every.ids


def test_scores_are_the_rerankers(tmp_path: Path) -> None:
    reranker = Reranker(str(tiny_bert(tmp_path / "model", labels=1)))
    with store_of(tmp_path) as store:
        task = reranking_task(store, "test")
        found = scored(store, reranker, task)
    queries = [task.retrieval.queries[i] for i in task.candidates.query]
    documents = [task.retrieval.documents[i] for i in task.candidates.doc]
    assert dict(found.means) == dict(task.measure(reranker.score(queries, documents)).means)
