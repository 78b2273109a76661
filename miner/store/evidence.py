"""The evidence: candidates and positives, and the score that every scorer gave them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import flat, numbered
from miner.schema import CANDIDATES_PER_QUERY, CODES, FREE, Reason
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.scorers import IMPORTED, Scorer

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_ALL = 2**31 - 1


def candidate_count(store: Database, evidence: str) -> int:
    """Returns the number of candidates of a set of evidence."""
    ((number,),) = store.rows(
        "SELECT coalesce(sum(len(doc_nos)), 0) FROM pools WHERE evidence = ?", [evidence]
    )
    return int(number or 0)


COPIES = tuple(
    str(reason)
    for reason in (
        Reason.DUPLICATE_OF_POSITIVE,
        Reason.OVERLAPS_POSITIVE,
        Reason.DUPLICATE_OF_CANDIDATE,
    )
)
"""Exclusions that are due to another document, and end if that is not a positive or candidate."""


_RERANKED = (FREE, *(CODES[Reason(name)] for name in COPIES))
"""The codes of the candidates that a reranker scores."""


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


def pool_documents(store: Database, evidence: str) -> pa.Table:
    """Returns the documents that are candidates of a set of evidence, by id: doc_no, doc_id."""
    return store.table(
        "SELECT doc_no, doc_id FROM pool_documents WHERE evidence = ? ORDER BY doc_no", [evidence]
    )


def pooled_numbers(store: Database, evidence: str) -> Ints:
    """Returns the numbers of the documents that are candidates of a set of evidence, ascending."""
    table = store.table(
        "SELECT DISTINCT unnest(doc_nos) AS doc_no FROM pools WHERE evidence = ? ORDER BY doc_no", [evidence]
    )
    numbers: Ints = table["doc_no"].to_numpy().astype(np.int64)
    return numbers


def scored_candidates(
    store: Database,
    run: StoredRun,
    scorer: Scorer | None = None,
    first: int = 0,
    stop: int = _ALL,
    *,
    queries: Sequence[int] | None = None,
    others: Sequence[Scorer] = (),
    ranks: bool = True,
) -> pa.Table:
    """Returns the candidates of the queries with numbers from `first` to before `stop`, or of `queries`.

    They are in order. Columns candidate, doc_no, exclusion (the code of its reason, FREE without one),
    judged_negative, best_rank (over retrievers), best_scorer (the retriever with that rank), score. The score
    is that of `scorer` (default: the one that decides); it is null for a pair that this did not score, NaN
    for a score that is not finite. For each of the `others` there is a column `score_of` with its scores.
    Without `ranks` the columns best_rank and best_scorer are left out.
    """
    scorer = scorer or run.deciding
    values: dict[str, object] = {"evidence": run.evidence, "first": first, "stop": stop}
    where = "evidence = $evidence AND query_no >= $first AND query_no < $stop"
    if queries is not None:
        values["queries"] = list(queries)
        where += " AND query_no IN (SELECT unnest($queries::BIGINT[]))"
    best = ", best_ranks, best_scorers" if ranks else ""
    table = store.table(
        f"""SELECT query_no, doc_nos, exclusions, judged_negative{best} FROM pools
        WHERE {where} ORDER BY query_no""",
        values,
    )
    candidate = numbered(table, "doc_nos", CANDIDATES_PER_QUERY)
    exclusion = flat(table["exclusions"])

    def _scores(of: Scorer) -> pa.Array:
        if of.is_reranker:
            rows = _Pooled(candidate, flat(table["doc_nos"]).to_numpy(), exclusion.to_numpy())
            return _reranker_scores(store, run, of, rows, (where, values))
        scores = store.table(
            f"SELECT scores FROM scored WHERE scorer = $scorer AND {where} ORDER BY query_no",
            values | {"scorer": of.number},
        )
        return _finite(flat(scores["scores"]))

    return pa.table(
        {
            "candidate": candidate,
            "doc_no": flat(table["doc_nos"]),
            "exclusion": exclusion,
            "judged_negative": flat(table["judged_negative"]),
            **({name: flat(table[f"{name}s"]) for name in ("best_rank", "best_scorer")} if ranks else {}),
            "score": _scores(scorer),
            **{score_of(other): _scores(other) for other in others},
        }
    )


def score_of(scorer: Scorer) -> str:
    """Returns the name of the column with the scores of another scorer than the one that decides."""
    return f"score_of_{scorer.number}"


def _finite(scores: pa.Array) -> pa.Array:
    """Returns scores with NaN for infinite ones; nulls stay."""
    values = scores.to_numpy(zero_copy_only=False)
    if np.isfinite(values).all():
        return scores
    mask = scores.is_null().to_numpy(zero_copy_only=False)
    return pa.array(np.where(np.isfinite(values), values, np.nan), mask=mask)


class _Pooled(NamedTuple):
    """Candidates in order."""

    candidate: Ints
    doc_no: Ints
    exclusion: Ints


def _reranker_scores(
    store: Database, run: StoredRun, scorer: Scorer, rows: _Pooled, some: tuple[str, dict[str, object]]
) -> pa.Array:
    """Returns a reranker's score of each of the candidates, null for one that it did not score in this run.

    Scores are shared by all runs: those of candidates below the depths of this run are left out.
    """
    depth, next_depth = run.config.get("rerank_depth"), run.config.get("cascade_depth")
    deep = rows.candidate % CANDIDATES_PER_QUERY > (depth or CANDIDATES_PER_QUERY)
    for one in run.rerankers:
        score = _stored_scores(store, one, rows.candidate, some)
        score[deep] = np.nan
        if one == scorer:
            break
        if next_depth is not None:
            deep |= _ranks_by(score, rows) > next_depth
    unknown = np.isnan(score)
    return pa.array(np.where(np.isinf(score), np.nan, score), mask=unknown)


def _ranks_by(score: Floats, rows: _Pooled) -> Ints:
    """Returns the rank of each candidate by score among those of its query that a reranker scores."""
    query = rows.candidate // CANDIDATES_PER_QUERY
    order = np.lexsort((rows.doc_no, -np.where(np.isfinite(score), score, -np.inf), query))
    counts = np.isin(rows.exclusion[order], _RERANKED)
    total = np.cumsum(counts)
    starts = np.flatnonzero(np.diff(query[order], prepend=-1))
    before: Ints = np.repeat(total[starts] - counts[starts], np.diff(np.append(starts, len(order))))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = total - before + ~counts
    return ranks


def _stored_scores(
    store: Database, scorer: Scorer, candidate: Ints, some: tuple[str, dict[str, object]]
) -> Floats:
    """Returns a reranker's stored score of each of the candidates; infinity for NaN, NaN without one."""
    where, values = some
    table = store.table(
        f"""SELECT c.candidate, s.score FROM (FROM candidates WHERE {where}) c
        JOIN rerank_scores s ON s.reranker = $reranker AND s.query_id = c.query_id AND s.doc_id = c.doc_id
        ORDER BY c.candidate""",
        values | {"reranker": scorer.model},
    )
    score = np.full(len(candidate), np.nan)
    stored = np.asarray(table["score"].to_numpy(), dtype=np.float64)
    score[np.searchsorted(candidate, table["candidate"].to_numpy())] = np.where(
        np.isfinite(stored), stored, np.inf
    )
    return score


def scored_positives(
    store: Database, run: StoredRun, scorer: Scorer | None = None, others: Sequence[Scorer] = ()
) -> pa.Table:
    """Returns all positives ordered by query_no and doc_id: query_no, query_id, doc_id, score.

    The score is that of `scorer` (default: the one that decides); NaN without a finite one. For each of the
    `others` there is a column `score_of` with its scores.
    """
    table = store.table(
        "SELECT query_no, query_id, doc_id FROM positives WHERE evidence = ? ORDER BY query_no, doc_id",
        [run.evidence],
    )
    columns = {"score": scorer or run.deciding} | {score_of(other): other for other in others}
    for name, of in columns.items():
        table = table.append_column(name, pa.array(positive_scores(store, run, of)))
    return table


def positive_scores(store: Database, run: StoredRun, scorer: Scorer) -> Floats:
    """Returns a scorer's score of every positive, by query_no and doc_id; NaN without a finite one."""
    if scorer.is_reranker:
        column = store.table(
            """SELECT s.score FROM positives p LEFT JOIN rerank_scores s
                ON s.reranker = ? AND s.query_id = p.query_id AND s.doc_id = p.doc_id
            WHERE p.evidence = ? ORDER BY p.query_no, p.doc_id""",
            [scorer.model, run.evidence],
        )["score"].combine_chunks()
    else:
        column = flat(
            store.table(
                "SELECT positives FROM scored WHERE evidence = ? AND scorer = ? ORDER BY query_no",
                [run.evidence, scorer.number],
            )["positives"]
        )
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def candidate_ranks(store: Database, run: StoredRun, scorer: Scorer) -> Floats:
    """Returns a retriever's rank of every candidate of a run's evidence, in order; NaN if it has none."""
    table = store.table(
        "SELECT ranks FROM scored WHERE evidence = ? AND scorer = ? ORDER BY query_no",
        [run.evidence, scorer.number],
    )
    return np.asarray(flat(table["ranks"]).to_numpy(zero_copy_only=False), dtype=np.float64)


def candidate_scores(store: Database, run: StoredRun, scorer: Scorer) -> Floats:
    """Returns a scorer's score of every candidate of a run's evidence, in order; NaN without a finite one."""
    if scorer.is_reranker:
        column = scored_candidates(store, run, scorer)["score"]
    else:
        column = flat(
            store.table(
                "SELECT scores FROM scored WHERE evidence = ? AND scorer = ? ORDER BY query_no",
                [run.evidence, scorer.number],
            )["scores"]
        )
    values = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def best_ranked(store: Database, run: StoredRun, retriever: Scorer, depth: int) -> pa.Table:
    """Returns each query's best candidates of one retriever; the rules have no effect.

    Columns query_id and negative_ids, a list of at most `depth` ids, best rank first; ordered. Excluded
    candidates (known positives, their copies, the query itself) are not among them.
    """
    return store.table(
        f"""SELECT query_id, list(doc_id ORDER BY rank, doc_id) AS negative_ids FROM (
            SELECT query_id, doc_id, rank FROM (
                SELECT evidence, query_id, unnest(p.doc_nos) AS doc_no, unnest(p.exclusions) AS exclusion,
                    unnest(c.ranks) AS rank
                FROM pools p JOIN scored c USING (evidence, query_no)
                WHERE evidence = $evidence AND c.scorer = $scorer)
            JOIN pool_documents USING (evidence, doc_no)
            WHERE exclusion = {FREE} AND rank IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY query_id ORDER BY rank, doc_id) <= $depth)
        GROUP BY query_id ORDER BY query_id""",
        {"evidence": run.evidence, "scorer": retriever.number, "depth": depth},
    )


@dataclass(frozen=True)
class ScoreFacts:
    """Facts about the scores of one scorer in a run, over the pairs that rules can decide on."""

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


def _plain_range(store: Database, run: StoredRun, scorer: Scorer) -> tuple[int, float, float] | None:
    """Returns the number of a retriever's pairs with their lowest and highest score, excluded ones included.

    None unless all are finite and they differ: a count of each pair is then of no use.
    """
    ((pairs, *ends),) = store.rows(
        """SELECT sum(len(scores) + len(positives)), least(min(list_min(scores)), min(list_min(positives))),
            greatest(max(list_max(scores)), max(list_max(positives)))
        FROM scored WHERE evidence = ? AND scorer = ?""",
        [run.evidence, scorer.number],
    )
    if scorer.kind == IMPORTED or None in ends or not all(map(isfinite, ends)) or ends[0] == ends[1]:
        return None
    return int(pairs), ends[0], ends[1]


def score_facts(store: Database, run: StoredRun, scorer: Scorer) -> ScoreFacts:
    """Returns the facts of one scorer in a run."""
    if not scorer.is_reranker and (plain := _plain_range(store, run, scorer)):
        return ScoreFacts(*plain[:1], 0, 0, *plain[1:], 0)
    bound: dict[str, object] = {"evidence": run.evidence}
    if scorer.is_reranker:
        bound["reranker"] = scorer.model
        join = """JOIN rerank_scores s ON s.reranker = $reranker
            AND s.query_id = p.query_id AND s.doc_id = p.doc_id"""
        scores = f"""(SELECT s.score, NULL AS positive_of FROM candidates p {join}
                WHERE evidence = $evidence AND exclusion IS NULL
            UNION ALL SELECT s.score, query_no FROM positives p {join} WHERE evidence = $evidence)"""
    else:
        bound["scorer"] = scorer.number
        scores = f"""(SELECT score, NULL AS positive_of FROM (
                SELECT unnest(c.scores) AS score, unnest(p.exclusions) AS exclusion
                FROM scored c JOIN pools p USING (evidence, query_no)
                WHERE evidence = $evidence AND c.scorer = $scorer)
                WHERE exclusion = {FREE} AND score IS NOT NULL
            UNION ALL SELECT score, query_no FROM (
                SELECT query_no, unnest(positives) AS score FROM scored
                WHERE evidence = $evidence AND scorer = $scorer) WHERE score IS NOT NULL)"""
    ((pairs, lowest, highest),) = store.rows(f"SELECT count(*), min(score), max(score) FROM {scores}", bound)
    if not pairs or (isfinite(lowest) and isfinite(highest)):  # DuckDB sorts NaN above all numbers
        return ScoreFacts(pairs, 0, 0, lowest, highest, 0)
    (row,) = store.rows(
        f"""SELECT count(*), count(*) FILTER (positive_of IS NULL AND NOT isfinite(score)),
            count(*) FILTER (positive_of IS NOT NULL AND NOT isfinite(score)),
            min(score) FILTER (isfinite(score)), max(score) FILTER (isfinite(score)),
            count(DISTINCT positive_of) - count(DISTINCT positive_of) FILTER (isfinite(score))
        FROM {scores}""",
        bound,
    )
    return ScoreFacts(*row)


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
