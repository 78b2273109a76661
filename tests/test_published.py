"""Published recipes: each is valid for the commands that read it; a file of the same name goes first."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.cli.train import SETTINGS
from miner.errors import UsageError
from miner.mining.config import MiningConfig, read_recipe, with_values
from miner.mining.pipeline import mine
from miner.published import PUBLISHED
from miner.recipe import read
from miner.training.encoder_config import GUIDED, EncoderConfig
from tests.stores import make_store


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_recipe_is_one_of_mine_or_of_train(name: str) -> None:
    recipe = PUBLISHED[name]
    mines = {"rules", "selection"} & {*recipe.tables}
    mining = with_values(MiningConfig(), read_recipe(Path(name)) if mines else {})
    for table in ("rules", "selection"):
        for key, value in recipe.tables.get(table, {}).items():
            assert getattr(getattr(mining, table), key) == (None if value == "none" else value)
    training = {}
    if "training" in recipe.tables:
        training = read(Path(name), SETTINGS.tables, ("rules", "selection"), "training")[""]
    assert training == recipe.tables.get("training", {})
    guide = {"guide": "bundled"} if training.get("loss") in GUIDED else {}
    EncoderConfig(**training, **guide)
    assert recipe.source
    assert set(recipe.tables) <= {"rules", "selection", "training"}


def test_a_file_goes_before_a_published_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_recipe(Path("nv-retriever")) == {"relative_margin": 0.05, "strategy": "top"}
    Path("nv-retriever").write_text("[rules]\npercentile = 5\n", "utf-8")
    assert read_recipe(Path("nv-retriever")) == {"percentile": 5}


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"no recipe at nv-retreiver \(did you mean 'nv-retriever'\?\); name a"
    ):
        read_recipe(Path("nv-retreiver"))


def test_a_recipe_without_a_setting_of_the_command_is_refused() -> None:
    with pytest.raises(UsageError, match="gistembed has no setting of this command; it is for miner train"):
        read_recipe(Path("gistembed"))
    with pytest.raises(UsageError, match="simans has no setting of this command; it is for miner mine and"):
        read(Path("simans"), SETTINGS.tables, ("rules", "selection"), "training")


NEEDS = {
    "nv-retriever": "a strong encoder, as the teacher: --encoder MODEL",
    "sentence-transformers-example": "an encoder that compares by cosine: --encoder MODEL --no-bm25",
    "msmarco-v3": "a reranker whose scores are logits, not probabilities: --reranker MODEL",
}


def refused_by(*arguments: object) -> str:
    """Returns the error of a command."""
    result = CliRunner().invoke(group, [str(one) for one in arguments])
    assert isinstance(result.exception, UsageError), result.output
    return str(result.exception)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a run in which BM25 alone decides."""
    path = tmp_path / "s.duckdb"
    with make_store(path, {"d1": "a b", "d2": "a c"}, {"q": "a"}, [("q", "d1")]) as opened:
        mine(opened, MiningConfig())
    return path


@pytest.mark.parametrize("name", NEEDS)
def test_a_recipe_that_needs_a_scorer_is_not_for_bm25_alone(name: str, store: Path, tmp_path: Path) -> None:
    expected = (
        f"the published recipe {name} needs {NEEDS[name]}; name one: without it, other scores decide than "
        "those that the recipe is about"
    )
    for command in ("mine", "decide"):
        assert refused_by(command, store, "--config", name) == expected
    if name == "msmarco-v3":
        assert refused_by("mine", store, "--config", name, "--encoder", "bundled") == expected
        assert refused_by("loop", store, tmp_path / "models", "--config", name) == expected


def test_a_recipe_with_its_scorer_or_a_file_of_its_name_mines(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = (f'{{"query_id": "q", "doc_id": "d{n}", "score": {4 - n}}}\n' for n in (1, 2))
    Path("run.jsonl").write_text("".join(rows), "utf-8")
    given = ["--no-bm25", "--candidates", "run.jsonl"]
    assert CliRunner().invoke(group, ["mine", str(store), "--config", "nv-retriever", *given]).exit_code == 0
    Path("nv-retriever").write_text("[rules]\npercentile = 5\n", "utf-8")
    assert CliRunner().invoke(group, ["mine", str(store), "--config", "nv-retriever"]).exit_code == 0
