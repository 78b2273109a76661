"""Runs: one decision over stored evidence, with its configuration, verdicts and triplets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from miner.errors import StoreError, UsageError, listed, near, shown
from miner.schema import KEPT, SUSPECTED
from miner.store.database import Store
from miner.store.ledger import KEY

_COLUMNS = """run_id, name, split, config, inputs, versions, seed, evidence, encoder, reranker,
    negatives, status, started, finished"""


@dataclass(frozen=True)
class Run:
    """One row of `runs`."""

    run_id: str
    """The fingerprint of everything the run's result depends on."""
    name: str
    split: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    """Content hashes of documents, queries and judgments, and model fingerprints."""
    versions: Mapping[str, str]
    seed: int
    evidence: str
    """Which candidates and positives it decides over."""
    encoder: str | None
    reranker: str | None
    """Model fingerprints; their names are in `models`."""
    negatives: int
    status: str
    """`running` or `done`."""
    started: datetime
    finished: datetime | None


def _run(row: tuple[Any, ...]) -> Run:
    values = list(row)
    for place in (3, 4, 5):
        values[place] = json.loads(values[place])
    return Run(*values)


def runs(store: Store) -> list[Run]:
    """Returns all runs, the oldest first."""
    return [_run(row) for row in store.rows(f"SELECT {_COLUMNS} FROM runs ORDER BY started, name")]


def find_run(store: Store, name: str | None = None) -> Run:
    """Returns the finished run of that name; without a name, the one that finished last.

    Raises StoreError when there is none, UsageError for a name that is no run's, or one that is not finished.
    """
    known = runs(store)
    if name is None:
        finished = [run for run in known if run.finished is not None]
        if not finished:
            raise StoreError(f"{store.path} holds no finished run", f"mine first: miner mine {store.path}")
        return max(finished, key=lambda run: (run.finished, run.started))
    for run in known:
        if run.name == name:
            if run.status != "done":
                raise UsageError(f"run '{name}' is not finished", "start the same miner mine again")
            return run
    raise _no_run(store, name, [run.name for run in known])


def begin_run(store: Store, run: Run) -> None:
    """Enters a run as `running`; one with the same run_id is taken up again."""
    if store.rows("SELECT 1 FROM runs WHERE run_id = ?", [run.run_id]):
        return
    values = [
        run.run_id, run.name, run.split, json.dumps(run.config, sort_keys=True),
        json.dumps(run.inputs, sort_keys=True), json.dumps(run.versions, sort_keys=True),
        run.seed, run.evidence, run.encoder, run.reranker, run.negatives, "running",
        run.started, None,
    ]  # fmt: skip
    store.execute(f"INSERT INTO runs ({_COLUMNS}) VALUES ({', '.join('?' * len(values))})", values)


def finish_run(store: Store, run_id: str, decisions: list[pa.Table], triplets: list[pa.Table]) -> None:
    """Replaces a run's decisions and triplets and marks it done, in one transaction.

    `decisions` tables hold query_no and codes; `triplets` as `schema.TRIPLETS`.
    """
    with store.transaction():
        store.execute("DELETE FROM decisions WHERE run_id = ?", [run_id])
        store.execute("DELETE FROM triplets WHERE run_id = ?", [run_id])
        for name, tables in (("decisions", decisions), ("triplets", triplets)):
            if tables:
                store.insert(name, pa.concat_tables(tables), run_id=run_id)
        store.execute(
            "UPDATE runs SET status = 'done', finished = now() AT TIME ZONE 'UTC' WHERE run_id = ?", [run_id]
        )


def remove_runs(store: Store, names: Sequence[str]) -> None:
    """Removes runs, finished or not, as `forget_runs` does; all of them or, on an error, none.

    Raises UsageError for a name that is no run's.
    """
    known = {run.name: run for run in runs(store)}
    for name in names:
        if name not in known:
            raise _no_run(store, name, list(known))
    with store.transaction():
        forget_runs(store, {known[name].run_id: known[name].evidence for name in names})


def forget_runs(store: Store, evidence: Mapping[str, str]) -> None:
    """Deletes runs (run_id to evidence) with all that was decided, and evidence that no other run needs.

    What searches found and rerankers scored stays: it is what the next run is spared.
    """
    for run_id in evidence:
        for table in ("decisions", "triplets", "audits", "runs"):
            store.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
    for key in sorted(set(evidence.values())):
        if not store.rows("SELECT 1 FROM runs WHERE evidence = ?", [key]):
            _forget_evidence(store, key)


def _forget_evidence(store: Store, key: str) -> None:
    for table in ("candidates", "positives"):
        store.execute(f"DELETE FROM {table} WHERE evidence = ?", [key])
    stages = f"""(SELECT fingerprint FROM stages
        WHERE left(fingerprint, {KEY}) = $key OR json_extract_string(inputs, '$.evidence') = $key)"""
    for table in ("chunks", "stages"):
        store.table(f"DELETE FROM {table} WHERE fingerprint IN {stages} RETURNING 1", {"key": key})


def _no_run(store: Store, name: str, names: Sequence[str]) -> UsageError:
    return UsageError(
        f"no run '{shown(name)}' in {store.path}{near(name, names)}",
        f"runs there: {listed(names) or 'none'}",
    )


def triplets(store: Store, run: Run) -> pa.Table:
    """Returns a run's triplets in order of query_id, positive_id, rank: as `schema.TRIPLETS`, plain ids."""
    return store.table(
        """SELECT query_id, positive_id, negative_id, positive_score, negative_score, rank
        FROM triplets WHERE run_id = ? ORDER BY query_id, positive_id, rank, negative_id""",
        [run.run_id],
    )


def reason_counts(store: Store, run: Run) -> dict[str, int]:
    """Returns how many candidates had each reason, the commonest first; `kept` and `selected` included."""
    # By code first: names for millions of candidates take five times as long as the counting.
    rows = store.rows(
        f"""SELECT CASE WHEN code < {KEPT} THEN 'selected' WHEN code = {KEPT} THEN 'kept'
            ELSE enum_range(NULL::reason)[code % {SUSPECTED} + 1]::VARCHAR END AS r,
            sum(number)::BIGINT AS candidates
        FROM (SELECT code, count(*) AS number
            FROM (SELECT unnest(codes) AS code FROM decisions WHERE run_id = ?) GROUP BY code)
        GROUP BY r ORDER BY candidates DESC, r""",
        [run.run_id],
    )
    return dict(rows)


def triplet_count(store: Store, run: Run) -> int:
    """Returns how many triplets a run has."""
    ((number,),) = store.rows("SELECT count(*) FROM triplets WHERE run_id = ?", [run.run_id])
    return int(number)


def negative_counts(store: Store, run: Run) -> dict[int, int]:
    """Returns how many queries got how many negatives: number of negatives to number of queries."""
    rows = store.rows(
        f"""SELECT coalesce(found, 0) AS negatives, count(*)
        FROM (SELECT DISTINCT query_no FROM positives WHERE evidence = ?)
        LEFT JOIN (SELECT query_no, len(list_filter(codes, lambda code: code < {KEPT})) AS found
            FROM decisions WHERE run_id = ?) USING (query_no)
        GROUP BY negatives ORDER BY negatives""",
        [run.evidence, run.run_id],
    )
    return dict(rows)


def short_queries(store: Store, run: Run) -> pa.Table:
    """Returns the queries with too few negatives: query_no, codes (of their candidates; null without any)."""
    return store.table(
        f"""SELECT query_no, codes
        FROM (SELECT DISTINCT query_no FROM positives WHERE evidence = ?)
        LEFT JOIN (SELECT query_no, codes FROM decisions WHERE run_id = ?) USING (query_no)
        WHERE coalesce(len(list_filter(codes, lambda code: code < {KEPT})), 0) < ?
        ORDER BY query_no""",
        [run.evidence, run.run_id, run.negatives],
    )


def record_model(store: Store, fingerprint: str, kind: str, name: str, details: Mapping[str, Any]) -> None:
    """Notes a model that evidence depends on; `kind` is `encoder` or `reranker`.

    Of one that is known the name stays, and `details` are added to what is known of it.
    """
    known = store.rows("SELECT details FROM models WHERE fingerprint = ?", [fingerprint])
    if not known:
        store.execute(
            "INSERT INTO models VALUES (?, ?, ?, ?)",
            [fingerprint, kind, name, json.dumps(details, sort_keys=True)],
        )
        return
    before = json.loads(known[0][0])
    if (now := {**before, **details}) != before:
        store.execute(
            "UPDATE models SET details = ? WHERE fingerprint = ?",
            [json.dumps(now, sort_keys=True), fingerprint],
        )


def model_name(store: Store, fingerprint: str | None) -> str | None:
    """Returns the name under which a model was first used, or None."""
    found = store.rows("SELECT name FROM models WHERE fingerprint = ?", [fingerprint])
    return found[0][0] if found else None


def model_similarity(store: Store, fingerprint: str | None) -> str | None:
    """Returns how an encoder compares vectors, or None where the store does not know."""
    found = store.rows(
        "SELECT json_extract_string(details, '$.similarity') FROM models WHERE fingerprint = ?", [fingerprint]
    )
    return found[0][0] if found else None


def model_names(store: Store, run: Run) -> list[str]:
    """Returns what a run's candidates were found and scored by: `BM25`, the encoder, the reranker."""
    models = [model_name(store, run.encoder), model_name(store, run.reranker)]
    return ["BM25"] * bool(run.config.get("bm25")) + [name for name in models if name]
