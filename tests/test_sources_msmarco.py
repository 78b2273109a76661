"""MS MARCO's headerless files: collections, queries, judgments, triples of ids and of texts.

The fixtures are ours. Their columns are those of the files on microsoft.github.io/msmarco/Datasets (2021).
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.errors import InputError
from miner.sources import SourceConfig, detect, ingest, open_source
from tests.sources_support import accounted, collect, refused, rows, write

FILES = {
    "collection.tsv": "7\tRome is old\n8\tRice is a grain\n9\tTea is a drink\n",
    "queries.train.tsv": "17\thow old is Rome\n18\twhat is rice\n",
    "queries.dev.small.tsv": "19\twhat is tea\n",
    "qrels.train.tsv": "17\t0\t7\t1\n18\t0\t8\t1\n",
    "qrels.dev.small.tsv": "19\t0\t9\t1\n",
    "qidpidtriples.train.full.2.tsv": "17\t7\t9\n18\t8\t9\n18\t8\t7\n",
}
JUDGED = [
    ("17", "7", 1.0, "train"),
    ("17", "9", 0.0, "train"),
    ("18", "7", 0.0, "train"),
    ("18", "8", 1.0, "train"),
    ("18", "9", 0.0, "train"),
    ("19", "9", 1.0, "dev"),
]
JUDGMENTS = "SELECT query_id, doc_id, relevance, split FROM judgments ORDER BY ALL"


def folder(path: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        write(path / name, gzip.compress(content.encode()) if name.endswith(".gz") else content)
    return path


def test_a_folder_of_its_files(tmp_path: Path) -> None:
    source = folder(tmp_path / "set", FILES)
    assert detect(str(source)) == "msmarco"
    report = accounted(tmp_path, source, sum(text.count("\n") for text in FILES.values()))
    assert dict(report.added) == {"documents": 3, "queries": 3, "judgments": 6}
    assert rows(tmp_path / "accounted.duckdb", JUDGMENTS) == JUDGED


def test_the_same_as_several_files_some_compressed(tmp_path: Path) -> None:
    files = {name if "dev" in name else f"{name}.gz": text for name, text in FILES.items()}
    folder(tmp_path / "set", files)
    found = [detect(str(tmp_path / "set" / name)) for name in sorted(files)]
    assert found == ["msmarco", "msmarco", "trec", "trec", "msmarco", "msmarco"]
    ingest(tmp_path / "s.duckdb", [str(tmp_path / "set" / name) for name in sorted(files)])
    assert rows(tmp_path / "s.duckdb", JUDGMENTS) == JUDGED


def test_triples_of_texts_hold_all_that_is_needed(tmp_path: Path) -> None:
    text = 'how old is Rome\tRome is "old"\tRice is a grain\n' * 2 + "a\tb\n" + "c d\t\te f\n"
    source = write(tmp_path / "triples.train.small.tsv", text)
    assert detect(str(source)) == "msmarco"
    report = accounted(tmp_path, source, 4, max_bad=0.5)
    assert {one.reason: one.rows for one in report.rejected} == {
        "duplicate_row": 1, "empty_text": 1, "field_count": 1,
    }  # fmt: skip
    assert rows(tmp_path / "accounted.duckdb", "SELECT text FROM documents ORDER BY ALL") == [
        ("Rice is a grain",),
        ('Rome is "old"',),
    ]


def test_long_documents_have_an_address_and_a_title(tmp_path: Path) -> None:
    write(tmp_path / "set/msmarco-docs.tsv", "D7\thttps://x.y/z\tRome\tIt is old\nD8\t\t\tRice\n")
    write(tmp_path / "set/msmarco-docdev-queries.tsv", "17\thow old is Rome\n")
    write(tmp_path / "set/msmarco-docdev-qrels.tsv", "17 0 D7 1\n")
    assert detect(str(tmp_path / "set")) == "msmarco"
    accounted(tmp_path, tmp_path / "set", 4)
    store = tmp_path / "accounted.duckdb"
    assert rows(store, "SELECT doc_id, title, text FROM documents ORDER BY ALL") == [
        ("D7", "Rome", "It is old"),
        ("D8", "", "Rice"),
    ]
    assert rows(store, JUDGMENTS) == [("17", "D7", 1.0, "dev")]
    note = open_source(str(tmp_path / "set"), SourceConfig()).note
    assert note == f"{tmp_path}/set/msmarco-docs.tsv: not read: column 2, the address"


def test_what_is_not_read_is_listed_with_the_reason(tmp_path: Path) -> None:
    others = {
        "run.dev.tsv": "19\t9\t1\n19\t7\t2\n19\t8\t3\n",
        "top1000.dev.tsv": "19\t9\twhat is tea\tTea is a drink\n",
        "msmarco-docs-lookup.tsv": "D7\t10\t20\n",
        "more.tsv": "20\twhat is this\n",
        "notes.md": "notes\n",
    }
    source = folder(tmp_path / "set", FILES | others)
    assert open_source(str(source), SourceConfig()).note.splitlines() == [
        "not read: more.tsv (an id and a text in each line: documents or queries; name it collection….tsv, "
        "queries….tsv, qrels….tsv or triples….tsv)",
        "not read: msmarco-docs-lookup.tsv (3 columns that are none of MS MARCO's)",
        "not read: notes.md (not a file of columns between tabs)",
        "not read: run.dev.tsv (a run: ranked documents, no judgments)",
        "not read: top1000.dev.tsv (candidates with their texts, which nobody judged)",
        f"{source}: negatives without a score are judged not relevant, and mining keeps them however high "
        "they score; if they were mined and nobody judged them: --set mined_negatives=true",
    ]
    assert len(collect(source)["judgments"]) == 3 + 6


def test_ids_and_ranks_are_never_relevances(tmp_path: Path) -> None:
    """In a folder with topics of TREC, where three columns without a header may be judgments."""
    write(tmp_path / "set/docs", "<DOC>\n<DOCNO>7</DOCNO>\n<TEXT>\na\n</TEXT>\n</DOC>\n")
    write(tmp_path / "set/ids.tsv", "".join(f"17\t7\t{number}\n" for number in range(100, 120)))
    write(tmp_path / "set/ranked.tsv", "17\t7\t1\n17\t8\t2\n17\t9\t3\n18\t7\t1\n")
    write(tmp_path / "set/judged.tsv", "17\t7\t1\n17\t8\t0\n17\t9\t2\n")
    assert detect(str(tmp_path / "set")) == "trec"
    assert [j["doc_id"] for j in collect(tmp_path / "set")["judgments"]] == ["7", "8", "9"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("questions.tsv", "query\tpositive\na\tb\n"),
        ("queries.tsv", "query_id\ttext\n17\ta\n"),
        ("collection.tsv", "doc_id\ttext\n7\ta\n"),
        ("pairs.tsv", "17\thow old is Rome\n"),
        ("train.tsv", "how old\tRome is old\tRice is a grain\n"),
    ],
)
def test_other_tables_are_not_taken(tmp_path: Path, name: str, content: str) -> None:
    assert detect(str(write(tmp_path / name, content))) == "table"


def test_the_format_may_be_said(tmp_path: Path) -> None:
    source = write(tmp_path / "queries.tsv", "q-a\thow old is Rome\n")
    assert detect(str(source)) == "table"
    assert [row["query_id"] for row in collect(source, format="msmarco")["queries"]] == ["q-a"]
    unclear = write(tmp_path / "a.tsv", "17\thow old is Rome\n")
    assert refused(tmp_path, unclear, format="msmarco") == (
        "DIR/a.tsv: none of MS MARCO's files; not read: a.tsv (an id and a text in each line: documents or "
        "queries; name it collection….tsv, queries….tsv, qrels….tsv or triples….tsv); name it "
        "collection….tsv, queries….tsv, qrels….tsv or triples….tsv"
    )


def test_columns_that_are_named_come_first(tmp_path: Path) -> None:
    source = write(tmp_path / "triples.tsv", "a\tb\tc\n")
    assert detect(str(source)) == "msmarco"
    found = collect(source, header=False, columns=("negative", "positive", "query"))
    assert [row["text"] for row in found["queries"]] == ["c"]


def test_bad_rows_are_counted_and_ids_must_be_known(tmp_path: Path) -> None:
    source = folder(tmp_path / "set", FILES)
    write(source / "triples.train.tsv", "17\t7\n17\t\t9\n")
    expected = r"set/triples.train.tsv:1: 2 fields, but MS MARCO's layout has 3; correct the line$"
    with pytest.raises(InputError, match=expected):
        open_source(str(source), SourceConfig())
    write(source / "triples.train.tsv", "17\t7\t8\n17\t\t9\n17\t7\t99\n17\t7\n")
    with pytest.raises(InputError, match="3 of 7 triplets are bad"):
        ingest(tmp_path / "s.duckdb", [str(source)])
    report = accounted(tmp_path, source, 12 + 4, max_bad=0.5)
    assert {one.reason: one.rows for one in report.rejected} == {
        "empty_id": 1, "field_count": 1, "unknown_document": 1,
    }  # fmt: skip


TEXT = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\t\n\r\0"), min_size=1, max_size=12
).filter(lambda text: bool(text.strip()))


@settings(max_examples=25, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=5))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("texts") / "collection.tsv"
    write(path, "".join(f"{number}\t{text}\n" for number, text in enumerate(texts)))
    assert [row["text"] for row in collect(path, format="msmarco")["documents"]] == texts


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("anchor\tpositive\tnegative", "triplets"),
        ("question\tpos\tneg", ""),
        ("query_id\tpositive_id\tnegative_id", "rows of ids"),
        ("qid\tpos_pid\tneg_pid", ""),
    ],
)
def test_a_header_in_triples_is_no_row(tmp_path: Path, header: str, kind: str) -> None:
    source = write(tmp_path / "triples.tsv", f"{header}\n1\t2\t3\n4\t5\t6\n")
    assert detect(str(source)) == "table"
    if kind:
        assert (open_source(str(source), SourceConfig()).read_as).startswith(kind)


@pytest.mark.parametrize("first", [0, 1])
def test_a_run_is_not_triples_of_ids(tmp_path: Path, first: int) -> None:
    lines = (f"{query}\t{rank + 100}\t{rank + first}\n" for query in (1, 2) for rank in range(20))
    source = write(tmp_path / "run.tsv", "".join(lines))
    assert detect(str(source)) != "msmarco"
    assert "a run" in refused(tmp_path, source, format="msmarco")
