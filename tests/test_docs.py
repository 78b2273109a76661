"""What the documentation says is true: its SQL runs, its recipe is read, its Python works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from miner.mining.config import MiningConfig, read_recipe, with_values
from miner.mining.pipeline import decide_again, mine
from miner.schema import Reason
from miner.store.database import Store
from miner.store.select import Limits, select
from tests.stores import make_store

DOCS = Path(__file__).parent.parent / "docs"


def blocks(file: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / file).read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs") / "s.duckdb"
    corpus = {f"d{i}": f"apple pie number {i} with word{i % 3}" for i in range(12)}
    with make_store(
        path, corpus, {"q0": "apple pie", "q1": "word1 pie"}, [("q0", "d0"), ("q1", "d1")]
    ) as made:
        run = mine(made, with_values(MiningConfig(), {"relative_margin": "off"}))
        decide_again(made, run, with_values(MiningConfig(), {"relative_margin": 0.1}))
    return path


@pytest.mark.parametrize("query", blocks("the-store.md", "sql"))
def test_every_query_runs(store: Path, query: str) -> None:
    with select(store, query, Limits()) as result:
        assert result.columns
        result.arrow()


def test_there_are_ten_queries() -> None:
    assert len(blocks("the-store.md", "sql")) == 10


def test_every_table_and_view_is_documented(store: Path) -> None:
    page = (DOCS / "the-store.md").read_text("utf-8")
    with Store.open(store, read_only=True) as opened:
        names = opened.rows(
            """SELECT table_name FROM duckdb_tables()
            UNION SELECT view_name FROM duckdb_views() WHERE NOT internal"""
        )
    assert [name for (name,) in names if name != "meta" and f"`{name}`" not in page] == []


def test_every_reason_is_documented() -> None:
    page = (DOCS / "how-mining-decides.md").read_text("utf-8")
    assert [reason for reason in Reason if f"`{reason}`" not in page] == []


def test_the_recipe_is_read(tmp_path: Path) -> None:
    (recipe,) = blocks("getting-started.md", "toml")
    (tmp_path / "recipe.toml").write_text(recipe)
    config = with_values(MiningConfig(), read_recipe(tmp_path / "recipe.toml"))
    assert (config.depth, config.rules.relative_margin, config.selection.negatives) == (50, None, 8)
