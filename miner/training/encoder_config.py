"""The configuration of `miner train`, and the rows that each loss needs. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, fields

from miner.errors import UsageError, near
from miner.ranges import BATCH, BELOW_1, COUNT, RATE, known_keywords, number, whole, within
from miner.training.training_config import TrainingConfig

SCRATCH = "scratch"
"""The name of the base that is a table of random token vectors instead of a model."""


@dataclass(frozen=True)
class Loss:
    """The purpose of a loss, and the rows that it needs."""

    summary: str
    texts: tuple[int, int]
    """The fewest and the most columns of text."""
    label: str = ""
    """The target that a row needs besides: `number`, `class`, `scores`, or nothing."""
    formats: tuple[str, ...] = ("triplet", "n-tuple")
    """The export formats with such rows."""
    ranks_batch: bool = False
    """Whether the other rows of the batch are negatives; then duplicates are kept apart, known positives
    masked."""


MOST = 64
"""The most columns of text."""

LOSSES = {
    "mnr": Loss("ranks the positive above all other documents of the batch", (2, MOST), ranks_batch=True),
    "cached-mnr": Loss(
        "as mnr, for large batches in little memory (gradient caching)", (2, MOST), ranks_batch=True
    ),
    "gist": Loss(
        "as mnr, and ranks anchors and positives among themselves; a guide masks likely false negatives",
        (2, 3),
        formats=("triplet",),
        ranks_batch=True,
    ),
    "cosine": Loss("the cosine of a pair approaches its label", (2, 2), "number", ("labeled-pair",)),
    "softmax": Loss(
        "a classifier over both vectors predicts the pair's class", (2, 2), "class", ("labeled-pair",)
    ),
    "triplet": Loss("the positive is nearer than the negative by a margin", (3, 3), formats=("triplet",)),
    "margin-mse": Loss(
        "the margin between positive and negative approaches the reranker's",
        (3, MOST),
        "scores",
        ("triplet with --scores", "n-tuple with --scores"),
    ),
}
"""The losses by their `--loss` names."""
_RANKING = tuple(name for name, loss in LOSSES.items() if loss.ranks_batch)
_READERS = {
    "margin": ("triplet",),
    "scale": _RANKING,
    "mask": ("mnr", "cached-mnr"),
    "mini_batch": ("cached-mnr",),
}
"""The losses that read a setting, for settings that not all losses read."""
_OF_SCRATCH = ("dimension", "tokenizer")
"""The settings of a random table."""


@known_keywords
@dataclass(frozen=True)
class EncoderConfig(TrainingConfig):
    """All settings of a training; UsageError for values out of range or without an effect."""

    loss: str = "mnr"
    base: str = "bundled"
    """The model to start from: hub id, folder, `bundled`, or `scratch`."""
    epochs: float = within(1.0, number(0, 10_000, above=True))
    max_steps: int | None = within(None, COUNT)
    """Stop after this many batches, even before the epochs end."""
    batch_size: int = within(64, BATCH)
    """Rows per batch. For the losses that rank the batch, more rows are more negatives."""
    learning_rate: float | None = within(None, RATE)
    """The peak rate; None: 2e-5 for a transformer, 0.02 for a static table, whose rows are rarely updated."""
    warmup: float = within(0.1, BELOW_1)
    """The share of the steps in which the learning rate rises; then it falls linearly to 0."""
    scale: float = within(20.0, number(0, 10_000, above=True))
    """mnr, cached-mnr, gist: the factor of cosines, the inverse of the temperature. For a base that compares
    by another similarity, the default is 1."""
    margin: float = within(0.2, number(0, 2, above=True))
    """triplet: the smallest difference between the distances of negative and positive that is not trained."""
    guide: str | None = None
    """gist: the model that masks likely false negatives."""
    mini_batch: int = within(32, BATCH)
    """cached-mnr: the number of rows in memory at a time."""
    mask: bool = True
    """Whether known positives of a row's anchor are masked, so that they do not count as negatives."""
    max_length: int = within(256, whole(8, 1_000_000))
    """Maximum tokens of a text, special tokens included; a model that reads fewer keeps its own limit."""
    query_prompt: str | None = None
    """The text before every anchor; None: the model's own prompt."""
    document_prompt: str | None = None
    dimension: int = within(256, whole(1, 8192))
    """scratch: the length of a vector."""
    tokenizer: str = "bundled"
    """scratch: the model whose tokens get a vector each: hub id, folder or `bundled`."""
    evaluations: int = within(5, whole(0, 10_000))
    """How many times, evenly spaced, the model is scored on the dev split if there is one; 0: never."""
    patience: int | None = within(None, COUNT)
    """Stop after this many scores in a row without a new best."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in LOSSES:
            raise UsageError(
                f"no loss '{self.loss}'{near(self.loss, LOSSES)}", f"choose one of: {', '.join(LOSSES)}"
            )
        if self.guide is not None and self.loss != "gist":
            raise UsageError(f"loss {self.loss} has no guide", "leave guide out, or use loss gist")
        if self.loss == "gist" and self.guide is None:
            raise UsageError("loss gist needs a guide model", "name one: --set guide=MODEL, such as bundled")
        for option in self.transformers:
            if getattr(self, option) == SCRATCH:
                raise self.no_transformer(option)
        self._require_effects()

    def _require_effects(self) -> None:
        """Raises UsageError for a setting that has no effect."""
        for field in fields(self):
            if getattr(self, field.name) == field.default or self.reads(field.name):
                continue
            if field.name in _OF_SCRATCH:
                raise UsageError(f"{field.name} has no effect on base {self.base}", "it is for scratch")
            readers = ", ".join(_READERS[field.name])
            raise UsageError(f"{field.name} has no effect on loss {self.loss}", f"it is for {readers}")
        if self.patience is not None and not self.evaluations:
            raise UsageError("patience has no effect without evaluations", "leave one of them out")

    def reads(self, name: str) -> bool:
        """Returns whether a setting has an effect with this loss and base."""
        if name in _OF_SCRATCH:
            return self.base == SCRATCH
        return name not in _READERS or self.loss in _READERS[name]

    @property
    def transformers(self) -> tuple[str, ...]:
        """The settings whose model must be a transformer with this loss."""
        return {"gist": ("base", "guide"), "cached-mnr": ("base",)}.get(self.loss, ())

    def no_transformer(self, option: str) -> UsageError:
        """Returns the error of a setting that names a table of token vectors instead of a transformer."""
        name = getattr(self, option)
        return UsageError(
            f"loss {self.loss} needs a transformer as {option}, {name} is a table of token vectors",
            "name another, such as bundled" + (", or use loss mnr" if option == "base" else ""),
        )

    @property
    def needs(self) -> Loss:
        """The needs of the loss."""
        return LOSSES[self.loss]
