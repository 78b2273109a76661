"""Positives without a score by the scorer that decides, as in a run of another search engine."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

import numpy as np

from miner.errors import counted
from miner.mining.positives import Positives
from miner.store import evidence as stored
from miner.store.database import Database
from miner.store.models import shown_scorer
from miner.store.runs import StoredRun
from miner.store.scorers import BM25, ENCODERS, IMPORTED

_MOST = 0.5
"""A scorer that has fewer of the positives than this share should not decide."""


@dataclass(frozen=True)
class Unscored:
    """The positives of a run by whether the deciding scorer has a score for them."""

    positives: int
    scored: int
    queries: int
    """Queries without a positive that has a score: they get no negatives."""


def unscored(store: Database, run: StoredRun) -> Unscored:
    """Returns how many positives of a run the deciding scorer has a score for."""
    positives = Positives(stored.scored_positives(store, run))
    scored = int(np.isfinite(positives.score).sum())
    queries = len(np.unique(positives.owner[~positives.has_scored[positives.owner]]))
    return Unscored(len(positives.owner), scored, queries)


def unscored_note(store: Database, run: StoredRun) -> str | None:
    """Returns a warning if an imported run decides that lacks most positives, or all of some query."""
    if run.deciding.kind != IMPORTED:
        return None
    found = unscored(store, run)
    if not found.queries and found.scored >= _MOST * found.positives:
        return None
    effect = "their margins and percentiles are of these alone"
    if found.queries:
        queries = counted(found.queries, "query gets", "queries get")
        effect = f"{queries} no negatives, because no positive has a score"
    return (
        f"warning: {run.deciding.name} decides, and has a score for {found.scored:,} of "
        f"{counted(found.positives, 'positive')}: {effect}; {other_deciders(store, run)}"
    )


def no_scored_positive(store: Database, run: StoredRun) -> str:
    """Returns why queries without a scored positive get no negatives, and what gives them some."""
    finite = "" if run.deciding.kind == IMPORTED else "finite "
    by = shown_scorer(store, run.deciding)
    return f"no positive has a {finite}score by {by}; {other_deciders(store, run)}"


def other_deciders(store: Database, run: StoredRun, what: str = "the positives") -> str:
    """Returns how `what`, pairs that the deciding scorer has no score for, could get one."""
    ways = []
    named = run.config["rules"]["decide_by"] is not None
    if not named and not any(one.kind in ENCODERS or one.is_reranker for one in run.scorers):
        ways.append("add --encoder or --reranker")
    if (other := _best_other(store, run)) is not None:
        ways.append(f"let another scorer decide: --set {quote(f'decide_by={other}')}")
    elif all(one.kind != BM25 for one in run.scorers):
        ways.append(f"leave BM25 on and let it decide: --set decide_by={BM25}")
    if run.deciding.kind == IMPORTED:
        ways.append(f"add {what} to the file of {run.deciding.name}")
    return ", or ".join(ways)


def _best_other(store: Database, run: StoredRun) -> str | None:
    """Returns the scorer with a score for the most positives; None if that is the deciding one.

    Among equals it is one that scores any pair, and the last of these.
    """
    known = {
        one: (int(np.isfinite(stored.positive_scores(store, run, one)).sum()), one.kind != IMPORTED)
        for one in run.scorers
    }
    best = max(run.scorers, key=lambda one: (known[one], one.number))
    return best.name if known[best] > known[run.deciding] else None
