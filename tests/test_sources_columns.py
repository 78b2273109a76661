"""Columns that options name, and columns that messages propose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from miner.sources import SourceConfig, ingest
from tests.cache_support import Notes
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


def _ingested(folder: Path, *sources: Path, **options: Any) -> str:
    """Ingests into a new store; returns the notes and what was understood."""
    folder.mkdir(exist_ok=True)
    heard = Notes()
    report = ingest(folder / "s.duckdb", [str(one) for one in sources], SourceConfig(**options), heard)
    return "\n".join([*heard.said, *report.understood])


def test_columns_of_ids_that_are_not_read_come_with_their_options(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.jsonl", jsonl({"query_id": "q1", "doc_id": "d1", "query": "a", "positive": "x"})
    )
    proposed = "--set query_id_column=query_id --set document_id_column=doc_id"
    assert (
        f"not read: columns query_id, doc_id; ids are made from the texts; to read these: {proposed}"
        in _ingested(tmp_path, path)
    )
    options = {"query_id_column": "query_id", "document_id_column": "doc_id"}
    assert "not read" not in _ingested(tmp_path / "2", path, **options)
    assert rows(tmp_path / "2/s.duckdb", "SELECT query_id, doc_id FROM judgments") == [("q1", "d1")]
    corpus = write(tmp_path / "c.csv", "key,text\n7,a\n")
    proposed = "if a column has them: --set document_id_column=NAME"
    assert proposed in _ingested(tmp_path / "3", corpus, format="documents")


@pytest.mark.parametrize(
    ("header", "options", "expected"),
    [
        ("id,body,cat", {"text_column": "body"}, "--format documents --text-column body"),
        ("id,body,cat", {}, "--format documents --text-column NAME"),
        ("key,body,cat", {}, "--format documents --text-column NAME --set document_id_column=NAME"),
        ("key,text,cat", {}, "--format documents --set document_id_column=NAME"),
    ],
)
def test_a_corpus_with_other_columns_is_refused_with_the_options_that_read_it(
    tmp_path: Path, header: str, options: dict[str, str], expected: str
) -> None:
    path = write(tmp_path / "c.csv", f"{header}\n1,first words,x\n")
    message = refused(tmp_path, path, **options)
    assert message.endswith(f"; if it is a corpus alone, without queries: {expected}")


@pytest.mark.parametrize(
    "row",
    [
        {"query": "a", "pos": ["b"], "neg": []},
        {"query": "a", "pos": ["b"], "neg": None},
        {"query": "a", "positive_passages": [{"docid": "1", "text": "b"}], "negative_passages": []},
        {"question": "a", "positive_ctxs": [{"text": "b"}], "hard_negative_ctxs": [], "negative_ctxs": []},
        {"query_id": "1", "query_text": "a", "positive_document_ids": ["1"], "negative_document_ids": []},
    ],
)
def test_nothing_is_said_about_negatives_where_there_are_none(tmp_path: Path, row: dict[str, Any]) -> None:
    texts = write(tmp_path / "corpus.jsonl", jsonl({"_id": "1", "text": "b"}, {"_id": "2", "text": "c"}))
    heard = _ingested(tmp_path, write(tmp_path / "t.jsonl", jsonl(row)), texts)
    assert "judged not relevant" not in heard
    assert "mined_negatives" not in heard
    assert "negatives (none)" in heard
    name = next(name for name in reversed(row) if "neg" in name)
    some = {**row, name: ["2"] if name.endswith("ids") else [{"text": "c"}]}
    heard = _ingested(tmp_path / "2", write(tmp_path / "some.jsonl", jsonl(row, some)), texts)
    assert "negatives without a score are judged not relevant" in heard
    assert "(none)" not in heard
