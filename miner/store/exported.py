"""What a data set of ids contains besides triplets: every query, every document, the judgments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from miner.store.corpus import TEXTS_READ
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.tables import GOLD


def query_texts(store: Database) -> Iterator[pa.Table]:
    """Yields query_id and text of all queries, ordered by query_id."""
    return _pieces(store, "SELECT query_id, text FROM queries ORDER BY query_id")


def document_texts(store: Database) -> Iterator[pa.Table]:
    """Yields document_id and text of all documents, the title before the text, ordered by document_id."""
    return _pieces(store, "SELECT doc_id AS document_id, text FROM document_texts ORDER BY doc_id")


def titles(store: Database) -> Iterator[pa.Table]:
    """Yields document_id and title of the documents that have a title, ordered by document_id."""
    return _pieces(
        store, "SELECT doc_id AS document_id, title FROM documents WHERE title <> '' ORDER BY doc_id"
    )


def judged(store: Database, split: str) -> Iterator[pa.Table]:
    """Yields query_id, document_id and score (the highest relevance) of a split's judgments, ordered.

    Silver judgments are left out: a model made them.
    """
    return _pieces(
        store,
        f"""SELECT query_id, doc_id AS document_id, max(relevance) AS score
        FROM {GOLD} WHERE split = ? GROUP BY ALL ORDER BY query_id, document_id""",
        [split],
    )


def judged_splits(store: Database) -> list[str]:
    """Returns the splits that have judgments other than silver ones, ordered."""
    return [split for (split,) in store.rows(f"SELECT DISTINCT split FROM {GOLD} ORDER BY split")]


def lost_triplets(store: Database, run: StoredRun) -> int:
    """Returns the number of a run's triplets whose query or document is no longer in the store."""
    ((number,),) = store.rows(
        """SELECT count(*) FROM triplets t
        LEFT JOIN queries q USING (query_id)
        LEFT JOIN documents p ON p.doc_id = t.positive_id
        LEFT JOIN documents n ON n.doc_id = t.negative_id
        WHERE t.run_id = ? AND (q.query_id IS NULL OR p.doc_id IS NULL OR n.doc_id IS NULL)""",
        [run.run_id],
    )
    return int(number)


def _pieces(store: Database, query: str, values: Sequence[Any] = ()) -> Iterator[pa.Table]:
    """Yields the rows of a query in tables of exactly TEXTS_READ rows, and the rest."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in store.batches(query, TEXTS_READ, values):
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= TEXTS_READ:
            table = pa.Table.from_batches(waiting)
            for start in range(0, rows - TEXTS_READ + 1, TEXTS_READ):
                yield table.slice(start, TEXTS_READ)
            rest = table.slice(rows - rows % TEXTS_READ)
            waiting, rows = rest.to_batches(), rest.num_rows
    if rows:
        yield pa.Table.from_batches(waiting)
