"""What a command says of a run when it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from miner.cli.summary import summarise
from miner.mining.config import MiningConfig, Rules, with_values
from miner.mining.pipeline import config_of, decide_again, mine
from tests.stores import make_store


def test_queries_without_negatives_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = {"d1": "red fox", "d2": "red cat", "d3": "blue fish", "d4": "red deer"}
    queries = {"q1": "red", "q2": "blue"}
    with make_store(tmp_path / "s.duckdb", documents, queries, [("q1", "d1"), ("q2", "d3")]) as store:
        run = mine(store, with_values(MiningConfig(), {"relative_margin": "none", "negatives": 3}))
        summarise(store, run)
        some = capsys.readouterr().err.splitlines()
        run = mine(store, with_values(MiningConfig(), {"max_score": -1.0}))
        summarise(store, run)
        none = capsys.readouterr().err.splitlines()
    reported = "1 of 2 queries has negatives, 1 of them fewer than 3, 1 has none and is not trained on"
    assert f"  {reported}; view shortfalls lists them" in some
    assert some[-1].endswith("OUT --run r1")
    reported = "0 of 2 queries have negatives, 2 have none and are not trained on"
    assert f"  {reported}; view shortfalls lists them" in none
    few = "fewer than 5 candidates can be negatives, and there are no others"
    assert any(line.startswith(f"  2 queries: {few}") for line in none)
    assert none[-1] == f"next: miner explain {tmp_path / 's.duckdb'} QUERY_ID"
    assert not [line for line in some + none if "reference_positive" in line]


def test_each_scorer_has_the_name_that_decide_by_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = {"d1": "red fox", "d2": "red cat", "d3": "blue fish"}
    encoders = {"encoder": ["bundled", "bundled"], "query_prompt": ["bundled-2=query: "], "dtype": "fp32"}
    with make_store(tmp_path / "s.duckdb", documents, {"q": "red"}, [("q", "d1")]) as store:
        run = mine(store, with_values(MiningConfig(), encoders))
        summarise(store, run)
        (first, *_) = capsys.readouterr().err.splitlines()
        assert first.endswith(" of split train, by bm25 + bundled + bundled-2")
        assert [one.name for one in run.scorers] == ["bm25", "bundled", "bundled-2"]
        for scorer in run.scorers:
            named = replace(config_of(run), rules=Rules(decide_by=scorer.name))
            assert decide_again(store, run, named).deciding == scorer
