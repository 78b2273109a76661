"""Small real stores for tests."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from miner.store.database import Database
from miner.text import document_keys, text_keys


@cache
def _empty() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="stores-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Database.open(folder / "empty.duckdb", create=True).close()
    return folder / "empty.duckdb"


def new_store(path: Path) -> Database:
    """Returns a new open store: a copy of an empty one, as it takes DuckDB long to define the views."""
    assert not path.exists(), path
    shutil.copyfile(_empty(), path)
    store = Database.open(path)
    store.set_meta("id", uuid4().hex)
    return store


def make_store(
    path: Path,
    documents: Mapping[str, str],
    queries: Mapping[str, str],
    judgments: Sequence[tuple[str, str] | tuple[str, str, str]],
    labels: Mapping[str, str] | None = None,
    titles: Mapping[str, str] | None = None,
) -> Database:
    """Returns a new open store; a judgment is (query_id, doc_id) of split train, or with its split."""
    store = new_store(path)
    labels = labels or {}
    above = [(titles or {}).get(i, "") for i in documents]
    keys, passages = document_keys(above, documents.values())
    store.insert(
        "documents",
        pa.table(
            {
                "doc_id": list(documents),
                "title": above,
                "text": list(documents.values()),
                "text_key": keys,
                "passage_key": pa.array(passages, pa.int64()),
                "label": pa.array([labels.get(i) for i in documents], pa.string()),
            }
        ),
    )
    store.insert(
        "queries",
        pa.table(
            {
                "query_id": list(queries),
                "text": list(queries.values()),
                "text_key": text_keys(queries.values()),
                "label": pa.array([labels.get(i) for i in queries], pa.string()),
            }
        ),
    )
    rows = [(*judgment, "train")[:3] for judgment in judgments]
    store.insert(
        "judgments",
        pa.table(
            {
                "query_id": [row[0] for row in rows],
                "doc_id": [row[1] for row in rows],
                "relevance": [1.0] * len(rows),
                "split": [row[2] for row in rows],
            }
        ),
        source="gold",
    )
    return store
