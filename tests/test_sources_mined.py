"""Negatives that nobody judged, in rows that do not say so: the setting `mined_negatives`, and its note."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from miner.cli.main import group
from miner.sources import SourceConfig, open_source
from tests.sources_support import accounted, collect, jsonl, rows, write

FLAG = {"query": "a", "pos": ["p"], "neg": ["n", "m"]}
TEVATRON = {
    "query_id": "q", "query": "a",
    "positive_passages": [{"docid": "1", "text": "p"}], "negative_passages": [{"docid": "2", "text": "n"}],
}  # fmt: skip
DPR = {"question": "a", "positive_ctxs": [{"text": "p"}], "hard_negative_ctxs": [{"text": "n"}]}
IDS = {"query_id": "q", "query_text": "a", "positive_document_ids": ["1"], "negative_document_ids": ["2"]}
TRIPLET = {"anchor": "a", "positive": "p", "negative": "n"}
LISTS = {"query": "a", "documents": ["p", "n"], "labels": [2, 0]}


def one_row(row: dict[str, Any]) -> Callable[[Path], Path]:
    return lambda folder: write(folder / "t.jsonl", jsonl(row))


def triples_of_ids(folder: Path) -> Path:
    return write(folder / "qidpidtriples.tsv", "17\t7\t9\n")


def triples_of_texts(folder: Path) -> Path:
    return write(folder / "triples.train.tsv", "how old\tRome is old\tRice is a grain\n")


def set_of_ids(folder: Path) -> Path:
    parts: dict[str, dict[str, Any]] = {
        "queries": {"query_id": ["q"], "query": ["a"]},
        "documents": {"document_id": ["1", "2"], "document": ["p", "n"]},
        "triplet": {"query_id": ["q"], "positive_id": ["1"], "negative_id": ["2"]},
        "lists": {"query_id": ["q"], "document_ids": [["1", "2"]], "labels": [[1, 0]]},
    }
    for name, columns in parts.items():
        (folder / "set" / name).mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / "set" / name / "train.parquet")
    return folder / "set"


SOURCES = {
    "FlagEmbedding": one_row(FLAG),
    "Tevatron": one_row(TEVATRON),
    "DPR": one_row(DPR),
    "Tevatron's ids": one_row(IDS),
    "MS MARCO's ids": triples_of_ids,
    "MS MARCO's texts": triples_of_texts,
    "triplets": one_row(TRIPLET),
    "lists with labels": one_row(LISTS),
    "a set of ids": set_of_ids,
}
WITH_NOTE = ["FlagEmbedding", "Tevatron", "DPR", "Tevatron's ids", "MS MARCO's ids", "MS MARCO's texts"]
"""Sources whose negatives a tool's own miner, or BM25, usually found."""


def relevances(source: Path, **options: Any) -> set[bool]:
    return {row["relevance"] > 0 for row in collect(source, **options)["judgments"]}


@pytest.mark.parametrize("name", SOURCES)
def test_mined_negatives_are_not_judged(tmp_path: Path, name: str) -> None:
    source = SOURCES[name](tmp_path)
    assert relevances(source) == {True, False}
    assert relevances(source, mined_negatives=True) == {True}
    for options in ({}, {"mined_negatives": True}):
        texts = [row["text"] for row in collect(source, **options).get("documents", [])]
        assert texts == [row["text"] for row in collect(source).get("documents", [])]


def test_the_documents_stay_and_no_row_is_lost(tmp_path: Path) -> None:
    source = write(tmp_path / "t.jsonl", jsonl(FLAG, {**FLAG, "query": "b"}))
    report = accounted(tmp_path, source, 2, mined_negatives=True)
    assert dict(report.added) == {"documents": 3, "queries": 2, "judgments": 2}
    assert rows(tmp_path / "accounted.duckdb", "SELECT text FROM documents ORDER BY 1") == [
        ("m",),
        ("n",),
        ("p",),
    ]


@pytest.mark.parametrize("name", SOURCES)
def test_the_note_names_the_setting(tmp_path: Path, name: str) -> None:
    source = SOURCES[name](tmp_path)
    note = (
        f"{source}: negatives without a score are judged not relevant, and mining keeps them however high "
        "they score; if they were mined and nobody judged them: --set mined_negatives=true"
    )
    assert (note in open_source(str(source), SourceConfig()).note.splitlines()) == (name in WITH_NOTE)
    assert "mined_negatives" not in open_source(str(source), SourceConfig(mined_negatives=True)).note


def test_scores_need_no_note(tmp_path: Path) -> None:
    scored = {**FLAG, "pos_scores": [2], "neg_scores": [1, 0.5]}
    assert "mined_negatives" not in open_source(str(one_row(scored)(tmp_path)), SourceConfig()).note


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (one_row(FLAG), "neg = negatives (mined, not judged)"),
        (one_row(IDS), "negative_document_ids = ids of negatives, mined, not judged"),
        (triples_of_ids, "triples of ids (query_id, positive_id, negative_id: mined, not judged)"),
    ],
)
def test_what_an_ingest_shows_says_so(tmp_path: Path, make: Callable[[Path], Path], expected: str) -> None:
    source = open_source(str(make(tmp_path)), SourceConfig(mined_negatives=True))
    assert expected in source.read_as


def test_the_rules_drop_a_mined_negative_that_scores_like_the_positive(tmp_path: Path) -> None:
    """A judged negative is known to be one, so no rule drops it."""
    query = "how do I reset my password"
    row = {"query": query, "pos": ["reset the password with a link"], "neg": ["how to reset my password"]}
    source = one_row(row)(tmp_path)
    found = {}
    for value in ("false", "true"):
        store = str(tmp_path / f"{value}.duckdb")
        for words in (
            ["ingest", store, str(source), "--set", f"mined_negatives={value}"],
            ["mine", store],
        ):
            result = CliRunner().invoke(group, words)
            assert result.exit_code == 0, result.output
        found[value] = rows(Path(store), "SELECT verdict, reason FROM verdicts WHERE NOT judged_negative")
    assert found == {
        "false": [("dropped", "judged_positive")],
        "true": [("dropped", "judged_positive"), ("suspected", "relative_margin")],
    }
