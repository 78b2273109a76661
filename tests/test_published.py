"""Published recipes: each is valid for the commands that read it; a file of the same name goes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from miner.cli.train import SETTINGS
from miner.errors import UsageError
from miner.mining.config import MiningConfig, read_recipe, with_values
from miner.published import PUBLISHED
from miner.recipe import read
from miner.training.encoder_config import GUIDED, EncoderConfig


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
