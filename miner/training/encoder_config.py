"""How to train an encoder: one frozen configuration, and what each loss needs. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from miner.errors import UsageError, near
from miner.ranges import (
    BATCH,
    BELOW_1,
    COUNT,
    DTYPES,
    RATE,
    SEED,
    THREADS,
    check_fields,
    number,
    require_one_of,
    whole,
    within,
)  # fmt: skip

SCRATCH = "scratch"
"""The base that is no model: a table of token vectors, drawn at random."""


@dataclass(frozen=True)
class Loss:
    """What a loss is for and what its rows hold."""

    summary: str
    texts: tuple[int, int]
    """The fewest and the most columns of text."""
    label: str = ""
    """What else a row needs: `number`, `class`, `scores`, or nothing."""
    formats: tuple[str, ...] = ("triplet", "n-tuple")
    """The export formats that have it."""
    ranks_batch: bool = False
    """Whether the other rows of the batch are negatives: no duplicates then, and known positives masked."""


MOST = 64
"""More columns of text than any row has."""

LOSSES = {
    "mnr": Loss("ranks the positive above all other documents of the batch", (2, MOST), ranks_batch=True),
    "cached-mnr": Loss(
        "the same over large batches in little memory (gradient caching)", (2, MOST), ranks_batch=True
    ),
    "gist": Loss(
        "the same, anchors and positives also among themselves; a guide masks likely false negatives",
        (2, 3),
        formats=("triplet",),
        ranks_batch=True,
    ),
    "cosine": Loss("the cosine of a pair comes near its number", (2, 2), "number", ("labeled-pair",)),
    "softmax": Loss(
        "a classifier over both vectors tells the pair's class", (2, 2), "class", ("labeled-pair",)
    ),
    "triplet": Loss("the positive is nearer than the negative by a margin", (3, 3), formats=("triplet",)),
    "margin-mse": Loss(
        "the margin between positive and negative comes near the reranker's",
        (3, MOST),
        "scores",
        ("triplet with --scores", "n-tuple with --scores"),
    ),
}
"""Every loss by the name that `--loss` takes."""
_RANKING = tuple(name for name, loss in LOSSES.items() if loss.ranks_batch)
_READERS = {
    "margin": ("triplet",),
    "scale": _RANKING,
    "mask": ("mnr", "cached-mnr"),
    "mini_batch": ("cached-mnr",),
}
"""The losses that read a setting, where not all do."""
_OF_SCRATCH = ("dimension", "tokenizer")
"""Settings of a model that is drawn at random."""


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides which weights come out. UsageError for a value that cannot be."""

    loss: str = "mnr"
    base: str = "bundled"
    """The model to start from: hub id, folder, `bundled`, or `scratch`."""
    epochs: float = within(1.0, number(0, 10_000, above=True))
    max_steps: int | None = within(None, COUNT)
    """Stop after this many batches, whatever `epochs` says."""
    batch_size: int = within(64, BATCH)
    """Rows per batch. More rows are more negatives for the losses that rank the batch."""
    learning_rate: float | None = within(None, RATE)
    """At its peak; None: 2e-5 for a transformer, 0.02 for a static table, whose every row is seldom hit."""
    warmup: float = within(0.1, BELOW_1)
    """The share of the steps over which the learning rate rises; then it falls linearly to 0."""
    scale: float = within(20.0, number(0, 10_000, above=True))
    """mnr, cached-mnr, gist: what cosines are multiplied by, the inverse of the temperature. 1 where the base
    compares by another similarity, unless another scale than 20 is given."""
    margin: float = within(0.2, number(0, 2, above=True))
    """triplet: by how much the negative is to be further away, in the base's distance: cosine, or its own."""
    guide: str | None = None
    """gist: the model that knows false negatives when it sees them."""
    mini_batch: int = within(32, BATCH)
    """cached-mnr: rows that are in memory at a time."""
    mask: bool = True
    """Whether a document that is known to be a positive of a row's anchor is no negative of it."""
    max_length: int = within(256, whole(8, 1_000_000))
    """Tokens read of a text, special tokens included; a model that reads fewer stays as it is."""
    query_prompt: str | None = None
    """Text before every anchor; None: the model's own."""
    document_prompt: str | None = None
    dimension: int = within(256, whole(1, 8192))
    """scratch: the length of a vector."""
    tokenizer: str = "bundled"
    """scratch: whose tokens have a vector each: hub id, folder or `bundled`."""
    evaluations: int = within(5, whole(0, 10_000))
    """How often, evenly over the training, the model is scored on a dev split, if there is one; 0: never."""
    patience: int | None = within(None, COUNT)
    """Stop after this many scores in a row without a better one."""
    dtype: str = "auto"
    seed: int = within(13, SEED)
    threads: int | None = within(None, THREADS)
    """Processor threads; None: as many as are free. Another number can change the last digits."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.loss not in LOSSES:
            raise UsageError(
                f"no loss '{self.loss}'{near(self.loss, LOSSES)}", f"choose one of: {', '.join(LOSSES)}"
            )
        require_one_of("dtype", self.dtype, DTYPES)
        if self.guide is not None and self.loss != "gist":
            raise UsageError(f"loss {self.loss} takes no guide", "leave --guide out, or use --loss gist")
        if self.loss == "gist" and self.guide is None:
            raise UsageError("gist needs a model that guides it", "name one with --guide, such as bundled")
        for option in self.transformers:
            if getattr(self, option) == SCRATCH:
                raise self.no_transformer(option)
        self._require_effects()

    def _require_effects(self) -> None:
        """Raises UsageError for a setting that nothing would read."""
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
        """The settings that name a model which the loss needs to be a transformer."""
        return {"gist": ("base", "guide"), "cached-mnr": ("base",)}.get(self.loss, ())

    def no_transformer(self, option: str) -> UsageError:
        """Returns what to say of a model that is a table of token vectors where a transformer is needed."""
        name = getattr(self, option)
        return UsageError(
            f"loss {self.loss} needs a transformer as --{option}, {name} is a table of token vectors",
            "name another, such as bundled" + (", or use --loss mnr" if option == "base" else ""),
        )

    @property
    def needs(self) -> Loss:
        """What the loss needs."""
        return LOSSES[self.loss]

    def identity(self) -> dict[str, Any]:
        """Returns the settings that the weights depend on, as JSON-able values."""
        return {name: value for name, value in asdict(self).items() if name != "threads"}
