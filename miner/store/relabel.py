"""Judgments that `miner relabel` made, by scores, by people or by a judge, and how to take them back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from miner.store.corpus import content_hashes
from miner.store.database import Database
from miner.store.runs import StoredRun, forget_runs
from miner.store.tables import GOLD, JUDGE, RELABELLED, REVIEWED

MADE = (RELABELLED, REVIEWED, JUDGE)
"""The sources of judgments that `miner relabel` makes, and undoes."""
_MADE = f"({', '.join(repr(source) for source in MADE)})"


def add_relabelled(
    store: Database, pairs: pa.Table, split: str, origin: Mapping[str, Any], source: str = RELABELLED
) -> None:
    """Adds pairs (query_id, doc_id) as relevant and records their origin, in one transaction.

    `source` is one of MADE.
    """
    origins = [*relabellings(store), dict(origin)]
    with store.transaction():
        relevant = pairs.append_column("relevance", pa.array([1.0] * pairs.num_rows, pa.float64()))
        store.insert("judgments", relevant, split=split, source=source)
        store.set_meta(RELABELLED, origins)


def note_made(store: Database, run: StoredRun) -> None:
    """Records the run that was made on the latest relabellings; undoing them removes it too."""
    made = {"run_id": run.run_id, "name": run.name, "evidence": run.evidence}
    with store.transaction():
        store.set_meta(RELABELLED, [{"made": made, **origin} for origin in relabellings(store)])


def relabellings(store: Database) -> list[dict[str, Any]]:
    """Returns the origins of relabelled judgments, oldest first."""
    return list(store.meta(RELABELLED) or [])


def _unfinished_runs(store: Database, relabelled: list[str]) -> dict[str, str]:
    """Returns runs (run_id to evidence) that a killed relabelling of these runs left unfinished."""
    rows = store.rows(
        """SELECT run_id, evidence, split, inputs FROM runs WHERE status <> 'done'
        AND config IN (SELECT config FROM runs WHERE list_contains(?, run_id))""",
        [relabelled],
    )
    return {
        run_id: evidence
        for run_id, evidence, split, inputs in rows
        if json.loads(inputs).get("judgments") == content_hashes(store, split)["judgments"]
    }


def remove_relabelled(store: Database) -> tuple[int, list[str], list[str]]:
    """Undoes every relabelling in one transaction: removes its judgments, its runs and their evidence.

    Evidence that another run uses stays. Returns the number of removed judgments, the names of the removed
    runs, and the names of the remaining runs that used those judgments.
    """
    origins = relabellings(store)
    made = [origin["made"] for origin in origins if "made" in origin]
    ((number,),) = store.rows(f"SELECT count(*) FROM judgments WHERE source IN {_MADE}")
    resting = store.rows(
        f"""SELECT DISTINCT r.name FROM runs r JOIN positives p ON p.evidence = r.evidence
        JOIN judgments j ON j.query_id = p.query_id AND j.doc_id = p.doc_id AND j.source IN {_MADE}
        WHERE (p.query_id, p.doc_id) NOT IN (
            SELECT (query_id, doc_id) FROM {GOLD} WHERE source NOT IN {_MADE}) ORDER BY r.name"""
    )
    unfinished = _unfinished_runs(store, [one["run_id"] for one in origins if "made" not in one])
    with store.transaction():
        store.execute(f"DELETE FROM judgments WHERE source IN {_MADE}")
        store.set_meta(RELABELLED, None)
        forget_runs(store, {one["run_id"]: one["evidence"] for one in made} | unfinished)
    gone = list(dict.fromkeys(one["name"] for one in made))
    return int(number), gone, [name for (name,) in resting if name not in gone]
