"""The configuration of `miner train`, and the rows that each loss needs. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from miner.errors import UsageError, near
from miner.ranges import (
    BATCH,
    BELOW_1,
    COUNT,
    RATE,
    known_keywords,
    number,
    require_one_of,
    whole,
    within,
)
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
    "cached-gist": Loss(
        "as gist, for large batches and several negatives in little memory (gradient caching)",
        (2, MOST),
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
    "distill": Loss(
        "the scores of a row's documents, as a distribution, approach the reranker's (KL divergence)",
        (3, MOST),
        "scores",
        ("triplet with --scores", "n-tuple with --scores"),
    ),
}
"""The losses by their `--loss` names."""
_RANKING = tuple(name for name, loss in LOSSES.items() if loss.ranks_batch)
GUIDED = ("gist", "cached-gist")
"""The losses with a guide."""
_MNR = ("mnr", "cached-mnr")
_READERS = {
    "margin": ("triplet",),
    "scale": (*_RANKING, "distill"),
    "mask": _MNR,
    "mini_batch": ("cached-mnr", "cached-gist"),
    "directions": _MNR,
    "hardness": _MNR,
    "hardness_strength": _MNR,
    "guide_margin": GUIDED,
    "guide_relative_margin": GUIDED,
    "contrast": GUIDED,
    "teacher_temperature": ("distill",),
    "dimensions": tuple(name for name in LOSSES if name != "softmax"),
}
"""The losses that read a setting, for settings that not all losses read."""
_OF_SCRATCH = ("dimension", "tokenizer")
"""The settings of a random table."""
DIRECTIONS = ("forward", "symmetric", "all")
HARDNESS = {"in-batch": 9.0, "hard": 5.0, "all": 5.0}
"""The negatives that are weighed by their hardness, and the default strength: 9 as in Lan et al. 2025, 5 as
in Schechter Vera et al. 2025 (EmbeddingGemma); for all negatives, none is published."""
ALL, ONE = "all", "one"


def parse_dimensions(text: str) -> tuple[int, ...]:
    """Returns the numbers in `256,128,64`; raises UsageError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"no dimensions '{text}'", "write whole numbers with commas, such as 256,128,64")
    return tuple(map(int, parts))


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
    """The peak rate; None: 2e-5 for a transformer, 2e-4 with lora, 0.02 for a static table, whose rows are
    rarely updated."""
    warmup: float = within(0.1, BELOW_1)
    """The share of the steps in which the learning rate rises; then it falls linearly to 0."""
    scale: float = within(20.0, number(0, 10_000, above=True))
    """The losses that rank, distill: the factor of cosines, the inverse of the temperature. For a base that
    compares by another similarity, the default is 1."""
    margin: float = within(0.2, number(0, 2, above=True))
    """triplet: the smallest difference between the distances of negative and positive that is not trained."""
    guide: str | None = None
    """gist, cached-gist: the model that masks likely false negatives."""
    guide_margin: float | None = within(None, number(0, 2))
    """gist, cached-gist: mask texts that the guide scores above the positive's score less this."""
    guide_relative_margin: float | None = within(None, BELOW_1)
    """gist, cached-gist: as guide_margin, as a share of the positive's score."""
    contrast: bool = True
    """gist, cached-gist: whether anchors are also compared with anchors, and positives with positives."""
    mini_batch: int = within(32, BATCH)
    """cached-mnr, cached-gist: the number of rows in memory at a time."""
    directions: str = DIRECTIONS[0]
    """mnr, cached-mnr: what is ranked. `forward`: documents for each anchor; `symmetric`: anchors for each
    positive too, the mean of both; `all`: documents and anchors for both, in one softmax."""
    hardness: str | None = None
    """mnr, cached-mnr: the negatives that count more the nearer they are, a key of HARDNESS; None: none."""
    hardness_strength: float | None = within(None, number(0, 1000, above=True))
    """How much more: this times the cosine is added to a negative's logit; None: as HARDNESS has it."""
    teacher_temperature: float | None = within(None, number(0, 10_000, above=True))
    """distill: the teacher's scores are divided by this; None: scores from -1 to 1 by the model's own
    temperature (1 / scale), others by 1."""
    dimensions: tuple[int, ...] = field(default=(), metadata={"convert": parse_dimensions, "metavar": "N,…"})
    """Train the first numbers of a vector to be vectors too (Matryoshka), for each of these lengths."""
    lora: int | None = within(None, whole(1, 4096))
    """Train two matrices of this rank beside each linear layer instead of all weights (LoRA); None: all."""
    epoch_positives: str = ALL
    """`all`: every positive of an anchor is a row of each epoch; `one`: one of them, drawn anew."""
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
        if self.guide is not None and self.loss not in GUIDED:
            raise UsageError(f"loss {self.loss} has no guide", "leave guide out, or use loss gist")
        if self.loss in GUIDED and self.guide is None:
            raise UsageError(
                f"loss {self.loss} needs a guide model", "name one: --set guide=MODEL, such as bundled"
            )
        self._require_variants()
        for option in self.transformers:
            if getattr(self, option) == SCRATCH:
                raise self.no_transformer(option)
        self._require_effects()

    def _require_variants(self) -> None:
        """Raises UsageError for an unknown variant of a loss, or two that contradict each other."""
        require_one_of("directions", self.directions, DIRECTIONS)
        require_one_of("epoch_positives", self.epoch_positives, (ALL, ONE))
        if self.hardness is not None:
            require_one_of("hardness", self.hardness, HARDNESS)
        elif self.hardness_strength is not None:
            raise UsageError(
                "hardness_strength has no effect without hardness", f"set hardness to {' or '.join(HARDNESS)}"
            )
        if self.guide_margin is not None and self.guide_relative_margin is not None:
            raise UsageError("guide_margin and guide_relative_margin are both given", "leave one of them out")
        for dimension in self.dimensions:
            whole(1, 100_000).require("dimensions", dimension)

    @property
    def strength(self) -> float:
        """The strength of `hardness`; 0 without it."""
        return 0.0 if self.hardness is None else self.hardness_strength or HARDNESS[self.hardness]

    def _require_effects(self) -> None:
        """Raises UsageError for a setting that has no effect."""
        for part in fields(self):
            if getattr(self, part.name) == part.default or self.reads(part.name):
                continue
            if part.name in _OF_SCRATCH:
                raise UsageError(f"{part.name} has no effect on base {self.base}", "it is for scratch")
            readers = ", ".join(_READERS[part.name])
            raise UsageError(f"{part.name} has no effect on loss {self.loss}", f"it is for {readers}")
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
        both = dict.fromkeys(GUIDED, ("base", "guide"))
        return {**both, "cached-mnr": ("base",)}.get(self.loss, ())

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
