"""Which judged positives a model was trained on: no audit may ask it about those as if they were new."""

from __future__ import annotations

import pyarrow as pa

from miner.store.database import Store


def record_training(store: Store, model: str, positives: pa.Table, base: str | None = None) -> None:
    """Notes the positives (query_id, doc_id) that a model's training used, in place of older notes.

    With them those that its base was trained on: `base` is the base's `ModelFolder.fingerprint`, which
    `record_model` keeps as `weights` of a model's details.
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


def training_positives(store: Store, model: str) -> pa.Table:
    """Returns the positives that a model's training used as (query_id, doc_id), ordered; none if unknown."""
    return store.table(
        "SELECT query_id, doc_id FROM training_positives WHERE model = ? ORDER BY query_id, doc_id",
        [model],
    )


def is_trained_here(store: Store, model: str) -> bool:
    """Returns whether the store knows which positives a model was trained on."""
    query = "SELECT 1 FROM models WHERE fingerprint = ? AND json_extract(details, '$.training') IS NOT NULL"
    return bool(store.rows(query, [model]))


def is_recorded(store: Store, model: str) -> bool:
    """Returns whether the store knows a model of that fingerprint."""
    return bool(store.rows("SELECT 1 FROM models WHERE fingerprint = ?", [model]))
