"""TREC collections.

The fixtures are ours, in the layouts that ir_datasets 0.5.11 reads (formats/trec.py): documents in <DOC>,
topics in <top> as of the ad hoc tracks, judgments of four columns.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from miner.errors import InputError
from miner.sources import SourceConfig, detect, ingest, open_source
from miner.sources.qrels import read_judgments
from tests.sources_support import collect, refused, rows, write

DOCS = """<DOC>
<DOCNO> FT-001 </DOCNO>
<HEADLINE>Ships &amp; ports</HEADLINE>
<TEXT>
<P>First paragraph.</P>
Second &lt;one&gt;.
</TEXT>
</DOC>
<doc><docno>2</docno><author>nobody</author>
Plain text.
</doc><doc><docno>3</docno><title>Only</title><text>third</text></doc>
"""
TOPICS = """<top>
<num> Number: 051
<title> Topic: Airbus
  subsidies

<desc> Description:
Not part of the query.
</top>
<top><num>52</num><title>Second</title><narr>no</narr></top>
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "trec/docs.sgml", DOCS)
    write(tmp_path / "trec/topics.txt", TOPICS)
    write(tmp_path / "trec/qrels.test.txt", "051 0 FT-001 2\n051 0 2 0\n\n52\t0\t3\t1\n")
    write(tmp_path / "trec/README", "not data")
    return tmp_path / "trec"


def test_folder(tmp_path: Path, folder: Path) -> None:
    assert detect(str(folder)) == "trec"
    store = tmp_path / "s.duckdb"
    ingest(store, [str(folder)])
    assert rows(store, "SELECT doc_id, title, text FROM documents ORDER BY doc_id") == [
        ("2", "", "nobody \nPlain text."),
        ("3", "Only", "third"),
        ("FT-001", "Ships & ports", "First paragraph. \nSecond <one>."),
    ]
    assert rows(store, "SELECT query_id, text FROM queries ORDER BY query_id") == [
        ("051", "Airbus subsidies"),
        ("52", "Second"),
    ]
    assert rows(store, "SELECT * EXCLUDE (source) FROM judgments ORDER BY query_id, doc_id") == [
        ("051", "2", 0.0, "test"),
        ("051", "FT-001", 2.0, "test"),
        ("52", "3", 1.0, "test"),
    ]


def test_files_named_one_by_one_and_compressed(tmp_path: Path, folder: Path) -> None:
    docs = write(tmp_path / "docs.gz", gzip.compress(DOCS.encode()))
    store = tmp_path / "s.duckdb"
    report = ingest(store, [str(folder / "qrels.test.txt"), str(docs), str(folder / "topics.txt")])
    assert dict(report.added) == {"documents": 3, "queries": 2, "judgments": 3}


def test_lines_of_records(folder: Path) -> None:
    found = collect(folder)
    assert [d["line"] for d in found["documents"]] == [1, 9, 11]
    assert [q["line"] for q in found["queries"]] == [1, 9]


def test_split_option(folder: Path) -> None:
    assert {j["split"] for j in collect(folder, split="dev")["judgments"]} == {"dev"}


def test_document_that_is_never_closed(tmp_path: Path, folder: Path) -> None:
    write(folder / "docs.sgml", DOCS + "<DOC>\n<DOCNO>9</DOCNO>")
    message = refused(tmp_path, folder)
    assert message == "DIR/trec/docs.sgml:12: <doc> is never closed; the file seems to be incomplete"


def test_document_without_number(tmp_path: Path, folder: Path) -> None:
    write(folder / "docs.sgml", "<DOC>\n<TEXT>x</TEXT></DOC>")
    assert (
        refused(tmp_path, folder) == "DIR/trec/docs.sgml:1: <doc> without a <docno>; give every document one"
    )


def test_topic_without_number(tmp_path: Path, folder: Path) -> None:
    write(folder / "topics.txt", "\n<top><title>x</top>")
    assert refused(tmp_path, folder) == (
        "DIR/trec/topics.txt:2: <top> without a number; "
        "give every topic one: <num>, or an attribute number or id"
    )


def test_bad_judgments_are_listed(folder: Path) -> None:
    write(folder / "qrels.test.txt", "51 FT-001 1\n51 0 FT-001 x\n" + "51 0 FT-001 1\n" * 2)
    assert [(r["line"], r["reason"], r["detail"]) for r in collect(folder)["rejected"]] == [
        (1, "field_count", "3 fields, not query, iteration, document, relevance"),
        (2, "bad_relevance", "relevance 'x' is not a number"),
    ]


def test_no_trec_file(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        open_source(str(tmp_path / "empty"), SourceConfig(format="trec"))
    assert str(caught.value).replace(str(tmp_path), "DIR") == (
        "DIR/empty: no documents, topics or judgments of TREC; write documents in <DOC>, topics in <top> or "
        "<topic>, judgments as lines `query 0 document 1`"
    )


@pytest.mark.parametrize("line", ["q1 0 d1 nan", "q1 0 d1 -inf", "q1 0 d1 many", "q1\td1\tnan"])
def test_a_first_judgment_with_a_bad_relevance_is_no_header(tmp_path: Path, line: str) -> None:
    file = tmp_path / "test.qrels"
    file.write_text(f"{line}\n{line[: -len(line.split()[-1])]}1\n", "utf-8")
    with pytest.raises(InputError, match=r"test.qrels:1: relevance '.*' is not a number"):
        read_judgments(file)
