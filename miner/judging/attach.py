"""A judge as a scorer of a run: its grades beside the scores of retrievers and rerankers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from miner.arrays import as_lists, as_numpy
from miner.engine.work import run_stage
from miner.models.names import unique_name
from miner.schema import CANDIDATES_PER_QUERY
from miner.store import evidence
from miner.store import judges as stored
from miner.store.database import Database
from miner.store.judges import RELEVANT, StoredJudge
from miner.store.ledger import Stage
from miner.store.runs import StoredRun, find_run
from miner.store.scorers import Scorer, set_judge
from miner.store.tables import JUDGE

_QUERIES = 100_000
"""Queries whose grades are stored at a time."""
_CODE = 1


def attach(store: Database, run: StoredRun, judge: StoredJudge) -> StoredRun:
    """Adds a judge's grades to the scores of a run, and returns the run with them.

    They replace those of the same judge, unless the run was decided with these: a run shows the scores that
    it was decided with. Then they become another scorer, with a number after the name.
    """
    own = [one for one in run.scorers if one.is_judge and one.model == judge.judge]
    free = [one for one in own if not _decides(run, one)]
    number = free[0].number if free else len(run.scorers)
    taken = [one.name for one in run.scorers if one.number != number]
    name = free[0].name if free else unique_name(judge.name, taken)
    queries = stored.query_count(store, run)
    stage = _stage(store, run, judge, number, queries)
    if any(one.stage == stage.key for one in own):
        return run
    _keep(store, run, judge, stage, queries)
    set_judge(store, run.run_id, Scorer(number, name, JUDGE, judge.judge, stage.key))
    return find_run(store, run.name)


def _decides(run: StoredRun, scorer: Scorer) -> bool:
    """Returns whether a run's verdicts depend on a scorer."""
    return run.deciding == scorer or run.config["rules"]["agree"] is not None


def _stage(store: Database, run: StoredRun, judge: StoredJudge, number: int, queries: int) -> Stage:
    counts = stored.answer_counts(store, judge.members)
    inputs = {
        "evidence": run.evidence,
        "judge": judge.judge,
        "scorer": number,
        "answers": counts,  # answers are only added
        "code": _CODE,
    }
    return Stage("judging", inputs, -(-queries // _QUERIES))


def _keep(store: Database, run: StoredRun, judge: StoredJudge, stage: Stage, queries: int) -> None:
    """Stores the grade of every candidate and positive: NaN for an answer that cannot be read.

    A candidate that the judge was not asked about has none; such a positive counts as relevant, since the
    judgments say so.
    """
    pairs = evidence.candidate_pairs(store, run.evidence)
    candidate = pairs.query * CANDIDATES_PER_QUERY + pairs.fused_rank
    graded = stored.graded_candidates(store, run, judge)
    scores = np.full(len(candidate), np.nan)
    at = as_numpy(graded["query_no"]).astype(np.int64) * CANDIDATES_PER_QUERY + as_numpy(graded["fused_rank"])
    scores[np.searchsorted(candidate, at)] = _as_given(graded["grade"])
    known = stored.graded_positives(store, run, judge)
    owner = as_numpy(known["query_no"]).astype(np.int64)
    positives = np.where(as_numpy(known["seen"]), _as_given(known["grade"]), float(RELEVANT))

    def compute(chunk: int) -> dict[str, pa.Table]:
        """Returns the grades of a chunk of queries."""
        first, stop = chunk * _QUERIES, min((chunk + 1) * _QUERIES, queries)
        mine = slice(*np.searchsorted(pairs.query, [first, stop]))
        own = slice(*np.searchsorted(owner, [first, stop]))
        sizes = np.bincount(pairs.query[mine] - first, minlength=stop - first)
        counts = np.bincount(owner[own] - first, minlength=stop - first)
        rows: dict[str, Any] = {
            "query_no": np.arange(first, stop, dtype=np.int32),
            "scorer": np.full(stop - first, stage.inputs["scorer"], dtype=np.int16),
            "ranks": as_lists(pa.nulls(int(sizes.sum()), pa.int32()), sizes),
            "scores": as_lists(evidence.as_stored(scores[mine]), sizes),
            "positives": as_lists(evidence.as_stored(positives[own]), counts),
        }
        return {"scored": pa.table(rows)}

    run_stage(store, stage, compute, at_once=1, evidence=stage.key)


def _as_given(grades: pa.ChunkedArray) -> Any:
    """Returns grades as `evidence.as_stored` takes them: infinity for an answer that cannot be read."""
    return grades.cast(pa.float64()).fill_null(np.inf).to_numpy()
