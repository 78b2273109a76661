"""Language models that judge: which there are, every answer they gave, and how well they agree with people.

A pair is known by its texts, so that the same two texts are never sent to a judge twice, whatever their ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from miner.store.corpus import texts_by_id
from miner.store.database import Database
from miner.store.journal import Journal
from miner.store.ledger import KEY
from miner.store.runs import StoredRun
from miner.store.tables import GENERATED, GOLD, JUDGE, RELABELLED

RELEVANT = 2
"""The lowest grade that counts as relevant: 2 and 3, or `as good` and `better`."""
PAIR = "md5_number_lower(length(q.text) || ':' || q.text || d.text)"
"""SQL for the identity of a pair, over queries q and document_texts d."""


@dataclass(frozen=True)
class StoredJudge:
    """One row of `judges`."""

    judge: str
    """The first characters of its fingerprint."""
    name: str
    """The model's name: that of the last one in a cascade."""
    members: tuple[str, ...]
    """The judges whose answers it has, the one that counts first; only itself without a cascade."""
    settings: Mapping[str, Any]
    checked: Mapping[str, Any] | None
    """Its error on pairs with known relevance; None if it was not measured."""


def judge_of(
    store: Database, fingerprint: str, name: str, settings: Mapping[str, Any], members: Sequence[str] = ()
) -> StoredJudge:
    """Returns the judge with a fingerprint, which is stored if it is new and the store can be written to.

    `members` are those of a cascade; without any the judge has its own answers.
    """
    key = fingerprint[:KEY]
    new = StoredJudge(key, name, tuple(members) or (key,), dict(settings), None)
    if found := [one for one in judges(store) if one.judge == key]:
        return found[0]
    if not store.read_only:
        values = [key, name, list(new.members), json.dumps(settings, sort_keys=True)]
        store.execute("INSERT INTO judges VALUES (?, ?, ?, ?, NULL)", values)
    return new


def judges(store: Database) -> list[StoredJudge]:
    """Returns all judges, in the order in which they were first used."""
    rows = store.rows("SELECT judge, name, members, settings, checked FROM judges ORDER BY rowid")
    return [
        StoredJudge(key, name, tuple(members), json.loads(settings), checked and json.loads(checked))
        for key, name, members, settings, checked in rows
    ]


def checked_judges(store: Database, run: StoredRun) -> list[dict[str, Any]]:
    """Returns the measured errors of the judges of a run, JSON-able, each with its `name` in the run."""
    known = {one.judge: one.checked for one in judges(store)}
    return [
        {"name": one.name, **checked}
        for one in run.scorers
        if one.is_judge and (checked := known.get(str(one.model))) is not None
    ]


def keep_check(store: Database, judge: StoredJudge, checked: Mapping[str, Any]) -> None:
    """Stores the measured error of a judge."""
    store.execute(
        "UPDATE judges SET checked = ? WHERE judge = ?", [json.dumps(checked, sort_keys=True), judge.judge]
    )


def keep_waiting(store: Database, judge: StoredJudge, requests: pa.Table) -> None:
    """Stores what the requests of a batch are about: request, query_id, doc_ids, pairs."""
    store.insert("judge_answers", requests, judge=judge.judge)


def waiting(
    store: Database, judge: StoredJudge, requests: Sequence[str]
) -> dict[str, tuple[str, list[str], list[int]]]:
    """Returns those of some requests that have no answer: from a request to query_id, doc_ids, pairs."""
    rows = store.rows(
        """SELECT request, query_id, doc_ids, pairs FROM judge_answers
        WHERE judge = ? AND grades IS NULL AND request IN (SELECT unnest(?::VARCHAR[]))""",
        [judge.judge, list(requests)],
    )
    return {request: (query_id, doc_ids, pairs) for request, query_id, doc_ids, pairs in rows}


def journal_of(store: Database, judge: StoredJudge) -> Journal:
    """Returns what takes the answers of a judge as they come, as rows of `keep_answers`."""
    return Journal(store, "judge_answers", judge=judge.judge)


def keep_answers(store: Database, judge: StoredJudge, answers: pa.Table) -> None:
    """Stores answers at once: query_id, doc_ids, pairs, grades; and answer, failure and tokens, if any."""
    moment = datetime.now(UTC).replace(tzinfo=None)
    answers = answers.append_column("answered", pa.array([moment] * answers.num_rows, pa.timestamp("us")))
    store.insert("judge_answers", answers, judge=judge.judge)


def keep_batch(store: Database, judge: StoredJudge, blocks: Iterable[tuple[pa.Table, Sequence[str]]]) -> None:
    """Stores blocks of answers to a batch in one transaction, each with the requests that no longer wait."""
    with store.transaction():
        for answers, requests in blocks:
            store.execute(
                "DELETE FROM judge_answers WHERE grades IS NULL AND request IN (SELECT unnest(?::VARCHAR[]))",
                [list(requests)],
            )
            keep_answers(store, judge, answers)


@contextmanager
def _wanted(store: Database, rows: pa.Table) -> Iterator[None]:
    """Makes rows a temporary table `wanted`: query_id, doc_id, and pair if they have it."""
    kinds = {"query_id": "VARCHAR", "doc_id": "VARCHAR", "pair": "UBIGINT"}
    with store.transaction():
        columns = ", ".join(f"{name} {kinds[name]}" for name in rows.column_names)
        store.execute(f"CREATE TEMP TABLE wanted ({columns})")
        store.insert("wanted", rows)
        yield
        store.execute("DROP TABLE wanted")


def with_pairs(store: Database, ids: pa.Table) -> pa.Table:
    """Returns pairs (query_id, doc_id) whose texts the store has, each once, with the texts' identity.

    Columns query_id, doc_id, pair; ordered by ids.
    """
    with _wanted(store, ids.select(["query_id", "doc_id"])):
        return store.table(
            f"""SELECT DISTINCT query_id, doc_id, {PAIR} AS pair
            FROM wanted JOIN queries q USING (query_id) JOIN document_texts d USING (doc_id)
            WHERE trim(d.text) <> '' ORDER BY query_id, doc_id"""
        )


def unanswered(store: Database, judge: str, pairs: pa.Table, *, again: bool) -> pa.Table:
    """Returns the pairs (`with_pairs`) that a judge was not asked about, each text pair once.

    Columns query_id, doc_id, pair, query (a number of the query); by query_id and doc_id. Pairs in a request
    of a batch that waits for its answer are not among them. With `again` they are, and so are pairs without a
    grade.
    """
    which = "WHERE grade IS NOT NULL" if again else ""
    with _wanted(store, pairs):
        return store.table(
            f"""WITH known AS (
                SELECT pair FROM (SELECT unnest(pairs) AS pair, unnest(grades) AS grade
                    FROM judge_answers WHERE judge = $judge) {which})
            SELECT query_id, doc_id, pair, dense_rank() OVER (ORDER BY query_id) AS query
            FROM (FROM wanted ANTI JOIN known USING (pair)
                QUALIFY row_number() OVER (PARTITION BY pair ORDER BY query_id, doc_id) = 1)
            ORDER BY query_id, doc_id""",
            {"judge": judge},
        )


def without_answer(store: Database, judge: str, pairs: pa.Table) -> pa.Table:
    """Returns those of the pairs that have no answer of their own, while pairs with the same texts have one.

    `pairs` and the result have query_id, doc_id and pair; the result has the grade too.
    """
    with _wanted(store, pairs.select(["query_id", "doc_id", "pair"])):
        return store.table(
            """WITH known AS (
                SELECT query_id, unnest(doc_ids) AS doc_id, unnest(pairs) AS pair, unnest(grades) AS grade
                FROM judge_answers WHERE judge = ? AND grades IS NOT NULL)
            SELECT query_id, doc_id, pair, any_value(k.grade) AS grade FROM wanted w
            JOIN (SELECT pair, grade FROM known) k USING (pair)
            WHERE NOT EXISTS (FROM known o
                WHERE o.query_id = w.query_id AND o.doc_id = w.doc_id AND o.pair = w.pair)
            GROUP BY ALL ORDER BY query_id, doc_id""",
            [judge],
        )


def answer_counts(store: Database, members: Sequence[str]) -> dict[str, int]:
    """Returns how many answers judges gave: requests, pairs, unknown (pairs without a grade), tokens."""
    (row,) = store.table(
        """SELECT count(*) FILTER (answer IS NOT NULL OR failure IS NOT NULL) AS requests,
            coalesce(sum(len(pairs)), 0)::BIGINT AS pairs,
            coalesce(sum(len(list_filter(grades, lambda x: x IS NULL))), 0)::BIGINT AS unknown,
            coalesce(sum(tokens_in), 0)::BIGINT AS tokens_in,
            coalesce(sum(tokens_out), 0)::BIGINT AS tokens_out
        FROM judge_answers WHERE grades IS NOT NULL AND judge IN (SELECT unnest(?::VARCHAR[]))""",
        [list(members)],
    ).to_pylist()
    return dict(row)


def selected_pairs(store: Database, run: StoredRun) -> pa.Table:
    """Returns the distinct negatives of a run: query_id, doc_id, ordered."""
    return store.table(
        "SELECT DISTINCT query_id, negative_id AS doc_id FROM triplets WHERE run_id = ? ORDER BY ALL",
        [run.run_id],
    )


def positives_of(store: Database, run: StoredRun, query_ids: Sequence[str]) -> pa.Table:
    """Returns the positives of some queries in a run: query_id, doc_id, ordered."""
    return store.table(
        """SELECT query_id, doc_id FROM positives
        WHERE evidence = ? AND query_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY ALL""",
        [run.evidence, list(query_ids)],
    )


def positives_by_people(store: Database, run: StoredRun) -> pa.Table:
    """Returns the positives of a run that no model made: query_id, doc_id, ordered."""
    return store.table(
        f"""SELECT query_id, doc_id FROM positives p WHERE evidence = ? AND EXISTS (
            FROM {GOLD} j WHERE j.query_id = p.query_id AND j.doc_id = p.doc_id AND j.relevance > 0
            AND j.source NOT IN ('{RELABELLED}', '{JUDGE}', '{GENERATED}')) ORDER BY query_id, doc_id""",
        [run.evidence],
    )


def judged_negatives(store: Database, run: StoredRun) -> pa.Table:
    """Returns the pairs of a run's queries that are judged not relevant: query_id, doc_id, ordered."""
    return store.table(
        f"""SELECT DISTINCT query_id, doc_id FROM {GOLD} g
        WHERE relevance <= 0 AND query_id IN (SELECT query_id FROM positives WHERE evidence = ?)
            AND NOT EXISTS (FROM {GOLD} o WHERE o.query_id = g.query_id AND o.doc_id = g.doc_id
                AND o.relevance > 0)
        ORDER BY ALL""",
        [run.evidence],
    )


def query_count(store: Database, run: StoredRun) -> int:
    """Returns the number of queries of a run's evidence; they are numbered from 0."""
    ((last,),) = store.rows("SELECT max(query_no) FROM pools WHERE evidence = ?", [run.evidence])
    return 0 if last is None else int(last) + 1


def pooled_ids(store: Database, run: StoredRun) -> list[str]:
    """Returns the ids of the documents that are candidates of a run, ordered."""
    rows = store.rows("SELECT doc_id FROM pool_documents WHERE evidence = ? ORDER BY doc_id", [run.evidence])
    return [doc_id for (doc_id,) in rows]


def texts(
    store: Database, query_ids: Sequence[str], doc_ids: Sequence[str], characters: int
) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the texts of some queries and documents by id.

    A document's text begins with its title, and is cut after so many characters.
    """
    queries = texts_by_id(store, "queries", query_ids)
    documents = texts_by_id(store, "document_texts", doc_ids, [f"left(text, {characters:d})"])
    return {one: text for one, (text,) in queries.items()}, {one: text for one, (text,) in documents.items()}


_GRADES = f"""(SELECT query_id, doc_id, pair, grade FROM (
        SELECT a.query_id, unnest(a.doc_ids) AS doc_id, unnest(a.pairs) AS pair, unnest(a.grades) AS grade,
            list_position($members, a.judge) AS place
        FROM judge_answers a WHERE a.grades IS NOT NULL AND a.judge IN (SELECT unnest($members::VARCHAR[])))
    JOIN queries q USING (query_id) JOIN document_texts d USING (doc_id)
    WHERE pair = {PAIR}
    QUALIFY row_number() OVER (PARTITION BY query_id, doc_id ORDER BY place, grade IS NULL) = 1
        AND (place = 1 OR grade < {RELEVANT}))"""
"""SQL for the grades of a judge with these members: query_id, doc_id, pair, grade (null: not readable).

The last model of a cascade that was asked counts. A pair that an earlier one found relevant, or did not
grade, has none until the last one was asked. Answers about texts that have changed since do not count."""


def graded_candidates(store: Database, run: StoredRun, judge: StoredJudge) -> pa.Table:
    """Returns the candidates of a run that a judge was asked about: query_no, fused_rank, grade; ordered."""
    return store.table(
        f"""SELECT c.query_no, c.fused_rank, g.grade FROM (
            SELECT query_no, query_id, unnest(doc_nos) AS doc_no,
                generate_subscripts(doc_nos, 1) AS fused_rank
            FROM pools WHERE evidence = $evidence) c
        JOIN pool_documents p ON p.evidence = $evidence AND p.doc_no = c.doc_no
        JOIN {_GRADES} g ON g.query_id = c.query_id AND g.doc_id = p.doc_id
        ORDER BY c.query_no, c.fused_rank""",
        {"evidence": run.evidence, "members": list(judge.members)},
    )


def graded_positives(store: Database, run: StoredRun, judge: StoredJudge) -> pa.Table:
    """Returns all positives of a run with a judge's grade, null without one: query_no, seen, grade.

    Ordered by query_no and doc_id; `seen` says whether the judge was asked.
    """
    return store.table(
        f"""SELECT p.query_no, g.doc_id IS NOT NULL AS seen, g.grade
        FROM positives p LEFT JOIN {_GRADES} g USING (query_id, doc_id)
        WHERE p.evidence = $evidence ORDER BY p.query_no, p.doc_id""",
        {"evidence": run.evidence, "members": list(judge.members)},
    )


def grades_of(store: Database, judge: StoredJudge, ids: pa.Table) -> pa.Table:
    """Returns a judge's grades of pairs (query_id, doc_id): those that it was asked about, ordered.

    Columns query_id, doc_id, pair, grade (null: its answer cannot be read).
    """
    with _wanted(store, ids.select(["query_id", "doc_id"])):
        return store.table(
            f"SELECT query_id, doc_id, pair, grade FROM {_GRADES} SEMI JOIN wanted USING (query_id, doc_id) "
            "ORDER BY query_id, doc_id",
            {"members": list(judge.members)},
        )


def relevant_pairs(store: Database, run: StoredRun, judge: StoredJudge, least: int) -> pa.Table:
    """Returns the candidates of a run with at least this grade: query_id, doc_id, known; ordered.

    `known` says that the pair has a judgment already, of any split, other than a silver one.
    """
    return store.table(
        f"""SELECT query_id, doc_id, EXISTS (FROM {GOLD} j
                WHERE j.query_id = g.query_id AND j.doc_id = g.doc_id) AS known
        FROM {_GRADES} g SEMI JOIN (
            SELECT query_id, doc_id FROM (
                SELECT query_id, unnest(doc_nos) AS doc_no FROM pools WHERE evidence = $evidence)
            JOIN (SELECT doc_no, doc_id FROM pool_documents WHERE evidence = $evidence) USING (doc_no)
        ) USING (query_id, doc_id) WHERE grade >= $least ORDER BY query_id, doc_id""",
        {"evidence": run.evidence, "members": list(judge.members), "least": least},
    )
