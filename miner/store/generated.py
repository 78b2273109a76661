"""Queries that a language model wrote from documents: its answers, and what became of each query.

A document is known by its text, so that the same text is never sent twice, whatever its id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from miner.store.database import Database
from miner.store.journal import Journal
from miner.store.ledger import KEY
from miner.store.tables import GENERATED

KEPT, SAME_QUERY = "kept", "same_query"
OUTCOMES = {
    KEPT: "kept",
    "is_document": "the text of their document",
    "not_returned": "the search did not return their document",
    SAME_QUERY: "the same as a query of another document: both documents are its positives",
    "near_duplicate": "nearly the words of another query",
}
"""What became of a query, and what that means."""
_DOCUMENT = "md5_number_lower(d.text)"
"""SQL for the identity of a document, over document_texts d."""


def generator_of(store: Database, fingerprint: str, name: str, settings: Mapping[str, Any]) -> str:
    """Returns the key of a model with its settings, stored if it is new and the store can be written to."""
    generator = fingerprint[:KEY]
    if not store.read_only and not store.rows("SELECT 1 FROM generators WHERE generator = ?", [generator]):
        values = [generator, name, json.dumps(settings, sort_keys=True)]
        store.execute("INSERT INTO generators VALUES (?, ?, ?)", values)
    return generator


def source_documents(store: Database) -> pa.Table:
    """Returns the documents to make queries from: doc_id, document (its identity), ordered by doc_id.

    Documents of the same text, and those of one cluster of copies, are one: the first of them.
    """
    return store.table(
        f"""SELECT d.doc_id, {_DOCUMENT} AS document FROM document_texts d
        LEFT JOIN duplicates c ON c.role = 'documents' AND c.id = d.doc_id
        WHERE d.text_key <> 0
        QUALIFY row_number() OVER (
                PARTITION BY c.cluster IS NULL, coalesce(c.cluster, d.passage_key::VARCHAR)
                ORDER BY d.doc_id) = 1
            AND row_number() OVER (PARTITION BY d.text_key ORDER BY d.doc_id) = 1
        ORDER BY d.doc_id"""
    )


def answered_documents(store: Database, generator: str, *, readable: bool = False) -> pa.Table:
    """Returns the documents (`document`) that a model was asked about; `readable`: with a sound answer."""
    condition = " AND queries IS NOT NULL" * readable
    return store.table(f"SELECT document FROM generated_answers WHERE generator = ?{condition}", [generator])


def journal_of(store: Database, generator: str) -> Journal:
    """Returns what takes a model's answers as they come: document, doc_id, queries, answer, failure,
    tokens_in, tokens_out."""
    return Journal(store, "generated_answers", generator=generator)


def queries_written(store: Database, generator: str, documents: Sequence[int]) -> pa.Table:
    """Returns the answers about documents: document, queries (null: not readable); one for each, the best."""
    return store.table(
        """SELECT document, queries FROM generated_answers
        WHERE generator = ? AND document IN (SELECT unnest(?::UBIGINT[]))
        QUALIFY row_number() OVER (PARTITION BY document ORDER BY queries IS NULL, answered) = 1""",
        [generator, list(documents)],
    )


def source_keys(store: Database, doc_ids: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Returns, of each of these documents, the key of its text, and the document that it is a chunk of, which
    is itself if it is whole."""
    rows = store.rows(
        """SELECT d.doc_id, text_key, coalesce(parent, d.doc_id) FROM documents d
        LEFT JOIN parents p ON p.doc_id = d.doc_id WHERE d.doc_id IN (SELECT unnest(?::VARCHAR[]))""",
        [list(doc_ids)],
    )
    return {doc_id: (key, whole) for doc_id, key, whole in rows}


def judged_sources(store: Database) -> list[tuple[str, str, str]]:
    """Returns the judgments of generated queries: query_id, the document or the one that it is a chunk of,
    and split; ordered."""
    return [
        (query, doc, split)
        for query, doc, split in store.rows(
            f"""SELECT query_id, coalesce(parent, j.doc_id), split FROM judgments j
            LEFT JOIN parents p ON p.doc_id = j.doc_id WHERE source = '{GENERATED}' ORDER BY ALL"""
        )
    ]


def other_queries(store: Database, ids: Sequence[str], *, added: bool) -> list[str]:
    """Returns the texts of the store's queries but those with these ids; unless `added`, also without the
    generated ones of earlier calls. Those that were replaced, and are only in old runs, are not among them.
    """
    earlier = "" if added else "AND query_id NOT IN (SELECT query_id FROM generated_queries)"
    rows = store.rows(
        f"""SELECT text FROM queries WHERE query_id NOT IN (SELECT unnest(?::VARCHAR[])) {earlier}
            AND (query_id IN (SELECT query_id FROM judgments)
                OR query_id NOT IN (SELECT query_id FROM positives))
        ORDER BY query_id""",
        [list(ids)],
    )
    return [text for (text,) in rows]


def keep_queries(
    store: Database,
    queries: pa.Table,
    judgments: pa.Table,
    outcomes: pa.Table,
    origin: Mapping[str, Any],
    *,
    added: bool,
) -> int:
    """Stores generated queries with their judgments, in one transaction; returns how many earlier ones went.

    `queries` has query_id, text, text_key; `judgments` query_id, doc_id, split; `outcomes` query_id, text,
    doc_id, generator, outcome, rank. `origin` says how they were made. Unless `added`, the generated queries
    of earlier calls lose their judgments, and are removed if no run has them.
    """
    before = generated_count(store)
    origins = [*(store.meta(GENERATED) or []), dict(origin)] if added else [dict(origin)]
    with store.transaction():
        if not added:
            _remove(store)
        known = {query for (query,) in store.rows("SELECT query_id FROM queries")}
        new = pa.array([query not in known for query in queries["query_id"].to_pylist()], pa.bool_())
        store.insert("queries", queries.filter(new))
        store.execute(
            "CREATE OR REPLACE TEMP TABLE of_generated (query_id VARCHAR, doc_id VARCHAR, split VARCHAR)"
        )
        store.insert("of_generated", judgments)
        store.execute(
            f"""INSERT INTO judgments (query_id, doc_id, relevance, split, source)
            SELECT query_id, doc_id, 1, split, '{GENERATED}' FROM of_generated o WHERE NOT EXISTS (
                FROM judgments j WHERE j.query_id = o.query_id AND j.doc_id = o.doc_id
                AND j.source = '{GENERATED}')"""
        )
        store.execute("DROP TABLE of_generated")
        store.execute(
            "DELETE FROM generated_queries WHERE query_id IN (SELECT unnest(?::VARCHAR[]))",
            [outcomes["query_id"].to_pylist()],
        )
        store.insert("generated_queries", outcomes)
        store.set_meta(GENERATED, origins)
    return 0 if added else before


def _remove(store: Database) -> None:
    store.execute(f"DELETE FROM judgments WHERE source = '{GENERATED}'")
    store.execute(
        """DELETE FROM queries WHERE query_id IN (SELECT query_id FROM generated_queries)
            AND query_id NOT IN (SELECT query_id FROM judgments)
            AND query_id NOT IN (SELECT query_id FROM positives)"""
    )
    store.execute("DELETE FROM generated_queries")


def generated_count(store: Database) -> int:
    """Returns the number of generated queries that have a judgment."""
    ((number,),) = store.rows(f"SELECT count(DISTINCT query_id) FROM judgments WHERE source = '{GENERATED}'")
    return int(number)
