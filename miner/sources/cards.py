"""The data set card of a folder (README.md): which files belong to which configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

CARD = "README.md"


class Card(NamedTuple):
    """What a data set card says about files."""

    configs: Sequence[Mapping[str, Any]] = ()
    note: str = ""
    """A message to the user if the card cannot be read, so that the names of the files count."""


def read_card(source: str, folder: Path) -> Card:
    """Returns the card of a folder; an empty one if there is none, or if it cannot be read."""
    if not (folder / CARD).is_file():
        return Card()
    from huggingface_hub import metadata_load
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        configs = (metadata_load(folder / CARD) or {}).get("configs") or []
    except (ValueError, YAMLError, OSError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        return Card(
            note=f"{source.rstrip('/')}/{CARD}: its front matter cannot be read ({reason}), so the names of "
            "the files count"
        )
    return Card([config for config in configs if isinstance(config, Mapping)])


def patterns(files: object, split: str = "train") -> Iterator[tuple[str, str]]:
    """Yields the split and the pattern of each entry of `data_files`, in any of the forms that a card has."""
    for entry in files if isinstance(files, list) else [files]:
        if isinstance(entry, str):
            yield split, entry
        elif isinstance(entry, Mapping):
            yield from patterns(entry.get("path"), str(entry.get("split", split)))


def matching(folder: Path, pattern: str) -> list[Path]:
    """Returns the files in a folder that a pattern of its card matches; none outside of the folder."""
    path = PurePosixPath(pattern)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in pattern:
        return []
    try:
        inside = f"{pattern}/**/*" if (folder / pattern).is_dir() else pattern
        return sorted(found for found in folder.glob(inside) if found.is_file())
    except (ValueError, OSError):  # such as `a**`
        return []
