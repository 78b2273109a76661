"""`miner tune`: short trainings choose the negatives; what is left over is compared with several seeds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import miner
from miner.cli.tune import command
from miner.engine.files import locked
from miner.errors import MinerError, UsageError
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import config_of, mine
from miner.store.database import Database
from miner.store.runs import find_run
from miner.training.encoder_config import EncoderConfig
from miner.workflows.bench import Comparison, Trained
from miner.workflows.halving import Plan
from miner.workflows.tune import TuneReport, compared, tune
from miner.workflows.tune_arms import Arm, ArmRows, Facts, baselines, facts_of, pool, rules_to_try, spread
from miner.workflows.tune_config import TuneConfig, parse_budget
from miner.workflows.tune_report import recipe, table
from tests.stores import make_store
from tests.train_support import Notes

TOPICS = 30
TRAINING = EncoderConfig(base="scratch", dimension=16, batch_size=4, epochs=4, evaluations=0, threads=1)
SMALL = TuneConfig(arms=5, training=TRAINING)
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
SPLITS = ("train", "train", "dev", "train", "test")


def name_of(topic: int) -> str:
    return f"{NUMBERS[topic // 12]} {NUMBERS[topic % 12]}"


def make(path: Path, positives: int = 2, labels: dict[str, str] | None = None) -> Path:
    """A mined store: 18 queries train, 6 choose, 6 test; a question's words differ from its answers'."""
    documents = {f"d{t}": f"the answer about {name_of(t)} is green" for t in range(TOPICS)}
    documents |= {f"o{t}": f"another answer, {name_of(t)} may be blue" for t in range(TOPICS)}
    documents |= {f"x{t}": f"some other text of {name_of(t)} and more" for t in range(TOPICS)}
    queries = {f"q{t}": f"question {name_of(t)}" for t in range(TOPICS)}
    judgments = [
        (f"q{t}", f"{kind}{t}", SPLITS[t % 5]) for t in range(TOPICS) for kind in ("d", "o")[:positives]
    ]
    with make_store(path, documents, queries, judgments, labels) as store:
        config = MiningConfig(encoder="bundled", depth=12, selection=Selection(negatives=3))
        mine(store, replace(config, rules=Rules(relative_margin=0.1)), name="r1")
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("tune") / "s.duckdb")


@pytest.fixture(scope="module")
def result(path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TuneReport, Path, list[str]]:
    work, notes = tmp_path_factory.mktemp("work") / "w", Notes()
    return tune(path, work, SMALL, notes), work, notes.said


def content(report: TuneReport) -> dict[str, Any]:
    """The report without its clock."""
    return {name: value for name, value in report.as_json().items() if name != "seconds"}


# --- from end to end


def test_the_better_half_goes_on_and_the_final_has_the_baselines(
    result: tuple[TuneReport, Path, list[str]],
) -> None:
    report, _, notes = result
    assert [(rung.arms, rung.rows) for rung in report.plan.rungs] == [(5, 32), (3, 32)]
    first, second = report.rungs
    assert len(first.scores) == 5
    assert list(second.scores) == list(first.left)
    kept, out = (
        [score for name, score in first.scores.items() if (name in first.left) == goes_on]
        for goes_on in (True, False)
    )
    assert min(kept) >= max(out)
    finals = [one.arm for one in report.finals]
    assert {"relative_margin 0.05, reference positive lowest, top", "easy", "in-batch"} <= set(finals)
    assert set(second.left) <= set(finals)
    assert len(finals) == 5
    means = [one.mean(report.measure) for one in report.finals]
    assert means == sorted(means, reverse=True)
    assert report.chosen.name == finals[0]
    assert all(len(one.means[report.measure]) == 3 for one in report.finals)
    assert report.queries == 6
    assert "5 settings: rungs of 5 of 32 triplets, 3 of 32 triplets; then 5 arms in the final" in "\n".join(
        notes
    )


def test_the_choice_is_compared_with_every_other_arm_of_the_final(
    result: tuple[TuneReport, Path, list[str]],
) -> None:
    report, *_ = result
    assert [one.first.arm for one in report.comparisons] == [report.finals[0].arm] * 4
    assert [one.second.arm for one in report.comparisons] == [one.arm for one in report.finals[1:]]
    assert all(one.difference.difference >= 0 for one in report.comparisons)
    assert all(one.holm >= one.difference.p for one in report.comparisons)


def test_started_again_it_repeats_nothing_and_chooses_the_same(
    path: Path, result: tuple[TuneReport, Path, list[str]], tmp_path: Path
) -> None:
    report, work, _ = result
    cells = {file.name: file.stat().st_mtime_ns for file in (work / "cells").iterdir()}
    again = tune(path, work, SMALL)
    assert {file.name: file.stat().st_mtime_ns for file in (work / "cells").iterdir()} == cells
    assert again.as_json() == report.as_json()
    shutil.copytree(work, tmp_path / "w")
    lost = sorted((tmp_path / "w" / "cells").iterdir())[0]
    name = json.loads(lost.read_text("utf-8"))["name"]
    lost.unlink()
    notes = Notes()
    assert content(tune(path, tmp_path / "w", SMALL, notes)) == content(report)
    assert [note for note in notes.said if note.endswith(", seed 13") or ", seed 1" in note[-9:]] == [name]


def test_the_same_seed_gives_the_same(
    path: Path, result: tuple[TuneReport, Path, list[str]], tmp_path: Path
) -> None:
    assert content(tune(path, tmp_path / "w", SMALL)) == content(result[0])
