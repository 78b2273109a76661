"""Numbers at their edges: every option, recipe key and configuration field says what it takes."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

import miner
from miner.cli.main import COMMANDS, group
from miner.cli.numbers import Within
from miner.cli.options import Settings
from miner.errors import UsageError
from miner.evaluation.evaluate import EvaluationConfig
from miner.mining.config import MiningConfig, Rules, Selection, read_recipe, with_values
from miner.ranges import COUNT, SHARE, Range, check_fields, literal, number, whole
from miner.recipe import Setting
from miner.sources.config import SourceConfig
from miner.store.select import Limits
from miner.training.examples import Columns
from miner.workflows.bench_config import BenchConfig
from miner.workflows.train import TrainingRows

HUGE = "9" * 400
ODD = (
    HUGE,
    f"-{HUGE}",
    "9" * 5000,
    "inf",
    "-inf",
    "nan",
    "1e308",
    "1e309",
    "-1e308",
    "",
    " ",
    "x" * 100_000,
    "0x10",
)
"""Texts that no number option takes as they are, but for a few in range."""

# One range


@pytest.mark.parametrize(
    ("allowed", "text"),
    [
        (whole(1, 10_000), "a whole number from 1 to 10,000"),
        (number(0, 1), "a number from 0 to 1"),
        (number(0, 1, above=True), "a number above 0 and at most 1"),
        (number(0, 1, below=True), "a number at least 0 and below 1"),
        (number(-1e30, 1e30), "a number from -1e+30 to 1e+30"),
    ],
)
def test_a_range_says_what_it_is(allowed: Range, text: str) -> None:
    assert str(allowed) == text


@pytest.mark.parametrize(
    ("allowed", "text"),
    [
        (number(-1e30, 1e30), "a number"),
        (number(-1e30, 1), "a number of 1 or less"),
        (number(0, 1e38, above=True), "a number above 0"),
        (COUNT, "a whole number of 1 or more"),
        (SHARE, "a number from 0 to 1"),
    ],
)
def test_an_end_that_nobody_meets_is_shown_only_to_a_number_beyond_it(allowed: Range, text: str) -> None:
    assert allowed.words == text
    assert allowed.allowed(False, "many") == text
    assert allowed.allowed(False, "1e300") == allowed.allowed(False, 10**5000) == str(allowed)
    assert allowed.allowed(True) == f"{text}{',' * (' or ' in text)} or none"


def test_both_ends_are_in_or_out() -> None:
    assert [whole(1, 3).number(n) for n in (0, 1, 3, 4)] == [None, 1, 3, None]
    open_ends = number(0, 1, above=True, below=True)
    assert [open_ends.number(n) for n in (0, 5e-324, 1 - 1e-16, 1)] == [None, 5e-324, 1 - 1e-16, None]


def test_a_negative_zero_is_a_zero() -> None:
    assert str(SHARE.number(-0.0)) == "0.0"
    assert str(SHARE.parse("-0")) == "0.0"
    assert str(whole(0, 5).parse("-0")) == "0"


def test_numbers_of_other_kinds_become_plain_ones() -> None:
    assert type(whole(1, 5).number(np.int64(3))) is int
    assert type(SHARE.number(np.float32(0.5))) is float
    assert type(SHARE.number(1)) is float
    assert SHARE.number(Fraction(1, 4)) == 0.25
    for value in (True, "1", None, 1.5, float("nan"), [1]):
        assert COUNT.number(value) is None
    assert SHARE.number(10**400) is None


@pytest.mark.parametrize(
    ("allowed", "value", "instead"),
    [
        (number(0, 1, below=True), "10%", "for 10 % write 0.1"),
        (number(0, 1, below=True), "10 %", "for 10 % write 0.1"),
        (number(0, 1, below=True), "12,5%", "for 12.5 % write 0.125"),
        (number(0, 1, below=True), 10, "for 10 % write 0.1"),
        (SHARE, "25", "for 25 % write 0.25"),
        (SHARE, "0,25", "write 0.25"),
        (SHARE, "0.5%", "for 0.5 % write 0.005"),
        (number(-1e30, 1), "5%", "for 5 % write 0.05"),
        (number(0, 100), "5%", "for 5 % write 5"),
        (number(0, 100), "0,5", "write 0.5"),
        (COUNT, "1,000", "write 1000"),
        (COUNT, "1,000,000", "write 1000000"),
        (SHARE, "150%", ""),
        (SHARE, 1.5, ""),
        (SHARE, "%", ""),
        (number(-1e30, 1e30), "5%", ""),
        (whole(1, 500), "1,000", ""),
        (COUNT, "1,00", ""),
        (COUNT, "5%", ""),
    ],
)
def test_a_percentage_or_a_comma_gets_the_number_to_write(
    allowed: Range, value: object, instead: str
) -> None:
    with pytest.raises(UsageError) as caught:
        allowed.require("x", value)
    end = f"got {literal(value)}{f': {instead}' if instead else ''}"
    assert caught.value.message == f"x must be {allowed.allowed(False, value)}, {end}"


def test_a_value_is_shown_on_one_line_that_can_be_read() -> None:
    assert literal("a\nb") == r"'a\nb'"
    assert len(literal("x" * 100_000)) == 60
    assert literal(10**5000) == "a number of thousands of digits"


# Every option of every command


def number_options() -> Iterator[tuple[str, click.Option]]:
    """Yields every option of every command that takes a number."""
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        for option in command.params:
            if option.param_type_name == "option" and isinstance(
                option.type, Within | click.types.IntParamType | click.types.FloatParamType
            ):
                yield name, option


OPTIONS = [pytest.param(option, id=f"{name} {option.opts[0]}") for name, option in number_options()]


def test_there_are_many() -> None:
    assert len(OPTIONS) > 20


@pytest.mark.parametrize("option", OPTIONS)
def test_the_help_of_every_number_option_shows_its_range(option: click.Option) -> None:
    command = click.Command("x", params=[option])
    record = option.get_help_record(click.Context(command))
    assert record is not None
    assert isinstance(option.type, Within)
    kind = "INTEGER RANGE" if option.type.allowed.is_whole else "FLOAT RANGE"
    assert record[0].endswith(kind)
    assert option.type._describe_range() in record[1]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("relabel", "--probability FLOAT RANGE [0<x<=1]"),
        ("loop", "--rounds INTEGER RANGE [1<=x<=1,000]"),
        ("mine", "--percentile FLOAT RANGE [0<=x<=100 or none]"),
    ],
)
def test_the_help_on_the_screen_shows_ranges(name: str, shown: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "miner", name, "--help"],
        capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    assert shown in re.sub(r"[\s│]+", " ", ended.stdout)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_number_option_has_a_range_and_names_it(option: click.Option) -> None:
    assert isinstance(option.type, Within), f"give {option.opts[0]} a range: miner.cli.numbers.Within"
    context = click.Context(click.Command("x", params=[option]))
    for value in ODD:
        if option.type.allowed.parse(value) is not None:
            continue
        with pytest.raises(click.BadParameter) as caught:
            option.type_cast_value(context, value)
        assert caught.value.exit_code == 2
        assert f"must be {option.type.allowed.allowed(False, value)}" in caught.value.message
        assert "got " in caught.value.message
        assert len(caught.value.message) < 250
        assert option.opts[0] in caught.value.format_message()
    default = option.get_default(context)
    assert default is None or option.type_cast_value(context, default) == default


SHARES = [
    pytest.param(settings, known, id=f"{name} {known.name}")
    for name in COMMANDS
    if (settings := getattr(group.get_command(click.Context(group), name), "settings", None))
    for table in settings.tables.values()
    for known in table.values()
    if known.range is not None and not known.range.is_whole and known.range.high in (1, 100)
]
"""Every setting of every command that is a share or a percentile."""


@pytest.mark.parametrize(("settings", "known"), SHARES)
def test_every_share_says_how_to_write_a_percentage(settings: Settings, known: Setting) -> None:
    assert known.range is not None
    written = "0.1" if known.range.high == 1 else "10"
    with pytest.raises(UsageError) as caught:
        known.parse("10%", "--set ")
    assert caught.value.message.startswith(f"--set {known.name} must be a number ")
    assert caught.value.message.endswith(f", got 10%: for 10 % write {written}")
    for option in settings.options():
        if option.name == known.name:
            with pytest.raises(click.BadParameter, match=f"got 10%: for 10 % write {written}$"):
                option.type_cast_value(click.Context(click.Command("x")), "10%")


def test_there_are_many_shares() -> None:
    assert len(SHARES) > 20
    refused = CliRunner().invoke(group, ["calibrate", "s", "--target", "1%"])
    assert refused.stderr.rstrip().endswith("got 1%: for 1 % write 0.01")


# Every configuration


def configurations() -> list[type]:
    """Returns every frozen dataclass of the package whose name says that it is a configuration."""
    found = {Rules, Selection, Limits, TrainingRows, Columns}
    for module in pkgutil.walk_packages(miner.__path__, "miner."):
        if module.name == "miner.__main__" or module.name.startswith("miner.cli"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and is_dataclass(value) and value.__name__.endswith("Config"):
                found.add(value)
    return sorted(found, key=lambda config: config.__name__)


FIELDS = [
    pytest.param(config, part, id=f"{config.__name__}.{part.name}")
    for config in configurations()
    for part in fields(config)
    if str(part.type).split(" ")[0] in ("int", "float")
    and config.__module__ not in ("miner.export.config", "miner.retrieval.config")
]
"""Without those that are checked elsewhere: BM25's in MiningConfig, an export's against its run."""


def made(config: type, **values: Any) -> Any:
    """Makes a configuration; what has no default gets one that fits."""
    needed = {
        part.name: MiningConfig(encoder="bundled") if part.name == "mining" else _default(str(part.type))
        for part in fields(config)
        if part.default is MISSING and part.default_factory is MISSING and part.name not in values
    }
    found = config(**needed, **values)
    if hasattr(found, "check"):
        found.check()
    return found


@pytest.mark.parametrize(
    "config",
    [
        *(
            kind
            for name in miner.__all__
            if is_dataclass(kind := getattr(miner, name)) and kind is not miner.Run
        ),
        Limits,
        Columns,
    ],
)
def test_an_unknown_keyword_is_refused_with_the_nearest_setting(config: type) -> None:
    names = [part.name for part in fields(config) if part.init]
    wrong = f"{names[-1]}x"
    with pytest.raises(UsageError) as caught:
        config(**{wrong: 3})
    assert caught.value.message.startswith(f"{config.__name__} has no setting '{wrong}' (did you mean '")
    assert caught.value.hint == f"its settings: {', '.join(names)}"
    assert set(inspect.signature(config).parameters) == set(names)


def test_a_setting_of_a_part_says_where_it_belongs() -> None:
    assert config_error(lambda: Rules(percntile=3)).startswith(  # type: ignore[call-arg]
        "Rules has no setting 'percntile' (did you mean 'percentile'?); its settings: decide_by, "
    )
    assert config_error(lambda: MiningConfig(percentile=3)) == (  # type: ignore[call-arg]
        "MiningConfig has no setting 'percentile'; write rules=Rules(percentile=…)"
    )
    assert config_error(lambda: BenchConfig(epochs=3)) == (  # type: ignore[call-arg]
        "BenchConfig has no setting 'epochs'; write training=EncoderConfig(epochs=…)"
    )
    assert config_error(lambda: replace(Rules(), percntile=3)).startswith("Rules has no setting 'percntile'")


def config_error(make: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        make()
    return str(caught.value)


def _default(kind: str) -> Any:
    from miner.training.encoder_config import EncoderConfig

    return EncoderConfig() if kind == "EncoderConfig" else 1


@pytest.mark.parametrize(("config", "part"), FIELDS)
def test_every_number_field_has_a_range_and_names_it(config: type, part: Any) -> None:
    assert "range" in part.metadata, f"give {config.__name__}.{part.name} a range: miner.ranges.within"
    odd = (
        10**400,
        -(10**400),
        10**5000,
        10**40,
        float("inf"),
        float("-inf"),
        float("nan"),
        1e308,
        "1",
        "",
        True,
        [],
    )
    for value in odd:
        with pytest.raises(UsageError) as caught:
            made(config, **{part.name: value})
        assert caught.value.message.startswith(f"{part.name} must be a")
        assert f"got {literal(value)}" in caught.value.message


def test_recipes_have_the_same_ranges(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    for line, message in (
        (
            f"depth = {10**30}",
            "depth must be a whole number from 1 to 100,000, got 1000000000000000000000000000000",
        ),
        ("bm25_k1 = inf", "bm25_k1 must be a number from 0 to 1,000, got inf"),
        ("bm25_b = nan", "bm25_b must be a number from 0 to 1, got nan"),
        ("[rules]\nmax_score = 1e308", "max_score must be a number from -1e+30 to 1e+30 or none, got 1e+308"),
    ):
        file.write_text(line)
        with pytest.raises(UsageError) as caught:
            with_values(MiningConfig(), read_recipe(file))
        assert caught.value.message == f"{file}: {message}"


@pytest.mark.parametrize("text", [f"depth = {'9' * 5000}", f"protected = {'[' * 5000}", "depth = ", "\ufffd"])
def test_a_recipe_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_recipe(file)
    assert caught.value.message.startswith(f"{file}: ")


def test_a_text_or_a_switch_of_another_kind_is_refused() -> None:
    for values, message in (
        ({"split": 5}, "split must be a text, got 5"),
        ({"split": ""}, "split is empty"),
        ({"overlaps": 1}, "overlaps must be true or false, got 1"),
    ):
        with pytest.raises(UsageError) as caught:
            MiningConfig(**values)  # type: ignore[arg-type]
        assert caught.value.message == message
    assert MiningConfig(encoder="bundled", query_prompt="").query_prompt == ""


def test_a_negative_zero_makes_the_same_configuration() -> None:
    assert repr(Rules(min_score=-0.0)) == repr(Rules(min_score=0))
    check_fields(Rules())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MiningConfig(rules=None), "rules must be a Rules(…), got None"),
        (lambda: MiningConfig(selection={"negatives": 3}), "selection must be a Selection(…), got {'neg"),
        (lambda: MiningConfig(protected="abc"), "protected must be a list or a tuple of texts, got 'abc'"),
        (lambda: MiningConfig(protected=None), "protected must be a list or a tuple of texts, got None"),
        (lambda: MiningConfig(protected=["a", 3]), "protected must hold texts only, got 3"),
        (lambda: Columns(texts="query"), "texts must be a list or a tuple of texts, got 'query'"),
        (lambda: EvaluationConfig(against="bundled"), "against must be a list or a tuple of texts, got 'bun"),
        (lambda: BenchConfig(arms="random"), "arms must be a list or a tuple of texts, got 'random'"),
        (lambda: BenchConfig(sizes=(100,)), "sizes must hold Size(…) only, got 100"),
        (lambda: BenchConfig(training=None), "training must be an EncoderConfig(…), got None"),
        (lambda: TrainingRows(columns=("query",)), "columns must be a Columns(…), got ('query',)"),
        (lambda: SourceConfig(header=False, columns="query").check(), "columns must be a list or a tuple of"),
    ],
)  # fmt: skip
def test_fields_that_hold_several_things_or_another_configuration_refuse_all_else(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert caught.value.message.startswith(message)


def test_a_list_of_ids_becomes_a_tuple() -> None:
    assert MiningConfig(protected=["a", "b"]) == MiningConfig(protected=("a", "b"))
    assert hash(MiningConfig(protected=["a"]).protected) == hash(("a",))
