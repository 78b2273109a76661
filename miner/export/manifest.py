"""The manifest: what an export holds, and everything it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from miner.export import certificate
from miner.export.config import Plan
from miner.store.database import Store
from miner.store.reading import TripletCounts, shortfall_reasons
from miner.store.runs import Run, model_name, negative_counts, reason_counts

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class LeftOut:
    """What the run holds or aimed at but the export does not."""

    what: str
    number: int
    why: str

    def __str__(self) -> str:
        return f"{self.what} with {self.why}: {self.number:,}"


def left_out(made: Plan, counts: TripletCounts, rows: int) -> list[LeftOut]:
    """Returns what is left out and why; empty when nothing is."""
    without = counts.mined_queries - counts.queries
    found = [LeftOut("queries", without, "no negative at all")]
    if made.name == "n-tuple":
        why = f"fewer than {made.shape.negatives} negatives"
        found.append(LeftOut("(query, positive) pairs", counts.positives - rows, why))
    return [item for item in found if item.number > 0]


def build(
    store: Store, made: Plan, counts: TripletCounts, rows: int, missing: list[LeftOut], folder: Path
) -> Manifest:
    """Returns the manifest of the data files in `folder`; its only time is when the run finished."""
    return {
        "format": made.name,
        "file_type": made.file_type,
        "scores": made.shape.scores,
        "split": made.split,
        **({"negatives": made.shape.negatives} if made.name == "n-tuple" else {}),
        "counts": {**asdict(counts), "rows": rows},
        "left_out": [asdict(item) for item in missing],
        **_run_facts(store, made.run),
        "written_by": {"hardneg-miner": version("hardneg-miner"), "pyarrow": pa.__version__},
        "files": _files(folder),
    }


def _run_facts(store: Store, run: Run) -> dict[str, Any]:
    models = {"encoder": run.encoder, "reranker": run.reranker}
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
        "models": {
            kind: {"name": model_name(store, fingerprint), "fingerprint": fingerprint}
            for kind, fingerprint in models.items()
            if fingerprint is not None
        },
        "candidates": reason_counts(store, run),
        "shortfalls": {"queries": short, "reasons": shortfall_reasons(store, run)},
        "certificate": certificate.facts(store, run),
    }


def _files(folder: Path) -> list[dict[str, Any]]:
    """Returns path, size in bytes and sha256 of every file in the folder, by path."""
    return [
        {
            "path": file.relative_to(folder).as_posix(),
            "bytes": file.stat().st_size,
            "sha256": _sha256(file),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]


def write(manifest: Manifest, file: Path) -> None:
    """Writes the manifest as indented JSON."""
    file.write_text(json.dumps(manifest, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
