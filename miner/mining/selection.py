"""Selection: the choice of a query's negatives among its kept candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from miner.arrays import number_within
from miner.errors import UsageError, listed, near, shown
from miner.mining.config import Selection, parse_quota
from miner.store.scorers import Scorer

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NO_QUOTAS: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True)
class Kept:
    """Kept candidates by group: arrays of one length, `group` sorted."""

    group: Ints
    """The query of each, or with `reference_positive=each` the positive."""
    docs: Callable[[], Ints]
    """Returns `doc`; called only if something depends on it."""
    score: Floats
    reference: Floats
    scorer: npt.NDArray[np.int8]
    """The number of the retriever that ranks it best."""
    key: npt.NDArray[np.uint64]
    """A hash of the query's and the document's id, the source of random choices."""

    @cached_property
    def doc(self) -> Ints:
        """The document's position in the order of ids; ties go to the smaller one."""
        return self.docs()


def quotas(config: Selection, scorers: Sequence[Scorer]) -> dict[int, int]:
    """Returns the most negatives of a query that a retriever may rank best, by the number of the retriever.

    Raises UsageError for a quota of a retriever that the run does not have.
    """
    numbers = {one.name: one.number for one in scorers if not one.is_reranker}
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
    preference = _preference(kept, config)
    order = _sorted_rows(kept, preference)
    capped = np.zeros(0, dtype=np.int64)
    if config.document_cap is None or served is None:
        allowed = _within_quota(kept, order, quotas)
    else:
        allowed, capped = _under_cap(kept, order, config, quotas, served)
    chosen = allowed[number_within(kept.group[allowed]) <= config.negatives]
    if config.strategy != "top":
        chosen = chosen[np.lexsort((kept.doc[chosen], -kept.score[chosen], kept.group[chosen]))]
    slots = np.zeros(len(kept.group), dtype=np.int64)
    slots[capped] = -1
    slots[chosen] = number_within(kept.group[chosen])
    return chosen, slots


def _preference(kept: Kept, config: Selection) -> Floats:
    """The value of each row; larger values are selected first."""
    if config.strategy == "top":
        return kept.score
    uniform = _uniform(kept.key, config.seed)
    if config.strategy == "random":
        return uniform
    # Gumbel top-k sampling draws without replacement with p ∝ exp(weight) (Kool et al. 2019). The weight is
    # the one of SimANS (Zhou et al. 2022, equation 4).
    weight = -config.ambiguous_a * (kept.score - kept.reference - config.ambiguous_b) ** 2
    return np.asarray(weight - np.log(-np.log(uniform)), dtype=np.float64)


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
    same = kept.group[1:] == kept.group[:-1]
    rising = same & (preference[1:] >= preference[:-1])
    if not rising.any():
        return np.arange(len(preference))
    tied = np.flatnonzero(rising)
    if np.all(preference[tied + 1] == preference[tied]) and np.all(kept.doc[tied + 1] > kept.doc[tied]):
        return np.arange(len(preference))
    return np.lexsort((kept.doc, -preference, kept.group))


def _within_quota(kept: Kept, order: Ints, quotas: Mapping[int, int]) -> Ints:
    allowed = np.ones(len(order), dtype=np.bool_)
    for scorer, quota in quotas.items():
        mine = np.flatnonzero(kept.scorer[order] == scorer)
        allowed[mine] = number_within(kept.group[order[mine]]) <= quota
    return order[allowed] if quotas else order


def _under_cap(
    kept: Kept, order: Ints, config: Selection, quotas: Mapping[int, int], served: Ints
) -> tuple[Ints, Ints]:
    """Selects group by group, and drops documents that were selected as often as the cap allows.

    Quotas count here too: a dropped candidate does not use up its retriever's quota.
    """
    allowed: list[int] = []
    capped: list[int] = []
    free, left, current = config.negatives, dict(quotas), -1
    docs, groups, scorers = (column[order].tolist() for column in (kept.doc, kept.group, kept.scorer))
    for row, doc, group, scorer in zip(order.tolist(), docs, groups, scorers, strict=True):
        if group != current:
            free, left, current = config.negatives, dict(quotas), group
        if not free or not left.get(scorer, 1):
            continue
        if served[doc] >= (config.document_cap or 0):
            capped.append(row)
            continue
        served[doc] += 1
        free -= 1
        if scorer in left:
            left[scorer] -= 1
        allowed.append(row)
    return np.array(allowed, dtype=np.int64), np.array(capped, dtype=np.int64)
