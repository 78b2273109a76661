"""When a judge's error is measured: only once every drawn pair has an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from miner.judging.config import JudgeConfig
from miner.judging.judge import batch, judge
from miner.store import judges as stored
from miner.store.database import Database
from miner.store.runs import find_run
from tests.judge_support import JUDGE, topics
from tests.serving import Server
from tests.test_judge import answered_by, written


@pytest.fixture
def own() -> Iterator[Server]:
    running = Server(*JUDGE)
    yield running
    running.kill()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Database]:
    store, _ = topics(tmp_path / "my.duckdb")
    with store:
        yield store


def test_pairs_that_wait_for_a_batch_are_not_measured_as_unknown(
    opened: Database, own: Server, tmp_path: Path
) -> None:
    run, config, out = find_run(opened), JudgeConfig(check=40), tmp_path / "requests.jsonl"
    batch(opened, run, [own.model], config, out)
    lines = [answered_by(own, json.loads(line)) for line in out.read_text("utf-8").splitlines()]
    half = len(lines) // 2
    for number, part in enumerate((lines[:half], lines[half:])):
        file = written(tmp_path / f"{number}.jsonl", "".join(f"{json.dumps(one)}\n" for one in part))
        report = judge(opened, run, [own.model], config, answers=file)
        if number == 0:
            assert report.error is None
            assert [one.checked for one in stored.judges(opened)] == [None]
            assert judge(opened, run, [own.model], config).error is None  # they wait, and are not sent
    assert report.error is not None
    assert (report.error.positives + report.error.negatives, report.error.unknown) == (40, 0)


def test_an_answer_that_stays_unreadable_does_not_prevent_measuring(opened: Database, own: Server) -> None:
    own.faults(canned={"w3x": "refused"})
    config = JudgeConfig(check=40, again=True)
    report = judge(opened, find_run(opened), [own.model], config)
    assert report.error is not None
    assert report.error.unknown > 0
