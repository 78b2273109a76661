"""Clusters of copies: the documents, and the queries, that mining treats as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from miner.store.corpus import TEXTS_READ, changed_texts, text_hashes
from miner.store.database import Database

_SEARCH = "dedup"
"""The key of `meta` with the settings of the last search for copies, and hashes of the texts that it read."""
_TABLES = {
    "documents": ("document_texts", "doc_id", "passage_key"),
    "queries": ("queries", "query_id", "text_key"),
}
"""By role: the table, its id, and the key of the passage."""


def keys(store: Database, role: str) -> pa.Table:
    """Returns all documents or all queries without their texts, ordered: id, text_key, passage_key."""
    table, key, passage = _TABLES[role]
    return store.table(f"SELECT {key} AS id, text_key, {passage} AS passage_key FROM {table} ORDER BY {key}")


def texts(store: Database, role: str) -> Iterator[pa.RecordBatch]:
    """Yields the texts of all documents (with the titles) or of all queries, in the order of `keys`."""
    table, key, _ = _TABLES[role]
    return store.batches(f"SELECT text FROM {table} ORDER BY {key}", TEXTS_READ)


def replace_duplicates(store: Database, tables: Mapping[str, pa.Table], settings: Mapping[str, Any]) -> None:
    """Replaces all clusters at once. `tables` has, for each role, the columns id, cluster, how, similarity.

    The settings of the search, and hashes of the texts that it read, are stored too.
    """
    search = {"settings": dict(settings), "texts": text_hashes(store)}
    with store.transaction():
        store.execute("DELETE FROM duplicates")
        store.set_meta(_SEARCH, search)
        for role, table in tables.items():
            store.insert("duplicates", table, role=role)


def clusters_hash(store: Database) -> str | None:
    """Returns a hash of the documents' clusters; None if there are none."""
    ((rows, total),) = store.rows(
        """SELECT count(*), sum(md5_number_lower(id || chr(0) || cluster)::HUGEINT)
        FROM duplicates WHERE role = 'documents'"""
    )
    return f"{rows}:{total:x}" if rows else None


def split_crossings(store: Database) -> list[tuple[str, str, int]]:
    """Returns, for each pair of splits, the number of clusters of queries that are judged in both."""
    return store.rows(
        """WITH placed AS (
            SELECT DISTINCT d.cluster, j.split FROM duplicates d JOIN judgments j ON j.query_id = d.id
            WHERE d.role = 'queries')
        SELECT a.split, b.split, count(*) FROM placed a JOIN placed b USING (cluster)
        WHERE a.split < b.split GROUP BY ALL ORDER BY ALL"""
    )


def dedup_result(store: Database) -> dict[str, Any] | None:
    """Returns the settings and the counts of the last `miner dedup`; None if it never ran.

    `changed_since` lists which of documents and queries have changed since.
    """
    search = store.meta(_SEARCH)
    if search is None:
        return None
    rows = store.rows(
        "SELECT role, count(DISTINCT cluster), count(*) FROM duplicates GROUP BY role ORDER BY role"
    )
    roles = {role: {"clusters": clusters, "members": members} for role, clusters, members in rows}
    return {"settings": search["settings"], "changed_since": changed_texts(store, search["texts"]), **roles}
