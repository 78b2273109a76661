"""Flags are made from the configuration's keys, and win over the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rich_click as click
from click.testing import CliRunner

from miner.cli.options import config_options, given
from miner.errors import UsageError
from miner.mining.config import MiningConfig, Rules, Selection, with_values


def run(*arguments: str) -> tuple[MiningConfig | None, str]:
    """Returns the configuration that a command with these arguments gets, and what it said."""
    made: list[MiningConfig] = []

    @click.command()
    @config_options(MiningConfig, Rules, Selection)
    def command(recipe: Path | None, **flags: Any) -> None:
        made.append(with_values(MiningConfig(), given(recipe, flags)))

    result = CliRunner().invoke(command, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return (made[0] if made else None), result.output


def test_no_flag_is_the_default() -> None:
    assert run()[0] == MiningConfig()


def test_every_kind_of_flag() -> None:
    config, _ = run(
        "--split", "dev", "--depth", "7", "--no-bm25", "--encoder", "bundled", "--bm25-k1", "0.9",
        "--protected", "007", "--protected", "d2", "--no-overlaps", "--reference-positive", "each",
        "--max-score", "1", "--relative-margin", "off", "--negatives", "3", "--document-cap", "0",
        "--strategy", "random", "--positives", "best",
    )  # fmt: skip
    assert config == MiningConfig(
        split="dev",
        depth=7,
        bm25=False,
        encoder="bundled",
        bm25_k1=0.9,
        protected=("007", "d2"),
        overlaps=False,
        rules=Rules(reference_positive="each", max_score=1.0, relative_margin=None),
        selection=Selection(negatives=3, document_cap=0, strategy="random", positives="best"),
    )


def test_flags_win_over_the_recipe_and_the_recipe_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(
        "depth = 5\nencoder = 'bundled'\nbm25 = false\nprotected = ['a']\n"
        "[rules]\nmax_score = 2\nskip_top = 3\n[selection]\nnegatives = 9\n"
    )
    config, _ = run("--config", str(file))
    assert config is not None
    assert (config.depth, config.bm25, config.protected) == (5, False, ("a",))
    assert (config.rules.max_score, config.rules.skip_top) == (2.0, 3)
    config, _ = run(
        "--config", str(file), "--depth", "6", "--bm25", "--encoder", "off", "--protected", "b",
        "--max-score", "off", "--skip-top", "0",
    )  # fmt: skip
    assert config is not None
    assert (config.depth, config.bm25, config.encoder, config.protected) == (6, True, None, ("b",))
    assert (config.rules.max_score, config.rules.skip_top) == (None, 0)
    assert config.selection.negatives == 9


def test_ids_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes(b"\xef\xbb\xbf007\n\n d2 \r\nd 3\n")
    config, _ = run("--protected", "a", "--protected", f"@{file}", "--protected", "b")
    assert config is not None
    assert config.protected == ("a", "007", "d2", "d 3", "b")


def test_a_file_of_ids_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run("--protected", f"@{tmp_path / 'none'}")
    assert caught.value.message == f"cannot read ids from {tmp_path / 'none'}: No such file or directory"
    assert caught.value.hint == "give a text file"
    (tmp_path / "latin").write_bytes(b"\xe9\n")
    with pytest.raises(UsageError, match=r"^cannot read ids from"):
        run("--protected", f"@{tmp_path / 'latin'}")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("--depth", "many"),
            "Invalid value for '--depth': must be a whole number from 1 to 100,000, got many",
        ),
        (
            ("--depth", "1.5"),
            "Invalid value for '--depth': must be a whole number from 1 to 100,000, got 1.5",
        ),
        (
            ("--max-score", "high"),
            "Invalid value for '--max-score': must be a number from -1e+30 to 1e+30 or off, got high",
        ),
        (
            ("--reference-positive", "worst"),
            "Invalid value for '--reference-positive': 'worst' is not one of",
        ),
        (("--dtype", "fp16"), "Invalid value for '--dtype': 'fp16' is not one of"),
    ],
)
def test_a_flag_of_the_wrong_kind_is_wrong_use(arguments: tuple[str, str], text: str) -> None:
    config, output = run(*arguments)
    assert config is None
    assert text in " ".join(output.replace("│", " ").split())


def test_a_number_that_cannot_be_is_wrong_use() -> None:
    for option, value in (("--depth", "off"), ("--max-score", "nan"), ("--negatives", "0")):
        config, output = run(option, value)
        assert config is None
        assert f"Invalid value for '{option}': must be " in " ".join(output.replace("│", " ").split())


def test_help_shows_every_key_and_its_default() -> None:
    @click.command()
    @config_options(MiningConfig, Rules, Selection)
    def command(recipe: Path | None, **flags: Any) -> None:
        """Does nothing."""

    shown = {parameter.opts[0]: parameter.help or "" for parameter in command.params}
    assert len(shown) == 1 + len(
        [
            name
            for c in (MiningConfig, Rules, Selection)
            for name in c.__dataclass_fields__
            if name not in ("rules", "selection")
        ]
    )
    assert all(shown.values())
    assert shown["--depth"].endswith("[default: 100]")
    assert shown["--relative-margin"].endswith("[default: 0.05, or off with another rule].")
    assert shown["--bm25"].endswith("[default: bm25]")
    assert "default" not in shown["--max-score"]
    assert next(iter(shown)) == "--config"


def test_only_keys_of_the_configuration_are_taken() -> None:
    assert given(None, {"depth": 5, "threads": 2, "encoder": None, "protected": ()}) == {"depth": 5}
