"""The layout of a table by its columns: pairs, triplets, labelled texts, documents or queries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from miner.errors import InputError, near, shown
from miner.sources.config import NO_COLUMN, SourceConfig
from miner.sources.grades import is_grade
from miner.sources.table import Table

_DEFAULTS = SourceConfig()
_LISTS = (
    ("pos", ("neg",)),
    ("positive_passages", ("negative_passages",)),
    ("positive_ctxs", ("hard_negative_ctxs", "negative_ctxs")),
)
"""Columns of lists in the training data of FlagEmbedding, Tevatron and DPR: positives, negatives."""
SCORES_BESIDE = {"pos": "pos_scores", "neg": "neg_scores"}
"""Columns of FlagEmbedding's lists, and those of their scores."""
_QUERIES_BESIDE_LISTS = ("query", "question", "anchor")
_DOCUMENT_IDS = ("doc_id", "_id", "id", "docid", "docno", "document_id", "passage_id", "pid")
"""Columns of ids in a table of documents alone."""
_DOCUMENT_TEXTS = ("text", "contents")
_OF_DOCUMENTS = frozenset({*_DOCUMENT_IDS, *_DOCUMENT_TEXTS, "title", "url", "metadata"})
"""A table with no other columns is a corpus alone. With others it may be labels: an option has to say."""
_PAIRS = (
    ("question1", "question2"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("anchor", "positive"),
    ("sent1", "sent2"), ("text1", "text2"),
    ("query", "passage"), ("query", "document"), ("query", "text"), ("question", "answer"),
    ("question", "context"), ("query", "product_title"), ("query", "answer"), ("title", "text"),
)  # fmt: skip
"""Columns that messages give as an example of the options; only an option makes miner read them."""


@dataclass(frozen=True)
class Layout:
    """The columns of a table, by what they hold."""

    kind: str
    """`pairs`, `triplets`, `labels`, `documents` or `queries`."""
    query: str = ""
    positive: str = ""
    negatives: tuple[str, ...] = ()
    query_id: str | None = None
    document_id: str | None = None
    relevance: str | None = None
    text: str = ""
    title: str | None = None
    label: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of single texts to read, in the order of the values of a Record."""
        every: tuple[str | None, ...] = (self.query, self.query_id, self.document_id, self.relevance)
        if self.kind == "labels":
            every = (self.text, self.label)
        elif self.kind in ("documents", "queries"):
            every = (self.query_id or self.document_id, self.text, self.title)
        return tuple(column for column in every if column)

    @property
    def passages(self) -> tuple[str, ...]:
        """The columns of passages to read: the positives, then the negatives."""
        return (self.positive, *self.negatives) if self.positive else ()

    @property
    def read(self) -> frozenset[str]:
        """All columns to read."""
        return frozenset((*self.texts, *self.passages))


def find_layout(table: Table, config: SourceConfig) -> Layout:
    """Returns the layout that `format` names, else the one that the columns fit.

    Raises InputError if columns are missing.
    """
    if config.format in ("pairs", "triplets"):
        return _pairs(table, config, config.format)
    if config.format == "labels":
        table.require([config.text_column], "--text-column")
        table.require([config.label_column], "--label-column")
        return Layout("labels", text=config.text_column, label=config.label_column)
    if config.format == "documents":
        return _documents(table, config)
    query, positive, _ = _names(table, config)
    if {query, positive} <= set(table.columns):
        return _pairs(table, config)
    if {config.text_column, config.label_column} <= set(table.columns):
        return Layout("labels", text=config.text_column, label=config.label_column)
    return _one_kind(table, config) or _fail(table, config)


def _names(table: Table, config: SourceConfig) -> tuple[str, str, tuple[str, ...]]:
    """Returns the columns of query, positive and negatives; known lists if the options name no others."""
    query, positive, negatives = config.query_column, config.positive_column, _negatives(table, config)
    for known, others in _LISTS:
        if positive == _DEFAULTS.positive_column and positive not in table.columns and known in table.columns:
            if query == _DEFAULTS.query_column:
                query = next((name for name in _QUERIES_BESIDE_LISTS if name in table.columns), query)
            positive = known
            if config.negative_column == _DEFAULTS.negative_column:
                negatives = tuple(name for name in others if name in table.columns) or negatives
    return query, positive, negatives


def _negatives(table: Table, config: SourceConfig) -> tuple[str, ...]:
    numbered = re.compile(re.escape(config.negative_column) + r"_([0-9]+)")
    found = [(int(match[1]), match[0]) for c in table.columns if (match := numbered.fullmatch(c))]
    plain = [config.negative_column] if config.negative_column in table.columns else []
    return (*plain, *(column for _, column in sorted(found)))


def _pairs(table: Table, config: SourceConfig, kind: str | None = None) -> Layout:
    query, positive, negatives = _names(table, config)
    options = (
        (query, "--query-column"),
        (positive, "--positive-column"),
        (config.query_id_column, "--set query_id_column"),
        (config.document_id_column, "--set document_id_column"),
        (None if config.relevance_column == NO_COLUMN else config.relevance_column, "--relevance-column"),
    )
    for column, option in options:
        if column is not None:
            table.require([column], option)
    if kind == "triplets" and not negatives:
        table.require([config.negative_column], "--set negative_column")
    query_id = config.query_id_column or _named(table, config, "query_id")
    if query_id is None and positive in {known for known, _ in _LISTS} and "query_id" in table.columns:
        query_id = "query_id"
    relevance = config.relevance_column or _named(table, config, "relevance")
    return Layout(
        kind or ("triplets" if negatives else "pairs"),
        query,
        positive,
        () if kind == "pairs" else negatives,
        query_id,
        config.document_id_column or _named(table, config, "doc_id"),
        None if relevance == NO_COLUMN else relevance,
    )


def _named(table: Table, config: SourceConfig, name: str) -> str | None:
    """Returns `name` if --columns contains it and the table has it; else None."""
    return name if name in (config.columns or ()) and name in table.columns else None


def _one_kind(table: Table, config: SourceConfig) -> Layout | None:
    """Returns the layout of a table of queries or of documents alone: an id and a text; else None."""
    columns, texts = set(table.columns), {config.text_column, *_DOCUMENT_TEXTS}
    if columns <= _OF_DOCUMENTS | texts and columns & texts and table.first_row is None:
        return _documents(table, config)
    text = next((name for name in (config.text_column, "query") if name in columns), None)
    query_id, document_id = config.query_id_column or "query_id", config.document_id_column or "doc_id"
    if text is None or (query_id in columns and document_id in columns):
        return None
    if query_id in columns:
        return Layout("queries", query_id=query_id, text=text)
    if document_id in columns and text == config.text_column:
        return Layout(
            "documents", document_id=document_id, text=text, title="title" if "title" in columns else None
        )
    return None


def _documents(table: Table, config: SourceConfig) -> Layout:
    """Returns the layout of a corpus alone: a text, and an id and a title if the table has them."""
    text = next((name for name in (config.text_column, *_DOCUMENT_TEXTS) if name in table.columns), None)
    if text is None or config.text_column != _DEFAULTS.text_column:
        table.require([config.text_column], "--text-column")
    if config.document_id_column is not None:
        table.require([config.document_id_column], "--set document_id_column")
    known = (config.document_id_column, *_DOCUMENT_IDS)
    return Layout(
        "documents",
        document_id=next((name for name in known if name in table.columns), None),
        text=text or config.text_column,
        title="title" if "title" in table.columns else None,
    )


def _fail(table: Table, config: SourceConfig) -> Layout:
    """Raises InputError for a table that has neither pairs nor labels."""
    pairs = {"--query-column": config.query_column, "--positive-column": config.positive_column}
    labels = {"--text-column": config.text_column, "--label-column": config.label_column}
    given = {
        option: column
        for option, column in (pairs | labels).items()
        if column != getattr(_DEFAULTS, option[2:].replace("-", "_"))
    }
    pairs, labels = (
        {option: column for option, column in wanted.items() if column not in table.columns}
        for wanted in (pairs, labels)
    )
    if table.first_row is not None:
        raise table.no_header(next(iter(given.values()), config.query_column))
    named = {*given, *(["--query-column"] if config.negative_column != _DEFAULTS.negative_column else [])}
    only_pairs = named and not named & {"--text-column", "--label-column"}
    only_labels = named and not named & {"--query-column", "--positive-column"}
    parts = []
    if not only_labels:
        parts.append(f"{_missing(table, pairs)} for pairs")
    if not only_pairs:
        parts.append(f"{_missing(table, labels)} for labels")
    wanted = ({} if only_labels else pairs) | ({} if only_pairs else labels)
    open_options = [option for option in wanted if option not in given]
    hint = f"its columns: {table.listed}"
    example = _example(table) if not given else ""
    if example:
        hint += f"; name yours, such as {example}"
    elif open_options:
        hint += f"; name yours with {_or(open_options)}"
    if config.text_column in table.columns and not given:
        hint += "; if it is a corpus alone, without queries: --format documents"
    raise InputError(f"{table.origin}: no {', nor '.join(parts)}", hint)


def _or(options: Sequence[str]) -> str:
    pairs = [option for option in options if option in ("--query-column", "--positive-column")]
    labels = [option for option in options if option not in pairs]
    return ", or ".join(" and ".join(found) for found in (pairs, labels) if found)


def _missing(table: Table, wanted: dict[str, str]) -> str:
    absent = [f"'{shown(column)}'{near(column, table.columns)}" for column in wanted.values()]
    return f"{'column' if len(absent) == 1 else 'columns'} {' and '.join(absent)}"


def _example(table: Table) -> str:
    """Returns options for well-known columns of pairs, if the table has some; else an empty text."""
    found = next((pair for pair in _PAIRS if set(pair) <= set(table.columns)), None)
    if found is None:
        return ""
    grades = [name for name in table.columns if name not in found and is_grade(name)]
    relevance = f" --relevance-column {quote(grades[0])}" if grades else ""
    query = "" if found[0] == _DEFAULTS.query_column else f"--query-column {found[0]} "
    return f"{query}--positive-column {found[1]}{relevance}"
