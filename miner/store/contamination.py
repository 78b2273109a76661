"""Training texts and evaluation texts of a store, the contamination found among them, and their removal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from miner.store.corpus import TEXTS_READ, changed_texts, require_judgments, text_hashes
from miner.store.database import Database
from miner.store.tables import GOLD

_TEXTS = """SELECT 'query' AS role, query_id AS id, text, text_key, 0 AS start FROM queries
    UNION ALL SELECT 'document', doc_id, text, text_key, 0 FROM document_texts
    UNION ALL SELECT 'document', doc_id, text, passage_key, passage_start FROM document_texts
    WHERE passage_start > 0"""
"""Every text. A document with a title and a passage has a second row, whose passage begins at `start`."""


_ALL = f"FROM ({_TEXTS}) WHERE text_key <> 0 ORDER BY role, id, start"


def all_keys(store: Database) -> pa.Table:
    """Returns every text that is not empty, without the text, ordered: role, id, text_key, start.

    The role is `query` or `document`. A document with a title and a passage has two rows: the whole text, and
    the passage from `start` on.
    """
    return store.table(f"SELECT role, id, text_key, start {_ALL}")


def all_texts(store: Database) -> Iterator[pa.RecordBatch]:
    """Yields the texts of the rows of `all_keys` that have the `start` 0, in their order."""
    for table, key in (("document_texts", "doc_id"), ("queries", "query_id")):  # document < query
        yield from store.batches(f"SELECT text FROM {table} WHERE text_key <> 0 ORDER BY {key}", TEXTS_READ)


def evaluation_texts(store: Database, split: str) -> pa.Table:
    """Returns the queries of a split and their relevant documents; columns as in `all_keys`, and text.

    Raises UsageError if nothing is judged in the split.
    """
    require_judgments(store, split)
    return store.table(
        f"""WITH of_split AS (SELECT query_id, doc_id, relevance FROM {GOLD} WHERE split = $split)
        SELECT role, id, text, text_key, start FROM ({_TEXTS}) WHERE text_key <> 0 AND (
            role = 'query' AND id IN (SELECT query_id FROM of_split)
            OR role = 'document' AND id IN (SELECT doc_id FROM of_split WHERE relevance > 0))
        ORDER BY role, id, start""",
        {"split": split},
    )


def texts_of(store: Database, queries: Sequence[str], documents: Sequence[str]) -> pa.Table:
    """Returns the texts with these ids; columns as in `all_keys`, and text."""
    return store.table(
        f"""SELECT role, id, text, text_key, start FROM ({_TEXTS}) WHERE text_key <> 0 AND (
            role = 'query' AND id IN (SELECT unnest($queries::VARCHAR[]))
            OR role = 'document' AND id IN (SELECT unnest($documents::VARCHAR[])))
        ORDER BY role, id, start""",
        {"queries": list(queries), "documents": list(documents)},
    )


def queries_elsewhere(store: Database, split: str) -> pa.Table:
    """Returns the queries that are judged in any other split; columns as in `all_keys`, and text."""
    return store.table(
        f"""SELECT role, id, text, text_key, start FROM ({_TEXTS})
        WHERE role = 'query' AND text_key <> 0
            AND id IN (SELECT query_id FROM {GOLD} WHERE split <> $split) ORDER BY id""",
        {"split": split},
    )


def used_in(store: Database, split: str) -> dict[str, set[str]]:
    """Returns the ids of a split's queries and of their relevant documents, by role."""
    rows = store.rows(f"SELECT query_id, doc_id, relevance FROM {GOLD} WHERE split = ?", [split])
    return {"query": {q for q, _, _ in rows}, "document": {d for _, d, relevance in rows if relevance > 0}}


def remove_texts(store: Database, queries: list[str], documents: list[str]) -> int:
    """Removes texts and their judgments, within a transaction; returns the number of judgments."""
    ((before,),) = store.rows("SELECT count(*) FROM judgments")
    for table, key, ids in (("queries", "query_id", queries), ("documents", "doc_id", documents)):
        store.execute(f"DELETE FROM judgments WHERE list_contains(?, {key})", [ids])
        store.execute(f"DELETE FROM {table} WHERE list_contains(?, {key})", [ids])
        store.execute("DELETE FROM duplicates WHERE role = ? AND list_contains(?, id)", [table, ids])
    ((after,),) = store.rows("SELECT count(*) FROM judgments")
    return int(before) - int(after)


def remove_judgments_elsewhere(store: Database, queries: list[str], documents: list[str], split: str) -> int:
    """Removes the judgments of queries and documents in all other splits; returns the number of judgments."""
    ((before,),) = store.rows("SELECT count(*) FROM judgments")
    store.execute(
        """DELETE FROM judgments
        WHERE (list_contains(?, query_id) OR list_contains(?, doc_id)) AND split <> ?""",
        [queries, documents, split],
    )
    ((after,),) = store.rows("SELECT count(*) FROM judgments")
    return int(before) - int(after)


_CHECKS = "contamination"
"""The key of `meta` with the results of `miner contamination`."""


def record_contamination(store: Database, result: Mapping[str, Any]) -> None:
    """Stores the result of a contamination check, in place of an older one of the same evaluation data.

    The keys `against`, `path` and `split` of the result name these data. Hashes of the store's texts are kept
    with it, so that later changes show. Call it within a transaction.
    """
    same = ("against", "path", "split")
    kept = [one for one in store.meta(_CHECKS) or [] if any(one[name] != result[name] for name in same)]
    new = {**result, "texts": text_hashes(store)}
    store.set_meta(_CHECKS, sorted([*kept, new], key=lambda one: [one[name] for name in same]))


def is_removed(store: Database, check: Mapping[str, Any]) -> bool:
    """Returns whether the last check with these settings removed matches and no text has changed since."""
    last = [
        one
        for one in store.meta(_CHECKS) or []
        if all(one.get(name) == value for name, value in check.items())
    ]
    return any(
        one["removed"]
        and any(map(sum, (kinds.values() for kinds in one["counts"].values())))
        and not changed_texts(store, one["texts"])
        for one in last
    )


def contamination_checks(store: Database) -> list[dict[str, Any]]:
    """Returns the results of the contamination checks, by evaluation data and split.

    `changed_since` lists which of documents and queries have changed since the check.
    """
    return [
        {name: value for name, value in one.items() if name not in ("path", "texts")}
        | {"changed_since": changed_texts(store, one["texts"])}
        for one in store.meta(_CHECKS) or []
    ]
