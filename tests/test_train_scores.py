"""Scores that a training learns: whose they are is refused or told, and low ones are no positives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from miner.store.database import Database
from miner.store.models import record_model
from miner.store.scorers import Scorer
from miner.store.silver import is_soft, replace_silver
from miner.training.encoder_config import EncoderConfig
from miner.training.encoder_trainer import load_base
from miner.training.examples import Examples
from miner.workflows.train import TrainingRows, dev_task, train
from tests.export_store import fill, made, make_run
from tests.test_train_store import (
    CONFIG,
    DOCUMENTS,
    QUERIES,
    TRIPLETS,
    add_run,
    path,
    refusal,
    store,
    trained,
)
from tests.train_support import frozen

__all__ = ["frozen", "path", "store"]

MARGINS = EncoderConfig(loss="margin-mse", base="scratch", evaluations=0)


def test_margins_are_learnt_from_a_reranker(path: Path, tmp_path: Path) -> None:
    """BM25's are refused; an encoder's may be those of a better one, and are told."""
    with Database.open(path) as store:
        add_run(store, "words", TRIPLETS, scorers=(Scorer(0, "bm25", "bm25", None),))
        add_run(store, "pairs", TRIPLETS, scorers=(Scorer(0, "ranker1", "reranker", "ranker1"),))
        record_model(store, "enc1", "encoder", "small-encoder", {})
    assert refusal(path, tmp_path / "a", TrainingRows(run="words"), config=MARGINS).replace(
        f"{tmp_path}/", ""
    ) == (
        "loss margin-mse learns a reranker's scores, but those of run words are BM25's; mine with "
        "--reranker: "
        "miner train-reranker my.duckdb OUT, then miner mine my.duckdb --reranker OUT"
    )
    reported = "the scores of run first are cosines of the encoder small-encoder: "
    said = trained(path, tmp_path / "b", TrainingRows(run="first"), "margin-mse")
    assert said[0] == f"{reported}loss margin-mse learns from it instead of a reranker"
    assert trained(path, tmp_path / "c", TrainingRows(run="pairs"), "margin-mse")[0].startswith("3 rows of ")
    assert trained(path, tmp_path / "d", TrainingRows(run="words"))[0].startswith("3 rows of ")


def test_exported_margins_are_a_rerankers_too(tmp_path: Path) -> None:
    models: dict[str, dict[str, Any]] = {
        "words": {"scorers": (Scorer(0, "bm25", "bm25", None),)}, "cosines": {},
        "pairs": {"scorers": (Scorer(0, "ranker1", "reranker", "ranker1"),)},
    }  # fmt: skip
    for name, changes in models.items():
        with Database.open(tmp_path / f"{name}.duckdb", create=True) as store:
            fill(store, run=make_run(name, **changes))
            made(store, tmp_path / name, scores=True)
            made(store, tmp_path / f"{name}-bare")
    assert refusal(tmp_path / "words", tmp_path / "a", config=MARGINS) == (
        "loss margin-mse learns a reranker's scores, but those of words are BM25's; mine with --reranker: "
        "miner train-reranker STORE OUT, then miner mine STORE --reranker OUT"
    )
    cosines = f"the scores of {tmp_path}/cosines are cosines of the encoder bundled: "
    assert trained(tmp_path / "cosines", tmp_path / "b", loss="margin-mse")[0].startswith(cosines)
    assert trained(tmp_path / "pairs", tmp_path / "c", loss="margin-mse")[0].startswith("5 rows of ")
    assert trained(tmp_path / "words", tmp_path / "d", loss="mnr")[0].startswith("not read: columns scores")
    assert "needs a list of scores" in refusal(tmp_path / "words-bare", tmp_path / "e", config=MARGINS)


def test_texts_are_scored_with_the_prompts_that_they_are_found_with(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No prompt for documents is none, also where the model's default is that of queries."""
    with Database.open(path) as store:
        task = dev_task(store, "test")
    assert task is not None
    model = load_base(replace(CONFIG, query_prompt="a dog barks ", document_prompt=""))
    model.default_prompt_name = "query"
    read, preprocess = list[str](), model.preprocess

    def recorded(texts: list[str], prompt: str | None = None, **settings: Any) -> Any:
        read.extend((prompt or "") + text for text in texts)
        return preprocess(texts, prompt=prompt, **settings)

    monkeypatch.setattr(model, "preprocess", recorded)
    task.score(model)
    assert {text for text in read if text.startswith("a dog barks ")} == {"a dog barks " + QUERIES["hum"]}
    assert {DOCUMENTS["bee"], DOCUMENTS["owl"]} < set(read)


def test_soft_silver_is_for_losses_that_read_numbers(path: Path, tmp_path: Path) -> None:
    """A reranker's low score is above 0, and no positive: what ranks must not take it for one."""
    soft = [("bark", "fox", 0.75), ("moo", "dog", 0.05), ("moo", "cat", 0.5)]
    columns = dict(zip(("query_id", "doc_id", "relevance"), map(list, zip(*soft, strict=True)), strict=True))
    with Database.open(path) as store:
        replace_silver(store, pa.table(columns), "train", {"soft": True})
        assert is_soft(store)
    for loss in ("mnr", "softmax"):
        config = EncoderConfig(loss=loss, base="scratch")
        for judgments in ("silver", "both"):
            assert refusal(path, tmp_path / "a", TrainingRows(judgments=judgments), config=config) == (
                f"silver judgments were made with --soft: loss {loss} would treat every pair as a positive; "
                "use --loss cosine, or make them again without --soft (no pair is scored again)"
            )
    assert trained(path, tmp_path / "b", TrainingRows(judgments="gold"))[0].startswith("4 rows of ")
    report = train(path, tmp_path / "c", replace(CONFIG, loss="cosine"), TrainingRows(judgments="silver"))
    rows = sorted(soft)
    texts = {"anchor": [QUERIES[q] for q, *_ in rows], "positive": [DOCUMENTS[d] for _, d, _ in rows]}
    assert report.metrics.data == Examples(texts, [score for *_, score in rows]).fingerprint


@pytest.mark.parametrize("kind", ["vectors", "imported"])
def test_margins_of_given_scores_are_noted(path: Path, tmp_path: Path, kind: str) -> None:
    with Database.open(path) as store:
        add_run(store, "given", TRIPLETS, scorers=(Scorer(0, "mine", kind, "digest"),))
    said = trained(path, tmp_path / "a", TrainingRows(run="given"), "margin-mse")
    assert said[0] == (
        "the scores of run given are those of mine, which were given: loss margin-mse learns from them, "
        "whether a reranker made them or not"
    )
