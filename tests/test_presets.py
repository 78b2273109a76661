"""Presets: a selection for what is trained, under all named settings, on the command line and from Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import miner
from miner.cli import decide, loop, mine
from miner.cli.main import group
from miner.door.arguments import configured
from miner.errors import UsageError
from miner.mining.config import (
    STRATEGIES,
    TABLES,
    MiningConfig,
    Rules,
    Selection,
    flat,
    read_recipe,
    with_values,
)
from miner.mining.pipeline import config_of, decide_again
from miner.mining.pipeline import mine as mine_run
from miner.mining.presets import MEASURED, PRESETS, PURPOSES, preset_values, summary
from miner.recipe import as_text, parse_all, written
from miner.training.encoder_config import EncoderConfig
from miner.workflows.loop import LoopConfig
from tests.cache_support import Notes
from tests.stores import make_store
from tests.tiny import tiny_bert

NAMES = tuple(PRESETS)
DEFAULTS = asdict(Selection())


def test_every_preset_is_a_configuration_of_mining() -> None:
    assert set(PRESETS) == set(PURPOSES) == set(MEASURED) == {"mnr", "distillation", "reranker"}
    for name in PRESETS:
        config = with_values(MiningConfig(), preset_values(name))
        assert config.selection.strategy in STRATEGIES
        # decide takes every preset, and none names a rule that is on: that would replace the default rule.
        assert {*PRESETS[name]} <= {*TABLES["rules"], *TABLES["selection"]}
        assert config.rules in (Rules(), Rules(relative_margin=None))


def test_named_settings_go_over_the_preset() -> None:
    named = {"negatives": 3, "percentile": 5.0}
    config = with_values(MiningConfig(), {**preset_values("reranker"), **named})
    assert config.selection.negatives == 3
    assert config.selection.strategy == PRESETS["reranker"]["strategy"]
    assert config.rules == Rules(percentile=5.0)


def test_a_preset_is_a_copy_and_an_unknown_one_is_named() -> None:
    preset_values("mnr")["negatives"] = 99
    assert preset_values("mnr")["negatives"] == PRESETS["mnr"]["negatives"]
    with pytest.raises(UsageError) as caught:
        preset_values("rerank")
    assert str(caught.value) == (
        "no preset 'rerank' (did you mean 'reranker'?); choose one of: mnr, distillation, reranker"
    )
    for other in (3, None, ["mnr"]):
        with pytest.raises(UsageError, match=r"^no preset .*; choose one of: mnr, distillation, reranker$"):
            preset_values(other)  # type: ignore[arg-type]


def test_what_a_preset_sets_is_shown_as_set_takes_it() -> None:
    for name in PRESETS:
        assert flat(parse_all(summary(name).split(), TABLES)) == PRESETS[name]
    texts = [as_text(one) for one in (None, True, False, 3, 0.4, "top")]
    assert texts == ["none", "true", "false", "3", "0.4", "top"]


# Precedence: default < run < preset < recipe < option or --set


named = st.fixed_dictionaries(
    {},
    optional={
        "negatives": st.integers(1, 99),
        "strategy": st.sampled_from(STRATEGIES),
        "easy_share": st.floats(0, 1),
        "document_cap": st.none() | st.integers(0, 9),
        "positives": st.sampled_from(["all", "best"]),
        "seed": st.integers(0, 99),
    },
)
"""Some settings of the selection, with values."""


def given_to(recipe: Path, assignments: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what Click gives to `mine` or `decide`."""
    keys = ("decide_by", *mine.CANDIDATES, *mine.RULES, *mine.SELECTION)
    texts = [f"{key}={as_text(value)}" for key, value in assignments.items()]
    return {**dict.fromkeys(keys), **options, "recipe": recipe, "assignments": texts}


@given(
    own=named, written_down=named, assigned=named, name=st.sampled_from(NAMES),
    layer=st.sampled_from(["option", "--set", "recipe", "recipe and option"]), named_rule=st.booleans(),
)  # fmt: skip
def test_a_preset_is_over_the_run_and_under_all_that_is_named(
    tmp_path_factory: pytest.TempPathFactory, own: dict[str, Any], written_down: dict[str, Any],
    assigned: dict[str, Any], name: str, layer: str, named_rule: bool,
) -> None:  # fmt: skip
    recipe = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    lines = written_down | ({"for": name} if layer == "recipe" else {})
    lines |= {"for": next(one for one in NAMES if one != name)} if layer == "recipe and option" else {}
    recipe.write_text("\n".join(["[selection]", *written(lines)]) + "\n", "utf-8")
    options = {"for": name} if layer in ("option", "recipe and option") else {}
    if "negatives" in assigned:
        options["negatives"] = assigned["negatives"]
    rest = {key: value for key, value in assigned.items() if key != "negatives"}
    rest |= {"for": name} if layer == "--set" else {}
    rest |= {"percentile": 5.0} if named_rule else {}
    run = MiningConfig(depth=7, selection=Selection(**own))
    for settings, base in ((mine.SETTINGS, MiningConfig()), (decide.SETTINGS, run)):
        config = with_values(base, flat(settings.values(given_to(recipe, rest, options))))
        selection = {**asdict(base.selection), **PRESETS[name], **written_down, **assigned}
        assert asdict(config.selection) == {key: selection[key] for key in DEFAULTS}
        rules = with_values(MiningConfig(), PRESETS[name]).rules
        assert config.rules == (Rules(percentile=5.0) if named_rule else rules)
        assert config.depth == base.depth


@given(own=named, keywords=named, name=st.sampled_from(NAMES))
def test_the_same_from_python(own: dict[str, Any], keywords: dict[str, Any], name: str) -> None:
    base = MiningConfig(depth=7, selection=Selection(**own))
    found = configured(MiningConfig, base, keywords, name)
    assert found == with_values(base, {**PRESETS[name], **keywords})
    whole = Selection(**keywords)
    assert configured(MiningConfig, base, {"selection": whole}, name).selection == whole
    mining = replace(base, encoder="a")
    clear = {key: value for key, value in keywords.items() if key != "seed"}  # the training has one too
    rounds = configured(LoopConfig, LoopConfig(mining, EncoderConfig()), clear, name)
    assert rounds.mining == with_values(mining, {**PRESETS[name], **clear})


@given(name=st.sampled_from(NAMES), rest=named)
def test_loop_takes_a_preset_as_a_setting(name: str, rest: dict[str, Any]) -> None:
    texts = [f"selection.{key}={as_text(value)}" for key, value in {"for": name, **rest}.items()]
    options = dict.fromkeys(("rounds", "encoder", "base", "recipe"))
    values = loop.SETTINGS.values(options | {"assignments": texts})
    assert flat(values) == {**PRESETS[name], **rest}


def test_a_recipe_that_is_read_names_the_values(tmp_path: Path) -> None:
    for name in PRESETS:
        (tmp_path / "r.toml").write_text(f"depth = 5\n[selection]\nnegatives = 9\nfor = '{name}'\n")
        assert read_recipe(tmp_path / "r.toml") == {**PRESETS[name], "depth": 5, "negatives": 9}


# On a store


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = {f"d{i}": f"apple pie w{i} w{i % 3} w{i % 7}" for i in range(30)}
    queries = {f"q{i}": f"apple w{i} w{i + 1}" for i in range(6)}
    judged = [(f"q{i}", f"d{i + j}") for i in range(6) for j in (0, 7)]
    file = tmp_path_factory.mktemp("presets") / "s.duckdb"
    make_store(file, documents, queries, judged).close()
    return file


@pytest.fixture
def store(base: Path, tmp_path: Path) -> Path:
    """A copy of a small store without a run."""
    return Path(shutil.copy(base, tmp_path / "s.duckdb"))


def called(*words: str | Path) -> Result:
    result = CliRunner().invoke(group, [str(word) for word in words], env={"COLUMNS": "200"})
    if isinstance(result.exception, UsageError):
        raise result.exception
    return result


def selected(name: str) -> dict[str, Any]:
    """Returns the values of a preset that are settings of the selection."""
    return {key: value for key, value in PRESETS[name].items() if key in DEFAULTS}


def selection(store: Path, run: str) -> dict[str, Any]:
    """Returns the selection that a run stores."""
    values: dict[str, Any] = miner.find_run(store, run).config["selection"]
    return values | {"quota": tuple(values["quota"])}


@pytest.mark.parametrize("name", NAMES)
def test_a_run_with_a_preset_is_the_run_that_names_its_values(store: Path, name: str) -> None:
    chosen = called("mine", store, "--for", name)
    assert chosen.exit_code == 0, chosen.output
    assert selection(store, "r1") == DEFAULTS | selected(name)
    by_hand = called("mine", store, *set_all(PRESETS[name]))
    assert "run r1 is already finished; there is nothing to do" in by_hand.stderr
    assert by_hand.stdout == chosen.stdout
    assert [run.name for run in miner.runs(store)] == ["r1"]
    (recipe := store.parent / "r.toml").write_text(f"[selection]\nfor = '{name}'\n")
    for words in (["--config", recipe], ["--set", f"for={name}"], ["--set", f"selection.for={name}"]):
        assert called("mine", store, *words).stdout == chosen.stdout
    assert miner.mine(store, for_=name).name == miner.mine(store, **miner.read_recipe(recipe)).name == "r1"
    called("mine", store, "--for", name, "--negatives", "2", "--name", "two")
    assert selection(store, "two") == DEFAULTS | selected(name) | {"negatives": 2}


def set_all(values: Mapping[str, Any]) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={as_text(value)}")]


@pytest.mark.parametrize("name", NAMES)
def test_decide_puts_a_preset_over_the_selection_of_the_run(store: Path, name: str) -> None:
    own = {"negatives": 1, "strategy": "mixed", "easy_share": 0.9, "document_cap": 4, "seed": 5}
    called("mine", store, "--percentile", "50", *set_all(own))
    called("decide", store, "--for", name, "--name", "preset")
    assert selection(store, "preset") == DEFAULTS | own | selected(name)
    (again,) = [one for one in miner.runs(store) if one.name == "preset"]
    rules = with_values(MiningConfig(rules=Rules(percentile=50)), PRESETS[name]).rules
    assert again.config["rules"] == asdict(rules)
    called("decide", store, "--run", "r1", "--for", name, *set_all({"negatives": 2}), "--name", "two")
    assert selection(store, "two") == DEFAULTS | own | selected(name) | {"negatives": 2}
    first = miner.find_run(store, "r1")
    assert selection(store, first.decide(for_=name, name="python").name) == selection(store, "preset")
    with miner.Store.open(store) as opened:
        run = opened.mine(for_=name, selection=Selection(negatives=3), name="whole")
    assert selection(store, run.name) == DEFAULTS | {"negatives": 3}


def test_the_differences_of_two_runs_name_what_a_preset_changed(store: Path) -> None:
    own = {"negatives": 1, "strategy": "ambiguous"}
    called("mine", store, *set_all(own))
    for name in PRESETS:
        called("mine", store, "--for", name, "--name", name)
        changed = {key for key, value in selected(name).items() if value != (DEFAULTS | own)[key]}
        causes = {cause.split()[0] for cause in miner.diff(store, "r1", name).causes}
        assert causes & {*DEFAULTS} == changed


def test_decide_by_is_an_option_of_decide(store: Path) -> None:
    called("mine", store, "--encoder", "bundled", "--relative-margin", "none")
    called("decide", store, "--decide-by", "bm25", "--name", "words")
    assert miner.find_run(store, "words").config["rules"]["decide_by"] == "bm25"
    called("decide", store, "--decide-by", "none", "--name", "last")
    assert miner.find_run(store, "last").config["rules"]["decide_by"] is None
    with pytest.raises(UsageError) as caught:
        called("decide", store, "--decide-by", "bm52")
    assert str(caught.value) == "no scorer 'bm52' decides here (did you mean 'bm25'?); scorers: bm25, bundled"
    assert "It is a setting: --set decide_by=VALUE" in called("mine", store, "--decide-by", "bm25").stderr


# Errors and help


@pytest.mark.parametrize("command", ["mine", "decide"])
def test_an_unknown_preset_is_wrong_use_and_the_nearest_is_named(command: str, store: Path) -> None:
    refused = called(command, store, "--for", "rerank")
    assert refused.exit_code == 2
    assert (
        "Invalid value for '--for': 'rerank' is not one of 'mnr', 'distillation', 'reranker' "
        "(did you mean 'reranker'?)." in refused.stderr
    )
    other = called(command, store, "--for", "zzz").stderr
    assert "'zzz' is not one of 'mnr', 'distillation', 'reranker'." in other
    (recipe := store.parent / "r.toml").write_text("[selection]\nfor = 'distilation'\n")
    expected = (
        "for must be one of mnr, distillation, reranker, got 'distilation' (did you mean 'distillation'?)"
    )
    for words, where in ((["--set", "for=distilation"], "--set "), (["--config", recipe], f"{recipe}: ")):
        with pytest.raises(UsageError) as caught:
            called(command, store, *words)
        assert str(caught.value) == where + expected
    with pytest.raises(UsageError, match=r"^--for and --set for are both given; leave one out$"):
        called(command, store, "--for", "mnr", "--set", "for=mnr")
    with pytest.raises(UsageError, match=r"^unknown key 'for'"):
        with_values(MiningConfig(), {"for": "mnr"})


@pytest.mark.parametrize("words", ["mine --help", "decide --help", "mine --set help", "loop --set help"])
def test_the_help_lists_what_each_preset_sets(words: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "miner", *words.split()],
        capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    shown = " ".join(re.sub(r"[│\s]+", " ", ended.stdout).split())
    assert [name for name in PRESETS if f"{name}: {summary(name)}" not in shown] == []


def test_the_page_lists_what_each_preset_sets_and_is_for(root: Path) -> None:
    page = (root / "docs" / "how-mining-decides.md").read_text("utf-8")
    for name, purpose in PURPOSES.items():
        assert f"| `{name}` | `{summary(name)}` | {purpose} |" in page


@pytest.mark.parametrize(
    ("words", "setting"),
    [("mine --split", "split"), ("mine --queries", "queries"), ("dedup --threshold", "threshold")],
)
def test_an_option_that_made_room_names_its_setting(words: str, setting: str, store: Path) -> None:
    command, option = words.split()
    assert f"It is a setting: --set {setting}=VALUE" in called(command, store, option, "1").stderr


def test_scores_for_distillation_that_no_reranker_gave_are_noted(tmp_path: Path) -> None:
    documents = {f"d{i}": f"red fox {i}" for i in range(9)}
    (tmp_path / "es.trec").write_text("".join(f"q Q0 d{i} 1 {9 - i} es\n" for i in range(9)), "utf-8")
    with make_store(tmp_path / "s.duckdb", documents, {"q": "red fox"}, [("q", "d1")]) as store:

        def noted(name: str, **given: Any) -> list[str]:
            notes = Notes()
            values = {**preset_values(name), **given}
            run = mine_run(store, with_values(MiningConfig(), values), progress=notes)
            decide_again(store, run, replace(config_of(run), rules=Rules(percentile=70)), progress=notes)
            return [one for one in notes.said if "reranker's" in one]

        text = "strategy stratified is for an encoder that learns a reranker's scores, but {} decides: {}"
        assert noted("distillation") == [text.format("bm25 (bm25)", "mine with --reranker")] * 2
        given = text.format("es (imported)", "mine with --reranker, unless its scores are a reranker's")
        assert noted("distillation", candidates=str(tmp_path / "es.trec")) == [given] * 2
        assert noted("mnr") == noted("reranker") == []
        reranker = str(tiny_bert(tmp_path / "cross", labels=1))
        assert noted("distillation", reranker=reranker, dtype="fp32") == []
