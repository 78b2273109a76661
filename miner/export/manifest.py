"""The manifest: what an export contains and everything that it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from miner.export import certificate
from miner.export.config import Plan, RunPlan
from miner.export.formats import BINARY
from miner.sources.exported import MANIFEST, read_manifest
from miner.store.database import Database
from miner.store.models import described_scorer
from miner.store.runs import StoredRun
from miner.store.triplets import TripletCounts
from miner.store.verdicts import negative_counts, reason_counts, shortfall_reasons

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class LeftOut:
    """What the run has, or requested, but the export does not contain."""

    what: str
    number: int
    why: str

    def __str__(self) -> str:
        return f"{self.what} {self.why}: {self.number:,}"


RowCounts = Mapping[str, Mapping[str, int]]
"""The number of rows by config and split. A format of one table has one config without a name."""


def left_out(plan: Plan, one: RunPlan, counts: TripletCounts, rows: RowCounts) -> list[LeftOut]:
    """Returns what is left out of a run and why; empty if nothing is."""
    without = counts.mined_queries - counts.queries
    found = [LeftOut("queries", without, "without negatives")]
    if name := plan.form.full_rows:
        written = rows.get(name if plan.form.selections else "", {}).get(one.split, 0)
        why = f"with fewer than {one.shape.negatives} negatives"
        where = f" in {name}" if plan.form.selections else ""
        found.append(LeftOut(f"(query, positive) pairs{where}", counts.positives - written, why))
    return [item for item in found if item.number > 0]


def build(
    store: Database, plan: Plan, counts: Sequence[TripletCounts], rows: RowCounts, folder: Path
) -> Manifest:
    """Returns the manifest of the data files in `folder`; the only time in it is the end of the run.

    `counts` are those of each of the plan's runs.
    """
    facts = [
        {
            "split": one.split,
            **({"negatives": one.shape.negatives} if plan.form.full_rows else {}),
            "counts": {**asdict(found), "rows": _rows_of(plan, one, rows)},
            "left_out": [asdict(item) for item in left_out(plan, one, found, rows)],
            **_run_facts(store, one.run),
        }
        for one, found in zip(plan.runs, counts, strict=True)
    ]
    first, *more = facts
    return {
        "format": plan.name,
        "file_type": plan.file_type,
        "scores": plan.shape.scores,
        **({"labels": plan.shape.labels} if plan.shape.labels != BINARY else {}),
        **({"include_positives": True} if plan.shape.include_positives else {}),
        **({"configs": rows} if plan.form.selections else {}),
        **({"card": plan.card} if plan.card else {}),
        **first,
        **({"more_runs": more} if more else {}),
        "written_by": {"hardneg-miner": version("hardneg-miner"), "pyarrow": pa.__version__},
        "files": _files(folder, [*rows] if plan.form.selections else ["data"]),
    }


def _rows_of(plan: Plan, one: RunPlan, rows: RowCounts) -> int:
    """Returns the number of rows that a run's triplets became."""
    configs = plan.form.selections or [""]
    return sum(rows.get(config, {}).get(one.split, 0) for config in configs)


def rows_in(manifest: Manifest) -> RowCounts:
    """Returns the number of rows that a manifest records."""
    configs: RowCounts = manifest.get("configs") or {"": {manifest["split"]: manifest["counts"]["rows"]}}
    return configs


def _run_facts(store: Database, run: StoredRun) -> dict[str, Any]:
    found = negative_counts(store, run)
    short = sum(queries for negatives, queries in found.items() if negatives < run.negatives)
    return {
        "run": {
            "name": run.name,
            "run_id": run.run_id,
            "evidence": run.evidence,
            "split": run.split,
            "seed": run.seed,
            "negatives": run.negatives,
            "finished": run.finished.isoformat(sep=" ", timespec="seconds") if run.finished else None,
            "config": run.config,
            "inputs": run.inputs,
            "versions": run.versions,
        },
        "scorers": [described_scorer(store, one) for one in run.scorers],
        "decided_by": run.deciding.name,
        "candidates": reason_counts(store, run),
        "shortfalls": {"queries": short, "reasons": shortfall_reasons(store, run)},
        "certificate": certificate.facts(store, run),
    }


def _files(folder: Path, within: Sequence[str]) -> list[dict[str, Any]]:
    """Returns path, size in bytes and sha256 of every file in these folders of an export, sorted by path."""
    return [
        {
            "path": file.relative_to(folder).as_posix(),
            "bytes": file.stat().st_size,
            "sha256": _sha256(file),
        }
        for file in sorted(file for name in within for file in (folder / name).rglob("*"))
        if file.is_file()
    ]


def write(manifest: Manifest, folder: Path) -> None:
    """Writes the manifest into the folder of an export, as indented JSON."""
    text = json.dumps(manifest, ensure_ascii=False, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def same_export(
    store: Database, plan: Plan, counts: Sequence[TripletCounts], folder: Path
) -> Manifest | None:
    """Returns the manifest of the folder if an export would write the same files again, else None."""
    found = read_manifest(folder)
    if found is None or not (folder / "README.md").is_file():
        return None
    try:
        now = build(store, plan, counts, rows_in(found), folder)
    except (OSError, TypeError, KeyError, AttributeError):
        return None
    return found if json.loads(json.dumps(now)) == found else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
