"""Sets of scored documents: an ingest reads texts and positives, a run the scores, under the same ids.

The fixtures are ours. The layouts are those of sets on the Hugging Face hub, which have no versions:
lightonai/embeddings-fine-tuning (queries, documents, scores), the same with `positive_ids` in
cross-encoder/lightonai-embeddings-fine-tuning-reranked-v1, and sets for PyLate, whose third part is `train`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner.errors import InputError
from miner.sources import SourceConfig, detect, ingest, open_source
from miner.sources.candidates import read_candidates
from tests.sources_support import collect, jsonl, rows, write

SHARD = "fiqa-00000-of-00001.parquet"
SCORED = {"query_id": [7, 7, 8], "document_ids": [[3, 1, 2], [4, 1, 2], [2, 3]]}
SCORES = [[0.9, 0.5, 0.25], [0.75, 0.5, 0.25], [0.5, 1.0]]


def scored_set(
    folder: Path, part: str = "scores", scores: list[list[float]] = SCORES, shard: str = SHARD, **more: Any
) -> Path:
    """Writes a set with lists: two queries, four documents, in folders as on the hub."""
    tables = {
        "queries": {"query_id": [7, 8], "query": ["what is rice", "where is Rome"]},
        "documents": {"document_id": [1, 2, 3, 4], "document": ["a river", "Italy", "a grain", "a food"]},
        part: {**SCORED, "scores": pa.array(scores, pa.list_(pa.float32())), **more},
    }
    for name, table in tables.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), folder / name / shard)
    return folder


def pairs(path: Path) -> dict[tuple[str, str], float]:
    table = read_candidates(path).table
    return {(row["query_id"], row["doc_id"]): row["score"] for row in table.to_pylist()}


def judged(found: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str, float]]:
    return [(row["query_id"], row["doc_id"], row["relevance"]) for row in found.get("judgments", [])]


def test_a_set_with_lists_is_ingested_with_its_positives(tmp_path: Path) -> None:
    folder = scored_set(tmp_path / "set")
    assert detect(str(folder)) == "ids"
    report = ingest(tmp_path / "s.duckdb", str(folder))
    assert dict(report.added) == {"documents": 4, "queries": 2, "judgments": 3}
    assert report.rejected == ()
    found = rows(tmp_path / "s.duckdb", "SELECT query_id, doc_id, relevance, split FROM judgments")
    assert sorted(found) == [
        ("7", "3", 1.0, "train"), ("7", "4", 1.0, "train"), ("8", "2", 1.0, "train"),
    ]  # fmt: skip
    texts = rows(tmp_path / "s.duckdb", "SELECT doc_id, text FROM documents")
    assert sorted(texts) == [("1", "a river"), ("2", "Italy"), ("3", "a grain"), ("4", "a food")]


def test_the_scores_of_a_set_are_its_candidates_positives_included(tmp_path: Path) -> None:
    folder = scored_set(tmp_path / "set")
    expected = {
        ("7", "3"): 0.9, ("7", "4"): 0.75, ("7", "1"): 0.5, ("7", "2"): 0.25,
        ("8", "2"): 0.5, ("8", "3"): 1.0,
    }  # fmt: skip
    assert pairs(folder) == pytest.approx(expected)
    assert pairs(folder / "scores" / SHARD) == pytest.approx(expected)
    assert read_candidates(folder).note == ""


def test_the_ingest_says_how_the_scores_are_read_and_lists_other_files(tmp_path: Path) -> None:
    folder = scored_set(tmp_path / "set")
    write(folder / "README.md", "…")
    note = open_source(str(folder), SourceConfig()).note
    assert f"not read: the scores in scores; miner mine --candidates {folder} reads them" in note
    assert "not read: README.md (not a part of the set)" in note


def test_a_pair_with_several_scores_keeps_the_first_and_is_reported(tmp_path: Path) -> None:
    folder = scored_set(tmp_path / "set", scores=[[0.9, 0.5, 0.25], [0.75, 0.5, 0.125], [0.5, 1.0]])
    assert pairs(folder)[("7", "2")] == 0.25
    assert read_candidates(folder).note == (
        f"{folder}: 1 pair has several scores in the rows of the query; the first one counts"
    )


def test_named_positives_are_the_judgments(tmp_path: Path) -> None:
    folder = scored_set(tmp_path / "set", positive_ids=[[3, 4], [3, 4], [3]])
    expected = [("7", "3", 1.0), ("7", "4", 1.0)] * 2 + [("8", "3", 1.0)]
    assert judged(collect(folder)) == expected
    assert ("8", "3") in pairs(folder)


def test_a_set_that_names_no_positives_has_no_judgments(tmp_path: Path) -> None:
    folder = scored_set(tmp_path / "set", part="train")
    assert judged(collect(folder)) == []
    assert f"{folder}: train does not say which documents are relevant: no judgments" in (
        open_source(str(folder), SourceConfig()).note
    )
    assert len(pairs(folder)) == 6


def test_other_layouts_of_files_are_read(tmp_path: Path) -> None:
    nested, flat = scored_set(tmp_path / "nested"), tmp_path / "flat"
    flat.mkdir()
    for name in ("queries", "documents", "scores"):
        (nested / name / SHARD).rename(flat / f"{name}.parquet")
    assert len(judged(collect(flat))) == 3
    assert len(pairs(flat)) == 6


def test_corpora_with_the_same_ids_are_refused(tmp_path: Path) -> None:
    folder = scored_set(tmp_path / "set")
    scored_set(folder, shard="nq-00000-of-00001.parquet")
    for call in (lambda: collect(folder), lambda: read_candidates(folder)):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == (
            f"{folder}: 2 corpora (fiqa, nq), and the ids begin anew in each; name a folder with the files "
            "of one, such as fiqa: */fiqa-*.parquet"
        )


def test_lists_of_different_lengths_and_bad_scores_are_refused(tmp_path: Path) -> None:
    for scores, message in (
        (
            [[0.9, 0.5], [0.75, 0.5, 0.25], [0.5, 1.0]],
            ":1: 3 documents, but 2 scores; give every document a score",
        ),
        ([*SCORES[:2], [0.5, float("nan")]], ":3: a score is nan, not a finite number"),
    ):
        folder = scored_set(tmp_path / "set", scores=scores)
        with pytest.raises(InputError) as caught:
            read_candidates(folder)
        assert str(caught.value).startswith(f"{folder}/scores/{SHARD}{message}")


def test_lists_as_texts_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "x.csv", 'query_id,document_ids,scores\n7,"[1, 2]","[0.5, 1]"\n')
    with pytest.raises(InputError) as caught:
        read_candidates(file)
    assert "column 'document_ids' has values of type string, not a list" in str(caught.value)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_lists_in_json_are_read(tmp_path: Path, name: str) -> None:
    lines = [
        '{"query_id": 1, "document_ids": ["a", "b"], "scores": [1, 0.5]}',
        '{"query_id": 2, "document_ids": ["1.0"], "scores": [2]}',
    ]
    file = write(tmp_path / name, "\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]")
    assert pairs(file) == {("1", "a"): 1.0, ("1", "b"): 0.5, ("2", "1.0"): 2.0}


# FlagEmbedding's rows

ROWS = [
    {"query": "what is rice", "pos": ["a grain"], "neg": ["a river", "Italy"],
     "pos_scores": [3.5], "neg_scores": [1, -2]},
    {"query": "where is Rome", "pos": ["Italy"], "neg": ["a grain", " "],
     "pos_scores": [2], "neg_scores": [0.5, 9]},
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_scored_rows_have_the_ids_of_their_ingest(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"train{suffix}"
    if suffix == ".jsonl":
        write(file, jsonl(*ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    found = collect(file)
    query_of = {row["query_id"]: row["text"] for row in found["queries"]}
    text_of = {row["doc_id"]: row["text"] for row in found["documents"]}
    assert {(query_of[q], text_of[d]): score for (q, d), score in pairs(file).items()} == {
        ("what is rice", "a grain"): 3.5, ("what is rice", "a river"): 1.0, ("what is rice", "Italy"): -2.0,
        ("where is Rome", "Italy"): 2.0, ("where is Rome", "a grain"): 0.5,
    }  # fmt: skip
    assert f"miner mine --candidates {file} reads the scores" in open_source(str(file), SourceConfig()).note


def test_scores_that_do_not_fit_their_passages_are_refused(tmp_path: Path) -> None:
    for change, message in (
        (
            {"neg_scores": [1]},
            ":2: 2 passages in 'neg', but 1 score in 'neg_scores'; give every passage a score",
        ),
        ({"pos_scores": [None]}, ":2: 'pos_scores' has None, not a finite number"),
    ):
        file = write(tmp_path / "x.jsonl", jsonl(ROWS[0], {**ROWS[1], **change}))
        with pytest.raises(InputError) as caught:
            read_candidates(file)
        assert str(caught.value).startswith(f"{file}{message}")
