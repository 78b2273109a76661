"""Nothing that is read is lost silently: each row is in the store, or the ingest lists it as left out.

Here are the sources whose own tests do not assert it. Each has rows that can be used and rows that cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sources_support import accounted, beir, jsonl, rows, write

Make = Callable[[Path], tuple[str, int]]
"""Writes a source into a folder; returns its name and how many rows it has."""

PAIRS: list[dict[str, str | None]] = [
    {"query": "how old is Rome", "positive": "Rome is old"},
    {"query": "what is rice", "positive": "Rice is a grain"},
    {"query": "what is rice", "positive": "Rice is a grain"},
    {"query": "what is tea", "positive": ""},
    {"query": None, "positive": "Tea is a drink"},
]
LABELS = [
    {"text": "a good film", "label": "pos"},
    {"text": "a fine film", "label": "pos"},
    {"text": "a bad film", "label": "neg"},
    {"text": "a good film", "label": "neg"},
    {"text": "", "label": "pos"},
    {"text": "no film", "label": ""},
]
QRELS = [("q1", "d1", 2), ("q1", "d2", 0), ("q1", "d9", 1), ("q9", "d1", 1), ("q1", "d2", "many")]


def beir_folder(folder: Path) -> tuple[str, int]:
    texts = {"d1": ("Rome", "Rome is old"), "d2": "Rice is a grain", "d3": "", "": "Tea is a drink"}
    return str(beir(folder / "set", texts, {"q1": "how old is Rome", "q2": " "}, train=QRELS)), 4 + 2 + 5


def beir_in_chunks(folder: Path) -> tuple[str, int]:
    long = "Rome is old. It was not built in a day. Tea comes from Asia."
    texts = {"long": ("Rome", long), "short": "Rice is a grain", "d3": ""}
    qrels = [("q1", "long", 1), ("q1", "short", 0), ("q1", "d9", 1)]
    return str(beir(folder / "set", texts, {"q1": "where is tea from"}, train=qrels)), 3 + 1 + 3


def trec_folder(folder: Path) -> tuple[str, int]:
    doc = "<DOC>\n<DOCNO> {} </DOCNO>\n<TEXT>{}</TEXT>\n</DOC>\n"
    documents = (("d1", "Rome is old"), ("d2", "Rice is a grain"), ("d3", ""))
    write(folder / "trec/docs.sgml", "".join(doc.format(*one) for one in documents))
    write(folder / "trec/topics.txt", "<top>\n<num> Number: 1\n<title> Rome\n</top>\n")
    write(folder / "trec/qrels.test.txt", "1 0 d1 1\n1 0 d9 1\n9 0 d1 1\n1 0 d2 x\n1 0 d2\n")
    return str(folder / "trec"), 3 + 1 + 5


def lines(names: tuple[str, ...], table: list[dict[str, Any]], separator: str) -> str:
    """Returns the rows between separators, the names of the columns first."""
    return "".join(
        f"{separator.join(row)}\n" for row in (names, *([row[n] or "" for n in names] for row in table))
    )


def delimited(ending: str, table: list[dict[str, Any]]) -> Make:
    """Returns a source of a table as text, with a row of too many fields."""

    def source(folder: Path) -> tuple[str, int]:
        separator = "\t" if ending == "tsv" else ","
        text = lines(tuple(table[0]), table, separator) + separator.join("abc") + "\n"
        return str(write(folder / f"train.{ending}", text)), len(table) + 1

    return source


def json_lines(folder: Path) -> tuple[str, int]:
    return str(write(folder / "train.jsonl", jsonl(*PAIRS, {**PAIRS[0], "positive": [["x"]]}))), len(
        PAIRS
    ) + 1


def parquet(table: list[dict[str, Any]]) -> Make:
    def source(folder: Path) -> tuple[str, int]:
        pq.write_table(pa.Table.from_pylist(table), folder / "train.parquet", row_group_size=2)
        return str(folder / "train.parquet"), len(table)

    return source


def saved(table: list[dict[str, Any]]) -> Make:
    """Returns a source of a table that `datasets` saved, with two more rows in another split."""

    def source(folder: Path) -> tuple[str, int]:
        datasets = pytest.importorskip("datasets")
        splits = {"train": table, "test": [{name: f"{row[name]}!" for name in row} for row in table[:2]]}
        found = {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}
        datasets.DatasetDict(found).save_to_disk(folder / "saved")
        return str(folder / "saved"), len(table) + 2

    return source


def text_files(folder: Path) -> tuple[str, int]:
    for name, text in {"a.md": "Rome is old", "b/c.txt": "Rice", "d.txt": "Rice"}.items():
        write(folder / "texts" / name, text)
    return str(folder / "texts"), 3


def python(folder: Path) -> tuple[str, int]:
    function = 'def {0}():\n    """{1}"""\n    return {2}\n\n\n'
    functions = (("one", "Return one.", 1), ("two", "Return a number.", 2), ("same", "Return a number.", 2))
    write(folder / "pack/__init__.py", "")
    write(folder / "pack/code.py", "".join(function.format(*one) for one in functions))
    write(folder / "pack/broken.py", "def broken(:\n")
    return f"python:{folder / 'pack'}", 3 + 1


NOT_PAIRS = ["duplicate_row", "empty_text", "empty_text"]
NOT_LABELS = ["conflicting_label", "empty_text", "empty_label"]
QRELS_LEFT_OUT = ["unknown_document", "unknown_query", "bad_relevance"]
SOURCES: dict[str, tuple[Make, dict[str, Any], list[str]]] = {
    "BEIR": (beir_folder, {}, ["empty_text", "empty_id", *QRELS_LEFT_OUT, "empty_text"]),
    "BEIR, in chunks": (beir_in_chunks, {"chunk": "sentences:1"}, ["empty_text", "unknown_document"]),
    "TREC": (trec_folder, {}, ["empty_text", *QRELS_LEFT_OUT, "field_count"]),
    "pairs, TSV": (delimited("tsv", PAIRS), {}, [*NOT_PAIRS, "field_count"]),
    "pairs, CSV": (delimited("csv", PAIRS), {}, [*NOT_PAIRS, "field_count"]),
    "pairs, JSONL": (json_lines, {}, [*NOT_PAIRS, "not_text"]),
    "pairs, Parquet": (parquet(PAIRS), {}, NOT_PAIRS),
    "pairs, save_to_disk": (saved(PAIRS), {}, NOT_PAIRS),
    "labels, TSV": (delimited("tsv", LABELS), {}, [*NOT_LABELS, "field_count"]),
    "labels, CSV": (delimited("csv", LABELS), {}, [*NOT_LABELS, "field_count"]),
    "labels, Parquet": (parquet(LABELS), {}, NOT_LABELS),
    "labels, save_to_disk": (saved(LABELS), {}, NOT_LABELS),
    "text files": (text_files, {}, []),
    "Python": (python, {}, ["not_python"]),
}
"""What writes a source, the options, and why rows are left out, in order."""


@pytest.mark.parametrize("name", SOURCES)
def test_each_row_is_stored_or_listed(tmp_path: Path, name: str) -> None:
    make, options, reasons = SOURCES[name]
    source, rows_in = make(tmp_path)
    report = accounted(tmp_path, source, rows_in, max_bad=1.0, **options)
    listed = rows(tmp_path / "accounted.duckdb", "SELECT reason FROM rejected ORDER BY origin, line")
    assert [reason for (reason,) in listed] == reasons
    assert sum(one.rows for one in report.rejected) == len(reasons)
