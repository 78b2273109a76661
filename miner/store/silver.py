"""Silver judgments: the scores that a reranker gave unjudged pairs, and the pairs to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from miner.errors import UsageError, listed, near
from miner.store.corpus import splits
from miner.store.database import Store
from miner.store.tables import GOLD, SILVER

SOURCES = ("gold", SILVER)
"""What `judged_pairs` can be asked for; gold is all that people judged, relabelled and reviewed included."""

_CHOSEN = {
    "judged": "judged",
    "unjudged": "known IS NULL",
    "all": "true",
}
"""Which queries are asked about: whose text has a positive in the split, is judged nowhere, or any."""

QUERIES = tuple(_CHOSEN)


def silver_queries(store: Store, split: str, which: str) -> pa.Table:
    """Returns the queries to find silver judgments for, ordered: query_id, text, text_key, label.

    `which` is one of QUERIES. No query whose text is judged in another split, whatever `which` says:
    a model must not train on what it will be tested on.
    """
    return store.table(
        f"""WITH facts AS (
            SELECT text_key, bool_or(split = $split AND relevance > 0) AS judged, true AS known,
                bool_or(split <> $split) AS elsewhere
            FROM {GOLD} JOIN queries USING (query_id) GROUP BY text_key)
        SELECT query_id, text, text_key, label FROM queries LEFT JOIN facts USING (text_key)
        WHERE NOT coalesce(elsewhere, false) AND text_key <> 0
            AND ({_CHOSEN[which]})
        ORDER BY query_id""",
        {"split": split},
    )


def replace_silver(store: Store, judgments: pa.Table, split: str, origin: Mapping[str, Any]) -> int:
    """Puts silver judgments (query_id, doc_id, relevance) in the place of all there were, at once.

    `origin` is kept to say where they come from. Returns how many there were before.
    """
    before = silver_count(store)
    with store.transaction():
        _remove(store)
        store.insert("judgments", judgments, split=split, source=SILVER)
        store.set_meta(SILVER, dict(origin))
    return before


def remove_silver(store: Store) -> int:
    """Removes all silver judgments; returns how many. The reranker's scores stay, as evidence does."""
    before = silver_count(store)
    with store.transaction():
        _remove(store)
    return before


def _remove(store: Store) -> None:
    store.execute("DELETE FROM judgments WHERE source = ?", [SILVER])
    store.set_meta(SILVER, None)


def silver_count(store: Store) -> int:
    """Returns how many silver judgments the store holds."""
    ((number,),) = store.rows("SELECT count(*) FROM judgments WHERE source = ?", [SILVER])
    return int(number)


def silver_origin(store: Store) -> dict[str, Any] | None:
    """Returns where the silver judgments come from (reranker, thresholds, …), None if there are none."""
    found = store.meta(SILVER)
    return None if found is None else dict(found)


def is_soft(store: Store) -> bool:
    """Returns whether the silver judgments are all scores there were, and not only what is sure."""
    return bool((silver_origin(store) or {}).get("soft"))


def graded(store: Store, split: str, origin: str, reader: str) -> str | None:
    """Returns what a reader takes the grades of a split for; None where people gave positives no grades.

    `origin` is what the judgments are called, `reader` what learns from them.
    """
    ((grades,),) = store.rows(
        f"SELECT count(DISTINCT relevance) FROM {GOLD} WHERE split = ? AND relevance > 0", [split]
    )
    return f"{origin} are graded: {reader} takes every relevance above 0 for the same" if grades > 1 else None


def judged_pairs(store: Store, split: str, sources: Sequence[str] = ("gold",)) -> pa.Table:
    """Returns the judged pairs of a split as (query_id, doc_id, query, document, relevance, source), ordered.

    `sources` are any of SOURCES. A pair comes once, with its highest relevance. Where people judged
    a pair, in whatever split, or judged the query's text in another split, no silver judgment of it
    is returned: it may be older than theirs. Raises UsageError for another source or no pairs.
    """
    for source in sources:
        if source not in SOURCES:
            raise UsageError(
                f"no judgments of source '{source}'{near(source, SOURCES)}", f"use {' or '.join(SOURCES)}"
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
            else f"choose one with --split: {listed(splits(store)) or 'the store holds no judgments'}",
        )
    return table
