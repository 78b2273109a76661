"""What an evaluation gives back: per-query values and means, and what models are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from miner.models.similarity import has_vector
from miner.reporting.readable import Readable
from miner.reporting.tables import text_table

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

TASKS = ("retrieval", "similarity", "labels", "reranking")


class Encode(Protocol):
    """Texts to vectors."""

    def __call__(self, texts: Sequence[str], role: str) -> Vectors:
        """Returns the float32 vectors of `texts`, shape (len(texts), dimension), in their order.

        Their length is 1 where they are compared by cosine. A text without a vector has a row of NaN.
        `role` is `query` or `document`: which of the model's prompts, and of its routes, to use.
        """
        ...


@dataclass(frozen=True)
class Graded:
    """Pairs with a score from people and one from the model, in the order of `Evaluation.ids`."""

    gold: Floats
    predicted: Floats
    """Similarities; NaN where the model has no vector for one of the two texts."""


@dataclass(frozen=True, repr=False)
class Evaluation(Readable):
    """What one model reached on one task."""

    task: str
    """One of TASKS."""
    ids: tuple[str, ...]
    """Query ids, sorted; for similarity `query_id doc_id`, sorted by these."""
    values: Mapping[str, Floats]
    """Per measure that is a mean: one value per id."""
    means: Mapping[str, float]
    """Every measure, the most telling one first."""
    documents: int = 0
    """How many documents were ranked."""
    graded: Graded | None = field(default=None, repr=False)
    """Similarity: what its measures are computed from."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Retrieval and reranking: documents that are `copies` of others and count as one with them, and pairs
    that are not ranked, for each reason of `store.corpus.UNRANKED` that occurs."""
    chance: float | None = None
    """Labels: the share of documents that have the query's label, what a model without sense reaches."""
    unscored: Mapping[str, int] = field(default_factory=dict)
    """How many queries, documents or pairs the model has no vector or score for; without those of 0."""
    constant: str | None = None
    """If the model gives everything the same vector or score: a clause that says so, to follow its name."""

    def as_text(self) -> str:
        """Returns the measures in aligned columns."""
        rows = [[name, f"{value:.4f}"] for name, value in self.means.items()]
        return "\n".join([f"{self.task}, {len(self.ids):,} queries or pairs", *text_table(rows)])

    def __repr__(self) -> str:
        return f"Evaluation({self.task}: {self.headline} {self.means[self.headline]:.4f})"

    @property
    def headline(self) -> str:
        """The name of the measure that stands for the task."""
        return next(iter(self.means))


def from_values(
    task: str,
    ids: Sequence[str],
    values: Mapping[str, Floats],
    documents: int,
    chance: float | None = None,
    unscored: Mapping[str, int] | None = None,
) -> Evaluation:
    """Returns measures that are means of their values per query."""
    means = {name: float(np.mean(column)) for name, column in values.items()}
    gaps = {name: number for name, number in (unscored or {}).items() if number}
    return Evaluation(task, tuple(ids), dict(values), means, documents, chance=chance, unscored=gaps)


def unscored(**vectors: Vectors) -> dict[str, int]:
    """Returns how many rows of each matrix are no vectors."""
    return {name: int((~has_vector(rows)).sum()) for name, rows in vectors.items()}
