"""TREC distributions as they come: any names and folders, all forms of topics, tags of all collections.

The fixtures are ours. The folders are those of TREC's disks 4 and 5, as ir_datasets 0.5.11 reads them for
Robust04 (datasets/disks45.py). Its formats/trec.py has topics in <top> and in XML, and the tags TEXT, TITLE,
HEADLINE, HL, HEAD, TTL, LP and LEADPARA; its datasets/cord19.py has the fields of TREC-COVID's topics (2020).
The other tags and forms of topics have no source with a version.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.errors import InputError, UsageError
from miner.sources import SourceConfig, detect, ingest, markup, open_source, trec
from miner.sources.files import File, Line, lines
from tests.sources_support import beir, collect, refused, rows, write

DOC = "<DOC>\n<DOCNO> {} </DOCNO>\n<TEXT>\n{}\n</TEXT>\n</DOC>\n"


def topics(path: Path) -> list[tuple[str, str]]:
    """Returns id and text of each query of a folder."""
    return [(row["query_id"], row["text"]) for row in collect(path).get("queries", [])]


TOPICS = {
    "SGML of the eighties": (
        "t",
        "<top>\n<num> Number: 1\n<title> Topic: a\n b\n<desc> Description:\nc\n</top>\n",
    ),
    "SGML, closed": ("topics", "<top><num>1</num><title>a b</title><narr>c</narr></top>"),
    "XML of the web track": (
        "q.xml",
        '<topics><topic number="1"><query>a b</query><description>c</description></topic></topics>',
    ),
    "XML of TREC-COVID": (
        "t.xml",
        '<?xml version="1.0"?>\n<topics>\n<topic number="1">\n<query>a b</query>\n<question>c</question>\n'
        "<narrative>d</narrative>\n</topic>\n</topics>\n",
    ),
    "XML of CLEF": (
        "t.xml",
        "<topics><topic lang='en'><identifier>1</identifier><title>a b</title></topic></topics>",
    ),
    "XML of queries": ("t.xml", '<queries><query id="1"><title>a b</title></query></queries>'),
    "XML, a text alone": ("t.xml", '<topics task="x"><topic number="1">\na b\n</topic></topics>'),
    "XML with CDATA and comments": (
        "t.xml",
        '<topics><topic number="1"><title><!-- <desc> --><![CDATA[a b]]></title></topic></topics>',
    ),
    "a description alone": ("t", "<top>\n<num> Number: 1\n<desc> Description:\na b\n</top>\n"),
    "topics as documents": ("topics.cacm.txt", "<DOC>\n<DOCNO>1</DOCNO>\na b\n</DOC>\n"),
    "tabs, with a tag in the text": ("topics.tsv", "1\ta b\n2\tthe <topic> tag\n"),
    "tabs": ("topics.tsv", "1\ta b\n"),
    "one line each": ("queries.txt", "1:a b\n"),
    "one line each, with blanks": ("topics.txt", "1 a b\n"),
    "JSON lines": ("t.jsonl", '{"qid": 1, "query": "a b"}\n'),
    "JSON lines that could be documents": ("queries.jsonl", '{"id": "1", "text": "a b"}\n'),
    "compressed": ("deep/er/t.gz", gzip.compress(b"<top><num>1<title>a b</top>")),
}


@pytest.mark.parametrize("name", TOPICS)
def test_topics_in_all_their_forms(tmp_path: Path, name: str) -> None:
    file, content = TOPICS[name]
    write(tmp_path / "set/disk1/ft001", DOC.format("D1", "text"))
    write(tmp_path / "set" / file, content)
    assert detect(str(tmp_path / "set")) == "trec"
    assert topics(tmp_path / "set")[0] == ("1", "a b")
    assert len(topics(tmp_path / "set")) == (2 if "<topic> tag" in str(content) else 1)


def document(content: str) -> tuple[str, str]:
    return markup.Markup(content).document()


@pytest.mark.parametrize(
    ("content", "title", "text"),
    [
        ("<DOCNO>1</DOCNO><HL>Steel</HL><LP>Up.</LP><TEXT>Agree.</TEXT>", "Steel", "Up. Agree."),
        ("<DOCNO>1</DOCNO><HEADLINE><P>A</P></HEADLINE><LEADPARA>b</LEADPARA><TEXT>c</TEXT>", "A", "b c"),
        ("<DOCNO>1</DOCNO><DOCID>5</DOCID><DATE><P>May</P></DATE><TEXT>c</TEXT>", "", "c"),
        ("<DOCNO>1</DOCNO><FILEID>5</FILEID><FIRST>u</FIRST><HEAD>A</HEAD><TEXT>c</TEXT>", "A", "c"),
        ("<DOCNO>1</DOCNO><HEADER><DATE1>5</DATE1><H3><TI>A</TI></H3></HEADER><TEXT>c</TEXT>", "A", "c"),
        ("<DOCNO>1</DOCNO><TTL>A</TTL><ABSTRACT>b</ABSTRACT><CAPTION>c</CAPTION>", "A", "b c"),
        ("<DOCNO>1</DOCNO>\n<DATE> May\n<TITLE> A\n<TEXT>c", "A", "c"),
        ("<DOCHDR>http</DOCHDR><html><title>A</title><date>b</date><script>c</script>", "A", "b"),
        ("<DOCNO>1</DOCNO><TEXT>a &lt;b&gt; &amp;amp; c</TEXT>", "", "a <b> &amp; c"),
        ("<DOCNO>1</DOCNO><TEXT>a < b and 3 <4></TEXT>", "", "a < b and 3 <4>"),
    ],
)  # fmt: skip
def test_tags_that_hold_text_are_kept(content: str, title: str, text: str) -> None:
    found = document(content)
    assert (found[0], " ".join(found[1].split())) == (title, text)


def test_a_distribution_with_any_names_in_any_folders(tmp_path: Path) -> None:
    folder = tmp_path / "robust"
    write(folder / "disk4/ft/ft911_1", DOC.format("FT911-1", "one"))
    write(folder / "disk5/fbis/fb396001.gz", gzip.compress(DOC.format("FBIS-1", "two").encode()))
    write(folder / "more.jsonl", '{"id":"W2","contents":"three"}\n')
    write(folder / "disk5/readme.txt", "what this is\n")
    write(folder / "disk5/fb396002.z", b"\x1f\x9d\x90rest")
    write(folder / "04.testset", "<top>\n<num> Number: 301\n<title> a\n</top>\n")
    write(folder / "test/robust.txt", "301 0 FT911-1 1\n301 0 FBIS-1 0\n301 0 W2 2\n")
    write(folder / "run.bm25", "301 Q0 FT911-1 1 12.5 me\n")
    source = open_source(str(folder), SourceConfig())
    assert source.note.splitlines() == [
        "not read: disk5/fb396002.z (compressed with compress, not text)",
        "not read: disk5/readme.txt (no documents, topics or judgments)",
        "not read: run.bm25 (a run: ranked documents, no judgments)",
    ]
    report = ingest(tmp_path / "s.duckdb", [str(folder)])
    assert dict(report.added) == {"documents": 3, "queries": 1, "judgments": 3}
    assert dict(report.splits) == {"test": 2}


def test_tags_that_are_not_read_are_listed_also_from_the_end_of_a_file(tmp_path: Path) -> None:
    early = "<DOC><DOCNO>1</DOCNO><DATE>May</DATE><FILEID>5</FILEID><TEXT>a</TEXT></DOC>\n"
    late = "<DOC><DOCNO>3</DOCNO><ACCESS>x</ACCESS><TEXT>c</TEXT></DOC>\n"
    write(tmp_path / "set/x", early + DOC.format("2", "b " * 100_000) + late)
    assert open_source(str(tmp_path / "set"), SourceConfig()).note == ""
    done = CliRunner().invoke(group, ["ingest", str(tmp_path / "s.duckdb"), str(tmp_path / "set")])
    assert done.exit_code == 0
    assert f"{tmp_path}/set: not read: the content of the tags access, date, fileid\n" in done.output


@pytest.mark.parametrize("name", ["ap8802", "ap8802.gz", "part/x.sgml"])
@pytest.mark.parametrize(
    "content", ["<DOC>\n<DOCNO>2</DOCNO>\ncaf\xe9\n</DOC>\n", "\n caf\xe9\n<top>\n<num> 1\n"]
)
def test_documents_and_topics_that_are_not_utf_8_are_refused_by_name(
    tmp_path: Path, name: str, content: str
) -> None:
    write(tmp_path / "set/good", DOC.format("1", "text"))
    data = content.encode("latin-1")
    write(tmp_path / "set" / name, gzip.compress(data) if name.endswith(".gz") else data)
    line = content[: content.index("\xe9")].count("\n") + 1
    column = len(content.split("\n")[line - 1].split("\xe9")[0]) + 1
    assert refused(tmp_path, tmp_path / "set") == (
        f"DIR/set/{name}:{line}: not UTF-8 (byte 0xe9 at column {column}); "
        "convert it first, for example: iconv -f LATIN1 -t UTF-8 OLD > NEW"
    )


def test_other_files_that_are_not_utf_8_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "set/good", DOC.format("1", "text"))
    write(tmp_path / "set/readme", b"the tags <DOC> and <top> caf\xe9\n")
    note = open_source(str(tmp_path / "set"), SourceConfig()).note
    assert note.startswith("not read: readme (")
    assert "/set/readme:1: not UTF-8 (byte 0xe9 at column 29)" in note


def test_a_record_that_is_not_closed_before_the_next_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "set/topics", "<top><num>1<title>a\n\n<top><num>2<title>b</top>")
    assert refused(tmp_path, tmp_path / "set") == (
        "DIR/set/topics:1: <top> is not closed before the next on line 3; write </top> between them"
    )


def test_judgments_without_topics_say_so(tmp_path: Path) -> None:
    write(tmp_path / "set/docs", DOC.format("D1", "text"))
    write(tmp_path / "set/qrels", "1 0 D1 1\n")
    assert refusal(tmp_path, tmp_path / "set") == (
        "the sources hold judgments, but no queries (topics) were found; "
        "name the file of the queries (topics) too, or ingest it first"
    )
    with pytest.raises(InputError, match=r"no queries \(topics\) were found"):
        ingest(other_queries(tmp_path), [str(tmp_path / "set")])
    ingest(tmp_path / "s.duckdb", [str(write(tmp_path / "topics.txt", "<top><num>1<title>a</top>"))])
    assert dict(ingest(tmp_path / "s.duckdb", [str(tmp_path / "set")]).splits) == {"train": 1}


def other_queries(folder: Path) -> Path:
    """Returns a store that holds queries, none of them judged here."""
    ingest(folder / "other.duckdb", [str(write(folder / "topics.old", "<top><num>7<title>b</top>"))])
    return folder / "other.duckdb"


def refusal(tmp_path: Path, source: Path, **options: Any) -> str:
    with pytest.raises((InputError, UsageError)) as caught:
        ingest(tmp_path / "none.duckdb", [str(source)], SourceConfig(**options))
    assert not (tmp_path / "none.duckdb").exists()
    return str(caught.value).replace(str(tmp_path), "DIR")


def test_an_id_that_is_nearly_there_is_named_and_never_equated(tmp_path: Path) -> None:
    write(tmp_path / "set/docs", DOC.format("WT01-7", "text"))
    write(tmp_path / "set/topics", "<top><num>51<title>a</top>")
    write(tmp_path / "set/qrels", "051 0 WT01-7 1\n51 0 wt01-07 1\n")
    message = refusal(tmp_path, tmp_path / "set")
    assert "DIR/set/qrels:1: no query '051' (there is '51')" in message
    assert (
        "DIR/set/qrels:2: no document 'wt01-07' (judged for query '51'; there is document 'WT01-7')"
        in message
    )
    assert message.endswith(
        "; query ids differ in leading zeros, which --set unpad_query_ids=true removes; or correct the "
        "files, or allow more with --set max_bad=FRACTION"
    )
    again = refusal(tmp_path, tmp_path / "set", unpad_query_ids=True)
    assert "no query" not in again
    assert again.endswith("; correct the files, or allow more with --set max_bad=FRACTION")
    write(tmp_path / "set/qrels", "051 0 WT01-7 1\n")
    report = ingest(tmp_path / "s.duckdb", [str(tmp_path / "set")], SourceConfig(unpad_query_ids=True))
    assert dict(report.splits) == {"train": 1}
    assert rows(tmp_path / "s.duckdb", "SELECT query_id FROM judgments") == [("51",)]


QRELS = {
    "BEIR": "query-id\tcorpus-id\tscore\nq1\td1\t2\n",
    "BEIR in another order": "corpus-id\tquery-id\tscore\nd1\tq1\t2\n",
    "BEIR with more columns": "query-id\titeration\tscore\tcorpus-id\nq1\t0\t2\td1\n",
    "TREC's four columns, with tabs": "q1\t0\td1\t2\n",
    "TREC's four columns": "q1 Q0 d1 2\n",
    "three columns with blanks": "q1 d1 2\n",
    "JSON lines": '{"query-id": "q1", "corpus-id": "d1", "score": 2}\n',
}


@pytest.mark.parametrize("name", QRELS)
def test_judgments_in_any_columns(tmp_path: Path, name: str) -> None:
    folder = beir(tmp_path / "set", {"d1": "a"}, {"q1": "b"})
    ending = "jsonl" if name == "JSON lines" else "tsv"
    write(folder / f"qrels/test.{ending}", QRELS[name])
    found = [(j["query_id"], j["doc_id"], j["relevance"], j["split"]) for j in collect(folder)["judgments"]]
    assert found == [("q1", "d1", 2.0, "test")]


def test_judgments_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", {"d1": "a"}, {"q1": "b"})
    write(folder / "qrels/test.tsv", "q1\td1\n")
    assert refused(tmp_path, folder) == (
        "DIR/set/qrels/test.tsv: no judgments; its first line has 2 fields: q1, d1; write query, "
        "document, relevance between tabs, or TREC's query, 0, document, relevance; a header such as "
        "query-id, corpus-id, score may give another order"
    )


def test_files_of_a_beir_folder_that_are_not_read_are_listed(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", {"d1": "a"}, {"q1": "b"}, test=[("q1", "d1", 1)])
    for name in ("README.md", "qrels/notes.pdf", "old/corpus.jsonl"):
        write(folder / name, "x")
    assert open_source(str(folder), SourceConfig()).note == (
        "not read: README.md, old/corpus.jsonl, qrels/notes.pdf "
        "(not corpus.jsonl, queries.jsonl or qrels/SPLIT.tsv)"
    )


UNCLOSED = ("<TEXT>", "<DATE>", "<TITLE><TEXT>", "<a b=", "<top", "<!--", "<![CDATA[", "&lt;<HL>x")


@pytest.mark.parametrize("tag", UNCLOSED)
def test_tags_that_are_never_closed_take_linear_time(tag: str) -> None:
    """1 MB of them: in time that grows with the square these would take hours."""
    text = "<DOCNO>1</DOCNO>" + tag * (1_000_000 // len(tag))
    markup.Markup(text).document()
    assert markup.Markup(text).fields(("docno", "title"))["docno"] == "1"


def test_a_large_folder_is_recognised_by_some_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(350):
        write(tmp_path / "set" / f"{number:03}.txt", "Rome is old.")
    opened = list[str]()

    def _lines(file: File) -> Iterator[Line]:
        opened.append(file.origin)
        return lines(file)

    monkeypatch.setattr(trec, "lines", _lines)
    assert detect(str(tmp_path / "set")) == "documents"
    assert 0 < len(set(opened)) <= 100
    write(tmp_path / "set" / "more" / "collection-7", "<DOC><DOCNO>a</DOCNO>Rome</DOC>")
    assert detect(str(tmp_path / "set")) == "trec"
