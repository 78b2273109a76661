"""A run held against judgments that it did not know: what people say of its negatives and its drops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner.errors import UsageError
from miner.stats import Rate, clustered_rate
from miner.store.database import Store
from miner.store.runs import Run
from miner.store.verdicts import verdicts_of


@dataclass(frozen=True)
class Judged:
    """What people say of a run's candidates."""

    judgments: int
    """How many were given."""
    matched: int
    """Those about a candidate of the run."""
    relevant: dict[str, Rate]
    """The relevant share of the judged candidates of each outcome: `negative`, `kept`, or a reason."""


def against_judgments(store: Store, run: Run, judgments: pa.Table) -> Judged:
    """Compares a run with judgments (query_id, doc_id, relevance); above 0 is relevant.

    Raises UsageError when none of them is about a candidate of the run.
    """
    joined = verdicts_of(store, run).join(judgments, ["query_id", "doc_id"], join_type="inner")
    if not joined.num_rows:
        raise UsageError(
            f"none of the {judgments.num_rows:,} judgments is about a candidate of run '{run.name}'",
            "query and document ids must be those of the store",
        )
    rates = {}
    for outcome in sorted(
        pc.unique(joined["outcome"]).to_pylist(), key=lambda name: (name != "negative", name)
    ):
        part = joined.filter(pc.equal(joined["outcome"], outcome))
        _, query = np.unique(part["query_id"].to_numpy(), return_inverse=True)
        relevant = pc.greater(part["relevance"], 0).to_numpy()
        rates[outcome] = clustered_rate(np.bincount(query, relevant), np.bincount(query), part.num_rows)
    return Judged(judgments.num_rows, joined.num_rows, rates)
