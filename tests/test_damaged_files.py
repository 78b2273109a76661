"""Damaged models and working files: one error that names the file, and exit code 1."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from miner.errors import MinerError, ModelError
from miner.faults import read_json
from miner.models.encoder import Encoder
from miner.models.kinds import is_reranker
from miner.models.reranker import Reranker
from miner.training.workspace import _state
from tests.tiny import tiny_bert


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder."""
    return tiny_bert(tmp_path_factory.mktemp("models") / "tiny")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def noise(file: Path) -> None:
    file.write_bytes(b"\xff\x00\xfe" * 100)


def header_too_long(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(struct.pack("<Q", 2**60) + data[8:])


def deep(file: Path) -> None:
    file.write_text("[" * 100_000)


def another_kind(file: Path) -> None:
    file.write_text("5")


JSON = [emptied, cut, noise, deep, another_kind]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *[("model.safetensors", damage) for damage in (emptied, cut, noise, header_too_long)],
        *[("config.json", damage) for damage in JSON],
        *[("tokenizer.json", damage) for damage in JSON],
        *[("tokenizer_config.json", damage) for damage in (cut, another_kind)],
    ],
)
@pytest.mark.parametrize("kind", [Encoder, Reranker])
def test_a_damaged_file_of_a_model_is_named(
    model: Path, tmp_path: Path, name: str, damage: object, kind: type
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model, folder)
    damage(folder / name)  # type: ignore[operator]
    with pytest.raises(ModelError) as caught:
        kind(str(folder))
    assert caught.value.message.startswith(f"{folder / name} is damaged: ")
    assert caught.value.hint == "get the model again, from the hub or from a copy"
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("damage", JSON)
def test_damaged_lists_of_modules_are_named(model: Path, tmp_path: Path, damage: object) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model, folder)
    (folder / "modules.json").write_text("[]")
    damage(folder / "modules.json")  # type: ignore[operator]
    with pytest.raises(ModelError, match=r"modules\.json is damaged: "):
        Encoder(str(folder))


def test_weights_of_another_shape_than_the_configuration_says(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ModelError, match="cannot load"):
        Encoder(str(folder)).encode(["text"])


@pytest.mark.parametrize("damage", JSON)
def test_a_damaged_state_of_a_training_is_named(tmp_path: Path, damage: object) -> None:
    file = tmp_path / "state.json"
    file.write_text("{}")
    damage(file)  # type: ignore[operator]
    with pytest.raises(MinerError) as caught:
        _state(tmp_path)
    assert caught.value.message.startswith(f"{file} is damaged: ")
    assert caught.value.hint == f"remove {tmp_path}, then run the command again: it starts anew"
    assert caught.value.exit_code == 1


def test_json_that_is_whole_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": 1}')
    assert read_json(file, dict, "") == {"a": 1}
    with pytest.raises(MinerError) as caught:
        read_json(file, list, "look")
    assert str(caught.value) == f"{file} is damaged: it is not a list; look"
    with pytest.raises(MinerError) as caught:
        read_json(tmp_path / "none", dict, "look")
    assert str(caught.value) == f"cannot read {tmp_path / 'none'}: No such file or directory; look"


@pytest.mark.parametrize("value", [5, {}, None, "BertModel", [], [5]])
def test_an_architecture_of_another_kind_is_none(model: Path, tmp_path: Path, value: object) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": value}))
    assert not is_reranker(folder)
