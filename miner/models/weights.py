"""The files that a model's output depends on, and checks that all its weights are safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from miner.errors import ModelError
from miner.ranges import literal

FOLDS_FILE = "folds.json"
"""The file with the number of folds, in the folder of an ensemble beside `fold-0`, `fold-1`, …"""

_WITH_WEIGHTS = frozenset(
    {
        "CLIPModel",
        "CNN",
        "Dense",
        "LSTM",
        "LayerNorm",
        "MLMTransformer",
        "SparseAutoEncoder",
        "StaticEmbedding",
        "Transformer",
        "WeightedLayerPooling",
        "WordEmbeddings",
    }
)
"""Modules of sentence-transformers that need weights."""
_BY_TRANSFORMERS = frozenset({"CLIPModel", "MLMTransformer", "Transformer"})
"""Modules whose weights transformers loads; these may be sharded, or a variant such as fp16."""
_SINGLE = "model.safetensors"
_INDEX = ".safetensors.index.json"
ROUTERS = frozenset({"Asym", "Router"})
"""Modules that consist of other modules, each in its own folder."""
_PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
_OTHER_FORMATS = frozenset({".gguf", ".h5", ".mlmodel", ".msgpack", ".onnx", ".ot", ".tflite"})
_FOR_PEOPLE = frozenset({".gif", ".jpeg", ".jpg", ".md", ".png", ".svg", ".webp"})
_NEVER_READ = _PICKLES | _OTHER_FORMATS | _FOR_PEOPLE
_LEFT_BY_TRAINING = frozenset(
    {
        "all_results.json",
        "eval_results.json",
        "metrics.json",
        "optimizer.bin",
        "optimizer.pt",
        "scaler.pt",
        "scheduler.pt",
        "store-note.json",
        "store-note.json.damaged",
        "train_results.json",
        "trainer_state.json",
        "training_args.bin",
    }
)
_GET_AGAIN = "get the model again, from the hub or from a copy"
_FOLDERS_NEVER_READ = frozenset({"onnx", "openvino", "runs"})


def require_safetensors(name: str, folder: Path) -> None:
    """Raises ModelError unless all weights of the model in `folder` are in safetensors files.

    It checks each module for the file that its library loads: sentence-transformers loads
    `pytorch_model.bin`, a pickle, if a module has no `model.safetensors`, whatever other files there are. An
    adapter is refused too, because its base model is in another folder.
    """
    for module in modules_of(folder):
        part = folder / module.folder
        files = sorted(part.iterdir()) if part.is_dir() and module.name not in ROUTERS else []
        if any(file.name == "adapter_config.json" for file in files):
            raise ModelError(
                f"{name} is an adapter (PEFT) in {part}: its base model is in another folder",
                "merge it with merge_and_unload(), then save_pretrained to another folder",
            )
        file = part / _weights_file(part, module)
        if file.is_file():
            if file.suffix == ".json":
                _require_shards(file)
            continue
        pickles = [f for f in files if f.suffix in _PICKLES and f.name not in _LEFT_BY_TRAINING]
        if pickles:
            raise ModelError(
                f"{name} has weights in {pickles[0]}: only safetensors are loaded",
                "if you trust it, load it with sentence-transformers and save_pretrained to another folder",
            )
        if module.name in _WITH_WEIGHTS:
            raise ModelError(
                f"{name} has no {file.name} in {part}",
                "weights are loaded from safetensors only; convert it with model.save_pretrained(folder)",
            )


def _weights_file(part: Path, module: Module) -> str:
    """Returns the name of the file that a module's weights are loaded from.

    It follows transformers 5 (`_get_resolved_checkpoint_files`) and sentence-transformers 6
    (`Module.load_torch_weights`). Raises ModelError if the configuration names another format.
    """
    if module.name not in _BY_TRANSFORMERS:
        return _SINGLE
    options: dict[str, Any] = {}
    for file in sorted(part.glob("sentence_*_config.json")):
        given = [_object(file).get(key) for key in ("model_args", "model_kwargs")]
        options |= {key: value for one in given if isinstance(one, dict) for key, value in one.items()}
    named = _object(part / "config.json").get("transformers_weights")
    if options.get("gguf_file") or options.get("use_safetensors") is False:
        raise ModelError(f"the configuration in {part} names weights that are not safetensors", _GET_AGAIN)
    if named is not None:
        return _beside(part / "config.json", named, (".safetensors", _INDEX))
    variant = f".{options['variant']}" if options.get("variant") else ""
    single = f"model{variant}.safetensors"
    index = f"model.safetensors.index{variant}.json"
    return index if not (part / single).is_file() and (part / index).is_file() else single


def _object(file: Path) -> dict[str, Any]:
    """Returns the object in a JSON file of a model; an empty one if there is no file or it has a list."""
    content = _content(file, (dict, list)) if file.exists() else {}
    return content if isinstance(content, dict) else {}


def _require_shards(index: Path) -> None:
    """Raises ModelError unless all shards of an index are safetensors in the folder of the index."""
    shards = _content(index, dict).get("weight_map")
    for shard in sorted({str(shard) for shard in shards.values()}) if isinstance(shards, dict) else []:
        if not (index.parent / _beside(index, shard, (".safetensors",))).is_file():
            raise ModelError(f"{index.parent} lacks {shard}, which {index.name} names", _GET_AGAIN)


def _beside(file: Path, named: object, endings: tuple[str, ...]) -> str:
    """Returns the file name of weights that a file names; raises ModelError unless it is beside that file."""
    name = str(named)
    if PurePosixPath(name).name != name or name.startswith(".") or not name.endswith(endings):
        raise ModelError(
            f"{file} names the weights {literal(name)}: only safetensors in the same folder are loaded",
            _GET_AGAIN,
        )
    return name


def model_files(folder: Path) -> list[tuple[str, os.stat_result]]:
    """Returns every file that the model's output may depend on, by its path below `folder`, sorted.

    These are all files except those that are never loaded: texts and pictures for people, weights in other
    formats, and the traces of a training. Links are followed.
    """
    files = []
    for file in _walk(folder, {os.path.realpath(folder)}):
        if file.suffix.lower() in _NEVER_READ or file.name in _LEFT_BY_TRAINING or not file.is_file():
            continue
        files.append((file.relative_to(folder).as_posix(), file.stat()))
    return sorted(files)


def _walk(folder: Path, above: set[str]) -> Iterator[Path]:
    """Yields the files below a folder, without hidden ones; does not follow links to folders above."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif path.name not in _FOLDERS_NEVER_READ and (real := os.path.realpath(path)) not in above:
            yield from _walk(path, above | {real})


class Module(NamedTuple):
    """A module of a sentence-transformers model."""

    folder: str
    """Its folder, relative to the model's."""
    kind: str
    """Its class with the package."""

    @property
    def name(self) -> str:
        """Its class without the package."""
        return self.kind.rpartition(".")[2]


def modules_of(folder: Path) -> list[Module]:
    """Returns the modules of a model in order; a router is followed by the modules that it chooses from.

    Raises ModelError if these cannot be read or are outside the model's folder.
    """
    if (folder / FOLDS_FILE).exists():
        folds = sorted(path.name for path in folder.glob("fold-*") if path.is_dir())
        return [Module(f"{f}/{part}", kind) for f in folds for part, kind in modules_of(folder / f)]
    if not (folder / "modules.json").exists():
        return [Module("", "sentence_transformers.base.modules.Transformer")]
    modules = []
    for listed in _content(folder / "modules.json", list):
        part = _below(folder / "modules.json", listed)
        modules += _with_parts(folder, Module(part, str(listed.get("type", ""))))
    return modules


def _with_parts(folder: Path, module: Module) -> list[Module]:
    """Returns a module and, for a router, the modules that it chooses from."""
    if module.name not in ROUTERS:
        return [module]
    files = [folder / module.folder / name for name in ("router_config.json", "config.json")]
    file = next((file for file in files if file.exists()), files[0])
    modules = [module]
    for part, kind in (_content(file, dict).get("types") or {}).items():
        path = PurePosixPath(module.folder, _below(file, {"path": part})).as_posix()
        modules += _with_parts(folder, Module(path, str(kind)))
    return modules


def _below(file: Path, module: Any) -> str:
    """Returns the folder that a module names; raises ModelError if it is outside the model's folder."""
    part = str(module.get("path", "")) if isinstance(module, dict) else ".."
    if PurePosixPath(part).is_absolute() or ".." in PurePosixPath(part).parts:
        raise ModelError(
            f"{file} names a module outside the model's folder", "copy the model with all its folders"
        )
    if any(name in _FOLDERS_NEVER_READ or name.startswith(".") for name in PurePosixPath(part).parts):
        raise ModelError(
            f"{file} names a module in {part}, a folder for other files",
            "rename the folder and change the file",
        )
    return part


def require_sound(file: Path) -> None:
    """Raises ModelError for a damaged JSON file or damaged weights, of which it reads only the header."""
    if file.suffix == ".json":
        _content(file, (dict, list))
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is damaged: {error}", _GET_AGAIN) from error


def _content(file: Path, kind: type | tuple[type, ...]) -> Any:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: it is not JSON: {error}", _GET_AGAIN) from error
    if not isinstance(content, kind):
        raise ModelError(f"{file} is damaged: it has unexpected content", _GET_AGAIN)
    if not content and not isinstance(kind, tuple):
        raise ModelError(f"{file} does not list modules", _GET_AGAIN)
    return content
