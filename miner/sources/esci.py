"""ESCI as Amazon publishes it (amazon-science/esci-data, 2022): a file of examples and a file of products.

shopping_queries_dataset_examples.parquet has a query, a product and its label in each row, and the split;
shopping_queries_dataset_products.parquet has the texts of the products. The id of a document is its locale
and its product_id, since the same product has another text in another locale. A table may have both in each
row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from miner.errors import InputError, listed
from miner.ranges import split_name
from miner.sources.config import NO_COLUMN, SourceConfig, require_splits, split_in
from miner.sources.files import File, files_in, first_files, head, tree, unread
from miner.sources.graded import ESCI, ESCI_PAIRS, leaves_open
from miner.sources.grades import Grades, ProposedMap
from miner.sources.part import Part, Rows, Source
from miner.sources.table import Record, Table
from miner.sources.tabular import is_table, open_files, open_table

_EXAMPLES = ("query_id", "query", "product_id", "product_locale", "esci_label")
_PRODUCTS = ("product_id", "product_locale", "product_title")
_TEXTS = ("product_description", "product_bullet_point")
_OPTIONAL = ("product_title", *_TEXTS, "split")
_HEAD = 1 << 16
"""Characters of a file in which the names of its columns occur."""
_READ_AS = (
    "ESCI: query = query, product_locale and product_id = document id, product_title = title, "
    "product_description and product_bullet_point = text, esci_label = relevance"
)


def is_esci(source: str, path: Path) -> bool:
    """Returns whether a path is a folder with ESCI's examples and products, or tables with both in a row."""
    return (path.is_dir() and len(_found(source, path)) == 2) or bool(_joined(source, path))


def _joined(source: str, path: Path) -> list[File]:
    """Returns a table, or all those of a folder, if each has the columns of examples and of products."""
    files = [file for file in first_files(source, path) if is_table(file)]
    return files if files and all(map(_is_joined, files)) else []


def _is_joined(file: File) -> bool:
    # Opening a large file of JSON reads it from end to end.
    if file.suffix != ".parquet" and "esci_label" not in head(file, _HEAD):
        return False
    try:
        return {*_EXAMPLES, *_PRODUCTS} <= set(open_table(file).columns)
    except InputError:
        return False


def _found(source: str, folder: Path) -> dict[str, File]:
    files = [file for file in files_in(source, folder) if is_table(file)]
    return {
        name: file
        for name in ("examples", "products")
        for file in files
        if file.stem.endswith(f"dataset_{name}")
    }


def open_esci(source: str, folder: Path, config: SourceConfig) -> Source:
    """Returns the folder, or tables with examples and products in a row, as a source.

    A table without the ids is one of graded pairs. Raises InputError for missing columns.
    """
    files = _found(source, folder) if folder.is_dir() else {}
    if len(files) < 2:
        joined = _joined(source, folder)
        named = config.relevance_column == NO_COLUMN or not leaves_open(config, "esci_label")
        return (
            open_files(source, folder, config)
            if named or not joined
            else _of_rows(source, folder, joined, config)
        )
    examples, products = (open_table(files[name]) for name in ("examples", "products"))
    examples.require(_EXAMPLES, "their own names")
    products.require(_PRODUCTS, "their own names")
    left = [(file, "not examples or products") for file in tree(source, folder) if file not in files.values()]
    notes = [*unread(left, folder), *_other_columns((examples, products))]
    total = examples.size + products.size
    worth = config.relevance_map or ProposedMap(ESCI)

    def _parts() -> Iterator[Part]:
        grades = Grades(replace(config, relevance_column="esci_label", relevance_map=worth))
        yield from _documents(products)
        yield from _judged(examples, grades, config, source, "train")
        grades.require_all_seen(source)

    return Source(source, total, examples.unit, _parts(), "\n".join(notes), read_as=_read_as(worth))


def _of_rows(source: str, path: Path, files: Sequence[File], config: SourceConfig) -> Source:
    """Returns tables that have a query, a product with its texts, and its label in each row."""
    tables = [(open_table(file), split_in(file.stem) or "train") for file in files]
    left = [(file, "not a table") for file in tree(source, path) if file not in files]
    worth = config.relevance_map or ProposedMap(ESCI_PAIRS.worth_of(tables[0][0], "esci_label") or ESCI)
    if not all("split" in table.columns for table, _ in tables):
        require_splits(config, source, [split for _, split in tables])
    notes = [*unread(left, path), *_other_columns([table for table, _ in tables])]

    def _parts() -> Iterator[Part]:
        grades = Grades(replace(config, relevance_column="esci_label", relevance_map=worth))
        for table, split in tables:
            yield from _judged(table, grades, config, source, split)
        grades.require_all_seen(source)

    total = sum(table.size for table, _ in tables)
    return Source(source, total, tables[0][0].unit, _parts(), "\n".join(notes), read_as=_read_as(worth))


def _other_columns(tables: Sequence[Table]) -> list[str]:
    """Returns a note that lists the columns that are not read."""
    read = {*_EXAMPLES, *_OPTIONAL}
    others = [name for table in tables for name in table.columns if name not in read]
    return [f"not read: columns {listed(dict.fromkeys(others))}"] if others else []


def _read_as(worth: Mapping[str, float]) -> str:
    return f"{_READ_AS} ({', '.join(f'{label}={number:g}' for label, number in worth.items())})"


def _documents(table: Table) -> Iterator[Part]:
    rows = Rows()
    for record, product in _read(table, _PRODUCTS):
        rows.size += record.size
        rows.start("products", table.origin, record.line, *record.content)
        if record.problem is not None:
            rows.reject(*record.problem)
        else:
            _document(rows, product)
        if rows.ready:
            yield rows.part()
    yield rows.part()


def _read(table: Table, columns: Sequence[str]) -> Iterator[tuple[Record, dict[str, str]]]:
    """Yields the rows of a table, with their values by column; reads the texts of products if it has them."""
    chosen = list(dict.fromkeys((*columns, *(name for name in _OPTIONAL if name in table.columns))))
    for record in table.read(chosen):
        values = [] if record.problem is not None else [value or "" for value in record.values]
        yield record, dict(zip(chosen, values, strict=False))


def _document(rows: Rows, row: dict[str, str]) -> None:
    text = "\n".join(filter(None, (row.get(name) for name in _TEXTS)))
    rows.text("documents", row["product_id"] and _document_id(row), text, row["product_title"])


def _document_id(row: dict[str, str]) -> str:
    return f"{row['product_locale']}-{row['product_id']}"


def _judged(table: Table, grades: Grades, config: SourceConfig, source: str, split: str) -> Iterator[Part]:
    """Yields the examples of a table, and their products if it has their titles.

    `split` is for rows without one of their own.
    """
    rows = Rows()
    splits = dict[str, None]()
    for record, row in _read(table, _EXAMPLES):
        rows.size += record.size
        rows.start("examples", table.origin, record.line, *record.content)
        if record.problem is not None:
            rows.reject(*record.problem)
        else:
            if "split" in row and row["split"] not in splits:
                splits[row["split"]] = None
                require_splits(config, source, [*splits])
            _example(rows, row, grades, config.split or split_name(row.get("split") or split))
        if rows.ready:
            yield rows.part()
    yield rows.part()


def _example(rows: Rows, row: dict[str, str], grades: Grades, split: str) -> None:
    relevance = grades.relevance(row["esci_label"])
    if not row["query_id"] or not row["product_id"]:
        rows.reject("empty_id", "query_id or product_id is empty")
    elif isinstance(relevance, tuple):
        rows.reject(*relevance)
    else:
        rows.query(row["query_id"], row["query"])
        if "product_title" in row:
            _document(rows, row)
        rows.judgment(row["query_id"], _document_id(row), split, relevance)
