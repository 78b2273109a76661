"""Columns that options name, and columns that messages propose."""

from __future__ import annotations

from pathlib import Path

import pytest

from miner.sources import SourceConfig, ingest
from tests.sources_support import jsonl, refused, rows, write

TRIPLETS = "query,positive,hard_neg\na b,x,m\nc d,y,n\n"


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("t.csv", TRIPLETS, {"negative_column": "hard_negs"}, "'hard_negs' (did you mean 'hard_neg'?)"),
        (
            "t.csv",
            TRIPLETS,
            {"format": "pairs", "negative_column": "hard"},
            "'hard' (did you mean 'hard_neg'?)",
        ),
        (
            "t.jsonl",
            jsonl({"query": "a", "positive": "x", "negatives": ["m"]}),
            {"negative_column": "negativs"},
            "'negativs' (did you mean 'negatives'?)",
        ),
        ("queries.csv", "_id,text\n1,a b\n", {"query_id_column": "id"}, "'id' (did you mean '_id'?)"),
        ("t.csv", "doc_id,text,cat\n1,a,x\n", {"label_column": "catt"}, "'catt' (did you mean 'cat'?)"),
        (
            "t.csv",
            "doc_id,text,cat\n1,a,x\n",
            {"document_id_column": "dc_id"},
            "'dc_id' (did you mean 'doc_id'?)",
        ),
        ("t.csv", TRIPLETS, {"text_column": "txt"}, "'txt'"),
    ],
)
def test_a_named_column_that_is_missing_stops_the_ingest(
    tmp_path: Path, name: str, content: str, options: dict[str, str], expected: str
) -> None:
    path = write(tmp_path / name, content)
    message = refused(tmp_path, path, **options)
    assert f"DIR/{name}: no column {expected}; " in message
    assert "name yours with --set" in message


def test_a_named_column_is_needed_in_one_source_only(tmp_path: Path) -> None:
    triplets = write(tmp_path / "t.csv", TRIPLETS)
    corpus = write(tmp_path / "corpus.csv", "_id,text\n7,a\n8,b\n")
    queries = write(tmp_path / "queries.csv", "qid,text\n1,e f\n")
    report = ingest(tmp_path / "s.duckdb", [str(corpus), str(queries)], SourceConfig(query_id_column="qid"))
    assert report.added == {"documents": 2, "queries": 1, "judgments": 0}
    config = SourceConfig(negative_column="hard_neg")
    report = ingest(tmp_path / "s.duckdb", [str(triplets), str(corpus)], config)
    assert report.added == {"documents": 4, "queries": 2, "judgments": 4}


def test_queries_do_not_need_the_column_of_document_ids(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.csv", "key,text\n7,a\n8,b\n")
    queries = write(tmp_path / "queries.csv", "_id,text\n1,e f\n")
    sources = [str(corpus), str(queries)]
    ingest(tmp_path / "s.duckdb", sources, SourceConfig(document_id_column="key"))
    assert rows(tmp_path / "s.duckdb", "SELECT doc_id FROM documents ORDER BY ALL") == [("7",), ("8",)]
    assert rows(tmp_path / "s.duckdb", "SELECT query_id FROM queries") == [("1",)]
