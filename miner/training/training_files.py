"""Reads the files that trainings read (.tsv, .csv, JSON, Parquet, exports) with the readers of sources.

Lists of passages become several rows of single texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from miner.errors import InputError, UsageError, counted, listed, shown
from miner.sources.beir import is_beir
from miner.sources.config import SourceConfig
from miner.sources.files import File, files_in, locate
from miner.sources.json_rows import raw_column
from miner.sources.saved import is_saved_dataset, load_saved
from miner.sources.tabular import is_table, open_table
from miner.sources.values import NotTextError, as_passages
from miner.text import join_title

MANIFEST = "manifest.json"
OF_TEXTS = "triplet, n-tuple or labeled-pair"
"""The export formats whose rows are single texts."""
_TRAIN = "train"
"""The split of a `datasets` folder that is read."""
_FEATURES = b"huggingface"
"""The key in the metadata of a Parquet file under which `datasets` keeps the names of classes."""
_POSITIVES = ("positive", "positives", "pos", "positive_passages", "positive_ctxs")
_NEGATIVES = ("negative", "negatives", "neg", "negative_passages", "hard_negative_ctxs")
_POSITIVE_SCORES, _NEGATIVE_SCORES = "pos_scores", "neg_scores"
SCORES = ("scores", "labels", _POSITIVE_SCORES, _NEGATIVE_SCORES)
"""The columns that may hold a list of numbers in each row."""


def read_rows(source: str, names: Sequence[str] | None = None) -> tuple[pa.Table, tuple[str, ...]]:
    """Returns the rows of a table, a `datasets` folder or an export, and the splits that are not read.

    `names` are the columns of a file without a header line. Lists of scores and of passages are read as
    lists; other lists are null. Raises InputError for data that cannot be read, UsageError for `names` of
    data that has its own.
    """
    path = _data(source)
    if not path.is_dir():
        return _table(File(path, source), names), ()
    if names is not None:
        raise UsageError(
            f"--no-header has no effect on {source}: its columns have names", "leave it out for this folder"
        )
    return _saved(path)


def _data(source: str) -> Path:
    """The data file or `datasets` folder: of an export the one below it, otherwise the source itself."""
    try:
        path = locate(source)
    except InputError as error:
        hint = "name a file, a folder that miner export wrote, or a store"
        raise InputError(error.message, hint) from error
    if not (path / MANIFEST).is_file():
        _require_rows(source, path)
        return path
    if is_saved_dataset(path / "data"):
        return path / "data"
    data = files_in(source, path / "data") if (path / "data").is_dir() else []
    files = [file.path for file in data if is_table(file)]
    if len(files) != 1:
        raise InputError(f"{source}: no data file to train on", f"export as {OF_TEXTS}, to jsonl")
    return files[0]


def _require_rows(source: str, path: Path) -> None:
    """Raises InputError for a folder of sources for a store, or of several tables."""
    if not path.is_dir() or is_saved_dataset(path):
        return
    if is_beir(path):
        raise InputError(
            f"{source} is a BEIR folder: it holds judgments, not rows to train on",
            f"miner ingest my.duckdb {source} && miner mine my.duckdb && miner train my.duckdb OUT",
        )
    tables = [file.origin for file in files_in(source, path) if is_table(file)]
    hint = f"name one of its files: {listed(tables)}" if tables else "it holds none"
    raise InputError(f"{source} is not a folder that miner export or save_to_disk wrote", hint)


def _saved(path: Path) -> tuple[pa.Table, tuple[str, ...]]:
    """The rows of split train, or of the only split, and the names of the other splits."""
    try:
        splits = load_saved(path, _TRAIN)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: not a folder that miner export or save_to_disk wrote: {error}",
            "name a file, an export, or a store with --run",
        ) from error
    if _TRAIN not in splits:
        raise InputError(f"{path}: no split '{_TRAIN}'; it has {listed(splits)}", "save that split alone")
    data = splits.pop(_TRAIN)
    if data is None:
        raise InputError(f"{path}: no rows to train on", "save a split with rows")
    return _with_class_names(data.with_format("arrow")[:], data.features), tuple(splits)


def _with_class_names(table: pa.Table, features: Mapping[str, Any]) -> pa.Table:
    """Replaces the numbers of classes by their names, and -1, which means no label, by null."""
    from datasets import ClassLabel

    for position, name in enumerate(table.column_names):
        feature = features[name]
        if isinstance(feature, ClassLabel):
            numbers = table[name].to_pylist()
            names = [None if number is None or number < 0 else feature.int2str(number) for number in numbers]
            table = table.set_column(position, name, pa.array(names, pa.string()))
    return table


def _table(file: File, names: Sequence[str] | None) -> pa.Table:
    """The rows of a file: texts, lists of scores and of passages; other lists are null."""
    if not is_table(file):
        raise InputError(
            f"{file.origin}: unknown format '{shown(file.suffix)}'",
            "rows to train on are in a .tsv, .csv, .jsonl, .json or .parquet file",
        )
    config = SourceConfig() if names is None else SourceConfig(header=False, columns=tuple(names))
    table = open_table(file, config)
    if file.suffix == ".parquet":
        return _read_parquet(file.path)
    scores = {name: pa.array(_score_lists(file, name, config)) for name in table.columns if name in SCORES}
    texts = [name for name in table.columns if name not in table.nested and name not in scores]
    rows: list[Sequence[str | None]] = []
    for record in table.read(texts):
        if record.problem is not None:
            raise InputError(f"{file.origin}:{record.line}: {record.problem[1]}", "mend the row")
        rows.append(record.values)
    columns = {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(texts)} | scores
    for name in table.nested.keys() - columns.keys():
        columns[name] = (
            pa.array(passage_lists(raw_column(file, name), name), pa.list_(pa.string()))
            if name in _POSITIVES or name in _NEGATIVES
            else pa.nulls(len(rows), pa.list_(pa.null()))
        )
    return pa.table({name: columns[name] for name in table.columns})


def _read_parquet(path: Path) -> pa.Table:
    table = pq.read_table(path)
    if _FEATURES not in (table.schema.metadata or {}):
        return table
    from datasets import Features

    return _with_class_names(table, Features.from_arrow_schema(table.schema))


def _score_lists(file: File, name: str, config: SourceConfig) -> list[Any]:
    """A column of lists; in TSV and CSV, which have no lists, its texts."""
    if file.suffix in (".tsv", ".csv"):
        return [record.values[0] for record in open_table(file, config).read([name])]
    return raw_column(file, name)


def passage_lists(values: Sequence[Any], column: str) -> list[list[str]]:
    """Returns the texts of every row, title first; raises InputError for an item without text."""
    try:
        return [
            [join_title(passage.title, passage.text or "") for passage in as_passages(value, column)]
            for value in values
        ]
    except NotTextError as error:
        raise InputError(str(error), "a list needs texts, or objects with a key 'text'") from error


def one_passage_a_row(table: pa.Table, named: Sequence[str], origin: str) -> pa.Table:
    """Returns a table whose lists of positives and negatives are spread over rows of single texts.

    The lists are those of FlagEmbedding, Tevatron and DPR. A row becomes one row for each of its positives
    with each of its negatives, in the columns `positive` and `negative`, or as `named` names them;
    `pos_scores` and `neg_scores` become `scores`. Other lists stay as they are, and so does a table without
    such lists. Raises InputError for a row of `origin` with another number of scores than passages.
    """
    positive, negative = _passage_columns(table, named)
    if positive is None and negative is None:
        return table
    none: list[list[str]] = [[]] * table.num_rows
    positives, negatives = (
        none if name is None else passage_lists(table[name].to_pylist(), name)
        for name in (positive, negative)
    )
    scores = list(zip(_lists(table, _POSITIVE_SCORES), _lists(table, _NEGATIVE_SCORES), strict=True))
    sources: list[int] = []
    texts: dict[str, list[str | None]] = {"positive": [], "negative": []}
    pairs: list[list[float] | None] = []
    for row in range(table.num_rows):
        of_positives, of_negatives = scores[row]
        _require_scores(f"{origin}, row {row + 1}", positive, positives[row], _POSITIVE_SCORES, of_positives)
        _require_scores(f"{origin}, row {row + 1}", negative, negatives[row], _NEGATIVE_SCORES, of_negatives)
        for i, first in enumerate(positives[row] or [None]):
            for j, second in enumerate(negatives[row] or [None]):
                sources.append(row)
                texts["positive"].append(first)
                texts["negative"].append(second)
                scored = i < len(of_positives) and j < len(of_negatives)
                pairs.append([float(of_positives[i]), float(of_negatives[j])] if scored else None)
    dropped = {positive, negative, _POSITIVE_SCORES, _NEGATIVE_SCORES}
    spread = table.select([n for n in table.column_names if n not in dropped])
    spread = spread.take(pa.array(sources, pa.int64()))
    if not {"query", "anchor"} & set(spread.column_names):
        spread = spread.rename_columns(["query" if n == "question" else n for n in spread.column_names])
    for role, name in (("positive", positive), ("negative", negative)):
        if name is not None:
            spread = spread.append_column(name if named else role, pa.array(texts[role], pa.string()))
    if all(pairs) and "scores" not in spread.column_names:
        spread = spread.append_column("scores", pa.array(pairs, pa.list_(pa.float64())))
    return spread


def _require_scores(
    row: str, name: str | None, passages: Sequence[str], score_name: str, scores: Sequence[Any]
) -> None:
    """Raises InputError unless there is a score for each passage, or none at all."""
    if scores and len(scores) != len(passages):
        raise InputError(
            f"{row}: {counted(len(passages), 'passage')} in '{shown(name or '')}', but "
            f"{counted(len(scores), 'score')} in '{score_name}'",
            "give each passage its score, or leave the scores out",
        )


def _passage_columns(table: pa.Table, named: Sequence[str]) -> tuple[str | None, str | None]:
    """The columns of positives and negatives (second and third of `named`), if one of them has lists."""
    known = [_POSITIVES, _NEGATIVES] if not named else [named[1:2], named[2:3] if len(named) == 3 else ()]
    positive, negative = (next((n for n in names if n in table.column_names), None) for names in known)
    lists = [
        name for name in (positive, negative) if name and pa.types.is_nested(table.schema.field(name).type)
    ]
    return (positive, negative) if lists else (None, None)


def _lists(table: pa.Table, name: str) -> list[list[Any]]:
    values = table[name].to_pylist() if name in table.column_names else [None] * table.num_rows
    return [value if isinstance(value, list) else [] for value in values]
