"""What a command says of a run when it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from miner.cli.summary import summarise
from miner.mining.config import MiningConfig, with_values
from miner.mining.pipeline import mine
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
    few = "fewer than 5 candidates were found, and there are no others"
    assert any(line.startswith(f"  2 queries: {few}") for line in none)
    assert none[-1] == f"next: miner explain {tmp_path / 's.duckdb'} QUERY_ID"
    assert not [line for line in some + none if "reference_positive" in line]
