"""The settings of judging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from miner.errors import UsageError, listed, near, shown
from miner.mining.config import key
from miner.models.chat import FORMS
from miner.models.endpoint import ANSWER_SECONDS, PATIENCE
from miner.ranges import COUNT, NATURAL, check_fields, known_keywords, number, whole
from miner.text import fingerprint

GRADED, COMPARED = "graded", "compared"
SAMPLED = "sampled"
OF = ("suspected", "selected", "both", SAMPLED)
RELEVANCE = "The document answers the query, or contains what someone who asks it wants to read."
PRICE = number(0, 1_000_000)
_SECONDS = number(0.01, 86_400)
_FIELD = "{relevance}"
_CODE = 1
"""The version of this code: a new number if the same answer gives another grade."""


@known_keywords
@dataclass(frozen=True)
class JudgeConfig:
    """How a language model judges. Raises UsageError at construction for an invalid value.

    The grades depend on the first group of settings; a judge with other values has other answers.
    """

    form: str = key(
        GRADED,
        "graded: one document per request, relevance 0 to 3. compared: several documents beside the query's "
        "positives.",
        (GRADED, COMPARED),
    )
    prompt: str | None = key(None, "File with instructions for the model, in place of the ones for the form.")
    relevance: str = key(RELEVANCE, "What counts as relevant in this domain, in a sentence or two.")
    characters: int = key(8_000, "Characters of a document that the model reads.", within=whole(1, 1_000_000))

    of: str = key(
        "suspected",
        "Judge suspected positives, the selected negatives, both, or the sample that `miner audit --label` "
        "drew.",
        OF,
    )
    sample: int | None = key(
        None, "Judge a random sample of this many pairs, drawn with the seed.", within=COUNT
    )
    positives: bool = key(
        False,
        "graded: judge the known positives of these queries too; else they count as relevant, grade 2.",
        kind=bool,
    )
    together: int = key(10, "compared: documents in a request.", within=whole(1, 100))
    check: int = key(
        200,
        "Pairs with known relevance that the judge grades first, to measure its error; 0: none.",
        within=NATURAL,
    )
    again: bool = key(
        False,
        "Ask again about pairs whose answer could not be read, or that wait for the answer to a batch.",
        kind=bool,
    )
    concurrency: int = key(16, "Requests at a time.", within=whole(1, 1_000))
    budget: str | None = key(
        None,
        "Stop this call after so many requests, tokens, or so much money: 500 requests, 2M tokens, 5.00.",
    )
    price_in: float | tuple[str, ...] | None = key(
        None,
        "Price of a million tokens that the model reads; in a cascade MODEL=PRICE for each, if they differ.",
        within=PRICE,
        by_encoder=True,
    )
    price_out: float | tuple[str, ...] | None = key(
        None, "Price of a million tokens that the model writes, as price_in.", within=PRICE, by_encoder=True
    )
    patience: float = key(
        PATIENCE,
        "Seconds for which a request is sent again while the server is busy or away.",
        within=_SECONDS,
    )
    answer_seconds: float = key(
        ANSWER_SECONDS, "Seconds that a request waits for its answer.", within=_SECONDS
    )
    batch_form: str = key(
        FORMS[0],
        "How --batch requests an answer: by JSON schema, as any JSON object, or by the instructions alone.",
        FORMS,
    )
    seed: int = key(13, "Seed of the samples and of the order of documents.", within=whole(0, 2**32 - 1))

    def __post_init__(self) -> None:
        check_fields(self)
        if self.budget is not None:
            Budget.parse(self.budget, self.has_prices)

    @property
    def has_prices(self) -> bool:
        """Whether it says what tokens cost."""
        return self.price_in is not None and self.price_out is not None

    def prices(self, models: Sequence[str]) -> list[Prices | None]:
        """Returns the prices of each model of a cascade, by their names; None without prices.

        Raises UsageError for a price of another model, or a model without one.
        """
        if self.price_in is None or self.price_out is None:
            return [None] * len(models)
        read = _by_model("price_in", self.price_in, models)
        written = _by_model("price_out", self.price_out, models)
        return [Prices(*both) for both in zip(read, written, strict=True)]

    @property
    def instructions(self) -> str:
        """The instructions for the model; raises UsageError for a file that is not there or not UTF-8."""
        if self.prompt is None:
            text = (Path(__file__).parent / "prompts" / f"{self.form}.txt").read_text("utf-8")
        else:
            text = _read(Path(self.prompt))
        return text.strip().replace(_FIELD, self.relevance)

    def identity(self, model: str) -> str:
        """Returns the fingerprint of a judge: of everything that its grades depend on."""
        return fingerprint(
            {
                "judge": model,
                "form": self.form,
                "instructions": self.instructions,
                "characters": self.characters,
                "code": _CODE,
            }
        )


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot read the prompt {file}: {error.strerror}", "name a text file with instructions"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt {file} is not UTF-8", "save it as UTF-8") from error


_UNITS = {"request": 1, "requests": 1, "token": 1, "tokens": 1}
_FACTORS = {"k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True)
class Prices:
    """What a million tokens of a model cost."""

    read: float
    written: float

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """Returns what so many tokens cost."""
        return (tokens_in * self.read + tokens_out * self.written) / 1e6


def _by_model(name: str, price: float | tuple[str, ...], models: Sequence[str]) -> list[float]:
    """Returns the price for each model: one for all, or texts `MODEL=PRICE`."""
    if not isinstance(price, tuple):
        return [price] * len(models)
    found: dict[str, float | None] = {}
    for text in price:
        model, _, value = text.rpartition("=")
        if model not in models:
            raise UsageError(
                f"{name}: no model '{shown(model)}' is asked{near(model, models)}",
                f"models: {listed(models)}",
            )
        found[model] = PRICE.parse(value)
    if missing := [model for model in models if found.get(model) is None]:
        raise UsageError(f"{name} has no price of {listed(missing)}", f"add {name}={missing[0]}=PRICE")
    return [float(found[model] or 0) for model in models]


@dataclass(frozen=True)
class Budget:
    """The most that one call may use: requests, tokens or money."""

    unit: str
    """`requests`, `tokens` or `money`."""
    most: float

    @classmethod
    def parse(cls, text: str, has_prices: bool) -> Budget:
        """Returns the budget in a text such as `500 requests`, `2M tokens` or `5.00`; raises UsageError."""
        amount, _, unit = text.strip().lower().partition(" ")
        for name in ("requests", "request", "tokens", "token"):  # `500requests` too
            if not unit and amount.endswith(name):
                amount, unit = amount.removesuffix(name), name
        factor = _FACTORS.get(amount[-1:], 1)
        try:
            most = float(amount[:-1] if amount[-1:] in _FACTORS else amount) * factor
        except ValueError:
            most = -1.0
        if unit.strip() not in ("", *_UNITS) or not 0 < most < 1e15:
            raise UsageError(
                f"budget must be requests, tokens or money, got '{text}'",
                "write --budget '500 requests', '2M tokens' or 5.00",
            )
        if unit:
            return cls("requests" if unit.startswith("request") else "tokens", most)
        if not has_prices:
            raise UsageError(
                f"a budget of {amount} in money needs the prices of tokens",
                "add --set price_in=… and --set price_out=…, per million tokens, or write '500 requests'",
            )
        return cls("money", most)
