"""Folders that `miner export` wrote: the rows in them, and what their manifest says about these.

The negatives of an export were mined, and nobody judged them: an ingest stores them as documents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from miner.collection.given import Candidates
from miner.errors import InputError
from miner.sources.config import SourceConfig
from miner.sources.files import File, tree, unread
from miner.sources.hub import dataset_table
from miner.sources.id_sets import IdSet, find_set, open_set
from miner.sources.part import Source
from miner.sources.row_candidates import candidates_of_rows
from miner.sources.saved import is_saved_dataset, load_saved
from miner.sources.scored_sets import candidates_of_set
from miner.sources.table import Table
from miner.sources.tabular import from_tables, is_table, open_table

MANIFEST = "manifest.json"
IDS = "ids"
"""The format of an export that is a set of ids."""
_TEXTS_AND_JUDGMENTS = ("queries", "documents", "titles", "qrels")
"""The parts of such an export that say by themselves what they are."""
_SCORED = ("labeled-pair", "labeled-list")
"""The formats whose rows have either scores or labels."""
DATA = "data"
"""The folder with the rows of an export."""


def read_manifest(folder: Path) -> Mapping[str, Any] | None:
    """Returns the manifest of the export in a folder; None if there is no export."""
    try:
        found = json.loads((folder / MANIFEST).read_text("utf-8"))
        return found if "hardneg-miner" in found["written_by"] else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


@dataclass(frozen=True)
class Export:
    """An export that was found on disk."""

    source: str
    """The folder with the manifest, as the user named it or what is in it."""
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def split(self) -> str:
        """The split of its run, under the name that it has in the store."""
        return str(self.manifest["run"]["split"])

    @property
    def files(self) -> list[File]:
        """The files with the rows."""
        return [file for file in tree(f"{self.source}/{DATA}", self.folder / DATA) if not file.fault]


def export_at(source: str, path: Path) -> Export | None:
    """Returns the export whose folder, data folder or data file is at `path`; None if there is none."""
    above = path.parent if path.is_file() else path
    for folder, levels in ((path, 0), (above.parent, 1)):
        if levels and above.name != DATA:
            continue
        manifest = read_manifest(folder) if folder.is_dir() else None
        if manifest is not None and ((folder / DATA).is_dir() or manifest.get("format") == IDS):
            return Export(source.rstrip("/") if folder == path else str(folder), folder, manifest)
    return None


def require_no_part(source: str, path: Path) -> None:
    """Raises InputError for a config of an exported set of ids: its rows alone do not say what was mined."""
    inner = path.parent if path.is_file() else path
    manifest = read_manifest(inner.parent)
    if manifest is None or manifest.get("format") != IDS or inner.name in _TEXTS_AND_JUDGMENTS:
        return
    if inner.name in manifest.get("configs", ()):
        raise InputError(
            f"{source}: a part of an export, whose negatives were mined", f"name the export: {inner.parent}"
        )


def open_export(export: Export, config: SourceConfig) -> Source:
    """Returns an export as a source: its queries, documents and positives.

    Raises InputError if its files are missing, or are not what the manifest says.
    """
    if (found := _id_set(export)) is not None:
        return open_set(found, config, export.folder, mined=True)
    others = [
        (file, "not the rows of the export")
        for file in tree(export.source, export.folder)
        if file.path.parent == export.folder and file.path.name not in (MANIFEST, "README.md")
    ]
    mined = "its negatives were mined, so they are documents without a judgment"
    if export.manifest.get("scores") and export.manifest.get("format") in _SCORED:
        mined = (
            "its rows have scores and no labels, so all are documents without a judgment: ingest the "
            "judgments of its queries too, or export it without --scores"
        )
    notes = [
        *unread(others, export.folder),
        f"{mined}; miner mine --candidates {quote(export.source)} reads them",
    ]
    tables = [(table, export.split) for table in _tables(export, config)]
    return from_tables(export.source, tables, config, notes)


def candidates_of_export(export: Export) -> Candidates:
    """Returns the positives and negatives of an export as candidates: with their scores, else with ranks."""
    if (found := _id_set(export)) is not None:
        return candidates_of_set(found)
    return candidates_of_rows(_tables(export, SourceConfig()), export.source, export.files)


def _id_set(export: Export) -> IdSet | None:
    return find_set(export.source, export.folder) if export.manifest.get("format") == IDS else None


def _tables(export: Export, config: SourceConfig) -> Sequence[Table]:
    """Returns the tables of an export; their negatives are mined."""
    data = export.folder / DATA
    if is_saved_dataset(data):
        saved = load_saved(data, export.split)
        found = [dataset_table(f"{export.source}/{DATA}", one) for one in saved.values() if one is not None]
    else:
        found = [open_table(file, config) for file in export.files if is_table(file)]
    if not found:
        raise InputError(f"{export.source}: an export without rows in {DATA}", "export the run again")
    return [replace(table, mined=True) for table in found]
