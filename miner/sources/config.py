"""How to read a source, and which split the name of a file means."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from miner.errors import UsageError, listed, near, shown
from miner.ranges import (
    BELOW_1,
    NO_VALUE,
    SEED,
    SHARE,
    SPLITS,
    check_fields,
    known_keywords,
    require_one_of,
    whole,
    within,
)
from miner.store.chunks import BEST, CHUNK_POSITIVES
from miner.store.division import Division, require_undivided

FORMATS = (
    "auto", "beir", "mteb", "msmarco", "trec", "gpl", "llamaindex", "squad", "esci", "nli", "duplicates",
    "label-studio", "argilla", "vespa", "pairs", "triplets", "labels", "documents", "hf", "irds", "python",
    "export", "ids", "flagembedding", "tevatron", "dpr", "sentence-transformers",
)  # fmt: skip

NO_COLUMN = NO_VALUE
"""Value of `relevance_column` if no column grades the pairs: every row is a positive."""

SKIPPED = "-"
"""Name of a column that is not read. Such columns may be missing at the end of a row."""

NAMES = (
    "query_id", "query", "doc_id", "positive", "negative", "relevance",
    "title", "text", "label",
)  # fmt: skip
"""The names in `columns` that need no further option."""


@known_keywords
@dataclass(frozen=True)
class SourceConfig:
    """How to read the sources of one ingest. `check` raises UsageError for a value out of range."""

    format: str = "auto"
    """One of FORMATS; `auto` detects the format from the files and their columns."""
    split: str | None = None
    """Split of the judgments; None takes it from the names of the files. `val`, `valid` and `validation` mean
    `dev`."""
    dev: float = within(0.0, BELOW_1)
    """Fraction of the queries to put into split `dev`; 0 for none."""
    test: float = within(0.0, BELOW_1)
    """Fraction of the queries to put into split `test`; 0 for none."""
    query_column: str = "query"
    positive_column: str = "positive"
    negative_column: str = "negative"
    """Triplets: this column, or several columns named negative_1, negative_2 and so on."""
    text_column: str = "text"
    label_column: str = "label"
    query_id_column: str | None = None
    """Column of the query ids; None makes ids from the texts."""
    document_id_column: str | None = None
    """Column of the document ids; None makes ids from the texts."""
    relevance_column: str | None = None
    """Column of numbers, `true` and `false`, or the values in `relevance_map`; NO_COLUMN if there is none."""
    relevance_map: Mapping[str, float] | None = None
    """Relevance of each value of `relevance_column`; `""` is a missing value. Rows with other values are left
    out and counted."""
    header: bool = True
    """False: .tsv and .csv files have no header line, and `columns` names their columns."""
    columns: tuple[str, ...] | None = None
    """Names of the columns, in order, of files without a header; SKIPPED for a column that is not read. NAMES
    need no further option."""
    quoted: bool | None = None
    """Whether fields of .tsv and .csv files are quoted. None: in .csv yes, in .tsv if the whole file fits."""
    unpad_query_ids: bool = False
    """Whether to remove leading zeros from query ids that are numbers: 051 becomes 51."""
    hf_split: str | None = None
    """Split of a Hugging Face data set to read; None reads all."""
    mined_negatives: bool = False
    """Whether the negatives beside positives were mined and nobody judged them: then they are documents only.
    Negatives with scores and those of an export are, whatever this says."""
    positives_per_query: int = within(8, whole(1, 10_000))
    """Labels: number of texts of the same label that are drawn as positives of each text."""
    max_bad: float = within(0.01, SHARE)
    """Largest fraction of bad rows; with more the ingest fails."""
    chunk: str | None = None
    """Size at which documents are cut into chunks: `words:N`, `sentences:N` or `tokens:N`; None leaves them
    whole."""
    overlap: int = within(0, whole(0, 1_000_000))
    """How many of a chunk's words, sentences or tokens are in the one before it too."""
    chunk_tokenizer: str = "bundled"
    """The model whose tokens `tokens:N` counts: hub id, folder or `bundled`."""
    chunk_positives: str = BEST
    """Which chunks of a relevant document are positives: `best`, the one that shares most words with the
    query, or `all`."""
    seed: int = within(13, SEED)
    """Seed of `dev` and `test`, and of the positives drawn for labels."""
    queries_are_documents: bool | None = None
    """Whether a query and the document with the same id are the same thing, as in BEIR's ArguAna. Such a
    document is never a negative of its query and is left out of its rankings. The setting is stored; None
    keeps the stored one, at first False."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises UsageError if a value is out of range, or if options contradict each other."""
        check_fields(self)
        if self.format not in FORMATS:
            raise UsageError(
                f"no source format '{self.format}'{near(self.format, FORMATS)}",
                f"choose one of: {', '.join(FORMATS)}",
            )
        if self.dev + self.test >= 1:
            raise UsageError(
                f"dev and test must leave queries to train on, got {self.dev:g} and {self.test:g}",
                "give fractions with a sum below 1",
            )
        require_one_of("chunk_positives", self.chunk_positives, CHUNK_POSITIVES)
        if self.chunk is not None and self.queries_are_documents:
            raise UsageError("queries_are_documents and chunk exclude each other", "leave one out")
        self._check_columns()

    @property
    def division(self) -> Division | None:
        """How to divide the queries into splits; None if they keep their split."""
        return Division(self.dev, self.test, self.seed) if self.dev or self.test else None

    @property
    def names_columns(self) -> bool:
        """Whether an option names a column: then a source is a table with this column."""
        return not self.header or bool(self.named_columns)

    @property
    def named_columns(self) -> Mapping[str, str]:
        """The columns that options name, with the last option that names each."""
        named = {part.name: part.default for part in fields(self) if part.name.endswith("_column")}
        return {value: name for name, default in named.items() if (value := getattr(self, name)) != default}

    def _check_columns(self) -> None:
        if self.header and self.columns is not None:
            raise UsageError(
                "--columns is for files without a header", "add --no-header, or leave --columns out"
            )
        if not self.header and not self.columns:
            raise UsageError(
                "--no-header needs the names of the columns",
                f"add --columns, such as --columns query,positive; known names: {', '.join(NAMES)}",
            )
        columns = self.columns or ()
        named = [name for name in columns if name != SKIPPED]
        twice = next((name for name in named if named.count(name) > 1 or not name), None)
        if twice is not None:
            raise UsageError(
                f"--columns has the name '{shown(twice)}' twice or empty", "name each column once"
            )
        if self.relevance_map is None:
            return
        if self.relevance_column in (None, NO_COLUMN) and "relevance" not in columns:
            raise UsageError(
                "--relevance-map needs the column with the values", "add --relevance-column NAME"
            )
        for value, relevance in self.relevance_map.items():
            if isinstance(relevance, bool) or not math.isfinite(relevance):
                raise UsageError(
                    f"--relevance-map gives '{shown(value)}' the relevance {relevance}",
                    "give a finite number, such as 1 or 0",
                )


def split_in(name: str) -> str | None:
    """Returns the split that a file name contains as a word: `train`, `dev`, `test` or None.

    Examples are `train-00000-of-00001`, `qrels.dev` and MS MARCO's `docdev-qrels`; `validation` means dev.
    """
    words = [word.removeprefix("doc") for word in re.split(r"[^a-z]+", name.lower())]
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def require_splits(config: SourceConfig, source: str, names: Sequence[str]) -> None:
    """Raises UsageError if the options do not fit the splits in the names of the files.

    `split` must not merge several splits, and `dev` and `test` divide a single one.
    """
    if config.split is not None and len(set(names)) > 1:
        raise UsageError(
            f"--split {config.split} would merge the splits of {source}: {listed(sorted(set(names)))}",
            "leave --split out, or ingest one file at a time",
        )
    if config.division is not None and names:
        require_undivided({config.split} if config.split else set(names), source)
