"""Which rules a command applies, and that it prints them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import mine
from miner.mining.rules import in_force, name_of
from tests.stores import make_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Mined once by the default rule, as run `base`."""
    documents = {f"d{i}": f"apple pie w{i} w{i % 3} w{i % 7}" for i in range(30)}
    queries = {f"q{i}": f"apple w{i} w{i + 1}" for i in range(6)}
    judged = [(f"q{i}", f"d{i + j}") for i in range(6) for j in (0, 7)]
    with make_store(tmp_path / "s.duckdb", documents, queries, judged) as made:
        mine(made, MiningConfig(), name="base")
    return tmp_path / "s.duckdb"


def printed(*arguments: str | Path) -> str:
    """Returns the line with the rules in force that a command prints."""
    result = CliRunner().invoke(group, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    (line,) = [line.strip() for line in result.output.splitlines() if line.strip().startswith("rules: ")]
    return line


MARGIN = "rules: relative_margin 0.05; reference positive: lowest"


@pytest.mark.parametrize(
    ("flags", "rules"),
    [
        ([], MARGIN),
        (["--set", "reference_positive=median"], "rules: relative_margin 0.05; reference positive: median"),
        (["--percentile", "5"], "rules: percentile 5"),
        (["--set", "skip_top=3"], "rules: skip_top 3"),
        (["--set", "skip_top=3", "--relative-margin", "0.05"], f"rules: skip_top 3 + {MARGIN[7:]}"),
        (["--relative-margin", "none", "--percentile", "5"], "rules: percentile 5"),
        (["--relative-margin", "none"], "rules: no rule"),
    ],
)
def test_mine_prints_the_rules_in_force(store: Path, flags: list[str], rules: str) -> None:
    assert printed("mine", store, *flags) == rules


@pytest.mark.parametrize(
    ("flags", "rules"),
    [
        (["--negatives", "2"], MARGIN),
        (["--percentile", "5"], "rules: percentile 5"),
        (["--relative-margin", "none"], "rules: no rule"),
        (["--percentile", "none", "--negatives", "2"], MARGIN),
        (["--set", "reference_positive=best"], "rules: relative_margin 0.05; reference positive: best"),
    ],
)
def test_decide_keeps_the_rules_of_the_run_until_one_is_named(
    store: Path, flags: list[str], rules: str
) -> None:
    assert printed("decide", store, "--run", "base", *flags) == rules


def test_a_flag_joins_the_rules_of_the_recipe(store: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[rules]\npercentile = 5.0\nmin_score = 0.1\n", "utf-8")
    assert printed("mine", store, "--config", recipe) == "rules: min_score 0.1 + percentile 5"
    flags = ["--config", recipe, "--percentile", "9", "--set", "min_score=none", "--set", "max_rank=50"]
    assert printed("mine", store, *flags) == "rules: max_rank 50 + percentile 9"


def test_an_audit_prints_the_rules_that_it_measures(store: Path) -> None:
    assert printed("audit", store) == MARGIN
    printed("decide", store, "--percentile", "30", "--name", "other")
    assert printed("audit", store, "--run", "other") == "rules: percentile 30"


def test_the_reference_positive_is_named_where_something_uses_it() -> None:
    percentile = Rules(percentile=5.0)
    assert in_force(MiningConfig(rules=percentile)) == "rules: percentile 5"
    simans = MiningConfig(rules=percentile, selection=Selection(strategy="ambiguous"))
    assert in_force(simans) == "rules: percentile 5; reference positive: lowest"
    each = MiningConfig(rules=Rules(percentile=5.0, reference_positive="each"))
    assert in_force(each) == "rules: percentile 5; reference positive: each"
    assert name_of(Rules(max_rank=20)) == "max_rank 20"
    assert (
        name_of(Rules(relative_percentile=0.5, reference_positive="best"))
        == "relative_percentile 0.5, reference positive best"
    )
