"""The settings of judging."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from miner.errors import UsageError
from miner.mining.config import key
from miner.ranges import COUNT, NATURAL, check_fields, known_keywords, number, whole
from miner.text import fingerprint

GRADED, COMPARED = "graded", "compared"
OF = ("suspected", "selected", "both")
RELEVANCE = "The document answers the query, or contains what someone who asks it wants to read."
PRICE = number(0, 1_000_000)
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

    of: str = key("suspected", "Judge suspected positives, the selected negatives, or both.", OF)
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
        None, "Stop after so many requests, tokens, or so much money: 500 requests, 2M tokens, 5.00."
    )
    price_in: float | None = key(None, "Price of a million tokens that the model reads.", within=PRICE)
    price_out: float | None = key(None, "Price of a million tokens that the model writes.", within=PRICE)
    seed: int = key(13, "Seed of the samples and of the order of documents.", within=whole(0, 2**32 - 1))

    def __post_init__(self) -> None:
        check_fields(self)
        if self.budget is not None:
            Budget.parse(self.budget, self.price_in, self.price_out)

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
class Budget:
    """The most that judging may use: requests, tokens or money."""

    unit: str
    """`requests`, `tokens` or `money`."""
    most: float
    price_in: float = 0.0
    price_out: float = 0.0
    """Prices of a million tokens."""

    @classmethod
    def parse(cls, text: str, price_in: float | None, price_out: float | None) -> Budget:
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
        if price_in is None or price_out is None:
            raise UsageError(
                f"a budget of {amount} in money needs the prices of tokens",
                "add --price-in and --price-out, per million tokens, or write '500 requests'",
            )
        return cls("money", most, price_in, price_out)

    def used(self, requests: int, tokens_in: float, tokens_out: float) -> float:
        """Returns how much of the budget's unit so many requests and tokens are."""
        if self.unit == "money":
            return money(tokens_in, tokens_out, self.price_in, self.price_out)
        return float(requests) if self.unit == "requests" else tokens_in + tokens_out


def money(tokens_in: float, tokens_out: float, price_in: float, price_out: float) -> float:
    """Returns what tokens cost, by their prices per million."""
    return (tokens_in * price_in + tokens_out * price_out) / 1e6
