"""Folders that `save_to_disk` of `datasets` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

_SPLITS, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"


def is_saved_dataset(folder: Path) -> bool:
    """Tells whether `save_to_disk` of `datasets` wrote the folder."""
    return any((folder / name).is_file() for name in (_SPLITS, _STATE))


def load_saved(folder: Path, name: str | None = None) -> dict[str, Dataset | None]:
    """Returns every split by its name, None for one without rows.

    A folder of a single data set has it by `name`, else by that of the split it was, else by `train`. Raises
    OSError, ValueError or KeyError for a folder that is broken.
    """
    several = folder / _SPLITS
    if not several.is_file():
        data = _load(folder)
        return {name or str((data and data.split) or "train"): data}
    return {split: _load(folder / split) for split in json.loads(several.read_text("utf-8"))["splits"]}


def saved_parts(folder: Path) -> dict[str, list[Path]]:
    """Returns the files of the data set by split; "" has those of the whole folder, or of its only part.

    Raises OSError, ValueError or KeyError for a folder that is broken.
    """
    several = folder / _SPLITS
    if not several.is_file():
        return {"": _files(folder)}
    splits = json.loads(several.read_text("utf-8"))["splits"]
    return {"": [several]} | {split: _files(folder / split) for split in splits}


def _files(folder: Path) -> list[Path]:
    state = folder / _STATE
    data = [part["filename"] for part in json.loads(state.read_text("utf-8"))["_data_files"]]
    return [state, folder / _INFO, *(folder / name for name in data)]


def _load(folder: Path) -> Dataset | None:
    from datasets import Dataset

    # Without rows it has no file, and does not load.
    if not json.loads((folder / _STATE).read_text("utf-8"))["_data_files"]:
        return None
    return Dataset.load_from_disk(str(folder))
