"""BEIR folders: what is read, and what the user reads when one is bad.

The fixtures are ours, in the layout that GenericDataLoader of beir 2.2 reads: corpus.jsonl, queries.jsonl and
qrels/SPLIT.tsv with a header.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.errors import InputError, UsageError
from miner.sources import SourceConfig, detect, ingest, open_source
from miner.text import clean, text_key
from tests.sources_support import beir, collect, dump, jsonl, refused, rows, write

DOCUMENTS = {"d1": "first text", "d2": "second text"}
QUERIES = {"q1": "what?"}


def test_reads_documents_queries_and_judgments(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", DOCUMENTS, QUERIES, train=[("q1", "d1", 2)], validation=[("q1", "d2", 0)])
    assert detect(str(folder)) == "beir"
    store = tmp_path / "s.duckdb"
    report = ingest(store, [str(folder)])
    assert dict(report.added) == {"documents": 2, "queries": 1, "judgments": 2}
    assert dict(report.splits) == {"train": 1}
    assert rows(store, "FROM judgments ORDER BY ALL") == [
        ("q1", "d1", 2.0, "train", "gold"),
        ("q1", "d2", 0.0, "dev", "gold"),
    ]
    assert rows(store, "FROM documents ORDER BY ALL")[0] == (
        "d1",
        "",
        "first text",
        text_key("first text"),
        None,
        None,
    )


def test_ids_stay_text(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(
        folder / "corpus.jsonl",
        '{"_id": "007", "text": "a"}\n{"_id": 7, "text": "b"}\n{"_id": 7.10, "text": "c"}\n',
    )
    write(folder / "queries.jsonl", '{"_id": 123456789012345678901234567890, "text": 12}\n')
    write(folder / "qrels/test.tsv", "123456789012345678901234567890\t007\t1\n")
    found = collect(folder)
    assert [d["doc_id"] for d in found["documents"]] == ["007", "7", "7.10"]
    assert [(q["query_id"], q["text"]) for q in found["queries"]] == [
        ("123456789012345678901234567890", "12")
    ]
    assert found["judgments"][0]["doc_id"] == "007"


def test_title_is_part_of_the_text_key(tmp_path: Path) -> None:
    write(
        tmp_path / "set/corpus.jsonl",
        jsonl({"_id": "1", "title": "A", "text": ""}, {"_id": "2", "title": "A", "text": "b"}),
    )
    write(tmp_path / "set/queries.jsonl", jsonl({"_id": "q", "text": "?"}))
    store = tmp_path / "s.duckdb"
    ingest(store, [str(tmp_path / "set")])
    assert rows(store, "SELECT text_key FROM documents ORDER BY doc_id") == [
        (text_key("A"),),
        (text_key("A b"),),
    ]


def test_header_is_optional_and_files_may_be_compressed(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(folder / "corpus.jsonl.gz", gzip.compress(jsonl({"_id": "d", "text": "x"}).encode()))
    write(folder / "queries.jsonl.gz", gzip.compress(jsonl({"_id": "q", "text": "x"}).encode()))
    write(folder / "qrels/fold1.tsv.gz", gzip.compress(b"q\td\t-1\r\n\n"))
    found = collect(folder)
    assert [(j["relevance"], j["split"]) for j in found["judgments"]] == [(-1.0, "fold1")]


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", DOCUMENTS, QUERIES, train=[("q1", "d1", 1)])
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    found = collect(folder)
    assert [d["doc_id"] for d in found["documents"]] == ["d1", "d2"]
    assert len(found["judgments"]) == 1


def test_missing_queries_file(tmp_path: Path) -> None:
    write(tmp_path / "set/corpus.jsonl", jsonl({"_id": "1", "text": "a"}))
    write(tmp_path / "set/query.jsonl", "")
    assert refused(tmp_path, tmp_path / "set") == (
        "DIR/set: no queries.jsonl (did you mean 'query.jsonl'?); "
        "a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/train.tsv"
    )


def test_missing_key_names_line_and_nearest(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", DOCUMENTS, QUERIES)
    write(folder / "corpus.jsonl", jsonl({"_id": "1", "text": "a"}, {"_id": "2", "texte": "b"}))
    missing = "DIR/set/corpus.jsonl:2: no key 'text' (did you mean 'texte'?); its keys: _id, texte"
    assert missing in refused(tmp_path, folder)
    report = ingest(tmp_path / "s.duckdb", str(folder), SourceConfig(max_bad=1))
    assert report.added["documents"] == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"_id": "2", "text": ', "broken JSON (Expecting value, column 21)"),
        ("[1]", "a list, not an object"),
        ('"text"', "a text or number, not an object"),
    ],
)
def test_broken_json_names_the_line(tmp_path: Path, line: str, reason: str) -> None:
    folder = beir(tmp_path / "set", DOCUMENTS, QUERIES)
    write(folder / "queries.jsonl", jsonl({"_id": "1", "text": "a"}) + "\n" + line + "\n")
    assert refused(tmp_path, folder).startswith(f"DIR/set/queries.jsonl:3: {reason}; write one")


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", DOCUMENTS, QUERIES)
    write(
        folder / "corpus.jsonl",
        jsonl({"_id": "1", "text": "a"}).encode() + '{"_id": "2", "text": "é"}'.encode("latin-1"),
    )
    assert refused(tmp_path, folder) == (
        "DIR/set/corpus.jsonl:2: not UTF-8 (byte 0xe9 at column 23); "
        "convert it first, for example: iconv -f LATIN1 -t UTF-8 OLD > NEW"
    )


def test_cut_off_gzip(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", DOCUMENTS, QUERIES)
    (folder / "corpus.jsonl").unlink()
    write(
        folder / "corpus.jsonl.gz",
        gzip.compress(jsonl(*({"_id": str(i), "text": str(i)} for i in range(99))).encode())[:-20],
    )
    message = refused(tmp_path, folder)
    assert message.startswith("DIR/set/corpus.jsonl.gz:")
    assert "cannot be read: Compressed file ended" in message


def test_bad_lines_are_listed(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", DOCUMENTS, QUERIES, train=[("q1", "d1", 1)])
    write(
        folder / "corpus.jsonl",
        jsonl({"_id": "d1", "text": "a"}, {"_id": None, "text": "b"}, {"_id": "d3", "text": ["c"]}),
    )
    with (folder / "qrels/train.tsv").open("a") as file:
        file.write("q1\td1\nq1\td1\tyes\nq1\td1\tnan\n")
    store = tmp_path / "s.duckdb"
    ingest(store, [str(folder)], SourceConfig(max_bad=1))
    assert [(o.rsplit("/", 1)[1], *rest) for o, *rest in rows(store, "FROM rejected ORDER BY ALL")] == [
        ("corpus.jsonl", 2, "empty_id", "'_id' is empty"),
        ("corpus.jsonl", 3, "not_text", "'text' holds a list, not text"),
        ("train.tsv", 3, "field_count", "2 fields between tabs, not query, document, relevance"),
        ("train.tsv", 4, "bad_relevance", "relevance 'yes' is not a number"),
        ("train.tsv", 5, "bad_relevance", "relevance 'nan' is not a number"),
    ]


def test_one_split_name_for_several_files_is_refused(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", DOCUMENTS, QUERIES, train=[("q1", "d1", 1)], test=[("q1", "d2", 1)])
    with pytest.raises(UsageError) as caught:
        ingest(tmp_path / "s.duckdb", [str(folder)], SourceConfig(split="train"))
    assert str(caught.value) == (
        f"--split train would merge the splits of {folder}: test, train; "
        "leave --split out, or ingest one file at a time"
    )
    assert not (tmp_path / "s.duckdb").exists()


ANYTHING = st.text(st.characters(), max_size=30)
"""Every character, lone surrogates and NUL included."""


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(ANYTHING, ANYTHING, min_size=1, max_size=6), st.data())
def test_any_ids_and_texts_survive(texts: dict[str, str], data: st.DataObject) -> None:
    expected: dict[str, str] = {}
    for identity, text in texts.items():
        if clean(identity)[0]:
            expected.setdefault(clean(identity)[0], clean(text)[0] or "x")
    records = [{"_id": i, "text": t} for i, t in expected.items()]
    dirty: list[dict[str, Any]] = [{"_id": r["_id"] + "\0", "text": "\ud800" + r["text"]} for r in records]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ascii_only = data.draw(st.booleans())
        source = dirty if ascii_only else records
        lines = "".join(json.dumps(r, ensure_ascii=ascii_only) + "\n" for r in source)
        write(folder / "corpus.jsonl", lines)
        write(folder / "queries.jsonl", lines)
        found = collect(folder)
    assert {d["doc_id"]: d["text"] for d in found.get("documents", [])} == expected
    assert {q["query_id"]: q["text"] for q in found.get("queries", [])} == expected


IDS = st.text(min_size=1, max_size=8).map(lambda text: f"i{clean(text)[0]}i")
"""What an id may be: white space and control characters are fine within."""


@settings(max_examples=8, deadline=None)
@given(st.dictionaries(IDS, st.text(min_size=1, max_size=20), min_size=1, max_size=5))
def test_the_store_holds_what_the_file_says(texts: dict[str, str]) -> None:
    expected = {clean(i)[0]: clean(t)[0] for i, t in texts.items() if text_key(clean(t)[0])}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        beir(folder / "set", {**expected, "fixed": "text"}, {"q": "?"})
        ingest(folder / "s.duckdb", [str(folder / "set")])
        stored = dump(folder / "s.duckdb")["documents"]
    assert {row[0]: row[2] for row in stored} == {**expected, "fixed": "text"}


def test_queries_and_judgments_without_a_corpus_are_an_incomplete_folder(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "a"}\n')
    with pytest.raises(InputError) as caught:
        ingest(tmp_path / "s.duckdb", str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}: no corpus.jsonl")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("qrels.tsv", "train"),
        ("qrels.jsonl", "train"),
        ("qrels.test.tsv", "test"),
        ("qrels-fold1.tsv", "fold1"),
    ],
)
def test_judgments_beside_the_corpus_have_the_split_in_their_name(
    tmp_path: Path, name: str, split: str
) -> None:
    folder = beir(tmp_path / "set", {"d": "x"}, {"q": "y"})
    line = jsonl({"query-id": "q", "corpus-id": "d", "score": 1}) if ".jsonl" in name else "q\t0\td\t1\n"
    write(folder / name, line)
    assert [row["split"] for row in collect(folder)["judgments"]] == [split]


def test_a_corpus_alone_without_the_ids_of_beir_is_a_table(tmp_path: Path) -> None:
    write(tmp_path / "set/corpus.jsonl", jsonl({"docid": "7", "text": "Rome", "title": ""}))
    assert detect(str(tmp_path / "set")) == "table"
    assert [row["doc_id"] for row in collect(tmp_path / "set")["documents"]] == ["7"]


@pytest.mark.parametrize(
    "lines",
    [
        'query-id,corpus-id,score\nq,d,1\nq,"d,2",0\n',
        'corpus-id,score,query-id\nd,1,q\n"d,2",0,q\n',
        'q,d,1\nq,"d,2",0\n',
        'q,0,d,1\nq,0,"d,2",0\n',
        'q, d, 1\nq, "d,2", 0\n',
    ],
)
def test_judgments_between_commas(tmp_path: Path, lines: str) -> None:
    folder = beir(tmp_path / "set", {"d": "x", "d,2": "y"}, {"q": "z"})
    write(folder / "qrels/train.csv", lines)
    found = [(row["doc_id"], row["relevance"]) for row in collect(folder)["judgments"]]
    assert found == [("d", 1.0), ("d,2", 0.0)]


def test_another_csv_beside_judgments_is_listed(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", {"d": "x"}, {"q": "y"}, train=[("q", "d", 1)])
    write(folder / "qrels/stats.csv", "split,count\ntrain,1\n")
    found = open_source(str(folder), SourceConfig())
    assert "not read: qrels/stats.csv" in found.note
    assert len(collect(folder)["judgments"]) == 1


def test_texts_of_one_word_between_commas_are_no_judgments(tmp_path: Path) -> None:
    write(tmp_path / "pairs.csv", "query,document,label\napple,fruit,1\ntea,metal,0\n")
    with pytest.raises(InputError) as caught:
        collect(tmp_path / "pairs.csv")
    assert "--relevance-column label" in str(caught.value)


@pytest.mark.parametrize("between", [",", "\t"])
def test_a_table_of_texts_with_ids_is_no_judgments(tmp_path: Path, between: str) -> None:
    rows = ["query_id query doc_id document score", "q1 bread d1 dough 1", "q2 tea d2 metal 0"]
    name = "pairs.csv" if between == "," else "pairs.tsv"
    file = write(tmp_path / name, "\n".join(rows).replace(" ", between))
    with pytest.raises(InputError) as caught:
        collect(file)
    assert "--positive-column document --relevance-column score" in str(caught.value)
