"""The evidence: hits, candidates and positives, and the score that every scorer gave them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import pyarrow as pa

from miner.schema import CANDIDATES_PER_QUERY, Reason
from miner.store.database import Database
from miner.store.runs import StoredRun


def hits_of(store: Database, search: str, first: str, last: str) -> pa.Table:
    """Returns the hits of a search for the query ids from `first` to `last`, ordered by query_id and rank.

    Columns query_id, doc_id, rank, score.
    """
    return store.table(
        """SELECT query_id, doc_id, rank, score FROM hits
        WHERE search = ? AND query_id BETWEEN ? AND ? ORDER BY query_id, rank""",
        [search, first, last],
    )


_ALL = 2**63 - 1


def candidate_count(store: Database, evidence: str) -> int:
    """Returns the number of candidates of a set of evidence."""
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
"""Exclusions that are due to another document, and end if that is not a positive or candidate."""


def candidates_to_rerank(store: Database, evidence: str, depth: int | None) -> pa.Table:
    """Returns the candidates that could be negatives, up to a fused rank: query_id, doc_id.

    Copies are included though they are excluded: an audit that hides a positive needs their scores.
    """
    return store.table(
        f"""SELECT query_id, doc_id FROM candidates
        WHERE evidence = ? AND (exclusion IS NULL OR exclusion IN {COPIES})
            AND (? IS NULL OR fused_rank <= ?)""",
        [evidence, depth, depth],
    )


def positive_pairs(store: Database, evidence: str) -> pa.Table:
    """Returns the positives of a set of evidence: query_id, doc_id."""
    return store.table("SELECT query_id, doc_id FROM positives WHERE evidence = ?", [evidence])


def reranked(store: Database, reranker: str) -> pa.Table:
    """Returns the pairs that a reranker has scored: query_id, doc_id."""
    return store.table("SELECT query_id, doc_id FROM rerank_scores WHERE reranker = ?", [reranker])


def _score(score: str, alias: str) -> tuple[str, str]:
    """Returns SQL for a deciding score, and the join that it needs.

    The score is null for a pair that the reranker did not score, NaN for an infinite one.
    """
    finite = "CASE WHEN isinf({0}) THEN 'nan'::DOUBLE ELSE {0} END"
    if score != "rerank":
        return finite.format(f"{alias}.{score}_score"), ""
    join = f"""LEFT JOIN rerank_scores s ON s.reranker = $reranker
        AND s.query_id = {alias}.query_id AND s.doc_id = {alias}.doc_id"""
    return finite.format("s.score"), join


def scored_candidates(
    store: Database,
    evidence: str,
    score: str,
    reranker: str | None,
    first: int = 0,
    stop: int = _ALL,
    *,
    queries: Sequence[int] | None = None,
) -> pa.Table:
    """Returns the candidates with numbers from `first` to before `stop`, or those of `queries`, in order.

    Columns candidate, doc_id, exclusion, best_rank (over retrievers), bm25_best, judged_negative, score. The
    argument `score` names the deciding score: `rerank`, `dense` or `bm25`. The column is null for a pair that
    the reranker did not score, NaN for a score that is not finite.
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


def scored_positives(store: Database, evidence: str, score: str, reranker: str | None) -> pa.Table:
    """Returns all positives ordered by query_no and doc_id: query_no, query_id, doc_id, score.

    The score is NaN or null if it is not finite.
    """
    value, join = _score(score, "p")
    return store.table(
        f"""SELECT p.query_no, p.query_id, p.doc_id, {value} AS score FROM positives p {join}
        WHERE p.evidence = $evidence ORDER BY p.query_no, p.doc_id""",
        {"evidence": evidence} | ({"reranker": reranker} if join else {}),
    )


RETRIEVERS = ("bm25", "dense")


def best_ranked(store: Database, run: StoredRun, retriever: str, depth: int) -> pa.Table:
    """Returns each query's best candidates of one retriever; the rules have no effect.

    Columns query_id and negative_ids, a list of at most `depth` ids, best rank first; ordered. Excluded
    candidates (known positives, their copies, the query itself) are not among them.
    """
    if retriever not in RETRIEVERS:
        raise ValueError(retriever)
    rank = f"{retriever}_rank"
    return store.table(
        f"""SELECT query_id, list(doc_id ORDER BY {rank}, doc_id) AS negative_ids FROM (
            SELECT query_id, doc_id, {rank} FROM candidates
            WHERE evidence = $evidence AND exclusion IS NULL AND {rank} IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY query_id ORDER BY {rank}, doc_id) <= $depth)
        GROUP BY query_id ORDER BY query_id""",
        {"evidence": run.evidence, "depth": depth},
    )


_SCORES = ", ".join(
    f"CASE WHEN isfinite({value}) THEN {value} END AS {name}"
    for value, name in (
        ("c.bm25_score", "bm25_score"), ("c.dense_score", "dense_score"), ("s.score", "rerank_score")
    )
)  # fmt: skip
"""SQL for all scores; null if a score is not finite."""


def candidate_facts(store: Database, run: StoredRun) -> pa.Table:
    """Returns the ranks and scores of every candidate of a run's evidence, in order.

    Columns bm25_rank, dense_rank (null if the retriever did not return the candidate), bm25_score,
    dense_score, rerank_score (null without a finite score).
    """
    return store.table(
        f"""SELECT c.bm25_rank, c.dense_rank, {_SCORES}
        FROM candidates c LEFT JOIN rerank_scores s
            ON s.reranker = $reranker AND s.query_id = c.query_id AND s.doc_id = c.doc_id
        WHERE c.evidence = $evidence ORDER BY c.candidate""",
        {"evidence": run.evidence, "reranker": run.reranker},
    )


def positive_facts(store: Database, run: StoredRun) -> pa.Table:
    """Returns every score of the positives of a run's evidence, ordered by query_no and doc_id.

    Columns bm25_score, dense_score, rerank_score.
    """
    return store.table(
        f"""SELECT {_SCORES} FROM positives c LEFT JOIN rerank_scores s
            ON s.reranker = $reranker AND s.query_id = c.query_id AND s.doc_id = c.doc_id
        WHERE c.evidence = $evidence ORDER BY c.query_no, c.doc_id""",
        {"evidence": run.evidence, "reranker": run.reranker},
    )


@dataclass(frozen=True)
class ScoreFacts:
    """Facts about the scores of one scorer in a run, over the pairs that rules can decide on."""

    scorer: str
    """`bm25`, `dense` or `rerank`."""
    pairs: int
    """Number of positives and of candidates that are not excluded, as far as the scorer scored them."""
    candidates: int
    """Candidates without a finite score."""
    positives: int
    """Positives without a finite score."""
    lowest: float | None
    highest: float | None
    """The extremes of the finite scores; None without any."""
    queries: int
    """Queries without a positive that has a finite score."""


def score_facts(store: Database, run: StoredRun, scorer: str) -> ScoreFacts:
    """Returns the facts of one scorer in a run."""
    value, join = f"{scorer}_score", ""
    if scorer == "rerank":
        value = "s.score"
        join = """JOIN rerank_scores s ON s.reranker = $reranker
            AND s.query_id = p.query_id AND s.doc_id = p.doc_id"""
    scores = f"""(SELECT {value} AS score, NULL AS positive_of FROM candidates p {join}
            WHERE evidence = $evidence AND exclusion IS NULL AND {value} IS NOT NULL
        UNION ALL SELECT {value}, query_no FROM positives p {join}
            WHERE evidence = $evidence AND {value} IS NOT NULL)"""
    bound = {"evidence": run.evidence} | ({"reranker": run.reranker} if join else {})
    ((pairs, lowest, highest),) = store.rows(f"SELECT count(*), min(score), max(score) FROM {scores}", bound)
    if not pairs or (isfinite(lowest) and isfinite(highest)):  # DuckDB sorts NaN above all numbers
        return ScoreFacts(scorer, pairs, 0, 0, lowest, highest, 0)
    (row,) = store.rows(
        f"""SELECT count(*), count(*) FILTER (positive_of IS NULL AND NOT isfinite(score)),
            count(*) FILTER (positive_of IS NOT NULL AND NOT isfinite(score)),
            min(score) FILTER (isfinite(score)), max(score) FILTER (isfinite(score)),
            count(DISTINCT positive_of) - count(DISTINCT positive_of) FILTER (isfinite(score))
        FROM {scores}""",
        bound,
    )
    return ScoreFacts(scorer, *row)


def known_scores(store: Database, reranker: str) -> pa.Table:
    """Returns all scores of a reranker: query_id, doc_id, score."""
    return store.table(
        """SELECT query_id, doc_id, any_value(score) AS score FROM rerank_scores
        WHERE reranker = ? GROUP BY ALL""",
        [reranker],
    )


def keep_scores(store: Database, reranker: str, scores: pa.Table) -> None:
    """Adds a reranker's scores (query_id, doc_id, score), which all runs share."""
    with store.transaction():
        store.insert("rerank_scores", scores, reranker=reranker)
