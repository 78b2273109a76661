"""Retrieval: by hand, and against the formulas written out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.errors import UsageError
from miner.evaluation.ranking import Judgments, QueryPairs, ranked
from miner.evaluation.retrieval import MEASURES, retrieval_task
from miner.store.corpus import set_queries_are_documents
from miner.text import text_key
from tests.evaluation_support import add_judgments, angles, judged_store, letters

DOCUMENTS = {f"d{i}": f"document {i}" for i in range(6)}
ANGLES = {"question": 0.0, "other": 90.0, **{f"document {i}": 10.0 * (i + 1) for i in range(6)}}


def test_by_hand(tmp_path: Path) -> None:
    judgments = [("q", "d1", 1.0, "test"), ("q", "d3", 3.0, "test"), ("p", "d5", 1.0, "test")]
    with judged_store(tmp_path / "s", DOCUMENTS, {"q": "question", "p": "other"}, judgments) as store:
        task = retrieval_task(store, "test")
    found = task.measure(angles(ANGLES))
    assert found.ids == ("p", "q")
    assert list(found.means) == ["nDCG@10", "MRR@10", "MAP", "R@10", "R@100"]
    ideal = 3 / math.log2(2) + 1 / math.log2(3)
    gained = 1 / math.log2(3) + 3 / math.log2(5)
    assert found.values["nDCG@10"] == pytest.approx([1, gained / ideal])
    assert found.values["MRR@10"] == pytest.approx([1, 1 / 2])
    assert found.values["MAP"] == pytest.approx([1, (1 / 2 + 2 / 4) / 2])
    assert found.values["R@10"] == pytest.approx([1, 1])
    assert found.means["MAP"] == pytest.approx(0.75)
    assert found.documents == 6


def test_judgments_of_other_splits_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    judgments = [("q", "d2", 1.0, "test"), ("q", "d0", 1.0, "train"), ("q", "d1", 0.0, "train")]
    with judged_store(tmp_path / "s", DOCUMENTS, {"q": "question"}, judgments) as store:
        found = retrieval_task(store, "test").measure(angles(ANGLES))
    assert found.means["MRR@10"] == 1 / 2  # d0 is not shown, d1 is wrong


def test_judgments_hold_for_queries_that_read_the_same(tmp_path: Path) -> None:
    queries = {"q": "question", "same": "Question", "train": " question "}
    judgments = [("q", "d3", 1.0, "test"), ("same", "d0", 1.0, "test"), ("train", "d1", 1.0, "train")]
    places = {**ANGLES, "Question": 0.0}
    with judged_store(tmp_path / "s", DOCUMENTS, queries, judgments) as store:
        found = retrieval_task(store, "test").measure(angles(places))
    assert found.ids == ("q", "same")
    assert found.values["MAP"] == pytest.approx([(1 + 2 / 3) / 2] * 2)


def test_a_query_does_not_find_itself(tmp_path: Path) -> None:
    documents = {**DOCUMENTS, "twin": "Question", "q": "named alike"}
    places = {**ANGLES, "Question": 0.0, "named alike": 1.0}
    with judged_store(tmp_path / "s", documents, {"q": "question"}, [("q", "d0", 1.0, "test")]) as store:
        found = retrieval_task(store, "test").measure(angles(places))
        assert found.means["MRR@10"] == 1 / 2  # the twin is not shown; the document that is named alike is
        assert found.left_out == {"own_text": 1}
        set_queries_are_documents(store, True)
        found = retrieval_task(store, "test").measure(angles(places))
        assert found.means["MRR@10"] == 1.0
        assert found.left_out == {"own_text": 1, "own_document": 1}
        add_judgments(store, [("q", "twin", 1.0, "test")])
        task = retrieval_task(store, "test")
    assert task.measure(angles(places)).means["MAP"] == 1.0  # judged: shown, and right


def test_silver_judgments_never_count(tmp_path: Path) -> None:
    with judged_store(tmp_path / "s", DOCUMENTS, {"q": "question"}, [("q", "d1", 1.0, "test")]) as store:
        add_judgments(store, [("q", "d0", 1.0, "test"), ("q", "d2", 1.0, "train")], source="silver")
        found = retrieval_task(store, "test").measure(angles(ANGLES))
        add_judgments(store, [("q", "d4", 1.0, "dev")], source="silver")
        with pytest.raises(UsageError, match="no query has a judged positive in split 'dev'"):
            retrieval_task(store, "dev")
    assert found.means["MRR@10"] == 1 / 2


def test_a_query_without_a_hit_counts(tmp_path: Path) -> None:
    documents = {f"d{i:03}": f"document {i}" for i in range(150)}
    places = {f"document {i}": i / 2 for i in range(150)} | {"question": 0.0}
    with judged_store(tmp_path / "s", documents, {"q": "question"}, [("q", "d140", 1.0, "test")]) as store:
        found = retrieval_task(store, "test").measure(angles(places))
    assert dict(found.means) == dict.fromkeys(MEASURES, 0.0)


def test_ties_go_to_the_smaller_text_key(tmp_path: Path) -> None:
    places = dict.fromkeys(ANGLES, 0.0)
    rank = sorted(DOCUMENTS, key=lambda doc: text_key(DOCUMENTS[doc])).index("d2") + 1
    with judged_store(tmp_path / "s", DOCUMENTS, {"q": "question"}, [("q", "d2", 1.0, "test")]) as store:
        assert retrieval_task(store, "test").measure(angles(places)).means["MRR@10"] == 1 / rank


def test_a_sample_is_part_of_the_whole(tmp_path: Path) -> None:
    queries = {f"q{i}": f"abc{i}" for i in range(30)}
    judgments = [(q, f"d{i % 6}", 1.0, "test") for i, q in enumerate(queries)]
    with judged_store(tmp_path / "s", DOCUMENTS, queries, judgments) as store:
        every, some = retrieval_task(store, "test"), retrieval_task(store, "test", 7)
        again = retrieval_task(store, "test", 7).judgments.query_ids
    whole, part = every.measure(letters()), some.measure(letters())
    assert part.ids == again
    assert len(part.ids) == 7
    position = [whole.ids.index(i) for i in part.ids]
    assert part.values["MAP"] == pytest.approx(whole.values["MAP"][position])


def test_a_split_without_positives_is_an_error(tmp_path: Path) -> None:
    made = judged_store(tmp_path / "s", DOCUMENTS, {"q": "question"}, [("q", "d1", 1.0, "test")])
    with made as store, pytest.raises(UsageError, match=r"positive in split 'tset' \(did you mean 'test'"):
        retrieval_task(store, "tset")


def naive(ranking: list[int], relevance: dict[int, float]) -> dict[str, float]:
    """Returns the measures as the papers write them."""
    gains = [relevance.get(doc, 0.0) for doc in ranking]
    ideal = sorted(relevance.values(), reverse=True)
    hits = [gain > 0 for gain in gains]
    total = len(relevance)
    precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits[:100]) if hit]
    return {
        "nDCG@10": _dcg(gains[:10]) / _dcg(ideal[:10]),
        "MRR@10": next((1 / (i + 1) for i, hit in enumerate(hits[:10]) if hit), 0.0),
        "MAP": sum(precisions) / total,
        "R@10": sum(hits[:10]) / total,
        "R@100": sum(hits[:100]) / total,
    }


def _dcg(gains: list[float]) -> float:
    return sum(gain / math.log2(i + 2) for i, gain in enumerate(gains))


@given(
    st.permutations(range(30)),
    st.dictionaries(st.integers(0, 40), st.sampled_from([0.5, 1.0, 2.5, 4.0]), min_size=1, max_size=12),
    st.integers(0, 30),
)
def test_measures_equal_the_formulas(order: list[int], relevance: dict[int, float], found: int) -> None:
    docs = sorted(relevance)
    judged = Judgments(
        ("q",),
        tuple(f"d{i:02}" for i in range(41)),
        QueryPairs(np.zeros(len(docs), dtype=np.int64), np.array(docs)),
        np.array([relevance[doc] for doc in docs]),
        QueryPairs(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)),
    )
    values = judged.values([np.array(order[:found], dtype=np.int64)], MEASURES)
    expected = naive(order[:found], relevance)
    assert {name: float(column[0]) for name, column in values.items()} == pytest.approx(expected, abs=1e-3)


@given(st.lists(st.sampled_from([-np.inf, 0.0, 0.25, 0.5, 1.0]), max_size=30), st.integers(1, 12))
def test_ranked_is_a_sort(scores: list[float], depth: int) -> None:
    expected = sorted((i for i, s in enumerate(scores) if s > -np.inf), key=lambda i: (-scores[i], i))
    assert ranked(np.array(scores, dtype=np.float64), depth).tolist() == expected[:depth]
