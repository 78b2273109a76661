"""Rows of FlagEmbedding, Tevatron, DPR and sentence-transformers: what each passage becomes.

The rows are our own, in the layouts of FlagEmbedding 1.4 (examples/finetune/embedder and reranker), Tevatron
(src/tevatron/retriever/dataset.py, in 2025), DPR 1.0 (README.md) and sentence-transformers 6.2
(mine_hard_negatives, CrossEncoderRerankingEvaluator).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.errors import InputError
from miner.sources import SourceConfig, ingest, open_source
from miner.sources.candidates import read_candidates
from tests.sources_support import collect, jsonl, refused, write

FLAG = {
    "query": "a", "pos": ["p1", "p2"], "neg": ["n"], "pos_id": ["1", "2"], "neg_id": ["3"], "query_id": "q",
    "prompt": "Represent this", "type": "normal",
}  # fmt: skip
PASSAGES = [{"docid": "1", "title": "T", "text": "p1"}, {"docid": "2", "title": "", "text": "p2"}]
TEVATRON = {
    "query_id": "q", "query": "a", "positive_passages": PASSAGES,
    "negative_passages": [{"docid": "3", "title": "", "text": "n"}],
}  # fmt: skip
DPR = {
    "question": "a", "answers": ["x"],
    "positive_ctxs": [{"title": "T", "text": "p1", "score": 1000, "title_score": 1, "passage_id": "1"}],
    "negative_ctxs": [{"title": "", "text": "r", "score": 0, "title_score": 0, "passage_id": "9"}],
    "hard_negative_ctxs": [{"title": "", "text": "n", "score": 11.5, "title_score": 0, "psg_id": 3}],
}  # fmt: skip
UNSCORED_DPR = {
    name: [{**one, "score": 0} for one in value] if name.endswith("ctxs") else value
    for name, value in DPR.items()
}
RETRIEVED = {
    "question": "a", "answers": ["x"],
    "ctxs": [
        {"id": "wiki:1", "title": "T", "text": "p1", "score": "81.5", "has_answer": True},
        {"id": "wiki:2", "title": "", "text": "n", "score": "80.25", "has_answer": False},
    ],
}  # fmt: skip


def read(path: Path, **options: Any) -> tuple[list[tuple[str, float]], list[str]]:
    """Returns the texts with a judgment and their relevance, and the texts without one."""
    found = collect(path, **options)
    texts = {row["doc_id"]: row["text"] for row in found["documents"]}
    judged = [(texts.pop(row["doc_id"]), row["relevance"]) for row in found.get("judgments", [])]
    return judged, list(texts.values())


POSITIVES = [("p1", 1.0), ("p2", 1.0)]
READ: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, float]], list[str], str]] = {
    "FlagEmbedding": (
        FLAG,
        {},
        [*POSITIVES, ("n", 0.0)],
        [],
        "FlagEmbedding: query_id = query id, query = query, pos = positives, neg = negatives (judged not "
        "relevant), pos_id = ids of pos, neg_id = ids of neg",
    ),
    "FlagEmbedding with scores": (
        {**FLAG, "pos_scores": [2, 1], "neg_scores": [0.5]},
        {},
        POSITIVES,
        ["n"],
        "FlagEmbedding: query_id = query id, query = query, pos = positives, neg = negatives (mined, not "
        "judged), pos_id = ids of pos, neg_id = ids of neg",
    ),
    "Tevatron": (
        TEVATRON,
        {},
        [*POSITIVES, ("n", 0.0)],
        [],
        "Tevatron: query_id = query id, query = query, positive_passages = positives, negative_passages = "
        "negatives (judged not relevant; with scores: mined, not judged)",
    ),
    "DPR with the scores of a retriever": (
        DPR,
        {},
        [("p1", 1.0)],
        ["n", "r"],
        "DPR: question = query, positive_ctxs = positives, hard_negative_ctxs = negatives (judged not "
        "relevant; with scores: mined, not judged), negative_ctxs = negatives (judged not relevant; with "
        "scores: mined, not judged)",
    ),
    "DPR": (UNSCORED_DPR, {}, [("p1", 1.0), ("n", 0.0), ("r", 0.0)], [], "DPR: question = query"),
    "output of DPR's retriever": (
        RETRIEVED,
        {},
        [],
        ["p1", "n"],
        "output of DPR's retriever: question = query, ctxs = documents, not judged",
    ),
    "answers as relevance": (
        RETRIEVED,
        {"relevance_column": "has_answer"},
        [("p1", 1.0)],
        ["n"],
        "output of DPR's retriever: question = query, ctxs = documents, ctxs.has_answer = relevance of ctxs",
    ),
    "sentence-transformers triplets": (
        {"anchor": "a", "positive": "p1", "negative_1": "n", "negative_2": "m"},
        {},
        [("p1", 1.0), ("n", 0.0), ("m", 0.0)],
        [],
        "triplets: anchor = query, positive = positives, negative_1 = negatives (judged not relevant), "
        "negative_2 = negatives (judged not relevant)",
    ),
    "tuples with scores": (
        {"query": "a", "positive": "p1", "negative": "n", "scores": [0.9, 0.5]},
        {},
        [("p1", 1.0)],
        ["n"],
        "triplets: query = query, positive = positives, negative = negatives (mined, not judged)",
    ),
    "pairs with labels": (
        {"anchor": "a", "document": "p1", "label": 1},
        {},
        [("p1", 1.0)],
        [],
        "pairs with labels: anchor = query, document = documents, label = relevance of document",
    ),
    "lists with labels": (
        {"query": "a", "documents": ["p1", "n", "m"], "labels": [2, 0, 0.5]},
        {},
        [("p1", 2.0), ("n", 0.0), ("m", 0.5)],
        [],
        "lists with labels: query = query, documents = documents, labels = relevance of documents",
    ),
    "lists with scores alone": (
        {"query": "a", "documents": ["p1", "n"], "scores": [0.9, 0.5]},
        {},
        [],
        ["p1", "n"],
        "lists with labels: query = query, documents = documents, not judged",
    ),
    "samples for reranking": (
        {"query": "a", "positive": ["p1"], "documents": ["n", "p1"]},
        {},
        [("p1", 1.0)],
        ["n"],
        "samples for reranking: query = query, positive = positives, documents = negatives (mined, not "
        "judged)",
    ),
    "lists of texts": (
        {"question": "a", "positives": ["p1", "p2"], "hard_negatives": ["n"]},
        {},
        [*POSITIVES, ("n", 0.0)],
        [],
        "lists of texts: question = query, positives = positives, hard_negatives = negatives (judged not "
        "relevant)",
    ),
    "lists in columns that options name": (
        {"q": "a", "good": ["p1", "p2"], "bad": ["n"], "grade": [3, 1]},
        {"query_column": "q", "positive_column": "good", "negative_column": "bad",
         "relevance_column": "grade"},
        [("p1", 3.0), ("p2", 1.0), ("n", 0.0)],
        [],
        "triplets: q = query, good = documents, bad = negatives (judged not relevant), grade = relevance of "
        "good",
    ),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("name", READ)
def test_rows_of_other_tools(tmp_path: Path, name: str, suffix: str) -> None:
    row, options, judged, unjudged, read_as = READ[name]
    file = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([row]), file)
    else:
        write(file, jsonl(row) if suffix == ".jsonl" else json.dumps([row]))
    assert read(file, **options) == (judged, unjudged)
    assert open_source(str(file), SourceConfig(**options)).read_as.startswith(read_as)


@pytest.mark.parametrize(
    ("format", "row"),
    [("flagembedding", FLAG), ("tevatron", TEVATRON), ("dpr", DPR), ("dpr", RETRIEVED),
     ("sentence-transformers", READ["lists with labels"][0])],
)  # fmt: skip
def test_a_format_can_be_named(tmp_path: Path, format: str, row: dict[str, Any]) -> None:
    file = write(tmp_path / "t.jsonl", jsonl(row))
    assert read(file, format=format) == read(file)
    other = write(tmp_path / "o.jsonl", jsonl({"text": "a", "label": "b"}))
    assert refused(tmp_path, other, format=format) == (
        f"DIR/o.jsonl: not the columns of --format {format}; its columns: text, label; without "
        f"--format {format} it is read as labels"
    )


def test_ids_of_passages_are_kept(tmp_path: Path) -> None:
    for row in (FLAG, TEVATRON):
        found = collect(write(tmp_path / "t.jsonl", jsonl(row)))
        assert [row["doc_id"] for row in found["documents"]] == ["1", "2", "3"]
        assert {row["query_id"] for row in found["queries"]} == {"q"}
    ids = [row["doc_id"] for row in collect(write(tmp_path / "t.jsonl", jsonl(RETRIEVED)))["documents"]]
    assert ids == ["wiki:1", "wiki:2"]


def test_lists_that_do_not_fit_are_left_out_and_counted(tmp_path: Path) -> None:
    lists = READ["lists with labels"][0]
    for row, detail in (
        ({**FLAG, "pos_id": ["1"]}, "2 passages in 'pos', but 1 value in 'pos_id'"),
        ({**lists, "labels": [1]}, "3 passages in 'documents', but 1 value in 'labels'"),
    ):
        found = collect(write(tmp_path / "t.jsonl", jsonl(row)))
        assert [(one["reason"], one["detail"]) for one in found["rejected"]] == [
            ("different_lengths", detail)
        ]
        assert "queries" not in found
    found = collect(write(tmp_path / "t.jsonl", jsonl({**lists, "labels": [1, "x", 0]})))
    assert [one["detail"] for one in found["rejected"]] == ["relevance 'x' is not a number"]
    assert len(found["judgments"]) == 2


TEXT = st.text(min_size=1, max_size=6)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"query": TEXT, "pos": st.lists(TEXT, max_size=3), "neg": st.lists(TEXT, max_size=3)},
        optional={"pos_id": st.lists(TEXT, max_size=3), "neg_scores": st.lists(st.floats(-2, 2), max_size=3)},
    ),
    min_size=1,
    max_size=5,
)


@given(ROWS)
def test_every_row_is_stored_or_left_out(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    file = write(tmp_path_factory.mktemp("x") / "t.jsonl", jsonl(*rows))
    found = collect(file)
    lines = {name: {row["line"] for row in found.get(name, [])} for name in ("rows", "queries", "rejected")}
    assert lines["rows"] == set(range(1, len(rows) + 1)) == lines["queries"] | lines["rejected"]
    for number, row in enumerate(rows, 1):
        if number in lines["queries"] - lines["rejected"]:
            documents = [one["text"] for one in found["documents"] if one["line"] == number]
            assert len(documents) == len(row["pos"]) + len(row["neg"])


# Scores as candidates

SCORED: dict[str, tuple[dict[str, Any], list[tuple[str, float]]]] = {
    "FlagEmbedding": ({**FLAG, "pos_scores": [2, 1], "neg_scores": [0.5]}, [("1", 2), ("2", 1), ("3", 0.5)]),
    "DPR": (DPR, [("1", 1000), ("3", 11.5)]),
    "output of DPR's retriever": (RETRIEVED, [("wiki:1", 81.5), ("wiki:2", 80.25)]),
    "Tevatron": (
        {**TEVATRON, "positive_passages": [{"docid": "1", "text": "p", "score": 3}]},
        [("1", 3)],
    ),
}


@pytest.mark.parametrize("name", SCORED)
def test_scores_are_candidates(tmp_path: Path, name: str) -> None:
    row, expected = SCORED[name]
    file = write(tmp_path / "t.jsonl", jsonl(row))
    found = read_candidates(file).table.to_pylist()
    assert [(one["doc_id"], one["score"]) for one in found] == expected
    assert {one["query_id"] for one in found} == {one["query_id"] for one in collect(file)["queries"]}


def test_a_list_of_scores_is_for_the_positive_and_the_negatives(tmp_path: Path) -> None:
    rows = [
        {"anchor": "a", "positive": "p", "negative_1": "n", "negative_2": "m", "scores": [3, 2, 1]},
        {"anchor": "a", "positive": "p", "negative_1": "n", "negative_2": "m", "scores": [3, 2]},
    ]
    found = read_candidates(write(tmp_path / "t.jsonl", jsonl(rows[0]))).table
    assert found["score"].to_pylist() == [3, 2, 1]
    with pytest.raises(InputError) as caught:
        read_candidates(write(tmp_path / "t.jsonl", jsonl(*rows)))
    assert str(caught.value) == (
        f"{tmp_path}/t.jsonl:2: 3 passages, but 2 scores in 'scores'; give every passage a score"
    )


def test_rows_without_scores_are_no_candidates(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_candidates(write(tmp_path / "t.jsonl", jsonl(FLAG)))
    assert str(caught.value) == (
        f"{tmp_path}/t.jsonl: the rows have texts, but no scores; candidates need a score in each row; miner "
        "ingest reads the texts"
    )


# What was understood


class Notes:
    def __init__(self) -> None:
        from miner.engine.progress import SILENT

        self.task, self.notes = SILENT.task, list[str]()

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_an_ingest_shows_the_format_and_three_rows(tmp_path: Path) -> None:
    long = "word " * 20
    rows = [
        TEVATRON,
        {**TEVATRON, "query": ""},
        *({**TEVATRON, "query_id": str(n), "query": long} for n in "xy"),
    ]
    file = write(tmp_path / "t.jsonl", jsonl(*rows))
    (understood,) = ingest(tmp_path / "s.duckdb", str(file), SourceConfig(max_bad=0.5)).understood
    read_as, *shown = understood.splitlines()
    assert read_as.startswith(f"read {file} as Tevatron: query_id = query id, query = query, ")
    texts = 'relevant "T: p1", "p2"; not relevant "n"'
    assert shown == [
        f'  {file}:1: query "a"; {texts}',
        f"  {file}:2: left out (empty_text)",
        f'  {file}:3: query "word word word word word word word word…"; {texts}',
    ]


def test_a_document_that_a_line_has_twice_is_shown_once(tmp_path: Path) -> None:
    row = {"query": "a", "pos": ["p"], "neg": ["n", "n", "m", "p"]}
    file = write(tmp_path / "t.jsonl", jsonl(row, row))
    (understood,) = ingest(tmp_path / "s.duckdb", str(file), SourceConfig(max_bad=1)).understood
    texts = 'query "a"; relevant "p"; not relevant "n", "m" and 1 more'
    assert understood.splitlines()[1:] == [f"  {file}:1: {texts}", f"  {file}:2: {texts}"]


def test_labels_of_0_beside_scores_are_mined(tmp_path: Path) -> None:
    record = {"query": "q", "documents": ["p", "n"], "labels": [1, 0], "scores": [9.5, 8.5]}
    source = write(tmp_path / "rows.jsonl", jsonl(record))
    assert [row["relevance"] for row in collect(source)["judgments"]] == [1.0]
    assert len(collect(source)["documents"]) == 2
    found = collect(source, relevance_column="labels")
    assert sorted(row["relevance"] for row in found["judgments"]) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("content", "format", "fits"),
    [
        (TEVATRON, "flagembedding", "Tevatron"),
        (FLAG, "dpr", "FlagEmbedding"),
        ({"query": "a", "positive": "b"}, "squad", "pairs"),
        ({"query": "a", "positive": "b", "negative": "c"}, "beir", "triplets"),
        ({"query": "a", "positive": "b"}, "export", "pairs"),
        ({"query": "a", "positive": "b"}, "labels", "pairs"),
    ],
)
def test_a_wrong_format_is_refused_with_the_one_that_fits(
    content: dict[str, Any], format: str, fits: str, tmp_path: Path
) -> None:
    message = refused(tmp_path, write(tmp_path / "o.jsonl", jsonl(content)), format=format)
    assert message.endswith(f"; without --format {format} it is read as {fits}")
