"""Scores become probabilities: their order stays, and nothing is fitted on too few pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.engine.progress import SILENT
from miner.models.reranker import Reranker
from miner.training.probability import (
    Floats,
    Sample,
    Scaling,
    brier_score,
    calibration_error,
    cross_fitted,
    fit,
    fit_probabilities,
    pair_logits,
    reliability,
    sigmoid,
    write_scaled,
)
from miner.training.reranker import train_reranker
from miner.training.reranker_config import RerankerConfig
from tests.test_training_reranker import fill
from tests.tiny import tiny_bert

SLOPES = st.floats(0.1, 8)
INTERCEPTS = st.floats(-3, 3)
SEEDS = st.integers(0, 2**32 - 1)


def simulated(seed: int, slope: float, intercept: float, pairs: int = 4000) -> Sample:
    """Pairs whose probability of being positive is the sigmoid of slope · logit + intercept."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=pairs) * 2 / slope - intercept / slope
    positive = rng.random(pairs) < sigmoid(slope * logits + intercept)
    return Sample(logits, positive, np.arange(pairs) // 5)


def log_loss(logits: Floats, positive: Floats) -> float:
    return float(np.mean(np.logaddexp(0, logits) - positive * logits))


@given(SEEDS, SLOPES, INTERCEPTS)
@settings(max_examples=25)
def test_it_recovers_the_scaling_that_made_the_data(seed: int, slope: float, intercept: float) -> None:
    sample = simulated(seed, slope, intercept)
    scaling = fit(sample.logits, sample.positive)
    assert scaling is not None
    assert scaling.slope == pytest.approx(slope, rel=0.25)
    assert scaling(np.array([-intercept / slope]))[0] == pytest.approx(0, abs=0.35)


@given(SEEDS, SLOPES, INTERCEPTS)
@settings(max_examples=25)
def test_held_out_log_loss_never_suffers(seed: int, slope: float, intercept: float) -> None:
    sample = simulated(seed, slope, intercept)
    scaled = cross_fitted(sample)
    assert scaled is not None
    assert log_loss(scaled, sample.positive) <= log_loss(sample.logits, sample.positive) + 0.005


@given(SEEDS, st.lists(st.floats(-30, 30), min_size=2, max_size=40))
@settings(max_examples=25)
def test_the_order_stays(seed: int, logits: list[float]) -> None:
    sample = simulated(seed, 0.4, 1.0, 400)
    scaling = fit(sample.logits, sample.positive)
    assert scaling is not None
    assert scaling.slope > 0
    ordered = np.sort(np.array(logits))
    assert (np.diff(scaling(ordered)) >= 0).all()


def test_an_overconfident_model_is_tempered_and_measured() -> None:
    sample = simulated(3, 0.25, -1.0)
    found = fit_probabilities([sample])
    assert found.reason is None
    assert found.brier is not None
    assert found.calibration_error is not None
    assert found.brier[1] < found.brier[0]
    assert found.calibration_error[0] > 0.1
    assert found.calibration_error[1] < 0.03
    assert sum(pairs for pairs, _, _ in found.table) == found.pairs == 4000
    assert len(found.table) == 10
    assert all(abs(mean - share) < 0.1 for _, mean, share in found.table)


def test_separable_classes_stay_finite() -> None:
    logits = np.concatenate([np.linspace(-9, -5, 60), np.linspace(5, 9, 20)])
    scaling = fit(logits, logits > 0)
    assert scaling is not None
    assert np.isfinite([scaling.slope, scaling.intercept]).all()
    assert 0.95 < sigmoid(scaling(np.array([9.0])))[0] < 1


def test_measures_are_the_papers() -> None:
    probability, positive = np.array([0.1, 0.3, 0.6, 0.8]), np.array([False, False, False, True])
    assert brier_score(probability, positive) == pytest.approx((0.01 + 0.09 + 0.36 + 0.04) / 4)
    assert calibration_error(probability, positive, 2) == pytest.approx((0.2 + 0.2) / 2)
    assert reliability(probability, positive, 2) == [
        (2, pytest.approx(0.2), 0.0),
        (2, pytest.approx(0.7), 0.5),
    ]
    assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (simulated(1, 1, 0, 49), "49 held-out pairs, at least 50 are needed"),
        (simulated(1, 1, 0, 0), "0 held-out pairs, at least 50 are needed"),
        (
            replace(simulated(1, 1, 0, 200), positive=np.ones(200, dtype=np.bool_)),
            "the held-out pairs are all positives or all negatives",
        ),
        (
            replace(simulated(1, 1, 0, 200), logits=np.zeros(200)),
            "held-out positives do not score higher than negatives",
        ),
        (
            replace(simulated(1, 1, 0, 200), logits=-simulated(1, 1, 0, 200).logits),
            "held-out positives do not score higher than negatives",
        ),
        (
            replace(simulated(1, 1, 0, 200), query=np.zeros(200)),
            "too few held-out queries to measure it",
        ),
    ],
)
def test_scores_that_cannot_be_probabilities_say_why(sample: Sample, reason: str) -> None:
    found = fit_probabilities([sample])
    assert found.reason == reason
    assert not found.scalings
    both = fit_probabilities([simulated(1, 1, 0, 500), sample])
    assert not both.scalings, "all models or none"


def test_the_scaling_goes_into_the_weights(tmp_path: Path) -> None:
    config = RerankerConfig(dtype="fp32")
    model = tiny_bert(tmp_path / "raw", labels=1)
    texts = ["what is moss", "who sang"], ["a plant", "indeed a bird"]
    before = pair_logits(model, texts, config, SILENT)
    assert write_scaled(model, tmp_path / "scaled", Scaling(2.5, -0.75), texts, config)
    after = pair_logits(tmp_path / "scaled", texts, config, SILENT)
    np.testing.assert_allclose(after, 2.5 * before - 0.75, atol=1e-4)
    scores = Reranker(str(tmp_path / "scaled"), dtype="fp32").score(*texts)
    np.testing.assert_allclose(scores, sigmoid(2.5 * before - 0.75), atol=1e-5)


def test_an_own_activation_gives_way_to_the_sigmoid(tmp_path: Path) -> None:
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(tiny_bert(tmp_path / "tiny", labels=1)), activation_fn=torch.nn.Identity())
    model.save_pretrained(str(tmp_path / "raw"))
    config, texts = RerankerConfig(dtype="fp32"), (["what is moss"], ["a plant"])
    assert Reranker(str(tmp_path / "raw"), dtype="fp32").score(*texts)[0] == pytest.approx(
        pair_logits(tmp_path / "raw", texts, config, SILENT)[0], abs=1e-5
    )
    assert write_scaled(tmp_path / "raw", tmp_path / "scaled", Scaling(1.5, 0.5), texts, config)
    logit = pair_logits(tmp_path / "scaled", texts, config, SILENT)
    score = Reranker(str(tmp_path / "scaled"), dtype="fp32").score(*texts)
    np.testing.assert_allclose(score, sigmoid(logit), atol=1e-5)


@pytest.mark.slow
def test_a_trained_reranker_gives_probabilities_and_says_so(tmp_path: Path) -> None:
    base = tiny_bert(tmp_path / "base", initializer_range=0.05)
    config = RerankerConfig(
        base=str(base), epochs=2, batch_size=16, learning_rate=5e-3, skip_top=3, depth=40, held_out=0.4,
        dtype="fp32",  # bf16 rounds near logits to one score, which moves the average precision
    )  # fmt: skip
    with fill(tmp_path / "store.duckdb") as store:
        raw = train_reranker(store, tmp_path / "raw", replace(config, probabilities=False))
        report = train_reranker(store, tmp_path / "out", config)
        folds = train_reranker(store, tmp_path / "folds", replace(config, folds=2, epochs=5))
        few = train_reranker(store, tmp_path / "few", replace(config, held_out=0.0, max_steps=1))
    assert raw.metrics.probabilities is None
    assert report.model != raw.model
    reported = report.metrics.probabilities
    assert reported is not None
    assert reported["reason"] is None
    assert reported["pairs"] == report.metrics.held_out_pairs
    scaling = Scaling(**reported["scalings"][0])
    texts = ["what about moss"] * 2, ["indeed yes 3 part 1", "perhaps moss was copper"]
    old = pair_logits(raw.out, texts, config, SILENT)
    new = pair_logits(report.out, texts, config, SILENT)
    np.testing.assert_allclose(new, scaling(old), rtol=1e-3, atol=1e-3)
    assert report.metrics.average_precision == pytest.approx(raw.metrics.average_precision, abs=0.01)
    card = (report.out / "README.md").read_text("utf-8")
    assert "(1 judged positive : 4 mined :" in card
    assert f"| Brier score | {reported['brier'][0]:.4f} | {reported['brier'][1]:.4f} |" in card
    both = folds.metrics.probabilities
    assert both is not None
    assert both["reason"] is None
    assert len(both["scalings"]) == 2
    assert both["pairs"] == 560, "every query has a fold whose model never trained on it"
    assert few.metrics.probabilities is not None
    assert few.metrics.probabilities["reason"] == "0 held-out pairs, at least 50 are needed"
    assert (
        "is not a probability: 0 held-out pairs, at least 50 are needed."
        in (few.out / "README.md").read_text()
    )
