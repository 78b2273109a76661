"""The texts of a store without what is judged of them: what an encoder can be pretrained on."""

from __future__ import annotations

import pyarrow as pa

from miner.store.database import Store

ROLES = ("documents", "queries")


def unlabelled_texts(store: Store, roles: tuple[str, ...], without: str | None) -> pa.Table:
    """Returns distinct texts, documents before queries, each ordered by id: role, text.

    `roles` are some of ROLES. Queries that a judgment of split `without` names are left out, and all
    texts that read the same; nothing else is read of the judgments.
    """
    return store.table(
        """WITH judged AS (
            SELECT DISTINCT text_key FROM queries
            WHERE query_id IN (SELECT query_id FROM judgments WHERE split = $without)
        ), texts AS (
            SELECT 'documents' AS role, doc_id AS id, text_key, text FROM document_texts
            UNION ALL
            SELECT 'queries', query_id, text_key, text FROM queries
        )
        SELECT role, text FROM texts
        WHERE text_key <> 0 AND list_contains($roles, role) AND text_key NOT IN (SELECT text_key FROM judged)
        QUALIFY row_number() OVER (PARTITION BY text_key ORDER BY role, id) = 1
        ORDER BY role, id""",
        {"roles": list(roles), "without": without},
    )
