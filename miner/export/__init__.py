"""Exporting a run's triplets as training data: data files, a manifest, a data set card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from miner.engine.files import contents, locked, new_folder, require_replaceable
from miner.engine.progress import SILENT, Progress
from miner.errors import StoreError, UsageError
from miner.export import card, manifest
from miner.export.config import FORMATS, ExportConfig, Plan, plan_export
from miner.export.manifest import MANIFEST, LeftOut, Manifest
from miner.export.writers import WRITERS
from miner.reporting.readable import Readable
from miner.store.database import Database
from miner.store.runs import find_run, staleness
from miner.store.triplets import TripletCounts, triplet_counts, triplet_pieces, triplet_texts

__all__ = ["FORMATS", "ExportConfig", "ExportReport", "export_run", "training_rows"]

PIECE = 65_536
"""About how many triplets, with their texts, are in memory at once."""


@dataclass(frozen=True, repr=False)
class ExportReport(Readable):
    """The result of an export."""

    data: Path
    """The data file, or the folder of a `datasets` export."""
    run: str
    rows: int
    counts: TripletCounts
    shortfalls: int
    """How many queries have fewer negatives than the run requested."""
    left_out: tuple[LeftOut, ...]


def export_run(store: Database, out: Path, config: ExportConfig, progress: Progress = SILENT) -> ExportReport:
    """Writes a run's triplets to the new folder `out`: `data/`, `manifest.json` and `README.md`.

    The same run and settings give the same bytes; if `out` holds that export already, nothing is written.
    Raises UsageError for settings that do not fit together or a folder that is in use, StoreError if there is
    nothing to export, MinerError if another process exports to `out`.
    """
    plan = plan_export(config, find_run(store, config.run))
    if stale := staleness(store, plan.run):
        progress.note(stale)
    counts = _counts(store, plan)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, not a folder", "name a new folder")
    with locked(out):
        facts = manifest.same_export(store, plan, counts, out)
        if facts is not None:
            progress.note(f"{out} already contains this export")
            return _report(out, plan, counts, facts)
        _require_free(out, config.force)
        with new_folder(out) as folder:
            rows, example = _write_data(store, plan, counts, folder / plan.data, progress)
            facts = manifest.build(store, plan, counts, rows, folder)
            manifest.write(facts, folder)
            (folder / "README.md").write_text(card.render(facts, plan, example), "utf-8", newline="\n")
    return _report(out, plan, counts, facts)


def training_rows(store: Database, config: ExportConfig) -> pa.Table:
    """Returns the rows that `export_run` writes, in memory.

    Raises UsageError for settings that do not fit together, and StoreError if there is nothing to export.
    """
    plan = plan_export(config, find_run(store, config.run))
    _counts(store, plan)
    tables = [plan.form.rows(triplets, plan.shape) for triplets in _pieces(store, plan)]
    rows = pa.concat_tables(tables)
    if rows.num_rows == 0:
        raise _without_rows(plan)
    return rows


def _counts(store: Database, plan: Plan) -> TripletCounts:
    """Returns the counts of a run; raises StoreError if it has no triplets."""
    counts = triplet_counts(store, plan.run)
    if counts.triplets == 0:
        raise StoreError(
            f"run '{plan.run.name}' has no triplets",
            f'see why: miner sql {store.path} "SELECT * FROM reasons"',
        )
    return counts


def _without_rows(plan: Plan) -> StoreError:
    return StoreError(
        f"no query of run '{plan.run.name}' has {plan.shape.negatives} negatives",
        "ask for fewer with --set negatives_per_row=N, or use --format triplet",
    )


def _require_free(out: Path, force: bool) -> None:
    """Raises UsageError if `out` is not empty and may not be replaced."""
    require_replaceable(out)
    if not contents(out):
        return
    if not force:
        raise UsageError(f"the folder {out} is not empty", "name a new folder, or add --force")
    if manifest.read(out) is None:
        raise UsageError(
            f"{out} is not an earlier export (it has no {MANIFEST} of one)", "--force replaces only exports"
        )


def _report(out: Path, plan: Plan, counts: TripletCounts, facts: Manifest) -> ExportReport:
    rows = facts["counts"]["rows"]
    return ExportReport(
        data=out / plan.data,
        run=plan.run.name,
        rows=rows,
        counts=counts,
        shortfalls=facts["shortfalls"]["queries"],
        left_out=tuple(manifest.left_out(plan, counts, rows)),
    )


def _write_data(
    store: Database, plan: Plan, counts: TripletCounts, target: Path, progress: Progress
) -> tuple[int, dict[str, Any]]:
    """Writes the rows; returns their number and the first row."""
    target.parent.mkdir(exist_ok=True)
    rows = 0
    example: dict[str, Any] = {}
    with (
        WRITERS[plan.file_type](target, plan.schema) as write,
        progress.task(f"export {plan.name}", counts.triplets, 0, "triplets") as advance,
    ):
        for triplets in _pieces(store, plan):
            table = plan.form.rows(triplets, plan.shape)
            write(table)
            if rows == 0 and table.num_rows:
                (example,) = table.slice(0, 1).to_pylist()
            rows += table.num_rows
            advance(triplets.num_rows)
        if rows == 0:
            raise _without_rows(plan)
    return rows, example


def _pieces(store: Database, plan: Plan) -> Iterator[pa.Table]:
    """Yields the run's triplets with their texts, a limited number at a time, all of a query together."""
    for piece in triplet_pieces(store, plan.run, PIECE):
        table = triplet_texts(store, plan.run, piece)
        if table.num_rows != piece.triplets:
            raise StoreError(
                f"run '{plan.run.name}' has triplets whose query or document is not in {store.path}",
                "the documents or queries changed since the run: mine again",
            )
        yield table
