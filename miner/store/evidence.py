"""The evidence: candidates and positives, and the score that every scorer gave them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

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

_ALL = range(2**31 - 1)


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
"""The codes of the candidates that a reranker scores. Copies are among them though they are excluded: an
audit that hides a positive needs their scores."""


@dataclass(frozen=True)
class CandidatePairs:
    """All candidates of a set of evidence, by query and fused rank: arrays of one length."""

    query: Ints
    """Query numbers, sorted."""
    doc: Ints
    """Document numbers."""
    fused_rank: Ints
    best_rank: Ints
    """The best rank from any retriever."""
    is_scored: npt.NDArray[np.bool_]
    """Whether a reranker scores it, if it is not too deep."""
    is_free: npt.NDArray[np.bool_]
    """Whether it can be a negative."""


def candidate_pairs(store: Database, evidence: str) -> CandidatePairs:
    """Returns the candidates of a set of evidence, by query and fused rank."""
    table = store.table(
        "SELECT query_no, doc_nos, exclusions, best_ranks FROM pools WHERE evidence = ? ORDER BY query_no",
        [evidence],
    )
    candidate = numbered(table, "doc_nos", CANDIDATES_PER_QUERY)
    exclusion = flat(table["exclusions"]).to_numpy()
    return CandidatePairs(
        candidate // CANDIDATES_PER_QUERY,
        flat(table["doc_nos"]).to_numpy().astype(np.int64),
        candidate % CANDIDATES_PER_QUERY,
        flat(table["best_ranks"]).to_numpy().astype(np.int64),
        np.isin(exclusion, _RERANKED),
        np.asarray(exclusion == FREE),
    )


def positive_pairs(store: Database, evidence: str) -> pa.Table:
    """Returns the positives of a set of evidence: query_id, doc_id."""
    return store.table("SELECT query_id, doc_id FROM positives WHERE evidence = ?", [evidence])


def numbered_positives(store: Database, evidence: str) -> pa.Table:
    """Returns the positives of a set of evidence, by query_no and doc_id: query_no, query_id, doc_id."""
    return store.table(
        "SELECT query_no, query_id, doc_id FROM positives WHERE evidence = ? ORDER BY query_no, doc_id",
        [evidence],
    )


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
    *,
    numbers: range = _ALL,
    queries: Sequence[int] | None = None,
    others: Sequence[Scorer] = (),
    ranks: bool = True,
    given: Given | None = None,
) -> pa.Table:
    """Returns the candidates of the queries with these `numbers`, or of those in `queries`.

    They are in order. Columns candidate, doc_no, exclusion (the code of its reason, FREE without one),
    judged_negative, best_rank (over retrievers), best_scorer (the retriever with that rank), score. The score
    is that of `scorer` (default: the one that decides); it is null for a pair that this did not score, NaN
    for a score that is not finite. For each of the `others` there is a column `score_of` with its scores.
    Without `ranks` the columns best_rank and best_scorer are left out. `given` are scores of rerankers that
    are not stored yet.
    """
    scorer = scorer or run.deciding
    values: dict[str, object] = {"evidence": run.evidence, "first": numbers.start, "stop": numbers.stop}
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
        if given is not None and of.number in given.scores:
            return given.of(of, candidate)
        scores = store.table(
            f"SELECT scores FROM scored WHERE scorer = $scorer AND {where} ORDER BY query_no",
            values | {"scorer": of.number, "evidence": run.scored_by(of)},
        )
        return _finite(flat(scores["scores"]) if scores.num_rows else pa.nulls(len(candidate), pa.float64()))

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


@dataclass(frozen=True)
class Given:
    """Scores of rerankers that are not stored yet, by the number of the scorer."""

    candidate: Ints
    """All candidates, as numbered in `scored_candidates`."""
    scores: dict[int, Floats]
    """A score for each candidate: NaN if it is not scored, infinity if the score is not finite."""
    positives: dict[int, Floats]
    """A score for each positive, by query_no and doc_id; not finite without one."""

    def of(self, scorer: Scorer, candidate: Ints) -> pa.Array:
        """Returns the scores of some candidates: null if not scored, NaN for a score that is not finite."""
        return as_stored(self.scores[scorer.number][np.searchsorted(self.candidate, candidate)])


def as_stored(score: Floats) -> pa.Array:
    """Returns a reranker's scores as they are stored: null if not scored (NaN), NaN if not finite."""
    return pa.array(np.where(np.isinf(score), np.nan, score), mask=np.isnan(score))


def scored_positives(
    store: Database, run: StoredRun, scorer: Scorer | None = None, others: Sequence[Scorer] = (),
    given: Given | None = None,
) -> pa.Table:  # fmt: skip
    """Returns all positives ordered by query_no and doc_id: query_no, query_id, doc_id, score.

    The score is that of `scorer` (default: the one that decides); NaN without a finite one. For each of the
    `others` there is a column `score_of` with its scores. `given` is as in `scored_candidates`.
    """
    table = numbered_positives(store, run.evidence)
    columns = {"score": scorer or run.deciding} | {score_of(other): other for other in others}
    for name, of in columns.items():
        if given is not None and of.number in given.positives:
            score = given.positives[of.number]
            known = np.where(np.isfinite(score), score, np.nan)
        else:
            known = positive_scores(store, run, of)
        table = table.append_column(name, pa.array(known))
    return table


def positive_scores(store: Database, run: StoredRun, scorer: Scorer) -> Floats:
    """Returns a scorer's score of every positive, by query_no and doc_id; NaN without a finite one."""
    return _listed(store, run, scorer, "positives")


def _listed(store: Database, run: StoredRun, scorer: Scorer, name: str) -> Floats:
    """Returns a list column of `scored` as one array, NaN without a finite value."""
    table = store.table(
        f"SELECT {name} FROM scored WHERE evidence = ? AND scorer = ? ORDER BY query_no",
        [run.scored_by(scorer), scorer.number],
    )
    values = flat(table[name]).to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def candidate_ranks(store: Database, run: StoredRun, scorer: Scorer) -> Floats:
    """Returns a scorer's rank of every candidate of a run's evidence, in order; NaN if it has none."""
    return _listed(store, run, scorer, "ranks")


def candidate_scores(store: Database, run: StoredRun, scorer: Scorer) -> Floats:
    """Returns a scorer's score of every candidate of a run's evidence, in order; NaN without a finite one."""
    return _listed(store, run, scorer, "scores")


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
    has_gaps = scorer.kind == IMPORTED or scorer.is_reranker
    if has_gaps or None in ends or not all(map(isfinite, ends)) or ends[0] == ends[1]:
        return None
    return int(pairs), ends[0], ends[1]


def score_facts(store: Database, run: StoredRun, scorer: Scorer) -> ScoreFacts:
    """Returns the facts of one scorer in a run."""
    if plain := _plain_range(store, run, scorer):
        return ScoreFacts(*plain[:1], 0, 0, *plain[1:], 0)
    bound = {"evidence": run.evidence, "scored": run.scored_by(scorer), "scorer": scorer.number}
    scores = f"""(SELECT score, NULL AS positive_of FROM (
            SELECT unnest(c.scores) AS score, unnest(p.exclusions) AS exclusion
            FROM scored c JOIN pools p ON p.evidence = $evidence AND p.query_no = c.query_no
            WHERE c.evidence = $scored AND c.scorer = $scorer)
            WHERE exclusion = {FREE} AND score IS NOT NULL
        UNION ALL SELECT score, query_no FROM (
            SELECT query_no, unnest(positives) AS score FROM scored
            WHERE evidence = $scored AND scorer = $scorer) WHERE score IS NOT NULL)"""
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
