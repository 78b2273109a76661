"""How a source is to be read, and which split a file's name tells."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from miner.errors import UsageError, listed, near, shown
from miner.ranges import SEED, SHARE, check_fields, whole, within

FORMATS = ("auto", "beir", "pairs", "triplets", "labels", "trec", "hf", "python")

NO_COLUMN = "none"
"""As the relevance column: no column grades the pairs, every row is a positive."""

SKIPPED = "-"
"""As the name of a column: it is not read. At the end of a row such columns may be missing."""

NAMES = (
    "query_id", "query", "doc_id", "positive", "negative", "relevance",
    "title", "text", "label",
)  # fmt: skip
"""The names that `columns` may give, each with its meaning."""

_SPLITS = {
    "train": "train", "training": "train",
    "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev",
    "test": "test",
}  # fmt: skip


@dataclass(frozen=True)
class SourceConfig:
    """How to read the sources of one ingest. `check` raises UsageError for impossible values."""

    format: str = "auto"
    """One of FORMATS; `auto` looks at the files and their columns."""
    split: str | None = None
    """The split of the judgments; None takes it from the file names."""
    query_column: str = "query"
    positive_column: str = "positive"
    negative_column: str = "negative"
    """Triplets: this column, or several named negative_1, negative_2 and so on."""
    text_column: str = "text"
    label_column: str = "label"
    query_id_column: str | None = None
    """Where ids stand; without it they are made from the texts."""
    document_id_column: str | None = None
    relevance_column: str | None = None
    """Numbers, `true` and `false`, or the names in `relevance_map`. NO_COLUMN: no column grades the pairs."""
    relevance_map: Mapping[str, float] | None = None
    """The relevance that each value of `relevance_column` stands for, `""` for a missing one. Rows with
    another value are left out and counted."""
    header: bool = True
    """False: .tsv and .csv files have no header line, and `columns` names their columns."""
    columns: tuple[str, ...] | None = None
    """Without a header: the names of the columns in order, SKIPPED for one that is not read. NAMES have
    their meaning without further options."""
    quoted: bool | None = None
    """.tsv, .csv: whether fields may stand in quotes, as CSV has them. None: yes in .csv; in .tsv if all
    of the file fits that."""
    unpad_query_ids: bool = False
    """Removes leading zeros from query ids that are numbers: 051 becomes 51."""
    hf_split: str | None = None
    """The split of a Hugging Face data set to read; None reads all."""
    positives_per_query: int = within(8, whole(1, 10_000))
    """Labels: how many texts of the same label each text gets as positives."""
    max_bad: float = within(0.01, SHARE)
    """The share of rows that may be left out as bad before the ingest fails."""
    seed: int = within(13, SEED)
    queries_are_documents: bool | None = None
    """Whether a query and the document of the same id are the same thing, as in BEIR's ArguAna; such a
    document is never a negative of its query and is left out of its rankings. Kept in the store; None
    leaves what the store holds, at first that they are not."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises UsageError when a value is out of its range."""
        if self.format not in FORMATS:
            raise UsageError(
                f"no source format '{self.format}'{near(self.format, FORMATS)}",
                f"choose one of: {', '.join(FORMATS)}",
            )
        check_fields(self)
        self._check_columns()

    def _check_columns(self) -> None:
        if self.header and self.columns is not None:
            raise UsageError("--columns is for files without a header", "add --no-header, or leave it out")
        if not self.header and not self.columns:
            raise UsageError(
                "--no-header needs the names of the columns",
                f"add --columns, such as --columns query,positive; names with a meaning: {', '.join(NAMES)}",
            )
        columns = self.columns or ()
        named = [name for name in columns if name != SKIPPED]
        twice = next((name for name in named if named.count(name) > 1 or not name), None)
        if twice is not None:
            raise UsageError(f"--columns has the name '{shown(twice)}' twice or empty", "name each once")
        if self.relevance_map is None:
            return
        if self.relevance_column in (None, NO_COLUMN) and "relevance" not in columns:
            raise UsageError(
                "--relevance-map needs the column whose values it maps", "add --relevance-column NAME"
            )
        for value, relevance in self.relevance_map.items():
            if isinstance(relevance, bool) or not math.isfinite(relevance):
                raise UsageError(
                    f"--relevance-map gives '{shown(value)}' the relevance {relevance}",
                    "give a finite number, such as 1 or 0",
                )


def split_in(name: str) -> str | None:
    """Returns the split that a file name tells (`train`, `dev` or `test`), or None.

    The words of the name count, such as `train-00000-of-00001` and `qrels.dev`; validation is dev.
    """
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def require_one_split(config: SourceConfig, source: str, names: Sequence[str]) -> None:
    """Raises UsageError when --split would give several files, of different splits, one name."""
    if config.split is not None and len(set(names)) > 1:
        raise UsageError(
            f"--split {config.split} would merge the splits of {source}: {listed(sorted(set(names)))}",
            "leave --split out, or ingest one file at a time",
        )
