"""The result of an evaluation: values per query and their means; and how a task asks for vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from miner.arrays import Matrix
from miner.errors import counted
from miner.models.similarity import gaps
from miner.reporting.readable import Readable
from miner.reporting.tables import percent, text_table

Floats = npt.NDArray[np.float64]

TASKS = ("retrieval", "similarity", "labels", "reranking")


class Encode(Protocol):
    """A function from texts to vectors."""

    def __call__(self, texts: Sequence[str], role: str) -> Matrix:
        """Returns the float32 vectors of `texts`, shape (len(texts), dimension), in their order.

        They are an array, or are read in pieces. Vectors that are compared by cosine have length 1. A text
        without a vector has a row of NaN. `role` is `query` or `document`: it selects the model's prompt and
        route.
        """
        ...


@dataclass(frozen=True)
class Graded:
    """The people's score and the model's similarity of each pair, in the order of `Evaluation.ids`."""

    gold: Floats
    predicted: Floats
    """Similarities; NaN if the model has no vector for one of the two texts."""


@dataclass(frozen=True, repr=False)
class Evaluation(Readable):
    """The measures of one model on one task."""

    task: str
    """One of TASKS."""
    ids: tuple[str, ...]
    """Query ids, sorted; for similarity `query_id doc_id`, sorted by these."""
    values: Mapping[str, Floats]
    """One value per id for every measure that is a mean over queries."""
    means: Mapping[str, float]
    """Every measure, the most informative one first."""
    documents: int = 0
    """How many documents were ranked."""
    graded: Graded | None = field(default=None, repr=False)
    """Similarity only: the scores that the measures are computed from."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Retrieval and reranking: how many documents are `copies` of another and are ranked as one with it, and
    how many pairs are not ranked, for each reason of `store.corpus.UNRANKED` that occurs."""
    chance: float | None = None
    """Labels only: the share of documents with the query's label, which a random ranking reaches."""
    unscored: Mapping[str, int] = field(default_factory=dict)
    """How many queries, documents or pairs have no vector or score; names whose number is 0 are left out."""
    constant: str | None = None
    """If all vectors or scores are the same: a clause that says so and continues the model's name."""

    def as_text(self) -> str:
        """Returns the task and a table of the measures."""
        rows = [[name, f"{value:.4f}"] for name, value in self.means.items()]
        return "\n".join([self.about, *text_table(rows)])

    def __repr__(self) -> str:
        return f"Evaluation({self.task}: {self.headline} {self.means[self.headline]:.4f})"

    @property
    def about(self) -> str:
        """The task and its size, such as `retrieval, 20 queries, 300 documents`."""
        if self.task == "similarity":
            return f"similarity, {counted(len(self.ids), 'pair')}"
        documents = counted(self.documents, "document")
        parts = [self.task, counted(len(self.ids), "query", "queries")]
        parts.append(f"BM25's candidates of {documents}" if self.task == "reranking" else documents)
        if self.chance is not None:
            parts.append(f"{percent(self.chance)} of them with the same label")
        return ", ".join(parts)

    @property
    def headline(self) -> str:
        """The name of the first measure, which represents the task."""
        return next(iter(self.means))


def from_values(
    task: str,
    ids: Sequence[str],
    values: Mapping[str, Floats],
    documents: int,
    chance: float | None = None,
    unscored: Mapping[str, int] | None = None,
) -> Evaluation:
    """Returns an evaluation whose measures are the means of `values` over the queries."""
    means = {name: float(np.mean(column)) for name, column in values.items()}
    gaps = {name: number for name, number in (unscored or {}).items() if number}
    return Evaluation(task, tuple(ids), dict(values), means, documents, chance=chance, unscored=gaps)


def unscored(**vectors: Matrix) -> dict[str, int]:
    """Returns for each matrix how many rows have no vector (NaN)."""
    return {name: gaps(rows) for name, rows in vectors.items()}
