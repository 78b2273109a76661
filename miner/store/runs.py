"""Runs: one decision over stored evidence, with its settings and its inputs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import pyarrow as pa

from miner.errors import StoreError, UsageError, listed, near, shown
from miner.store.aside import set_aside
from miner.store.codes import encoded
from miner.store.corpus import IDENTITY, MINED, content_hashes, ingest_first, queries_hash
from miner.store.database import Database
from miner.store.duplicates import clusters_hash
from miner.store.hits import release_hits
from miner.store.ledger import KEY
from miner.store.scorers import Scorer, keep_scorers, scorers_by_run

_COLUMNS = """run_id, name, split, config, inputs, versions, seed, evidence, reranking, decider, negatives,
    status, started, finished"""


LONGEST = "longest"
"""The key among the inputs of a run for the most candidates that each imported file has for a query."""


@dataclass(frozen=True)
class StoredRun:
    """One row of `runs`."""

    run_id: str
    """The fingerprint of everything the run's result depends on."""
    name: str
    split: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    """Content hashes of documents, queries and judgments, model fingerprints, and LONGEST."""
    versions: Mapping[str, str]
    seed: int
    evidence: str
    """The key of the candidates and positives that it decides over."""
    reranking: str | None
    """The key of what its rerankers scored; None without a reranker."""
    decider: int
    """The number of the scorer whose scores the rules look at."""
    negatives: int
    status: str
    """`running` or `done`."""
    started: datetime
    finished: datetime | None
    scorers: tuple[Scorer, ...]
    """In order: retrievers, then rerankers, then judges."""

    @property
    def deciding(self) -> Scorer:
        """The scorer whose scores the rules look at."""
        return self.scorers[self.decider]

    @property
    def is_adaptive(self) -> bool:
        """Whether its last reranker scored each query's candidates only until it had its negatives."""
        return "rounds" in self.inputs

    def scored_by(self, scorer: Scorer) -> str | None:
        """Returns the key of the rows in `scored` with a scorer's scores; None if it has none."""
        return scorer.stage or (self.reranking if scorer.is_reranker else self.evidence)

    @property
    def retrievers(self) -> tuple[Scorer, ...]:
        """The scorers that find candidates."""
        return tuple(one for one in self.scorers if one.is_retriever)

    @property
    def rerankers(self) -> tuple[Scorer, ...]:
        """The scorers that score pairs which the retrievers found."""
        return tuple(one for one in self.scorers if one.is_reranker)

    @property
    def models(self) -> list[str]:
        """The fingerprints of its encoders and rerankers, in order; their names are in `models`."""
        return [one.model for one in self.scorers if one.model and (one.is_encoder or one.is_reranker)]


def _run(row: tuple[Any, ...], scorers: tuple[Scorer, ...]) -> StoredRun:
    values = list(row)
    for column in (3, 4, 5):
        values[column] = json.loads(values[column])
    return StoredRun(*[*values, scorers])


def runs(store: Database) -> list[StoredRun]:
    """Returns all runs, oldest first."""
    rows = store.rows(f"SELECT {_COLUMNS} FROM runs ORDER BY started, name")
    scorers = scorers_by_run(store) if rows else {}
    return [_run(row, scorers[row[0]]) for row in rows]


def find_run(store: Database, name: str | None = None) -> StoredRun:
    """Returns the finished run of that name; without a name, the run that finished last.

    Raises StoreError if no run is finished, UsageError if there is no run of that name or it is not finished.
    """
    known = runs(store)
    if name is None:
        finished = [run for run in known if run.finished is not None]
        if not finished:
            hint = ingest_first(store, f"mine first: miner mine {store.path}")
            raise StoreError(f"{store.path} holds no finished run", hint)
        return max(finished, key=lambda run: (run.finished, run.started))
    for run in known:
        if run.name == name:
            if run.status != "done":
                raise UsageError(f"run '{name}' is not finished", "start the same miner mine again")
            return run
    raise _no_run(store, name, [run.name for run in known])


def free_name(taken: Collection[str]) -> str:
    """Returns the name of a run that is given none: the first of r1, r2, … that no other run has."""
    return next(f"r{i}" for i in range(1, len(taken) + 2) if f"r{i}" not in taken)


def begin_run(store: Database, run: StoredRun) -> None:
    """Adds a run with the status `running`; does nothing if there is a run with the same run_id."""
    if store.rows("SELECT 1 FROM runs WHERE run_id = ?", [run.run_id]):
        return
    values = [
        run.run_id, run.name, run.split, json.dumps(run.config, sort_keys=True),
        json.dumps(run.inputs, sort_keys=True), json.dumps(run.versions, sort_keys=True),
        run.seed, run.evidence, run.reranking, run.decider, run.negatives, "running", run.started, None,
    ]  # fmt: skip
    with store.transaction():
        store.execute(f"INSERT INTO runs ({_COLUMNS}) VALUES ({', '.join('?' * len(values))})", values)
        keep_scorers(store, run.run_id, run.scorers)


def finish_run(
    store: Database, run_id: str, decided: Iterable[Mapping[str, pa.Table]], *, aside: bool = False
) -> datetime:
    """Replaces a run's decisions and triplets and marks it done, in one transaction; returns when.

    Each part has rows of `decisions` (query_no, codes), of `selected` (`schema.SELECTED`), or of both. With
    `aside` they wait in a file until all are there; else they are written while the next are made, which is
    faster, and keeps other commands from the store for as long.
    """
    stored = (
        {**one, "decisions": encoded(one["decisions"])} if "decisions" in one else one for one in decided
    )
    with ExitStack() as stack:
        waiting = [stack.enter_context(set_aside(stored, store.path.parent))] if aside else stored
        parts = iter(waiting)
        first = next(parts, None)  # not in the transaction, so that the evidence can be read at the same time
        stack.enter_context(store.transaction())
        store.execute("DELETE FROM decisions WHERE run_id = ?", [run_id])
        store.execute("DELETE FROM selected WHERE run_id = ?", [run_id])
        triplets = []
        for part in parts if first is None else chain([first], parts):
            if "decisions" in part:
                store.insert("decisions", part["decisions"], run_id=run_id)
            if "selected" in part:
                triplets.append(part["selected"])
        if triplets:
            rows = triplets[0] if len(triplets) == 1 else pa.concat_tables(triplets)
            store.insert("selected", rows, run_id=run_id)
        finished = datetime.now(UTC).replace(tzinfo=None)
        store.execute("UPDATE runs SET status = 'done', finished = ? WHERE run_id = ?", [finished, run_id])
    return finished


def remove_runs(store: Database, names: Sequence[str]) -> None:
    """Removes runs, finished or not, as `forget_runs` does; on an error it removes none.

    Raises UsageError if there is no run of a name.
    """
    known = {run.name: run for run in runs(store)}
    for name in names:
        if name not in known:
            raise _no_run(store, name, list(known))
    with store.transaction():
        forget_runs(store, {known[name].run_id: known[name].evidence for name in names})


def forget_runs(store: Database, evidence: Mapping[str, str]) -> None:
    """Deletes runs (run_id to evidence) with their decisions, and evidence that no other run uses.

    Hits and reranker scores stay, so that the next run can use them.
    """
    for run_id in evidence:
        for table in ("decisions", "selected", "audits", "samples", "sampled", "scorers", "runs"):
            store.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
    for key in sorted(set(evidence.values())):
        if not store.rows("SELECT 1 FROM runs WHERE evidence = ?", [key]):
            _forget_evidence(store, key)


def _forget_evidence(store: Database, key: str) -> None:
    release_hits(store, key)
    stages = f"""(SELECT fingerprint FROM stages
        WHERE left(fingerprint, {KEY}) = $key OR json_extract_string(inputs, '$.evidence') = $key)"""
    # What rerankers scored has the key of its own stage.
    store.table(f"""DELETE FROM scored WHERE evidence IN (SELECT left(fingerprint, {KEY}) FROM {stages})
        RETURNING 1""", {"key": key})  # fmt: skip
    for table in ("pools", "pool_documents", "positives", "scored", "searches"):
        store.execute(f"DELETE FROM {table} WHERE evidence = ?", [key])
    for table in ("chunks", "stages"):
        store.table(f"DELETE FROM {table} WHERE fingerprint IN {stages} RETURNING 1", {"key": key})


def _no_run(store: Database, name: str, names: Sequence[str]) -> UsageError:
    return UsageError(
        f"no run '{shown(name)}' in {store.path}{near(name, names)}",
        f"runs there: {listed(names)}"
        if names
        else ingest_first(store, f"mine first: miner mine {store.path}"),
    )


def changed_since(store: Database, run: StoredRun) -> list[str]:
    """Returns which of documents, queries, judgments and clusters differ from what a run was mined on.

    Queries that are no longer mined because their judgments were removed are a change of the judgments only.
    """
    now: dict[str, Any] = {IDENTITY: None, **content_hashes(store, run.split)}
    now["clusters"] = clusters_hash(store)
    # The hash of a run over a sample of the queries ends with the sample's size and seed.
    changed = [
        name
        for name, value in now.items()
        if str(run.inputs.get(name) or "").split("/")[0] != str(value or "") and (name in run.inputs or value)
    ]
    if {"queries", "judgments"} <= set(changed) and _uses_no_other_queries(store, run):
        changed.remove("queries")
    return changed


def _uses_no_other_queries(store: Database, run: StoredRun) -> bool:
    """Returns whether all queries of a run have the text they had, and mining again would use no others."""
    mined = "SELECT query_id FROM positives WHERE evidence = ?"
    if queries_hash(store, mined, run.evidence) != run.inputs.get("queries"):
        return False
    ((others,),) = store.rows(
        f"SELECT count(*) FROM ({MINED}) WHERE query_id NOT IN ({mined})", [run.split, run.evidence]
    )
    return bool(others == 0)


def staleness(store: Database, run: StoredRun) -> str | None:
    """Returns what changed in the store since a run was mined, and what to do; None if nothing changed."""
    changed = changed_since(store, run)
    if not changed:
        return None
    return (
        f"{' and '.join(changed)} changed since run {run.name} was mined: mine again to use the current data"
    )
