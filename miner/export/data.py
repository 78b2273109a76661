"""Writing the data files of an export, a limited number of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from miner.engine.progress import Progress
from miner.errors import StoreError, UsageError
from miner.export import ids
from miner.export.config import Plan, RunPlan, split_name
from miner.export.manifest import RowCounts
from miner.export.writers import WRITERS, shards
from miner.store import corpus, exported
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.triplets import TripletCounts, triplet_ids, triplet_pieces, triplet_texts

PIECE = 65_536
"""About how many triplets, with their texts, are in memory at once."""


@dataclass
class Data:
    """What was written: rows, columns and the first row of each config, by its name."""

    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    schemas: dict[str, pa.Schema] = field(default_factory=dict)
    examples: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def add(self, config: str, split: str, table: pa.Table) -> None:
        """Counts rows, which are at least one, and keeps the first row of a config."""
        splits = self.rows.setdefault(config, {})
        splits[split] = splits.get(split, 0) + table.num_rows
        self.schemas.setdefault(config, table.schema)
        if config not in self.examples:
            (self.examples[config],) = table.slice(0, 1).to_pylist()


def write_data(
    store: Database, plan: Plan, counts: Sequence[TripletCounts], folder: Path, progress: Progress
) -> Data:
    """Writes the data files of an export into a folder; `counts` are those of each of the plan's runs.

    Raises StoreError if there are no rows, or if a text is no longer in the store.
    """
    if plan.form.selections:
        return _write_ids(store, plan, counts, folder, progress)
    data, target = Data(), folder / plan.data
    target.parent.mkdir(exist_ok=True)
    with (
        WRITERS[plan.file_type](target, plan.schema) as write,
        progress.task(f"export {plan.name}", counts[0].triplets, 0, "triplets") as advance,
    ):
        for triplets in text_pieces(store, plan):
            table = plan.form.rows(triplets, plan.shape)
            write(table)
            if table.num_rows:
                data.add("", plan.split, table)
            advance(triplets.num_rows)
        if not data.rows:
            raise without_rows(plan)
    return data


def text_pieces(store: Database, plan: Plan) -> Iterator[pa.Table]:
    """Yields the run's triplets with their texts, a limited number at a time, all of a query together."""
    positions = plan.shape.include_positives
    for piece in triplet_pieces(store, plan.run, PIECE):
        table = triplet_texts(store, plan.run, piece, positions)
        if table.num_rows != piece.triplets:
            raise _lost(store, plan.run)
        yield table


def without_rows(plan: Plan) -> StoreError:
    """Returns the error for an export that would have no rows."""
    return StoreError(
        f"no query of run '{plan.run.name}' has {plan.shape.negatives} negatives",
        "ask for fewer with --set negatives_per_row=N, or use --format triplet",
    )


def _lost(store: Database, run: StoredRun) -> StoreError:
    return StoreError(
        f"run '{run.name}' has triplets whose query or document is not in {store.path}",
        "the documents or queries changed since the run: mine again",
    )


def _write_ids(
    store: Database, plan: Plan, counts: Sequence[TripletCounts], folder: Path, progress: Progress
) -> Data:
    """Writes a data set of ids: a folder with shards for each config."""
    data, total = Data(), corpus.counts(store)
    for config in ids.TEXTS:
        with progress.task(f"export {config}", total[config], 0, config) as advance:
            _write_config(data, config, ids.TRAIN, ids.texts(store, config), folder, advance)
    _write_config(data, ids.TITLES, ids.TRAIN, ids.titles(store), folder)
    for split, judged in _judged_splits(store).items():
        _write_config(data, ids.QRELS, split, ids.qrels(store, judged), folder)
    for one, found in zip(plan.runs, counts, strict=True):
        if exported.lost_triplets(store, one.run):
            raise _lost(store, one.run)
        with progress.task(f"export run {one.run.name}", found.triplets, 0, "triplets") as advance:
            _write_selections(store, plan, one, data, folder, advance)
    return data


def _judged_splits(store: Database) -> dict[str, str]:
    """Returns the splits of the judgments by the names that `datasets` accepts."""
    names: dict[str, str] = {}
    for split in exported.judged_splits(store):
        if (other := names.setdefault(split_name(split), split)) != split:
            raise UsageError(
                f"the splits '{other}' and '{split}' would both be called {split_name(split)}",
                "`datasets` accepts letters, digits and _ in the name of a split: ingest them under others",
            )
    return names


def _write_config(
    data: Data,
    config: str,
    split: str,
    tables: Iterable[pa.Table],
    folder: Path,
    advance: Any = lambda rows: None,
) -> None:
    """Writes the tables, each of at least one row, as a split of a config."""
    with shards(folder / config, split) as write:
        for table in tables:
            write(table)
            data.add(config, split, table)
            advance(table.num_rows)


def _write_selections(
    store: Database, plan: Plan, one: RunPlan, data: Data, folder: Path, advance: Any
) -> None:
    """Writes a run's triplets as a split of every selection, for which they are read once."""
    with ExitStack() as stack:
        writers = {
            config: stack.enter_context(shards(folder / config, one.split)) for config in plan.form.selections
        }
        for piece in triplet_pieces(store, one.run, PIECE):
            triplets = triplet_ids(store, one.run, piece)
            for config, rows in plan.form.selections.items():
                table = rows(triplets, one.shape)
                if table.num_rows:
                    writers[config](table)
                    data.add(config, one.split, table)
            advance(triplets.num_rows)


def total_rows(rows: RowCounts) -> int:
    """Returns the number of rows of all configs and splits."""
    return sum(sum(splits.values()) for splits in rows.values())
