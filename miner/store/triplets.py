"""The triplets of a run: with their texts, as pairs to train on, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from miner.errors import StoreError
from miner.store.corpus import queries_are_documents
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.tables import GOLD


def triplets(store: Database, run: StoredRun, *, texts: bool = False) -> pa.Table:
    """Returns a run's triplets, ordered by query_id, positive_id, rank.

    Columns query_id, positive_id, negative_id, positive_score, negative_score (the deciding scores), rank
    (from 1, hardest first).

    `texts` adds the columns query, positive and negative. Raises StoreError if the store no longer
    holds a text.
    """
    order = "ORDER BY query_id, positive_id, rank, negative_id"
    table = store.table(
        f"""SELECT query_id, positive_id, negative_id, positive_score, negative_score, rank
        FROM triplets WHERE run_id = ? {order}""",
        [run.run_id],
    )
    if not texts:
        return table
    with_texts = store.table(
        f"""SELECT query_id, positive_id, negative_id, positive_score, negative_score, rank,
            query, positive, negative
        FROM triplet_texts WHERE run = ? {order}""",
        [run.name],
    )
    if missing := table.num_rows - with_texts.num_rows:
        raise StoreError(
            f"{store.path} no longer holds the texts of {missing:,} triplets of run '{run.name}'",
            "mine again",
        )
    return with_texts


def triplet_count(store: Database, run: StoredRun) -> int:
    """Returns the number of triplets of a run."""
    ((number,),) = store.rows("SELECT sum(len(doc_nos)) FROM selected WHERE run_id = ?", [run.run_id])
    return int(number or 0)


TRIPLET_IDS = pa.schema(
    [
        ("query_id", pa.string()),
        ("positive_id", pa.string()),
        ("negative_id", pa.string()),
        ("positive_score", pa.float64()),
        ("negative_score", pa.float64()),
        ("rank", pa.int32()),
        ("positive_grade", pa.float64()),
        ("positive_position", pa.int64()),
        ("negative_position", pa.int64()),
    ]
)
"""A triplet with the positive's relevance and both positions among the query's candidates.

A position counts from 1; it is null for a document that no retriever found, or if none were requested.
"""
TRIPLET_TEXTS = pa.schema(
    [
        *TRIPLET_IDS,
        ("query", pa.string()),
        ("positive_title", pa.string()),
        ("positive_text", pa.string()),
        ("negative_title", pa.string()),
        ("negative_text", pa.string()),
    ]
)
"""A triplet with its texts. Titles are separate columns, since some formats need them."""


@dataclass(frozen=True)
class Piece:
    """All triplets of some neighbouring queries of a run."""

    first: str
    last: str
    """The lowest and the highest query_id."""
    triplets: int


@dataclass(frozen=True)
class TripletCounts:
    """Counts of a run's triplets."""

    mined_queries: int
    """Queries that were mined: those with a positive in the run's split."""
    queries: int
    """Queries with at least one triplet."""
    positives: int
    """Distinct (query, positive) pairs."""
    negatives: int
    """Distinct (query, negative) pairs."""
    triplets: int


def triplet_pieces(store: Database, run: StoredRun, size: int) -> list[Piece]:
    """Returns the run's queries in pieces of about `size` triplets, ordered by query_id."""
    rows = store.rows(
        """WITH per_query AS (
            SELECT query_id, count(*) AS n FROM triplets WHERE run_id = ? GROUP BY query_id),
        placed AS (
            SELECT query_id, n, (sum(n) OVER (ORDER BY query_id) - n) // ? AS piece FROM per_query)
        SELECT min(query_id), max(query_id), sum(n)::BIGINT FROM placed GROUP BY piece ORDER BY piece""",
        [run.run_id, size],
    )
    return [Piece(first, last, triplets) for first, last, triplets in rows]


def triplet_ids(store: Database, run: StoredRun, piece: Piece, positions: bool = False) -> pa.Table:
    """Returns a piece's triplets as `TRIPLET_IDS`, ordered by query_id, positive_id, rank, negative_id."""
    query, values = _triplets_of(run, piece, positions)
    return store.table(f"{query} ORDER BY ALL", values).select(TRIPLET_IDS.names).cast(TRIPLET_IDS)


def triplet_texts(store: Database, run: StoredRun, piece: Piece, positions: bool = False) -> pa.Table:
    """Returns a piece's triplets as `TRIPLET_TEXTS`, ordered by query_id, positive_id, rank, negative_id.

    A triplet whose query or document the store no longer has is missing from the result.
    """
    query, values = _triplets_of(run, piece, positions)
    table = store.table(
        f"""SELECT t.*, q.text AS query, p.title AS positive_title, p.text AS positive_text,
            n.title AS negative_title, n.text AS negative_text
        FROM ({query}) t
        JOIN queries q ON q.query_id = t.query_id
        JOIN documents p ON p.doc_id = t.positive_id
        JOIN documents n ON n.doc_id = t.negative_id
        ORDER BY t.query_id, t.positive_id, t.rank, t.negative_id""",
        values,
    )
    return table.select(TRIPLET_TEXTS.names).cast(TRIPLET_TEXTS)


def _triplets_of(run: StoredRun, piece: Piece, positions: bool) -> tuple[str, dict[str, str]]:
    """Returns the SQL of a piece's triplets, its first columns those that order it, and its values."""
    found = """SELECT query_id, doc_id, fused_rank AS position FROM candidates
        WHERE evidence = $evidence AND query_id BETWEEN $first AND $last"""
    joins = f"""LEFT JOIN ({found}) p ON p.query_id = t.query_id AND p.doc_id = t.positive_id
        LEFT JOIN ({found}) n ON n.query_id = t.query_id AND n.doc_id = t.negative_id"""
    grades = f"""SELECT query_id, doc_id, max(relevance) AS grade FROM {GOLD}
        WHERE split = $split AND query_id BETWEEN $first AND $last GROUP BY ALL"""
    query = f"""SELECT t.query_id, t.positive_id, t.rank, t.negative_id, t.positive_score, t.negative_score,
            coalesce(g.grade, 1) AS positive_grade,
            {"p.position" if positions else "NULL"} AS positive_position,
            {"n.position" if positions else "NULL"} AS negative_position
        FROM triplets t
        LEFT JOIN ({grades}) g ON g.query_id = t.query_id AND g.doc_id = t.positive_id
        {joins if positions else ""}
        WHERE t.run_id = $run AND t.query_id BETWEEN $first AND $last"""
    values = {"run": run.run_id, "split": run.split, "first": piece.first, "last": piece.last}
    return query, values | ({"evidence": run.evidence} if positions else {})


def triplet_counts(store: Database, run: StoredRun) -> TripletCounts:
    """Returns the numbers of a run's queries, pairs and triplets."""
    ((mined,),) = store.rows(
        "SELECT count(DISTINCT query_id) FROM positives WHERE evidence = ?", [run.evidence]
    )
    (row,) = store.rows(
        """SELECT count(DISTINCT query_id), count(DISTINCT (query_id, positive_id)),
            count(DISTINCT (query_id, negative_id)), count(*) FROM triplets WHERE run_id = ?""",
        [run.run_id],
    )
    return TripletCounts(mined, *row)


_PASSAGES = "SELECT DISTINCT passage_key, text_key FROM document_texts"
"""SQL for the texts in which each passage occurs."""


def mined_pairs(store: Database, run: StoredRun) -> pa.Table:
    """Returns every (query, positive) that has negatives, ordered by query_id and positive_id.

    Columns query_id, positive_id, positive_score, negative_ids and negative_scores; the last two are lists,
    hardest negative first.
    """
    return store.table(
        """SELECT query_id, positive_id, any_value(positive_score) AS positive_score,
            list(negative_id ORDER BY rank, negative_id) AS negative_ids,
            list(negative_score ORDER BY rank, negative_id) AS negative_scores
        FROM triplets WHERE run_id = ? GROUP BY query_id, positive_id ORDER BY query_id, positive_id""",
        [run.run_id],
    )


class TextsById:
    """The texts of a store by id; documents and queries are each read once, at the first use."""

    def __init__(self, store: Database) -> None:
        self._store = store

    def queries(self, ids: pa.ChunkedArray) -> list[str]:
        """Returns the text of each of the queries, in their order."""
        return _taken(self._queries, ids)

    def documents(self, ids: pa.ChunkedArray) -> list[str]:
        """Returns the text of each of the documents, with the title before it, in their order."""
        return _taken(self._documents, ids)

    @cached_property
    def _queries(self) -> pa.Table:
        return self._store.table("SELECT query_id AS id, text FROM queries")

    @cached_property
    def _documents(self) -> pa.Table:
        return self._store.table("SELECT doc_id AS id, text FROM document_texts")


def _taken(table: pa.Table, ids: pa.ChunkedArray) -> list[str]:
    import pyarrow.compute as pc  # 25 ms, and a summary needs none of it

    rows = pc.index_in(ids, value_set=table["id"].combine_chunks())
    texts: list[str] = table["text"].take(rows).to_pylist()
    return texts


def pair_text_keys(store: Database, pairs: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Returns the text keys of the queries and of the documents of pairs (query_id, positive_id).

    A document with the passage of a positive under another title makes a further pair.
    """
    queries = store.table("SELECT query_id AS id, text_key AS key FROM queries")
    documents = store.table("SELECT doc_id AS id, passage_key AS key FROM document_texts")
    owners, passages = _keys(queries, pairs["query_id"]), _keys(documents, pairs["positive_id"])
    keyed = pa.table({"query": owners, "passage_key": passages})
    joined = keyed.join(store.table(_PASSAGES), "passage_key", join_type="inner")
    return joined["query"], joined["text_key"]


def _keys(table: pa.Table, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    return table["key"].take(pc.index_in(ids, value_set=table["id"].combine_chunks()))


def text_labels(store: Database) -> dict[int, str]:
    """Returns the label of every text that has exactly one, by its text key."""
    table = store.table(
        """SELECT text_key, any_value(label) AS label
        FROM (SELECT text_key, label FROM queries UNION ALL SELECT text_key, label FROM documents)
        WHERE label IS NOT NULL GROUP BY text_key HAVING count(DISTINCT label) = 1"""
    )
    return dict(zip(table["text_key"].to_pylist(), table["label"].to_pylist(), strict=True))


def known_pair_keys(store: Database, sources: Sequence[str]) -> pa.Table:
    """Returns the text keys of every query and document that must not be negatives of each other.

    The document is relevant in any split, or has the passage of a relevant one or of the query, or is the
    query itself if queries are documents. `sources` are any of `store.silver.SOURCES`.
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
