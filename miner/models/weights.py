"""Which files a model's output depends on, and that none of its weights is a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from miner.errors import ModelError
from miner.ranges import shown

FOLDS_FILE = "folds.json"
"""In the folder of a fold ensemble, beside `fold-0`, `fold-1`, …: how many there are."""

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
"""Modules of sentence-transformers that do not work without weights."""
_BY_TRANSFORMERS = frozenset({"CLIPModel", "MLMTransformer", "Transformer"})
"""Modules whose weights transformers loads: they may be sharded, or of a variant such as fp16."""
_SINGLE = "model.safetensors"
_INDEX = ".safetensors.index.json"
ROUTERS = frozenset({"Asym", "Router"})
"""Modules whose parts are modules in folders of their own."""
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
    """Raises ModelError unless all weights of the model in `folder` are there as safetensors.

    Every module is checked for the file that its library reads, by name: sentence-transformers loads
    `pytorch_model.bin`, a pickle, if a module has no `model.safetensors`, whatever other files are there.
    An adapter is refused too, because its base is in another folder.
    """
    for module in modules_of(folder):
        part = folder / module.place
        files = sorted(part.iterdir()) if part.is_dir() and module.name not in ROUTERS else []
        if any(file.name == "adapter_config.json" for file in files):
            raise ModelError(
                f"{name} is an adapter (PEFT) in {part}: the weights that it adapts are elsewhere",
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

    As in transformers 5 (`_get_resolved_checkpoint_files`) and sentence-transformers 6
    (`Module.load_torch_weights`). Raises ModelError if the configuration asks for another format.
    """
    if module.name not in _BY_TRANSFORMERS:
        return _SINGLE
    options: dict[str, Any] = {}
    for file in sorted(part.glob("sentence_*_config.json")):
        given = [_object(file).get(key) for key in ("model_args", "model_kwargs")]
        options |= {key: value for one in given if isinstance(one, dict) for key, value in one.items()}
    named = _object(part / "config.json").get("transformers_weights")
    if options.get("gguf_file") or options.get("use_safetensors") is False:
        raise ModelError(f"the configuration in {part} asks for weights that are not safetensors", _GET_AGAIN)
    if named is not None:
        return _beside(part / "config.json", named, (".safetensors", _INDEX))
    variant = f".{options['variant']}" if options.get("variant") else ""
    single = f"model{variant}.safetensors"
    index = f"model.safetensors.index{variant}.json"
    return index if not (part / single).is_file() and (part / index).is_file() else single


def _object(file: Path) -> dict[str, Any]:
    """Returns what a JSON file of a model holds; nothing where it is not there or no object."""
    content = _content(file, (dict, list)) if file.exists() else {}
    return content if isinstance(content, dict) else {}


def _require_shards(index: Path) -> None:
    """Raises ModelError unless all shards of an index are safetensors in the folder of the index."""
    shards = _content(index, dict).get("weight_map")
    for shard in sorted({str(shard) for shard in shards.values()}) if isinstance(shards, dict) else []:
        if not (index.parent / _beside(index, shard, (".safetensors",))).is_file():
            raise ModelError(f"{index.parent} lacks {shard}, which {index.name} names", _GET_AGAIN)


def _beside(file: Path, named: object, endings: tuple[str, ...]) -> str:
    """Returns the weights that a file names; raises ModelError unless they are safetensors beside it."""
    name = str(named)
    if PurePosixPath(name).name != name or name.startswith(".") or not name.endswith(endings):
        raise ModelError(
            f"{file} names the weights {shown(name)}: only safetensors in the same folder are loaded",
            _GET_AGAIN,
        )
    return name


def model_files(folder: Path) -> list[tuple[str, os.stat_result]]:
    """Returns every file that the model's output may depend on, by its name below `folder`, sorted.

    That is every file but those that are known not to be read: texts and pictures for people, weights in
    other formats, and what a training leaves. Links are followed.
    """
    found = []
    for file in _walk(folder, {os.path.realpath(folder)}):
        if file.suffix.lower() in _NEVER_READ or file.name in _LEFT_BY_TRAINING or not file.is_file():
            continue
        found.append((file.relative_to(folder).as_posix(), file.stat()))
    return sorted(found)


def _walk(folder: Path, above: set[str]) -> Iterator[Path]:
    """Yields the files below a folder, without hidden ones; a link back to a folder above ends there."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif path.name not in _FOLDERS_NEVER_READ and (real := os.path.realpath(path)) not in above:
            yield from _walk(path, above | {real})


class Module(NamedTuple):
    """A module of a sentence-transformers model."""

    place: str
    """Its folder below the model's."""
    kind: str
    """Its class, with the package."""

    @property
    def name(self) -> str:
        """Its class alone."""
        return self.kind.rpartition(".")[2]


def modules_of(folder: Path) -> list[Module]:
    """Returns the modules of a model in order, those that a router chooses from after the router.

    Raises ModelError where these cannot be read, or are outside the model's folder.
    """
    if (folder / FOLDS_FILE).exists():
        folds = sorted(path.name for path in folder.glob("fold-*") if path.is_dir())
        return [Module(f"{f}/{place}", kind) for f in folds for place, kind in modules_of(folder / f)]
    if not (folder / "modules.json").exists():
        return [Module("", "sentence_transformers.base.modules.Transformer")]
    found = []
    for listed in _content(folder / "modules.json", list):
        place = _below(folder / "modules.json", listed)
        found += _with_parts(folder, Module(place, str(listed.get("type", ""))))
    return found


def _with_parts(folder: Path, module: Module) -> list[Module]:
    """Returns a module and, of a router, the modules that it chooses from."""
    if module.name not in ROUTERS:
        return [module]
    files = [folder / module.place / name for name in ("router_config.json", "config.json")]
    file = next((file for file in files if file.exists()), files[0])
    found = [module]
    for part, kind in (_content(file, dict).get("types") or {}).items():
        place = PurePosixPath(module.place, _below(file, {"path": part})).as_posix()
        found += _with_parts(folder, Module(place, str(kind)))
    return found


def _below(file: Path, module: Any) -> str:
    """Returns the folder that a module names; raises ModelError where that is outside the model's."""
    place = str(module.get("path", "")) if isinstance(module, dict) else ".."
    if PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
        raise ModelError(
            f"{file} names a module outside the model's folder", "copy the model with all its folders"
        )
    if any(part in _FOLDERS_NEVER_READ or part.startswith(".") for part in PurePosixPath(place).parts):
        raise ModelError(
            f"{file} names a module in {place}, a folder for other files", "rename the folder, there too"
        )
    return place


def require_sound(file: Path) -> None:
    """Raises ModelError for a JSON file or weights of a model that are damaged: only headers are read."""
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
        raise ModelError(f"{file} is damaged: it holds something else than it should", _GET_AGAIN)
    if not content and not isinstance(kind, tuple):
        raise ModelError(f"{file} does not list modules", _GET_AGAIN)
    return content
