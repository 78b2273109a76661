"""What the report of a run counts, aggregated in SQL: no result has a row per candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from miner.schema import CODES, FREE, KEPT, SUSPECTED, Reason
from miner.store.database import Database
from miner.store.labels import StoredSample
from miner.store.runs import StoredRun
from miner.store.scorers import Scorer
from miner.store.tables import GOLD

TEXT_SHOWN = 2000
"""The most characters of a text that are read for an example."""


@dataclass(frozen=True)
class TextLengths:
    """How long the texts of one role are, in characters."""

    role: str
    """`documents` (with their titles) or `queries`."""
    texts: int
    empty: int
    median: float
    long: float
    """95 % of the texts are at most this long."""
    longest: int


def text_lengths(store: Database) -> list[TextLengths]:
    """Returns the lengths of all documents and of all queries; nothing for a role without texts."""
    rows = store.rows(
        """SELECT role, count(*), count(*) FILTER (size = 0), quantile_cont(size, 0.5),
            quantile_cont(size, 0.95), max(size)
        FROM (SELECT 'documents' AS role, length(text) AS size FROM document_texts
            UNION ALL SELECT 'queries', length(text) FROM queries)
        GROUP BY role ORDER BY role"""
    )
    return [TextLengths(*row) for row in rows]


def positives_per_query(store: Database, run: StoredRun) -> list[tuple[int, int]]:
    """Returns (number of positives, queries of the run with so many), ascending."""
    return store.rows(
        """SELECT number, count(*) FROM (
            SELECT count(*) AS number FROM positives WHERE evidence = ? GROUP BY query_no)
        GROUP BY number ORDER BY number""",
        [run.evidence],
    )


def rejected_rows(store: Database) -> list[tuple[str, int]]:
    """Returns (reason, rows) of the rows that ingest left out, the most frequent first."""
    return store.rows(
        "SELECT reason, count(*) FROM rejected GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 20"
    )


@dataclass(frozen=True)
class FoundBy:
    """The candidates that the same retrievers found."""

    scorers: tuple[str, ...]
    """The names of those retrievers, in the order of the run."""
    candidates: int
    positives: int
    """How many of the candidates are judged relevant to their query, in any split."""


def found_by(store: Database, run: StoredRun) -> list[FoundBy]:
    """Returns the candidates of a run by the retrievers that found them, the largest group first."""
    retrievers = run.retrievers
    joins = "\n".join(
        f"LEFT JOIN (SELECT query_no, ranks FROM scored WHERE evidence = $evidence AND scorer = $s{n}) r{n}"
        " USING (query_no)"
        for n in range(len(retrievers))
    )
    ranks = "".join(f", unnest(r{n}.ranks) AS rank{n}" for n in range(len(retrievers)))
    flags = ", ".join(f"rank{n} IS NOT NULL AS found{n}" for n in range(len(retrievers)))
    rows = store.rows(
        f"""SELECT {flags}, count(*), count(*) FILTER (exclusion = {CODES[Reason.JUDGED_POSITIVE]})
        FROM (SELECT unnest(p.exclusions) AS exclusion{ranks}
            FROM (SELECT query_no, exclusions FROM pools WHERE evidence = $evidence) p {joins})
        GROUP BY ALL""",
        {"evidence": run.evidence} | {f"s{n}": one.number for n, one in enumerate(retrievers)},
    )
    groups = [
        FoundBy(tuple(one.name for one, found in zip(retrievers, row[:-2], strict=True) if found), *row[-2:])
        for row in rows
    ]
    return sorted(groups, key=lambda one: (-one.candidates, one.scorers))


def scored_counts(store: Database, run: StoredRun) -> dict[int, int]:
    """Returns the number of candidates to which each scorer, by its number, gave a finite score."""
    rows = store.rows(
        """SELECT scorer, count(*) FILTER (isfinite(score))
        FROM (SELECT scorer, unnest(scores) AS score FROM scored
            WHERE evidence IN (SELECT unnest($keys::VARCHAR[]))) GROUP BY scorer""",
        {"keys": _keys(run)},
    )
    return dict(rows)


def _keys(run: StoredRun) -> list[str]:
    """Returns the keys of the rows in `scored` with the scores of a run's scorers."""
    return sorted({key for one in run.scorers if (key := run.scored_by(one)) is not None})


GROUPS = ("positives", "selected", "kept", "dropped")
"""Whose scores a histogram shows: the positives, and the candidates that nothing excludes, by verdict."""

_VERDICT = f"""CASE WHEN code < {KEPT} THEN 'selected' WHEN code = {KEPT} THEN 'kept' ELSE 'dropped' END"""
_BY_GROUP = f"""SELECT 'positives' AS kind, unnest(positives) AS score FROM scored
        WHERE evidence = $scored AND scorer = $scorer
    UNION ALL SELECT {_VERDICT}, score FROM (
        SELECT unnest(d.codes) AS code, unnest(p.exclusions) AS exclusion, unnest(c.scores) AS score
        FROM decision_codes d JOIN pools p ON p.evidence = $evidence AND p.query_no = d.query_no
        JOIN scored c ON c.evidence = $scored AND c.scorer = $scorer AND c.query_no = d.query_no
        WHERE d.run_id = $run_id) WHERE exclusion = {FREE}"""
"""SQL for the finite deciding scores of each of GROUPS."""


@dataclass(frozen=True)
class ScoreBins:
    """How many positives and candidates score in each of several equal ranges."""

    low: float
    high: float
    """The lowest and the highest score of all."""
    counts: dict[str, tuple[int, ...]]
    """By group (GROUPS), the number in each range, ascending."""
    medians: dict[str, float]
    """By group with any score, the median."""


def score_bins(store: Database, run: StoredRun, bins: int) -> ScoreBins | None:
    """Returns the distribution of the deciding scores of a run; None if no pair has a finite score."""
    decider = run.deciding
    values: dict[str, Any] = {
        "evidence": run.evidence,
        "scored": run.scored_by(decider),
        "scorer": decider.number,
        "run_id": run.run_id,
    }
    ends = store.rows(
        f"SELECT kind, min(score), max(score), median(score) FROM ({_BY_GROUP}) WHERE isfinite(score) "
        "GROUP BY kind",
        values,
    )
    if not ends:
        return None
    low, high = min(row[1] for row in ends), max(row[2] for row in ends)
    rows = store.rows(
        f"""SELECT kind, least($bins - 1, floor((score - $low) / $width * $bins))::INTEGER AS bin, count(*)
        FROM ({_BY_GROUP}) WHERE isfinite(score) GROUP BY ALL""",
        values | {"bins": bins, "low": low, "width": (high - low) or 1.0},
    )
    counts = {group: [0] * bins for group in GROUPS}
    for group, number, count in rows:
        counts[group][number] = count
    return ScoreBins(
        low,
        high,
        {group: tuple(column) for group, column in counts.items()},
        {group: median for group, _, _, median in ends},
    )


@dataclass(frozen=True)
class Example:
    """A candidate of a query beside one of the query's positives, with all scores."""

    query_id: str
    query: str | None
    """The first TEXT_SHOWN characters; None if the store no longer has the text. So in the other texts."""
    query_size: int
    """Characters of the whole text; 0 without it."""
    positive_id: str
    positive: str | None
    positive_size: int
    doc_id: str
    document: str | None
    document_size: int
    why: str
    """`selected`, or the rule that dropped it."""
    scores: tuple[tuple[str, int | None, float | None, float | None], ...]
    """By scorer: its name, its rank and score of the candidate, and its score of the positive."""


def suspects(store: Database, run: StoredRun, most: int) -> list[Example]:
    """Returns the suspected candidates that nobody judged and that score highest above the best positive.

    At most one of a query, and `most` in all; the positive is the query's best-scored one.
    """
    return _examples(store, run, most, "code >= $suspected", "list_max", {"suspected": SUSPECTED})


def hardest(store: Database, run: StoredRun, most: int) -> list[Example]:
    """Returns the negatives that score closest to the lowest positive of their query, or above it.

    At most one of a query, and `most` in all; the positive is the query's lowest-scored one.
    """
    return _examples(store, run, most, "code < $kept", "list_min", {"kept": KEPT})


def _examples(
    store: Database, run: StoredRun, most: int, which: str, best: str, values: dict[str, Any]
) -> list[Example]:
    decider = run.deciding
    table = store.table(
        f"""WITH own AS (
            SELECT query_no, positives, {best}(list_filter(positives, lambda x: isfinite(x))) AS reference
            FROM scored WHERE evidence = $scored AND scorer = $scorer),
        candidate AS (
            SELECT d.query_no, generate_subscripts(d.codes, 1) AS fused_rank, unnest(d.codes) AS code,
                unnest(c.scores) AS score
            FROM decision_codes d
            JOIN scored c ON c.evidence = $scored AND c.scorer = $scorer AND c.query_no = d.query_no
            WHERE d.run_id = $run_id),
        chosen AS (
            SELECT query_no, fused_rank, code, score - reference AS gap,
                list_position(positives, reference) AS nth
            FROM candidate JOIN own USING (query_no)
            WHERE {which} AND isfinite(score) AND reference IS NOT NULL),
        placed AS (
            SELECT c.query_no, p.query_id, c.fused_rank, c.code, c.gap, c.nth, t.doc_id
            FROM chosen c JOIN pools p ON p.evidence = $evidence AND p.query_no = c.query_no
            JOIN pool_documents t ON t.evidence = $evidence AND t.doc_no = p.doc_nos[c.fused_rank]
            WHERE code < {KEPT} OR (p.query_id, t.doc_id) NOT IN (SELECT (query_id, doc_id) FROM {GOLD})
            QUALIFY row_number() OVER (PARTITION BY c.query_no ORDER BY gap DESC, fused_rank) = 1)
        FROM placed ORDER BY gap DESC, query_no LIMIT $most""",
        {
            "evidence": run.evidence,
            "scored": run.scored_by(decider),
            "scorer": decider.number,
            "run_id": run.run_id,
            "most": most,
            **values,
        },
    )
    if not table.num_rows:
        return []
    texts = _texts(store, run, table)
    scores = _scores(store, run, table)
    reasons = [
        "selected" if code < KEPT else str(tuple(Reason)[code % SUSPECTED])
        for code in table["code"].to_pylist()
    ]
    return [
        Example(
            query_id=row["query_id"], query=row["query"], query_size=row["query_size"],
            positive_id=row["positive_id"], positive=row["positive"], positive_size=row["positive_size"],
            doc_id=row["doc_id"], document=row["document"], document_size=row["document_size"],
            why=why, scores=tuple(known),
        )
        for row, why, known in zip(texts, reasons, scores, strict=True)
    ]  # fmt: skip


def _texts(store: Database, run: StoredRun, table: pa.Table) -> list[dict[str, Any]]:
    """Returns the ids and the beginnings of the texts of examples, in their order."""
    columns = ", ".join(
        f"left({alias}.text, {TEXT_SHOWN}) AS {name}, coalesce(length({alias}.text), 0) AS {name}_size"
        for alias, name in (("q", "query"), ("o", "positive"), ("d", "document"))
    )
    rows: list[dict[str, Any]] = store.table(
        f"""WITH example AS (
            SELECT unnest($numbers::INTEGER[]) AS query_no, unnest($nth::BIGINT[]) AS nth,
                unnest($queries::VARCHAR[]) AS query_id, unnest($documents::VARCHAR[]) AS doc_id,
                generate_subscripts($numbers::INTEGER[], 1) AS number),
        positive AS (
            SELECT query_no, doc_id AS positive_id,
                row_number() OVER (PARTITION BY query_no ORDER BY doc_id) AS nth
            FROM positives WHERE evidence = $evidence
                AND query_no IN (SELECT unnest($numbers::INTEGER[])))
        SELECT e.query_id, e.doc_id, p.positive_id, {columns}
        FROM example e JOIN positive p USING (query_no, nth)
        LEFT JOIN queries q ON q.query_id = e.query_id
        LEFT JOIN document_texts o ON o.doc_id = p.positive_id
        LEFT JOIN document_texts d ON d.doc_id = e.doc_id
        ORDER BY e.number""",
        {
            "evidence": run.evidence,
            "numbers": table["query_no"].to_pylist(),
            "nth": table["nth"].to_pylist(),
            "queries": table["query_id"].to_pylist(),
            "documents": table["doc_id"].to_pylist(),
        },
    ).to_pylist()
    return rows


_Scores = list[tuple[str, int | None, float | None, float | None]]


def _scores(store: Database, run: StoredRun, table: pa.Table) -> list[_Scores]:
    """Returns what every scorer of the run says of each example, in the order of the run's scorers."""
    numbers = table["query_no"].to_pylist()
    rows = store.rows(
        """SELECT query_no, scorer, evidence, ranks[fused_rank], scores[fused_rank], positives[nth]
        FROM scored JOIN (
            SELECT unnest($numbers::INTEGER[]) AS query_no, unnest($ranks::BIGINT[]) AS fused_rank,
                unnest($nth::BIGINT[]) AS nth) USING (query_no)
        WHERE evidence IN (SELECT unnest($keys::VARCHAR[]))""",
        {
            "keys": _keys(run),
            "numbers": numbers,
            "ranks": table["fused_rank"].to_pylist(),
            "nth": table["nth"].to_pylist(),
        },
    )
    known = {(query, scorer, key): values for query, scorer, key, *values in rows}
    return [[_said(known, query, run, one) for one in run.scorers] for query in numbers]


def _said(known: Any, query: int, run: StoredRun, scorer: Scorer) -> tuple[str, Any, Any, Any]:
    """Returns a scorer's name, its rank and score of a candidate, and its score of the positive."""
    rank, score, positive = known.get((query, scorer.number, run.scored_by(scorer)), (None, None, None))
    return scorer.name, rank, score, positive


def sampled_ranks(store: Database, run: StoredRun, sample: StoredSample) -> pa.Table:
    """Returns where the pairs of a sample rank: query_id, doc_id, fused_rank, scorers.

    `scorers` lists the numbers of the retrievers that found the pair.
    """
    numbers: Sequence[int] = [one.number for one in run.retrievers]
    return store.table(
        """WITH pair AS (SELECT query_id, doc_id FROM sampled WHERE sample = $sample),
        pool AS (
            SELECT query_no, query_id, unnest(doc_nos) AS doc_no,
                generate_subscripts(doc_nos, 1) AS fused_rank
            FROM pools WHERE evidence = $evidence AND query_id IN (SELECT query_id FROM pair)),
        placed AS (
            SELECT query_no, query_id, t.doc_id, fused_rank
            FROM pool JOIN pool_documents t ON t.evidence = $evidence AND t.doc_no = pool.doc_no
            SEMI JOIN pair ON pair.query_id = pool.query_id AND pair.doc_id = t.doc_id)
        SELECT query_id, doc_id, fused_rank,
            list(c.scorer ORDER BY c.scorer) FILTER (c.ranks[fused_rank] IS NOT NULL) AS scorers
        FROM placed LEFT JOIN scored c ON c.evidence = $evidence AND c.query_no = placed.query_no
            AND c.scorer IN (SELECT unnest($numbers::SMALLINT[]))
        GROUP BY ALL ORDER BY query_id, doc_id""",
        {"sample": sample.sample, "evidence": run.evidence, "numbers": list(numbers)},
    )
