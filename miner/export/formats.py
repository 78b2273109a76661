"""What a format of training data is: one function from triplets to the rows of a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from miner.store.triplets import TRIPLET_TEXTS

ANY_FILE = ("jsonl", "csv", "parquet", "datasets")


@dataclass(frozen=True)
class Shape:
    """What the rows of one export look like."""

    scores: bool
    """Whether the deciding scores are in them."""
    negatives: int
    """How many negatives an n-tuple has."""
    run: str
    """The name of the run."""


@dataclass(frozen=True)
class Format:
    """One format of training data."""

    summary: str
    """What a row is, in a line of Markdown."""
    rows: Callable[[pa.Table, Shape], pa.Table]
    """Triplets of whole queries (`reading.TRIPLET_TEXTS`, ordered) to rows; also of none at all."""
    training: str
    """How to train on it, in Markdown; `{file}` is the data file, `{group}` a positive and its negatives."""
    scored_training: str
    """The same for data with scores."""
    task: str
    """The Hugging Face task category."""
    file_types: tuple[str, ...] = ANY_FILE
    """Which file types its readers take; the first is the default."""

    def schema(self, shape: Shape) -> pa.Schema:
        """Returns the columns of its rows."""
        return self.rows(TRIPLET_TEXTS.empty_table(), shape).schema
