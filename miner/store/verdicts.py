"""What became of the candidates of a run: verdicts, reasons, shortfalls, and how two runs differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import as_numpy, flat, in_order, list_sizes
from miner.schema import KEPT, SUSPECTED, Reason
from miner.store.codes import decoded
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.tables import GOLD

Ints = npt.NDArray[np.int64]

OUTCOMES = """SELECT query_id, doc_id,
        CASE WHEN slot IS NOT NULL THEN 'negative' ELSE coalesce(reason::VARCHAR, 'kept') END AS outcome
    FROM verdicts"""
"""SQL for the outcome of every candidate: `negative` (selected), `kept`, or the reason why it was dropped."""


def verdicts_of(store: Database, run: StoredRun) -> pa.Table:
    """Returns the outcome (as in OUTCOMES) of every candidate of a run: query_id, doc_id, outcome."""
    return store.table(f"{OUTCOMES} WHERE run = ? ORDER BY query_id, doc_id", [run.name])


def suspected(store: Database, run: StoredRun) -> pa.Table:
    """Returns a run's suspected positives that are not judged yet, in order: candidate, query_id, doc_id."""
    return store.table(
        f"""SELECT c.candidate, c.query_id, c.doc_id FROM decided d
        JOIN candidates c ON c.evidence = ? AND c.candidate = d.candidate
        WHERE d.run_id = ? AND d.verdict = 'suspected'
            AND (c.query_id, c.doc_id) NOT IN (SELECT (query_id, doc_id) FROM {GOLD})
        ORDER BY c.candidate""",
        [run.evidence, run.run_id],
    )


@dataclass(frozen=True)
class Codes:
    """The codes of all candidates of a run, by query and fused rank: read once, counted in several ways."""

    query: Ints
    """The numbers of the queries with a positive, ascending."""
    sizes: Ints
    """The number of candidates of each."""
    codes: npt.NDArray[np.int16]

    @classmethod
    def of(cls, store: Database, run: StoredRun) -> Codes:
        """Returns those of a run."""
        positives, decisions = store.tables(
            ("SELECT DISTINCT query_no FROM positives WHERE evidence = ?", [run.evidence]),
            ("SELECT query_no, codes FROM decisions WHERE run_id = ?", [run.run_id]),
        )
        query = np.sort(as_numpy(positives["query_no"])).astype(np.int64)
        decisions = decoded(in_order(decisions, "query_no"))
        decided, counts = as_numpy(decisions["query_no"]), list_sizes(decisions["codes"])
        known = np.isin(decided, query)
        sizes = np.zeros(len(query), dtype=np.int64)
        sizes[np.searchsorted(query, decided[known])] = counts[known]
        codes = as_numpy(flat(decisions["codes"]))
        return cls(query, sizes, codes if known.all() else codes[np.repeat(known, counts)])

    @cached_property
    def negatives(self) -> Ints:
        """The number of negatives of each query."""
        before = np.zeros(len(self.codes) + 1, dtype=np.int32)
        np.cumsum(self.codes < KEPT, out=before[1:])
        ends = np.cumsum(self.sizes)
        return np.asarray(before[ends] - before[ends - self.sizes], dtype=np.int64)

    def short(self, wanted: int) -> Codes:
        """Returns those of the queries with fewer negatives than `wanted`."""
        some = self.negatives < wanted
        return Codes(self.query[some], self.sizes[some], self.codes[np.repeat(some, self.sizes)])

    def reasons(self) -> dict[str, int]:
        """Returns the number of candidates per reason, `kept` or `selected`, most frequent first."""
        lowest = int(self.codes.min(initial=0))
        found: Counter[str] = Counter()
        counts = np.bincount(self.codes.astype(np.int64) - lowest)
        for code in np.flatnonzero(counts).tolist():
            found[_named(code + lowest)] += int(counts[code])
        return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))

    def negative_counts(self) -> dict[int, int]:
        """Returns the number of queries for each number of negatives, ascending."""
        numbers = np.bincount(self.negatives).tolist()
        return {negatives: number for negatives, number in enumerate(numbers) if number}


def _named(code: int) -> str:
    if code <= KEPT:
        return "kept" if code == KEPT else "selected"
    return str(tuple(Reason)[code % SUSPECTED])


def reason_counts(store: Database, run: StoredRun) -> dict[str, int]:
    """Returns the number of candidates per reason, as `Codes.reasons`."""
    return Codes.of(store, run).reasons()


def verdict_counts(store: Database, run: StoredRun) -> list[tuple[str, str | None, int]]:
    """Returns how many candidates have each verdict and reason, the commonest first.

    The verdict is `selected`, `kept`, `suspected` or `dropped`; the first two have no reason.
    """
    rows = store.rows(
        f"""SELECT CASE WHEN code < {KEPT} THEN 'selected' WHEN code = {KEPT} THEN 'kept'
                WHEN code >= {SUSPECTED} THEN 'suspected' ELSE 'dropped' END AS verdict,
            CASE WHEN code > {KEPT} THEN enum_range(NULL::reason)[code % {SUSPECTED} + 1]::VARCHAR END AS why,
            sum(number)::BIGINT AS candidates
        FROM (SELECT code, count(*) AS number
            FROM (SELECT unnest(codes) AS code FROM decision_codes WHERE run_id = ?) GROUP BY code)
        GROUP BY verdict, why ORDER BY candidates DESC, verdict, why""",
        [run.run_id],
    )
    return [(verdict, why, number) for verdict, why, number in rows]


def coverage(store: Database, run: StoredRun) -> float | None:
    """Returns the share of queries that got all negatives they requested; None if the run has no query."""
    counts = negative_counts(store, run)
    covered = sum(queries for negatives, queries in counts.items() if negatives >= run.negatives)
    return covered / sum(counts.values()) if counts else None


def negative_counts(store: Database, run: StoredRun) -> dict[int, int]:
    """Returns the number of queries for each number of negatives, as `Codes.negative_counts`."""
    return Codes.of(store, run).negative_counts()


def has_several_positives(store: Database, run: StoredRun) -> bool:
    """Returns whether any query of a run has more than one positive, as an audit needs."""
    rows = store.rows(
        "SELECT 1 FROM positives WHERE evidence = ? GROUP BY query_no HAVING count(*) > 1 LIMIT 1",
        [run.evidence],
    )
    return bool(rows)


def shortfall_reasons(store: Database, run: StoredRun) -> dict[str, int]:
    """Returns the number of queries with too few negatives per main reason, most frequent first.

    The reason is `no_candidates` if nothing was retrieved, `too_few_kept` if nothing was dropped.
    """
    rows = store.rows(
        """SELECT coalesce(commonest_reason::VARCHAR,
                CASE WHEN candidates = 0 THEN 'no_candidates' ELSE 'too_few_kept' END) AS why,
            count(*) FROM shortfalls WHERE run = ? GROUP BY why ORDER BY count(*) DESC, why""",
        [run.name],
    )
    return dict(rows)


def _listed_scores(view: str, rank: str) -> str:
    """Returns SQL for the scores of each document of a query: doc_id, scores in the order of the scorers."""
    return f"""SELECT doc_id,
            list({{'scorer': scorer, 'rank': {rank}, 'score': score}} ORDER BY n.number) AS scores
        FROM {view} JOIN (SELECT scorer, number FROM scorers WHERE run_id = $run_id) n USING (scorer)
        WHERE run = $run AND query_id = $query GROUP BY doc_id"""


_SCORES = _listed_scores("scores", "rank")
_SCORES_OF_POSITIVES = _listed_scores("positive_scores", "NULL::INTEGER")


def candidates_of_query(store: Database, run: StoredRun, query_id: str) -> pa.Table:
    """Returns a query's candidates in a run, selected ones first, with texts, ranks, scores and reasons."""
    return store.table(
        f"""SELECT v.slot, v.verdict::VARCHAR AS verdict, v.reason::VARCHAR AS reason, v.doc_id,
            s.scores, d.text
        FROM verdicts v JOIN documents d USING (doc_id) LEFT JOIN ({_SCORES}) s USING (doc_id)
        WHERE v.run = $run AND v.query_id = $query
        ORDER BY v.slot NULLS LAST, v.verdict = 'dropped', v.fused_rank""",
        {"run": run.name, "run_id": run.run_id, "query": query_id},
    )


def positives_of_query(store: Database, run: StoredRun, query_id: str) -> pa.Table:
    """Returns a query's positives with their scores in a run's evidence."""
    return store.table(
        f"""SELECT p.doc_id, s.scores, d.text
        FROM positives p JOIN documents d USING (doc_id)
        LEFT JOIN ({_SCORES_OF_POSITIVES}) s USING (doc_id)
        WHERE p.evidence = $evidence AND p.query_id = $query ORDER BY p.doc_id""",
        {"run": run.name, "run_id": run.run_id, "evidence": run.evidence, "query": query_id},
    )


def example_of_false_negative(store: Database, run: StoredRun) -> dict[str, Any] | None:
    """Returns a query with two positives of which one scores above the query's first negative.

    If nobody had judged that one, it would be the first negative: a false negative. Keys: query, positive and
    positive_score, false_negative and false_negative_score, negative and negative_score (of the run). None
    without such a query.
    """
    rows = store.table(
        """SELECT q.text AS query, pd.text AS positive, p.score AS positive_score,
            od.text AS false_negative, o.score AS false_negative_score,
            nd.text AS negative, n.score AS negative_score
        FROM positive_scores p JOIN positive_scores o USING (run, scorer, query_id)
        JOIN verdicts n ON n.run = ? AND n.query_id = p.query_id AND n.slot = 1
        JOIN queries q ON q.query_id = p.query_id
        JOIN documents pd ON pd.doc_id = p.doc_id
        JOIN documents od ON od.doc_id = o.doc_id
        JOIN documents nd ON nd.doc_id = n.doc_id
        WHERE p.run = ? AND p.scorer = ? AND p.doc_id <> o.doc_id AND pd.text <> od.text
            AND o.score > n.score AND o.score > 0.95 * p.score
            AND length(q.text) BETWEEN 25 AND 75
        ORDER BY o.score - n.score DESC, q.query_id, o.doc_id LIMIT 1""",
        [run.name, run.name, run.deciding.name],
    ).to_pylist()
    return rows[0] if rows else None


_GONE = "(no longer in the store)"

_MOVED = f"""SELECT query_id, doc_id, coalesce(a.outcome, 'no candidate') AS before,
        coalesce(b.outcome, 'no candidate') AS after
    FROM ({OUTCOMES} WHERE run = $before) a
    FULL JOIN ({OUTCOMES} WHERE run = $after) b USING (query_id, doc_id)
    WHERE a.outcome = 'negative' OR b.outcome = 'negative'"""


def moved_negatives(store: Database, before: StoredRun, after: StoredRun) -> list[tuple[str, str, int]]:
    """Returns (outcome before, outcome after, number) of the negatives of either run, most frequent first."""
    return store.rows(
        f"SELECT before, after, count(*) FROM ({_MOVED}) GROUP BY ALL ORDER BY count(*) DESC, before, after",
        {"before": before.name, "after": after.name},
    )


def example_of_move(
    store: Database, before: StoredRun, after: StoredRun, was: str, became: str
) -> tuple[str, str, str, str]:
    """Returns one pair with these outcomes: query_id, query, doc_id, document."""
    (row,) = store.rows(
        f"""SELECT query_id, coalesce(q.text, '{_GONE}'), doc_id, coalesce(d.text, '{_GONE}')
        FROM ({_MOVED}) m LEFT JOIN queries q USING (query_id) LEFT JOIN documents d USING (doc_id)
        WHERE m.before = $was AND m.after = $became ORDER BY md5(query_id || doc_id) LIMIT 1""",
        {"before": before.name, "after": after.name, "was": was, "became": became},
    )
    return row


def positive_changes(store: Database, before: StoredRun, after: StoredRun) -> dict[str, int]:
    """Returns the number of positives of both runs, only the first (`gone`), only the second (`new`)."""
    rows = store.rows(
        """SELECT CASE WHEN b.doc_id IS NULL THEN 'gone' WHEN a.doc_id IS NULL THEN 'new' ELSE 'both' END,
            count(*)
        FROM (SELECT query_id, doc_id FROM positives WHERE evidence = $before) a
        FULL JOIN (SELECT query_id, doc_id FROM positives WHERE evidence = $after) b USING (query_id, doc_id)
        GROUP BY ALL""",
        {"before": before.evidence, "after": after.evidence},
    )
    return {"both": 0, "gone": 0, "new": 0} | dict(rows)


def triplet_changes(store: Database, before: StoredRun, after: StoredRun) -> pa.Table:
    """Returns the number of triplets that both runs have, or only one; columns both, gone, new."""
    return store.table(
        """WITH a AS (SELECT query_id, positive_id, negative_id FROM triplets WHERE run_id = $before),
        b AS (SELECT query_id, positive_id, negative_id FROM triplets WHERE run_id = $after)
        SELECT (SELECT count(*) FROM (FROM a INTERSECT FROM b)) AS "both",
            (SELECT count(*) FROM (FROM a EXCEPT FROM b)) AS gone,
            (SELECT count(*) FROM (FROM b EXCEPT FROM a)) AS new""",
        {"before": before.run_id, "after": after.run_id},
    )
