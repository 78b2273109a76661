"""Collections of the package `ir_datasets`, by name: `irds:beir/scifact/test`.

The package finds, downloads and checks the files of a collection; here its documents, queries and judgments
become those of a store. Written for ir_datasets 0.6. The extra `collections` installs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from miner.errors import InputError, MissingExtraError, listed, near, shown
from miner.sources.config import SourceConfig, require_splits, split_in
from miner.sources.part import Part, Rows, Source

PREFIX = "irds:"
_TITLES = ("title", "headline")
_TEXTS = ("text", "body", "abstract")
_OTHER_PARTS = ("scoreddocs", "docpairs", "qlogs")
_OF_JUDGMENTS = ("query_id", "doc_id", "relevance", "iteration")
"""The fields of a judgment; the iteration is a number without a meaning, as in TREC's files."""


def open_irds(source: str, config: SourceConfig) -> Source:
    """Returns `irds:NAME` as a source; the split of the judgments is in the name, else it is train.

    Raises MissingExtraError if ir_datasets is not installed, InputError for an unknown collection, and for
    one without documents and queries.
    """
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingExtraError("ir_datasets", "collections") from error
    name = source.removeprefix(PREFIX)
    try:
        dataset = ir_datasets.load(name)
    except KeyError as error:
        raise InputError(
            f"{source}: ir_datasets has no collection '{shown(name)}'{near(name, ir_datasets.registry)}",
            "see the names on ir-datasets.com",
        ) from error
    parts = [part for part in ("docs", "queries", "qrels") if getattr(dataset, f"has_{part}")()]
    if not {"docs", "queries"} & set(parts):
        raise InputError(f"{source}: neither documents nor queries", "name a part of it that has them")
    split = next((found for part in reversed(name.split("/")) if (found := split_in(part))), "train")
    require_splits(config, source, [split])
    others = [part for part in _OTHER_PARTS if getattr(dataset, f"has_{part}", bool)()]
    notes = [
        *([f"not read: {listed(others)}"] if others else []),
        *_unread_fields(dataset, parts),
        *([] if "qrels" in parts else [f"{source}: no judgments"]),
    ]
    # Its own counts may read, or download, the whole collection.
    total = sum(getattr(dataset, f"{part}_metadata")().get("count", 0) for part in parts)
    read_as = f"a collection of ir_datasets: {listed(parts)}"
    rows = _parts(source, dataset, parts, config.split or split)
    return Source(source, total, "rows", rows, "\n".join(notes), read_as=read_as)


def _unread_fields(dataset: Any, parts: list[str]) -> list[str]:
    """Returns notes on the fields of each part that do not become a text or an id."""
    notes = []
    for part in parts:
        kind = getattr(dataset, f"{part}_cls")()
        fields = kind._fields
        read = set(_OF_JUDGMENTS)
        if part != "qrels":
            # What is read of a row depends on its class: each field has its name as its text here.
            named = kind(*(f"<{field}>" for field in fields))
            rows = Rows()
            rows.start(part, "", None)
            try:
                (_document if part == "docs" else _query)(rows, named, "")
            except (AttributeError, TypeError):  # a class that joins fields of other kinds than text
                continue
            found = "".join(str(table.to_pylist()) for table in rows.part().tables().values())
            read = {field for field in fields if f"<{field}>" in found}
        left = [field for field in fields if field not in read]
        notes += [f"not read: fields {listed(left)} of {part}"] if left else []
    return notes


def _parts(source: str, dataset: Any, parts: list[str], split: str) -> Iterator[Part]:
    rows = Rows()
    take: dict[str, Callable[[Rows, Any, str], None]] = {
        "docs": _document,
        "queries": _query,
        "qrels": _judgment,
    }
    nouns = {"docs": "documents", "queries": "queries", "qrels": "judgments"}
    for part in parts:
        for number, one in enumerate(_read(source, dataset, part), 1):
            rows.size += 1
            rows.start(nouns[part], f"{source}/{part}", number, *one)
            take[part](rows, one, split)
            if rows.ready:
                yield rows.part()
    yield rows.part()


def _read(source: str, dataset: Any, part: str) -> Iterator[Any]:
    """Yields the rows of a part; raises InputError for files that the package cannot get or read."""
    try:
        yield from getattr(dataset, f"{part}_iter")()
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(
            f"{source}: ir_datasets cannot read its {part}: {reason}",
            "check the network and the licence of the collection: some have to be downloaded by hand",
        ) from error


def _document(rows: Rows, one: Any, split: str) -> None:
    """Adds a document: its title and its text, or all of its texts as the package joins them."""
    title = next((getattr(one, name) for name in _TITLES if isinstance(getattr(one, name, None), str)), "")
    texts = [getattr(one, name) for name in _TEXTS if isinstance(getattr(one, name, None), str)]
    if len(texts) == 1:
        rows.text("documents", str(one.doc_id), texts[0], title)
    else:
        rows.text("documents", str(one.doc_id), str(one.default_text()))


def _query(rows: Rows, one: Any, split: str) -> None:
    rows.text("queries", str(one.query_id), str(one.default_text()))


def _judgment(rows: Rows, one: Any, split: str) -> None:
    relevance = getattr(one, "relevance", None)
    if isinstance(relevance, int | float):
        rows.judgment(str(one.query_id), str(one.doc_id), split, float(relevance))
    else:
        rows.reject("bad_relevance", f"relevance '{shown(relevance)}' is not a number")
