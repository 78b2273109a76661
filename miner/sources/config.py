"""How a source is to be read, and which split a file's name tells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from miner.errors import UsageError, listed, near

FORMATS = ("auto", "beir", "pairs", "triplets", "labels", "trec", "hf", "python")

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
    hf_split: str | None = None
    """The split of a Hugging Face data set to read; None reads all."""
    positives_per_query: int = 8
    """Labels: how many texts of the same label each text gets as positives."""
    max_bad: float = 0.01
    """The share of rows that may be left out as bad before the ingest fails."""
    seed: int = 13

    def check(self) -> None:
        """Raises UsageError when a value is out of its range."""
        if self.format not in FORMATS:
            raise UsageError(
                f"no source format '{self.format}'{near(self.format, FORMATS)}",
                f"choose one of: {', '.join(FORMATS)}",
            )
        if not 0 <= self.max_bad <= 1:
            raise UsageError(f"--max-bad is {self.max_bad}", "give a share from 0 to 1, such as 0.01")
        if self.positives_per_query < 1:
            raise UsageError(f"--positives-per-query is {self.positives_per_query}", "give 1 or more")


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
