"""What evaluation reads: the judgments that count, what must not be ranked, graded pairs, labels.

Silver judgments come from a model and never count: a test that a model wrote measures that model.
"""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

import pyarrow as pa

from miner.errors import UsageError, listed, near
from miner.store.corpus import GOLD, by_text, queries_are_documents
from miner.store.database import Store

UNRANKED = ("own_text", "own_document", "other_split")
"""Why a document is in no ranking of a query: it has the query's text; it is the query itself, where
queries are documents; it is relevant to the query's text in another split only."""

_BY_TEXT = by_text(GOLD)


@dataclass(frozen=True)
class SplitFacts:
    """What the judgments of a split look like: enough to tell which task it is."""

    judgments: int
    queries: int
    labelled: int
    """Queries that have a label."""
    grades: int
    """Distinct relevances."""
    least: float
    """The lowest relevance; 0 where there are no judgments."""
    fractions: bool
    """Whether some relevance is not a whole number."""


def split_facts(store: Store, split: str) -> SplitFacts:
    """Returns the facts of a split; all 0 or false where nothing is judged in it."""
    (row,) = store.rows(
        f"""SELECT count(*), count(DISTINCT query_id),
            count(DISTINCT query_id) FILTER (WHERE label IS NOT NULL),
            count(DISTINCT relevance), coalesce(min(relevance), 0),
            coalesce(bool_or(relevance <> floor(relevance)), false)
        FROM {GOLD} j JOIN queries USING (query_id) WHERE split = ?""",
        [split],
    )
    return SplitFacts(*row)


def relevant(store: Store, split: str) -> pa.Table:
    """Returns what is relevant in a split, also by a query of the same text: query_id, text_key, relevance.

    Documents of the same text are one. Ordered; relevance is above 0, the highest where several are given.
    """
    return store.table(
        f"""SELECT query_id, text_key, max(relevance) AS relevance
        FROM ({_BY_TEXT}) JOIN documents USING (doc_id)
        WHERE split = ? AND relevance > 0 GROUP BY ALL ORDER BY query_id, text_key""",
        [split],
    )


def unranked(store: Store, split: str) -> pa.Table:
    """Returns the pairs that no ranking of a split shows: query_id, text_key (of documents), why, ordered.

    Never what is judged in the split itself. `why` is one of UNRANKED, the first that holds.
    """
    return store.table(
        f"""WITH judged AS (SELECT j.*, text_key FROM ({_BY_TEXT}) j JOIN documents USING (doc_id)),
        hidden AS (
            SELECT query_id, d.text_key, 0 AS why FROM queries q JOIN documents d USING (text_key)
            UNION ALL SELECT query_id, d.text_key, 0 FROM queries q JOIN documents d
                ON d.passage_key = q.text_key
            UNION ALL SELECT query_id, d.text_key, 1 FROM queries q JOIN documents d ON doc_id = query_id
                WHERE $same
            UNION ALL SELECT query_id, text_key, 2 FROM judged WHERE split <> $split AND relevance > 0)
        SELECT query_id, text_key, $names[min(why) + 1] AS why FROM hidden
        ANTI JOIN (FROM judged WHERE split = $split) USING (query_id, text_key)
        GROUP BY query_id, text_key ORDER BY query_id, text_key""",
        {"split": split, "same": queries_are_documents(store), "names": list(UNRANKED)},
    )


def graded_pairs(store: Store, split: str) -> pa.Table:
    """Returns every judged pair of a split, ordered: query_id, doc_id, first, second, relevance.

    `first` and `second` are the texts; relevance is the highest where several are given.
    """
    return store.table(
        f"""SELECT j.query_id, j.doc_id, any_value(q.text) AS first,
            any_value(d.text) AS second, max(j.relevance) AS relevance
        FROM {GOLD} j JOIN queries q USING (query_id) JOIN document_texts d USING (doc_id)
        WHERE j.split = ? GROUP BY ALL ORDER BY j.query_id, j.doc_id""",
        [split],
    )


def labelled_queries(store: Store, split: str) -> pa.Table:
    """Returns the queries of a split that have a label, ordered: query_id, text, text_key, label."""
    return store.table(
        f"""SELECT query_id, text, text_key, label FROM queries
        WHERE label IS NOT NULL AND query_id IN (SELECT query_id FROM {GOLD} WHERE split = ?)
        ORDER BY query_id""",
        [split],
    )


def labelled_documents(store: Store, split: str) -> pa.Table:
    """Returns the documents judged in a split that have a label, ordered: doc_id, text, text_key, label."""
    return store.table(
        f"""SELECT doc_id, text, text_key, label FROM document_texts
        WHERE label IS NOT NULL AND doc_id IN (SELECT doc_id FROM {GOLD} WHERE split = ?)
        ORDER BY doc_id""",
        [split],
    )


def judged_splits(store: Store) -> list[str]:
    """Returns the names of the splits in which anything is judged."""
    return [split for (split,) in store.rows(f"SELECT DISTINCT split FROM {GOLD} ORDER BY split")]


def require_judgments(store: Store, split: str, flag: str = "--split", trained: str | None = None) -> None:
    """Raises UsageError when nothing is judged in a split, with the splits that `flag` can name.

    A model is trained on the split `trained`, so the error does not propose it.
    """
    judged = judged_splits(store)
    if split in judged:
        return
    known = [one for one in judged if one != trained]
    if known:
        hint = f"choose one with {flag}: {listed(known)}"
    elif judged:
        hint = (
            f"split '{trained}' is trained on and the store has no other: ingest judgments to score on with "
            f"miner ingest {quote(str(store.path))} SOURCE --split {quote(split)}"
        )
    else:
        hint = f"choose one with {flag}: the store holds no judgments"
    raise UsageError(f"nothing is judged in split '{split}' of {store.path}{near(split, known)}", hint)


def seen_positives(store: Store, model: str, split: str) -> int:
    """Returns how many of a split's positives a model was trained on, as far as the store knows."""
    ((number,),) = store.rows(
        f"""SELECT count(*) FROM (
            SELECT DISTINCT query_id, doc_id FROM {GOLD} WHERE split = ? AND relevance > 0
            INTERSECT SELECT query_id, doc_id FROM training_positives WHERE model = ?)""",
        [split, model],
    )
    return int(number)


def known_scores(store: Store, reranker: str) -> pa.Table:
    """Returns what a reranker has scored: query_id, doc_id, score."""
    return store.table(
        """SELECT query_id, doc_id, any_value(score) AS score FROM rerank_scores
        WHERE reranker = ? GROUP BY ALL""",
        [reranker],
    )


def keep_scores(store: Store, reranker: str, scores: pa.Table) -> None:
    """Adds scores (query_id, doc_id, score) to those that all runs share."""
    with store.transaction():
        store.insert("rerank_scores", scores, reranker=reranker)
