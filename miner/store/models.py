"""The models that a store knows, and the positives that each was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.scorers import BM25, IMPORTED, VECTORS, Scorer
from miner.store.tables import GOLD


def record_model(store: Database, fingerprint: str, kind: str, name: str, details: Mapping[str, Any]) -> None:
    """Records a model that evidence depends on; `kind` is `encoder` or `reranker`.

    A model that the store knows keeps its name, and `details` are added to its details.
    """
    known = store.rows("SELECT details FROM models WHERE fingerprint = ?", [fingerprint])
    if not known:
        store.execute(
            "INSERT INTO models VALUES (?, ?, ?, ?)",
            [fingerprint, kind, name, json.dumps(details, sort_keys=True)],
        )
        return
    before = json.loads(known[0][0])
    if (now := {**before, **details}) != before:
        store.execute(
            "UPDATE models SET details = ? WHERE fingerprint = ?",
            [json.dumps(now, sort_keys=True), fingerprint],
        )


def model_name(store: Database, fingerprint: str | None) -> str | None:
    """Returns the name under which a model was first used, or None."""
    rows = store.rows("SELECT name FROM models WHERE fingerprint = ?", [fingerprint])
    return rows[0][0] if rows else None


def model_similarity(store: Database, fingerprint: str | None) -> str | None:
    """Returns the similarity by which an encoder compares vectors, or None if the store does not know it."""
    rows = store.rows(
        "SELECT json_extract_string(details, '$.similarity') FROM models WHERE fingerprint = ?", [fingerprint]
    )
    return rows[0][0] if rows else None


def shown_scorer(store: Database, scorer: Scorer) -> str:
    """Returns a scorer as people read it: `BM25`, or the name of its model, file or folder."""
    return "BM25" if scorer.kind == BM25 else model_name(store, scorer.model) or scorer.name


def described_scorer(store: Database, scorer: Scorer) -> dict[str, Any]:
    """Returns a scorer as JSON-able facts: scorer, kind, and of a model name, fingerprint and similarity."""
    facts: dict[str, Any] = {"scorer": scorer.name, "kind": scorer.kind}
    if scorer.model is not None:
        facts |= {"name": model_name(store, scorer.model) or scorer.name, "fingerprint": scorer.model}
    similarity = model_similarity(store, scorer.model)
    return facts | ({"similarity": similarity} if similarity else {})


def record_training(store: Database, model: str, positives: pa.Table, base: str | None = None) -> None:
    """Records the positives (query_id, doc_id) that a model's training used; replaces an older record.

    The positives of its base model are added. `base` is the base's `ModelFolder.fingerprint`, which
    `record_model` stores as `weights` in a model's details.
    """
    with store.transaction():
        store.execute("DELETE FROM training_positives WHERE model = ?", [model])
        store.insert("training_positives", positives, model=model)
        store.execute(
            """INSERT INTO training_positives
            SELECT DISTINCT ?, t.query_id, t.doc_id FROM training_positives t
            WHERE t.model IN (
                SELECT fingerprint FROM models WHERE json_extract_string(details, '$.weights') = ?)
            AND NOT EXISTS (FROM training_positives o
                WHERE o.model = ? AND o.query_id = t.query_id AND o.doc_id = t.doc_id)""",
            [model, base, model],
        )


def training_positives(store: Database, model: str) -> pa.Table:
    """Returns the positives (query_id, doc_id) that a model's training used, ordered; no rows if unknown."""
    return store.table(
        "SELECT query_id, doc_id FROM training_positives WHERE model = ? ORDER BY query_id, doc_id",
        [model],
    )


def is_trained_here(store: Database, model: str) -> bool:
    """Returns whether the store knows which positives a model was trained on."""
    query = "SELECT 1 FROM models WHERE fingerprint = ? AND json_extract(details, '$.training') IS NOT NULL"
    return bool(store.rows(query, [model]))


def is_recorded(store: Database, model: str) -> bool:
    """Returns whether the store knows a model of that fingerprint."""
    return bool(store.rows("SELECT 1 FROM models WHERE fingerprint = ?", [model]))


def seen_positives(store: Database, model: str, split: str) -> int:
    """Returns the number of a split's positives that a model is known to be trained on."""
    ((number,),) = store.rows(
        f"""SELECT count(*) FROM (
            SELECT DISTINCT query_id, doc_id FROM {GOLD} WHERE split = ? AND relevance > 0
            INTERSECT SELECT query_id, doc_id FROM training_positives WHERE model = ?)""",
        [split, model],
    )
    return int(number)


def trained_models(store: Database, run: StoredRun) -> list[str]:
    """Returns the fingerprints of those of a run's models that were trained on positives of this store."""
    rows = store.rows(
        "SELECT DISTINCT model FROM training_positives WHERE model IN (SELECT unnest(?::VARCHAR[]))",
        [run.models],
    )
    return [model for (model,) in rows]


def models_of_unknown_training(store: Database, run: StoredRun) -> list[str]:
    """Returns the run's models, and their base models, whose training data the store does not know.

    A model has also learned from its base model's training data. A random initialisation has none. What made
    given vectors or scored imported candidates is never known.
    """
    rows = store.rows(
        """SELECT name, details FROM models WHERE fingerprint IN (SELECT unnest(?::VARCHAR[]))
        ORDER BY kind, name""",
        [run.models],
    )
    unknown = [_of_unknown_training(store, name, json.loads(details)) for name, details in rows]
    given = [f"what scored {one.name}" for one in run.scorers if one.kind in (VECTORS, IMPORTED)]
    return [*(name for name in unknown if name is not None), *given]


def _of_unknown_training(store: Database, name: str, details: Mapping[str, Any]) -> str | None:
    """Returns the model, or the first of its base models, of unknown training; None if all is known."""
    if "training" not in details:
        return name
    base = details.get("base")
    if base is None:
        return None
    rows = store.rows(
        """SELECT name, details FROM models WHERE json_extract_string(details, '$.weights') = ?
        ORDER BY json_extract(details, '$.training') IS NULL, name LIMIT 1""",
        [base],
    )
    of_base = f"the base of {name}"
    if not rows:
        return of_base
    known = json.loads(rows[0][1])
    return of_base if "training" not in known else _of_unknown_training(store, rows[0][0], known)
