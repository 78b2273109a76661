"""LlamaIndex's pairs for finetuning embeddings.

The fixtures are ours, in the layout of EmbeddingQAFinetuneDataset.save_json (llama-index-core 0.14).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.sources import SourceConfig, detect, ingest, open_source
from tests.sources_support import accounted, collect, refused, rows, write

PAIRS: dict[str, Any] = {
    "queries": {"q1": "how old is Rome", "q2": "what is rice"},
    "corpus": {"n1": "Rome is old", "n2": "Rice is a\ngrain", "n3": "Tea is a drink"},
    "relevant_docs": {"q1": ["n1"], "q2": ["n2", "n3"]},
    "mode": "text",
}
JUDGMENTS = "SELECT query_id, doc_id, relevance, split FROM judgments ORDER BY ALL"


def pairs(path: Path, **changes: Any) -> Path:
    return write(path, json.dumps({**PAIRS, **changes}, indent=4))


def test_a_file(tmp_path: Path) -> None:
    source = pairs(tmp_path / "val_dataset.json")
    assert detect(str(source)) == "llamaindex"
    report = accounted(tmp_path, source, 2 + 3 + 2)
    assert dict(report.added) == {"documents": 3, "queries": 2, "judgments": 3}
    assert rows(tmp_path / "accounted.duckdb", JUDGMENTS) == [
        ("q1", "n1", 1.0, "dev"),
        ("q2", "n2", 1.0, "dev"),
        ("q2", "n3", 1.0, "dev"),
    ]


def test_a_folder_with_a_file_for_each_split(tmp_path: Path) -> None:
    pairs(tmp_path / "set/train_dataset.json", queries={"q3": "a"}, relevant_docs={"q3": ["n1"]})
    pairs(tmp_path / "set/val_dataset.json")
    write(tmp_path / "set/notes.txt", "notes")
    assert detect(str(tmp_path / "set")) == "llamaindex"
    assert open_source(str(tmp_path / "set"), SourceConfig()).note == (
        "not read: notes.txt (not LlamaIndex's pairs)"
    )
    report = ingest(tmp_path / "s.duckdb", [str(tmp_path / "set")])
    assert dict(report.splits) == {"dev": 3, "train": 1}


def test_rows_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    source = pairs(
        tmp_path / "a.json",
        queries={"q1": "a", "q2": "", "q3": ["b"]},
        relevant_docs={"q1": [], "q2": "n2", "q3": ["n9"]},
    )
    report = accounted(tmp_path, source, 3 + 3 + 3, max_bad=1.0)
    assert {one.reason: one.rows for one in report.rejected} == {
        "empty_list": 1, "empty_text": 1, "not_text": 2, "unknown_query": 1,
    }  # fmt: skip
    found = rows(tmp_path / "accounted.duckdb", "SELECT origin, line FROM rejected WHERE reason='empty_list'")
    assert found == [(f"{source}/relevant_docs", 1)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"queries": {}, "corpus": {}, "mode": "text"}',
         "no object 'relevant_docs'; it has queries, corpus, mode; LlamaIndex's pairs have queries, corpus, "
         "relevant_docs"),
        ('{"queries": {"a": "b", "a": "c"}, "corpus": {}, "relevant_docs": {}}',
         "the key 'a' occurs twice in one object; remove one"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, content: str, expected: str) -> None:
    source = write(tmp_path / "a.json", content)
    assert refused(tmp_path, source) == f"DIR/a.json: {expected}"


def test_broken_json_and_other_files(tmp_path: Path) -> None:
    broken = write(tmp_path / "a.json", '{"queries": {"a": "b"')
    assert refused(tmp_path, broken).startswith("DIR/a.json:1: broken JSON (")
    other = write(tmp_path / "b.json", '{"query": "a", "positive": "b"}\n')
    assert detect(str(other)) == "table"
    assert refused(tmp_path, other, format="llamaindex").startswith("DIR/b.json: no object 'queries'")
    written = pairs(tmp_path / "c.json", source="book")
    notes = [part.note for part in open_source(str(written), SourceConfig()).parts if part.note]
    assert notes == [f"{written}: not read: source"]


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=5))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("texts") / "a.json"
    pairs(path, corpus=dict(enumerate(texts)))
    assert [row["text"] for row in collect(path)["documents"]] == texts
