"""Layouts of public files: each is read right, or refused with the option that reads it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from miner.errors import UsageError
from miner.sources import SourceConfig, ingest, open_source
from tests.sources_support import collect, jsonl, refused, rows, write


def judged(path: Path, **options: Any) -> list[tuple[str, str, float]]:
    """Returns query text, document text and relevance of each judgment."""
    found = collect(path, **options)
    queries = {row["query_id"]: row["text"] for row in found["queries"]}
    documents = {row["doc_id"]: row["text"] for row in found["documents"]}
    return [(queries[j["query_id"]], documents[j["doc_id"]], j["relevance"]) for j in found["judgments"]]


PAIR = {"query_column": "question1", "positive_column": "question2"}
NLI = {"query_column": "premise", "positive_column": "hypothesis", "relevance_column": "gold_label"}
ESCI = {"positive_column": "product_title", "relevance_column": "esci_label"}
BARE = {"header": False}

READ = {
    "sentence-transformers triplets": (
        "t.jsonl",
        '{"query": "a", "positive": "b", "negative": "c"}\n',
        {},
        [("a", "b", 1.0), ("a", "c", 0.0)],
    ),
    "keys that come late": (
        "t.jsonl",
        '{"query":"a","positive":"b","negative_1":"n1"}\n'
        '{"query":"d","positive":"e","negative_1":"n2","negative_2":"n3"}\n',
        {},
        [("a", "b", 1.0), ("a", "n1", 0.0), ("d", "e", 1.0), ("d", "n2", 0.0), ("d", "n3", 0.0)],
    ),
    "a score that comes late": (
        "t.jsonl",
        '{"query":"a","positive":"b"}\n{"query":"d","positive":"e","score":0}\n',
        {"relevance_column": "score", "relevance_map": {"": 1}},
        [("a", "b", 1.0), ("d", "e", 0.0)],
    ),
    "FlagEmbedding": (
        "t.jsonl",
        '{"query":"a","pos":["p1","p2"],"neg":["n"],"pos_scores":[0.9,0.8],"neg_scores":[0.1],"prompt":"x"}\n',
        {},
        [("a", "p1", 1.0), ("a", "p2", 1.0)],
    ),
    "FlagEmbedding without scores": (
        "t.jsonl",
        '{"query":"a","pos":["p1","p2"],"neg":["n"],"prompt":"x"}\n',
        {},
        [("a", "p1", 1.0), ("a", "p2", 1.0), ("a", "n", 0.0)],
    ),
    "FlagEmbedding's names with single texts": ("t.csv", "query,pos\na,b\n", {}, [("a", "b", 1.0)]),
    "Tevatron": (
        "t.jsonl",
        '{"query_id":"1","query":"a","positive_passages":[{"docid":"7","title":"T","text":"p"}],'
        '"negative_passages":[{"docid":"8","title":"","text":"n"}]}\n',
        {},
        [("a", "p", 1.0), ("a", "n", 0.0)],
    ),
    "DPR": (
        "t.json",
        '[{"question":"a","answers":["x"],"positive_ctxs":[{"title":"T","text":"p","passage_id":"7"}],\n'
        '"negative_ctxs":[],"hard_negative_ctxs":[{"title":"","text":"n"}]}]\n',
        {},
        [("a", "p", 1.0), ("a", "n", 0.0)],
    ),
    "lists in columns that are named": (
        "t.jsonl",
        '{"question":"a","answers":["b","c"]}\n',
        {"query_column": "question", "positive_column": "answers"},
        [("a", "b", 1.0), ("a", "c", 1.0)],
    ),
    ".ndjson": ("t.ndjson", '{"query":"a","positive":"b"}\n', {}, [("a", "b", 1.0)]),
    ".json with one object a line": (
        "t.json",
        '{"query":"a","positive":"b"}\n' * 2,
        {},
        [("a", "b", 1.0)] * 2,
    ),
    ".json with an array": (
        "t.json",
        '[\n  {"query": "a",\n "positive": "b"},\n {"query": "c", "positive": "d"}\n]\n',
        {},
        [("a", "b", 1.0), ("c", "d", 1.0)],
    ),
    "Quora's duplicate questions": (
        "t.csv",
        "id,qid1,qid2,question1,question2,is_duplicate\n0,1,2,a,b,0\n1,3,4,c,d,1\n",
        {**PAIR, "relevance_column": "is_duplicate"},
        [("a", "b", 0.0), ("c", "d", 1.0)],
    ),
    "SNLI": (
        "t.jsonl",
        '{"gold_label":"entailment","premise":"a","hypothesis":"b"}\n'
        '{"gold_label":"contradiction","premise":"a","hypothesis":"c"}\n'
        '{"gold_label":"neutral","premise":"a","hypothesis":"d"}\n',
        {**NLI, "relevance_map": {"entailment": 1, "contradiction": 0}},
        [("a", "b", 1.0), ("a", "c", 0.0)],
    ),
    "ESCI": (
        "t.csv",
        "example_id,query,product_title,product_locale,esci_label\n1,a,b,us,E\n2,a,c,us,I\n3,a,d,us,S\n",
        {**ESCI, "relevance_map": {"E": 3, "S": 2, "C": 1, "I": 0} | {}},
        None,
    ),
    "booleans": (
        "t.jsonl",
        '{"query":"a","positive":"b","label":true}\n{"query":"a","positive":"c","label":false}\n',
        {"relevance_column": "label"},
        [("a", "b", 1.0), ("a", "c", 0.0)],
    ),
    "booleans as pandas writes them": (
        "t.csv",
        "query,positive,label\na,b,True\na,c,False\n",
        {"relevance_column": "label", "relevance_map": {"true": 2, "false": -1}},
        [("a", "b", 2.0), ("a", "c", -1.0)],
    ),
    "MS MARCO triples": (
        "triples.tsv",
        "a\tb\tc\n",
        {**BARE, "columns": ("query", "positive", "negative")},
        [("a", "b", 1.0), ("a", "c", 0.0)],
    ),
    "the first STS benchmark": (
        "sts.tsv",
        'main\tMSRvid\t2012\t0001\t5.000\tA "plane".\tAn air plane.\n'
        'main\tforum\t2013\t0002\t0.000\t"So be it\tNo.\tsource\thttp://x\n',
        {**BARE, "columns": ("-", "-", "-", "-", "relevance", "query", "positive", "-", "-")},
        [('A "plane".', "An air plane.", 5.0), ('"So be it', "No.", 0.0)],
    ),
    "quoted, with a line break": (
        "quoted.tsv",
        'query\tpositive\nq one\t"he said ""yes"" to it"\nq two\t"first line\nsecond line"\n',
        {},
        [("q one", 'he said "yes" to it', 1.0), ("q two", "first line\nsecond line", 1.0)],
    ),
    "every field quoted": ("t.tsv", '"query"\t"positive"\n"a"\t"b"\n', {}, [("a", "b", 1.0)]),
    "quotes that are text": (
        "t.tsv",
        'query\tpositive\n"a\tb "c" d\n"e" f\t5" screen\n',
        {},
        [('"a', 'b "c" d', 1.0), ('"e" f', '5" screen', 1.0)],
    ),
    "quotes forced to be text": (
        "t.tsv",
        'query\tpositive\na\t"b ""c"""\n',
        {"quoted": False},
        [("a", '"b ""c"""', 1.0)],
    ),
    "quotes forced to be CSV's": ("t.tsv", 'query\tpositive\na\t"b"\n', {"quoted": True}, [("a", "b", 1.0)]),
}


@pytest.mark.parametrize("name", READ)
def test_layouts_that_are_read(tmp_path: Path, name: str) -> None:
    file, content, options, expected = READ[name]
    if name == "ESCI":
        expected = [("a", "b", 3.0), ("a", "c", 0.0), ("a", "d", 2.0)]
        options = {**options, "relevance_map": {"E": 3, "S": 2, "I": 0}}
    assert judged(write(tmp_path / file, content), **options) == expected


LABEL = (
    "column '{}' looks like a label of the pairs (with values such as {}), and no option mentions it: every "
    "row would be a positive; to read it as relevance: --relevance-column {}{}; "
    "if every row is a positive: --relevance-column none"
)
NUMBERS, NAMES = " (0 or less means not relevant)", " (rows with other values are left out)"

REFUSED = {
    "a pair marked 0": (
        "t.csv",
        "question1,question2,is_duplicate\na,b,0\nc,d,1\n",
        PAIR,
        ": " + LABEL.format("is_duplicate", "0, 1", "is_duplicate", NUMBERS),
    ),
    "labels of NLI": (
        "t.tsv",
        "query\tpositive\tgold_label\na\tb\tentailment\na\tc\tneutral\n",
        {},
        ": "
        + LABEL.format(
            "gold_label",
            "entailment, neutral",
            "gold_label",
            " --relevance-map entailment=1,neutral=0" + NAMES,
        ),
    ),
    "a score of every pair": (
        "t.tsv",
        "query\tpositive\tsimilarity\n" + "".join(f"a{i}\tb{i}\t0.{i}\n" for i in range(20)),
        {},
        ": " + LABEL.format("similarity", "0.0, 0.1, 0.2", "similarity", NUMBERS),
    ),
    "a column of few values with any name": (
        "t.tsv",
        "query\tpositive\topinion\n"
        + "".join(f"a{i}\tb{i}\t{'fine' if i % 2 else 'poor'}\n" for i in range(9)),
        {},
        ": "
        + LABEL.format(
            "opinion", "fine, poor", "opinion", " --relevance-map fine=NUMBER,poor=NUMBER" + NAMES
        ),
    ),
    "a score of 0 that comes late": (
        "t.jsonl",
        '{"query":"a","positive":"b"}\n{"query":"d","positive":"e","score":0}\n',
        {},
        ": " + LABEL.format("score", "0", "score", NUMBERS),
    ),
    "names as relevance": (
        "t.tsv",
        "query\tpositive\tesci_label\na\tb\tE\na\tc\tI\n",
        {"relevance_column": "esci_label"},
        ": values of column 'esci_label' are not numbers: E, I; give each value a relevance: "
        "--relevance-map E=3,I=0 (rows with other values are left out)",
    ),
    "MS MARCO queries": (
        "t.tsv",
        "17\thow old is Rome\n18\twhat is rice\n",
        {},
        ": no column 'query'; the file seems to have no header, its first row is 17, how old is Rome; "
        "add --no-header, and name the columns in order with --columns, such as query_id,text",
    ),
    "Chinese texts": (
        "t.tsv",
        "怎么重置\t请按住路由器背面的按钮十秒钟直到指示灯开始闪烁为止\n路由器\t网络设备\n",
        {},
        ": no column 'query'; the file seems to have no header, its first row is 怎么重置, "
        "请按住路由器背面的按钮十秒钟直到指示灯开始闪烁为止; "
        "add --no-header, and name the columns in order with --columns, such as query_id,text",
    ),
    "the wrong number of names": (
        "t.tsv",
        "17\ta\tb\n",
        {**BARE, "columns": ("query_id", "text")},
        ":1: 3 fields, but --columns names 2; name every column in order, - for a column to skip",
    ),
    "pairs by their usual names": (
        "t.csv",
        "question1,question2,same\na,b,0\n",
        {},
        ": no columns 'query' and 'positive' for pairs, nor columns 'text' and 'label' for labels; its "
        "columns: question1, question2, same; name yours, such as --query-column question1 "
        "--positive-column question2",
    ),
    "an option that was given is not advised": (
        "t.csv",
        "question,answer\na,b\n",
        {"query_column": "question"},
        ": no column 'positive' for pairs; its columns: question, answer; name yours with --positive-column",
    ),
    "judgments by another name": (
        "test.tsv",
        "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
        {},
        ": it seems to hold judgments (query, document, relevance), not texts; add --format trec",
    ),
    "a column of labels by another name": (
        "t.csv",
        "text,label_text\na,b\n",
        {},
        ": no columns 'query' and 'positive' for pairs, nor column 'label' (did you mean 'label_text'?) for "
        "labels; its columns: text, label_text; name yours with --query-column and --positive-column, or "
        "--label-column; if it is a corpus alone, without queries: --format documents --set "
        "document_id_column=NAME",
    ),
    "an object over several lines": (
        "t.json",
        '{\n"query": "a"\n}\n',
        {},
        ": one JSON value over several lines, not one object per line; write one object per line, or one "
        "array of objects",
    ),
    "an array that is cut off": (
        "t.json",
        '[{"query": "a", "positive": "b"}, {"query": "a"',
        {},
        ":2: broken JSON (Expecting ',' delimiter, element 2); write one complete array",
    ),
    "quotes of both kinds": (
        "t.tsv",
        "query\tpositive\n" + 'a\t"b ""c"" d"\n' * 20 + 'a\t5" screen\n',
        {},
        ": 20 quoted fields as in CSV, but line 22 has other quotes; correct the file and add "
        "--set quoted=true, or keep all quotes as text with --set quoted=false",
    ),
    "CSV that tabs part": (
        "t.csv",
        "query\tpositive\na\tb\n",
        {},
        ":1: one column, 'query\\tpositive': commas separate the columns of a .csv file, not '\\t'; "
        "end its name in .tsv",
    ),
    "a Git LFS pointer": (
        "t.jsonl",
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        {},
        ": a Git LFS pointer, not text; the data is elsewhere; fetch it: git lfs pull",
    ),
    "a Git LFS pointer for Parquet": (
        "t.parquet",
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        {},
        ": a Git LFS pointer, not Parquet; the data is elsewhere; fetch it: git lfs pull",
    ),
    "UTF-16": (
        "t.tsv",
        "query\tpositive\na\tb\n".encode("utf-16"),
        {},
        ": UTF-16, not text; convert it first: iconv -f UTF-16 -t UTF-8 OLD > NEW",
    ),
    "UTF-16 without a mark": (
        "t.csv",
        "query,positive\na,b\n".encode("utf-16-le"),
        {},
        ": UTF-16, not text; convert it first: iconv -f UTF-16 -t UTF-8 OLD > NEW",
    ),
    "gzip without its ending": (
        "t.csv",
        gzip.compress(b"query,positive\na,b\n"),
        {},
        ": compressed with gzip, not text; end its name in .gz, such as data.jsonl.gz, or unpack it",
    ),
    "a zip archive": (
        "t.csv",
        b"PK\x03\x04rest",
        {},
        ": a zip archive or an office document, not text; unpack it, or save a table as .csv",
    ),
    "Parquet by another name": ("t.csv", b"PAR1rest", {}, ": Parquet, not text; end its name in .parquet"),
    "an HTML page": (
        "t.csv",
        "\n<!DOCTYPE html>\n<html><body>404</body></html>",
        {},
        ": an HTML page, not text; download the file itself, not the page about it",
    ),
    "an empty file": ("t.ndjson", "", {}, ": the file is empty; write one object per line"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layouts_that_are_refused(tmp_path: Path, name: str) -> None:
    file, content, options, expected = REFUSED[name]
    assert refused(tmp_path, write(tmp_path / file, content), **options) == f"DIR/{file}{expected}"


def test_ids_of_passages_and_queries_are_kept(tmp_path: Path) -> None:
    file, content, options, _ = READ["Tevatron"]
    found = collect(write(tmp_path / file, content), **options)
    assert [row["query_id"] for row in found["queries"]] == ["1"]
    assert [(row["doc_id"], row["title"]) for row in found["documents"]] == [("7", "T"), ("8", "")]


def test_values_that_the_map_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "query\tpositive\tg\na\tb\tyes\na\tc\tno\na\td\tperhaps\na\te\t\n")
    config = SourceConfig(relevance_column="g", relevance_map={"yes": 1, "no": 0})
    report = ingest(tmp_path / "s.duckdb", [str(path)], config)
    assert [(r.reason, r.rows) for r in report.rejected] == [("unmapped_relevance", 2)]
    assert rows(tmp_path / "s.duckdb", "SELECT text FROM documents ORDER BY text") == [("b",), ("c",)]


def test_a_misspelt_value_of_the_map_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "query\tpositive\tg\na\tb\tentailment\n")
    config = SourceConfig(relevance_column="g", relevance_map={"entailmnt": 1})
    with pytest.raises(
        UsageError, match=r"no row has the value 'entailmnt' of --relevance-map \(did you mean"
    ):
        ingest(tmp_path / "s.duckdb", [str(path)], config)
    assert not (tmp_path / "s.duckdb").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"header": False}, "--no-header needs the names of the columns"),
        ({"columns": ("query",)}, "--columns is for files without a header"),
        ({"header": False, "columns": ("a", "a")}, "--columns has the name 'a' twice or empty"),
        ({"relevance_map": {"a": 1}}, "--relevance-map needs the column with the values"),
        (
            {"relevance_column": "g", "relevance_map": {"a": float("nan")}},
            "--relevance-map gives 'a' the relevance nan",
        ),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        SourceConfig(**options).check()
    assert caught.value.message == message


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    named = write(tmp_path / "t.jsonl", '{"text": "a", "label": "b"}\n')
    with pytest.raises(UsageError, match=r"--no-header has no effect on .*t.jsonl: its columns have names"):
        open_source(str(named), SourceConfig(header=False, columns=("text", "label")))
    with pytest.raises(UsageError, match=r"--relevance-column has no effect on .*t.jsonl, which has labels"):
        open_source(str(named), SourceConfig(relevance_column="label"))


def test_every_row_may_be_a_positive_whatever_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "query\tpositive\tscore\na\tb\t0\n")
    source = open_source(str(path), SourceConfig(relevance_column="none"))
    assert source.note == "not read: columns score; if it grades the pairs: --relevance-column score"
    assert judged(path, relevance_column="none") == [("a", "b", 1.0)]


@pytest.mark.parametrize("column", ["genre", "source", "split", "pair_id", "lang"])
def test_columns_about_a_row_are_no_labels(tmp_path: Path, column: str) -> None:
    rows = "".join(f"a{i}\tb{i}\t{i % 2}\n" for i in range(20))
    path = write(tmp_path / "t.tsv", f"query\tpositive\t{column}\n{rows}")
    assert open_source(str(path), SourceConfig()).note == f"not read: columns {column}"


def test_columns_of_lists_are_listed_and_stop_nothing(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl", jsonl({"query": "a", "positive": "b", "meta": {"m": 1}, "votes": ["x"]})
    )
    assert open_source(str(path), SourceConfig()).note == "not read: columns meta (an object), votes (a list)"
    assert judged(path) == [("a", "b", 1.0)]


def test_queries_and_documents_in_files_of_their_own(tmp_path: Path) -> None:
    """MS MARCO's collection, queries and judgments: three commands, one store."""
    store = tmp_path / "s.duckdb"
    write(tmp_path / "collection.tsv", "7\tRome is old\n8\tRice is a grain\n")
    write(tmp_path / "queries.tsv", "17\thow old is Rome\n18\twhat is rice\n")
    write(tmp_path / "qrels.train.txt", "17\t0\t7\t1\n18\t0\t8\t1\n")
    bare = SourceConfig(header=False, columns=("doc_id", "text"))
    ingest(store, [str(tmp_path / "collection.tsv")], bare)
    ingest(store, [str(tmp_path / "queries.tsv")], SourceConfig(header=False, columns=("query_id", "text")))
    report = ingest(store, [str(tmp_path / "qrels.train.txt")])
    assert dict(report.splits) == {"train": 2}
    assert rows(store, "SELECT query_id, text FROM queries ORDER BY ALL") == [
        ("17", "how old is Rome"),
        ("18", "what is rice"),
    ]


def test_a_report_says_what_each_source_was_taken_for(tmp_path: Path) -> None:
    rows = [{"query": "how deep is the sea", "positive": "as deep as it is"}]
    shown: list[str] = []
    report = ingest(tmp_path / "s.duckdb", rows, show=shown.append)
    assert list(report.understood) == shown
    assert shown[0].splitlines() == [
        "read list as pairs: query = query, positive = positives",
        '  list:1: query "how deep is the sea"; relevant "as deep as it is"',
    ]
