"""The last layer of a cross-encoder: its logits, and scaling them inside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miner.engine.progress import Progress
from miner.models.device import resolve_device, resolve_dtype
from miner.models.names import resolve
from miner.models.quiet import quietly
from miner.models.reranker import PairScorer
from miner.training.probability import Floats, Scaling
from miner.training.reranker_config import RerankerConfig

Texts = tuple[Sequence[str], Sequence[str]]
"""The queries and the documents of pairs."""

_PROBES = 32
"""Pairs on which a scaled model is compared with what it should be."""
_TOLERANCE = 1e-4


def pair_logits(folder: Path, texts: Texts, config: RerankerConfig, progress: Progress) -> Floats:
    """Returns the logit of each pair, computed as the reranker in `folder` computes its scores."""
    if not texts[0]:
        return np.empty(0, dtype=np.float64)
    scorer = PairScorer(_bare(folder, config), resolve_dtype(config.dtype, resolve_device()))
    return scorer.score(*texts, config.threads, progress)[0]


def write_scaled(folder: Path, out: Path, scaling: Scaling, texts: Texts, config: RerankerConfig) -> bool:
    """Writes the model in `folder` to `out` with its logits scaled, so that a sigmoid of them is its score.

    Returns whether the logits of the first of the pairs are what they should be; False too, and
    nothing is written, when there is no last layer with one output to scale.
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
    found = _logits(_bare(out, config), probes)
    return bool(np.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE))


def _bare(folder: Path, config: RerankerConfig) -> Any:
    """Loads a trained model; its scores are logits."""
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
