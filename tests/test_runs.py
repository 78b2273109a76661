"""The list of a store's runs, and runs taken out: what is left is what it would be without them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from miner.auditing.audit import audit
from miner.auditing.calibrate import calibrate
from miner.auditing.config import AuditConfig, CalibrationConfig
from miner.cli.main import group
from miner.errors import UsageError
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import decide_again, mine
from miner.store import runs
from miner.store.database import Database
from miner.store.triplets import triplet_count
from miner.store.triplets import triplets as triplets_of
from tests.stores import make_store
from tests.test_audit import corpus

NAIVE = MiningConfig(rules=Rules(relative_margin=None))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two runs over the same evidence, the first one audited, and one over other evidence."""
    path = tmp_path / "s.duckdb"
    with make_store(path, *corpus()) as opened:
        run = mine(opened, NAIVE, name="naive")
        audit(opened, run, AuditConfig(repeats=2))
        decide_again(opened, run, replace(NAIVE, rules=Rules(relative_margin=0.3)), name="strict")
        mine(opened, replace(NAIVE, depth=3), name="shallow")
    return path


def called(*arguments: object) -> Result:
    return CliRunner().invoke(group, ["runs", *map(str, arguments)])


def counts(store: Path) -> dict[str, int]:
    tables = (
        "pools",
        "scored",
        "searches",
        "positives",
        "decisions",
        "triplets",
        "audits",
        "runs",
        "stages",
        "chunks",
        "hits",
    )
    with Database.open(store, read_only=True) as opened:
        return {name: opened.rows(f"SELECT count(*) FROM {name}")[0][0] for name in tables}


def test_the_list(store: Path) -> None:
    lines = [
        re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "-", line) for line in called(store).stdout.splitlines()
    ]
    with Database.open(store, read_only=True) as opened:
        numbers = [f"{triplet_count(opened, run):,}" for run in runs.runs(opened)]
    rows = [re.split(r" {2,}", line) for line in lines]
    head = ["run", "split", "started (UTC)", "triplets", "per query", "coverage"]
    assert rows[0] == [*head, "hidden-positive rate", "by"]
    assert [row[:5] for row in rows[1:]] == [
        [name, "train", "-", number, "5"]
        for name, number in zip(["naive", "strict", "shallow"], numbers, strict=True)
    ]
    assert [row[7] for row in rows[1:]] == ["bm25"] * 3
    assert all(row[5].endswith(" %") for row in rows[1:])
    assert rows[1][6].endswith(" %")
    assert [row[6] for row in rows[2:]] == ["not audited"] * 2


def test_a_run_without_negatives_does_not_look_like_the_best_one(store: Path) -> None:
    with Database.open(store) as opened:
        naive = runs.find_run(opened, "naive")
        none = decide_again(opened, naive, replace(NAIVE, rules=Rules(skip_top=500)), name="none")
        with pytest.raises(UsageError, match="no negatives, so its hidden-positive rate is not measured"):
            audit(opened, none, AuditConfig(repeats=2))
        with pytest.raises(UsageError, match="run 'none' has no negatives to keep the coverage of"):
            calibrate(opened, none, None, CalibrationConfig())
    row = re.split(r" {2,}", called(store).stdout.splitlines()[-1])
    assert row[3:7] == ["0", "5", "0.0 %", "no negatives"]


def test_as_json_with_every_setting(store: Path) -> None:
    rows = json.loads(called(store, "--json").stdout)
    assert [row["run"] for row in rows] == ["naive", "strict", "shallow"]
    assert [row["config"]["rules"]["relative_margin"] for row in rows] == [None, 0.3, None]
    assert rows[0]["hidden_positive_rate"] is not None
    assert rows[1]["hidden_positive_rate"] is None


def test_an_unfinished_run_is_listed_and_can_be_removed(store: Path) -> None:
    with Database.open(store) as opened:
        opened.execute("UPDATE runs SET status = 'running', finished = NULL WHERE name = 'shallow'")
    assert "unfinished" in called(store).stdout.splitlines()[-1]
    assert called(store, "--remove", "shallow").exit_code == 0
    assert len(called(store).stdout.splitlines()) == 3


def test_evidence_goes_with_the_last_run_that_needs_it(store: Path, tmp_path: Path) -> None:
    before = counts(store)
    ended = called(store, "--remove", "naive")
    assert (ended.exit_code, ended.stderr) == (0, f"removed from {store}: naive\n")
    one_less = counts(store)
    for name in ("pools", "scored", "positives", "stages", "chunks", "hits", "searches"):
        assert one_less[name] == before[name]
    assert (one_less["runs"], one_less["audits"]) == (2, 0)
    assert one_less["triplets"] < before["triplets"]
    assert called(store, "--remove", "strict", "--remove", "shallow").exit_code == 0
    left = counts(store)
    assert {name: number for name, number in left.items() if number} == {
        name: left[name] for name in ("stages", "chunks", "hits")
    }
    assert (before["hits"], before["searches"]) == (0, 2), "evidence holds the hits of its searches"
    assert left["hits"] > 0, "which stay when it goes"
    assert called(store).stderr == f"{store} has no runs; make one: miner mine {store}\n"


def test_a_removed_run_is_made_again_the_same(store: Path) -> None:
    with Database.open(store, read_only=True) as opened:
        triplets = triplets_of(opened, runs.find_run(opened, "naive"))
    called(store, "--remove", "naive", "--remove", "strict")
    with Database.open(store) as opened:
        again = mine(opened, NAIVE, name="naive")
        assert triplets_of(opened, again).equals(triplets)


def test_a_name_that_is_no_run_removes_nothing(store: Path) -> None:
    before = counts(store)
    ended = called(store, "--remove", "naive", "--remove", "stirct")
    assert isinstance(ended.exception, UsageError)
    assert str(ended.exception) == (
        f"no run 'stirct' in {store} (did you mean 'strict'?); runs there: naive, strict, shallow"
    )
    assert counts(store) == before


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a\x1b[31mb", "'a\\x1b[31mb' has control characters"),
        ("a\nb", "'a\\nb' has control characters"),
        ("a\u202eb", "'a\\u202eb' has control characters"),
        (" a", "' a' begins or ends with white space"),
        ("a\u00a0", "'a\u00a0' begins or ends with white space"),
        ("", "'' is empty"),
    ],
)
def test_a_run_name_that_does_not_print_is_refused(store: Path, name: str, fault: str) -> None:
    before = counts(store)
    for arguments in (["mine", store, "--name", name], ["decide", store, "--name", name]):
        ended = CliRunner().invoke(group, list(map(str, arguments)))
        assert isinstance(ended.exception, UsageError)
        assert str(ended.exception) == f"the run name {fault}; choose another name, such as strict"
    assert counts(store) == before


def test_a_run_name_of_someone_elses_store_does_not_drive_the_terminal(store: Path) -> None:
    with Database.open(store) as opened:
        opened.execute("UPDATE runs SET name = ? WHERE name = 'naive'", ["a\x1b[31mb\x9b\nc"])
    for arguments in (["runs", store], ["audit", store, "--run", "a\x1b[31mb\x9b\nc"]):
        ended = CliRunner().invoke(group, list(map(str, arguments)))
        assert "a\\x1b[31mb\\x9b" in ended.output
        assert not {"\x1b", "\x9b"} & set(ended.output)


@pytest.mark.parametrize(("name", "meant"), [("Strict", "strict"), ("shal", "shallow"), ("naiev", "naive")])
def test_a_wrong_run_name_gets_the_nearest_one_wherever_a_run_is_named(
    store: Path, name: str, meant: str
) -> None:
    path, out = str(store), str(store.parent / "out")
    for words in (
        ["runs", path, "--remove", name],
        ["runs diff", path, name, "naive"],
        ["decide", path, "--run", name],
        ["explain", path, "q10", "--run", name],
        ["audit", path, "--run", name],
        ["calibrate", path, "--run", name],
        ["relabel", path, "--run", name],
        ["export", path, out, "--run", name],
        ["train", path, out, "--run", name],
        ["bench", path, "--split", "train", "--run", name, "--out", out],
    ):
        result = CliRunner().invoke(group, words)
        assert isinstance(result.exception, UsageError), words
        assert result.exception.message == f"no run '{name}' in {store} (did you mean '{meant}'?)"
