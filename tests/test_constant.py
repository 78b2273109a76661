"""A model that gives all texts the same vector, or all pairs the same score, is reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.evaluation.evaluate import EvaluationConfig, evaluate
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.models.constant import same_score, same_vector
from miner.training.encoder_config import EncoderConfig
from miner.workflows import bench_report
from miner.workflows.bench import bench
from miner.workflows.bench_config import BenchConfig, Size
from miner.workflows.train import train
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
    given = ["evaluate", str(folder), str(store), "--set", f"task={task}"]
    done = CliRunner().invoke(group, [*given, "--json"])
    assert done.exit_code == 0, done.output
    which = "all 6 texts" if task == "similarity" else "all 3 queries and all 3 documents"
    reported = f"{folder} gives the same vector to {which}: it cannot separate them"
    assert json.loads(done.stdout)["sections"][0]["warnings"] == [
        f"{reported}, so its measures are meaningless"
    ]
    assert f"warning: {reported}" in done.stderr


def mined(path: Path) -> Path:
    """Returns a store with a run of split train, and judgments of dev and test."""
    documents = {f"{kind[0]}{i}": f"{kind} {i} question" for kind in ("answer", "other") for i in range(8)}
    queries = {f"q{i}": f"question {i}" for i in range(8)}
    splits = ["train"] * 4 + ["dev"] * 2 + ["test"] * 2
    judged = [(f"q{i}", f"a{i}", 1.0, split) for i, split in enumerate(splits)]
    with judged_store(path, documents, queries, judged) as store:
        mine(store, MiningConfig(rules=Rules(relative_margin=None)))
    return path


@pytest.fixture
def constant(tmp_path: Path) -> EncoderConfig:
    """How to train, without changing anything, a table whose words all have one direction."""
    words = ["question", "answer", "other", *map(str, range(8))]
    folder = word_table(tmp_path / "m", {word: [i + 1.0, 2.0 * (i + 1)] for i, word in enumerate(words)})
    return EncoderConfig(base=str(folder), batch_size=4, learning_rate=1e-9, evaluations=1)


def test_a_constant_model_is_warned_about_during_training(tmp_path: Path, constant: EncoderConfig) -> None:
    notes = Notes()
    train(mined(tmp_path / "s.duckdb"), tmp_path / "out", constant, progress=notes)
    clause = "gives the same vector to all 2 queries and all 16 documents"
    reported = [warning.partition(":")[0] for warning in notes.warnings]
    assert reported == [f"the base {clause}", f"the model of step 1 {clause}"]


def test_a_constant_model_is_warned_about_in_a_bench(tmp_path: Path, constant: EncoderConfig) -> None:
    store = mined(tmp_path / "s.duckdb")
    training = replace(constant, evaluations=0)
    config = BenchConfig(arms=("easy", "bm25"), sizes=(Size(4),), training=training)
    first, again = Notes(), Notes()
    report = bench(store, tmp_path / "bench", config, first)
    clause = "gives the same vector to all 2 queries and all 16 documents"
    reported = [warning.partition(":")[0] for warning in first.warnings]
    models = [f"{arm}, 4 triplets, seed {seed}" for seed in (13, 14, 15) for arm in ("easy", "bm25")]
    assert reported == [f"the base {clause}", *(f"the model of {model} {clause}" for model in models)]
    lines = bench_report.table(report).splitlines()
    assert sorted(line for line in lines if line.startswith("warning: ")) == sorted(
        f"warning: {warning}" for warning in first.warnings
    )
    bench(store, tmp_path / "bench", config, again)
    assert again.warnings == first.warnings, "the models are gone, what was measured is not"


def test_texts_that_read_the_same_are_no_sign_of_a_constant_model(tmp_path: Path) -> None:
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
