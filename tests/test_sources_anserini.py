"""Collections, topics and judgments as Anserini and Pyserini read them: JSON with `id` and `contents`.

The fixtures are ours. The layouts are those of Anserini's JsonCollection (2.0): an object in each line, one
array, or one object in each file; topics between tabs; judgments of TREC. MS MARCO's collections of 2021 and
2024 have other keys.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.sources import SourceConfig, detect, ingest, open_source
from miner.sources.part import Part
from tests.sources_support import accounted, collect, jsonl, refused, rows, write

DOCUMENTS = [
    {"id": "PLAIN-1", "contents": "Rome is old\nand large"},
    {"id": "PLAIN-2", "contents": "Rice is a grain"},
    {"id": "PLAIN-3", "contents": "Tea is a drink"},
]
FORMS = {
    "lines": {"docs00.jsonl": jsonl(*DOCUMENTS[:2]), "docs01.json": jsonl(DOCUMENTS[2])},
    "an array": {"docs.json": json.dumps(DOCUMENTS, indent=1)},
    "an object for each file": {f"{n}.json": json.dumps(one, indent=2) for n, one in enumerate(DOCUMENTS)},
}
TOPICS = "PLAIN-10\thow old is Rome\nPLAIN-11\twhat is rice\n"
QRELS = "PLAIN-10 0 PLAIN-1 2\nPLAIN-11 0 PLAIN-2 1\nPLAIN-11 0 PLAIN-3 0\n"
EXPECTED = [("PLAIN-10", "PLAIN-1", 2.0), ("PLAIN-11", "PLAIN-2", 1.0), ("PLAIN-11", "PLAIN-3", 0.0)]
JUDGMENTS = "SELECT query_id, doc_id, relevance FROM judgments ORDER BY ALL"


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_with_everything(tmp_path: Path, form: str) -> None:
    for name, content in FORMS[form].items():
        write(tmp_path / "set/collection" / name, content)
    write(tmp_path / "set/topics.nfcorpus.test.tsv.gz", gzip.compress(TOPICS.encode()))
    write(tmp_path / "set/qrels.nfcorpus.test.txt", QRELS)
    assert detect(str(tmp_path / "set")) == "trec"
    report = accounted(tmp_path, tmp_path / "set", 8)
    assert dict(report.splits) == {"test": 2}
    assert rows(tmp_path / "accounted.duckdb", JUDGMENTS) == EXPECTED
    texts = rows(tmp_path / "accounted.duckdb", "SELECT text FROM documents ORDER BY doc_id")
    assert texts[0] == ("Rome is old\nand large",)


@pytest.mark.parametrize("form", FORMS)
def test_collection_topics_and_judgments_as_sources_of_one_command(tmp_path: Path, form: str) -> None:
    for name, content in FORMS[form].items():
        write(tmp_path / "collection" / name, content)
    topics = write(tmp_path / "topics.test.tsv", TOPICS)
    judged = write(tmp_path / "qrels.test.tsv", QRELS.replace(" ", "\t"))
    ingest(tmp_path / "s.duckdb", [str(tmp_path / "collection"), str(topics), str(judged)])
    assert rows(tmp_path / "s.duckdb", JUDGMENTS) == EXPECTED


def test_single_files(tmp_path: Path) -> None:
    documents = write(tmp_path / "docs.jsonl", jsonl(*DOCUMENTS))
    topics = write(tmp_path / "queries.jsonl", jsonl({"_id": "1", "text": "a"}))
    assert [detect(str(one)) for one in (documents, topics)] == ["trec", "trec"]
    assert [row["text"] for row in collect(topics)["queries"]] == ["a"]
    read_as = [open_source(str(one), SourceConfig()).read_as for one in (documents, topics)]
    assert read_as == [
        "TREC: documents (id = id, contents = text) in docs.jsonl",
        "TREC: queries (_id = id, text = text) in queries.jsonl",
    ]


def test_questions_with_answers_are_not_topics(tmp_path: Path) -> None:
    pairs = write(tmp_path / "questions.jsonl", jsonl({"id": "1", "question": "a", "answer": "b"}))
    assert detect(str(pairs)) == "table"


@pytest.mark.parametrize(
    ("record", "identity", "text", "title"),
    [
        ({"pid": "p0", "passage": "a", "spans": "(0,1)", "docid": "d0"}, "p0", "a", ""),
        ({"docid": "d0", "url": "u", "title": "T", "headings": "h", "body": "a"}, "d0", "a", "T"),
        ({"docid": "d0#1", "title": "T", "segment": "a", "start_char": 0}, "d0#1", "a", "T"),
        ({"id": 7, "contents": "a", "title": "T"}, "7", "a", "T"),
    ],
)
def test_keys_of_other_collections(
    tmp_path: Path, record: dict[str, Any], identity: str, text: str, title: str
) -> None:
    write(tmp_path / "set/docs.jsonl", jsonl(record))
    write(tmp_path / "set/topics.tsv", "1\ta\n")
    (found,) = collect(tmp_path / "set")["documents"]
    assert (found["doc_id"], found["text"], found["title"]) == (identity, text, title)


def test_keys_that_are_not_read_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "set/docs.jsonl", jsonl(*DOCUMENTS, {"id": "4", "contents": "a", "url": "u", "year": 1}))
    write(tmp_path / "set/topics.tsv", "1\ta\n")
    parts: list[Part] = list(open_source(str(tmp_path / "set"), SourceConfig()).parts)
    assert [part.note for part in parts if part.note] == [f"{tmp_path}/set: not read: the keys url, year"]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    write(tmp_path / "set/topics.tsv", "1\ta\n")
    write(tmp_path / "set/docs.json", '[{"id": "1", "contents": "a"}, {"id": "2"}]')
    assert "DIR/set/docs.json:2: no key for the text; its keys: id" in refused(tmp_path, tmp_path / "set")
    write(tmp_path / "set/docs.json", jsonl(*DOCUMENTS, {"id": "9", "contents": ["a"]}))
    assert "DIR/set/docs.json:4: 'contents' holds a list, not text" in refused(tmp_path, tmp_path / "set")
    write(tmp_path / "set/docs.json", '{\n"id": "1",\n"contents": "a"')
    write(tmp_path / "set/more.jsonl", jsonl(*DOCUMENTS))
    assert open_source(str(tmp_path / "set"), SourceConfig()).note == (
        "not read: docs.json (JSON, but not one object per line, an array of objects, or an object)"
    )


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(TEXT, min_size=1, max_size=5), st.sampled_from(["lines", "array"]), st.sampled_from([None, 2])
)
def test_any_text_survives(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], form: str, indent: int | None
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    records = [{"id": str(number), "contents": text} for number, text in enumerate(texts)]
    write(folder / "docs.json", jsonl(*records) if form == "lines" else json.dumps(records, indent=indent))
    assert [row["text"] for row in collect(folder, format="trec")["documents"]] == texts


def test_documents_with_a_query_are_pairs(tmp_path: Path) -> None:
    pairs = write(tmp_path / "rows.jsonl", jsonl({"id": "1", "query": "a", "contents": "b"}))
    assert detect(str(pairs)) == "table"
    found = collect(pairs, positive_column="contents")
    assert [(row["doc_id"][:2], row["text"]) for row in found["documents"]] == [("d-", "b")]


def test_an_option_that_names_a_column_makes_a_table(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", jsonl({"id": "1", "ask": "a", "contents": "b"}))
    assert detect(str(file)) == "trec"
    found = collect(file, query_column="ask", positive_column="contents")
    assert [row["text"] for row in found["queries"]] == ["a"]
    # an option for another source of the same command changes nothing here
    assert [row["doc_id"] for row in collect(file, query_column="question")["documents"]] == ["1"]
