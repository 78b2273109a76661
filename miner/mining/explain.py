"""Explaining a run: the verdict and the reason of every candidate of one query."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import Any

import pyarrow as pa

from miner.errors import UsageError, counted, listed, printable, shown, snippet
from miner.reporting.readable import Readable
from miner.store import corpus
from miner.store.corpus import splits_with_positives
from miner.store.database import Database
from miner.store.runs import StoredRun, find_run
from miner.store.verdicts import candidates_of_query, positives_of_query


@dataclass(frozen=True, repr=False)
class Explanation(Readable):
    """One query in one run."""

    run: StoredRun
    query_id: str
    query: str
    positives: pa.Table
    """doc_id, scores (a list of scorer, rank, score), text."""
    candidates: pa.Table
    """slot, verdict, reason, doc_id, scores (a list of scorer, rank, score), text; selected ones first."""

    def as_text(self, limit: int = 30) -> str:
        """Returns the query, its positives and its candidates, at most `limit` of each."""
        lines = [
            f"{shown(self.query_id)}  {snippet(self.query)}  (run {printable(self.run.name)}, "
            f"decided by {shown(self.run.deciding.name)})",
            "",
            "positives",
        ]
        positives = self.positives.slice(0, limit).to_pylist()
        lines += [f"  {_scores(row)}  {shown(row['doc_id'])}  {snippet(row['text'])}" for row in positives]
        lines += [*_more(self.positives.num_rows, limit), "", "candidates"]
        rows = self.candidates.slice(0, limit).to_pylist()
        width = max([len(_verdict(row)) for row in rows], default=0)
        lines += [
            f"  {_verdict(row):<{width}}  {_scores(row)}  {shown(row['doc_id'])}  {snippet(row['text'])}"
            for row in rows
        ]
        return "\n".join([*lines, *_more(self.candidates.num_rows, limit)])

    def __repr__(self) -> str:
        candidates = counted(self.candidates.num_rows, "candidate")
        return f"Explanation of query '{shown(self.query_id)}' in run '{self.run.name}': {candidates}"


def _more(rows: int, limit: int) -> list[str]:
    return [f"  … {rows - limit} more: --limit {rows}"] if rows > limit else []


def _verdict(row: dict[str, Any]) -> str:
    if row["slot"]:
        return f"negative {row['slot']}"
    return f"{row['verdict']}: {row['reason']}" if row["reason"] else str(row["verdict"])


def _scores(row: dict[str, Any]) -> str:
    parts = []
    for one in row["scores"] or ():
        if one["score"] is not None:
            rank = f" (#{one['rank']})" if one["rank"] else ""
            parts.append(f"{shown(one['scorer'])} {one['score']:.3f}{rank}")
    return ", ".join(parts)


def _not_in_run(store: Database, query_id: str, run: StoredRun) -> UsageError:
    """Returns the error for a query that a run does not have: of another split, not drawn, or newer."""
    splits = splits_with_positives(store, query_id)
    what = f"query '{shown(query_id)}' is not in run '{run.name}'"
    if run.split not in splits:
        where = f"its positives are in split {listed(splits)}" if splits else "it has no judged positive"
        return UsageError(
            f"{what} of split {run.split}: {where}", "a run has the queries with positives in its split"
        )
    if (sample := run.config.get("queries")) and "/" in run.inputs["queries"]:
        return UsageError(
            f"{what}, which has a sample of {counted(sample, 'query', 'queries')} of split {run.split}",
            "mine without the setting queries for all of them",
        )
    return UsageError(
        f"{what}: its judgments in split {run.split} are newer than the run",
        f"mine again: miner mine {quote(str(store.path))}",
    )


def explain(store: Database, query_id: str, run: str | None = None) -> Explanation:
    """Returns everything that a run (default: the last) stores about a query.

    Raises StoreError for an unknown query, UsageError for an unknown run or one without the query.
    """
    text = corpus.require_query(store, query_id)
    in_run = find_run(store, run)
    positives = positives_of_query(store, in_run, query_id)
    if not positives.num_rows:
        raise _not_in_run(store, query_id, in_run)
    return Explanation(in_run, query_id, text, positives, candidates_of_query(store, in_run, query_id))
