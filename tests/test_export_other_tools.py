"""Exports hold what other tools' loaders read: checked against their sources, since they are not installed.

Each test names the file and the commit of the loader, and asks of every row what that loader does to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from miner.store.database import Database
from tests.export_store import fill, made
from tests.stores import new_store

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path: Path) -> Database:
    opened = new_store(tmp_path / "my.duckdb")
    fill(opened)
    return opened


def json_data_set(store: Database, tmp_path: Path, **config: Any) -> Any:
    """Returns an export as FlagEmbedding and Tevatron load it: by the JSON reader of `datasets`."""
    from datasets import load_dataset

    data = made(store, tmp_path / "out", **config).data
    return load_dataset("json", data_files=str(data), split="train", cache_dir=str(tmp_path / "cache"))


def is_texts(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(one, str) for one in value)


@pytest.mark.parametrize("scores", [False, True])
def test_flagembedding_embedders_and_rerankers(store: Database, tmp_path: Path, scores: bool) -> None:
    """FlagEmbedding 1.4.0, FlagEmbedding/abc/finetune/{embedder,reranker}/AbsDataset.py.

    Both read query, pos and neg; with knowledge distillation also pos_scores and neg_scores, numbers by
    position. Columns of other names that they know would change how a row is read, so there are none.
    """
    data = json_data_set(store, tmp_path, format="flagembedding", scores=scores)
    known = {"type", "prompt", "batch_size", "train_group_size", "query_prompt", "passage_prompt"}
    assert not known & set(data.column_names)
    assert {"pos_scores", "neg_scores"} <= set(data.column_names) or not scores
    for row in data:
        assert isinstance(row["query"], str)
        assert is_texts(row["pos"])
        assert is_texts(row["neg"])
        for side in ("pos", "neg") if scores else ():
            assert len(row[f"{side}_scores"]) == len(row[side])
            assert all(isinstance(score, float) for score in row[f"{side}_scores"])


def test_tevatron(store: Database, tmp_path: Path) -> None:
    """src/tevatron/retriever/dataset.py at dd06310, rows with `positive_passages`.

    A row has query and two lists of passages; a passage is its title, a space and its text.
    """
    for row in json_data_set(store, tmp_path, format="tevatron"):
        assert isinstance(row["query"], str)
        for side in ("positive_passages", "negative_passages"):
            assert len(row[side]) > 0
            for passage in row[side]:
                assert isinstance(passage["title"] + " " + passage["text"], str)


def test_dpr(store: Database, tmp_path: Path) -> None:
    """dpr/data/biencoder_data.py at a31212d, JsonQADataset: a JSON list.

    Of each sample it reads question, positive_ctxs (samples without any are dropped), negative_ctxs and
    hard_negative_ctxs; of each context text and title.
    """
    samples = json.loads(made(store, tmp_path / "out", format="dpr").data.read_text("utf-8"))
    for sample in samples:
        assert isinstance(sample["question"], str)
        assert len(sample["positive_ctxs"]) > 0
        for side in ("positive_ctxs", "negative_ctxs", "hard_negative_ctxs"):
            assert isinstance(sample[side], list)
            for context in sample[side]:
                assert isinstance(context["text"], str)
                assert isinstance(context["title"], str)
