"""A run's triplets as rows to train on: each positive with its query's negatives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from miner.store.corpus import queries_are_documents
from miner.store.database import Store
from miner.store.runs import Run

_PASSAGES = "SELECT DISTINCT passage_key, text_key FROM document_texts"
"""The texts that each passage stands in."""


def mined_pairs(store: Store, run: Run) -> pa.Table:
    """Returns every (query, positive) that has negatives, ordered by query_id and positive_id.

    Columns query_id, positive_id, positive_score, negative_ids and negative_scores: lists, the
    hardest first.
    """
    return store.table(
        """SELECT query_id, positive_id, any_value(positive_score) AS positive_score,
            list(negative_id ORDER BY rank, negative_id) AS negative_ids,
            list(negative_score ORDER BY rank, negative_id) AS negative_scores
        FROM triplets WHERE run_id = ? GROUP BY query_id, positive_id ORDER BY query_id, positive_id""",
        [run.run_id],
    )


class TextsById:
    """The texts of a store by id, each role read once, when it is first asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def queries(self, ids: pa.ChunkedArray) -> list[str]:
        """Returns the text of each of the queries, in their order."""
        return _taken(self._queries, ids)

    def documents(self, ids: pa.ChunkedArray) -> list[str]:
        """Returns the text of each of the documents, title before it, in their order."""
        return _taken(self._documents, ids)

    @cached_property
    def _queries(self) -> pa.Table:
        return self._store.table("SELECT query_id AS id, text FROM queries")

    @cached_property
    def _documents(self) -> pa.Table:
        return self._store.table("SELECT doc_id AS id, text FROM document_texts")


def _taken(table: pa.Table, ids: pa.ChunkedArray) -> list[str]:
    places = pc.index_in(ids, value_set=table["id"].combine_chunks())
    found: list[str] = table["text"].take(places).to_pylist()
    return found


def pair_text_keys(store: Store, pairs: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Returns the text keys of pairs (query_id, positive_id): of the queries, and of the documents.

    A document of the same passage as a positive, under another title, makes a pair as well.
    """
    queries = store.table("SELECT query_id AS id, text_key AS key FROM queries")
    documents = store.table("SELECT doc_id AS id, passage_key AS key FROM document_texts")
    owners, passages = _keys(queries, pairs["query_id"]), _keys(documents, pairs["positive_id"])
    keyed = pa.table({"query": owners, "passage_key": passages})
    joined = keyed.join(store.table(_PASSAGES), "passage_key", join_type="inner")
    return joined["query"], joined["text_key"]


def _keys(table: pa.Table, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return table["key"].take(pc.index_in(ids, value_set=table["id"].combine_chunks()))


def text_labels(store: Store) -> dict[int, str]:
    """Returns the label of every labelled text by its text key."""
    table = store.table(
        """SELECT text_key, any_value(label) AS label
        FROM (SELECT text_key, label FROM queries UNION ALL SELECT text_key, label FROM documents)
        WHERE label IS NOT NULL GROUP BY text_key HAVING count(DISTINCT label) = 1"""
    )
    return dict(zip(table["text_key"].to_pylist(), table["label"].to_pylist(), strict=True))


def known_pair_keys(store: Store, sources: Sequence[str]) -> pa.Table:
    """Returns the text keys of every query and document that are no negatives of each other.

    They are judged relevant in any split, or the document has the passage of one that is, or that of the
    query, or it is the query's own where queries are documents. `sources` are any of
    `store.silver.SOURCES`.
    """
    return store.table(
        f"""SELECT q.text_key AS query_key, d.text_key AS doc_key
        FROM judgments j JOIN queries q USING (query_id) JOIN document_texts positive USING (doc_id)
        JOIN ({_PASSAGES}) d USING (passage_key)
        WHERE j.relevance > 0 AND CASE j.source WHEN 'silver' THEN $silver ELSE $gold END
        UNION SELECT q.text_key, d.text_key FROM queries q JOIN documents d ON d.passage_key = q.text_key
        UNION SELECT q.text_key, d.text_key FROM queries q JOIN documents d ON d.doc_id = q.query_id
        WHERE $same ORDER BY ALL""",
        {
            "gold": "gold" in sources,
            "silver": "silver" in sources,
            "same": queries_are_documents(store),
        },
    )
