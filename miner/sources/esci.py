"""ESCI as Amazon publishes it (amazon-science/esci-data, 2022): a file of examples and a file of products.

shopping_queries_dataset_examples.parquet has a query, a product and its label in each row, and the split;
shopping_queries_dataset_products.parquet has the texts of the products. The id of a document is its locale
and its product_id, since the same product has another text in another locale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from miner.errors import listed
from miner.ranges import split_name
from miner.sources.config import SourceConfig, require_splits
from miner.sources.files import File, files_in, tree, unread
from miner.sources.graded import ESCI
from miner.sources.grades import Grades, ProposedMap
from miner.sources.part import Part, Rows, Source
from miner.sources.table import Record, Table
from miner.sources.tabular import is_table, open_files, open_table

_EXAMPLES = ("query_id", "query", "product_id", "product_locale", "esci_label")
_PRODUCTS = ("product_id", "product_locale", "product_title")
_TEXTS = ("product_description", "product_bullet_point")
_READ_AS = (
    "ESCI: query = query, product_locale and product_id = document id, product_title = title, "
    "product_description and product_bullet_point = text, esci_label = relevance"
)


def is_esci(source: str, folder: Path) -> bool:
    """Returns whether a path is a folder with ESCI's examples and products."""
    return folder.is_dir() and len(_found(source, folder)) == 2


def _found(source: str, folder: Path) -> dict[str, File]:
    files = [file for file in files_in(source, folder) if is_table(file)]
    return {
        name: file
        for name in ("examples", "products")
        for file in files
        if file.stem.endswith(f"dataset_{name}")
    }


def open_esci(source: str, folder: Path, config: SourceConfig) -> Source:
    """Returns the folder as a source; a single table is one of graded pairs.

    Raises InputError for missing columns.
    """
    files = _found(source, folder) if folder.is_dir() else {}
    if len(files) < 2:
        return open_files(source, folder, config)
    examples, products = (open_table(files[name]) for name in ("examples", "products"))
    examples.require(_EXAMPLES, "their own names")
    products.require(_PRODUCTS, "their own names")
    read = {*_EXAMPLES, *_PRODUCTS, *_TEXTS, "split"}
    others = [name for table in (examples, products) for name in table.columns if name not in read]
    left = [(file, "not examples or products") for file in tree(source, folder) if file not in files.values()]
    notes = [
        *unread(left, folder),
        *([f"not read: columns {listed(dict.fromkeys(others))}"] if others else []),
    ]
    total = examples.size + products.size
    worth = config.relevance_map or ProposedMap(ESCI)
    read_as = f"{_READ_AS} ({', '.join(f'{label}={number:g}' for label, number in worth.items())})"

    def _parts() -> Iterator[Part]:
        grades = Grades(replace(config, relevance_column="esci_label", relevance_map=worth))
        yield from _documents(products)
        yield from _judged(examples, grades, config, source)
        grades.require_all_seen(source)

    return Source(source, total, examples.unit, _parts(), "\n".join(notes), read_as=read_as)


def _documents(table: Table) -> Iterator[Part]:
    rows = Rows()
    texts = [name for name in _TEXTS if name in table.columns]
    for record in table.read((*_PRODUCTS, *texts)):
        rows.size += record.size
        rows.start("products", table.origin, record.line, *record.content)
        if record.problem is not None:
            rows.reject(*record.problem)
        else:
            product, locale, title, *others = (value or "" for value in record.values)
            rows.text("documents", product and f"{locale}-{product}", "\n".join(filter(None, others)), title)
        if rows.ready:
            yield rows.part()
    yield rows.part()


def _judged(table: Table, grades: Grades, config: SourceConfig, source: str) -> Iterator[Part]:
    rows = Rows()
    splits = dict[str, None]()
    named = ["split"] if "split" in table.columns else []
    for record in table.read((*_EXAMPLES, *named)):
        rows.size += record.size
        rows.start("examples", table.origin, record.line, *record.content)
        _example(rows, record, grades, config.split)
        if named and record.problem is None and record.values[-1] not in splits:
            splits[record.values[-1] or ""] = None
            require_splits(config, source, [*splits])
        if rows.ready:
            yield rows.part()
    yield rows.part()


def _example(rows: Rows, record: Record, grades: Grades, split: str | None) -> None:
    if record.problem is not None:
        rows.reject(*record.problem)
        return
    query_id, query, product, locale, label, *named = (value or "" for value in record.values)
    relevance = grades.relevance(label)
    if not query_id or not product:
        rows.reject("empty_id", "query_id or product_id is empty")
    elif isinstance(relevance, tuple):
        rows.reject(*relevance)
    else:
        rows.query(query_id, query)
        where = split or (split_name(named[0]) if named and named[0] else "train")
        rows.judgment(query_id, f"{locale}-{product}", where, relevance)
