"""Exporting a run's triplets as training data: data files, a manifest, a data set card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from miner.engine.files import contents, locked, new_folder, require_replaceable
from miner.engine.progress import SILENT, Progress
from miner.errors import StoreError, UsageError
from miner.export import card, manifest
from miner.export.config import FORMATS, ExportConfig, Plan, plan_export
from miner.export.data import text_pieces, without_rows, write_data
from miner.export.manifest import LeftOut, Manifest
from miner.reporting.readable import Readable
from miner.sources.exported import MANIFEST, read_manifest
from miner.store.database import Database
from miner.store.runs import StoredRun, find_run, staleness
from miner.store.triplets import TripletCounts, triplet_counts

__all__ = ["FORMATS", "ExportConfig", "ExportReport", "export_run", "training_rows"]


@dataclass(frozen=True)
class Exported:
    """What an export has of a run."""

    run: str
    """Its name."""
    rows: int
    counts: TripletCounts
    shortfalls: int
    """How many queries have fewer negatives than the run requested."""
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, repr=False)
class ExportReport(Readable):
    """The result of an export."""

    data: Path
    """The data file, or the folder of a `datasets` export or of a data set of ids."""
    run: str
    rows: int
    counts: TripletCounts
    shortfalls: int
    """How many queries have fewer negatives than the run requested."""
    left_out: tuple[LeftOut, ...]
    configs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """The rows of each config and split of a data set of ids; empty for other formats."""
    further: tuple[Exported, ...] = ()
    """The runs of other splits, `more_runs`."""


def export_run(store: Database, out: Path, config: ExportConfig, progress: Progress = SILENT) -> ExportReport:
    """Writes a run's triplets to the new folder `out`: `data/`, `manifest.json` and `README.md`.

    A data set of ids has a folder for each config instead of `data/`. The same run and settings give the same
    bytes; if `out` holds that export already, nothing is written.
    Raises UsageError for settings that do not fit together or a folder that is in use, StoreError if there is
    nothing to export, MinerError if another process exports to `out`.
    """
    plan = _plan(store, config)
    for one in plan.runs:
        if stale := staleness(store, one.run):
            progress.note(stale)
    counts = [_counts(store, one.run) for one in plan.runs]
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, not a folder", "name a new folder")
    with locked(out):
        facts = manifest.same_export(store, plan, counts, out)
        if facts is not None:
            progress.note(f"{out} already contains this export")
            return _report(out, plan, counts, facts)
        _require_free(out, config.force)
        with new_folder(out) as folder:
            data = write_data(store, plan, counts, folder, progress)
            facts = manifest.build(store, plan, counts, data.rows, folder)
            manifest.write(facts, folder)
            (folder / "README.md").write_text(card.render(facts, plan, data), "utf-8", newline="\n")
    return _report(out, plan, counts, facts)


def training_rows(store: Database, config: ExportConfig) -> pa.Table:
    """Returns the rows that `export_run` writes, in memory; for the format ids those of `triplet-hard`.

    Raises UsageError for settings that do not fit together, and StoreError if there is nothing to export.
    """
    plan = _plan(store, config)
    _counts(store, plan.run)
    tables = [plan.form.rows(triplets, plan.shape) for triplets in text_pieces(store, plan)]
    rows = pa.concat_tables(tables)
    if rows.num_rows == 0:
        raise without_rows(plan)
    return rows


def _plan(store: Database, config: ExportConfig) -> Plan:
    return plan_export(
        config, find_run(store, config.run), [find_run(store, name) for name in config.more_runs]
    )


def _counts(store: Database, run: StoredRun) -> TripletCounts:
    """Returns the counts of a run; raises StoreError if it has no triplets."""
    counts = triplet_counts(store, run)
    if counts.triplets == 0:
        raise StoreError(
            f"run '{run.name}' has no triplets",
            f'see why: miner sql {store.path} "SELECT * FROM reasons"',
        )
    return counts


def _require_free(out: Path, force: bool) -> None:
    """Raises UsageError if `out` is not empty and may not be replaced."""
    require_replaceable(out)
    if not contents(out):
        return
    if not force:
        raise UsageError(f"the folder {out} is not empty", "name a new folder, or add --force")
    if read_manifest(out) is None:
        raise UsageError(
            f"{out} is not an earlier export (it has no {MANIFEST} of one)", "--force replaces only exports"
        )


def _report(out: Path, plan: Plan, counts: Sequence[TripletCounts], facts: Manifest) -> ExportReport:
    first, *further = (
        Exported(
            run=one.run.name,
            rows=own["counts"]["rows"],
            counts=found,
            shortfalls=own["shortfalls"]["queries"],
            left_out=tuple(LeftOut(**item) for item in own["left_out"]),
        )
        for one, own, found in zip(plan.runs, [facts, *facts.get("more_runs", ())], counts, strict=True)
    )
    return ExportReport(
        **vars(first),
        data=out / plan.data,
        configs=manifest.rows_in(facts) if plan.form.selections else {},
        further=tuple(further),
    )
