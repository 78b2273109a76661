"""Tables in memory: a Dataset of `datasets`, a pandas or Arrow table, a list of dicts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from miner.errors import InputError, UsageError, listed, near, shown
from miner.sources import squad
from miner.sources.config import SourceConfig, split_in
from miner.sources.hub import dataset_table
from miner.sources.part import Source
from miner.sources.qrels import is_judged, judged_source, judgment_columns, table_judgments
from miner.sources.table import (
    LIST,
    OBJECT,
    ROWS_PER_BATCH,
    Read,
    Record,
    Table,
    batch_records,
    nested_in,
    text_record,
)
from miner.sources.tabular import from_tables
from miner.sources.training_rows import SHAPE_FORMATS

_FORMATS = ("auto", "pairs", "triplets", "labels", *SHAPE_FORMATS)
"""The formats that a table in memory may have."""
_GIVE = "give a Dataset, a pandas or Arrow table, a list of dicts, or a dict of these by split"


def is_rows(source: object) -> bool:
    """Returns whether a list holds the rows of one table: whether every member is a dict."""
    return isinstance(source, list | tuple) and bool(source) and all(isinstance(s, Mapping) for s in source)


def open_memory(source: object, config: SourceConfig) -> Source:
    """Returns a table in memory, or a dict of such tables by split, as a source.

    Its columns have the same meaning as those of a file. Raises InputError for a table that cannot be read or
    whose columns do not fit, UsageError for anything but a table.
    """
    name = type(source).__name__
    if config.format not in _FORMATS:
        raise UsageError(f"format {config.format} is for files, not for a {name}", f"use {listed(_FORMATS)}")
    if not config.header:
        raise UsageError(f"--no-header has no effect on a {name}: its columns have names", "leave it out")
    if isinstance(source, Mapping):
        tables = {str(split): _table(f"{name}/{split}", table) for split, table in source.items()}
        if config.hf_split is not None and config.hf_split not in tables:
            raise InputError(
                f"{name}: no split '{shown(config.hf_split)}'{near(config.hf_split, tables)}",
                f"its splits: {listed(tables)}",
            )
        chosen = tables if config.hf_split is None else {config.hf_split: tables[config.hf_split]}
        if not chosen:
            raise InputError(f"{name}: no rows to read", "give at least one table")
    else:
        split = str(getattr(source, "split", None) or "train")  # a Dataset has the name of its split
        chosen = {split: _table(name, source)}
    named = [(table, split_in(split) or split) for split, table in chosen.items()]
    if named and all(is_judged(table, config) for table, _ in named):
        return judged_source(name, named, config)
    if named and squad.is_flat([table for table, _ in named], config):
        return squad.flat_source(name, named, config)
    return from_tables(name, named, config)


def table_of(source: object) -> Table:
    """Returns a table in memory as a Table; raises as `open_memory`."""
    return _table(type(source).__name__, source)


def judgments_of(source: object) -> pa.Table:
    """Returns the judgments in a table: query_id, doc_id, relevance.

    Raises InputError if the table lacks one of these columns or a row is not a judgment.
    """
    name = type(source).__name__
    table = _table(name, source)
    if judgment_columns(table) is None:
        raise InputError(f"{name}: no columns query_id, doc_id and relevance", f"its columns: {table.listed}")
    found = []
    for part in table_judgments([(table, "")]):
        if part.rejected is not None:
            bad = part.rejected.slice(0, 1).to_pylist()[0]
            raise InputError(f"{name}:{bad['line']}: {bad['detail']}", "give ids and a number in each row")
        if part.judgments is not None:
            found.append(part.judgments.select(["query_id", "doc_id", "relevance"]))
    if not found:
        raise InputError(f"{name}: no rows to read", "give at least one judgment")
    return pa.concat_tables(found)


def _table(origin: str, source: Any) -> Table:
    datasets, pandas = sys.modules.get("datasets"), sys.modules.get("pandas")
    if datasets is not None and isinstance(source, datasets.Dataset):
        if not source.column_names:
            raise InputError(f"{origin}: no rows to read", "give a Dataset with columns and rows")
        return dataset_table(origin, source)
    if is_rows(source):
        return _rows_table(origin, source)
    if isinstance(source, list | tuple) and not source:
        raise InputError(f"{origin}: no rows to read", "give at least one row")
    try:
        if pandas is not None and isinstance(source, pandas.DataFrame):
            named = any(name is not None for name in source.index.names)
            return _arrow_table(origin, pa.Table.from_pandas(source, preserve_index=named))
        if isinstance(source, pa.RecordBatch) or hasattr(source, "__arrow_c_stream__"):
            return _arrow_table(origin, pa.table(source))
    except pa.ArrowException as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(
            f"{origin}: cannot be read as a table: {reason}", "give each column values of one kind"
        ) from error
    raise UsageError(f"{shown(type(source).__name__)} is not a source", _GIVE)


def _arrow_table(origin: str, table: pa.Table) -> Table:
    names = table.column_names
    if not names:
        raise InputError(f"{origin}: no rows to read", "give a table with columns and rows")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{origin}: two columns named '{shown(twice)}'", "rename one of them")

    def _read(texts: Sequence[str], passages: Sequence[str] = ()) -> Iterator[Record]:
        done = 0
        chosen = table.select(list(dict.fromkeys([*texts, *passages])))
        for batch in chosen.to_batches(max_chunksize=ROWS_PER_BATCH):
            yield from batch_records(batch, texts, passages, done, 1)
            done += batch.num_rows

    return Table(origin, tuple(names), table.num_rows, "rows", _read, nested_in(table.schema))


def _rows_table(origin: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns: dict[str, None] = {}
    nested: dict[str, str] = {}
    for row in rows:
        for key, value in row.items():
            columns[str(key)] = None
            if isinstance(value, Mapping | list | tuple):
                what = OBJECT if isinstance(value, Mapping) else LIST
                nested[str(key)] = what if nested.get(str(key), what) == what else f"{LIST} or {OBJECT}"
    return Table(origin, tuple(columns), len(rows), "rows", _reader(rows), nested)


def _reader(rows: Sequence[Mapping[str, Any]]) -> Read:
    def _read(texts: Sequence[str], passages: Sequence[str] = ()) -> Iterator[Record]:
        for number, row in enumerate(rows, 1):
            yield text_record(
                number,
                1,
                ([_plain(row.get(key)) for key in texts], texts),
                ([_plain(row.get(key)) for key in passages], passages),
            )

    return _read


def _plain(value: Any) -> Any:
    """Returns a NumPy number as a Python number, and NaN, which means a missing value, as None."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and value != value else value
