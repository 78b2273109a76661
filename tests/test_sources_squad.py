"""SQuAD and its kin: nested JSON, and the columns question, context and answers.

The fixtures are ours. The layouts: SQuAD 1.1 and 2.0 (rajpurkar.github.io/SQuAD-explorer), rajpurkar/squad_v2
on the hub (Parquet), and the export of Haystack's annotation tool, whose ids are numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.sources import SourceConfig, detect, ingest, open_source
from miner.sources.values import NotTextError, Passage, as_passages
from tests.sources_support import accounted, collect, jsonl, refused, rows, write

ANSWER = {"text": "old", "answer_start": 8}
NESTED: dict[str, Any] = {
    "version": "v2.0",
    "data": [
        {
            "title": "Rome",
            "paragraphs": [
                {
                    "context": "Rome is old.",
                    "qas": [
                        {
                            "id": "a1",
                            "question": "How old is Rome?",
                            "answers": [ANSWER],
                            "is_impossible": False,
                        },
                        {"id": "a2", "question": "Is Rome rich?", "answers": [], "is_impossible": True},
                    ],
                },
                {
                    "context": "Rome is large.",
                    "qas": [{"id": 3, "question": "How large?", "answers": [ANSWER]}],
                },
            ],
        },
        {"paragraphs": [{"context": "Tea is a drink.", "qas": []}]},
    ],
}
FLAT = [
    {"id": "a1", "title": "Rome", "context": "Rome is old.", "question": "How old is Rome?",
     "answers": {"text": ["old", "old."], "answer_start": [8, 8]}},
    {"id": "a2", "title": "Rome", "context": "Rome is old.", "question": "Is Rome rich?",
     "answers": {"text": [], "answer_start": []}},
]  # fmt: skip
JUDGED = """SELECT q.query_id, q.text, d.title, d.text, split FROM judgments
    JOIN queries q USING (query_id) JOIN documents d USING (doc_id) ORDER BY ALL"""
FIRST = ("a1", "How old is Rome?", "Rome", "Rome is old.", "dev")


def test_a_nested_file(tmp_path: Path) -> None:
    source = write(tmp_path / "dev-v2.0.json", json.dumps(NESTED))
    assert detect(str(source)) == "squad"
    report = accounted(tmp_path, source, 3 + 3)
    assert dict(report.added) == {"documents": 3, "queries": 2, "judgments": 2}
    assert [(one.reason, one.rows) for one in report.rejected] == [("unanswerable", 1)]
    assert report.rejected[0].first == (f"{source}/questions:2: the paragraph does not answer the question",)
    assert rows(tmp_path / "accounted.duckdb", JUDGED) == [
        ("3", "How large?", "Rome", "Rome is large.", "dev"),
        FIRST,
    ]


def test_a_folder_of_nested_files(tmp_path: Path) -> None:
    write(tmp_path / "set/train-v1.1.json", json.dumps(NESTED["data"] and NESTED, indent=1))
    write(tmp_path / "set/dev-v1.1.json", json.dumps(NESTED))
    write(tmp_path / "set/evaluate.py", "")
    assert detect(str(tmp_path / "set")) == "squad"
    source = open_source(str(tmp_path / "set"), SourceConfig())
    assert source.note == "not read: evaluate.py (not SQuAD's layout)"
    assert {j["split"] for j in collect(tmp_path / "set")["judgments"]} == {"dev", "train"}


@pytest.mark.parametrize("form", ["parquet", "jsonl", "json", "list of objects", "memory"])
def test_flat_columns(tmp_path: Path, form: str) -> None:
    source: Any = tmp_path / f"validation.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(FLAT), source)
    elif form == "json":
        write(source, json.dumps(FLAT, indent=1))
    elif form == "list of objects":
        source = tmp_path / "validation.jsonl"
        write(
            source,
            jsonl(*({**one, "answers": [{"text": t} for t in one["answers"]["text"]]} for one in FLAT)),
        )
    elif form == "memory":
        source = {"validation": pa.Table.from_pylist(FLAT)}
    else:
        write(source, jsonl(*FLAT))
    if form != "memory":
        assert detect(str(source)) == "squad"
        accounted(tmp_path, source, 2)
    report = ingest(tmp_path / "s.duckdb", source if form == "memory" else [str(source)])
    assert [(one.reason, one.rows) for one in report.rejected] == [("unanswerable", 1)]
    assert rows(tmp_path / "s.duckdb", JUDGED) == [FIRST]


def test_flat_columns_of_a_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"validation": datasets.Dataset.from_list(FLAT)}).save_to_disk(tmp_path / "saved")
    ingest(tmp_path / "s.duckdb", [str(tmp_path / "saved")])
    assert rows(tmp_path / "s.duckdb", JUDGED) == [FIRST]


def test_columns_that_an_option_names_come_first(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", jsonl(*FLAT))
    found = collect(source, query_column="question", positive_column="context")
    assert len(found["queries"]) == 2


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_several_paragraphs_are_refused_unless_options_say_that_all_are_relevant(
    suffix: str, tmp_path: Path
) -> None:
    several = [
        {**FLAT[0], "context": found} for found in (["Rome is old."], ["Rome is old.", "Tea is a drink."])
    ]
    source = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(several), source)
    else:
        write(source, jsonl(*several))
    assert refused(tmp_path, source) == (
        f"DIR/a{suffix}:2: 2 paragraphs in 'context', and nothing says which of them are relevant; if all "
        "are: --query-column question --positive-column context"
    )
    found = collect(source, query_column="question", positive_column="context")
    assert [row["text"] for row in found["documents"]] == ["Rome is old.", "Rome is old.", "Tea is a drink."]


def test_bad_rows_are_listed(tmp_path: Path) -> None:
    bad = [
        {**FLAT[0], "context": ""},
        {**FLAT[0], "question": " "},
        {**FLAT[0], "answers": {"text": ["a"], "answer_start": []}},
        {**FLAT[0], "more": 1},
    ]
    source = write(tmp_path / "a.jsonl", jsonl(*bad))
    report = accounted(tmp_path, source, 4, max_bad=1.0)
    assert {one.reason: one.rows for one in report.rejected} == {"empty_text": 2, "not_text": 1}
    assert open_source(str(source), SourceConfig()).note == "not read: columns more"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"data": [{"title": "t", "paragraphs": {}}]},
         ": no list of objects 'paragraphs'; its keys: title, paragraphs"),
        ({"data": [{"paragraphs": [{"context": "a"}]}]},
         "/paragraphs:1: no list of objects 'qas'; its keys: context"),
        ({"data": [{"paragraphs": [{"context": ["a"], "qas": []}]}]},
         "/paragraphs:1: 'context' holds a list, not text; write it as a text"),
    ],
)  # fmt: skip
def test_a_nested_file_that_is_wrong(tmp_path: Path, content: Any, expected: str) -> None:
    source = write(tmp_path / "a.json", json.dumps(content))
    assert refused(tmp_path, source) == f"DIR/a.json{expected}"


def test_the_format_may_be_said(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", jsonl({"query": "a", "positive": "b"}))
    assert refused(tmp_path, source, format="squad") == (
        "DIR/a.jsonl: not SQuAD's layout; it has one object with data, paragraphs and qas, or the columns "
        "question, context, answers; without --format squad it is read as pairs"
    )


def test_an_object_with_lists_is_a_list_of_objects() -> None:
    assert as_passages({"text": ["a", "b"], "id": ["1", "2"], "n": 1}, "c") == (
        Passage("a", "", "1"),
        Passage("b", "", "2"),
    )
    with pytest.raises(NotTextError, match="lists of different lengths"):
        as_passages({"text": ["a"], "title": []}, "c")


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=20, deadline=None)
@given(st.lists(TEXT.filter(lambda text: bool(text.strip())), min_size=1, max_size=5))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("texts") / "a.json"
    questions = [
        {"id": str(number), "question": text, "answers": [ANSWER]} for number, text in enumerate(texts)
    ]
    write(
        path,
        json.dumps({"data": [{"paragraphs": [{"context": text, "qas": questions} for text in texts[:1]]}]}),
    )
    found = collect(path)
    assert [row["text"] for row in found["queries"]] == texts
    assert [row["text"] for row in found["documents"]] == texts[:1]
