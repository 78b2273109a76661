"""Reading the evidence: candidates, positives, and what rerankers said of them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from miner.schema import CANDIDATES_PER_QUERY, Reason
from miner.store.database import Store

_ALL = 2**63 - 1


def candidate_count(store: Store, evidence: str) -> int:
    """Returns how many candidates one set of evidence holds."""
    ((number,),) = store.rows("SELECT count(*) FROM candidates WHERE evidence = ?", [evidence])
    return int(number)


COPIES = tuple(
    str(reason)
    for reason in (
        Reason.DUPLICATE_OF_POSITIVE,
        Reason.OVERLAPS_POSITIVE,
        Reason.DUPLICATE_OF_CANDIDATE,
    )
)
"""Exclusions for the sake of another document: without that they would not hold."""


def candidates_to_rerank(store: Store, evidence: str, depth: int | None) -> pa.Table:
    """Returns the candidates that could be negatives, down to a fused rank: query_id, doc_id.

    Those that are excluded as copies are among them: an audit that hides a positive asks for their scores.
    """
    return store.table(
        f"""SELECT query_id, doc_id FROM candidates
        WHERE evidence = ? AND (exclusion IS NULL OR exclusion IN {COPIES})
            AND (? IS NULL OR fused_rank <= ?)""",
        [evidence, depth, depth],
    )


def positive_pairs(store: Store, evidence: str) -> pa.Table:
    """Returns the positives of one set of evidence: query_id, doc_id."""
    return store.table("SELECT query_id, doc_id FROM positives WHERE evidence = ?", [evidence])


def reranked(store: Store, reranker: str) -> pa.Table:
    """Returns the pairs that a reranker has scored: query_id, doc_id."""
    return store.table("SELECT query_id, doc_id FROM rerank_scores WHERE reranker = ?", [reranker])


def _score(score: str, alias: str) -> tuple[str, str]:
    """The SQL for a deciding score, and the join it needs.

    Null where it was not asked for; infinite ones are NaN.
    """
    finite = "CASE WHEN isinf({0}) THEN 'nan'::DOUBLE ELSE {0} END"
    if score != "rerank":
        return finite.format(f"{alias}.{score}_score"), ""
    join = f"""LEFT JOIN rerank_scores s ON s.reranker = $reranker
        AND s.query_id = {alias}.query_id AND s.doc_id = {alias}.doc_id"""
    return finite.format("s.score"), join


def scored_candidates(
    store: Store,
    evidence: str,
    score: str,
    reranker: str | None,
    first: int = 0,
    stop: int = _ALL,
    *,
    queries: Sequence[int] | None = None,
) -> pa.Table:
    """Returns the candidates numbered from `first` up to `stop`, or those of some `queries`, in order.

    Columns candidate, doc_id, exclusion, best_rank (over retrievers), bm25_best, judged_negative,
    score: the deciding score, `score` naming it (`rerank`, `dense` or `bm25`); null where the reranker was
    not asked, NaN where it is not finite.
    """
    value, join = _score(score, "c")
    values: dict[str, object] = {"evidence": evidence, "first": first, "stop": stop}
    some = ""
    if queries is not None:
        values["queries"] = list(queries)
        some = f"AND c.candidate // {CANDIDATES_PER_QUERY} IN (SELECT unnest($queries::BIGINT[]))"
    table = store.table(
        f"""SELECT c.candidate, c.doc_id, c.exclusion, least(c.bm25_rank, c.dense_rank) AS best_rank,
            coalesce(c.bm25_rank <= coalesce(c.dense_rank, c.bm25_rank), false) AS bm25_best,
            coalesce(c.judged_negative, false) AS judged_negative, {value} AS score
        FROM candidates c {join}
        WHERE c.evidence = $evidence AND c.candidate >= $first AND c.candidate < $stop {some}""",
        values | ({"reranker": reranker} if join else {}),
    )
    return table.sort_by("candidate") if join or some else table


def scored_positives(store: Store, evidence: str, score: str, reranker: str | None) -> pa.Table:
    """Returns all positives in order of query_no and doc_id: query_no, query_id, doc_id, score.

    The score is NaN or null where it is not finite.
    """
    value, join = _score(score, "p")
    return store.table(
        f"""SELECT p.query_no, p.query_id, p.doc_id, {value} AS score FROM positives p {join}
        WHERE p.evidence = $evidence ORDER BY p.query_no, p.doc_id""",
        {"evidence": evidence} | ({"reranker": reranker} if join else {}),
    )


def document_ids(store: Store) -> pa.Array:
    """Returns the ids of all documents, sorted."""
    table = store.table("SELECT doc_id FROM documents ORDER BY doc_id")
    return table["doc_id"].combine_chunks()
