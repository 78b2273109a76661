"""Collections of the package ir_datasets: a collection of our own, registered in the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from miner.errors import InputError, MissingExtraError
from miner.sources import SourceConfig, detect, open_source
from tests.sources_support import accounted, rows, write

HERE = importlib.util.find_spec("ir_datasets") is not None


@pytest.mark.skipif(HERE, reason="ir_datasets is installed")
def test_without_the_package_the_error_says_how_to_install_it() -> None:
    assert detect("irds:cranfield") == "irds"
    with pytest.raises(MissingExtraError, match="ir_datasets is not installed; "):
        open_source("irds:cranfield", SourceConfig())


@pytest.mark.skipif(not HERE, reason="ir_datasets is not installed")
def test_what_is_not_read_is_listed() -> None:
    """Collections of the package, of which nothing is downloaded before their parts are read."""
    assert open_source("irds:cranfield", SourceConfig()).note == "not read: fields author, bib of docs"
    assert open_source("irds:msmarco-document/dev", SourceConfig()).note.splitlines() == [
        "not read: scoreddocs",
        "not read: fields url of docs",
    ]
    topics = open_source("irds:cord19/trec-covid", SourceConfig()).note
    assert topics.splitlines() == [
        "not read: fields doi, date of docs",
        "not read: fields description, narrative of queries",
    ]


@pytest.mark.skipif(not HERE, reason="ir_datasets is not installed")
def test_a_collection(tmp_path: Path) -> None:
    import ir_datasets

    write(tmp_path / "docs.tsv", "d1\tRome is old\nd2\tRice is a grain\n")
    write(tmp_path / "queries.tsv", "q1\thow old is Rome\n")
    write(tmp_path / "qrels", "q1 0 d1 2\nq1 0 d2 0\nq1 0 d9 1\n")
    paths = [str(tmp_path / name) for name in ("docs.tsv", "queries.tsv", "qrels")]
    name = f"{tmp_path.name}/dev"
    ir_datasets.registry.register(name, ir_datasets.create_dataset(*paths))
    report = accounted(tmp_path, f"irds:{name}", 6, max_bad=0.5)
    assert [(one.reason, one.rows) for one in report.rejected] == [("unknown_document", 1)]
    query = "SELECT query_id, doc_id, relevance, split FROM judgments ORDER BY ALL"
    assert rows(tmp_path / "accounted.duckdb", query) == [
        ("q1", "d1", 2.0, "dev"),
        ("q1", "d2", 0.0, "dev"),
    ]
    opened = open_source(f"irds:{name}", SourceConfig())
    assert opened.read_as == "a collection of ir_datasets: docs, queries, qrels"
    (tmp_path / "docs.tsv").unlink()
    with pytest.raises(InputError, match="ir_datasets cannot read its docs: "):
        list(open_source(f"irds:{name}", SourceConfig()).parts)
    with pytest.raises(InputError, match=r"ir_datasets has no collection 'cranfeld' \(did you mean"):
        open_source("irds:cranfeld", SourceConfig())
