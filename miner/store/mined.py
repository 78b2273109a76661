"""A run's triplets as rows to train on: each positive with its query's negatives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from miner.store.database import Store
from miner.store.runs import Run


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


class Texts:
    """The texts of a store by id, each side read once, when it is first asked for."""

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
    """Returns the text keys of the queries and of the documents of pairs (query_id, positive_id)."""
    queries = store.table("SELECT query_id AS id, text_key FROM queries")
    documents = store.table("SELECT doc_id AS id, text_key FROM documents")
    return _keys(queries, pairs["query_id"]), _keys(documents, pairs["positive_id"])


def _keys(table: pa.Table, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return table["text_key"].take(pc.index_in(ids, value_set=table["id"].combine_chunks()))


def text_labels(store: Store) -> dict[int, str]:
    """Returns the label of every labelled text by its text key."""
    table = store.table(
        """SELECT text_key, any_value(label) AS label
        FROM (SELECT text_key, label FROM queries UNION ALL SELECT text_key, label FROM documents)
        WHERE label IS NOT NULL GROUP BY text_key HAVING count(DISTINCT label) = 1"""
    )
    return dict(zip(table["text_key"].to_pylist(), table["label"].to_pylist(), strict=True))


def known_pair_keys(store: Store, sources: Sequence[str]) -> pa.Table:
    """Returns the text keys of every query and document that are judged relevant, in any split.

    `sources` are any of `store.silver.SOURCES`.
    """
    return store.table(
        """SELECT DISTINCT q.text_key AS query_key, d.text_key AS doc_key
        FROM judgments j JOIN queries q USING (query_id) JOIN documents d USING (doc_id)
        WHERE j.relevance > 0 AND CASE j.source WHEN 'silver' THEN $silver ELSE $gold END ORDER BY ALL""",
        {"gold": "gold" in sources, "silver": "silver" in sources},
    )
