"""What the tests of `miner sql` share: a small store, and a query asked on the command line."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from miner.cli.main import group
from tests.stores import new_store


def small_store(folder: Path) -> Path:
    """Returns a small store alone in its folder."""
    path = folder / "my.duckdb"
    with new_store(path) as opened:
        opened.execute(
            "INSERT INTO documents (doc_id, title, text, text_key, label) "
            "VALUES ('d1', '', 'a cat', 1, NULL), ('007', 'T', 'bond', 2, NULL)"
        )
        opened.execute("INSERT INTO queries VALUES ('q1', 'cats?', 3, NULL)")
        opened.execute("CREATE SEQUENCE counter")
    return path


def sql(store: Path, query: str, *options: str) -> Result:
    """Asks the query as `miner sql` does."""
    return CliRunner().invoke(group, ["sql", str(store), query, *options])
