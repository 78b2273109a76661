"""The evidence: candidates and positives, and the score that every scorer gave them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf, isfinite
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import as_arrow, as_numpy, flat, in_order, list_sizes, numbered
from miner.schema import CANDIDATES_PER_QUERY, CODES, FREE, Reason
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.scorers import IMPORTED, Scorer

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Made = TypeVar("Made")

_ALL = range(2**31 - 1)


def pool_size(store: Database, evidence: str) -> tuple[int, int]:
    """Returns one more than the largest number of a query with candidates, and the number of candidates."""
    ((last, number),) = store.rows(
        "SELECT max(query_no), sum(len(doc_nos)) FROM pools WHERE evidence = ?", [evidence]
    )
    return (0, 0) if last is None else (int(last) + 1, int(number))


@dataclass(frozen=True)
class EvidenceRead(Generic[Made]):
    """What is made of the tables that some queries return. Several readings can be done at the same time."""

    queries: Sequence[tuple[str, Sequence[Any] | Mapping[str, Any]]]
    made: Callable[..., Made]

    def read(self, store: Database) -> Made:
        """Reads the tables and returns what is made of them."""
        return self.made(*store.tables(*self.queries))


COPIES = tuple(
    str(reason)
    for reason in (
        Reason.DUPLICATE_OF_POSITIVE,
        Reason.OVERLAPS_POSITIVE,
        Reason.DUPLICATE_OF_CANDIDATE,
        Reason.SAME_DOCUMENT,
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


_POSITIVES = "SELECT query_no, query_id, doc_id FROM positives WHERE evidence = ?"


def numbered_positives(store: Database, evidence: str) -> pa.Table:
    """Returns the positives of a set of evidence, by query_no and doc_id: query_no, query_id, doc_id."""
    # They are stored in that order, and sorting takes as long as reading.
    return in_order(store.table(_POSITIVES, [evidence]), "query_no")


def pool_documents(store: Database, evidence: str) -> pa.Table:
    """Returns the documents that are candidates of a set of evidence, by id: doc_no, doc_id."""
    return _reading_documents(evidence).read(store)


def _reading_documents(evidence: str) -> EvidenceRead[pa.Table]:
    query = "SELECT doc_no, doc_id FROM pool_documents WHERE evidence = ?"
    return EvidenceRead([(query, [evidence])], lambda table: in_order(table, "doc_no"))


def pooled_numbers(store: Database, evidence: str) -> Ints:
    """Returns the numbers of the documents that are candidates of a set of evidence, ascending."""
    table = store.table(
        "SELECT DISTINCT unnest(doc_nos) AS doc_no FROM pools WHERE evidence = ? ORDER BY doc_no", [evidence]
    )
    numbers: Ints = table["doc_no"].to_numpy().astype(np.int64)
    return numbers


@dataclass(frozen=True)
class CandidateLists:
    """The candidates of some queries, a row per query: rows per candidate take much more memory."""

    table: pa.Table
    """query_no and lists by fused rank: doc_nos, exclusions, judged_negative, best_ranks and best_scorers if
    they were read, and by each name in `columns` the scores of a scorer that are stored."""
    columns: Mapping[str, Scorer]
    given: Given | None

    def slices(self, most: int, first: int | None = None) -> Iterator[CandidateLists]:
        """Yields these of fewer queries, with about `most` candidates each, the first one with `first`."""
        last = np.cumsum(list_sizes(self.table["doc_nos"]))
        start, size = 0, first or most
        while start < len(last):
            before = last[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(last, before + size, side="right")))
            yield replace(self, table=self.table.slice(start, stop - start))
            start, size = stop, most

    def rows(self) -> pa.Table:
        """Returns a row per candidate, as `scored_candidates`."""
        candidate = numbered(self.table, "doc_nos", CANDIDATES_PER_QUERY)
        names = {"doc_nos": "doc_no", "exclusions": "exclusion", "judged_negative": "judged_negative"}
        names |= {f"{name}s": name for name in ("best_rank", "best_scorer")}
        read = self.table.column_names
        return pa.table(
            {
                "candidate": as_arrow(candidate),
                **{name: flat(self.table[lists]) for lists, name in names.items() if lists in read},
                **{name: self._scores(name, candidate) for name in self.columns},
            }
        )

    def _scores(self, name: str, candidate: Ints) -> pa.Array:
        of = self.columns[name]
        if self.given is not None and of.number in self.given.scores:
            return self.given.of(of, candidate)
        if name not in self.table.column_names:
            return pa.nulls(len(candidate), pa.float64())
        return _finite(flat(self.table[name]))


def begin_deciding(
    store: Database, run: StoredRun, scorer: Scorer, *, others: Sequence[Scorer], given: Given | None,
    **some: Any,
) -> tuple[pa.Table, pa.Table, CandidateLists]:  # fmt: skip
    """Returns `scored_positives`, `pool_documents` and `candidate_lists`, read at the same time.

    The rows of tens of thousands of queries are one piece for DuckDB, which a query reads in one thread.
    """
    positives = _reading_positives(run, scorer, others, given)
    documents = _reading_documents(run.evidence)
    candidates = _reading_candidates(run, scorer, others=others, given=given, **some)
    found = iter(store.tables(*candidates.queries, *positives.queries, *documents.queries))

    def made(reading: EvidenceRead[Made]) -> Made:
        """Returns what is made of the next tables."""
        return reading.made(*islice(found, len(reading.queries)))

    lists = made(candidates)
    return made(positives), made(documents), lists


def candidate_lists(
    store: Database,
    run: StoredRun,
    scorer: Scorer | None = None,
    *,
    numbers: range = _ALL,
    queries: Sequence[int] | None = None,
    others: Sequence[Scorer] = (),
    ranks: bool = True,
    given: Given | None = None,
) -> CandidateLists:
    """Returns what `scored_candidates` returns, a row per query."""
    return _reading_candidates(
        run, scorer or run.deciding, numbers=numbers, queries=queries, others=others, ranks=ranks, given=given
    ).read(store)


def _reading_candidates(
    run: StoredRun, scorer: Scorer, *, numbers: range, queries: Sequence[int] | None,
    others: Sequence[Scorer], ranks: bool, given: Given | None,
) -> EvidenceRead[CandidateLists]:  # fmt: skip
    values: dict[str, object] = {"evidence": run.evidence, "first": numbers.start, "stop": numbers.stop}
    where = "evidence = $evidence AND query_no >= $first AND query_no < $stop"
    if queries is not None:
        values["queries"] = list(queries)
        where += " AND query_no IN (SELECT unnest($queries::BIGINT[]))"
    best = ", best_ranks, best_scorers" if ranks else ""
    known = given.scores if given is not None else {}
    columns, stored = _columns(scorer, others, known)

    def made(documents: pa.Table, rest: pa.Table, *scores: pa.Table) -> CandidateLists:
        """Returns the lists with a column for each scorer that has any scores."""
        table, rest = in_order(documents, "query_no"), in_order(rest, "query_no")
        for name in rest.column_names[1:]:
            table = table.append_column(name, rest[name])
        for name, one in zip(stored, scores, strict=True):
            if one.num_rows:
                table = table.append_column(name, in_order(one, "query_no")["scores"])
        return CandidateLists(table, columns, given)

    pools = f"FROM pools WHERE {where}"
    scored = f"SELECT query_no, scores FROM scored WHERE scorer = $scorer AND {where}"
    return EvidenceRead(
        [
            # Two queries, each in a thread of its own: the lists of one piece of a table are read by one.
            (f"SELECT query_no, doc_nos {pools}", values),
            (f"SELECT query_no, exclusions, judged_negative{best} {pools}", values),
            *(
                (scored, values | {"scorer": of.number, "evidence": run.scored_by(of)})
                for of in stored.values()
            ),
        ],
        made,
    )


def scored_candidates(store: Database, run: StoredRun, scorer: Scorer | None = None, **some: Any) -> pa.Table:
    """Returns the candidates of the queries with these `numbers`, or of those in `queries`.

    They are in order. Columns candidate, doc_no, exclusion (the code of its reason, FREE without one),
    judged_negative, best_rank (over retrievers), best_scorer (the retriever with that rank), score. The score
    is that of `scorer` (default: the one that decides); it is null for a pair that this did not score, NaN
    for a score that is not finite. For each of the `others` there is a column `score_of` with its scores.
    Without `ranks` the columns best_rank and best_scorer are left out. `given` are scores of rerankers that
    are not stored yet. `some` are further arguments of `candidate_lists`.
    """
    return candidate_lists(store, run, scorer, **some).rows()


def score_of(scorer: Scorer) -> str:
    """Returns the name of the column with the scores of another scorer than the one that decides."""
    return f"score_of_{scorer.number}"


def _columns(
    scorer: Scorer, others: Sequence[Scorer], known: Mapping[int, Any]
) -> tuple[dict[str, Scorer], dict[str, Scorer]]:
    """Returns the scorer of each column of scores, and those whose scores are stored, not `known`."""
    columns = {"score": scorer} | {score_of(other): other for other in others}
    return columns, {name: of for name, of in columns.items() if of.number not in known}


def _finite(scores: pa.Array) -> pa.Array:
    """Returns scores with NaN for infinite ones; nulls stay."""
    values = as_numpy(scores)
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
    return _reading_positives(run, scorer or run.deciding, others, given).read(store)


def _reading_positives(
    run: StoredRun, scorer: Scorer, others: Sequence[Scorer], given: Given | None
) -> EvidenceRead[pa.Table]:
    known = given.positives if given is not None else {}
    columns, stored = _columns(scorer, others, known)

    def made(table: pa.Table, *scores: pa.Table) -> pa.Table:
        """Returns the positives with a column for each scorer."""
        table = in_order(table, "query_no")
        read = dict(zip(stored, scores, strict=True))
        for name, of in columns.items():
            if name in read:
                score = _listed(read[name], "positives")
            else:
                score = np.where(np.isfinite(known[of.number]), known[of.number], np.nan)
            table = table.append_column(name, as_arrow(score))
        return table

    queries = [_listed_query(run, of, "positives") for of in stored.values()]
    return EvidenceRead([(_POSITIVES, [run.evidence]), *queries], made)


def positive_scores(store: Database, run: StoredRun, scorer: Scorer, numbers: range = _ALL) -> Floats:
    """Returns a scorer's score of every positive, by query_no and doc_id; NaN without a finite one.

    With `numbers` only those of the queries with these numbers; so in the functions below.
    """
    return _listed(store.table(*_listed_query(run, scorer, "positives", numbers)), "positives")


def _listed_query(run: StoredRun, scorer: Scorer, name: str, numbers: range = _ALL) -> tuple[str, list[Any]]:
    """Returns the query for a list column of `scored`, and its values."""
    where = "evidence = ? AND scorer = ? AND query_no >= ? AND query_no < ?"
    values = [run.scored_by(scorer), scorer.number, numbers.start, numbers.stop]
    return f"SELECT query_no, {name} FROM scored WHERE {where}", values


def _listed(table: pa.Table, name: str) -> Floats:
    """Returns a list column of `scored` as one array, NaN without a finite value."""
    values = as_numpy(flat(in_order(table, "query_no")[name])).astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def candidate_ranks(store: Database, run: StoredRun, scorer: Scorer, numbers: range = _ALL) -> Floats:
    """Returns a scorer's rank of every candidate of a run's evidence, in order; NaN if it has none."""
    return _listed(store.table(*_listed_query(run, scorer, "ranks", numbers)), "ranks")


def candidate_scores(store: Database, run: StoredRun, scorer: Scorer, numbers: range = _ALL) -> Floats:
    """Returns a scorer's score of every candidate of a run's evidence, in order; NaN without a finite one."""
    return _listed(store.table(*_listed_query(run, scorer, "scores", numbers)), "scores")


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


@dataclass
class ScoreRange:
    """The number of scores that were seen, with their lowest and highest."""

    number: int = 0
    lowest: float = inf
    highest: float = -inf
    finite: bool = True
    """Whether all are finite; null is not."""

    def add(self, scores: Floats) -> None:
        """Adds scores that were seen."""
        if len(scores):
            self.number += len(scores)
            low, high = float(scores.min()), float(scores.max())  # NaN if one is
            self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
            self.finite &= isfinite(low) and isfinite(high)


def _plain_range(store: Database, run: StoredRun, scorer: Scorer) -> ScoreRange:
    """Returns the range of a scorer's scores, those of excluded candidates included."""
    # In two halves at the same time. Unnested they take a third of the time of list_min and list_max.
    where = "WHERE evidence = $evidence AND scorer = $scorer AND query_no BETWEEN $first AND $last"
    query = f"""SELECT count(*) AS pairs, min(score) AS lowest, max(score) AS highest FROM (
        SELECT unnest(scores) AS score FROM scored {where}
        UNION ALL SELECT unnest(positives) FROM scored {where})"""
    ((last,),) = store.rows("SELECT max(query_no) FROM pools WHERE evidence = ?", [run.evidence])
    middle = (last or 0) // 2
    bound = {"evidence": run.evidence, "scorer": scorer.number}
    halves = ({"first": 0, "last": middle}, {"first": middle + 1, "last": last or 0})
    found = pa.concat_tables(store.tables(*((query, bound | half) for half in halves))).to_pydict()
    seen = ScoreRange()
    for name in ("lowest", "highest"):
        seen.add(np.array([one for one in found[name] if one is not None]))
    return replace(seen, number=sum(found["pairs"]))


def score_facts(
    store: Database, run: StoredRun, scorer: Scorer, seen: ScoreRange | None = None
) -> ScoreFacts:
    """Returns the facts of one scorer in a run; `seen` are all its scores, if they were seen."""
    # A count of each pair is of no use if all scores are finite and differ. Given candidates lack scores.
    if scorer.kind != IMPORTED and scorer.is_retriever:
        plain = seen or _plain_range(store, run, scorer)
        if plain.number and plain.finite and plain.lowest != plain.highest:
            return ScoreFacts(plain.number, 0, 0, plain.lowest, plain.highest, 0)
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
