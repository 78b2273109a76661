"""Pairs and triplets as TSV, CSV, JSONL and Parquet."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.errors import InputError
from miner.sources import SourceConfig, ingest, open_source
from miner.sources.values import is_blank
from miner.text import clean, content_id, text_key
from tests.sources_support import collect, jsonl, refused, rows, write

Rows = list[dict[str, str]]


def _tsv(path: Path, records: Rows) -> None:
    lines = ["\t".join(records[0]), *("\t".join(record[c] for c in records[0]) for record in records)]
    write(path, "\n".join(lines) + "\n")


def _csv(path: Path, records: Rows) -> None:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(records[0]), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(records)
    write(path, out.getvalue())


def _jsonl(path: Path, records: Rows) -> None:
    write(path, jsonl(*records))


def _parquet(path: Path, records: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "tsv": _tsv,
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}

PAIRS = [{"query": "what is a", "positive": "a is b"}, {"query": "what is a", "positive": "a is also c"}]


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    record = {"query": "a", "positive": "b", "genre": "x", "Score": "3"}
    _tsv(tmp_path / "t.tsv", [record])
    note = "not read: columns genre, Score; if it grades the pairs: --relevance-column Score"
    assert open_source(str(tmp_path / "t.tsv"), SourceConfig()).note == note
    graded = SourceConfig(relevance_column="Score")
    assert open_source(str(tmp_path / "t.tsv"), graded).note == "not read: columns genre"
    _tsv(tmp_path / "l.tsv", [{"text": "a", "label": "b", "score": "3"}])
    assert open_source(str(tmp_path / "l.tsv"), SourceConfig()).note == "not read: columns score"
    _tsv(tmp_path / "p.tsv", PAIRS)
    assert not open_source(str(tmp_path / "p.tsv"), SourceConfig()).note


@pytest.mark.parametrize("ending", WRITERS)
def test_pairs_in_every_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"pairs.{ending}"
    WRITERS[ending](path, PAIRS)
    store = tmp_path / "s.duckdb"
    report = ingest(store, [str(path)])
    assert dict(report.added) == {"documents": 2, "queries": 1, "judgments": 2}
    assert report.rejected == ()
    query_id = content_id("q-", "what is a")
    assert rows(store, "FROM queries") == [(query_id, "what is a", text_key("what is a"), None)]
    assert rows(store, "FROM judgments ORDER BY doc_id") == sorted(
        (query_id, content_id("d-", record["positive"]), 1.0, "train", "gold") for record in PAIRS
    )


@pytest.mark.parametrize("ending", WRITERS)
def test_triplets_in_every_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"triplets.dev.{ending}"
    row = {"anchor": "q", "positive": "p", "negative_10": "n10", "negative_2": "n2", "other": "x"}
    WRITERS[ending](path, [row, {**row, "positive": "p2", "negative_2": "p"}])
    store = tmp_path / "s.duckdb"
    report = ingest(store, [str(path)], SourceConfig(query_column="anchor", max_bad=0.5))
    relevances = rows(
        store, "SELECT text, relevance, split FROM judgments JOIN documents USING (doc_id) ORDER BY text"
    )
    assert relevances == [("n10", 0.0, "dev"), ("n2", 0.0, "dev"), ("p", 1.0, "dev"), ("p2", 1.0, "dev")]
    (rejection,) = report.rejected
    line = 3 if ending in ("tsv", "csv") else 2
    assert rejection.reason == "conflicting_judgment"
    assert f"{path}:{line}" in rejection.first[0]
    assert rejection.first[0].endswith("have relevance 0.0 here and 1.0 elsewhere; the higher counts")


def test_id_and_relevance_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.tsv", "qid\tquery\tdid\tpositive\trel\n007\twhat\t1\tthat\t2\n007\twhat\t2\tno\t-1\n"
    )
    config = {"query_id_column": "qid", "document_id_column": "did", "relevance_column": "rel"}
    found = collect(path, **config)
    assert {q["query_id"] for q in found["queries"]} == {"007"}
    assert [(j["query_id"], j["doc_id"], j["relevance"]) for j in found["judgments"]] == [
        ("007", "1", 2.0),
        ("007", "2", -1.0),
    ]


def test_numbers_in_parquet_become_text(tmp_path: Path) -> None:
    table = pa.table({"query": ["a", "b"], "positive": [12, None], "id": pa.array([7, 8], pa.int64())})
    pq.write_table(table, tmp_path / "p.parquet")
    found = collect(tmp_path / "p.parquet", document_id_column="id")
    assert [(d["doc_id"], d["text"]) for d in found["documents"]] == [("7", "12")]
    assert [r["reason"] for r in found["rejected"]] == ["empty_text"]


@pytest.mark.parametrize(
    ("name", "config", "split"),
    [
        ("train.tsv", {}, "train"),
        ("pairs_validation.tsv", {}, "dev"),
        ("my-test-set.tsv", {}, "test"),
        ("contest.tsv", {}, "train"),
        ("test.tsv", {"split": "mine"}, "mine"),
    ],
)
def test_split_comes_from_the_name(tmp_path: Path, name: str, config: dict[str, str], split: str) -> None:
    write(tmp_path / name, "query\tpositive\na\tb\n")
    assert collect(tmp_path / name, **config)["judgments"][0]["split"] == split


def test_folder_is_read_file_by_file(tmp_path: Path) -> None:
    for name in ("train", "validation", "test", "extra"):
        write(tmp_path / f"set/{name}.tsv", f"query\tpositive\n{name}?\t{name}!\n")
    write(tmp_path / "set/README.md", "not data")
    store = tmp_path / "s.duckdb"
    notes: list[str] = []

    class Notes:
        def note(self, message: str) -> None:
            notes.append(message)

    from miner.engine.progress import Silent

    class Heard(Notes, Silent):
        pass

    report = ingest(store, [str(tmp_path / "set")], progress=Heard())
    assert dict(report.splits) == {"dev": 1, "test": 1, "train": 1}
    assert notes[0].splitlines() == [
        "not read: README.md (not a table)",
        "not read: extra.tsv (no split in its name, such as train)",
    ]


def test_folder_without_split_names_is_read_whole(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", jsonl({"query": name, "positive": f"{name}!"}))
    assert [j["split"] for j in collect(tmp_path)["judgments"]] == ["train", "train"]


def test_misspelt_column_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", "qurey\tpositive\na\tb\n")
    assert refused(tmp_path, path, format="pairs") == (
        "DIR/p.tsv: no column 'query' (did you mean 'qurey'?); "
        "its columns: qurey, positive; name yours with --query-column"
    )


@pytest.mark.parametrize("ending", WRITERS)
def test_columns_that_need_an_option_are_named_in_every_format(tmp_path: Path, ending: str) -> None:
    row = {"query": "what is a", "passage": "a letter"}
    expected = "no column 'positive' for pairs, nor columns 'text' and 'label' for labels; its columns: "
    option = "name yours, such as --positive-column passage"
    path = tmp_path / f"t.{ending}"
    WRITERS[ending](path, [row])
    assert refused(tmp_path, path) == f"DIR/t.{ending}: {expected}query, passage; {option}"
    WRITERS[ending](path, [{**row, "relevance": "1"}])
    expected = f"{expected}query, passage, relevance; {option} --relevance-column relevance"
    assert refused(tmp_path, path) == f"DIR/t.{ending}: {expected}"


def test_misspelt_option_never_falls_back(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "query,positive,question\na,b,c\n")
    assert refused(tmp_path, path, query_column="questoin") == (
        "DIR/p.csv: no column 'questoin' (did you mean 'question'?) for pairs; "
        "its columns: query, positive, question"
    )
    message = refused(tmp_path, path, relevance_column="relevanse")
    assert message.startswith("DIR/p.csv: no column 'relevanse'; its columns: query, positive, question;")
    message = refused(tmp_path, path, format="triplets")
    assert message.startswith("DIR/p.csv: no column 'negative'")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [({"query": "x", "positives": "y"}, "empty_text"), ({"positive": "y"}, "empty_text")],
)
def test_a_key_that_a_row_lacks_is_a_missing_value(tmp_path: Path, bad: dict[str, str], reason: str) -> None:
    path = write(tmp_path / "p.jsonl", jsonl(PAIRS[0], bad))
    assert "first: DIR/p.jsonl:2: column '" in refused(tmp_path, path)
    for source in (str(path), [PAIRS[0], bad]):
        store = tmp_path / f"{type(source).__name__}.duckdb"
        report = ingest(store, source, SourceConfig(max_bad=1))
        assert (report.added["judgments"], [found.reason for found in report.rejected]) == (1, [reason])


def test_a_document_may_lack_the_key_of_the_id(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", jsonl({"id": "1", "text": "a"}, {"text": "b"}, {"id": "3"}))
    report = ingest(tmp_path / "s.duckdb", str(path), SourceConfig(max_bad=1))
    assert report.added["documents"] == 1
    assert {found.reason: found.rows for found in report.rejected} == {"empty_id": 1, "empty_text": 1}


def test_broken_json(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", jsonl(PAIRS[0]) + '{"query": "x"')
    assert refused(tmp_path, path) == (
        "DIR/p.jsonl:2: broken JSON (Expecting ',' delimiter, column 14); "
        "write one complete JSON object per line"
    )


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl"])
def test_not_utf8(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"p.{ending}"
    WRITERS[ending](path, [*PAIRS, {"query": "x", "positive": "MARK"}])
    path.write_bytes(path.read_bytes().replace(b"MARK", b"\xff"))
    line = 3 if ending == "jsonl" else 4
    message = refused(tmp_path, path)
    assert message.startswith(f"DIR/p.{ending}:{line}: not UTF-8 (byte 0xff at column ")
    assert message.endswith("convert it first, for example: iconv -f LATIN1 -t UTF-8 OLD > NEW")


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl"])
def test_byte_order_mark_is_accepted(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"p.{ending}"
    WRITERS[ending](path, PAIRS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(collect(path)["judgments"]) == 2


def test_utf16_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", "query\tpositive\na\tb\n".encode("utf-16"))
    assert refused(tmp_path, path).startswith("DIR/p.tsv: UTF-16, not text; convert it first")


@pytest.mark.parametrize(
    ("name", "header", "by", "other"),
    [
        ("x.csv", "query;positive", "commas", "';'; save it with commas"),
        ("x.tsv", "query,positive", "tabs", "','; end its name in .csv"),
    ],
)
def test_columns_separated_by_another_sign(
    tmp_path: Path, name: str, header: str, by: str, other: str
) -> None:
    path = write(tmp_path / name, f"{header}\n")
    assert refused(tmp_path, path) == (
        f"DIR/{name}:1: one column, '{header}': {by} separate the columns of a {path.suffix} file, "
        f"not {other}"
    )


def test_broken_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", 'query,positive\na,b\n"never closed,c\nd,e\n')
    assert refused(tmp_path, path) == (
        "DIR/p.csv:3: broken CSV: unexpected end of data; "
        'close every quote, and write a quote within a field as ""'
    )


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl"])
def test_empty_file(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"p.{ending}", "")
    needs = "one object per line" if ending == "jsonl" else "a header line and rows"
    assert refused(tmp_path, path) == f"DIR/p.{ending}: the file is empty; write {needs}"


def test_header_without_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", "query\tpositive\n")
    with pytest.raises(InputError, match=r"p\.tsv: no rows; add rows, or check that you named"):
        ingest(tmp_path / "s.duckdb", [str(path)])
    assert not (tmp_path / "s.duckdb").exists()


def test_doubled_column(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", "query\tpositive\tquery\na\tb\tc\n")
    assert refused(tmp_path, path) == (
        "DIR/p.tsv:1: two columns named 'query'; rename one of them, or add --no-header if this is "
        "a row of data"
    )


def test_not_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", "PAR1 this is none")
    assert refused(tmp_path, path).startswith("DIR/p.parquet: not a Parquet file: ")


def test_unknown_ending(tmp_path: Path) -> None:
    path = write(tmp_path / "p.xls_", "x")
    assert refused(tmp_path, path).startswith("DIR/p.xls_: miner can read nothing here; name a BEIR")
    assert refused(tmp_path, path, format="pairs") == (
        "DIR/p.xls_: unknown format '.xls_'; "
        "end its name in one of .tsv, .csv, .jsonl, .ndjson, .json, .parquet, as its content is"
    )


def test_rows_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", "query\tpositive\na\tb\nc\nd\te\tf\n\n \tg\nh\t\n")
    found = collect(path)
    assert [(r["line"], r["reason"], r["detail"]) for r in found["rejected"]] == [
        (3, "field_count", "1 field where the header has 2"),
        (4, "field_count", "3 fields where the header has 2"),
        (6, "empty_text", "column 'query' is empty"),
        (7, "empty_text", "column 'positive' is empty"),
    ]
    assert len(found["judgments"]) == 1


def test_quotes_in_tsv_are_plain_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", 'query\tpositive\n"a\tb "c" d\n')
    found = collect(path)
    assert (found["queries"][0]["text"], found["documents"][0]["text"]) == ('"a', 'b "c" d')


def test_csv_line_numbers_count_lines_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", 'query,positive\n"a\nb",c\nd,""\n')
    found = collect(path)
    assert (found["queries"][0]["text"], found["queries"][0]["line"]) == ("a\nb", 2)
    assert found["rejected"][0]["line"] == 4


def test_long_csv_field(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", f'query,positive\na,"{"x" * 300_000}"\n')
    assert len(collect(path)["documents"][0]["text"]) == 300_000


def test_parts_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from miner.sources import open_source, part

    monkeypatch.setattr(part, "ROWS_PER_PART", 30)
    path = tmp_path / "p.tsv"
    _tsv(path, [{"query": f"q{i}", "positive": f"p{i}"} for i in range(100)])
    source = open_source(str(path), SourceConfig())
    parts = list(source.parts)
    assert [p.documents.num_rows for p in parts if p.documents] == [10] * 10
    assert source.total - sum(p.size for p in parts) == len("query\tpositive\n")


LINE = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r"), max_size=20)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("ending", WRITERS)
@given(data=st.data())
def test_any_texts_and_ids_survive(ending: str, data: st.DataObject) -> None:
    texts = (LINE if ending == "tsv" else TEXT).filter(lambda text: text_key(clean(text)[0]) != 0)
    record = st.fixed_dictionaries({"id": texts, "query": texts, "positive": texts})
    records = data.draw(st.lists(record, min_size=1, max_size=5))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"p.{ending}"
        WRITERS[ending](path, records)
        found = collect(path, query_id_column="id")
    assert [(q["query_id"], q["text"]) for q in found["queries"]] == [
        (clean(r["id"])[0], clean(r["query"])[0]) for r in records
    ]
    assert [d["text"] for d in found["documents"]] == [clean(r["positive"])[0] for r in records]
    assert "rejected" not in found


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(), min_size=1, max_size=20))
def test_surrogates_and_nul_are_cleaned(text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = write(Path(name) / "p.jsonl", json.dumps({"query": "q", "positive": text + "x"}))
        found = collect(path)
    assert found["documents"][0]["text"] == clean(text + "x")[0]


@given(st.text(st.characters(), max_size=5))
def test_blank_means_without_a_text_key(text: str) -> None:
    """A source and the store agree on which texts are empty."""
    assert is_blank(text) == (text_key(clean(text)[0]) == 0)
