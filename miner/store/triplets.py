"""Reading a run's triplets with their texts, piece by piece, and counting what they hold."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from miner.store.database import Store
from miner.store.runs import Run

TRIPLET_TEXTS = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("positive_id", pa.string()),
        ("positive_title", pa.string()),
        ("positive_text", pa.string()),
        ("negative_id", pa.string()),
        ("negative_title", pa.string()),
        ("negative_text", pa.string()),
        ("positive_score", pa.float64()),
        ("negative_score", pa.float64()),
        ("rank", pa.int32()),
    ]
)
"""A triplet with its texts. Titles stay apart: some formats want them so."""


@dataclass(frozen=True)
class Piece:
    """Neighbouring queries of a run, all their triplets included."""

    first: str
    last: str
    """The lowest and the highest query_id."""
    triplets: int


@dataclass(frozen=True)
class TripletCounts:
    """How much a run's triplets hold."""

    mined_queries: int
    """Queries that were mined: with a judged positive in the run's split."""
    queries: int
    """Queries with at least one triplet."""
    positives: int
    """Distinct (query, positive) pairs."""
    negatives: int
    """Distinct (query, negative) pairs."""
    triplets: int


def triplet_pieces(store: Store, run: Run, size: int) -> list[Piece]:
    """Returns the run's queries cut into pieces of about `size` triplets, in order of query_id."""
    rows = store.rows(
        """WITH per_query AS (
            SELECT query_id, count(*) AS n FROM triplets WHERE run_id = ? GROUP BY query_id),
        placed AS (
            SELECT query_id, n, (sum(n) OVER (ORDER BY query_id) - n) // ? AS piece FROM per_query)
        SELECT min(query_id), max(query_id), sum(n)::BIGINT FROM placed GROUP BY piece ORDER BY piece""",
        [run.run_id, size],
    )
    return [Piece(first, last, triplets) for first, last, triplets in rows]


def triplet_texts(store: Store, run: Run, piece: Piece) -> pa.Table:
    """Returns a piece's triplets as `TRIPLET_TEXTS`, ordered by query_id, positive_id, rank, negative_id.

    A triplet whose query or document the store no longer holds is missing from the result.
    """
    table = store.table(
        """SELECT t.query_id, q.text AS query,
            t.positive_id, p.title AS positive_title, p.text AS positive_text,
            t.negative_id, n.title AS negative_title, n.text AS negative_text,
            t.positive_score, t.negative_score, t.rank
        FROM triplets t
        JOIN queries q ON q.query_id = t.query_id
        JOIN documents p ON p.doc_id = t.positive_id
        JOIN documents n ON n.doc_id = t.negative_id
        WHERE t.run_id = ? AND t.query_id BETWEEN ? AND ?
        ORDER BY t.query_id, t.positive_id, t.rank, t.negative_id""",
        [run.run_id, piece.first, piece.last],
    )
    return table.cast(TRIPLET_TEXTS)


def triplet_counts(store: Store, run: Run) -> TripletCounts:
    """Returns how many queries, pairs and triplets a run has."""
    ((mined,),) = store.rows(
        "SELECT count(DISTINCT query_id) FROM positives WHERE evidence = ?", [run.evidence]
    )
    (row,) = store.rows(
        """SELECT count(DISTINCT query_id), count(DISTINCT (query_id, positive_id)),
            count(DISTINCT (query_id, negative_id)), count(*) FROM triplets WHERE run_id = ?""",
        [run.run_id],
    )
    return TripletCounts(mined, *row)


def shortfall_reasons(store: Store, run: Run) -> dict[str, int]:
    """Returns how many queries fell short per commonest reason, the commonest first.

    `no_candidates` where nothing was retrieved, `too_few_kept` where nothing was dropped either.
    """
    rows = store.rows(
        """SELECT coalesce(commonest_reason::VARCHAR,
                CASE WHEN candidates = 0 THEN 'no_candidates' ELSE 'too_few_kept' END) AS why,
            count(*) FROM shortfalls WHERE run = ? GROUP BY why ORDER BY count(*) DESC, why""",
        [run.name],
    )
    return dict(rows)
