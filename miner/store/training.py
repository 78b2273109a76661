"""Which judged positives a model was trained on: no audit may ask it about those as if they were new."""

from __future__ import annotations

import pyarrow as pa

from miner.store.database import Store


def record_training(store: Store, model: str, positives: pa.Table) -> None:
    """Notes the positives (query_id, doc_id) that a model's training used, in place of older notes."""
    with store.transaction():
        store.execute("DELETE FROM training_positives WHERE model = ?", [model])
        store.insert("training_positives", positives, model=model)


def training_positives(store: Store, model: str) -> pa.Table:
    """Returns the positives that a model's training used as (query_id, doc_id), ordered; none if unknown."""
    return store.table(
        "SELECT query_id, doc_id FROM training_positives WHERE model = ? ORDER BY query_id, doc_id",
        [model],
    )


def is_recorded(store: Store, model: str) -> bool:
    """Returns whether the store knows a model of that fingerprint."""
    return bool(store.rows("SELECT 1 FROM models WHERE fingerprint = ?", [model]))
