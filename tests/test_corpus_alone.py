"""A corpus alone: documents without queries: what works on them, and what says why it does not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.curation.contamination import ContaminationConfig, find_contamination
from miner.curation.dedup import DedupConfig, dedup
from miner.errors import InputError, UsageError
from miner.mining.config import MiningConfig
from miner.mining.pipeline import mine
from miner.sources import SourceConfig, detect, ingest, open_source
from miner.store.database import Database
from miner.text import content_id
from tests.sources_support import accounted, beir, collect, jsonl, refused, rows, write
from tests.stores import make_store

TEXTS = {
    "a": "The reset link is on the sign-in page",
    "b": "the reset link is on the sign-in page",
    "c": "Ürün iade süresi otuz gündür",
}
DOCUMENTS = "SELECT doc_id, title, text FROM documents ORDER BY doc_id"


@pytest.mark.parametrize("identity", ["doc_id", "_id", "id", "docid", "docno", "pid"])
@pytest.mark.parametrize("text", ["text", "contents"])
def test_a_table_with_an_id_and_a_text(tmp_path: Path, identity: str, text: str) -> None:
    records = ({identity: one, "title": "T", text: content} for one, content in TEXTS.items())
    report = ingest(tmp_path / "s.duckdb", str(write(tmp_path / "c.jsonl", jsonl(*records))))
    assert dict(report.added) == {"documents": 3, "queries": 0, "judgments": 0}
    assert rows(tmp_path / "s.duckdb", DOCUMENTS) == [(one, "T", TEXTS[one]) for one in TEXTS]


def test_a_table_with_texts_only_makes_ids_from_them(tmp_path: Path) -> None:
    file = write(tmp_path / "c.csv", 'text\n"one, two"\nthree\n')
    ingest(tmp_path / "s.duckdb", str(file))
    expected = sorted((content_id("d-", one), "", one) for one in ("one, two", "three"))
    assert rows(tmp_path / "s.duckdb", DOCUMENTS) == expected
    titled = write(tmp_path / "t.jsonl", jsonl({"title": "x", "body": "three", "year": 3}))
    config = SourceConfig(format="documents", text_column="body")
    assert open_source(str(titled), config).note == (
        "not read: columns year; ids are made from the texts; if a column has them: "
        "--set document_id_column=NAME"
    )
    assert dict(ingest(tmp_path / "s.duckdb", str(titled), config).added)["documents"] == 1


@pytest.mark.parametrize("identity", ["pid", "passage_id"])
def test_the_id_of_a_passage_goes_before_that_of_its_document(tmp_path: Path, identity: str) -> None:
    """MS MARCO's passages of 2021 have both."""
    records = ({"docid": "d", identity: one, "passage": text} for one, text in TEXTS.items())
    file = write(tmp_path / "c.jsonl", jsonl(*records))
    ingest(tmp_path / "s.duckdb", str(file), SourceConfig(format="documents", text_column="passage"))
    assert rows(tmp_path / "s.duckdb", DOCUMENTS) == [(one, "", text) for one, text in TEXTS.items()]


def test_a_table_with_other_columns_needs_the_format(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "id,text,category\n1,one,x\n2,two,y\n")
    assert refused(tmp_path, file).endswith("if it is a corpus alone, without queries: --format documents")
    report = ingest(tmp_path / "s.duckdb", str(file), SourceConfig(format="documents"))
    assert report.added["documents"] == 2
    assert "no column 'text'" in refused(
        tmp_path, write(tmp_path / "u.csv", "id,body\n1,one\n"), format="documents"
    )


def test_text_files_are_a_document_each(tmp_path: Path) -> None:
    folder = tmp_path / "handbook"
    write(folder / "returns.md", "# Returns\n\nPrint the label.\n")
    write(folder / "staff/leave.txt", "Ask first.\r\n")
    write(folder / "logo.png", b"\x89PNG")
    assert detect(str(folder)) == "documents"
    assert open_source(str(folder), SourceConfig()).note.startswith("not read: logo.png (not .txt, ")
    report = ingest(tmp_path / "s.duckdb", str(folder))
    assert report.added["documents"] == 2
    assert rows(tmp_path / "s.duckdb", DOCUMENTS) == [
        ("returns.md", "", "# Returns\n\nPrint the label."),
        ("staff/leave.txt", "", "Ask first."),
    ]
    assert ingest(tmp_path / "s.duckdb", str(folder)).already_there["documents"] == 2
    write(folder / "staff/bad.txt", b"caf\xe9")
    with pytest.raises(InputError, match=r"staff/bad\.txt:1: not UTF-8"):
        ingest(tmp_path / "s.duckdb", str(folder))


@pytest.mark.parametrize("stray", ["conf.json", "sales.csv"])
def test_a_stray_table_among_text_files_is_listed(stray: str, tmp_path: Path) -> None:
    folder = tmp_path / "handbook"
    write(folder / "returns.md", "Print the label.")
    write(folder / "leave.txt", "Ask first.")
    write(folder / stray, '{"port": 80}\n' if stray.endswith("json") else "month,sum\nMay,3\n")
    for format in ("auto", "documents"):
        source = open_source(str(folder), SourceConfig(format=format))
        assert source.note == f"not read: {stray} (a table among text files: to read it, name it)"
        assert {row["doc_id"] for row in collect(folder, format=format)["documents"]} == {
            "returns.md",
            "leave.txt",
        }
    write(folder / "more" / "nested.csv", "a,b\n1,2\n")
    assert detect(str(folder)) == "documents"


def test_tables_with_files_about_them_stay_tables(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(folder / "train.csv", "query,positive\na,b\n")
    for name in ("README.md", "LICENSE.txt", "CHANGELOG.md"):
        write(folder / name, "about")
    write(folder / "notes.md", "hello")
    assert detect(str(folder)) == "table"
    write(folder / "more.md", "hello")
    assert detect(str(folder)) == "table"  # its columns are those of pairs
    write(folder / "train.csv", "a,b\nc,d\n")
    assert detect(str(folder)) == "documents"
    assert len(collect(folder, query_column="a", positive_column="b")["judgments"]) == 1


def test_empty_text_files_are_rows_that_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "handbook"
    for number in range(37):
        write(folder / f"todo-{number}.md", " \n" if number else "")
    write(folder / "returns.md", "Print the label.")
    report = accounted(tmp_path, folder, 38)
    assert report.added["documents"] == 1
    assert [(one.reason, one.rows) for one in report.rejected] == [("empty_file", 37)]
    listed = rows(
        tmp_path / "accounted.duckdb", "SELECT origin, detail FROM rejected ORDER BY origin LIMIT 1"
    )
    assert listed == [(f"{folder}/todo-0.md", "the file is empty")]
    write(folder / "returns.md", "")
    assert refused(tmp_path, folder) == "DIR/handbook: 38 text files, all empty; name files with text"


@pytest.mark.parametrize("folder", [True, False])
def test_a_spreadsheet_is_refused_with_what_to_do(folder: bool, tmp_path: Path) -> None:
    file = write(tmp_path / "data" / "faq.xlsx", b"PK\x03\x04")
    expected = (
        "DIR/data/faq.xlsx: a spreadsheet, which miner does not read; save its sheet as .csv in UTF-8, or as "
        ".parquet, and name that file"
    )
    assert refused(tmp_path, file.parent if folder else file) == expected
    assert refused(tmp_path, file, format="pairs") == expected


def test_a_beir_folder_without_queries(tmp_path: Path) -> None:
    folder = beir(tmp_path / "b", TEXTS, {})
    (folder / "queries.jsonl").unlink()
    assert open_source(str(folder), SourceConfig()).note == (
        f"{folder} has no qrels and no queries.jsonl: no judgments; "
        "a file of them elsewhere is a source of its own"
    )
    assert ingest(tmp_path / "s.duckdb", str(folder)).added["documents"] == 3
    write(folder / "queries.jsonl", jsonl({"_id": "q", "text": "?"}))
    only = SourceConfig(format="documents")
    assert open_source(str(folder), only).note == ("not read: queries.jsonl (not corpus.jsonl)")
    assert dict(ingest(tmp_path / "o.duckdb", str(folder), only).added)["queries"] == 0
    (folder / "queries.jsonl").unlink()
    write(folder / "query.jsonl", jsonl({"_id": "q", "text": "?"}))
    assert "no queries.jsonl" in refused(tmp_path, folder)
    (folder / "query.jsonl").rename(folder / "other.jsonl")
    write(folder / "qrels/train.tsv", "query-id\tcorpus-id\tscore\nq\ta\t1\n")
    assert "no queries.jsonl" in refused(tmp_path, folder)


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    file = write(tmp_path / "c.jsonl", jsonl(*({"id": one, "text": text} for one, text in TEXTS.items())))
    ingest(tmp_path / "alone.duckdb", str(file))
    return tmp_path / "alone.duckdb"


def test_dedup_and_contamination_work(alone: Path, tmp_path: Path) -> None:
    with (
        Database.open(alone) as store,
        make_store(tmp_path / "e.duckdb", {"x": TEXTS["c"]}, {"q": "?"}, [("q", "x", "test")]) as evaluation,
    ):
        assert dedup(store, DedupConfig()).documents.members == 2
        found = find_contamination(store, evaluation, ContaminationConfig())
        assert [(one.id, one.train_id) for one in found.matches] == [("x", "c")]


GENERATE = "a language model makes some from the documents, miner generate"


def test_commands_that_need_queries_name_miner_generate(alone: Path, tmp_path: Path) -> None:
    with Database.open(alone) as store:
        with pytest.raises(UsageError, match=f"no query has a judged positive.*no queries: {GENERATE}"):
            mine(store, MiningConfig())
        with pytest.raises(UsageError, match=GENERATE):
            find_contamination(store, store, ContaminationConfig())
    for command in (
        ["audit"],
        ["train-reranker", "x"],
        ["evaluate"],
        ["silver"],
        ["bench"],
        ["explain", "q"],
    ):
        name, *others = command
        words = [name, "bundled", str(alone)] if name == "evaluate" else [name, str(alone), *others]
        result = CliRunner().invoke(group, words)
        assert GENERATE in str(result.exception), (words, result.exception)


def test_the_summary_of_ingest_says_so(alone: Path) -> None:
    result = CliRunner().invoke(group, ["ingest", str(alone), str(alone.with_name("c.jsonl"))])
    assert (
        "no queries: ingest queries with judgments too, or make some from the documents: miner generate "
        f"{alone} --endpoint URL --model NAME"
    ) in result.output.splitlines()


@pytest.mark.parametrize("name", ["queries.jsonl", "test_questions.jsonl", "topics.parquet"])
def test_queries_with_the_keys_of_documents_are_queries(tmp_path: Path, name: str) -> None:
    record = {"_id": "q1", "text": "how old is Rome", "metadata": "x"}
    file = tmp_path / name
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([record]), file)
    else:
        write(file, jsonl(record))
    documents = write(tmp_path / "passages_of_questions.jsonl", jsonl(record | {"_id": "d1"}))
    ingest(tmp_path / "s.duckdb", [str(file), str(documents)])
    assert rows(tmp_path / "s.duckdb", "SELECT query_id, text FROM queries") == [("q1", "how old is Rome")]
    assert rows(tmp_path / "s.duckdb", "SELECT doc_id FROM documents") == [("d1",)]
    report = ingest(tmp_path / "d.duckdb", str(file), SourceConfig(format="documents"))
    assert (report.added["documents"], report.added["queries"]) == (1, 0)


def test_queries_without_ids_get_some_from_their_texts(tmp_path: Path) -> None:
    ingest(tmp_path / "s.duckdb", str(write(tmp_path / "queries.csv", "text\nhow old is Rome\n")))
    expected = [(content_id("q-", "how old is Rome"), "how old is Rome")]
    assert rows(tmp_path / "s.duckdb", "SELECT query_id, text FROM queries") == expected


def test_the_summary_says_that_text_files_are_documents(tmp_path: Path) -> None:
    write(tmp_path / "books/a.md", "hello")
    source = open_source(str(tmp_path / "books"), SourceConfig())
    assert source.read_as == "text files: name = document id, content = document"
