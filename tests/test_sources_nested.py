"""Exports of Label Studio and Argilla, and feeds of Vespa.

The fixtures are ours. The layouts: Label Studio's JSON (labelstud.io/guide/task_format, 1.20), argilla 2.8's
`records.to_json`, and Vespa 8's document JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from miner.errors import InputError
from miner.sources import SourceConfig, detect, ingest, open_source
from tests.sources_support import accounted, collect, jsonl, refused, rows, write
from tests.test_sources_layouts import judged

COLUMNS = {
    "positive_column": "passage",
    "relevance_column": "relevance",
    "relevance_map": {"relevant": 1, "not relevant": 0},
}


def task(passage: str, *answers: Any, cancelled: bool = False) -> dict[str, Any]:
    """Returns a task of Label Studio with an annotation for each answer."""
    results = [
        [{"from_name": "relevance", "to_name": "passage", "type": "choices", "value": {"choices": [answer]}}]
        for answer in answers
    ]
    annotations = [{"id": 1, "result": result, "was_cancelled": cancelled} for result in results]
    return {
        "id": 1,
        "data": {"query": "a", "passage": passage},
        "annotations": annotations,
        "predictions": [],
    }


def record(passage: str, **answers: str) -> dict[str, Any]:
    """Returns a record of Argilla with the answer of each person."""
    given = [{"value": value, "user_id": user} for user, value in answers.items()]
    return {
        "id": passage,
        "fields": {"query": "a", "passage": passage},
        "metadata": {"source": "x"},
        "suggestions": {"relevance": {"value": "relevant", "score": 0.9, "agent": "m"}},
        "responses": {"relevance": given},
        "vectors": {},
        "_server_id": "s",
    }


LABEL_STUDIO = [
    task("b", "relevant"),
    task("c", "not relevant", "not relevant"),
    task("d"),
    task("e", "relevant", cancelled=True),
]
ARGILLA = [
    record("b", u="relevant"),
    record("c", u="not relevant", v="not relevant"),
    record("d"),
    record("e"),
]


@pytest.mark.parametrize("form", ["label-studio", "argilla"])
def test_a_line_of_several_annotators_is_shown_once(tmp_path: Path, form: str) -> None:
    rows = {
        "label-studio": [task("c", "not relevant", "relevant"), task("b", "relevant"), task("e", "relevant")],
        "argilla": [
            record("c", u="not relevant", v="relevant"),
            record("b", u="relevant"),
            record("e", u="relevant"),
        ],
    }[form]
    file = write(tmp_path / "t.json", json.dumps(rows))
    (understood,) = ingest(tmp_path / "s.duckdb", str(file), SourceConfig(**COLUMNS, max_bad=1)).understood
    assert understood.splitlines()[1:] == [
        f'  {file}:1: query "a"; not relevant "c"; relevant "c"',
        f'  {file}:2: query "a"; relevant "b"',
        f'  {file}:3: query "a"; relevant "e"',
    ]


@pytest.mark.parametrize("form", ["array", "lines"])
@pytest.mark.parametrize(
    ("name", "called", "records"),
    [
        ("label-studio", "an export of Label Studio", LABEL_STUDIO),
        ("argilla", "records of Argilla", ARGILLA),
    ],
)
def test_answers_of_people(tmp_path: Path, form: str, name: str, called: str, records: list[Any]) -> None:
    text = json.dumps(records, indent=2) if form == "array" else jsonl(*records)
    source = write(tmp_path / "export.json", text)
    assert detect(str(source)) == name
    report = accounted(tmp_path, source, 5, **COLUMNS)
    assert {one.reason: one.rows for one in report.rejected} == {"unanswered": 2, "duplicate_row": 1}
    assert judged(source, **COLUMNS) == [("a", "b", 1.0), ("a", "c", 0.0), ("a", "c", 0.0)]
    opened = open_source(str(source), SourceConfig(format=name, **COLUMNS))
    assert opened.read_as.startswith(f"{called}, pairs: query = query, passage = documents, relevance =")
    with pytest.raises(InputError, match="name yours, such as --positive-column passage"):
        open_source(str(source), SourceConfig())
    with pytest.raises(InputError) as caught:
        open_source(str(source), SourceConfig(positive_column="passage"))
    assert caught.value.message.startswith(f"{source}: ")
    assert len(judged(source, positive_column="passage", relevance_column="none")) == 3


@pytest.mark.parametrize(
    "records",
    [
        [task("b", "relevant", "not relevant"), task("c", "not relevant")],
        [record("b", u="relevant", v="not relevant"), record("c", u="not relevant")],
    ],
    ids=["label-studio", "argilla"],
)
def test_people_who_disagree_do_not_stop_the_ingest(tmp_path: Path, records: list[Any]) -> None:
    source = write(tmp_path / "export.json", json.dumps(records))
    report = accounted(tmp_path, source, 3, **COLUMNS)
    (left,) = report.rejected
    assert (left.reason, left.rows) == ("disagreement", 1)
    assert left.first[0].endswith("have relevance 0.0 here and 1.0 elsewhere; the higher counts")
    stored = rows(tmp_path / "accounted.duckdb", "SELECT relevance FROM judgments ORDER BY ALL")
    assert stored == [(0.0,), (1.0,)]


def test_a_feed_that_contradicts_itself_has_bad_rows(tmp_path: Path) -> None:
    fields = {"query": "a", "positive": "b"}
    feed = [{"put": f"id:n:t::{i}", "fields": fields | {"fit": i}} for i in range(2)]
    source = write(tmp_path / "feed.json", json.dumps(feed))
    options = {"query_column": "query", "positive_column": "positive", "relevance_column": "fit"}
    assert "bad rows: 1 conflicting_judgment" in refused(tmp_path, source, **options)


def test_answers_of_which_no_option_speaks_stop_the_ingest(tmp_path: Path) -> None:
    one = {"fields": {"query": "a", "positive": "b"}, "responses": {"fit": [{"value": "so so"}]}}
    source = write(tmp_path / "a.jsonl", jsonl(one))
    assert refused(tmp_path, source) == (
        "DIR/a.jsonl: people answered 'fit' (with values such as so so), and no option mentions it: every "
        "pair would be a positive; to read it as relevance: --relevance-column fit, and --relevance-map "
        "VALUE=NUMBER,… for words; if every pair is a positive: --relevance-column none"
    )


def test_other_controls_of_label_studio(tmp_path: Path) -> None:
    results = [
        {"from_name": "stars", "type": "rating", "value": {"rating": 3}},
        {"from_name": "note", "type": "textarea", "value": {"text": ["x"]}},
        {"from_name": "tags", "type": "choices", "value": {"choices": ["x", "y"]}},
    ]
    one = {"data": {"query": "a", "positive": "b"}, "annotations": [{"result": results}]}
    source = write(tmp_path / "export.json", json.dumps([one]))
    assert judged(source, relevance_column="stars") == [("a", "b", 3.0)]
    assert open_source(str(source), SourceConfig(relevance_column="stars")).note == (
        "not read: columns note, tags (a list)"
    )


def test_a_feed_of_vespa(tmp_path: Path) -> None:
    records = [
        {"put": "id:docs:passage::7", "fields": {"title": "T", "text": "a", "vector": {"values": [1]}}},
        {"id": "id:docs:passage::a:b", "fields": {"text": "b"}},
        {"update": "id:docs:passage::8", "fields": {"text": {"assign": "c"}}},
        {"put": "id:docs:passage::9"},
    ]
    source = write(tmp_path / "feed.jsonl", jsonl(*records))
    assert detect(str(source)) == "vespa"
    report = accounted(tmp_path, source, 4, max_bad=1.0)
    assert {one.reason: one.rows for one in report.rejected} == {"not_put": 2}
    assert rows(tmp_path / "accounted.duckdb", "SELECT doc_id, title, text FROM documents ORDER BY ALL") == [
        ("7", "T", "a"),
        ("a:b", "", "b"),
    ]
    assert open_source(str(source), SourceConfig()).note == "not read: columns vector (an object)"


def test_a_feed_whose_text_has_another_name(tmp_path: Path) -> None:
    source = write(tmp_path / "feed.json", json.dumps([{"put": "id:a:b::7", "fields": {"body": "a"}}]))
    assert [row["text"] for row in collect(source, text_column="body")["documents"]] == ["a"]


def test_files_that_are_none(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", jsonl({"query": "a", "positive": "b"}))
    assert refused(tmp_path, source, format="argilla") == (
        "DIR/a.jsonl: not records of Argilla; name the .json or .jsonl file of the export; without "
        "--format argilla it is read as pairs"
    )
    mixed = write(tmp_path / "b.jsonl", jsonl(task("b", "relevant"), {"query": "a"}))
    found = collect(mixed, **COLUMNS | {"relevance_map": {"relevant": 1}})
    assert [row["reason"] for row in found["rejected"]] == ["not_a_record"]
