"""Recipes that others published, by name, each with its source: what `--config NAME` reads instead of a file.

A recipe has only what its source says, as settings of `mine`, `decide` and `train`; the user names models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.errors import UsageError

_LIBRARY = "sentence-transformers 6.2"
_DENSE = ("encoder", "vectors", "candidates", "reranker")
_RANKING = f"as documented in MultipleNegativesRankingLoss of {_LIBRARY}"


@dataclass(frozen=True)
class PublishedRecipe:
    """Settings that others published."""

    summary: str
    source: str
    """Who published them, where, and in which version."""
    tables: Mapping[str, Mapping[str, Any]]
    """The settings, by the table of a recipe: `rules`, `selection`, `training`."""
    needs: str = ""
    """What the user has to name besides."""
    scorers: tuple[str, ...] = ()
    """Settings of `mine` of which it needs one, so that BM25 alone does not decide; empty if it may."""


PUBLISHED: Mapping[str, PublishedRecipe] = {
    "nv-retriever": PublishedRecipe(
        "TopK-PercPos (95 %): the best candidates that score below 95 % of the positive",
        f"Moreira et al. 2024, arXiv 2407.15831; as documented in mine_hard_negatives of {_LIBRARY}",
        {"rules": {"relative_margin": 0.05}, "selection": {"strategy": "top"}},
        "a strong encoder, as the teacher: --encoder MODEL",
        _DENSE,
    ),
    "sentence-transformers-example": PublishedRecipe(
        "ranks 11 to 50, scores to 0.8, below 95 % of the positive, 5 at random",
        f"the example in the documentation of mine_hard_negatives of {_LIBRARY}",
        {
            "rules": {"skip_top": 10, "max_rank": 50, "max_score": 0.8, "relative_margin": 0.05},
            "selection": {"strategy": "random", "negatives": 5},
        },
        "an encoder that compares by cosine: --encoder MODEL --no-bm25",
        _DENSE,
    ),
    "msmarco-v3": PublishedRecipe(
        "a cross-encoder's score at least 3 below the lowest positive's; one positive of a query per epoch",
        "train_msmarco_v3.py of BEIR (commit 46141ea), after train_bi-encoder-v3.py of "
        "sentence-transformers; there up to 5 negatives of each of several retrievers",
        {
            "rules": {"reference_positive": "lowest", "absolute_margin": 3.0},
            "selection": {"strategy": "top", "negatives": 5},
            "training": {"loss": "mnr", "epoch_positives": "one"},
        },
        "a reranker whose scores are logits, not probabilities: --reranker MODEL",
        ("reranker", "candidates"),
    ),
    "simans": PublishedRecipe(
        "negatives drawn by exp(-a (score - positive's score)²): those near the positive",
        "Zhou et al., EMNLP 2022, arXiv 2210.11773; README of SimANS in microsoft/SimXNS (commit 13dfd55), "
        "which has b = 0 and leaves a to the scale of the scores",
        {
            "rules": {"relative_margin": "none"},
            "selection": {"strategy": "ambiguous", "ambiguous_b": 0.0},
        },
        "ambiguous_a for scores other than logits: 1, the default, is nearly uniform for cosines",
    ),
    "gistembed": PublishedRecipe(
        "a guide masks what it scores above the positive; temperature 0.01, anchors and positives ranked too",
        f"Solatorio 2024, arXiv 2402.16829; defaults of GISTEmbedLoss of {_LIBRARY}",
        {"training": {"loss": "gist", "scale": 100.0}},
        "a guide: --set guide=MODEL",
    ),
    "embeddinggemma": PublishedRecipe(
        "a row's negatives weighed by their hardness, strength 5",
        f"Schechter Vera et al. 2025, arXiv 2509.20354; {_RANKING}",
        {"training": {"loss": "mnr", "hardness": "hard", "hardness_strength": 5.0}},
    ),
    "llave": PublishedRecipe(
        "the negatives of the batch weighed by their hardness, strength 9",
        f"Lan et al. 2025, arXiv 2503.04812; {_RANKING}",
        {"training": {"loss": "mnr", "hardness": "in-batch", "hardness_strength": 9.0}},
    ),
    "gte": PublishedRecipe(
        "documents and anchors ranked for both, in one softmax",
        f"Li et al. 2023, arXiv 2308.03281; {_RANKING}",
        {"training": {"loss": "mnr", "directions": "all"}},
    ),
    "jina-v2": PublishedRecipe(
        "documents ranked for anchors and anchors for positives, the mean of both",
        f"Günther et al. 2024, arXiv 2310.19923; {_RANKING}",
        {"training": {"loss": "mnr", "directions": "symmetric"}},
    ),
}
"""The published recipes by name."""


def require_scorer(recipe: Path | None, config: object) -> None:
    """Raises UsageError if a published recipe needs a scorer that a configuration of `mine` does not name.

    A file of the same name is not the published recipe.
    """
    known = PUBLISHED.get(str(recipe))
    if recipe is None or known is None or recipe.exists() or not known.scorers:
        return
    if not any(getattr(config, name) for name in known.scorers):
        raise UsageError(
            f"the published recipe {recipe} needs {known.needs}",
            "name one: without it, other scores decide than those that the recipe is about",
        )
