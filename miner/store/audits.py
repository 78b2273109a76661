"""What an audit reads and stores: which positives can be hidden, weak positives, results and calibrations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from miner.arrays import as_numpy, flat, in_order, owners
from miner.schema import KEPT, Reason
from miner.store.codes import decoded
from miner.store.corpus import by_text
from miner.store.database import Database
from miner.store.evidence import COPIES, candidate_scores, positive_scores
from miner.store.runs import StoredRun
from miner.store.scorers import Scorer
from miner.store.tables import GOLD, JUDGE, RELABELLED

CANNOT_HIDE = {
    "only": "because their query has no other",
    "alone": "because the run has no other",
    "gone": "no longer judged",
    "relabelled": "judged by miner relabel, not by people",
    "trained": "because a model of the run was trained on them",
    "same_text": "because their query's text has several ids",
    "label": "because a label, not a judgment, makes them positives",
    "other_split": "because another split has them too",
    "not_withheld": "not withheld from training",
    "not_scored": "without a finite score",
}
"""Why a positive cannot be hidden; the first reason that applies. Only `miner loop` uses `not_withheld`, only
`miner relabel` uses `only`."""

_CALIBRATED = "calibrated"
"""The key of `meta` with the rules that `miner calibrate` chose, and the evidence that it chose them on."""

FOLLOWS_POSITIVES = (str(Reason.JUDGED_POSITIVE), *COPIES)
"""Exclusions that would end if fewer positives were known."""

_BY_PEOPLE = f"(SELECT * FROM {GOLD} WHERE source NOT IN ('{RELABELLED}', '{JUDGE}'))"

_KNOWN = f"""SELECT query_id, doc_id FROM ({by_text(_BY_PEOPLE)}) WHERE relevance > 0
        AND query_id IN (SELECT query_id FROM positives WHERE evidence = $evidence)
    UNION SELECT query_id, doc_id FROM positives WHERE evidence = $evidence"""
"""SQL for the positives of the queries of `$evidence` in any split. A relabelled positive is there only if
the evidence was gathered on it."""


def queries_to_hide(store: Database, run: StoredRun) -> pa.Table:
    """Returns the queries of a run with positives, ordered by query_id.

    They have the columns of `corpus.queries` and query_no, which has the same order. Labels are null, since a
    positive that a label makes relevant cannot be hidden.
    """
    return store.table(
        """SELECT query_id, text, text_key, NULL::VARCHAR AS label, query_no FROM queries
        JOIN (SELECT DISTINCT query_no, query_id FROM positives WHERE evidence = $evidence) USING (query_id)
        ORDER BY query_id""",
        {"evidence": run.evidence},
    )


def known_positives_of_run(store: Database, run: StoredRun) -> pa.Table:
    """Returns the known positives of the run's queries in any split: query_id, doc_id.

    It differs from `corpus.known_positives` in relabelled positives: only those that the run was mined on.
    """
    return store.table(f"{_KNOWN} ORDER BY query_id, doc_id", {"evidence": run.evidence})


def positives_to_hide(store: Database, run: StoredRun) -> pa.Table:
    """Returns all positives of a run's evidence, ordered by query_no and doc_id, with what prevents hiding.

    Columns query_no, query_id, doc_id, cannot_hide: a key of CANNOT_HIDE, null if the positive can be hidden.
    A model counts as trained on a pair if the store records a training pair of the same two texts, or of
    copies of them.
    """
    return store.table(
        f"""WITH alike AS (
            SELECT 'queries' AS role, query_id AS id, 'text ' || text_key AS key FROM queries
            UNION ALL SELECT 'documents', doc_id, unnest(['text ' || text_key, 'passage ' || passage_key])
            FROM document_texts
            UNION ALL SELECT role, id, 'cluster ' || cluster FROM duplicates),
        same AS (
            SELECT DISTINCT a.role, a.id, b.id AS other FROM alike a JOIN alike b USING (role, key)
            WHERE a.id IN (SELECT unnest([query_id, doc_id]) FROM training_positives
                WHERE model IN (SELECT unnest($models::VARCHAR[])))),
        trained AS (
            SELECT DISTINCT q.other AS query_id, d.other AS doc_id FROM training_positives t
            JOIN same q ON q.role = 'queries' AND q.id = t.query_id
            JOIN same d ON d.role = 'documents' AND d.id = t.doc_id
            WHERE t.model IN (SELECT unnest($models::VARCHAR[]))),
        judged AS (SELECT DISTINCT query_id, doc_id, split FROM {GOLD} WHERE relevance > 0),
        sources AS (SELECT query_id, doc_id, bool_or(source NOT IN ('{RELABELLED}', '{JUDGE}')) AS people
            FROM {GOLD} GROUP BY ALL),
        elsewhere AS (SELECT DISTINCT query_id, doc_id FROM judged WHERE split <> $split),
        shared AS (
            SELECT text_key FROM queries WHERE query_id IN (SELECT query_id FROM judged)
            GROUP BY text_key HAVING count(*) > 1)
        SELECT p.query_no, p.query_id, p.doc_id,
            CASE WHEN g.doc_id IS NULL THEN 'gone'
                WHEN NOT g.people THEN '{RELABELLED}'
                WHEN t.doc_id IS NOT NULL THEN 'trained'
                WHEN s.text_key IS NOT NULL THEN 'same_text'
                WHEN q.label = d.label THEN 'label'
                WHEN e.doc_id IS NOT NULL THEN 'other_split' END AS cannot_hide
        FROM positives p JOIN queries q USING (query_id) JOIN documents d USING (doc_id)
        LEFT JOIN trained t ON t.query_id = p.query_id AND t.doc_id = p.doc_id
        LEFT JOIN shared s ON s.text_key = q.text_key
        LEFT JOIN sources g ON g.query_id = p.query_id AND g.doc_id = p.doc_id
        LEFT JOIN elsewhere e ON e.query_id = p.query_id AND e.doc_id = p.doc_id
        WHERE p.evidence = $evidence ORDER BY p.query_no, p.doc_id""",
        {
            "models": run.models,
            "split": run.split,
            "evidence": run.evidence,
        },
    )


def weak_positives(store: Database, run: StoredRun) -> pa.Table:
    """Returns the positives that score below all negatives of their query, by every scorer that scored both.

    A positive that no scorer can compare with a negative is not among them.
    Columns as in the view `weak_positives`, ordered by query_id and doc_id.
    """
    query = "SELECT * FROM weak_positives WHERE run = ? ORDER BY query_id, doc_id"
    # With that optimizer, DuckDB 2.0 ends this with an internal error over 100 million candidates.
    return store.table(query, [run.name], without="build_side_probe_side")


def weak_positive_count(store: Database, run: StoredRun, numbers: range) -> int:
    """Returns the number of `weak_positives` of the queries with these numbers."""
    decided, owned = (
        in_order(store.table(f"SELECT {columns} = ? AND query_no >= ? AND query_no < ?", values), "query_no")
        for columns, values in (
            ("query_no, codes FROM decisions WHERE run_id", [run.run_id, numbers.start, numbers.stop]),
            ("query_no FROM positives WHERE evidence", [run.evidence, numbers.start, numbers.stop]),
        )
    )
    if not decided.num_rows:  # nothing is decided yet
        return 0
    decided = decoded(decided)
    query, owner = owners(decided, "codes") - numbers.start, as_numpy(owned["query_no"]) - numbers.start
    negative = as_numpy(flat(decided["codes"])) < KEPT
    compared, weak = np.zeros(len(owner), dtype=np.bool_), np.ones(len(owner), dtype=np.bool_)
    for scorer in run.scorers:
        score, own = (
            candidate_scores(store, run, scorer, numbers),
            positive_scores(store, run, scorer, numbers),
        )
        if not len(score):  # a reranker that scored nothing here
            continue
        lowest = np.full(len(numbers), np.inf)
        rows = np.flatnonzero(negative & np.isfinite(score))
        np.minimum.at(lowest, query[rows], score[rows])
        both = np.isfinite(own) & np.isfinite(lowest[owner])
        compared |= both
        weak &= ~both | (own < lowest[owner])
    return int((compared & weak).sum())


def record_calibration(
    store: Database, run: StoredRun, decider: Scorer, rules: Mapping[str, Any], rate: Mapping[str, Any]
) -> None:
    """Records that rules were chosen on the positives of a run; replaces an older record of the same.

    `decider` is the scorer whose scores the rules look at, `rate` the hidden-positive rate on the queries
    that were not used to choose them.
    """
    note = {**_decided_by(run, decider), "rules": dict(rules)}
    kept = [
        one
        for one in store.meta(_CALIBRATED) or []
        if any(one.get(name) != value for name, value in note.items())
    ]
    with store.transaction():
        store.set_meta(_CALIBRATED, [*kept, {**note, "run": run.name, "hidden_positive_rate": dict(rate)}])


def calibrated_on(store: Database, run: StoredRun) -> dict[str, Any] | None:
    """Returns the `run` on whose positives these rules were chosen, and their `hidden_positive_rate`.

    The rate is that of the queries that were not used to choose the rules. It is None if the candidates of
    that run were retrieved, scored or selected in another way than this run's. Returns None if no calibration
    chose these rules.
    """
    rules, split = run.config["rules"], run.split
    notes = [one for one in store.meta(_CALIBRATED) or [] if (one["rules"], one["split"]) == (rules, split)]
    decided = _decided_by(run, run.deciding)
    same = [one for one in notes if all(one[name] == value for name, value in decided.items())]
    if same:
        return {"run": same[-1]["run"], "hidden_positive_rate": same[-1]["hidden_positive_rate"]}
    return {"run": notes[-1]["run"], "hidden_positive_rate": None} if notes else None


_FRONTIERS = "frontiers"
"""The key of `meta` with the frontier of each run's last calibration, by run_id."""


def keep_frontier(store: Database, run: StoredRun, frontier: Mapping[str, Any]) -> None:
    """Stores the frontier that a calibration of a run found, JSON-able; replaces an older one of that run.

    A run_id is a fingerprint: the frontier is still that of the run if it is removed and mined again.
    """
    with store.transaction():
        store.set_meta(_FRONTIERS, {**(store.meta(_FRONTIERS) or {}), run.run_id: dict(frontier)})


def frontier_of_run(store: Database, run: StoredRun) -> dict[str, Any] | None:
    """Returns the frontier of a run's last calibration, as `calibrate.frontier_facts`; None without one."""
    found: dict[str, Any] | None = (store.meta(_FRONTIERS) or {}).get(run.run_id)
    return found


def _decided_by(run: StoredRun, decider: Scorer) -> dict[str, Any]:
    """Returns everything that verdicts on a run's candidates depend on, except the rules."""
    return {
        "split": run.split,
        "evidence": run.evidence,
        "decider": [decider.name, decider.model],
        "selection": run.config["selection"],
    }


def keep_audit(
    store: Database, run: StoredRun, settings: Mapping[str, Any], result: Mapping[str, Any]
) -> None:
    """Stores an audit's result; replaces an older result of the same run and settings."""
    key = json.dumps(settings, sort_keys=True)
    with store.transaction():
        store.execute("DELETE FROM audits WHERE run_id = ? AND settings = ?", [run.run_id, key])
        store.execute(
            "INSERT INTO audits VALUES (?, ?, ?, now() AT TIME ZONE 'UTC')",
            [run.run_id, key, json.dumps(result)],
        )


def last_audit(store: Database, run: StoredRun) -> dict[str, Any] | None:
    """Returns the result of a run's latest audit; None without one."""
    rows = store.rows(
        "SELECT result FROM audits WHERE run_id = ? ORDER BY finished DESC, settings LIMIT 1", [run.run_id]
    )
    return dict(json.loads(rows[0][0])) if rows else None
