"""Makes a reranker's scores probabilities, and measures them on pairs that no model was trained on.

Platt scaling (Platt 1999): the logit becomes slope · logit + intercept, fitted by maximum likelihood. The
slope is above 0, so that the order of the scores stays. The scaling is written into the model's last layer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.engine.progress import Progress
from miner.models.device import resolve_device, resolve_dtype
from miner.models.names import resolve
from miner.models.quiet import quietly
from miner.models.reranker import PairScorer
from miner.training.reranker_config import RerankerConfig

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FEWEST = 50
"""The fewest held-out pairs that a scaling is fitted on."""
BINS = 10
FOLDS = 5
"""The number of parts of the held-out queries; each part is measured with a scaling fitted on the others."""
_FLATTEST = 1e-3
"""The least slope per standard deviation of the logits: below it, scores do not depend on relevance."""


@dataclass(frozen=True)
class Scaling:
    """The map of a logit to slope · logit + intercept."""

    slope: float
    intercept: float

    def __call__(self, logits: Floats) -> Floats:
        """Returns the scaled logits."""
        return self.slope * logits + self.intercept


@dataclass(frozen=True)
class Sample:
    """Held-out pairs with the logits of one model."""

    logits: Floats
    positive: Flags
    query: npt.NDArray[Any]
    """The query of each pair: pairs of one query stay together."""


@dataclass(frozen=True)
class FittedProbabilities:
    """The scalings and their errors, or the reason why nothing was fitted."""

    pairs: int
    positives: int
    reason: str | None = None
    scalings: Sequence[Scaling] = ()
    """One per model."""
    brier: tuple[float, float] | None = None
    """Mean squared error of the probabilities (Brier 1950) before and after, on pairs not fitted on."""
    calibration_error: tuple[float, float] | None = None
    """Expected calibration error before and after, on pairs not fitted on."""
    table: Sequence[tuple[int, float, float]] = ()
    """Reliability after scaling: per bin its pairs, their mean probability, the share of positives."""

    def values(self) -> dict[str, Any]:
        """Returns the fields as JSON-able values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def fit_probabilities(samples: Sequence[Sample]) -> FittedProbabilities:
    """Returns a scaling for each model, measured by cross-fitting over query folds.

    Either all models are scaled or none, because their scores are compared with each other. None is scaled if
    a sample has fewer than 50 pairs, lacks a class, or does not score positives higher.
    """
    sizes = sum(len(s.logits) for s in samples), sum(int(s.positive.sum()) for s in samples)
    parts = [(fit(s.logits, s.positive), cross_fitted(s)) for s in samples]
    scalings = [scaling for scaling, _ in parts if scaling]
    after = [logits for _, logits in parts if logits is not None]
    if len(scalings) < len(samples) or len(after) < len(samples) or not samples:
        return FittedProbabilities(*sizes, reason=_reason(samples))
    positive = np.concatenate([s.positive for s in samples])
    before = sigmoid(np.concatenate([s.logits for s in samples]))
    scaled = sigmoid(np.concatenate(after))
    return FittedProbabilities(
        *sizes,
        scalings=scalings,
        brier=(brier_score(before, positive), brier_score(scaled, positive)),
        calibration_error=(calibration_error(before, positive), calibration_error(scaled, positive)),
        table=reliability(scaled, positive),
    )


def _reason(samples: Sequence[Sample]) -> str:
    smallest = min((len(s.logits) for s in samples), default=0)
    if smallest < FEWEST:
        return f"{smallest} held-out pairs, at least {FEWEST} are needed"
    if not all(np.isfinite(s.logits).all() for s in samples):
        return "some held-out pairs have no finite score"
    if any(s.positive.all() or not s.positive.any() for s in samples):
        return "the held-out pairs are all positives or all negatives"
    if any(fit(s.logits, s.positive) is None for s in samples):
        return "held-out positives do not score higher than negatives"
    return "too few held-out queries to measure it"


def sigmoid(logits: Floats) -> Floats:
    """Returns the probabilities of logits."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))


def fit(logits: Floats, positive: Flags) -> Scaling | None:
    """Returns the scaling of greatest likelihood; None if there is none with a slope above 0.

    Platt's targets, (n + 1) / (n + 2) and 1 / (n + 2) instead of 1 and 0, keep it finite if the classes do
    not overlap (Platt 1999; Lin, Lin & Weng 2007). scikit-learn has this fit only in private code, without a
    bound on the slope.
    """
    from scipy.optimize import minimize

    good, spread = int(positive.sum()), float(np.std(logits)) if len(logits) else 0.0
    bad = len(positive) - good
    if len(logits) < FEWEST or not good or not bad or not np.isfinite(spread) or spread < 1e-9:
        return None
    middle = float(np.mean(logits))
    standard = (logits - middle) / spread
    target = np.where(positive, (good + 1) / (good + 2), 1 / (bad + 2))

    def loss(values: Floats) -> tuple[float, Floats]:
        """Returns the mean cross-entropy and its gradient."""
        scaled = values[0] * standard + values[1]
        error = sigmoid(scaled) - target
        value = np.mean(np.logaddexp(0, scaled) - target * scaled)
        return float(value), np.array([np.mean(error * standard), np.mean(error)])

    start = np.array([1.0, np.log((good + 1) / (bad + 1))])
    least = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(_FLATTEST, None), (None, None)])
    slope, intercept = (float(value) for value in least.x)
    if slope <= _FLATTEST * 1.01 or not np.isfinite(least.x).all():
        return None
    return Scaling(slope / spread, intercept - slope * middle / spread)


def cross_fitted(sample: Sample) -> Floats | None:
    """Returns each pair's logit, scaled by a fit on other queries; None if a fit fails."""
    owners = np.unique(sample.query, return_inverse=True)[1]
    number = int(owners.max()) + 1 if len(owners) else 0
    folds = min(FOLDS, number)
    if folds < 2:
        return None
    fold = (np.random.default_rng(0).permutation(number) % folds)[owners]
    scaled = np.empty_like(sample.logits)
    for part in range(folds):
        inside = fold == part
        scaling = fit(sample.logits[~inside], sample.positive[~inside])
        if scaling is None:
            return None
        scaled[inside] = scaling(sample.logits[inside])
    return scaled


def brier_score(probability: Floats, positive: Flags) -> float:
    """Returns the mean squared difference of probability and outcome (Brier 1950): 0 is perfect."""
    from sklearn.metrics import brier_score_loss

    return float(brier_score_loss(positive, probability))


def calibration_error(probability: Floats, positive: Flags, bins: int = BINS) -> float:
    """Returns the expected calibration error over bins of equal size (Nixon et al. 2019).

    The mean over pairs of |mean probability - share of positives| in the pair's bin.
    """
    table = reliability(probability, positive, bins)
    return sum(pairs * abs(mean - share) for pairs, mean, share in table) / max(1, len(probability))


def reliability(probability: Floats, positive: Flags, bins: int = BINS) -> list[tuple[int, float, float]]:
    """Returns per bin of equal size its pairs, their mean probability, the share of positives.

    scikit-learn's calibration_curve puts equal probabilities into one bin, so its bins can differ in size.
    """
    order = np.argsort(probability, kind="stable")
    return [
        (len(part), float(probability[part].mean()), float(positive[part].mean()))
        for part in np.array_split(order, bins)
        if len(part)
    ]


PairTexts = tuple[Sequence[str], Sequence[str]]
"""The queries and the documents of pairs."""

_PROBES = 32
"""The number of pairs on which a scaled model is checked."""
_TOLERANCE = 1e-4


def pair_logits(folder: Path, texts: PairTexts, config: RerankerConfig, progress: Progress) -> Floats:
    """Returns the logit of each pair, computed in the way the reranker in `folder` computes scores."""
    if not texts[0]:
        return np.empty(0, dtype=np.float64)
    scorer = PairScorer(_bare(folder, config), resolve_dtype(config.dtype, resolve_device()))
    return scorer.score(*texts, config.threads, progress)[0]


def write_scaled(folder: Path, out: Path, scaling: Scaling, texts: PairTexts, config: RerankerConfig) -> bool:
    """Writes the model in `folder` to `out` with scaled logits; its score is their sigmoid.

    Returns whether the written model gives the expected logits for the first pairs. Returns False and writes
    nothing if the model has no last layer with one output.
    """
    import torch

    model = _bare(folder, config)
    head = _last_layer(model)
    if head is None:
        return False
    probes = [list(pair) for pair in zip(*texts, strict=True)][:_PROBES]
    with quietly():
        expected = scaling(_logits(model, probes))
        with torch.no_grad():
            head.weight.mul_(scaling.slope)
            head.bias.mul_(scaling.slope).add_(scaling.intercept)
        model.activation_fn = torch.nn.Sigmoid()
        model.save_pretrained(str(out), create_model_card=False)
    written = _logits(_bare(out, config), probes)
    return bool(np.allclose(written, expected, rtol=_TOLERANCE, atol=_TOLERANCE))


def _bare(folder: Path, config: RerankerConfig) -> Any:
    """Loads a trained model without its activation: its scores are logits."""
    import torch

    from miner.training.reranker_trainer import load_base

    with quietly():
        model = load_base(resolve(str(folder)), config)
    model.activation_fn = torch.nn.Identity()
    return model


def _last_layer(model: Any) -> Any:
    """The last linear layer, if it has one output and a bias."""
    import torch

    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    if not linear or linear[-1].out_features != 1 or linear[-1].bias is None:
        return None
    return linear[-1]


def _logits(model: Any, pairs: list[list[str]]) -> Floats:
    return np.asarray(model.predict(pairs, show_progress_bar=False), dtype=np.float64)
