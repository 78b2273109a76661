"""Similarity of graded pairs: by hand, and through ingest."""

from __future__ import annotations

from pathlib import Path

import pytest

from miner.errors import UsageError
from miner.evaluation.similarity import similarity_task
from miner.sources import SourceConfig, ingest
from miner.store.database import Database
from tests.evaluation_support import add_judgments, angles, judged_store

ANGLES = {"one": 0.0, "near": 20.0, "nearer": 10.0, "far": 90.0}
DOCUMENTS = {"dn": "near", "dr": "nearer", "df": "far"}


def test_by_hand(tmp_path: Path) -> None:
    judgments = [("q", "dn", 3.0, "test"), ("q", "dr", 4.5, "test"), ("q", "df", 0.0, "test")]
    with judged_store(tmp_path / "s", DOCUMENTS, {"q": "one"}, judgments) as store:
        add_judgments(store, [("q", "df", 5.0, "test")], source="silver")
        task = similarity_task(store, "test")
    found = task.measure(angles(ANGLES))
    assert found.ids == ("q df", "q dn", "q dr")
    assert found.graded is not None
    assert found.graded.gold.tolist() == [0.0, 3.0, 4.5]
    assert found.graded.predicted == pytest.approx([0, 0.9397, 0.9848], abs=1e-4)
    assert found.means["Spearman"] == pytest.approx(1.0)
    assert found.means["Pearson"] == pytest.approx(0.9574, abs=1e-4)


def test_a_model_that_turns_it_round(tmp_path: Path) -> None:
    judgments = [("q", "dn", 3.0, "test"), ("q", "dr", 0.0, "test"), ("q", "df", 5.0, "test")]
    with judged_store(tmp_path / "s", DOCUMENTS, {"q": "one"}, judgments) as store:
        found = similarity_task(store, "test").measure(angles(ANGLES))
    assert found.means["Spearman"] == pytest.approx(-1.0)


def test_a_model_that_gives_all_texts_one_vector(tmp_path: Path) -> None:
    judgments = [("q", "dn", 3.0, "test"), ("q", "dr", 0.0, "test"), ("q", "df", 5.0, "test")]
    with judged_store(tmp_path / "s", DOCUMENTS, {"q": "one"}, judgments) as store:
        found = similarity_task(store, "test").measure(angles(dict.fromkeys(ANGLES, 0.0)))
    assert dict(found.means) == {"Spearman": 0.0, "Pearson": 0.0}


def test_pairs_that_were_ingested(tmp_path: Path) -> None:
    lines = [
        "sentence1\tsentence2\tscore",
        "one\tnear\t3.0",
        "one\tfar\t0.000",
        "far\tone\t0.0",
        "near\tnear\t5",
    ]
    (tmp_path / "test.tsv").write_text("\n".join(lines) + "\n")
    config = SourceConfig(query_column="sentence1", positive_column="sentence2", relevance_column="score")
    ingest(tmp_path / "s.duckdb", [str(tmp_path / "test.tsv")], config)
    with Database.open(tmp_path / "s.duckdb", read_only=True) as store:
        task = similarity_task(store, "test")
    pairs = sorted(zip(task.first, task.second, task.gold.tolist(), strict=True))
    assert pairs == [("far", "one", 0.0), ("near", "near", 5.0), ("one", "far", 0.0), ("one", "near", 3.0)]
    assert task.measure(angles(ANGLES)).means["Spearman"] == pytest.approx(1.0)


def test_a_sample(tmp_path: Path) -> None:
    judgments = [(f"q{i}", d, float(i), "test") for i in range(10) for d in DOCUMENTS]
    queries = {f"q{i}": f"one {i}" for i in range(10)}
    with judged_store(tmp_path / "s", DOCUMENTS, queries, judgments) as store:
        some = similarity_task(store, "test", 12)
        assert some.ids == similarity_task(store, "test", 12).ids
        assert len(some.ids) == 12
        assert some.ids != similarity_task(store, "test", 12, seed=14).ids


def test_pairs_without_grades_are_an_error(tmp_path: Path) -> None:
    judgments = [("q", "dn", 1.0, "test"), ("q", "dr", 1.0, "test"), ("q", "df", 1.0, "test")]
    made = judged_store(tmp_path / "s", DOCUMENTS, {"q": "one"}, judgments)
    with made as store, pytest.raises(UsageError) as caught:
        similarity_task(store, "test")
    assert str(caught.value) == (
        "split 'test' has no graded pairs: 3 pairs, 1 distinct relevance; "
        "ingest pairs with their scores: miner ingest STORE pairs.tsv --relevance-column score"
    )
