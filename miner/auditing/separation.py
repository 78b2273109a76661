"""Separation: how well each scorer of a run separates hidden positives from the other candidates.

The measure is the area under the ROC curve of a query: the chance that one of its positives scores above one
of its candidates, drawn at random; equal scores count half (Bamber 1975, The area above the ordinal dominance
graph and the area below the receiver operating characteristic graph; Hanley & McNeil 1982, The meaning and
use of the area under a receiver operating characteristic (ROC) curve). Chance has 0.5, perfect order 1. The
separation of a scorer is the mean over queries.

The positives are those that may be hidden and that a retriever found: no other is ever a candidate. The
candidates are those that are not excluded, so nobody judged them relevant. Every scorer is measured on the
same pairs: those that all compared scorers scored as candidates (view `scores`). A reranker scores every
positive, but candidates only down to `rerank_depth`, `cascade_depth` or the end of its rounds; a positive
below these is left out as a candidate is, since a comparison of all positives with the best candidates would
measure the depth. What chose the pairs (the fused rank, or the reranker before) is measured within its own
choice, and separates less there than it does among all. Relevant documents that nobody judged are among the
candidates, so the separation is a lower bound for a scorer that ranks them high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from miner.arrays import as_numpy
from miner.auditing.replay import Replay, Replays
from miner.errors import counted, listed
from miner.reporting.tables import NONE, percent, percent_interval, text_table
from miner.schema import FREE
from miner.stats import compare_columns, holm
from miner.store.evidence import positive_scores
from miner.store.scorers import Scorer

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_ENOUGH = 0.5
"""A scorer is compared if it scored this share of the positives, and enough candidates in this share of the
queries."""
_ROUNDS = 1000
"""How many rounds the bootstrap and the test have; more would take longer than the rest."""
_LEVEL = 0.05


@dataclass(frozen=True)
class Separation:
    """How well one scorer separates the hidden positives of a run."""

    scorer: str
    kind: str
    chance: float
    """The chance that a hidden positive scores above a candidate of its query, mean over queries."""
    low: float
    high: float
    """The ends of its 95 % bootstrap interval over queries."""
    queries: int
    """The queries that it is a mean over."""
    behind: float
    """How far it is below the best scorer, mean over the same queries; 0 for the best itself."""
    behind_low: float
    behind_high: float
    """The ends of the 95 % interval of that difference, paired by query."""
    p: float
    """The p value of the difference (paired randomisation test), corrected for several scorers (Holm); 1 for
    the best itself."""

    @property
    def is_worse(self) -> bool:
        """Whether the difference from the best scorer is shown."""
        return self.p < _LEVEL


@dataclass(frozen=True)
class Scores:
    """A scorer's scores of all positives of a run, by query_no and doc_id; NaN without a finite one."""

    scorer: Scorer
    positives: Floats


def comparable(replays: Replays) -> tuple[list[Scores], dict[str, str]]:
    """Returns the scores of the scorers that can be compared, and why each other scorer cannot, by name.

    The scorer that decides in the run is the first. A scorer can be compared if it scored at least half of
    the positives that may be hidden, together with the scorers before it, and in half of the queries as many
    candidates as negatives are requested. An imported run often lacks the scores of most positives.
    """
    store, run, hideable = replays.store, replays.run, replays.hideable
    others = [one for one in run.scorers if one.number != run.deciding.number]
    enough = _with_enough(replace(replays, others=others))
    found = [Scores(run.deciding, hideable.positives.score)]
    left_out = {}
    common, needed = hideable.allowed, _ENOUGH * int(hideable.allowed.sum())
    for scorer in others:
        scores = Scores(scorer, positive_scores(store, run, scorer))
        known = common & np.isfinite(scores.positives)
        if known.sum() < max(1, needed):
            left_out[scorer.name] = (
                f"of {int(hideable.allowed.sum()):,} positives that can be hidden, {int(known.sum()):,} have "
                "its score and those of the other scorers"
            )
        elif (share := enough[scorer]) < _ENOUGH:
            left_out[scorer.name] = (
                f"it has scores of {replays.config.selection.negatives} or more candidates in only "
                f"{100 * share:.0f} % of the queries"
            )
        else:
            found.append(scores)
            common = known
    return found, left_out


def _with_enough(replays: Replays) -> dict[Scorer, float]:
    """Returns the share of queries in which each of the others scored as many candidates as negatives are
    requested."""
    counts = dict.fromkeys(replays.others, 0)
    owner = replays.hideable.positives.owner
    for replay in replays.parts():
        queries = len(replay.numbers)
        exists = np.bincount(owner[replay.rows] - replay.numbers.start, minlength=queries) > 0
        for scorer in replays.others:
            usable = _free(replay) & np.isfinite(replay.scores_of(scorer))
            number = np.bincount(replay.query[usable], minlength=queries)
            counts[scorer] += int((number[exists] >= replays.config.selection.negatives).sum())
    return {scorer: count / len(np.unique(owner)) for scorer, count in counts.items()}


def _free(replay: Replay) -> Flags:
    return np.asarray(as_numpy(replay.candidates["exclusion"]) == FREE)


def chances_of(replays: Replays, compared: Sequence[Scores]) -> tuple[Ints, Floats, int]:
    """Returns the queries that can be measured, and every scorer's chance in each: shape (queries, scorers).

    The third value is the number of positives that are not compared, because they are below the depth of a
    reranker. `replays` says which positives may be hidden (`Hideable.scored_by` all compared scorers).
    """
    hideable = replays.hideable
    hidden = hideable.allowed & hideable.scored
    queries, values, below_depth = [], [], 0
    for replay in replace(replays, others=[one.scorer for one in compared[1:]]).parts():
        rows, count = replay.rows, len(replay.numbers)
        scores = [replay.score, *(replay.scores_of(one.scorer) for one in compared[1:])]
        scored = np.logical_and.reduce([np.isfinite(one) for one in scores])
        found = hidden[rows] & (replay.row >= 0)
        within = found & np.append(scored, False)[replay.row]
        below_depth += int(found.sum() - within.sum())
        owner = (hideable.positives.owner[rows] - replay.numbers.start)[within]
        usable = _free(replay) & scored
        query = replay.query[usable].astype(np.int64)
        columns = [
            chances(owner, of.positives[rows][within], query, score[usable], count)
            for of, score in zip(compared, scores, strict=True)
        ]
        measured = np.flatnonzero(np.isfinite(columns[0]))
        queries.append(measured + replay.numbers.start)
        values.append(np.column_stack(columns)[measured])
    return np.concatenate(queries), np.concatenate(values), below_depth


def chances(owner: Ints, positive: Floats, query: Ints, candidate: Floats, queries: int) -> Floats:
    """Returns per query the chance that a positive scores above a candidate; equal scores count half.

    `owner` is the query of each of the scores `positive`, `query` that of each of the scores `candidate`; all
    scores are finite. NaN for a query without a positive or without a candidate.
    """
    # A score's position among all distinct ones is a whole number: one sort orders all queries at once.
    distinct, position = np.unique(np.concatenate([candidate, positive]), return_inverse=True)
    size = max(1, len(distinct))
    keys = np.sort(query * size + position[: len(candidate)])
    own = owner * size + position[len(candidate) :]
    first = np.searchsorted(keys, np.arange(queries + 1) * size)
    below = np.searchsorted(keys, own) - first[owner]
    not_above = np.searchsorted(keys, own, side="right") - first[owner]
    number = np.diff(first)[owner]
    with np.errstate(invalid="ignore"):
        chance = (below + not_above) / 2 / number
        total = np.bincount(owner, chance, queries)
        return np.asarray(total / np.bincount(owner, minlength=queries), dtype=np.float64)


def separations(compared: Sequence[Scores], values: Floats) -> tuple[Separation, ...]:
    """Returns every scorer's separation, the best first; `values` are those of `chances_of`.

    Empty if no query can be measured.
    """
    if not len(values):
        return ()
    count = len(compared)
    best = int(np.argmax(values.mean(axis=0)))
    above = np.repeat(values[:, [best]], count, axis=1)
    # One comparison with 0 for the interval of each scorer, and one with the best, all from the same draws.
    found = compare_columns(
        ["chance"] * count + ["behind"] * count,
        np.column_stack([values, above]),
        np.column_stack([np.zeros_like(values), values]),
        rounds=_ROUNDS,
    )
    others = [one for one in range(count) if one != best]
    p = dict(zip(others, holm([found[count + one].p for one in others]), strict=True))
    result = [
        Separation(
            scores.scorer.name,
            scores.scorer.kind,
            mean.difference,
            mean.low,
            mean.high,
            len(values),
            behind.difference,
            behind.low,
            behind.high,
            p.get(number, 1.0),
        )
        for number, (scores, mean, behind) in enumerate(
            zip(compared, found[:count], found[count:], strict=True)
        )
    ]
    return tuple(sorted(result, key=lambda one: (one.scorer != compared[best].scorer.name, -one.chance)))


_MEANING = (
    "separation: the chance that a hidden positive scores above a candidate of its query; 50 % is chance"
)
_INTERVAL = "95 % interval"


def comparison(
    separation: Sequence[Separation], tried: Sequence[str], left_out: Mapping[str, str], below_depth: int
) -> list[str]:
    """Returns the paragraphs that say which scorer separates best, and on which ones rules were `tried`.

    `below_depth` is that of `chances_of`.
    """
    parts = []
    if separation:
        rows = [["scorer", "kind", "separation", _INTERVAL, "queries", "behind the best", _INTERVAL]]
        for number, one in enumerate(separation):
            cells = [percent(one.chance, 2), percent_interval(one.low, one.high, 2), f"{one.queries:,}"]
            behind = [percent(one.behind, 2), percent_interval(one.behind_low, one.behind_high, 2)]
            rows.append([one.scorer, one.kind, *cells, *(behind if number else [NONE, NONE])])
        said = f"the rules were tried on the scores of {listed(tried, ' and ')}"
        if len(tried) < len(separation):
            said += "; --set scorers=all tries them on all"
        table = text_table(rows, left=(0, 1))
        parts.append("\n".join([*table, _MEANING, _best(separation), said]))
    if below_depth:
        parts.append(
            f"not compared: {counted(below_depth, 'positive')} below the depth to which every reranker "
            "scored candidates. Among the best candidates alone, what chose them separates less than among "
            "all: mine without rerank_depth, cascade_depth and rounds to compare on all pairs"
        )
    if left_out:
        parts.append("\n".join(f"scorer {name} is left out: {why}" for name, why in left_out.items()))
    return parts


def _best(separation: Sequence[Separation]) -> str:
    """Says which scorer separates best, and from which others its difference is not shown."""
    best, *others = separation
    level = [one.scorer for one in others if not one.is_worse]
    if not level:
        return f"{best.scorer} separates hidden positives best"
    return (
        f"{best.scorer} has the highest separation; its difference from {listed(level, ' and ')} is not shown"
    )
