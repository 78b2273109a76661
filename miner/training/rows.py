"""The rows of a training file or folder as a table, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from miner.errors import InputError, listed, shown
from miner.sources.beir import is_beir
from miner.sources.files import File, files_in, locate
from miner.sources.json_rows import raw_column
from miner.sources.saved import is_saved_dataset, load_saved
from miner.sources.tabular import is_table, open_table
from miner.training.passages import SCORES, is_passages, passage_lists

MANIFEST = "manifest.json"
OF_TEXTS = "triplet, n-tuple or labeled-pair"
"""The formats of export whose rows are single texts."""
_TRAIN = "train"
"""The split of a `datasets` folder that is read."""
_FEATURES = b"huggingface"
"""Where `datasets` keeps the names of classes in the metadata of a Parquet file."""


def read_rows(source: str) -> tuple[pa.Table, tuple[str, ...]]:
    """Returns the rows of a table, a `datasets` folder or an export, and the splits that are not read.

    Lists of scores and of passages are lists; what other lists hold is not read. Raises InputError for
    what cannot be read.
    """
    path = _data(source)
    return _saved(path) if path.is_dir() else (_table(File(path, source)), ())


def _data(source: str) -> Path:
    """The data of an export is below it; anything else is the data itself."""
    try:
        path = locate(source)
    except InputError as error:
        hint = "name a file, a folder that miner export wrote, or a store"
        raise InputError(error.message, hint) from error
    if not (path / MANIFEST).is_file():
        _require_rows(source, path)
        return path
    if is_saved_dataset(path / "data"):
        return path / "data"
    files = [file.path for file in files_in(source, path / "data") if is_table(file)]
    if len(files) != 1:
        raise InputError(f"{source}: no data file that can be trained on", f"export as {OF_TEXTS}, to jsonl")
    return files[0]


def _require_rows(source: str, path: Path) -> None:
    """Raises InputError for a folder that holds sources of a store, or no one table."""
    if not path.is_dir() or is_saved_dataset(path):
        return
    if is_beir(path):
        raise InputError(
            f"{source} is a BEIR folder: it holds judgments, no rows to train on",
            f"miner ingest my.duckdb {source} && miner mine my.duckdb && miner train my.duckdb OUT",
        )
    tables = [file.origin for file in files_in(source, path) if is_table(file)]
    found = f"name one of its files: {listed(tables)}" if tables else "it holds none"
    raise InputError(f"{source} is no folder that miner export or save_to_disk wrote", found)


def _saved(path: Path) -> tuple[pa.Table, tuple[str, ...]]:
    """The rows of split train, or of the only one, and which splits there are besides it."""
    try:
        splits = load_saved(path, _TRAIN)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: not a folder that miner export or save_to_disk wrote: {error}",
            "name a file, an export, or a store with --run",
        ) from error
    if _TRAIN not in splits:
        raise InputError(f"{path}: no split '{_TRAIN}'; it has {listed(splits)}", "save that split alone")
    data = splits.pop(_TRAIN)
    if data is None:
        raise InputError(f"{path}: no rows to train on", "save a split with rows")
    return _with_class_names(data.with_format("arrow")[:], data.features), tuple(splits)


def _with_class_names(table: pa.Table, features: Mapping[str, Any]) -> pa.Table:
    """Puts the names of classes in the place of their numbers, null where one is -1, which means no label."""
    from datasets import ClassLabel

    for place, name in enumerate(table.column_names):
        feature = features[name]
        if isinstance(feature, ClassLabel):
            numbers = table[name].to_pylist()
            names = [None if number is None or number < 0 else feature.int2str(number) for number in numbers]
            table = table.set_column(place, name, pa.array(names, pa.string()))
    return table


def _table(file: File) -> pa.Table:
    """The rows of a file: texts, lists of scores and of passages; what other lists hold is not read."""
    if not is_table(file):
        raise InputError(
            f"{file.origin}: cannot tell the format from the ending '{shown(file.suffix)}'",
            "rows to train on are in a .tsv, .csv, .jsonl, .json or .parquet file",
        )
    table = open_table(file)  # its errors name file and reason
    if file.suffix == ".parquet":
        return _read_parquet(file.path)
    scores = {name: pa.array(_lists(file, name)) for name in table.columns if name in SCORES}
    texts = [name for name in table.columns if name not in table.nested and name not in scores]
    rows: list[Sequence[str | None]] = []
    for record in table.read(texts):
        if record.problem is not None:
            raise InputError(f"{file.origin}:{record.line}: {record.problem[1]}", "mend the row")
        rows.append(record.values)
    found = {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(texts)} | scores
    for name in table.nested.keys() - found.keys():
        found[name] = (
            pa.array(passage_lists(raw_column(file, name), name), pa.list_(pa.string()))
            if is_passages(name)
            else pa.nulls(len(rows), pa.list_(pa.null()))
        )
    return pa.table({name: found[name] for name in table.columns})


def _read_parquet(path: Path) -> pa.Table:
    table = pq.read_table(path)
    if _FEATURES not in (table.schema.metadata or {}):
        return table
    from datasets import Features

    return _with_class_names(table, Features.from_arrow_schema(table.schema))


def _lists(file: File, name: str) -> list[Any]:
    """A column of lists, which only JSON can hold as such."""
    if file.suffix in (".tsv", ".csv"):
        return [record.values[0] for record in open_table(file).read([name])]
    return raw_column(file, name)
