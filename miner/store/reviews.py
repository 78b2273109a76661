"""Reviews: what people answered on the page of `miner review`, a row for every press, and what they saw.

Rows are only added. The view `answers` has the current answer of each reviewer to each pair: the latest row,
unless that row says that the answer was undone. An answer belongs to a pair, and outlives the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import as_numpy, flat, in_order, numbered
from miner.schema import CANDIDATES_PER_QUERY, KEPT, SUSPECTED
from miner.store.corpus import texts_by_id
from miner.store.database import Database
from miner.store.labels import PERSON
from miner.store.runs import StoredRun
from miner.store.scorers import Scorer
from miner.store.tables import GOLD

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RELEVANT, NOT_RELEVANT, UNSURE, UNDONE = "relevant", "not relevant", "unsure", "undone"
ANSWERS = (RELEVANT, NOT_RELEVANT, UNSURE)
"""What a person can answer."""


def majority(relevant: int, not_relevant: int) -> str | None:
    """Returns RELEVANT or NOT_RELEVANT if more reviewers answered it than the other, else None."""
    return None if relevant == not_relevant else RELEVANT if relevant > not_relevant else NOT_RELEVANT


def majority_of(answers: Sequence[str]) -> str | None:
    """Returns `majority` of the answers of all reviewers to one pair; unsure ones do not count."""
    return majority(answers.count(RELEVANT), answers.count(NOT_RELEVANT))


CHOSEN, RANDOM, SAMPLE = "chosen", "random", "sample"
"""Why a pair is shown: for its high chance of being relevant, at random, or for the sample of an audit."""
ORIGIN = "miner review"
"""The origin of labels that come from answers."""


@dataclass(frozen=True)
class Press:
    """One answer that a person pressed, or UNDONE."""

    query_id: str
    doc_id: str
    answer: str
    reviewer: str
    stratum: str
    seconds: float
    """How long the pair was shown."""


def add_presses(store: Database, run: StoredRun, presses: Sequence[Press]) -> None:
    """Appends answers to `reviews` and updates the labels of their pairs, in one transaction.

    A pair of a sample that `miner audit --label` drew gets a label if the reviewers agree on it, or most
    do; it loses that label when they no longer do.
    """
    moment = datetime.now(UTC).replace(tzinfo=None)
    with store.transaction():
        ((last,),) = store.rows("SELECT coalesce(max(number), 0) FROM reviews")
        # As lists, since `pa.array` imports pandas, for which the first press would wait.
        store.execute(
            """INSERT INTO reviews
                (number, run_id, query_id, doc_id, answer, reviewer, stratum, seconds, answered)
            SELECT unnest(range(?, ?)), ?, unnest(?::VARCHAR[]), unnest(?::VARCHAR[]),
                unnest(?::VARCHAR[]), unnest(?::VARCHAR[]), unnest(?::VARCHAR[]), unnest(?::DOUBLE[]), ?""",
            [
                last + 1,
                last + 1 + len(presses),
                run.run_id,
                *(
                    [getattr(one, name) for one in presses]
                    for name in ("query_id", "doc_id", "answer", "reviewer", "stratum", "seconds")
                ),
                moment,
            ],
        )
        _keep_labels(store, list({(one.query_id, one.doc_id): None for one in presses}), moment)


def _keep_labels(store: Database, pairs: list[tuple[str, str]], moment: datetime) -> None:
    """Makes the labels of sampled pairs follow their answers; a label that says the same stays as it is."""
    sampled = store.rows(
        f"""WITH pairs AS (
            SELECT * FROM (SELECT unnest(?::VARCHAR[]) AS query_id, unnest(?::VARCHAR[]) AS doc_id)
            SEMI JOIN sampled USING (query_id, doc_id)),
        latest AS (
            SELECT query_id, doc_id, reviewer, arg_max(answer, number) AS answer
            FROM reviews SEMI JOIN pairs USING (query_id, doc_id) GROUP BY ALL),
        votes AS (
            SELECT query_id, doc_id, count(*) FILTER (answer = '{RELEVANT}') AS relevant,
                count(*) FILTER (answer = '{NOT_RELEVANT}') AS not_relevant
            FROM latest GROUP BY ALL)
        SELECT query_id, doc_id, relevant, not_relevant, l.relevance, l.origin
        FROM pairs JOIN votes USING (query_id, doc_id) LEFT JOIN labels l USING (query_id, doc_id)""",
        [[query for query, _ in pairs], [doc for _, doc in pairs]],
    )
    for query_id, doc_id, relevant, not_relevant, known, origin in sampled:
        said = majority(relevant, not_relevant)
        if said is None:
            if origin == ORIGIN:
                store.execute("DELETE FROM labels WHERE query_id = ? AND doc_id = ?", [query_id, doc_id])
            continue
        relevance = float(said == RELEVANT)
        if known is not None and (known > 0) == (relevance > 0):
            continue
        store.execute("DELETE FROM labels WHERE query_id = ? AND doc_id = ?", [query_id, doc_id])
        store.execute(
            "INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?)",
            [query_id, doc_id, relevance, PERSON, ORIGIN, moment],
        )


def answers(store: Database) -> pa.Table:
    """Returns the current answers, the oldest first: the columns of the view `answers`."""
    return store.table("SELECT * FROM answers ORDER BY number")


def reviewers(store: Database) -> list[str]:
    """Returns the names of all reviewers with an answer, in order."""
    return [name for (name,) in store.rows("SELECT DISTINCT reviewer FROM answers ORDER BY reviewer")]


def votes(store: Database, run: StoredRun) -> pa.Table:
    """Returns how many reviewers answered what to each pair of a run's queries, in order.

    Columns query_id, doc_id, relevant, not_relevant, unsure. A pair whose document is no longer in the store
    is left out.
    """
    return store.table(
        f"""SELECT query_id, doc_id, count(*) FILTER (answer = '{RELEVANT}') AS relevant,
            count(*) FILTER (answer = '{NOT_RELEVANT}') AS not_relevant,
            count(*) FILTER (answer = '{UNSURE}') AS unsure
        FROM answers SEMI JOIN documents USING (doc_id)
        SEMI JOIN (FROM positives WHERE evidence = ?) USING (query_id)
        GROUP BY ALL ORDER BY query_id, doc_id""",
        [run.evidence],
    )


def judged_pairs(store: Database) -> set[tuple[str, str]]:
    """Returns the answered pairs that have a judgment of any split, other than a silver one."""
    return set(
        store.rows(f"SELECT DISTINCT query_id, doc_id FROM answers SEMI JOIN {GOLD} USING (query_id, doc_id)")
    )


def reviewable(store: Database, run: StoredRun) -> pa.Table:
    """Returns the suspected positives that nobody judged and the selected negatives of a run, in order.

    Columns candidate, query_id, doc_id, is_suspected.
    """
    # The views would join every candidate of the run: most are neither.
    return store.table(
        f"""WITH coded AS (
            SELECT query_no, generate_subscripts(codes, 1) AS fused_rank, unnest(codes) AS code
            FROM decision_codes WHERE run_id = $run_id),
        picked AS (
            SELECT query_no, fused_rank, code >= {SUSPECTED} AS is_suspected FROM coded
            WHERE code < {KEPT} OR code >= {SUSPECTED}),
        found AS (
            SELECT c.query_no::BIGINT * {CANDIDATES_PER_QUERY} + c.fused_rank AS candidate, p.query_id,
                p.doc_nos[c.fused_rank] AS doc_no, c.is_suspected
            FROM picked c JOIN pools p ON p.evidence = $evidence AND p.query_no = c.query_no)
        SELECT candidate, query_id, doc_id, is_suspected
        FROM found JOIN (FROM pool_documents WHERE evidence = $evidence) USING (doc_no)
        WHERE NOT is_suspected OR (query_id, doc_id) NOT IN (SELECT (query_id, doc_id) FROM {GOLD})
        ORDER BY candidate""",
        {"evidence": run.evidence, "run_id": run.run_id},
    )


def scores_of(store: Database, run: StoredRun, scorer: Scorer) -> tuple[Ints, Floats]:
    """Returns the numbers of the candidates that a scorer saw, in order, and its scores; NaN without one."""
    table = store.table(
        "SELECT query_no, scores FROM scored WHERE evidence = ? AND scorer = ?",
        [run.scored_by(scorer), scorer.number],
    )
    table = in_order(table, "query_no")
    score = np.asarray(as_numpy(flat(table["scores"])), dtype=np.float64)
    return numbered(table, "scores", CANDIDATES_PER_QUERY), score


def query_text(store: Database, query_id: str) -> str:
    """Returns the text of a query; empty if it is no longer in the store."""
    (text,) = texts_by_id(store, "queries", [query_id]).get(query_id, ("",))
    return str(text)


def documents_of(store: Database, doc_ids: Sequence[str]) -> list[tuple[str, str, str]]:
    """Returns documents (doc_id, title, text) in the given order; texts that are gone are empty."""
    known = texts_by_id(store, "documents", doc_ids, ["title", "text"])
    return [(doc_id, *known.get(doc_id, ("", ""))) for doc_id in doc_ids]


def positive_ids(store: Database, run: StoredRun, candidate: int) -> list[str]:
    """Returns the ids of the positives of a candidate's query, in order."""
    rows = store.rows(
        "SELECT doc_id FROM positives WHERE evidence = ? AND query_no = ? ORDER BY doc_id",
        [run.evidence, candidate // CANDIDATES_PER_QUERY],
    )
    return [doc_id for (doc_id,) in rows]


@dataclass(frozen=True)
class Machine:
    """What a run says about a candidate."""

    verdict: str
    """`selected`, `suspected` or `kept`."""
    reason: str | None
    scores: list[dict[str, Any]]
    """For each scorer: scorer, score, rank, and the lowest and highest score of the query's positives."""


def machine(store: Database, run: StoredRun, candidate: int) -> Machine:
    """Returns the verdict, the reason and the scores of a candidate; nothing is read for other queries."""
    query, rank = divmod(candidate, CANDIDATES_PER_QUERY)
    ((code, reason),) = store.rows(
        f"""SELECT code,
            CASE WHEN code > {KEPT} THEN enum_range(NULL::reason)[code % {SUSPECTED} + 1]::VARCHAR END
        FROM (SELECT codes[?] AS code FROM decision_codes WHERE run_id = ? AND query_no = ?)""",
        [rank, run.run_id, query],
    )
    verdict = "suspected" if code > KEPT else "kept" if code == KEPT else "selected"
    scores = []
    for scorer in run.scorers:
        rows = store.rows(
            """SELECT scores[$rank], ranks[$rank], list_min(known), list_max(known)
            FROM (SELECT *, list_filter(positives, lambda one: isfinite(one)) AS known FROM scored
                WHERE evidence = $evidence AND query_no = $query AND scorer = $scorer)""",
            {"rank": rank, "evidence": run.scored_by(scorer), "query": query, "scorer": scorer.number},
        )
        if rows and rows[0][0] is not None:
            score, position, low, high = rows[0]
            scores.append({"scorer": scorer.name, "score": score, "rank": position, "low": low, "high": high})
    return Machine(verdict, reason, scores)


def containing(store: Database, text: str) -> tuple[set[str], set[str]]:
    """Returns the ids of the queries and of the documents whose text, title or id contains a text."""
    wanted = {"text": text}
    queries = store.rows(
        "SELECT query_id FROM queries WHERE query_id = $text OR contains(lower(text), lower($text))", wanted
    )
    documents = store.rows(
        """SELECT doc_id FROM documents
        WHERE doc_id = $text OR contains(lower(title), lower($text))
            OR contains(lower(text), lower($text))""",
        wanted,
    )
    return {one for (one,) in queries}, {one for (one,) in documents}


def pair_texts(store: Database, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Returns the query, the title and the text of each pair (query_id, doc_id), in the given order."""
    return store.rows(
        """SELECT coalesce(q.text, ''), coalesce(d.title, ''), coalesce(d.text, '')
        FROM (SELECT unnest(?::VARCHAR[]) AS query_id, unnest(?::VARCHAR[]) AS doc_id,
            unnest(range(?)) AS position) p
        LEFT JOIN queries q USING (query_id) LEFT JOIN documents d USING (doc_id) ORDER BY position""",
        [[query for query, _ in pairs], [doc for _, doc in pairs], len(pairs)],
    )


def known_pairs(store: Database, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Returns the pairs whose query and document are in the store."""
    return set(
        store.rows(
            """SELECT query_id, doc_id
            FROM (SELECT unnest(?::VARCHAR[]) AS query_id, unnest(?::VARCHAR[]) AS doc_id)
            SEMI JOIN queries USING (query_id) SEMI JOIN documents USING (doc_id)""",
            [[query for query, _ in pairs], [doc for _, doc in pairs]],
        )
    )
