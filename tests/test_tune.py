"""`miner tune`: short trainings choose the negatives; what is left over is compared with several seeds."""

from __future__ import annotations

import json
import os
import shutil
import signal
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
from miner.workflows.bench_result import Trained, compared
from miner.workflows.tune import TuneReport, tune
from miner.workflows.tune_arms import Arm, ArmRows, DataFacts, baselines, facts_of, pool, rules_to_try, spread
from miner.workflows.tune_config import TuneConfig, parse_budget
from miner.workflows.tune_report import recipe, recipe_values, table
from tests import forking
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


def test_a_kill_changes_neither_the_choice_nor_repeats_a_training(
    path: Path, result: tuple[TuneReport, Path, list[str]], tmp_path: Path
) -> None:
    report, _, _ = result
    config = [
        f"--set={name}={value}" for name, value in (("dimension", 16), ("batch_size", 4), ("epochs", 4))
    ]
    given = [
        "tune", path, "--base", "scratch", *config, "--set", "threads=1", "--set", "arms=5",
        "--set", f"work={tmp_path / 'w'}", "--json",
    ]  # fmt: skip
    running = forking.start(forking.command, given)
    running.until(4, ": nDCG@10 ")
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "w" / "cells").glob("*.json")}
    assert 3 <= len(before) < report.plan.trainings
    again = forking.miner(*given)
    assert again.code == 0, again.err
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "w" / "cells").glob("*.json")}
    assert {name: after[name] for name in before} == before
    found = json.loads(again.out)
    assert {name: value for name, value in found.items() if name != "seconds"} == content(report), "one seed"


def test_a_budget_that_is_too_small_leaves_the_smallest_plan_and_says_so(path: Path, tmp_path: Path) -> None:
    notes = Notes()
    report = tune(path, tmp_path / "w", replace(SMALL, budget=1e-6, finalists=1), notes)
    assert (report.plan.arms, report.plan.rows) == (1, 32)
    assert any(note.endswith("of a budget of 0 s: no smaller plan is left") for note in notes.said)
    again = tune(path, tmp_path / "w", replace(SMALL, budget=1e-6, finalists=1))
    assert again.as_json() == report.as_json()


def test_a_large_budget_changes_nothing_but_notes(
    path: Path, result: tuple[TuneReport, Path, list[str]], tmp_path: Path
) -> None:
    report, work, _ = result
    shutil.copytree(work, tmp_path / "w")
    notes = Notes()
    found = tune(path, tmp_path / "w", replace(SMALL, budget=1e6), notes)
    assert (found.plan, found.rungs) == (report.plan, report.rungs)
    assert any("of a budget of 277.8 h" in note for note in notes.said)


# --- what is compared


def test_the_pool_crosses_rules_with_ways_to_select() -> None:
    rules = [Rules(), Rules(percentile=5), Rules(relative_margin=0.2)]
    arms = pool(rules, Selection(), 99, TRAINING)
    assert len(arms) == len(set(arms)) == 3 * 6 - 1 + 1
    assert baselines(rules[0], Selection(), TRAINING)[0] not in arms
    assert arms[3] == Arm("easy", 4)
    first = [arm for arm in arms[:8] if arm.kind == "mined"]
    assert {replace(arm.rules, max_rank=None) for arm in first} == set(rules), "a prefix has all rules"
    assert {arm.selection.strategy for arm in arms} == {"top", "random", "ambiguous"}
    assert {arm.rules.max_rank for arm in arms} == {None, 33}
    assert all(arm.selection.negatives >= arm.per_row for arm in arms)


def test_a_loss_of_single_negatives_has_no_wide_arms_and_no_in_batch() -> None:
    training = EncoderConfig(loss="triplet")
    arms = [*baselines(Rules(), Selection(), training), *pool([Rules()], Selection(), 9, training)]
    assert {arm.per_row for arm in arms} == {1}
    assert "in-batch" not in {arm.kind for arm in arms}


def test_a_narrow_depth_that_leaves_nothing_is_no_arm() -> None:
    arms = pool([Rules(), Rules(skip_top=4)], Selection(), 12, TRAINING)
    assert [arm.rules for arm in arms if arm.rules.max_rank is not None] == [
        Rules(relative_margin=0.05, max_rank=4)
    ]


def test_a_spread_has_both_ends() -> None:
    rules = [Rules(percentile=share) for share in range(9)]
    assert spread(rules, 3) == [rules[0], rules[4], rules[8]]
    assert spread(rules, 20) == rules
    assert spread([], 5) == []


def test_rules_are_the_default_ones_the_runs_own_and_the_frontiers(path: Path) -> None:
    with Database.open(path, read_only=True) as store:
        run = find_run(store)
        rules = rules_to_try(store, run, facts_of(store, run), 13, Notes())
    assert rules[:2] == [Rules(), Rules(relative_margin=0.1)]
    assert len(rules) > 3


def test_rows_of_an_arm_are_those_that_train_has(path: Path) -> None:
    with Database.open(path, read_only=True) as store:
        run = find_run(store)
        own = Arm("mined", 1, config_of(run).rules, config_of(run).selection)
        rows = ArmRows(store, run, [own, Arm("easy", 2), Arm("in-batch", 0)], TRAINING, [13, 14])
    assert rows.count(own) == len(rows.examples(own, 99, 13)) == 36
    with Database.open(path, read_only=True) as store:
        triplets = store.rows("SELECT query, positive, negative FROM triplet_texts WHERE rank <= 2")
    found = list(zip(*rows.examples(own, 99, 13).texts.values(), strict=True))
    assert set(found) <= {tuple(row) for row in triplets}
    assert rows.examples(own, 9, 13).texts["anchor"] == [row[0] for row in found[:9]], (
        "a shorter one is a prefix"
    )
    easy = [rows.examples(Arm("easy", 2), 9, seed).texts for seed in (13, 14)]
    assert (
        easy[0]["positive"]
        == easy[1]["positive"]
        == rows.examples(Arm("in-batch", 0), 9, 13).texts["positive"]
    )
    assert easy[0]["negative_1"] != easy[1]["negative_1"]


def test_one_positive_per_query_is_said_and_has_a_fixed_list_of_rules(tmp_path: Path) -> None:
    with Database.open(make(tmp_path / "s.duckdb", positives=1), read_only=True) as store:
        run = find_run(store)
        facts = facts_of(store, run)
        assert facts == DataFacts(labelled=False, single=True)
        assert "that one is the reference positive" in facts.notes()[0]
        rules = rules_to_try(store, run, facts, 13, Notes())
    assert len({one.reference_positive for one in rules}) == 1
    assert len(rules) > 3


def test_positives_by_label_have_no_margins(tmp_path: Path) -> None:
    labels = {f"{kind}{t}": str(t % 3) for t in range(TOPICS) for kind in "qdox"}
    with Database.open(make(tmp_path / "s.duckdb", labels=labels), read_only=True) as store:
        run = find_run(store)
        facts = facts_of(store, run)
        assert facts.labelled
        assert "rank windows, depth, the strategy and the negatives per row" in facts.notes()[0]
        rules = rules_to_try(store, run, facts, 13, Notes())
    assert Rules(relative_margin=None) in rules
    assert all(one.relative_margin is None for one in rules if one != Rules(relative_margin=0.1))
    assert [one.skip_top for one in rules[-2:]] == [5, 20]


# --- what is said


def trained(arm: str, *means: float) -> Trained:
    return Trained(arm, 8, 4, 0, {"MAP": means}, {"MAP": np.repeat(means, 20)})


def reported(result: TuneReport, *arms: tuple[Arm, tuple[float, ...]]) -> TuneReport:
    """A report of these arms; the first one mined is that of the default rules."""
    finals = sorted((trained(arm.name, *means) for arm, means in arms), key=lambda one: -one.mean("MAP"))
    return replace(
        result, measure="MAP", arms={arm.name: arm for arm, _ in arms}, finals=tuple(finals),
        comparisons=compared([(finals[0], other) for other in finals[1:]], ["MAP"]),
    )  # fmt: skip


DEFAULT, STRICT = Arm("mined", 1), Arm("mined", 4, Rules(percentile=5), Selection(strategy="random"))
EASY, IN_BATCH = Arm("easy", 1), Arm("in-batch", 0)


def test_the_verdict_names_the_baselines(result: tuple[TuneReport, Path, list[str]]) -> None:
    low, high, mixed = (0.1, 0.1, 0.1), (0.5, 0.5, 0.6), (0.5, 0.5, 0.4)
    report = reported(result[0], (DEFAULT, low), (EASY, mixed), (IN_BATCH, low), (STRICT, high))
    assert report.verdicts == [
        "choice: percentile 5, random, 4 per row",
        "it is ahead of the default rules and in-batch negatives alone with every seed (p < 0.05, corrected)",
        "its mean is at least that of easy negatives, but no difference is shown",
    ]
    assert report.chosen == STRICT
    level = reported(result[0], (DEFAULT, low), (STRICT, high), (Arm("easy", 4), high))
    assert level.verdicts[1:] == [
        "it is ahead of the default rules with every seed (p < 0.05, corrected)",
        "its mean is at least that of easy negatives (4 per row), but no difference is shown",
    ]


@pytest.mark.parametrize(
    ("arm", "words"), [(EASY, "easy negatives win"), (IN_BATCH, "in-batch negatives win")]
)
def test_it_says_when_hard_negatives_do_not_pay(
    result: tuple[TuneReport, Path, list[str]], arm: Arm, words: str
) -> None:
    report = reported(result[0], (DEFAULT, (0.1, 0.1, 0.1)), (arm, (0.5, 0.5, 0.5)))
    assert report.verdicts[-1].startswith(f"{words}: no setting of hard negatives has a higher mean")
    text = recipe(report)
    assert "[rules]" not in text
    assert f'[training]\nrow_negatives = "{arm.kind}"\n' in text


def test_the_recipe_mines_and_trains_the_choice(
    path: Path, result: tuple[TuneReport, Path, list[str]], tmp_path: Path
) -> None:
    given = replace(result[0].config, training=replace(TRAINING, base="scratch"))
    report = replace(reported(result[0], (DEFAULT, (0.1, 0.1, 0.1)), (STRICT, (0.5, 0.5, 0.5))), config=given)
    file = tmp_path / "tuned.toml"
    report.write_recipe(file)
    lines = file.read_text("utf-8").splitlines()
    assert lines[0] == "# Tuned on run r1 of s.duckdb: percentile 5, random, 4 per row."
    assert lines[lines.index("[training]") :] == [
        "[training]", "negatives_per_row = 4", 'base = "scratch"', "epochs = 4.0", "batch_size = 4",
        "dimension = 16",
    ]  # fmt: skip
    copy = shutil.copy(path, tmp_path / "s.duckdb")
    run = miner.decide(copy, "r1", name="tuned", **miner.read_recipe(file))
    assert config_of(run).rules == STRICT.rules
    assert config_of(run).selection.strategy == "random"
    done = forking.miner(
        "train", copy, tmp_path / "m", "--run", "tuned", "--config", file, "--set", "evaluations=0",
        "--negatives-per-row", 2,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "anchor, positive, negative_1, negative_2" in done.out
    report.write_recipe(file)  # its own recipe is replaced
    file.write_text("precious", "utf-8")
    with pytest.raises(UsageError, match="was not written by miner tune"):
        report.write_recipe(file)
    assert file.read_text("utf-8") == "precious"


def test_the_result_is_readable(result: tuple[TuneReport, Path, list[str]]) -> None:
    report, *_ = result
    assert repr(report).startswith("Tuning of run 'r1': ")
    assert report.as_text() == table(report)
    assert "choice: " in report._repr_html_()
    text = table(report)
    assert "nDCG@10, seed 13" in text
    assert text.splitlines()[0] == "s.duckdb dev: 6 queries, 90 documents"
    assert json.loads(json.dumps(report.as_json())) == report.as_json()


# --- easy and in-batch rows of miner train


@pytest.mark.parametrize(("kind", "columns"), [("easy", 3), ("in-batch", 2), ("mined", 3)])
def test_train_reads_the_kind_of_negatives(path: Path, tmp_path: Path, kind: str, columns: int) -> None:
    copy = shutil.copy(path, tmp_path / "s.duckdb")
    report = miner.train(copy, tmp_path / "m", replace(TRAINING, max_steps=1), row_negatives=kind)
    assert len(report.metrics.columns) == columns
    assert report.metrics.rows == 36


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"row_negatives": "esay"}, "row_negatives must be one of mined, easy, in-batch, got 'esay'"),
        ({"row_negatives": "easy", "judgments": "gold"}, "row_negatives is for a run: judgments are pairs"),
        (
            {"row_negatives": "in-batch", "negatives_per_row": 2},
            "in-batch rows have no negatives of their own",
        ),
        (
            {"row_negatives": "in-batch", "loss": "triplet"},
            "loss triplet needs a negative in every row, in-batch rows have none",
        ),
        (
            {"row_negatives": "easy", "loss": "margin-mse"},
            "loss margin-mse needs the scores of mined negatives, easy ones have none",
        ),
    ],
)
def test_kinds_of_negatives_that_make_no_sense_are_refused(
    path: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    base = {} if "loss" in settings else {"base": "scratch"}
    with pytest.raises(UsageError) as caught:
        miner.train(path, tmp_path / "m", **{**base, **settings})
    assert caught.value.message.startswith(message)
    assert not (tmp_path / "m").exists()


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dev_split": "test"}, "tune chooses by the split that it measures on, and test must not choose"),
        ({"seeds": 2}, "seeds must be a whole number from 3 to 1,000, got 2"),
        ({"budget": "soon"}, "budget must be a time such as 30m, got 'soon'"),
        ({"budget": 0}, "budget must be a number above 0 and at most 1,000,000, got 0"),
        ({"training": EncoderConfig(loss="cosine")}, "loss cosine does not use negatives"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        TuneConfig(**settings)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), (" 1m5s ", 65)]
)
def test_budgets_are_read(text: str, seconds: float) -> None:
    assert parse_budget(text) == TuneConfig(budget=text).seconds == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "1.5h", "30m2h", "-5m", "0s", "1d"])
def test_budgets_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="budget must be a time such as 30m"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"dev_split": "devel"}, "nothing is judged in split 'devel'", "--dev 0.1"),
        ({"dev_split": "train"}, "run r1 is of split 'train', which also chooses", "another split"),
        ({"run": "none"}, "no run 'none'", ""),
    ],
)
def test_what_the_store_lacks_is_refused(
    path: Path, tmp_path: Path, settings: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(MinerError) as caught:
        tune(path, tmp_path / "w", replace(SMALL, **settings))
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert not (tmp_path / "w" / "cells").exists()


def test_a_store_without_a_run_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "s.duckdb", {"d": "x"}, {"q": "y"}, [("q", "d", "dev")]).close()
    with pytest.raises(MinerError, match="holds no finished run") as caught:
        tune(tmp_path / "s.duckdb", tmp_path / "w", SMALL)
    assert caught.value.hint == f"mine first: miner mine {tmp_path / 's.duckdb'}"


def test_a_folder_of_somebody_else_is_left_alone(path: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("precious", "utf-8")
    with pytest.raises(UsageError, match="exists and is not the folder of a tuning"):
        tune(path, tmp_path, SMALL)
    with locked(tmp_path / "w" / "cells"), pytest.raises(MinerError, match="another process is writing"):
        tune(path, tmp_path / "w", SMALL)


def test_the_command_writes_the_recipe_and_says_what_is_next(
    path: Path, result: tuple[TuneReport, Path, list[str]], tmp_path: Path
) -> None:
    report, work, _ = result
    given = [
        str(path), "--base", "scratch", "--set", "dimension=16", "--set", "batch_size=4", "--set", "epochs=4",
        "--set", "threads=1", "--set", "arms=5", "--set", f"work={work}",
        "--out", str(tmp_path / "tuned.toml"),
    ]  # fmt: skip
    shown = CliRunner().invoke(command, given)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == f"{table(report)}\n"
    assert f"--config {tmp_path / 'tuned.toml'}" in shown.stderr
    assert (tmp_path / "tuned.toml").read_text("utf-8") == recipe(report)
    assert json.loads(CliRunner().invoke(command, [*given, "--json"]).stdout) == report.as_json()


def test_from_python_a_store_and_a_run_tune(path: Path, result: tuple[TuneReport, Path, list[str]]) -> None:
    report, work, _ = result
    with miner.Store.open(path, read_only=True) as store:
        settings: dict[str, Any] = {"arms": 5, "training": TRAINING, "budget": None}
        assert content(store.tune(work, **settings)) == content(report)
        assert store.run("r1").tune(work, **settings).run == "r1"


def test_a_recipe_leaves_out_what_its_strategy_ignores() -> None:
    """The run's own `easy_share` is still in the selection of an arm with another strategy."""
    own = Selection(strategy="mixed", easy_share=0.2, seed=5)
    for strategy, kept in (("mixed", {"easy_share": 0.2}), ("random", {})):
        values = recipe_values(Arm("mined", 1, selection=replace(own, strategy=strategy)), EncoderConfig())
        assert values["selection"] == {"negatives": 5, "strategy": strategy, "seed": 5, **kept}
