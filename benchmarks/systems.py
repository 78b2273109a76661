"""The two systems that benchmarks compare, as processes: `miner mine` on a fresh store, and the peer."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import HERE, Figures, Finished, Goal, Report, gib, miner, ratios, run_process, spread
from corpora import BUNDLED_FOLDER, copy_store, drop_store

from miner.store import runs
from miner.store.database import Database
from miner.store.triplets import triplet_count


@dataclass(frozen=True)
class Outcome:
    """What a system took, and what it reported of itself."""

    took: Finished
    about: dict[str, Any]


def mine(store: Path, depth: int, *options: str | Path, vectors: bool) -> Outcome:
    """Mines a copy of the store, dense candidates only, with its vectors or without."""
    copy = copy_store(store, store.with_name(f"mined-{store.name}"), vectors=vectors)
    try:
        command = ("mine", copy, "--no-bm25", "--encoder", "bundled", "--depth", str(depth))
        took = run_process(miner(*command, "--negatives", "5", "--relative-margin", "0.05", *options))
        return Outcome(took, _ledger(copy))
    finally:
        drop_store(copy)


def _ledger(store: Path) -> dict[str, Any]:
    with Database.open(store) as opened:
        stages = opened.rows(
            "SELECT stage, sum(seconds) FROM stages JOIN chunks USING (fingerprint) GROUP BY ALL ORDER BY ALL"
        )
        ((pairs,),) = opened.rows("SELECT count(*) FROM rerank_scores")
        return {
            "triplets": triplet_count(opened, runs.find_run(opened)),
            "stage_seconds": {stage: round(seconds, 3) for stage, seconds in stages},
            **({"pairs_scored": pairs} if pairs else {}),
        }


def peer(data: Path, depth: int, *options: str | Path) -> Outcome:
    """Runs the peer on a BEIR folder."""
    command = [sys.executable, HERE / "peer.py", data, "--model", BUNDLED_FOLDER, "--depth", depth, *options]
    took = run_process([str(part) for part in command])
    return Outcome(took, json.loads(took.stdout.splitlines()[-1]))


def add_rows(
    found: Report, outcomes: dict[str, list[Outcome]], goal: Goal, note: str, about: dict[str, Any]
) -> None:
    """Adds a row per system, and the ratio of the others' seconds to those of miner; `goal` is the peer's."""
    for name, results in outcomes.items():
        figures = summary(results)
        found.row(f"{name}: seconds", figures, value=figures["seconds"]["median"], note=note, **about)
    ours = [outcome.took.seconds for outcome in outcomes.get("miner", [])]
    for name, results in outcomes.items():
        if ours and name != "miner":
            ratio = ratios([outcome.took.seconds for outcome in results], ours)
            target = goal if name == "peer" else None
            found.row(
                f"{name} / miner", {"ratio": ratio}, goal=target, value=ratio["median"], note=note, **about
            )


def summary(results: list[Outcome]) -> Figures:
    """Returns seconds, peak memory, and what the last repeat reported of itself."""
    return {
        "seconds": spread(outcome.took.seconds for outcome in results),
        "peak_gib": spread(gib(outcome.took.peak_bytes) for outcome in results),
        "last": results[-1].about,
    }
