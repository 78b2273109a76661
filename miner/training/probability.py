"""Calibration: scores that are probabilities, measured on pairs that no model was trained on.

Platt scaling (Platt 1999): the logit becomes slope · logit + intercept, fitted by maximum likelihood.
The slope is above 0, so the order of the scores stays.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FEWEST = 50
"""Held-out pairs below which nothing is fitted."""
BINS = 10
FOLDS = 5
"""Parts of the held-out queries: each is measured with a scaling that was fitted on the others."""
_FLATTEST = 1e-3
"""The least slope, per standard deviation of the logits: below it scores say nothing of relevance."""


@dataclass(frozen=True)
class Scaling:
    """What becomes of a logit: slope · logit + intercept."""

    slope: float
    intercept: float

    def __call__(self, logits: Floats) -> Floats:
        """Returns the scaled logits."""
        return self.slope * logits + self.intercept


@dataclass(frozen=True)
class Sample:
    """Held-out pairs as one model sees them."""

    logits: Floats
    positive: Flags
    query: npt.NDArray[Any]
    """Whose pair it is: pairs of one query stay together."""


@dataclass(frozen=True)
class Calibration:
    """What was fitted, and what it is worth; `reason` says why when nothing was."""

    pairs: int
    positives: int
    reason: str | None = None
    scalings: Sequence[Scaling] = ()
    """Per model."""
    brier: tuple[float, float] | None = None
    """Mean squared error of the probabilities (Brier 1950) before and after, on pairs not fitted on."""
    calibration_error: tuple[float, float] | None = None
    """Expected calibration error before and after, on pairs not fitted on."""
    table: Sequence[tuple[int, float, float]] = ()
    """Reliability after: per bin its pairs, their mean probability, the share of positives."""

    def values(self) -> dict[str, Any]:
        """Returns the fields as JSON-able values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def calibrate(samples: Sequence[Sample]) -> Calibration:
    """Returns a scaling for each model, measured by cross-fitting over query folds.

    All models are scaled or none: their scores are compared with each other. None is when a sample
    has fewer than 50 pairs, lacks a class, or does not score positives higher.
    """
    sizes = sum(len(s.logits) for s in samples), sum(int(s.positive.sum()) for s in samples)
    parts = [(fit(s.logits, s.positive), cross_fitted(s)) for s in samples]
    scalings = [scaling for scaling, _ in parts if scaling]
    after = [logits for _, logits in parts if logits is not None]
    if len(scalings) < len(samples) or len(after) < len(samples) or not samples:
        return Calibration(*sizes, reason=_reason(samples))
    positive = np.concatenate([s.positive for s in samples])
    pair = tuple(sigmoid(np.concatenate(side)) for side in ([s.logits for s in samples], after))
    return Calibration(
        *sizes,
        scalings=scalings,
        brier=(brier_score(pair[0], positive), brier_score(pair[1], positive)),
        calibration_error=(calibration_error(pair[0], positive), calibration_error(pair[1], positive)),
        table=reliability(pair[1], positive),
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
    """Returns the scaling of greatest likelihood, or None where there is none worth having.

    Platt's targets, (n + 1) / (n + 2) and 1 / (n + 2) in place of 1 and 0, keep it finite where
    the classes do not overlap (Platt 1999; Lin, Lin & Weng 2007).
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
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(_FLATTEST, None), (None, None)])
    slope, intercept = (float(value) for value in found.x)
    if slope <= _FLATTEST * 1.01 or not np.isfinite(found.x).all():
        return None
    return Scaling(slope / spread, intercept - slope * middle / spread)


def cross_fitted(sample: Sample) -> Floats | None:
    """Returns each pair's logit, scaled by what was fitted on other queries; None where that fails."""
    owners = np.unique(sample.query, return_inverse=True)[1]
    number = int(owners.max()) + 1 if len(owners) else 0
    folds = min(FOLDS, number)
    if folds < 2:
        return None
    fold = (np.random.default_rng(0).permutation(number) % folds)[owners]
    scaled = np.empty_like(sample.logits)
    for part in range(folds):
        held = fold == part
        scaling = fit(sample.logits[~held], sample.positive[~held])
        if scaling is None:
            return None
        scaled[held] = scaling(sample.logits[held])
    return scaled


def brier_score(probability: Floats, positive: Flags) -> float:
    """Returns the mean squared difference of probability and outcome (Brier 1950): 0 is perfect."""
    return float(np.mean((probability - positive) ** 2))


def calibration_error(probability: Floats, positive: Flags, bins: int = BINS) -> float:
    """Returns the expected calibration error over bins of equal size (Nixon et al. 2019).

    The mean over pairs of |mean probability - share of positives| in the pair's bin.
    """
    table = reliability(probability, positive, bins)
    return sum(pairs * abs(mean - share) for pairs, mean, share in table) / max(1, len(probability))


def reliability(probability: Floats, positive: Flags, bins: int = BINS) -> list[tuple[int, float, float]]:
    """Returns per bin of equal size its pairs, their mean probability, the share of positives."""
    order = np.argsort(probability, kind="stable")
    return [
        (len(part), float(probability[part].mean()), float(positive[part].mean()))
        for part in np.array_split(order, bins)
        if len(part)
    ]
