"""What changed between two runs: causes, counts that add up, and what became of each negative."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.errors import UsageError
from miner.mining.config import MiningConfig, Rules
from miner.mining.diff import differences
from miner.mining.pipeline import decide_again, mine
from miner.store import runs
from miner.store.database import Database
from miner.store.triplets import triplet_count
from miner.store.triplets import triplets as triplets_of
from tests.stores import make_store
from tests.test_audit import corpus
from tests.tiny import tiny_bert


@pytest.fixture
def store(tmp_path: Path) -> Database:
    opened = make_store(tmp_path / "s.duckdb", *corpus())
    config = MiningConfig(rules=Rules(relative_margin=None))
    run = mine(opened, config, name="naive")
    decide_again(opened, run, replace(config, rules=Rules(relative_margin=0.3)), name="strict")
    return opened


def pairs(store: Database, name: str) -> set[tuple[str, str]]:
    rows = triplets_of(store, runs.find_run(store, name)).to_pylist()
    return {(row["query_id"], row["negative_id"]) for row in rows}


def test_every_negative_that_went_is_reported_with_its_reason(store: Database) -> None:
    found = differences(store, "naive", "strict")
    before, after = pairs(store, "naive"), pairs(store, "strict")
    assert found.causes == ("relative_margin none → 0.3",)
    assert found.same_negatives == len(before & after)
    assert sum(one.number for one in found.moved if one.before == "negative") == len(before - after)
    assert sum(one.number for one in found.moved if one.after == "negative") == len(after - before)
    assert {one.after for one in found.moved if one.before == "negative"} == {"relative_margin"}
    for one in found.moved:
        assert ((one.query_id, one.doc_id) in before) == (one.before == "negative")
    assert found.positives == {"both": 48, "gone": 0, "new": 0}
    counted = triplet_count(store, runs.find_run(store, "naive"))
    assert found.triplets["both"] + found.triplets["gone"] == counted


def test_a_run_differs_from_itself_in_nothing_and_new_judgments_are_named(store: Database) -> None:
    same = differences(store, "naive", "naive")
    assert (same.causes, same.moved) == ((), ())
    (query, doc) = sorted(pairs(store, "naive"))[0]
    store.execute("INSERT INTO judgments VALUES (?, ?, 1, 'train', 'gold')", [query, doc])
    mine(store, MiningConfig(rules=Rules(relative_margin=None)), name="more")
    found = differences(store, "naive", "more")
    assert found.causes == ("judgments changed",)
    assert found.positives == {"both": 48, "gone": 0, "new": 1}
    assert ("negative", "judged_positive", 1) in [(m.before, m.after, m.number) for m in found.moved]


def test_the_command(store: Database) -> None:
    path = str(store.path)
    store.close()
    command = ["runs", "diff", path, "naive", "strict"]
    reported = CliRunner().invoke(group, command)
    assert reported.stdout.splitlines()[:2] == ["naive → strict", "  relative_margin none → 0.3"]
    assert "negative → dropped (relative_margin), such as" in reported.stdout
    assert json.loads(CliRunner().invoke(group, ["runs", "diff", path, "naive", "strict", "--json"]).stdout)[
        "moved"
    ]
    with pytest.raises(UsageError, match=r"no run 'naiv' in .* \(did you mean 'naive'\?\)"):
        CliRunner().invoke(group, ["runs", "diff", path, "naiv", "strict"], catch_exceptions=False)


def test_content_has_changed_only_if_both_runs_name_the_same_thing(store: Database, tmp_path: Path) -> None:
    """Two models may have one short name, in two runs or in one."""
    one, other = (str(tiny_bert(tmp_path / name / "small", labels=1, seed=3)) for name in "ab")
    tiny_bert(tmp_path / "b" / "small", labels=1, seed=4)
    file = tmp_path / "es.trec"
    (query, doc) = sorted(pairs(store, "naive"))[0]

    def run(name: str, *rerankers: str, **given: Any) -> None:
        mine(store, MiningConfig(reranker=rerankers, dtype="fp32", depth=3, **given), name=name)

    run("first", one)
    run("second", other)
    run("both", one, other)
    assert [one.name for one in runs.find_run(store, "both").rerankers] == ["small", "small-2"]
    for before, after in (("first", "second"), ("second", "both"), ("first", "both")):
        causes = differences(store, before, after).causes
        assert [cause.split()[0] for cause in causes] == ["reranker"], causes
    tiny_bert(tmp_path / "b" / "small", labels=1, seed=5)
    run("again", one, other)
    assert differences(store, "both", "again").causes == (f"the weights of {other} changed",)
    assert [cause.split()[0] for cause in differences(store, "first", "again").causes] == ["reranker"]
    for name, score in (("run", 1), ("other-run", 2)):
        file.write_text(f"{query} Q0 {doc} 1 {score} es\n", "utf-8")
        run(name, candidates=(str(file),))
    assert differences(store, "run", "other-run").causes == (f"the content of {file} changed",)
