"""A format of training data: a function from triplets to the rows of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from miner.store.triplets import TRIPLET_TEXTS

ANY_FILE = ("jsonl", "csv", "parquet", "datasets")
BINARY, GRADE = "binary", "grade"
TRAIN, EVALUATE = "Train", "Evaluate"
"""What a format is for, as a heading of the card."""
LABELS = (BINARY, GRADE)
"""What a positive's label is: 1, or its relevance."""


@dataclass(frozen=True)
class Shape:
    """The settings of an export that change its rows."""

    scores: bool
    """Whether the rows have the deciding scores."""
    negatives: int
    """How many negatives an n-tuple has."""
    run: str
    """The name of the run."""
    labels: str = BINARY
    """One of LABELS."""
    include_positives: bool = False
    """Whether an evaluation row ranks the positives among the negatives."""


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
    tasks: tuple[str, ...]
    """The Hugging Face task categories."""
    file_types: tuple[str, ...] = ANY_FILE
    """The file types that readers of the format accept; the first is the default."""
    scores: bool = True
    """Whether the rows can have scores."""
    labels: bool = False
    """Whether the rows have labels unless they have scores."""
    positions: bool = False
    """Whether the rows can rank documents as the run's candidates are ranked."""
    full_rows: str = ""
    """What leaves out pairs with fewer negatives than a row has: the format's name, or one of its configs."""
    use: str = TRAIN
    """What it is for: TRAIN or EVALUATE."""
    selections: Mapping[str, Rows] = field(default_factory=dict)
    """The rows of each config of a data set of ids; empty for a format of one table."""

    def schema(self, shape: Shape) -> pa.Schema:
        """Returns the columns of its rows."""
        return self.rows(TRIPLET_TEXTS.empty_table(), shape).schema
