"""What the tests of the sources share: writing files, reading parts, dumping stores."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest

from miner.errors import InputError
from miner.sources import IngestReport, SourceConfig, ingest, open_source

SHARED = Path(__file__).parents[2] / "shared" / "data"

TABLES = ("documents", "queries", "judgments", "rejected", "stages", "chunks", "runs", "meta")


def write(path: Path, text: str | bytes) -> Path:
    """Writes a file, its folders included, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def jsonl(*records: Any) -> str:
    """Returns records as JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


def beir(
    folder: Path,
    documents: Mapping[str, str | tuple[str, str]],
    queries: Mapping[str, str],
    **qrels: list[tuple[str, str, Any]],
) -> Path:
    """Writes a BEIR folder and returns it; a document is its text, or a title and a text."""
    pairs = {i: ("", found) if isinstance(found, str) else found for i, found in documents.items()}
    lines = ({"_id": i, "title": title, "text": text} for i, (title, text) in pairs.items())
    write(folder / "corpus.jsonl", jsonl(*lines))
    write(folder / "queries.jsonl", jsonl(*({"_id": i, "text": t} for i, t in queries.items())))
    for split, judgments in qrels.items():
        lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in judgments)]
        write(folder / "qrels" / f"{split}.tsv", "\n".join(lines) + "\n")
    return folder


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    """Returns the rows of a query over a store that nobody holds."""
    with duckdb.connect(str(store), read_only=True) as connection:
        return connection.execute(query).fetchall()


def dump(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Returns all rows of all tables that an ingest could touch, in order; not the store's own id."""
    found = {name: rows(store, f"SELECT * FROM {name} ORDER BY ALL") for name in TABLES}
    return {**found, "meta": [row for row in found["meta"] if row[0] != "id"]}


def collect(source: Path | str, **options: Any) -> dict[str, list[dict[str, Any]]]:
    """Returns what a source hands over: the rows of each table."""
    found: dict[str, list[dict[str, Any]]] = {}
    for part in open_source(str(source), SourceConfig(**options)).parts:
        for name, table in part.tables().items():
            found.setdefault(name, []).extend(table.to_pylist())
    return found


@cache
def _store_with_content() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    folder = tempfile.TemporaryDirectory()
    good = beir(Path(folder.name) / "good", {"g1": "a document"}, {"gq": "?"}, train=[("gq", "g1", 1)])
    ingest(Path(folder.name) / "full.duckdb", [str(good)])
    return Path(folder.name), folder


def refused(folder: Path, source: Path | str, **options: Any) -> str:
    """Ingests a bad source into a store with content, and into none; returns what the user reads.

    Asserts that the one store is unchanged and the other was removed again. Unless the options
    are for this source alone, a good source comes before it.
    """
    base, _ = _store_with_content()
    sources = [str(source)] if "format" in options else [str(base / "good"), str(source)]
    filled, new = folder / "full.duckdb", folder / "new.duckdb"
    shutil.copy(base / "full.duckdb", filled)
    before = dump(filled)
    messages = set()
    for store in (filled, new):
        with pytest.raises(InputError) as caught:
            ingest(store, sources, SourceConfig(**options))
        messages.add(str(caught.value).replace(str(folder), "DIR"))
    assert dump(filled) == before
    assert not list(folder.glob("new.duckdb*"))
    (message,) = messages
    return message


PARENTS = " UNION SELECT parent FROM parents"
PARENTS_JUDGED = " UNION SELECT query_id, parent FROM judgments JOIN parents USING (doc_id)"
"""Documents that were cut, and judgments of them: the store has those of their chunks."""


def accounted(folder: Path, source: Path | str, rows_in: int, **options: Any) -> IngestReport:
    """Ingests a source of `rows_in` rows into DIR/accounted.duckdb; asserts that no row is lost silently.

    Each row gives a document, a query or a judgment that the store has, or the table `rejected` lists it.
    """
    config = SourceConfig(**options)
    found: dict[str, list[dict[str, Any]]] = {}
    for part in open_source(str(source), config).parts:
        for name, table in part.tables().items():
            found.setdefault(name, []).extend(table.to_pylist())
    assert len(found["rows"]) == rows_in
    store = folder / "accounted.duckdb"
    report = ingest(store, [str(source)], config)
    stored = {
        "documents": {identity for (identity,) in rows(store, f"SELECT doc_id FROM documents{PARENTS}")},
        "queries": {identity for (identity,) in rows(store, "SELECT query_id FROM queries")},
        "judgments": set(rows(store, f"SELECT query_id, doc_id FROM judgments{PARENTS_JUDGED}")),
    }
    keys = {"documents": ("doc_id",), "queries": ("query_id",), "judgments": ("query_id", "doc_id")}
    listed = set(rows(store, "SELECT origin, line FROM rejected"))
    given = set[tuple[str, int | None]]()
    for name, columns in keys.items():
        for row in found.get(name, []):
            where = (row["origin"], row["line"])
            identity = tuple(row[column] for column in columns)
            assert (identity if len(identity) > 1 else identity[0]) in stored[name] or where in listed
            given.add(where)
    lost = [row for row in found["rows"] if (row["origin"], row["line"]) not in given | listed]
    assert lost == []
    return report
