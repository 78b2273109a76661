"""Documents that were cut into chunks as they arrived: the chunks of each, and what judgments then mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import log

import pyarrow as pa

from miner.errors import InputError, shown
from miner.store.database import Database
from miner.text import normalise, words

BEST, ALL = "best", "all"
CHUNK_POSITIVES = (BEST, ALL)
"""Which chunks of a relevant document are positives: the one with most words of the query, or all."""
_PAIRS_READ = 100
"""How many queries with the text of a whole document are in memory at once."""
_WORD = re.compile(r"\w+")


def require_own_ids(store: Database) -> None:
    """Raises InputError for an arriving document with the id of a chunk of another one."""
    for doc_id, parent, locations in store.rows(
        """SELECT doc_id, any_value(c.parent), list_sort(list(DISTINCT origin || coalesce(':' || line, '')))
        FROM arriving_documents
        JOIN (SELECT doc_id, min(parent) AS parent, count(*) AS chunks FROM arriving_parents
            GROUP BY doc_id) c USING (doc_id)
        GROUP BY doc_id HAVING count(*) > any_value(c.chunks) ORDER BY doc_id LIMIT 1"""
    ):
        raise InputError(
            f"document '{shown(doc_id)}' has the id of a chunk of document '{shown(parent)}': "
            f"{' and '.join(locations[:2])}",
            "give it another id, or ingest documents whole",
        )


def merge_parents(store: Database) -> int:
    """Adds the arriving parents that the store lacks; returns how many documents were cut.

    Raises InputError for a document that the store then has whole and in chunks.
    """
    store.execute(
        """INSERT INTO parents SELECT DISTINCT doc_id, parent, number, start FROM arriving_parents a
        WHERE doc_id IN (SELECT doc_id FROM documents) AND doc_id NOT IN (SELECT doc_id FROM parents)"""
    )
    for (both,) in store.rows(
        "SELECT doc_id FROM documents WHERE doc_id IN (SELECT parent FROM parents) ORDER BY doc_id LIMIT 1"
    ):
        raise InputError(
            f"document '{shown(both)}' would be in the store both whole and in chunks",
            "ingest with the same chunk and overlap, or into another store",
        )
    ((number,),) = store.rows("SELECT count(DISTINCT parent) FROM arriving_parents")
    return int(number)


def give_judgments_to_chunks(store: Database, positives: str) -> int:
    """Replaces arriving judgments of documents that were cut by judgments of their chunks.

    All chunks of a document that is not relevant are not relevant. If it is relevant, `positives` says which
    are: BEST or ALL. If no chunk shares a word with the query, all are; returns the number of such pairs.
    Call it when the store has the arriving queries and documents.
    """
    store.execute(
        """CREATE OR REPLACE TEMP TABLE of_parents AS SELECT * FROM arriving_judgments
        WHERE doc_id IN (SELECT parent FROM parents) AND doc_id NOT IN (SELECT doc_id FROM documents)"""
    )
    if not store.rows("SELECT 1 FROM of_parents LIMIT 1"):
        return 0
    pairs, found = 0, []
    for batch in store.batches(
        """SELECT j.query_id, j.doc_id, any_value(q.text), list(d.text ORDER BY p.number),
            list(d.doc_id ORDER BY p.number)
        FROM (SELECT DISTINCT query_id, doc_id FROM of_parents WHERE relevance > 0 AND ?) j
        JOIN queries q ON q.query_id = j.query_id
        JOIN parents p ON p.parent = j.doc_id JOIN document_texts d ON d.doc_id = p.doc_id
        GROUP BY ALL ORDER BY j.query_id, j.doc_id""",
        _PAIRS_READ,
        [positives == BEST],
    ):
        pairs += batch.num_rows
        for query, parent, text, texts, chunks in zip(*(c.to_pylist() for c in batch.columns), strict=True):
            if (best := best_chunk(text, texts)) is not None:
                found.append((query, parent, chunks[best]))
    columns = zip(*found, strict=True) if found else ([], [], [])
    names = ("query_id", "parent", "doc_id")
    table = pa.table(
        {name: pa.array(list(values), pa.string()) for name, values in zip(names, columns, strict=True)}
    )
    store.execute(
        "CREATE OR REPLACE TEMP TABLE best_chunks (query_id VARCHAR, parent VARCHAR, doc_id VARCHAR)"
    )
    store.insert("best_chunks", table)
    store.execute("DELETE FROM arriving_judgments WHERE doc_id IN (SELECT doc_id FROM of_parents)")
    store.execute(
        """INSERT INTO arriving_judgments BY NAME
        SELECT j.* REPLACE (p.doc_id AS doc_id) FROM of_parents j JOIN parents p ON p.parent = j.doc_id
        LEFT JOIN best_chunks b ON b.query_id = j.query_id AND b.parent = j.doc_id
        WHERE j.relevance <= 0 OR b.doc_id IS NULL OR b.doc_id = p.doc_id"""
    )
    return pairs - len(found)


def best_chunk(query: str, chunks: Sequence[str]) -> int | None:
    """Returns the number, from 0, of the chunk that shares most words with a query; None if none shares any.

    A word of the query counts the more, the fewer of the chunks have it: ln(1 + chunks / holders). The first
    of equal chunks.
    """
    own_words = [_words(chunk) for chunk in chunks]
    wanted = _words(query)
    weights = {
        word: log(1 + len(chunks) / holders)
        for word in sorted(wanted)
        if (holders := sum(word in own for own in own_words))
    }
    if not weights:
        return None
    scores = [sum(weight for word, weight in weights.items() if word in own) for own in own_words]
    return scores.index(max(scores))


def _words(text: str) -> set[str]:
    return set(words(" ".join(_WORD.findall(normalise(text)))))
