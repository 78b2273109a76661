"""The layout of a table by its columns: pairs, triplets, labelled texts, documents or queries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote

from miner.errors import InputError, near, shown
from miner.sources.config import NO_COLUMN, SourceConfig
from miner.sources.files import HUB
from miner.sources.grades import is_grade
from miner.sources.id_rows import IdRows, id_rows
from miner.sources.table import Table
from miner.sources.training_rows import HAS_ANSWER, SHAPE_FORMATS, RowShape, score_columns, shape_of

_DEFAULTS = SourceConfig()
_DOCUMENT_IDS = ("doc_id", "_id", "id", "passage_id", "pid", "docid", "docno", "document_id")
"""Columns of ids in a table of documents alone. A passage's own id goes before that of its document."""
_DOCUMENT_TEXTS = ("text", "contents")
_OF_DOCUMENTS = frozenset({*_DOCUMENT_IDS, *_DOCUMENT_TEXTS, "title", "url", "metadata"})
"""A table with no other columns is a corpus alone. With others it may be labels: an option has to say."""
_IDS_OF_QUERIES = ("query_id", "query-id", "qid", "question_id", "topic_id")
_IDS_OF_POSITIVES = (*(name for name in _DOCUMENT_IDS if name not in ("id", "_id")),
                     "positive_id", "pos_id", "doc-id", "corpus_id", "corpus-id")  # fmt: skip
"""Columns beside pairs that seem to have the ids of queries and of positives: an option has to say."""
_QUERIES = re.compile(r"quer|topic|question", re.IGNORECASE)
_NO_QUERIES = re.compile(r"doc|corpus|collection|passage", re.IGNORECASE)
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
    """`pairs`, `triplets`, `labels`, `ids`, `documents` or `queries`."""
    query: str = ""
    positive: str = ""
    negatives: tuple[str, ...] = ()
    query_id: str | None = None
    document_id: str | None = None
    relevance: str | None = None
    text: str = ""
    title: str | None = None
    label: str = ""
    shape: RowShape | None = None
    """The shape of training data that the columns have; None for columns that options or defaults name."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """Columns of passages, and those with a list of their ids."""
    scores: Mapping[str, str] = field(default_factory=dict)
    """Columns of passages, and those of their scores, as `training_rows.score_columns` returns them."""
    grades: str | None = None
    """The column with a list of values that say how relevant each passage of `positive` is."""
    mined: bool = False
    """Whether a retriever found the negatives: nobody judged them."""
    id_rows: IdRows | None = None
    """The columns of rows of ids."""
    judged: bool = True
    """Whether the rows say which passages of `positive` are relevant."""
    has_negatives: bool = True
    """Whether a row has a negative, if there are columns for them."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of single texts to read, in the order of the values of a Record."""
        if self.kind == "ids":
            return ()
        every: tuple[str | None, ...] = (self.query, self.query_id, self.document_id, self.relevance)
        if self.kind == "labels":
            every = (self.text, self.label)
        elif self.kind in ("documents", "queries"):
            every = (self.query_id or self.document_id, self.text, self.title)
        return tuple(column for column in every if column)

    @property
    def passages(self) -> tuple[str, ...]:
        """The columns of lists to read: the positives, the negatives, and what belongs to them."""
        if not self.positive:
            return ()
        graded = (self.grades,) if self.grades not in (None, HAS_ANSWER) else ()
        return (self.positive, *self.negatives, *self.ids.values(), *graded)

    @property
    def read(self) -> frozenset[str]:
        """All columns to read."""
        return frozenset((*self.texts, *self.passages, *(self.id_rows.read if self.id_rows else ())))


def look_for_negatives(table: Table, layout: Layout) -> Layout:
    """Returns the layout with `has_negatives` set; reads the rows up to the first one with a negative."""
    columns = layout.id_rows.negatives if layout.id_rows else layout.negatives
    if not columns:
        return layout
    found = any(any(record.passages) for record in table.read((), columns))
    return replace(layout, has_negatives=found)


def id_options(columns: Sequence[str], layout: Layout) -> str:
    """Returns a hint on the options that read ids from columns that are not read; empty if there are none."""
    options = []
    if layout.kind in ("pairs", "triplets"):
        for setting, known, taken in (
            ("query_id_column", _IDS_OF_QUERIES, layout.query_id),
            ("document_id_column", _IDS_OF_POSITIVES, layout.document_id),
        ):
            name = next((name for name in columns if name.lower() in known), None)
            if name is not None and taken is None:
                options.append(f"--set {quote(f'{setting}={name}')}")
    elif layout.kind == "documents" and layout.document_id is None:
        options.append("--set document_id_column=NAME")
    which = "to read these" if layout.kind != "documents" else "if a column has them"
    return f"; ids are made from the texts; {which}: {' '.join(options)}" if options else ""


def find_layout(table: Table, config: SourceConfig) -> Layout:
    """Returns the layout that `format` names, else the one that the columns fit.

    Raises InputError if columns are missing.
    """
    if config.format in ("pairs", "triplets", *SHAPE_FORMATS):
        return _pairs(table, config, config.format)
    if config.format == "labels":
        table.require([config.text_column], "--text-column")
        table.require([config.label_column], "--label-column")
        return Layout("labels", text=config.text_column, label=config.label_column)
    if config.format == "documents":
        return _documents(table, config)
    query, positive, _, _ = _names(table, config)
    if {query, positive} <= set(table.columns):
        return _pairs(table, config)
    if {config.text_column, config.label_column} <= set(table.columns):
        return Layout("labels", text=config.text_column, label=config.label_column)
    if (ids := id_rows(table.columns)) is not None and (ids.positives or ids.grades) and not ids.is_qrels:
        mined = table.mined or config.mined_negatives or ids.scores is not None
        return Layout("ids", id_rows=ids, mined=mined)
    return _one_kind(table, config) or _fail(table, config)


def _names(table: Table, config: SourceConfig) -> tuple[str, str, tuple[str, ...], RowShape | None]:
    """Returns the columns of query, positive and negatives, and their shape if no option names others."""
    query, positive, negatives = config.query_column, config.positive_column, _negatives(table, config)
    named = config.format in SHAPE_FORMATS
    shape = shape_of(table.columns, config.format) if positive == _DEFAULTS.positive_column else None
    by_default = shape is not None and shape.positive != positive and {query, positive} <= set(table.columns)
    if shape is None or (by_default and not named):
        return query, positive, negatives, None
    if query == _DEFAULTS.query_column and (query not in table.columns or query not in shape.queries):
        query = next(name for name in shape.queries if name in table.columns)
    if config.negative_column == _DEFAULTS.negative_column:
        negatives = tuple(name for name in shape.negatives if name in table.columns) or negatives
    return query, shape.positive, negatives, shape


def _negatives(table: Table, config: SourceConfig) -> tuple[str, ...]:
    numbered = re.compile(re.escape(config.negative_column) + r"_([0-9]+)")
    found = [(int(match[1]), match[0]) for c in table.columns if (match := numbered.fullmatch(c))]
    plain = [config.negative_column] if config.negative_column in table.columns else []
    return (*plain, *(column for _, column in sorted(found)))


def _pairs(table: Table, config: SourceConfig, kind: str | None = None) -> Layout:
    query, positive, negatives, shape = _names(table, config)
    if kind in SHAPE_FORMATS:
        _require_shape(table, kind, shape)
        kind = None
    relevance, grades, judged = _relevance(table, config, shape)
    options = (
        (query, "--query-column"),
        (positive, "--positive-column"),
        (config.query_id_column, "--set query_id_column"),
        (config.document_id_column, "--set document_id_column"),
        (None if grades == HAS_ANSWER else relevance or grades, "--relevance-column"),
    )
    for column, option in options:
        if column is not None:
            table.require([column], option)
    if not negatives and (kind == "triplets" or config.negative_column != _DEFAULTS.negative_column):
        table.require([config.negative_column], "--set negative_column")
    query_id = config.query_id_column or _named(table, config, "query_id")
    if query_id is None and shape is not None and shape.has_ids and "query_id" in table.columns:
        query_id = "query_id"
    kind = kind or ("triplets" if negatives else "pairs")
    negatives = () if kind == "pairs" else negatives
    scores = score_columns(table, shape, bool(negatives))
    # A label of 0 beside a score is for a mined document, unless the user says that the column judges it.
    graded = (positive,) if shape is not None and shape.grades and config.relevance_column is None else ()
    ids = {
        name: column
        for name, column in (shape.ids if shape else {}).items()
        if column in table.columns and name in (positive, *negatives)
    }
    return Layout(
        kind,
        query,
        positive,
        negatives,
        query_id,
        config.document_id_column or _named(table, config, "doc_id"),
        relevance,
        shape=shape,
        ids=ids,
        scores=scores,
        grades=grades,
        mined=table.mined or config.mined_negatives or bool(set(scores) & {"", *negatives, *graded}),
        judged=judged,
    )


def _require_shape(table: Table, format: str, shape: RowShape | None) -> None:
    """Raises InputError for a table without the columns of the shape that `format` names."""
    if shape is None:
        raise InputError(
            f"{table.origin}: not the columns of --format {format}", f"its columns: {table.listed}"
        )


def _relevance(
    table: Table, config: SourceConfig, shape: RowShape | None
) -> tuple[str | None, str | None, bool]:
    """Returns the column of relevances, that of lists of them, and whether anything says what is relevant."""
    column = config.relevance_column or _named(table, config, "relevance")
    if column == NO_COLUMN:
        return None, None, True
    if shape is not None and shape.grades and column is None:
        column = next((name for name in shape.grades if name in table.columns), None)
        if column is None and (shape.positive in table.nested or table.mined):
            return None, None, False
    in_passages = shape is not None and column == HAS_ANSWER and HAS_ANSWER in shape.grades
    if in_passages or column in table.nested:
        return None, column, True
    return column, None, True


def _named(table: Table, config: SourceConfig, name: str) -> str | None:
    """Returns `name` if --columns contains it and the table has it; else None."""
    return name if name in (config.columns or ()) and name in table.columns else None


def _one_kind(table: Table, config: SourceConfig) -> Layout | None:
    """Returns the layout of a table of queries or of documents alone: an id and a text; else None."""
    columns, texts = set(table.columns), {config.text_column, *_DOCUMENT_TEXTS}
    if columns <= _OF_DOCUMENTS | texts and columns & texts and table.first_row is None:
        if not _is_named_queries(table.origin):
            return _documents(table, config)
        if config.query_id_column is not None:
            table.require([config.query_id_column], "--set query_id_column")
        found = _documents(table, replace(config, document_id_column=None))
        return Layout("queries", query_id=config.query_id_column or found.document_id, text=found.text)
    text = next((name for name in (config.text_column, "query") if name in columns), None)
    query_id = config.query_id_column or "query_id"
    document_id = config.document_id_column or ("docid" if "docid" in columns else "doc_id")
    if text is None or (query_id in columns and document_id in columns):
        return None
    if query_id in columns:
        return Layout("queries", query_id=query_id, text=text)
    if document_id in columns and text == config.text_column:
        return Layout(
            "documents", document_id=document_id, text=text, title="title" if "title" in columns else None
        )
    return None


def _is_named_queries(origin: str) -> bool:
    """Returns whether the name of a file, or of a configuration on the Hub, says that it has queries.

    BEIR's queries have the keys of documents.
    """
    name = origin.partition(":")[2].partition(":")[2] if origin.startswith(HUB) else Path(origin).name
    return bool(_QUERIES.search(name)) and not _NO_QUERIES.search(name)


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
    for column, option in (
        (config.query_id_column, "--set query_id_column"),
        (config.document_id_column, "--set document_id_column"),
    ):
        if column is not None and config.text_column in table.columns:
            table.require([column], option)
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
    if not example and not set(given) - {"--text-column"} and not only_pairs:
        hint += f"; if it is a corpus alone, without queries: {_corpus_options(table, config)}"
    raise InputError(f"{table.origin}: no {', nor '.join(parts)}", hint)


def _corpus_options(table: Table, config: SourceConfig) -> str:
    """Returns the options that read a table as documents alone."""
    text = next((name for name in (config.text_column, *_DOCUMENT_TEXTS) if name in table.columns), None)
    is_default = config.text_column == _DEFAULTS.text_column
    option = f" --text-column {quote(text) if text else 'NAME'}"
    identity = "" if set(_DOCUMENT_IDS) & set(table.columns) else " --set document_id_column=NAME"
    return f"--format documents{'' if text and is_default else option}{identity}"


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
