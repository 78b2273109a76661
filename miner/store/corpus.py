"""Reading documents, queries and judgments, and the hashes of their content.

Silver judgments come from a model. Nothing here reads them: what is mined, excluded and held against
mined negatives is what people said, and a run stays what it was when silver judgments come or go.
"""

from __future__ import annotations

import pyarrow as pa

from miner.errors import StoreError, UsageError, listed, near, shown
from miner.store.database import Store

SILVER = "silver"
"""The source of judgments that `miner silver` makes."""
GOLD = f"(SELECT * FROM judgments WHERE source <> '{SILVER}')"
"""What people judged, as a table."""

IDENTITY = "queries_are_documents"
"""The row of `meta` that is there where queries are documents of the corpus."""

_MINED = f"""SELECT DISTINCT query_id FROM {GOLD} WHERE split = ? AND relevance > 0"""


def documents(store: Store) -> pa.Table:
    """Returns every document, ordered by doc_id.

    Columns doc_id, text (title before it), text_key, passage_key and passage_start (of the text without
    title, where that is a passage of its own, else of the whole), label, cluster: of copies, null where it
    has none.
    """
    return store.table(
        """SELECT doc_id, text, text_key, passage_key, passage_start, label, cluster
        FROM document_texts LEFT JOIN duplicates ON role = 'documents' AND id = doc_id ORDER BY doc_id"""
    )


def queries(store: Store, split: str) -> pa.Table:
    """Returns the queries with at least one positive in `split`, ordered by query_id.

    Columns query_id, text, text_key, label. Raises UsageError when the split has none.
    """
    table = store.table(
        f"""SELECT query_id, text, text_key, label FROM queries
        WHERE query_id IN ({_MINED}) ORDER BY query_id""",
        [split],
    )
    if table.num_rows == 0:
        known = splits(store)
        raise UsageError(
            f"no query has a judged positive in split '{split}'{near(split, known)}",
            f"choose one with --split: {listed(known) or 'the store holds no judgments'}",
        )
    return table


def queries_are_documents(store: Store) -> bool:
    """Returns whether the user said that a query and a document of the same id are the same thing."""
    return bool(store.rows("SELECT 1 FROM meta WHERE key = ?", [IDENTITY]))


def set_queries_are_documents(store: Store, same: bool) -> None:
    """Keeps in the store whether a query and a document of the same id are the same thing."""
    store.execute("DELETE FROM meta WHERE key = ?", [IDENTITY])
    if same:
        store.execute("INSERT INTO meta VALUES (?, 'yes')", [IDENTITY])


def splits(store: Store) -> list[str]:
    """Returns the names of the splits that have positives."""
    rows = store.rows(f"SELECT DISTINCT split FROM {GOLD} WHERE relevance > 0 ORDER BY split")
    return [split for (split,) in rows]


def positives(store: Store, split: str) -> pa.Table:
    """Returns the judged positives of a split as (query_id, doc_id), ordered."""
    return store.table(
        f"""SELECT DISTINCT query_id, doc_id FROM {GOLD} WHERE relevance > 0 AND split = ?
        ORDER BY query_id, doc_id""",
        [split],
    )


def by_text(judgments: str) -> str:
    """Returns SQL for judgments (query_id, doc_id, split, relevance) of every query that reads the same.

    Judgments hold for a text. `judgments` is the SQL of those that count.
    """
    return f"""SELECT q.query_id, j.doc_id, j.split, j.relevance
        FROM queries q JOIN queries same USING (text_key) JOIN {judgments} j ON j.query_id = same.query_id"""


_SHARED = f"""SELECT query_id, doc_id, max(relevance) AS relevance FROM ({by_text(GOLD)}) GROUP BY ALL"""


def known_positives(store: Store) -> pa.Table:
    """Returns what is relevant to a query or to one of the same text, in any split, ordered.

    Columns query_id, doc_id.
    """
    return store.table(
        f"SELECT query_id, doc_id FROM ({_SHARED}) WHERE relevance > 0 ORDER BY query_id, doc_id"
    )


def known_negatives(store: Store) -> pa.Table:
    """Returns what was judged not relevant to a query's text and nowhere relevant, ordered.

    Columns query_id, doc_id.
    """
    return store.table(
        f"SELECT query_id, doc_id FROM ({_SHARED}) WHERE relevance <= 0 ORDER BY query_id, doc_id"
    )


def content_hashes(store: Store, split: str) -> dict[str, str]:
    """Returns one hash each of the documents, of the mined queries and of all judgments but silver ones.

    A sum of 128-bit row hashes: the order of rows does not matter, every row does, however often it is
    there. Where queries are documents of the corpus, an entry says so.
    """
    parts = {
        "documents": ("documents", "doc_id, title, text, label", ""),
        "queries": ("queries", "query_id, text, label", f"WHERE query_id IN ({_MINED})"),
        "judgments": (GOLD, "query_id, doc_id, relevance, split", ""),
    }
    hashes = {name: _hash(store, *part, [split] if part[2] else []) for name, part in parts.items()}
    return hashes | ({IDENTITY: "yes"} if queries_are_documents(store) else {})


def text_hashes(store: Store) -> dict[str, str]:
    """Returns one hash each of all documents' and of all queries' texts, as `content_hashes`."""
    parts = {"documents": "doc_id, title, text", "queries": "query_id, text"}
    return {name: _hash(store, name, columns, "", []) for name, columns in parts.items()}


_LOW = f"{2**64 - 1}::UHUGEINT"


def _hash(store: Store, table: str, columns: str, where: str, values: list[str]) -> str:
    ((rows, upper, lower),) = store.rows(
        f"""SELECT count(*), sum((number & {_LOW})::HUGEINT), sum((number >> 64)::HUGEINT)
        FROM (SELECT md5_number(to_json(row({columns}))::VARCHAR) AS number FROM {table} {where})""",
        values,
    )
    return f"{rows}:{((upper or 0) << 64) + (lower or 0):x}"


def counts(store: Store) -> dict[str, int]:
    """Returns the number of documents, queries, judgments and runs."""
    ((documents, queries, judgments, runs),) = store.rows(
        """SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM queries),
            (SELECT count(*) FROM judgments), (SELECT count(*) FROM runs)"""
    )
    return {"documents": documents, "queries": queries, "judgments": judgments, "runs": runs}


def require_query(store: Store, query_id: str) -> str:
    """Returns the text of a query; raises StoreError when the store does not hold it."""
    found = store.rows("SELECT text FROM queries WHERE query_id = ?", [query_id])
    if not found:
        known = [i for (i,) in store.rows("SELECT query_id FROM queries LIMIT 10000")]
        raise StoreError(
            f"no query '{shown(query_id)}' in {store.path}{near(query_id, known)}",
            f'list them: miner sql {store.path} "SELECT query_id, text FROM queries LIMIT 10"',
        )
    text: str = found[0][0]
    return text
