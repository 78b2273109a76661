"""Training files with lists, objects and labels that nobody named."""

from __future__ import annotations

from pathlib import Path

import pytest

from miner.training.examples import Columns, read_examples
from tests.sources_support import write
from tests.test_training_examples import columns_of, parquet, records, refusal, tsv

FLAGEMBEDDING = {
    "query": ["a", "e"],
    "pos": [["p1", "p2"], ["p3"]],
    "neg": [["n1", "n2"], ["n3"]],
    "pos_scores": [[0.9, 0.8], [0.7]],
    "neg_scores": [[0.5, 0.25], [0.0]],
    "prompt": ["find", "find"],
}
SPREAD = {
    "query": ["a", "a", "a", "a", "e"],
    "positive": ["p1", "p1", "p2", "p2", "p3"],
    "negative": ["n1", "n2", "n1", "n2", "n3"],
}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_lists_of_positives_and_negatives_become_triplets(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"t.{kind}"
    parquet(path, FLAGEMBEDDING) if kind == "parquet" else write(path, records(FLAGEMBEDDING))
    found = read_examples(str(path), "mnr")
    assert (columns_of(found), found.target, found.unread) == (SPREAD, None, ("prompt", "scores"))
    scored = read_examples(str(path), "margin-mse").target
    assert scored == [[0.9, 0.5], [0.9, 0.25], [0.8, 0.5], [0.8, 0.25], [0.7, 0.0]]
    named = read_examples(str(path), "triplet", Columns(("query", "pos", "neg")))
    assert [*named.texts.values()] == [*SPREAD.values()]


def test_passages_may_have_titles(tmp_path: Path) -> None:
    passage = {"docid": "7", "title": "Cats", "text": "purr"}
    rows = {"query_id": ["1"], "query": ["q"], "positive_passages": [[passage]], "negative_passages": [["x"]]}
    found = read_examples(str(write(tmp_path / "t.jsonl", records(rows))), "triplet")
    assert columns_of(found) == {"query": ["q"], "positive": ["Cats purr"], "negative": ["x"]}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_lists_and_objects_that_nobody_named_are_not_read(tmp_path: Path, kind: str) -> None:
    columns = {
        "anchor": ["a"],
        "positive": ["b"],
        "negative": ["x"],
        "meta": [{"m": 1}],
        "votes": [["c", "d"]],
    }
    path = tmp_path / f"t.{kind}"
    parquet(path, columns) if kind == "parquet" else write(path, records(columns))
    for chosen in (Columns(), Columns(("anchor", "positive", "negative"))):
        found = read_examples(str(path), "mnr", chosen)
        assert columns_of(found) == {"anchor": ["a"], "positive": ["b"], "negative": ["x"]}
        assert found.unread == ("meta", "votes")


def test_a_column_named_like_a_label_is_not_trained_on_as_if_every_row_were_a_positive(
    tmp_path: Path,
) -> None:
    columns = {"question1": ["a", "b"], "question2": ["c", "d"], "is_duplicate": ["0", "1"]}
    path = tsv(tmp_path / "t.tsv", columns)
    assert refusal(path, "mnr") == (
        "loss mnr treats every row as a positive, but t.tsv has labels in column 'is_duplicate'; "
        "train on the numbers with --loss cosine; or, for every row, name the columns of text with --columns"
    )
    chosen = Columns(("question1", "question2"), "is_duplicate", "1")
    assert columns_of(read_examples(str(path), "mnr", chosen)) == {"question1": ["b"], "question2": ["d"]}


def test_ids_of_few_values_are_labels_and_others_are_not(tmp_path: Path) -> None:
    texts = {"anchor": [f"a{i}" for i in range(20)], "positive": [f"b{i}" for i in range(20)]}
    path = tsv(tmp_path / "t.tsv", {**texts, "label_id": [str(i % 2) for i in range(20)]})
    assert "has labels in column 'label_id'" in refusal(path, "mnr")
    path = tsv(tmp_path / "t.tsv", {**texts, "match_id": [str(i) for i in range(20)]})
    assert len(columns_of(read_examples(str(path), "mnr"))["anchor"]) == 20
