"""Hostile inputs for every command, made from a seed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import duckdb


def content_hash(store: Path) -> str:
    """Returns a hash over the rows of all tables, in any order; what DuckDB says if it cannot read them."""
    digest = hashlib.sha256()
    try:
        with duckdb.connect(str(store), read_only=True) as connection:
            names = connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall()
            for (name,) in names:
                found = connection.execute(
                    f'SELECT count(*), sum(hash(t)::HUGEINT)::VARCHAR FROM "{name}" t'
                ).fetchall()
                digest.update(f"{name} {found}".encode())
    except duckdb.Error as error:
        return f"damaged: {error}"
    return digest.hexdigest()
