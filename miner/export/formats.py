"""A format of training data: a function from triplets to the rows of a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from miner.store.triplets import TRIPLET_TEXTS

ANY_FILE = ("jsonl", "csv", "parquet", "datasets")


@dataclass(frozen=True)
class Shape:
    """The settings of an export that change its rows."""

    scores: bool
    """Whether the rows have the deciding scores."""
    negatives: int
    """How many negatives an n-tuple has."""
    run: str
    """The name of the run."""


Rows = Callable[[pa.Table, Shape], pa.Table]
"""From triplets (`TRIPLET_TEXTS`, ordered, all of a query together; possibly none) to rows."""


@dataclass(frozen=True)
class Format:
    """One format of training data."""

    summary: str
    """What a row is, in a line of Markdown."""
    rows: Rows
    training: str
    """How to train on the data, in Markdown; `{file}` is the data file, `{group}` 1 + negatives."""
    scored_training: str
    """How to train on the data with scores, in the same form."""
    task: str
    """The Hugging Face task category."""
    file_types: tuple[str, ...] = ANY_FILE
    """The file types that readers of the format accept; the first is the default."""

    def schema(self, shape: Shape) -> pa.Schema:
        """Returns the columns of its rows."""
        return self.rows(TRIPLET_TEXTS.empty_table(), shape).schema
