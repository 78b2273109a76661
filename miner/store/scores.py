"""What the scores of a run are worth: how many are not finite, and whether they differ at all."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from miner.store.database import Store
from miner.store.runs import Run


@dataclass(frozen=True)
class ScoreFacts:
    """The scores of one scorer for the pairs of a run that could decide something."""

    scorer: str
    """`bm25`, `dense` or `rerank`."""
    pairs: int
    """Candidates that are not excluded, and positives, as far as the scorer was asked about them."""
    candidates: int
    """Candidates without a finite score."""
    positives: int
    """Positives without a finite score."""
    lowest: float | None
    highest: float | None
    """Of the finite scores; None without any."""
    queries: int
    """Queries without a positive that has a finite score."""


def score_facts(store: Store, run: Run, scorer: str) -> ScoreFacts:
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
    if not pairs or (isfinite(lowest) and isfinite(highest)):  # NaN is DuckDB's largest number
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
