"""Selection: the choice of a query's negatives among its kept candidates.

A strategy is the order in which a query's candidates are considered. Quotas and the document cap refuse some
of them, and the next ones take their places. Whatever the strategy, slot 1 is the hardest one selected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import floor
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from miner.arrays import first_within, number_within
from miner.errors import UsageError, listed, near, shown
from miner.mining.config import Selection, parse_quota
from miner.store.scorers import Scorer

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NO_QUOTAS: Mapping[int, int] = MappingProxyType({})
Pass = tuple[Ints, int]
"""Rows in the order in which they are considered, by group, and how many negatives a group has after them."""


@dataclass(frozen=True)
class Kept:
    """Kept candidates by group: arrays of one length, `group` sorted."""

    group: Ints
    """The query of each, or with `reference_positive=each` the positive."""
    docs: Callable[[Ints], Ints]
    """Returns `doc` of some rows; called only for rows that something depends on."""
    score: Floats
    reference: Floats
    scorer: npt.NDArray[np.integer]
    """The number of the retriever that ranks it best."""
    key: npt.NDArray[np.uint64]
    """A hash of the query's and the document's id, the source of random choices."""

    @cached_property
    def doc(self) -> Ints:
        """The document's position in the order of ids; ties go to the smaller one."""
        return self.docs(np.arange(len(self.group)))


def quotas(config: Selection, scorers: Sequence[Scorer]) -> dict[int, int]:
    """Returns the most negatives of a query that a retriever may rank best, by the number of the retriever.

    Raises UsageError for a quota of a retriever that the run does not have.
    """
    numbers = {one.name: one.number for one in scorers if one.is_retriever}
    found = {}
    for text in config.quota:
        name, most = parse_quota(text)
        if name not in numbers:
            raise UsageError(
                f"quota of '{shown(name)}': the run has no such retriever{near(name, numbers)}",
                f"retrievers: {listed(numbers)}",
            )
        found[numbers[name]] = most
    return found


def select(
    kept: Kept, config: Selection, served: Ints | None = None, quotas: Mapping[int, int] = NO_QUOTAS
) -> tuple[Ints, Ints]:
    """Returns the selected rows, and each row's slot: 1 for its group's hardest, 0 if not selected.

    `served` counts how often each document was selected; it is used and updated if there is a document cap.
    Rows that the cap drops have slot -1. `quotas` are those of the function of that name.
    """
    passes = _passes(kept, config)
    capped = np.zeros(0, dtype=np.int64)
    if config.document_cap is None or served is None:
        chosen = _chosen(kept, passes, quotas)
    else:
        chosen, capped = _under_cap(kept, passes, config, quotas, served)
    if config.strategy != "top":
        chosen = chosen[np.lexsort((kept.doc[chosen], -kept.score[chosen], kept.group[chosen]))]
    slots = np.zeros(len(kept.group), dtype=np.int64)
    slots[capped] = -1
    slots[chosen] = number_within(kept.group[chosen])
    return chosen, slots


def easy_negatives(config: Selection) -> int:
    """Returns how many of a query's negatives are easy: `easy_share` of them, a half rounded up."""
    return floor(config.easy_share * config.negatives + 0.5) if config.strategy == "mixed" else 0


def _passes(kept: Kept, config: Selection) -> list[Pass]:
    """Returns the orders in which each group's candidates are considered, one after the other.

    Only `mixed` has more than one: the hardest candidates first, then easy ones, drawn at random from those
    that are not among the `negatives` hardest; if these are too few, the hardest again.
    """
    if config.strategy == "stratified":
        return [(_stratified(kept, config), config.negatives)]
    hardest = _sorted_rows(kept, _preference(kept, config))
    easy = easy_negatives(config)
    if not easy:
        return [(hardest, config.negatives)]
    others = hardest[number_within(kept.group[hardest]) > config.negatives]
    uniform = _uniform(kept.key, config.seed)[others]
    others = others[np.lexsort((kept.doc[others], -uniform, kept.group[others]))]
    hard = config.negatives - easy
    return [(hardest, hard), (others, config.negatives), (hardest, config.negatives)]


def _preference(kept: Kept, config: Selection) -> Floats:
    """The value of each row; larger values are selected first."""
    if config.strategy in ("top", "mixed"):
        return kept.score
    uniform = _uniform(kept.key, config.seed)
    if config.strategy == "random":
        return uniform
    # Gumbel top-k sampling draws without replacement with p ∝ exp(weight) (Kool et al. 2019). The weight is
    # the one of SimANS (Zhou et al. 2022, equation 4).
    weight = -config.ambiguous_a * (kept.score - kept.reference - config.ambiguous_b) ** 2
    return np.asarray(weight - np.log(-np.log(uniform)), dtype=np.float64)


def _stratified(kept: Kept, config: Selection) -> Ints:
    """Returns the rows of each group so that the first `negatives` are even over its range of scores.

    The range between a group's highest and lowest score is cut into `negatives` intervals of equal width. One
    candidate is drawn from each, the hardest interval first. In place of an empty interval, candidates come
    from those nearest to an empty one, in turn: by distance, then by how many of the interval are ahead of
    them, then the harder interval. The other candidates follow interval by interval in the same way.

    A student that is distilled from a teacher should see the whole range of the teacher's scores (Jang et al.
    2026, arXiv 2604.04734). Most candidates score low: intervals with equally many candidates would select
    almost as `random` does, and the few scores near the positive, with the smallest margins, would be missed.
    A draw from each interval, rather than its middle, keeps the choice from always being the same outlier.
    """
    order = _sorted_rows(kept, kept.score)
    group, score = kept.group[order], kept.score[order]
    first = np.flatnonzero(np.diff(group, prepend=-1))
    size = np.diff(np.append(first, len(group)))
    number = np.repeat(np.arange(len(first)), size)
    highest, lowest = score[first], score[first + size - 1]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        below = (highest[number] - score) / (highest - lowest)[number]
    # Equal scores are one interval.
    below = np.where(np.isfinite(below), below, 0.0)
    interval = np.minimum((below * config.negatives).astype(np.int64), config.negatives - 1)
    draw = np.lexsort((kept.doc[order], -_uniform(kept.key, config.seed)[order], interval, number))
    cell = number * config.negatives + interval
    drawn = np.empty(len(order), dtype=np.int64)
    drawn[draw] = number_within(cell[draw])
    distance = np.where(drawn == 1, -1, _to_empty(number, interval, size > config.negatives, config))
    return order[np.lexsort((interval, drawn, distance, number))]


def _to_empty(number: Ints, interval: Ints, roomy: npt.NDArray[np.bool_], config: Selection) -> Ints:
    """Returns each row's distance, in intervals, to the nearest empty interval of its group.

    It is `negatives` if none is empty, and 0 in groups that are not `roomy`: these have no more candidates
    than are wanted.
    """
    distance = np.zeros(len(number), dtype=np.int64)
    rows = np.flatnonzero(roomy[number])
    if not len(rows):
        return distance
    line = (np.cumsum(roomy) - 1)[number[rows]]
    shape = int(line[-1]) + 1, config.negatives
    empty = np.ones(shape, dtype=np.bool_)
    empty[line, interval[rows]] = False
    own = np.arange(config.negatives)
    far = 2 * config.negatives
    before = np.maximum.accumulate(np.where(empty, own, -far), axis=1)
    after = np.minimum.accumulate(np.where(empty, own, far)[:, ::-1], axis=1)[:, ::-1]
    nearest = np.minimum(own - before, after - own)[line, interval[rows]]
    distance[rows] = np.minimum(nearest, config.negatives)
    return distance


def _uniform(key: npt.NDArray[np.uint64], seed: int) -> Floats:
    """A number in (0, 1) per row that depends only on the pair and the seed (SplitMix64)."""
    with np.errstate(over="ignore"):
        x = key + np.uint64(seed % (1 << 64)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53)


def _sorted_rows(kept: Kept, preference: Floats) -> Ints:
    """Rows by group, then preference, then document. Often they are in this order already."""
    tied = np.flatnonzero(preference[1:] >= preference[:-1])
    tied = tied[kept.group[tied + 1] == kept.group[tied]]
    if not len(tied):
        return np.arange(len(preference))
    is_equal = preference[tied + 1] == preference[tied]
    if np.all(is_equal) and np.all(kept.docs(tied + 1) > kept.docs(tied)):
        return np.arange(len(preference))
    return np.lexsort((kept.doc, -preference, kept.group))


def _chosen(kept: Kept, passes: Sequence[Pass], quotas: Mapping[int, int]) -> Ints:
    """Returns the rows that are selected if no document is capped, by group."""
    if len(passes) == 1:
        rows, most = passes[0]
        rows = _within_quota(kept, rows, quotas)
        return rows[first_within(kept.group[rows], most)]
    taken = np.zeros(len(kept.group), dtype=np.bool_)
    for rows, most in passes:
        # What earlier passes took comes first, so that it counts against quotas and the number wanted.
        before = np.flatnonzero(taken)
        rows = np.concatenate([before, rows[~taken[rows]]])
        rows = _within_quota(kept, rows[np.argsort(kept.group[rows], kind="stable")], quotas)
        taken[rows[first_within(kept.group[rows], most)]] = True
    return np.flatnonzero(taken)


def _within_quota(kept: Kept, order: Ints, quotas: Mapping[int, int]) -> Ints:
    allowed = np.ones(len(order), dtype=np.bool_)
    for scorer, quota in quotas.items():
        mine = np.flatnonzero(kept.scorer[order] == scorer)
        allowed[mine] = number_within(kept.group[order[mine]]) <= quota
    return order[allowed] if quotas else order


def _under_cap(
    kept: Kept, passes: Sequence[Pass], config: Selection, quotas: Mapping[int, int], served: Ints
) -> tuple[Ints, Ints]:
    """Selects group by group, and drops documents that were selected as often as the cap allows.

    Quotas count here too: a dropped candidate does not use up its retriever's quota.
    """
    order = np.concatenate([rows for rows, _ in passes])
    limit = np.repeat([most for _, most in passes], [len(rows) for rows, _ in passes])
    # All passes over one group come before the next group.
    by_group = np.argsort(kept.group[order], kind="stable")
    order, limits = order[by_group], limit[by_group].tolist()
    allowed: list[int] = []
    capped: list[int] = []
    seen: set[int] = set()
    taken, left, current = 0, dict(quotas), -1
    docs, groups, scorers = (column[order].tolist() for column in (kept.doc, kept.group, kept.scorer))
    rows = zip(order.tolist(), docs, groups, scorers, limits, strict=True)
    for row, doc, group, scorer, most in rows:
        if group != current:
            taken, left, current = 0, dict(quotas), group
        if taken >= most or not left.get(scorer, 1) or row in seen:
            continue
        seen.add(row)
        if served[doc] >= (config.document_cap or 0):
            capped.append(row)
            continue
        served[doc] += 1
        taken += 1
        if scorer in left:
            left[scorer] -= 1
        allowed.append(row)
    return np.array(allowed, dtype=np.int64), np.array(capped, dtype=np.int64)
