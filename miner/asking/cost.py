"""What asking a language model costs, and the settings that limit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miner.errors import UsageError, listed, near, shown
from miner.mining.config import key
from miner.models.endpoint import ANSWER_SECONDS, PATIENCE
from miner.ranges import check_fields, number, whole

BYTES_PER_TOKEN = 4.0
"""What a token is estimated to have, in UTF-8, before a server counts them."""
PRICE = number(0, 1_000_000)
_SECONDS = number(0.01, 86_400)
_UNITS = {"request": 1, "requests": 1, "token": 1, "tokens": 1}
_FACTORS = {"k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True)
class AskingConfig:
    """How a language model is asked, and at most how much. Raises UsageError for an invalid value."""

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

    def __post_init__(self) -> None:
        check_fields(self)
        for given, missing in (("price_in", "price_out"), ("price_out", "price_in")):
            if getattr(self, given) is not None and getattr(self, missing) is None:
                raise UsageError(f"{given} has no effect without {missing}", f"add --set {missing}=…")
        _ = self.limit

    @property
    def limit(self) -> Budget | None:
        """The budget; None without one."""
        return None if self.budget is None else Budget.parse(self.budget, self.has_prices)

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


@dataclass
class TokenUse:
    """Requests and tokens, and what they cost."""

    requests: int = 0
    tokens_in: float = 0
    tokens_out: float = 0
    money: float | None = None
    """What they cost; None without prices."""
    cut: int = 0
    """Documents of which only the beginning was sent."""
    stopped: bool = False
    """Whether the budget ended the work."""

    def add(self, tokens_in: float, tokens_out: float, prices: Prices | None, requests: int = 1) -> None:
        """Counts requests."""
        self.requests += requests
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        if prices is not None and self.money is not None:
            self.money += prices.of(tokens_in, tokens_out)

    def exceeds(self, budget: Budget) -> bool:
        """Returns whether it is more than a budget."""
        amounts = {
            "requests": self.requests,
            "tokens": self.tokens_in + self.tokens_out,
            "money": self.money or 0.0,
        }
        return amounts[budget.unit] > budget.most
