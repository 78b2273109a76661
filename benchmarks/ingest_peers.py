"""What a corpus is read with instead of `miner ingest`: one run of one way, as a process of its own.

usage: ingest_peers.py WAY CORPUS [STORE]

- `read`: `json.loads` line by line; counts the documents and the characters of titles and texts.
- `insert`: the same, and inserts the documents into a new DuckDB file as Arrow tables of 50,000 rows.
- `copy`: DuckDB's own reader of JSON lines or Parquet, CREATE TABLE AS into a new DuckDB file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import duckdb
import pyarrow as pa

ROWS = 50_000
_COLUMNS = ("_id", "title", "text")


def rows(corpus: Path) -> Iterator[tuple[str, str, str]]:
    """Yields the id, title and text of each document of a file of JSON lines."""
    with corpus.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            yield record["_id"], record["title"], record["text"]


def read(corpus: Path) -> None:
    """Counts the documents and their characters."""
    documents = characters = 0
    for _, title, text in rows(corpus):
        documents += 1
        characters += len(title) + len(text)
    print(documents, characters)


def insert(corpus: Path, store: Path) -> None:
    """Inserts the documents in batches."""
    found = rows(corpus)
    with duckdb.connect(str(store)) as connection:
        connection.execute("CREATE TABLE documents (_id VARCHAR, title VARCHAR, text VARCHAR)")
        while batch := list(islice(found, ROWS)):
            columns = zip(*batch, strict=True)
            connection.register("batch", pa.table(dict(zip(_COLUMNS, map(pa.array, columns), strict=True))))
            connection.execute("INSERT INTO documents SELECT * FROM batch")


def copy(corpus: Path, store: Path) -> None:
    """Lets DuckDB read and write."""
    columns = ", ".join(f"{name}: 'VARCHAR'" for name in _COLUMNS)
    readers = {
        ".jsonl": f"read_json(?, format = 'newline_delimited', columns = {{{columns}}})",
        ".parquet": "read_parquet(?)",
    }
    with duckdb.connect(str(store)) as connection:
        connection.execute(f"CREATE TABLE documents AS SELECT * FROM {readers[corpus.suffix]}", [str(corpus)])


WAYS: dict[str, Callable[..., None]] = {"read": read, "insert": insert, "copy": copy}


if __name__ == "__main__":
    way, *files = sys.argv[1:]
    WAYS[way](*map(Path, files))
