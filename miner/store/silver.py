"""Silver judgments: the scores that a reranker gave unjudged pairs, and the pairs to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from miner.errors import UsageError, near
from miner.store.corpus import split_hint, splits
from miner.store.database import Database
from miner.store.tables import GOLD, SILVER

SOURCES = ("gold", SILVER)
"""The sources of `judged_pairs`; gold is every judgment that is not silver, relabelled ones included."""

_CONDITIONS = {
    "judged": "judged",
    "unjudged": "NOT coalesce(known, false)",
    "all": "true",
}
"""Which queries are scored: those whose text has a positive in the split, is judged nowhere, or all."""

QUERIES = tuple(_CONDITIONS)


def silver_queries(store: Database, split: str, which: str) -> pa.Table:
    """Returns the queries to make silver judgments for, ordered: query_id, text, text_key, label.

    `which` is one of QUERIES. Queries whose text is judged in another split are always left out: a model must
    not train on its test data.
    """
    return store.table(
        f"""WITH facts AS (
            SELECT text_key, bool_or(split = $split AND relevance > 0) AS judged, true AS known,
                bool_or(split <> $split) AS elsewhere
            FROM {GOLD} JOIN queries USING (query_id) GROUP BY text_key)
        SELECT query_id, text, text_key, label FROM queries LEFT JOIN facts USING (text_key)
        WHERE NOT coalesce(elsewhere, false) AND text_key <> 0
            AND ({_CONDITIONS[which]})
        ORDER BY query_id""",
        {"split": split},
    )


def replace_silver(store: Database, judgments: pa.Table, split: str, origin: Mapping[str, Any]) -> int:
    """Replaces all silver judgments by new ones (query_id, doc_id, relevance), in one transaction.

    `origin` says how they were made. Returns the number of replaced judgments.
    """
    before = silver_count(store)
    with store.transaction():
        _remove(store)
        store.insert("judgments", judgments, split=split, source=SILVER)
        store.set_meta(SILVER, dict(origin))
    return before


def remove_silver(store: Database) -> int:
    """Removes all silver judgments; returns their number. The reranker's scores stay as evidence."""
    before = silver_count(store)
    with store.transaction():
        _remove(store)
    return before


def _remove(store: Database) -> None:
    store.execute("DELETE FROM judgments WHERE source = ?", [SILVER])
    store.set_meta(SILVER, None)


def silver_count(store: Database) -> int:
    """Returns the number of silver judgments in the store."""
    ((number,),) = store.rows("SELECT count(*) FROM judgments WHERE source = ?", [SILVER])
    return int(number)


def silver_origin(store: Database) -> dict[str, Any] | None:
    """Returns how the silver judgments were made (reranker, thresholds, …); None if there are none."""
    origin: dict[str, Any] | None = store.meta(SILVER)
    return origin


def is_soft(store: Database) -> bool:
    """Returns whether the silver judgments are all the scores, not only those beyond the thresholds."""
    return bool((silver_origin(store) or {}).get("soft"))


def graded(store: Database, split: str, origin: str, reader: str) -> str | None:
    """Returns a note that a training ignores the grades of a split; None if its positives have one grade.

    `origin` names the judgments in the note, `reader` the training.
    """
    ((grades,),) = store.rows(
        f"SELECT count(DISTINCT relevance) FROM {GOLD} WHERE split = ? AND relevance > 0", [split]
    )
    return f"{origin} are graded: {reader} treats every relevance above 0 alike" if grades > 1 else None


def judged_pairs(store: Database, split: str, sources: Sequence[str] = ("gold",)) -> pa.Table:
    """Returns the judged pairs of a split as (query_id, doc_id, query, document, relevance, source), ordered.

    `sources` are any of SOURCES. Each pair is there once, with its highest relevance. A silver judgment is
    left out if the pair has a gold judgment in any split, or the query's text has one in another split.
    Raises UsageError for another source or if there are no pairs.
    """
    for source in sources:
        if source not in SOURCES:
            raise UsageError(
                f"unknown source of judgments '{source}'{near(source, SOURCES)}",
                f"use {' or '.join(SOURCES)}",
            )
    table = store.table(
        f"""WITH human AS (
            SELECT q.text_key, j.doc_id, j.split FROM {GOLD} j JOIN queries q USING (query_id)),
        judged AS (
            SELECT query_id, doc_id, max(relevance) AS relevance, arg_max(source, relevance) AS source
            FROM {GOLD} WHERE split = $split AND $gold GROUP BY query_id, doc_id
            UNION ALL
            SELECT j.query_id, j.doc_id, j.relevance, j.source
            FROM judgments j JOIN queries q USING (query_id)
            WHERE j.source = '{SILVER}' AND j.split = $split AND $silver AND NOT EXISTS (
                FROM human h WHERE h.text_key = q.text_key AND (h.doc_id = j.doc_id OR h.split <> $split)))
        SELECT query_id, doc_id, q.text AS query, d.text AS document, relevance, source
        FROM judged JOIN queries q USING (query_id) JOIN document_texts d USING (doc_id)
        ORDER BY query_id, doc_id""",
        {"split": split, "gold": "gold" in sources, "silver": SILVER in sources},
    )
    if table.num_rows == 0:
        raise UsageError(
            f"split '{split}' has no judgments of source {' or '.join(sources)}",
            f"make silver ones: miner silver {store.path}"
            if SILVER in sources
            else split_hint(store, split, "choose another split", splits(store)),
        )
    return table
