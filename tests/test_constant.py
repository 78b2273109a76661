"""A model that gives all texts the same vector, or all pairs the same score, is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.evaluation.evaluate import EvaluationConfig, evaluate
from miner.models.constant import same_score, same_vector
from tests.evaluation_support import judged_store
from tests.test_not_scored import NAN, Notes
from tests.tiny import word_table


@pytest.mark.parametrize("task", ["retrieval", "similarity", "labels"])
def test_an_encoder_that_gives_all_texts_one_vector_is_warned_about(tmp_path: Path, task: str) -> None:
    folder = word_table(tmp_path / "m", {"a": [1, 2], "b": [2, 4], "c": [3, 6]})
    documents = {"d1": "a", "d2": "b", "d3": "c"}
    judged = [("q1", "d2", 1, "test"), ("q2", "d3", 0.5, "test"), ("q3", "d1", 0.1, "test")]
    queries = {"q1": "a a", "q2": "b a", "q3": "b c"}
    labels = {name: "xy"[int(name[1]) % 2] for name in (*documents, *queries)}
    store = tmp_path / "s.duckdb"
    judged_store(store, documents, queries, judged, labels).close()
    given = ["evaluate", str(folder), str(store), "--task", task]
    done = CliRunner().invoke(group, [*given, "--json"])
    assert done.exit_code == 0, done.output
    which = "all 6 texts" if task == "similarity" else "all 3 queries and all 3 documents"
    told = f"{folder} gives the same vector to {which}: it cannot separate them"
    assert json.loads(done.stdout)["sections"][0]["warnings"] == [f"{told}, so its measures are meaningless"]
    assert f"warning: {told}" in done.stderr


def test_texts_that_read_the_same_are_not_taken_for_a_constant_model(tmp_path: Path) -> None:
    folder = word_table(tmp_path / "m", {"a": [1, 0], "b": [0, 1]})
    judged = [("q1", "d1", 1, "test"), ("q2", "d1", 1, "test")]
    notes = Notes()
    with judged_store(tmp_path / "s.duckdb", {"d1": "a", "d2": "b"}, {"q1": "a", "q2": "a"}, judged) as store:
        evaluate(store, str(folder), EvaluationConfig(split="test", task="retrieval"), notes)
    assert notes.warnings == []


def test_rounding_does_not_hide_a_constant_model() -> None:
    texts = ["a", "b", "c"]
    noise = np.array([[1, 0.5], [1 + 1e-7, 0.5], [NAN, NAN]], dtype=np.float32)
    assert (
        same_vector(texts=(texts, noise)) == "gives the same vector to all 2 texts: it cannot separate them"
    )
    assert same_vector(texts=(texts, noise + np.float32([[0, 0], [0, 1e-4], [0, 0]]))) is None
    assert same_vector(texts=(texts[:1], noise[:1])) is None
    assert same_score(1, 0.5, 0.5) is same_score(0, None, None) is same_score(2, 0.5, 0.50001) is None
