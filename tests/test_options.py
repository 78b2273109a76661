"""Settings are options, keys of `--set` and keys of a recipe; commands have few options and a short help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import rich_click as click
from click.testing import CliRunner

from miner.auditing.relabel import RelabelConfig
from miner.cli.main import COMMANDS, group
from miner.cli.options import Command, Settings, flag
from miner.curation.contamination import ContaminationConfig
from miner.curation.dedup import DedupConfig
from miner.errors import UsageError
from miner.evaluation.evaluate import EvaluationConfig
from miner.export import ExportConfig
from miner.mining.config import TABLES, MiningConfig, Rules, Selection, flat, with_values
from miner.recipe import Setting, Tables, by_name
from miner.workflows.bench_config import BenchConfig
from miner.workflows.loop import LoopConfig
from miner.workflows.train import TrainingRows
from miner.workflows.tune_config import TuneConfig
from tests.stores import make_store

MINING = Settings(
    TABLES,
    {
        "Candidates": ("split", "depth", "bm25", "encoder", "protected"),
        "Rules": ("reference_positive", "max_score", "relative_margin"),
        "Selection": ("negatives", "strategy"),
    },
)


def called(settings: Settings, *arguments: str) -> tuple[dict[str, dict[str, Any]] | None, str]:
    """Returns the values that a command with these settings gets, and what it said."""
    made: list[dict[str, dict[str, Any]]] = []

    @click.command("mine", cls=Command, settings=settings, renamed={"--run": "--name"})
    def command(**given: Any) -> None:
        made.append(settings.values(given))

    result = CliRunner().invoke(command, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return (made[0] if made else None), " ".join(result.output.replace("│", " ").split())


def mining(*arguments: str) -> MiningConfig | None:
    """Returns the configuration that these arguments make."""
    values, _ = called(MINING, *arguments)
    return None if values is None else with_values(MiningConfig(), flat(values))


def commands() -> Iterator[click.Command]:
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield command


SET = [command for command in commands() if getattr(command, "settings", None)]


def test_nothing_given_is_the_default() -> None:
    assert mining() == MiningConfig()


def test_every_kind_of_setting_as_an_option_and_with_set(tmp_path: Path) -> None:
    expected = MiningConfig(
        split="dev",
        depth=7,
        bm25=False,
        encoder="bundled",
        dimension=64,
        protected=("007", "d2"),
        overlaps=False,
        rules=Rules(reference_positive="each", max_score=1.0, relative_margin=None),
        selection=Selection(negatives=3, document_cap=0, strategy="random", positives="best"),
    )
    options = [
        "--split", "dev", "--depth", "7", "--no-bm25", "--encoder", "bundled", "--set", "dimension=64",
        "--protected", "007", "--protected", "d2", "--set", "overlaps=false", "--reference-positive", "each",
        "--max-score", "1", "--relative-margin", "none", "--negatives", "3", "--set", "document_cap=0",
        "--strategy", "random", "--set", "positives=best",
    ]  # fmt: skip
    assignments = (
        "split=dev depth=7 bm25=false encoder=bundled dimension=64 protected=007 protected=d2 overlaps=false "
        "rules.reference_positive=each max_score=1 relative_margin=none selection.negatives=3 document_cap=0 "
        "strategy=random positives=best"
    )
    assert mining(*options) == expected
    assert mining(*(word for one in assignments.split() for word in ("--set", one))) == expected


def test_options_and_set_win_over_the_recipe_and_the_recipe_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(
        "depth = 5\nencoder = 'bundled'\nbm25 = false\nprotected = ['a']\n"
        "[rules]\nmax_score = 2\nskip_top = 3\n[selection]\nnegatives = 9\n"
    )
    config = mining("--config", str(file))
    assert config is not None
    assert (config.depth, config.bm25, config.protected) == (5, False, ("a",))
    assert (config.rules.max_score, config.rules.skip_top) == (2.0, 3)
    config = mining(
        "--config", str(file), "--depth", "6", "--set", "bm25=true", "--encoder", "none", "--protected", "b",
        "--max-score", "none", "--set", "skip_top=0",
    )  # fmt: skip
    assert config is not None
    assert (config.depth, config.bm25, config.encoder, config.protected) == (6, True, (), ("b",))
    assert (config.rules.max_score, config.rules.skip_top) == (None, 0)
    assert config.selection.negatives == 9


def test_ids_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes(b"\xef\xbb\xbf007\n\n d2 \r\nd 3\n")
    ids = ("a", "007", "d2", "d 3", "b")
    for option in (["--protected"], ["--set"]):
        before = "protected=" if option == ["--set"] else ""
        config = mining(*(word for one in ("a", f"@{file}", "b") for word in (*option, f"{before}{one}")))
        assert config is not None
        assert config.protected == ids


def test_a_file_of_ids_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        mining("--protected", f"@{tmp_path / 'none'}")
    assert caught.value.message == f"cannot read ids from {tmp_path / 'none'}: No such file or directory"
    assert caught.value.hint == "give a text file"
    (tmp_path / "latin").write_bytes(b"\xe9\n")
    with pytest.raises(UsageError, match=r"^cannot read ids from"):
        mining("--set", f"protected=@{tmp_path / 'latin'}")


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("depth", "many", "must be a whole number from 1 to 100,000, got many"),
        ("depth", "1.5", "must be a whole number from 1 to 100,000, got 1.5"),
        ("depth", "none", "must be a whole number from 1 to 100,000, got none"),
        ("max_score", "high", "must be a number or none, got high"),
        ("max_score", "nan", "must be a number or none, got nan"),
        ("negatives", "0", "must be a whole number from 1 to 10,000, got 0"),
    ],
)
def test_a_number_out_of_range_is_wrong_use(option: str, value: str, text: str) -> None:
    config, output = called(MINING, flag(option), value)
    assert config is None
    assert f"Invalid value for '{flag(option)}': {text}" in output
    with pytest.raises(UsageError) as caught:
        called(MINING, "--set", f"{option}={value}")
    assert caught.value.message == f"--set {option} {text}"


def test_a_value_that_is_none_of_the_choices_is_wrong_use() -> None:
    assert "Invalid value for '--strategy': 'hard' is not one of" in called(MINING, "--strategy", "hard")[1]
    with pytest.raises(UsageError) as caught:
        called(MINING, "--set", "dtype=bf61")
    assert caught.value.message == (
        "--set dtype must be one of auto, fp32, bf16, got 'bf61' (did you mean 'bf16'?)"
    )
    with pytest.raises(UsageError, match=r"^--set overlaps is 'no'; give true or false$"):
        called(MINING, "--set", "overlaps=no")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_scor=1", "unknown key 'max_scor' (did you mean 'max_score'?)"),
        ("rule.max_score=1", "unknown key 'rule.max_score' (did you mean 'max_score'?)"),
        ("depth", "--set depth has no value"),
        ("=5", "unknown key ''"),
    ],
)
def test_a_misspelt_key_names_the_nearest(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        called(MINING, "--set", text)
    assert caught.value.message == message


def test_a_setting_given_twice() -> None:
    config = mining("--set", "depth=5", "--set", "depth=6")
    assert config is not None
    assert config.depth == 6
    with pytest.raises(UsageError, match=r"^--depth and --set depth are both given; leave one out$"):
        mining("--set", "depth=5", "--depth", "6")


TWO: Tables = {
    "": by_name(Setting("queries", "How many.")),
    "a": by_name(Setting("seed", "One."), Setting("dtype", "One.")),
    "b": by_name(Setting("seed", "Other.")),
}


def test_a_key_of_two_tables_needs_its_table() -> None:
    two = Settings(TWO, {})
    values = called(two, "--set", "a.seed=1", "--set", "b.seed=2", "--set", "dtype=x", "--set", "queries=q")[
        0
    ]
    assert values == {"": {"queries": "q"}, "a": {"seed": "1", "dtype": "x"}, "b": {"seed": "2"}}
    with pytest.raises(UsageError) as caught:
        called(two, "--set", "seed=1")
    assert str(caught.value) == "'seed' is in several tables of the recipe; write a.seed or b.seed"


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--max-rank", "No such option '--max-rank'. It is a setting: --set max_rank=VALUE"),
        ("--no-overlaps", "No such option '--no-overlaps'. It is a setting: --set overlaps=false"),
        ("--overlaps", "No such option '--overlaps'. It is a setting: --set overlaps=true"),
        ("--max-rnk", "No such option '--max-rnk'. Did you mean --set max_rank=VALUE?"),
        ("--dept", "No such option '--dept'. Did you mean --depth?"),
        ("--run", "No such option '--run'. It is --name now."),
        ("--zzzzzz", "No such option '--zzzzzz'."),
    ],
)
def test_an_unknown_option_says_what_it_is_now(option: str, hint: str) -> None:
    values, output = called(MINING, option, "5")
    assert values is None
    assert output.rstrip("╰─╯ ").endswith(hint)


def test_the_help_shows_defaults() -> None:
    shown = {option.opts[0]: option.help or "" for option in MINING.options()}
    assert shown["--depth"].endswith("[default: 100]")
    assert shown["--relative-margin"].endswith("[default: 0.05, or none with another rule].")
    assert "default" not in shown["--max-score"]
    assert list(shown)[-2:] == ["--config", "--set"]


def test_set_help_lists_every_setting_without_any_argument() -> None:
    values, output = called(MINING, "--set", "help", "--depth", "many")
    assert values is None
    assert "Settings of mine: --set KEY=VALUE" in output
    assert (
        "depth Candidates per query and retriever. a whole number from 1 to 100,000; default: 100; "
        "option: --depth bm25 Search with BM25. true or false; default: true; option: --no-bm25 bm25_backend"
    ) in output
    assert "[rules]: decide_by The scorer" in output
    assert (
        "max_rank Drop candidates that every retriever ranks below this. a whole number of 1 or more, or none"
        in output
    )


# Every command


@pytest.mark.parametrize("command", SET, ids=lambda command: command.name)
def test_set_help_lists_the_settings_of_every_command(command: Command) -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(command, ["--set", "help"], prog_name=command.name)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert command.settings is not None
    for table, settings in command.settings.tables.items():
        assert not table or f"[{table}]:" in lines
        assert [key for key in settings if not any(line.startswith(f"  {key} ") for line in lines)] == []
    assert max(map(len, lines)) <= 80


def test_there_are_at_most_193_options() -> None:
    """182, and the 11 of `generate`: those of `judge`, and which documents, how many queries, the encoder."""
    options = [
        option for command in [group, *commands()] for option in command.params if option.opts[0][0] == "-"
    ]
    assert len(options) <= 193


@pytest.mark.parametrize("command", SET, ids=lambda command: command.name)
def test_every_setting_can_be_set(command: Command, tmp_path: Path) -> None:
    """With `--set` and in a recipe, its own default and nothing else."""
    settings = command.settings
    assert settings is not None
    for title, members in settings.tables.items():
        for name, setting in members.items():
            values = _samples(setting)
            several = sum(name in other for other in settings.tables.values()) > 1
            table = title or ("mining" if several else "")
            given = {
                "recipe": None,
                "assignments": [f"{table}.{name}={values[0]}" if table else f"{name}={values[0]}"],
            }
            found = settings.values(dict.fromkeys(_flags(command)) | given)
            assert found[title] == {name: found[title][name]}
            file = tmp_path / "recipe.toml"
            file.write_text((f"[{title}]\n" if title else "") + f"{name} = {values[1]}\n", "utf-8")
            again = settings.values(dict.fromkeys(_flags(command)) | {"recipe": file, "assignments": []})
            assert again == found


def _flags(command: click.Command) -> list[str]:
    return [option.name or "" for option in command.params]


def _samples(setting: Setting) -> tuple[str, str]:
    """Returns a value as `--set` and as TOML write it."""
    if setting.range is not None:
        low, high = max(setting.range.low, -2), min(setting.range.high, 30)
        number = f"{high if setting.range.is_whole else (low + high) / 2:g}"
        return number, number
    if setting.kind is bool:
        return "true", "true"
    if setting.kind is tuple:
        return "a", '["a"]'
    special = {"relevance_map": "E=3", "budget": "30m"}
    text = setting.choices[0] if setting.choices else special.get(setting.name, "1")
    return text, f'"{text}"'


CONFIGS = {
    "dedup": DedupConfig, "contamination": ContaminationConfig, "evaluate": EvaluationConfig,
    "export": ExportConfig, "bench": BenchConfig, "loop": LoopConfig, "train": TrainingRows,
    "relabel": RelabelConfig, "tune": TuneConfig,
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_the_defaults_in_the_help_are_those_of_the_configuration(name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert isinstance(command, Command)
    assert command.settings is not None
    described = {}
    for table, settings in command.settings.tables.items():
        if name != "loop" or table == "loop":
            described |= settings
    for part in fields(CONFIGS[name]):
        if part.name in described and described[part.name].default is not None:
            assert described[part.name].default == part.default, part.name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_is_short_and_grouped(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "miner", *name.split(), "--help"],
        capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip
    lines = ended.stdout.splitlines()
    assert len(lines) <= 90
    assert max(map(len, lines)) <= 80
    command = group.get_command(click.Context(group), name)
    assert command is not None
    for param in command.params:
        if isinstance(param.type, click.Choice):  # a longer list would be broken in mid-word
            assert param.metavar == "NAME" or len("|".join(param.type.choices)) <= 24
            assert all(re.search(rf"\b{choice}\b", ended.stdout) for choice in param.type.choices)
    if len(command.params) > 5:
        assert ended.stdout.count("╭─ ") >= 3


def test_a_store_given_as_another_argument_is_named(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    with make_store(store, {"d": "a"}, {"q": "b"}, [("q", "d")]):
        pass
    for words, order, right in (
        (["train", "out", store], "OUT: the order is TRIPLETS OUT", f"train {store} out"),
        (["export", "out", store], "OUT: the order is STORE OUT", f"export {store} out"),
        (["loop", "out", store], "OUT: the order is STORE OUT", f"loop {store} out"),
        (["pretrain", "out", store], "OUT: the order is STORE OUT", f"pretrain {store} out"),
        (["train-reranker", "a b", store], "OUT: the order is STORE OUT", f"train-reranker {store} 'a b'"),
        (["explain", "q", store], "QUERY_ID: the order is STORE QUERY_ID", f"explain {store} q"),
        (["evaluate", store, "m"], "MODEL: the order is MODEL STORE", f"evaluate m {store}"),
        (
            ["runs diff", "r1", "r2", store],
            "AFTER: the order is STORE BEFORE AFTER",
            f"runs diff {store} r1 r2",
        ),
    ):
        result = CliRunner().invoke(group, [str(word) for word in words])
        assert isinstance(result.exception, UsageError), words
        assert str(result.exception) == f"{store} is a store, not {order}; miner {right}"
    result = CliRunner().invoke(group, ["sql", "SELECT 1", str(store)])
    assert str(result.exception) == (
        f"{store} is a file, not QUERY: the order is STORE QUERY; miner sql {store} 'SELECT 1'"
    )
