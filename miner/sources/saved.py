"""Folders that `Dataset.save_to_disk` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from datasets import Dataset

Kind = TypeVar("Kind")

_SPLITS, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"


def is_saved_dataset(folder: Path) -> bool:
    """Returns whether `save_to_disk` wrote the folder."""
    return any((folder / name).is_file() for name in (_SPLITS, _STATE))


def load_saved(folder: Path, name: str | None = None) -> dict[str, Dataset | None]:
    """Returns every split by its name; None for a split without rows.

    A single data set has the name `name`, else the split in its own files, else `train`. Raises OSError,
    ValueError or KeyError for a broken folder.
    """
    several = folder / _SPLITS
    if not several.is_file():
        data = _load(folder)
        return {name or str((data and data.split) or "train"): data}
    return {split: _load(folder / split) for split in _listed(several, "splits", str)}


def saved_parts(folder: Path) -> dict[str, list[Path]]:
    """Returns the files of the data set by split; "" has the files of the folder itself.

    Raises OSError, ValueError or KeyError for a broken folder.
    """
    several = folder / _SPLITS
    if not several.is_file():
        return {"": _files(folder)}
    return {"": [several]} | {split: _files(folder / split) for split in _listed(several, "splits", str)}


def _files(folder: Path) -> list[Path]:
    state = folder / _STATE
    data = [str(part.get("filename")) for part in _listed(state, "_data_files", dict)]
    return [state, folder / _INFO, *(folder / name for name in data)]


def _listed(file: Path, key: str, kind: type[Kind]) -> list[Kind]:
    """Returns a list from a JSON file; raises ValueError, which names the file, if it is missing."""
    try:
        value = json.loads(file.read_text("utf-8"))[key]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {type(error).__name__}: {error}") from error
    if not isinstance(value, list) or not all(isinstance(part, kind) for part in value):
        raise ValueError(f"{file} is damaged: '{key}' is not a list")
    return value


def _load(folder: Path) -> Dataset | None:
    from datasets import Dataset

    # A data set without rows has no data file and does not load.
    if not _listed(folder / _STATE, "_data_files", dict):
        return None
    return Dataset.load_from_disk(str(folder))
