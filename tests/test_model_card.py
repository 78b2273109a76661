"""The model cards of the three trainings: safe front matter, quoted names, tables that hold any setting."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from miner.training.encoder_config import EncoderConfig
from miner.training.model_card import (
    EncoderMetrics,
    Metrics,
    PretrainMetrics,
    RerankerMetrics,
    card,
)
from miner.training.pretrain_config import PretrainConfig
from miner.training.reranker_config import RerankerConfig

SHARED: dict[str, Any] = {
    "fingerprint": "f" * 64, "base": "org/a-model", "base_fingerprint": "b", "dtype": "fp32", "seconds": 3.0,
    "steps": 7,
}  # fmt: skip
ENCODER = EncoderMetrics(
    **SHARED, config=EncoderConfig(base="org/a-model").identity(), data="d", about={}, rows=9,
    columns=["anchor", "positive"], origin="rows.tsv", classes=[], dev="split dev of s.duckdb",
    measure="nDCG@10", left_out=0, losses=[(1, 2.0), (7, 1.0)],
    scores=[(0, {"nDCG@10": 0.25}), (7, {"nDCG@10": 0.5})], best_step=7,
)  # fmt: skip
PRETRAINED = PretrainMetrics(
    **SHARED, config=PretrainConfig(base="org/a-model").identity(), texts="t", documents=5, queries=2,
    losses=[(1, 6.5), (7, 6.25)],
)  # fmt: skip
RERANKER = RerankerMetrics(
    **SHARED, config=RerankerConfig(base="org/a-model").identity(),
    data={"documents": "d1", "queries": "q1", "judgments": "j1"}, queries=8, positives=9, mined=36, random=18,
    losses=[[0.5, 0.25]], held_out_queries=1, held_out_pairs=7, average_precision=0.75, chance=0.25,
)  # fmt: skip
ALL = [ENCODER, PRETRAINED, RERANKER]
TASKS = {EncoderMetrics: "sentence-similarity", PretrainMetrics: "sentence-similarity"}


def front_matter(text: str) -> dict[str, Any]:
    head, matter, _ = text.split("---\n", 2)
    assert head == ""
    values: dict[str, Any] = yaml.safe_load(matter)
    return values


@pytest.mark.parametrize("metrics", ALL, ids=lambda metrics: metrics.what)
def test_the_front_matter_says_what_hubs_read(metrics: Metrics) -> None:
    values = front_matter(card("my-model", metrics))
    assert values["library_name"] == "sentence-transformers"
    assert values["base_model"] == "org/a-model"
    assert values["pipeline_tag"] == TASKS.get(type(metrics), "text-ranking")
    assert {"sentence-transformers", "miner"} <= set(values["tags"])


@pytest.mark.parametrize("metrics", ALL, ids=lambda metrics: metrics.what)
def test_a_local_base_is_not_named_to_hubs(
    metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "adapted").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for base in ("models/adapted", str(tmp_path / "elsewhere"), "bundled"):
        assert "base_model" not in front_matter(card("my-model", replace(metrics, base=base)))


@pytest.mark.parametrize("metrics", ALL, ids=lambda metrics: metrics.what)
def test_names_are_quoted(metrics: Metrics) -> None:
    text = card('it\'s "mine": yes', replace(metrics, base="org/a: b # c\n- evil: 1"))
    assert front_matter(text)["base_model"] == "org/a: b # c\n- evil: 1"
    assert "\n- evil" not in text.split("---\n", 2)[2]
    command = "--reranker" if isinstance(metrics, RerankerMetrics) else "--encoder"
    assert f"""    miner mine STORE {command} 'it'"'"'s "mine": yes'\n""" in text
    assert '("it\'s \\"mine\\": yes")' in text


def test_a_setting_does_not_break_its_table() -> None:
    config = {**ENCODER.config, "query_prompt": "a | b\nc"}
    assert "| query_prompt | a \\| b\\nc |\n" in card("m", replace(ENCODER, config=config))


def test_the_figures_are_in_the_cards() -> None:
    assert "| 0 | 0.2500 |\n| 7 (kept) | 0.5000 |" in card("m", ENCODER)
    assert "5 documents, 2 queries, no relevance judgments; queries judged in split `test`" in card(
        "m", PRETRAINED
    )
    text = card("m", RERANKER)
    assert "held-out queries: **0.7500**\n(random order: 0.2500)" in text
    assert "| positives, of 8 queries of split `train` | 9 |" in text
    folds = replace(RERANKER, config={**RERANKER.config, "folds": 2})
    assert "Each folder `fold-0` to `fold-1` is a sentence-transformers CrossEncoder by itself." in card(
        "m", folds
    )


@pytest.mark.parametrize("metrics", ALL, ids=lambda metrics: metrics.what)
def test_metrics_are_read_as_they_were_written(metrics: Metrics) -> None:
    again = type(metrics).parse(json.loads(metrics.json()))
    assert json.loads(json.dumps(asdict(again))) == json.loads(json.dumps(asdict(metrics)))
