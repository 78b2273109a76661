"""A judge's grades as predictions of what people's labels of a sample say.

The false-negative rate is estimated from people's labels. The grades of the pairs that nobody labelled make
it more exact, however often the judge errs: the labels correct them (`estimate`). A prediction is 1 if the
judge calls the pair relevant and 0 if not. If its answer cannot be read, or the document has no text to ask
about, it is the chance that the sample was drawn by.

The judge must have been asked about all pairs of the sample, or about all negatives of the run: grades of a
part that nobody drew at random could bias the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.auditing.estimate import Design
from miner.auditing.prediction import predicted_chance
from miner.store import judges
from miner.store import labels as stored
from miner.store.database import Database
from miner.store.judges import RELEVANT, StoredJudge
from miner.store.labels import StoredSample
from miner.store.runs import StoredRun

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Pair = tuple[str, str]


@dataclass(frozen=True)
class JudgePredictions:
    """What a judge predicts about the strata of a sample."""

    name: str
    """Its name in the run."""
    graded: int
    """Pairs that the means rest on."""
    by_pair: Mapping[Pair, float]
    """The prediction for each pair of the sample."""
    items: Ints
    """By stratum, the pairs that the means rest on."""
    means: Floats
    """By stratum, the mean prediction."""
    weighted: Floats
    """By stratum, the mean of the prediction times the weight of the query."""

    def of(self, pairs: pa.Table) -> Floats:
        """Returns the prediction for each of some pairs of the sample (query_id, doc_id)."""
        return np.array([self.by_pair[pair] for pair in _pairs(pairs)], dtype=np.float64)


def judge_predictions(
    store: Database, run: StoredRun, sample: StoredSample, drawn: pa.Table
) -> JudgePredictions | None:
    """Returns the predictions of the run's latest judge that was asked about a whole sample; None without.

    `drawn` is `store.labels.sampled_pairs`.
    """
    known = {one.judge: one for one in judges.judges(store)}
    for scorer in reversed([one for one in run.scorers if one.is_judge]):
        judge = known[str(scorer.model)]
        own = _predicted(store, judge, drawn, drawn["predicted"].to_numpy())
        if own is None:
            continue
        by_pair = dict(zip(_pairs(drawn), own.tolist(), strict=True))
        found = _of_all(store, run, sample, judge, drawn)
        if found is None:
            found = own, drawn["weight"].to_numpy(), drawn["stratum"].to_numpy().astype(np.int64)
        values, weight, stratum = found
        items = np.bincount(stratum, minlength=len(sample.strata.negatives))
        means, weighted = (
            np.bincount(stratum, column, len(items)) / np.maximum(1, items)
            for column in (values, values * weight)
        )
        return JudgePredictions(scorer.name, len(values), by_pair, items, means, weighted)
    return None


def _of_all(
    store: Database, run: StoredRun, sample: StoredSample, judge: StoredJudge, drawn: pa.Table
) -> tuple[Floats, Floats, Ints] | None:
    """Returns prediction, weight and stratum of all negatives that the sample was drawn from.

    None if the judge was not asked about all of them, or if the strata cannot be found again because the
    store has changed since.
    """
    selected = judges.selected_pairs(store, run)
    if judges.answer_counts(store, judge.members)["pairs"] < selected.num_rows:
        return None  # without reading all texts
    if _predicted(store, judge, selected, np.zeros(selected.num_rows)) is None:
        return None
    table, chance, rows = unjudged_negatives(store, run)
    design = Design.of(chance[rows], sample.requested)
    pairs = table.take(pa.array(rows)).select(["query_id", "doc_id"])
    strata = dict(zip(_pairs(pairs), design.stratum.tolist(), strict=True))
    again = [strata.get(pair) for pair in _pairs(drawn)]
    if again != drawn["stratum"].to_pylist() or design.population.tolist() != list(sample.strata.negatives):
        return None
    values = _predicted(store, judge, pairs, chance[rows])
    if values is None:
        return None
    weight = query_weights(table["query_no"].to_numpy(), table["negative"].to_numpy())[rows]
    return values, weight, design.stratum


def _predicted(store: Database, judge: StoredJudge, pairs: pa.Table, otherwise: Floats) -> Floats | None:
    """Returns the prediction for each of some pairs; None if the judge was not asked about all of them."""
    ids = pairs.select(["query_id", "doc_id"])
    grades = judges.grades_of(store, judge, ids)
    given = dict(zip(_pairs(grades), grades["grade"].to_pylist(), strict=True))
    if any(pair not in given for pair in _pairs(judges.with_pairs(store, ids))):
        return None
    found = [given.get(pair) for pair in _pairs(pairs)]
    return np.array(
        [
            chance if grade is None else float(grade >= RELEVANT)
            for grade, chance in zip(found, otherwise.tolist(), strict=True)
        ],
        dtype=np.float64,
    )


def unjudged_negatives(store: Database, run: StoredRun) -> tuple[pa.Table, Floats, Ints]:
    """Returns `store.labels.predictable`, the chance of each row, and the rows of negatives to label."""
    table = stored.predictable(store, run)
    rows = np.flatnonzero(table["negative"].to_numpy() & ~table["judged"].to_numpy())
    return table, predicted_chance(table), rows


def query_weights(query: Ints, is_negative: npt.NDArray[np.bool_]) -> Floats:
    """Returns how much each negative counts if every query with negatives counts the same; mean 1."""
    number = np.bincount(query[is_negative], minlength=int(query.max(initial=0)) + 1)
    queries = int((number > 0).sum())
    return np.asarray(is_negative.sum() / (queries * np.maximum(1, number[query])))


def _pairs(table: pa.Table) -> list[Pair]:
    return list(zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True))
