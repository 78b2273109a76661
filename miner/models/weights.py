"""Which files a model's output depends on, and that none of its weights is a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from miner.errors import ModelError

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
        "train_results.json",
        "trainer_state.json",
        "training_args.bin",
    }
)
_GET_AGAIN = "get the model again, from the hub or from a copy"
_FOLDERS_NEVER_READ = frozenset({"onnx", "openvino", "runs"})


def require_safetensors(name: str, folder: Path) -> None:
    """Raises ModelError unless all weights of the model in `folder` are there as safetensors.

    Every module is looked at: sentence-transformers loads a module's `pytorch_model.bin`, a pickle, where
    there is nothing else. Refused too is an adapter, whose base is in another folder.
    """
    for module in modules_of(folder):
        part = folder / module.place
        files = sorted(part.iterdir()) if part.is_dir() and module.name not in ROUTERS else []
        if any(file.name == "adapter_config.json" for file in files):
            raise ModelError(
                f"{name} is an adapter (PEFT) in {part}: the weights that it adapts are elsewhere",
                "merge it with merge_and_unload(), then save_pretrained to another folder",
            )
        if any(file.suffix == ".safetensors" for file in files):
            continue
        pickles = [f for f in files if f.suffix in _PICKLES and f.name not in _LEFT_BY_TRAINING]
        if pickles:
            raise ModelError(
                f"{name} has weights in {pickles[0]}: only safetensors are loaded",
                "if you trust it, load it with sentence-transformers and save_pretrained to another folder",
            )
        if module.name in _WITH_WEIGHTS:
            raise ModelError(
                f"{name} has no safetensors weights in {part}",
                "only safetensors are loaded; convert it with model.save_pretrained(folder)",
            )


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
