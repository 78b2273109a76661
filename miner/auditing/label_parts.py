"""The false-negative rate of parts of a run's negatives: by fused rank, and by the retriever that found them.

A part's rate is the ratio of two stratified estimates, its relevant negatives and its negatives (Särndal,
Swensson & Wretman 1992, Model Assisted Survey Sampling, section 5.8). The interval is that of Clopper and
Pearson with the effective sample size (Korn & Graubard 1998), which is never more than the labels of the
part: no gain over a plain sample is credited. Predictions are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.auditing.audit import BANDS
from miner.stats import exact_interval
from miner.store.database import Database
from miner.store.labels import labelled_sample
from miner.store.report import sampled_ranks
from miner.store.runs import StoredRun

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PartRate:
    """The false-negative rate of a part of a run's negatives, with a 95 % interval."""

    kind: str
    """`rank` or `retriever`."""
    part: str
    """A band of fused ranks such as `1-5`, or the name of a retriever."""
    rate: float
    low: float
    high: float
    labels: int
    """Labels of the part."""
    relevant: int
    """How many of them are relevant. Likely ones are sampled more: this is not the rate."""


def rates_by_part(store: Database, run: StoredRun) -> list[PartRate]:
    """Returns the rate of every band of ranks and of every retriever that has a label; empty without labels.

    The rates are of the negatives that no judgment already calls not relevant. A negative that several
    retrievers found counts for each.
    """
    found = labelled_sample(store, run)
    if found is None:
        return []
    sample, labelled = found
    ranks = {(one["query_id"], one["doc_id"]): one for one in sampled_ranks(store, run, sample).to_pylist()}
    pairs = zip(labelled["query_id"].to_pylist(), labelled["doc_id"].to_pylist(), strict=True)
    placed = [ranks[pair] for pair in pairs]
    stratum: Ints = labelled["stratum"].to_numpy().astype(np.int64)
    relevant: Floats = (labelled["relevance"].to_numpy() > 0).astype(np.float64)
    population = np.asarray(sample.strata.negatives, dtype=np.int64)
    parts = []
    for kind, name, inside in _parts(run, placed):
        if inside.any():
            rate, low, high = ratio_estimate(inside, relevant, stratum, population)
            labels, hits = int(inside.sum()), int(relevant[inside].sum())
            parts.append(PartRate(kind, name, rate, low, high, labels, hits))
    return parts


def _parts(run: StoredRun, placed: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, Flags]]:
    rank = np.array([one["fused_rank"] for one in placed], dtype=np.int64)
    low = 1
    for high in BANDS:
        yield "rank", f"{low}-{high}", (rank >= low) & (rank <= high)
        low = high + 1
    yield "rank", f"from {low}", rank >= low
    for one in run.retrievers:
        found = [one.number in (pair["scorers"] or ()) for pair in placed]
        yield "retriever", one.name, np.array(found, dtype=np.bool_)


def ratio_estimate(
    inside: Flags, relevant: Floats, stratum: Ints, population: Ints
) -> tuple[float, float, float]:
    """Returns the relevant share of a part of a population, and the ends of its 95 % interval.

    The arrays have one value per label, `population` the items per stratum. `inside` says which labels are
    of the part; at least one must be.
    """
    number = np.bincount(stratum, minlength=len(population))
    weight = population[stratum] / number[stratum]
    own = np.where(inside, weight, 0.0)
    rate = float(own @ relevant / own.sum())
    residual = own * (relevant - rate) / own.sum()
    mean = np.bincount(stratum, residual, len(population)) / np.maximum(1, number)
    # A stratum with one label: its variance is unknown, so its whole deviation counts.
    centred = np.where(number[stratum] > 1, residual - mean[stratum], residual)
    spread = np.bincount(stratum, centred**2, len(population)) * number / np.maximum(1, number - 1)
    if (number >= population).all():  # every negative is labelled
        return rate, rate, rate
    unknown = 1 - number / np.maximum(1, population)
    variance = float(unknown @ spread)
    size = float(own.sum() ** 2 / (own**2).sum())
    if variance > 0:
        size = min(size, rate * (1 - rate) / variance)
    low, high = exact_interval(rate, max(1.0, size))
    return rate, low, high
