"""The configuration of `miner train-reranker`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from miner.errors import UsageError
from miner.ranges import (
    BATCH,
    BELOW_1,
    COUNT,
    DEPTH,
    EPOCHS,
    RATE,
    known_keywords,
    require_one_of,
    whole,
    within,
)
from miner.training.training_config import TrainingConfig

BCE, LAMBDA, ADRMSE, MARGIN_MSE = "bce", "lambda", "adrmse", "margin-mse"
RERANKER_LOSSES = {
    BCE: "binary cross-entropy: each pair is a positive or a negative",
    LAMBDA: "LambdaLoss: each query's documents in the order of their labels, weighted as nDCG weighs ranks",
    ADRMSE: "ADR-MSE: each query's documents at the ranks of their labels",
    MARGIN_MSE: "MarginMSE: the difference between positive and negative approaches the teacher's",
}
"""The losses by their `--loss` names, and what a model learns from each."""
LISTWISE = (LAMBDA, ADRMSE)
"""The losses that read the documents of a query as one list."""


@known_keywords
@dataclass(frozen=True)
class RerankerConfig(TrainingConfig):
    """All settings of a training; UsageError for values out of range."""

    split: str = "train"
    """Train on the positives of this split."""
    loss: str = BCE
    """One of RERANKER_LOSSES."""
    teacher: str | None = None
    """lambda, adrmse, margin-mse: the reranker whose scores are the labels; None: the judgments' grades."""
    list_size: int = within(64, whole(2, 100_000))
    """lambda, adrmse: the most documents of a list; a query with more is divided into several lists, at most
    as many as it has positives."""
    base: str = "bundled"
    """The model to start from: hub id, folder or `bundled`. A model without a head gets a new, seeded one."""
    epochs: int = within(2, EPOCHS)
    """Average precision on 60 held-out queries of perspectrum, trained on 60 others: 1 epoch .592, 2 .650."""
    max_steps: int | None = within(None, COUNT)
    """Stop after this many batches, even before the epochs end."""
    batch_size: int = within(32, BATCH)
    """Pairs per batch; for lists and rows of positive and negative, as many as have about that many pairs."""
    learning_rate: float = within(5e-5, RATE)
    """The peak rate; it rises during the warm-up and falls linearly to 0. 1e-4 gave .562 in the same
    trial."""
    warmup: float = within(0.1, BELOW_1)
    """The share of the steps in which the learning rate rises."""
    mined: int = within(4, whole(0, 10_000))
    """Negatives from BM25's rank window per positive."""
    random: int = within(2, whole(0, 10_000))
    """Random negatives per positive: without them, a model never sees easy documents. `mined` and `random`
    together set the share of random negatives."""
    skip_top: int = within(10, whole(0, 100_000))
    """Draw no negatives from these first ranks, where most unjudged positives are."""
    depth: int = within(60, DEPTH)
    """The last rank from which negatives are drawn."""
    folds: int = within(0, whole(0, 100))
    """Train this many models, each without the queries that it scores; 0: one model on all queries."""
    held_out: float = within(0.1, BELOW_1)
    """The share of the queries that no model trains on, for the figures in the card."""
    withheld: float = within(0.0, BELOW_1)
    """The share of each query's positives that are withheld from training, for an audit."""
    probabilities: bool = True
    """Make the scores probabilities, fitted on the queries that a model does not train on."""
    queries: int | None = within(None, COUNT)
    """Use only this many queries, drawn with the seed."""
    max_length: int = within(256, whole(16, 1_000_000))
    """Maximum tokens of a pair, special tokens included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("loss", self.loss, RERANKER_LOSSES)
        _require(self.mined + self.random > 0, "mined and random", 0, "at least one negative per positive")
        _require(self.depth > self.skip_top, "depth", self.depth, f"more than skip_top ({self.skip_top})")
        _require(self.folds == 0 or self.folds >= 2, "folds", self.folds, "0 for none, or 2 and more")
        if self.loss == MARGIN_MSE and self.teacher is None:
            raise UsageError(
                f"loss {MARGIN_MSE} learns the scores of a teacher, and none is named",
                "name a reranker: --set teacher=MODEL",
            )
        for name, readers in (("teacher", (*LISTWISE, MARGIN_MSE)), ("list_size", LISTWISE)):
            if getattr(self, name) != getattr(RerankerConfig, name) and self.loss not in readers:
                raise UsageError(
                    f"{name} has no effect on loss {self.loss}", f"it is for {', '.join(readers)}"
                )

    @property
    def reads_grades(self) -> bool:
        """Whether the labels are the grades of the judgments, not only positive or negative."""
        return self.loss in LISTWISE and self.teacher is None


def _require(valid: bool, name: str, value: object, allowed: str) -> None:
    if not valid:
        raise UsageError(f"{name} must be {allowed}, got {value}")
