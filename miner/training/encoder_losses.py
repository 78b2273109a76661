"""The library's loss of a training, and the combinations of loss, base and settings that it cannot train.

The variants are those of sentence-transformers: the directions of MultipleNegativesRankingLoss (InfoNCE,
Günther et al. 2023, Li et al. 2023), its weights of hard negatives (Lan et al. 2025), GISTEmbed (Solatorio
2024) with margins, MatryoshkaLoss (Kusupati et al. 2022), DistillKLDivLoss (Lin et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SimilarityFunction
from sentence_transformers.base.modules import Normalize, Router
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Transformer

from miner.errors import UsageError
from miner.models.similarity import COSINE, DOT, EUCLIDEAN, MANHATTAN
from miner.training.batches import MaskedSimilarity
from miner.training.encoder_config import GUIDED, EncoderConfig
from miner.training.examples import Examples

_SCALE = 1.0
"""The default factor of similarities other than the cosine."""
_DISTANCES = {
    COSINE: losses.TripletDistanceMetric.COSINE,
    EUCLIDEAN: losses.TripletDistanceMetric.EUCLIDEAN,
    MANHATTAN: losses.TripletDistanceMetric.MANHATTAN,
}
_HARDNESS = {"in-batch": "in_batch_negatives", "hard": "hard_negatives", "all": "all_negatives"}
_JOINT, _EACH = "joint", "per_direction"
_DIRECTIONS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "forward": (("query_to_doc",), _JOINT),
    "symmetric": (("query_to_doc", "doc_to_query"), _EACH),
    "all": (("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"), _JOINT),
}
"""The directions of a ranking, in the order in which the library computes their similarities."""


def similarity_of(model: SentenceTransformer) -> str:
    """Returns the similarity of a loaded model; the dot product of normalised vectors is their cosine."""
    named = str(model.similarity_fn_name)
    return COSINE if named == DOT and isinstance(list(model.children())[-1], Normalize) else named


def has_routes(model: SentenceTransformer) -> bool:
    """Returns whether a model has separate routes for queries and documents."""
    return any(isinstance(module, Router) for module in model)


def masked_similarity(model: SentenceTransformer, config: EncoderConfig) -> MaskedSimilarity:
    """Returns the similarity of a ranking loss, which follows its directions."""
    return MaskedSimilarity(similarity_of(model), _DIRECTIONS[config.directions][0])


def encoder_loss(
    model: SentenceTransformer,
    guide: SentenceTransformer | None,
    examples: Examples,
    config: EncoderConfig,
    masked: MaskedSimilarity,
) -> torch.nn.Module:
    """Returns the loss of a training; raises UsageError if it cannot train the base."""
    _require_trainable(model, guide, config)
    loss = _own_loss(model, guide, examples, config, masked)
    if not config.dimensions:
        return loss
    own = int(model.get_embedding_dimension() or 0)
    if max(config.dimensions) > own:
        raise UsageError(
            f"dimensions has {max(config.dimensions)}, but a vector of {config.base} has {own} numbers",
            f"name smaller ones: {own} itself is always trained",
        )
    return losses.MatryoshkaLoss(model, loss, sorted({own, *config.dimensions}, reverse=True))


def _own_loss(
    model: SentenceTransformer,
    guide: SentenceTransformer | None,
    examples: Examples,
    config: EncoderConfig,
    masked: MaskedSimilarity,
) -> torch.nn.Module:
    similarity = similarity_of(model)
    scale = config.scale if similarity == COSINE or config.scale != EncoderConfig.scale else _SCALE
    pairwise = SimilarityFunction.to_similarity_pairwise_fn(similarity)
    ranking, guiding = _ranking(config, scale, masked), _guiding(config)
    any_guide: Any = guide
    makers: dict[str, Callable[[], torch.nn.Module]] = {
        "mnr": lambda: losses.MultipleNegativesRankingLoss(model, **ranking),
        "cached-mnr": lambda: losses.CachedMultipleNegativesRankingLoss(
            model, mini_batch_size=config.mini_batch, **ranking
        ),
        "gist": lambda: losses.GISTEmbedLoss(model, any_guide, **guiding),
        "cached-gist": lambda: losses.CachedGISTEmbedLoss(
            model, any_guide, mini_batch_size=config.mini_batch, **guiding
        ),
        "cosine": lambda: losses.CosineSimilarityLoss(model),
        "softmax": lambda: losses.SoftmaxLoss(
            model, int(model.get_embedding_dimension() or 0), len(examples.classes)
        ),
        "triplet": lambda: losses.TripletLoss(model, _DISTANCES[similarity], triplet_margin=config.margin),
        "margin-mse": lambda: losses.MarginMSELoss(model, similarity_fct=pairwise),
        "distill": lambda: losses.DistillKLDivLoss(
            model,
            similarity_fct=pairwise,
            student_temperature=1 / scale,
            teacher_temperature=teacher_temperature(examples, config, scale),
        ),
    }
    try:
        return makers[config.loss]()
    except (ValueError, AttributeError) as error:
        raise UsageError(
            f"loss {config.loss} does not work with {config.base}: {error}", "choose another"
        ) from error


def _ranking(config: EncoderConfig, scale: float, masked: MaskedSimilarity) -> dict[str, Any]:
    """The arguments of the losses that rank a batch by the base's own similarity."""
    directions, partition = _DIRECTIONS[config.directions]
    return {
        "scale": scale,
        "similarity_fct": masked,
        "directions": directions,
        "partition_mode": partition,
        "hardness_mode": _HARDNESS[config.hardness] if config.hardness else None,
        "hardness_strength": config.strength,
    }


def _guiding(config: EncoderConfig) -> dict[str, Any]:
    """The arguments of the losses with a guide."""
    relative = config.guide_relative_margin is not None
    margin = config.guide_relative_margin if relative else config.guide_margin
    return {
        "temperature": 1 / config.scale,
        "margin_strategy": "relative" if relative else "absolute",
        "margin": margin or 0.0,
        "contrast_anchors": config.contrast,
        "contrast_positives": config.contrast,
    }


def teacher_temperature(examples: Examples, config: EncoderConfig, scale: float) -> float:
    """Returns what the teacher's scores are divided by.

    Scores from -1 to 1 are divided like the model's own similarities, so that equal scores are equal
    distributions; others are logits and stay as they are.
    """
    if config.teacher_temperature is not None:
        return config.teacher_temperature
    scores = [abs(score) for row in examples.target or () for score in row]
    return 1 / scale if max(scores, default=0) <= 1 else 1.0


def _require_trainable(
    model: SentenceTransformer, guide: SentenceTransformer | None, config: EncoderConfig
) -> None:
    """Raises UsageError if the loss cannot train the base's similarity or a model of its kind."""
    similarity = similarity_of(model)
    unable = {*GUIDED, "cosine"} | ({"triplet"} if similarity not in _DISTANCES else set())
    if similarity != COSINE and config.loss in unable:
        raise UsageError(
            f"loss {config.loss} does not train the similarity of {config.base}: {similarity}",
            "use loss mnr, which does, or a base that compares by cosine",
        )
    if similarity != COSINE and config.hardness:
        raise UsageError(
            f"hardness weighs cosines, but {config.base} compares by {similarity}",
            "leave hardness out, or use a base that compares by cosine",
        )
    if similarity != COSINE and config.dimensions:  # MatryoshkaLoss normalises all vectors
        raise UsageError(
            f"dimensions are trained by cosine, but {config.base} compares by {similarity}",
            "leave dimensions out, or use a base that compares by cosine",
        )
    models: dict[str, Any] = {"base": model, "guide": guide}
    for option in config.transformers:
        one = models[option]
        if one is not None and has_routes(one):
            raise UsageError(
                f"loss {config.loss} does not take a model with routes for queries and documents (Router) "
                f"as {option}",
                "name another, such as bundled" + (", or use loss mnr" if option == "base" else ""),
            )
        if one is not None and not isinstance(one[0], Transformer):
            raise config.no_transformer(option)
