"""Hugging Face data sets: from the hub by name, or from a folder that `save_to_disk` wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miner.errors import InputError, listed
from miner.sources import squad
from miner.sources.config import SourceConfig, split_in
from miner.sources.files import HUB, tree, unread
from miner.sources.part import Source
from miner.sources.qrels import is_judged, judged_source
from miner.sources.saved import load_saved, saved_parts
from miner.sources.table import ROWS_PER_BATCH, Read, Record, Table, batch_records, nested_in
from miner.sources.tabular import from_tables

if TYPE_CHECKING:
    from datasets import Dataset

PREFIX = HUB
_EXPORTED = re.compile(r"rows-[0-9a-f]{12}")
"""The name of the configuration in the card of an export, as `export.card` makes it."""
_EXPORTED_IDS = re.compile(r"[0-9a-f]{12}")
"""The description of each configuration in the card of an export of ids."""


def open_hub(source: str, config: SourceConfig) -> Source:
    """Returns `hf:name`, `hf:name:configuration` or a saved folder as a source.

    The source has every split, or the one in `hf_split`. Raises InputError if the data set cannot be loaded
    or its columns do not fit.
    """
    loaded = load(source, config)
    notes = _left(source, config) if os.path.isdir(source) else []
    if not isinstance(loaded, dict):
        name = config.hf_split or str(loaded.split or "train")
        loaded = {name: loaded}
    tables = [
        (dataset_table(f"{source}/{name}", data), split_in(name) or name) for name, data in loaded.items()
    ]
    if all(is_judged(table, config) for table, _ in tables):
        return judged_source(source, tables, config, notes)
    if squad.is_flat([table for table, _ in tables], config):
        return squad.flat_source(source, tables, config, notes)
    return from_tables(source, tables, config, notes)


def load(source: str, config: SourceConfig) -> Any:
    """Returns the splits of `hf:name`, `hf:name:configuration` or a saved folder, as `datasets` has them.

    Raises InputError if the data set cannot be loaded.
    """
    import datasets

    try:
        if not source.startswith(PREFIX):
            return _chosen(load_saved(Path(source), config.hf_split), config.hf_split)
        name, _, configuration = source.removeprefix(PREFIX).partition(":")
        if not name:
            raise ValueError("it has no name")
        return datasets.load_dataset(name, configuration or None, split=config.hf_split)
    except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(
            f"{source}: cannot load the data set: {reason}",
            "check the name, its configuration and --set hf_split; without a network, name a folder that "
            "save_to_disk wrote",
        ) from error


def _left(source: str, config: SourceConfig) -> list[str]:
    """Lists the splits of a saved folder that `hf_split` leaves out, and files outside the data set."""
    folder = Path(source)
    parts = saved_parts(folder)
    others = [name for name in parts if name not in ("", config.hf_split)] if config.hf_split else []
    known = {path for paths in parts.values() for path in paths}
    files = [file for file in tree(source, folder) if file.path not in known]
    return [
        *([f"not read: splits {listed(others)}"] if others else []),
        *unread([(file, "not part of the data set") for file in files], folder),
    ]


def _chosen(splits: dict[str, Dataset | None], split: str | None) -> dict[str, Dataset]:
    """Returns the splits that have rows, or only `split`."""
    if split is not None and split not in splits:
        raise ValueError(f"no split '{split}'; it has {listed(splits)}")
    found = {name: data for name, data in splits.items() if data is not None and split in (None, name)}
    if not found:
        raise ValueError("it has no rows")
    return found


def dataset_table(origin: str, data: Dataset) -> Table:
    """Returns a Dataset as a table; numbers of classes are read as the names of the classes.

    The negatives of an export that was pushed are known to be mined by the name of its configuration.
    """
    nested = nested_in(data.features.arrow_schema)
    mined = _EXPORTED.fullmatch(data.info.config_name or "") is not None
    return Table(origin, tuple(data.column_names), data.num_rows, "rows", _reader(data), nested, mined=mined)


def is_exported(name: str, configuration: str) -> bool:
    """Returns whether a configuration is one of an export of ids, as its card describes them."""
    import datasets

    description = datasets.load_dataset_builder(name, configuration).config.description
    return _EXPORTED_IDS.fullmatch(description or "") is not None


def columns_of(name: str, configuration: str) -> list[str]:
    """Returns the columns of a configuration; none if the card of the data set does not list them."""
    import datasets

    return list(datasets.load_dataset_builder(name, configuration).info.features or ())


def _reader(data: Dataset) -> Read:
    def _read(texts: Sequence[str], passages: Sequence[str] = ()) -> Iterator[Record]:
        names = {c: data.features[c].names for c in texts if hasattr(data.features[c], "names")}
        chosen = data.select_columns(list(dict.fromkeys([*texts, *passages]))).with_format("arrow")
        done = 0
        for batch in chosen.iter(ROWS_PER_BATCH):
            for record in batch_records(batch, texts, passages, done, 1):
                yield _named(record, texts, names)
            done += batch.num_rows

    return _read


def _named(record: Record, columns: Sequence[str], names: dict[str, list[str]]) -> Record:
    """Returns the row with class names instead of class numbers; -1 is a missing label."""
    if not names or record.problem is not None:
        return record
    values = [
        value if column not in names or value is None else "" if int(value) < 0 else names[column][int(value)]
        for column, value in zip(columns, record.values, strict=True)
    ]
    return record._replace(values=values)
