"""How files are read: quotes, arrays, compression, what is not read, and which ids are refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.errors import InputError
from miner.sources import SourceConfig, files, open_source
from miner.sources.delimited import _Quotes
from tests.sources_support import SHARED, collect, jsonl, refused, write
from tests.test_sources_layouts import judged


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    ("file", "read"),
    [("stsb/train.tsv", False), ("stsb/dev.tsv", False), ("stsb/test.tsv", False), ("nli/train.tsv", True)],
)
def test_quotes_of_public_files(file: str, read: bool) -> None:
    """STS-B writes quotes as they are; the counterfactual part of our NLI writes them as CSV does."""
    premise = "premise" if read else "sentence1"
    other = "hypothesis" if read else "sentence2"
    options = {"query_column": premise, "positive_column": other, "relevance_column": "none"}
    source = open_source(str(SHARED / file), SourceConfig(**options))
    assert ("read without their quotes" in source.note) == read
    assert "keep the quotes" not in source.note


CELL = st.text(st.sampled_from('ab"\t\n, é'), min_size=1, max_size=6).filter(
    lambda text: text.strip('\t\n" ') and not {"\t", "\n"} <= set(text)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6), st.booleans())
def test_what_a_csv_writer_quotes_is_read_back(cells: list[tuple[str, str]], every: bool) -> None:
    """Also by itself, where a quote, tab or line break shows that the quotes are the writer's."""
    out = io.StringIO(newline="")
    kind = csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL
    writer = csv.writer(out, delimiter="\t", quoting=kind, lineterminator="\n")
    writer.writerows([("query", "positive"), *cells])
    needed = any(sign in text for pair in cells for text in pair for sign in '"\n\t')
    with tempfile.TemporaryDirectory() as name:
        path = write(Path(name) / "t.tsv", out.getvalue())
        found = collect(path) if needed or every else collect(path, quoted=True)
    assert [
        (q["text"], d["text"]) for q, d in zip(found["queries"], found["documents"], strict=True)
    ] == cells


def test_a_quote_that_is_never_closed_is_scanned_in_one_go() -> None:
    """Half a million lines after a stray quote: each is looked at once, and the search ends early."""
    quotes = _Quotes(2)
    for number in range(1, 500_001):
        quotes.scan('"a\tb' if number == 1 else "a\tb", number)
        if quotes.lost:
            break
    assert number == 10_002 - 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"query": CELL, "positive": CELL}), min_size=1, max_size=5),
    st.sampled_from([None, 1]),
    st.integers(1, 40),
)
def test_an_array_is_read_in_pieces_of_any_size(
    records: list[dict[str, str]], indent: int | None, piece: int
) -> None:
    from miner.sources import json_rows

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_CHUNK", piece)
        found = judged(write(Path(name) / "t.json", json.dumps(records, indent=indent)))
    assert found == [(r["query"], r["positive"], 1.0) for r in records]


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from miner.sources import files

    monkeypatch.setattr(files, "MOST_EXPANSION", (1 << 16, 200))
    path = write(tmp_path / "t.tsv.gz", gzip.compress(b"query\tpositive\n" + b"aaaa\tbbbb\n" * 1_000_000))
    assert refused(tmp_path, path) == (
        "DIR/t.tsv.gz: expands to more than 200 times its size; if that is right, unpack it yourself and "
        "name the unpacked file"
    )


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ('\ufeff[{"query": "a", "positive": "b"}, {"query": "c"}]', "write one object per line"),
        ('{"data": [{"title": "a", "paragraphs": []}]}', "break the object into several, one per line"),
        ("query\tpositive and more and more", "break the line"),
    ],
)
def test_a_line_that_is_too_long_says_how_to_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, hint: str
) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 30)
    path = write(tmp_path / ("t.tsv" if "\t" in content else "t.json"), content)
    with pytest.raises(InputError) as caught:
        collect(path)
    assert str(caught.value) == f"{path}:1: a line of more than 0 MB; {hint}"


def test_parquet_with_lists(tmp_path: Path) -> None:
    table = pa.table({"query": ["a"], "pos": [["p"]], "neg": [["n", "m"]], "extra": [{"x": 1}]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert judged(tmp_path / "t.parquet") == [("a", "p", 1.0), ("a", "n", 0.0), ("a", "m", 0.0)]
    unread, judged_so = open_source(str(tmp_path / "t.parquet"), SourceConfig()).note.splitlines()
    assert unread == "not read: columns extra (an object)"
    assert "negatives without a score are judged not relevant" in judged_so


def test_files_of_a_folder_that_are_not_read_are_listed(tmp_path: Path) -> None:
    for name in ("train.tsv", "extra.tsv", "README.md", "more/test.tsv"):
        write(tmp_path / "set" / name, "query\tpositive\na\tb\n")
    assert open_source(str(tmp_path / "set"), SourceConfig()).note.splitlines() == [
        "not read: README.md (not a table)",
        "not read: extra.tsv (no split in its name, such as train)",
        "not read: more/test.tsv (in a folder within the folder: name that folder or file)",
    ]


def test_splits_and_files_of_a_saved_data_set_that_are_not_read_are_listed(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    splits = {
        name: datasets.Dataset.from_dict({"query": ["a"], "positive": ["b"]}) for name in ("train", "test")
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    write(tmp_path / "saved/notes.txt", "x")
    assert open_source(str(tmp_path / "saved"), SourceConfig(hf_split="train")).note.splitlines() == [
        "not read: splits test",
        "not read: notes.txt (not part of the data set)",
    ]


@pytest.mark.parametrize(
    ("identity", "what"),
    [
        (" d1", "' d1' begins or ends with white space"),
        ("d1\u00a0", "'d1\u00a0' begins or ends with white space"),
        ("\x1b", "'\\x1b' has only control characters"),
        ("\u202e", "'\\u202e' has only control characters"),
    ],
)
def test_ids_that_cannot_be_one_are_refused(tmp_path: Path, identity: str, what: str) -> None:
    content = jsonl(
        {"i": "d0", "query": "a", "positive": "b"}, {"i": identity, "query": "c", "positive": "d"}
    )
    path = write(tmp_path / "t.jsonl", content)
    assert refused(tmp_path, path, document_id_column="i") == (
        f"DIR/t.jsonl:2: document id {what}; correct the file: ids are compared character by character"
    )


def test_ids_in_messages_are_cut_and_cannot_drive_the_terminal(tmp_path: Path) -> None:
    long = "d\x1b[31m" + "x" * 200
    content = jsonl({"i": long, "query": "a", "positive": "b"}, {"i": long, "query": "c", "positive": "d"})
    message = refused(tmp_path, write(tmp_path / "t.jsonl", content), document_id_column="i")
    assert message.startswith("document 'd\\x1b[31m" + "x" * 73 + "…' has two texts: ")
    with pytest.raises(InputError) as caught:
        open_source(str(tmp_path / "no\x1b]0;file"), SourceConfig())
    assert "\x1b" not in str(caught.value)
    assert "no\\x1b]0;file" in str(caught.value)


@pytest.mark.parametrize("content", ["1", "[]", "{", '{"splits": 3}', '{"splits": [1]}'])
def test_a_damaged_saved_data_set_names_its_file(tmp_path: Path, content: str) -> None:
    write(tmp_path / "saved/dataset_dict.json", content)
    message = refused(tmp_path, tmp_path / "saved")
    assert message.startswith("DIR/saved: cannot load the data set: DIR/saved/dataset_dict.json is damaged: ")
