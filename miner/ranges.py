"""The numbers that a setting may have: one description for options, recipes and Python calls."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import wraps
from math import isfinite, isnan
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from miner.errors import UsageError, near, nearest, shown

Config = TypeVar("Config")

_MANY = re.compile(r"(?:tuple\[(\w+), \.\.\.\]|Sequence\[(str)\])(?: \| None)?")
"""The type of a field that holds several values of one kind."""
BY_ENCODER = "by_encoder"
"""The key in the metadata of a field that may be a list of `SCORER=VALUE` texts, one for each encoder."""
NO_VALUE = "none"
"""What options and recipes write for no value, such as a rule that is off."""
VAST = 1e9
"""An end of a range from here on is shown only to who gives a number beyond it."""
_SHOWN = 60
"""The most characters of a value in a message."""
SPLITS = {
    "train": "train", "training": "train",
    "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev",
    "test": "test",
}  # fmt: skip
"""The split that each of these names means. Other names are splits of their own."""
_SPLIT_FIELDS = ("split", "dev_split", "without")
"""The fields of configurations that name a split of a store."""


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, whole numbers or all; `above` and `below` exclude the ends."""

    low: float
    high: float
    is_whole: bool = True
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.is_whole else "a number"
        if not self.above and not self.below:
            return f"{kind} from {bound(self.low)} to {bound(self.high)}"
        low = f"{'above' if self.above else 'at least'} {bound(self.low)}"
        return f"{kind} {low} and {'below' if self.below else 'at most'} {bound(self.high)}"

    @property
    def words(self) -> str:
        """The range as help and pages show it: without an end that nobody meets."""
        low, high = self.low > -VAST, self.high < VAST
        if low and high:
            return str(self)
        kind = "a whole number" if self.is_whole else "a number"
        if low:
            return f"{kind} {f'above {bound(self.low)}' if self.above else f'of {bound(self.low)} or more'}"
        if high:
            return f"{kind} {f'below {bound(self.high)}' if self.below else f'of {bound(self.high)} or less'}"
        return kind

    def number(self, value: object) -> int | float | None:
        """Returns `value` as an int or a float without a negative zero; None if it is not in the range."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.is_whole else Real):
            return None
        try:
            number = int(value) if isinstance(value, Integral) and self.is_whole else float(value) + 0.0
        except (OverflowError, ValueError):
            return None
        if not self.is_whole and not isfinite(number):
            return None
        low = self.low < number if self.above else self.low <= number
        high = number < self.high if self.below else number <= self.high
        return number if low and high else None

    def parse(self, text: str) -> int | float | None:
        """Returns the number in `text`; None if it is not a number in this range."""
        with suppress(ValueError, OverflowError):
            return self.number(int(text) if self.is_whole else float(text))
        return None

    def require(self, name: str, value: object, may_be_none: bool = False) -> int | float:
        """Returns `value` as `number` does; raises UsageError if it is not in the range."""
        accepted = self.number(value)
        if accepted is None:
            raise UsageError(f"{name} {self.refusal(value, may_be_none)}")
        return accepted

    def refusal(self, value: object, may_be_none: bool, shown: str = "") -> str:
        """Returns why a value is refused, as `must be …, got …`, and what to write for a percentage."""
        must = f"must be {self.allowed(may_be_none, value)}, got {shown or literal(value)}"
        return f"{must}{self._instead(value)}"

    def _instead(self, value: object) -> str:
        """Returns what to write for a percentage, a decimal comma or commas between thousands, if any."""
        text = value.strip() if isinstance(value, str) else literal(value)
        if self.is_whole:
            digits = text.replace(",", "")
            is_meant = re.fullmatch(r"\d{1,3}(,\d{3}){1,9}", text) and self.number(int(digits)) is not None
            return f": write {digits}" if is_meant else ""
        try:
            number = float(text.removesuffix("%").replace(",", "."))
        except ValueError:
            return ""
        percent = f"for {number:g} % " if text.endswith("%") else ""
        if self.high == 1 and (percent or 2 <= number <= 100):
            number, percent = number / 100, f"for {number:g} % "
        elif percent and self.high != 100:
            return ""
        return "" if self.number(number) is None else f": {percent}write {number:.12g}"

    def allowed(self, may_be_none: bool, value: object = None) -> str:
        """Returns the range in words, with `none` if that is allowed; all of it if `value` is a number."""
        words = str(self) if _is_number(value) else self.words
        return or_none(words) if may_be_none else words


def _is_number(value: object) -> bool:
    try:
        return not isnan(float(value))  # type: ignore[arg-type]
    except OverflowError:
        return True
    except (TypeError, ValueError):
        return False


def or_none(words: str) -> str:
    """Returns what a setting may be, in words, with `none` as another choice."""
    return f"{words}, or {NO_VALUE}" if " or " in words else f"{words} or {NO_VALUE}"


def whole(low: int, high: int) -> Range:
    """Returns the whole numbers from `low` to `high`, both included."""
    return Range(low, high)


def number(low: float, high: float, *, above: bool = False, below: bool = False) -> Range:
    """Returns the finite numbers from `low` to `high`; `above` and `below` exclude the ends."""
    return Range(low, high, False, above, below)


def literal(value: object) -> str:
    """Returns a value as a message shows it: on one line, cut to a readable length."""
    try:
        text = repr(value)
    except ValueError:  # Python does not convert a whole number of several thousand digits to text
        text = "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def bare(text: str) -> str:
    """Returns a text as `shown` does, without quotes unless it is blank."""
    return literal(text).strip("'\"") if text.strip() else literal(text)


def bound(end: float) -> str:
    """Returns an end of a range as messages and help show it."""
    return f"{end:,}" if isinstance(end, int) else f"{end:g}"


COUNT = whole(1, 1_000_000_000)
NATURAL = whole(0, 1_000_000_000)
DEPTH = whole(1, 100_000)
"""The number of documents per query."""
THREADS = whole(1, 1024)
SEED = whole(0, 2**32 - 1)
"""The seeds that both NumPy and PyTorch accept."""
EPOCHS = whole(1, 10_000)
BATCH = whole(1, 100_000)
SHARE = number(0, 1)
ABOVE_0 = number(0, 1, above=True)
BELOW_1 = number(0, 1, below=True)
BETWEEN = number(0, 1, above=True, below=True)
RATE = number(0, 1e38, above=True)
"""A learning rate."""
NGRAM = whole(2, 1000)
"""Words in a row."""
ROUNDS = whole(1, 1000)
SEEDS = whole(3, 1000)
LABELS = whole(2, 1_000_000)
ROW_NEGATIVES = whole(1, 62)
"""A row of training has at most 64 columns of text."""
LABEL_MAX = number(0, 1e30, above=True)
FINITE = number(-1e30, 1e30)
"""A score or a difference of scores."""


DTYPES = ("auto", "fp32", "bf16")


def within(default: Any, allowed: Range) -> Any:
    """Returns a dataclass field with a default and a range, which `check_fields` enforces."""
    return field(default=default, metadata={"range": allowed})


def range_of(config: type, name: str) -> Range:
    """Returns the range of a configuration's field."""
    allowed: Range = next(f for f in fields(config) if f.name == name).metadata["range"]
    return allowed


def known_keywords(config: type[Config]) -> type[Config]:
    """Makes a configuration's constructor raise UsageError for an unknown keyword, with the nearest one.

    It is used above `@dataclass`, so that type checkers and editors still see the fields.
    """
    construct: Callable[..., None] = config.__init__
    known = [part.name for part in fields(config) if part.init]  # type: ignore[arg-type]

    @wraps(construct)
    def _init(self: Config, *values: Any, **settings: Any) -> None:
        for name in settings:
            if name not in known:
                raise UsageError(
                    f"{config.__name__} has no setting '{shown(name)}'{near(name, known)}",
                    _home(config, name) or f"its settings: {', '.join(known)}",
                )
        construct(self, *values, **settings)

    config.__init__ = _init  # type: ignore[method-assign, assignment]
    return config


def _home(config: type, name: str) -> str | None:
    """Returns how to write a setting of a configuration within another one; None if none has it."""
    for part in fields(config):
        inner = _named(config, str(part.type))
        if is_dataclass(inner) and name in {field.name for field in fields(inner)}:
            return f"write {part.name}={part.type}({name}=…)"
    return None


def split_name(name: str) -> str:
    """Returns the split that a name means: `dev` for `validation`; an unknown name is a split of its own."""
    return SPLITS.get(name.casefold(), name)


def near_split(name: str) -> str | None:
    """Returns `train`, `dev` or `test` if an unknown name resembles a name of it, else None.

    A name with digits or separators, such as `test-2`, is a deliberate one.
    """
    if name.casefold() in SPLITS or not name.isalpha():
        return None
    meant = nearest(name, SPLITS)
    return None if meant is None else SPLITS[meant]


def check_fields(config: Any) -> None:
    """Checks the ranges and types of a frozen dataclass's fields; its `__post_init__` calls this first.

    Numbers become ints and floats without a negative zero, lists become tuples, texts become paths, and a
    split gets the name that stores have for it. Raises UsageError with the field, its allowed values and the
    given value.
    """
    for part in fields(config):
        value = getattr(config, part.name)
        if value is None and (part.default is None or "None" in str(part.type)):
            continue
        allowed: Range | None = part.metadata.get("range")
        by_encoder = part.metadata.get(BY_ENCODER)
        if by_encoder and allowed is not None and isinstance(value, str) and "=" in value:
            value = (value,)
        if by_encoder and isinstance(value, list | tuple) and value:
            object.__setattr__(config, part.name, _assignments(part.name, value, allowed))
        elif allowed is not None:
            object.__setattr__(config, part.name, allowed.require(part.name, value))
        elif many := _MANY.fullmatch(str(part.type)):
            kind = many[1] or many[2]
            members = _members(part.name, value, _named(type(config), kind), kind)
            object.__setattr__(config, part.name, members)
        elif str(part.type).startswith("Path"):
            if not isinstance(value, str | os.PathLike):
                raise UsageError(f"{part.name} must be a path, got {literal(value)}")
            object.__setattr__(config, part.name, Path(value))
        else:
            _require_kind(part, value, _named(type(config), str(part.type)))
            if choices := part.metadata.get("choices"):
                require_one_of(part.name, value, choices)
            if part.name in _SPLIT_FIELDS:
                object.__setattr__(config, part.name, split_name(value))


def _assignments(name: str, value: object, allowed: Range | None) -> tuple[str, ...]:
    """Returns `SCORER=VALUE` texts as a tuple; raises UsageError for other members."""
    texts = _members(name, value, str, "str")
    for text in texts:
        if "=" not in text:
            raise UsageError(
                f"{name} must be one value or NAME=VALUE for each model, got {literal(text)}",
                "write the name that the model has in the run, and =",
            )
        given = text.rpartition("=")[2]
        if allowed is not None and given != NO_VALUE and allowed.parse(given) is None:
            raise UsageError(f"{name} {allowed.refusal(given, True, literal(text))}")
    return texts


def require_one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Raises UsageError if a value is not one of `allowed`."""
    if value not in allowed:
        raise UsageError(
            f"{name} must be one of {', '.join(allowed)}, got {literal(value)}{near(value, allowed)}"
        )


def _named(config: type, kind: str) -> type | None:
    """Returns the class that a field's type names in the configuration's module; None for other types."""
    named = str if kind == "str" else vars(sys.modules[config.__module__]).get(kind)
    return named if isinstance(named, type) else None


def _members(name: str, value: object, kind: type | None, kind_name: str) -> tuple[Any, ...]:
    """Returns a list or a tuple as a tuple; raises UsageError for a text, which is a sequence too."""
    what = "texts" if kind is str else f"{kind_name}(…)"
    if not isinstance(value, list | tuple):
        raise UsageError(f"{name} must be a list or a tuple of {what}, got {literal(value)}")
    for member in value:
        if kind is not None and not isinstance(member, kind):
            raise UsageError(f"{name} must hold {what} only, got {literal(member)}")
    return tuple(value)


def _require_kind(part: Field[Any], value: object, named: type | None) -> None:
    if named is not None and is_dataclass(named) and not isinstance(value, named):
        article = "an" if named.__name__[0] in "AEIOU" else "a"
        raise UsageError(f"{part.name} must be {article} {named.__name__}(…), got {literal(value)}")
    kind = str(part.type).removesuffix(" | None").removesuffix(" | Sequence[str]")
    if kind == "str":
        if not isinstance(value, str):
            raise UsageError(f"{part.name} must be a text, got {literal(value)}")
        may_be_empty = part.name.endswith("_prompt")  # an empty prompt means no prompt
        if not value and part.default is not MISSING and part.default != "" and not may_be_empty:
            raise UsageError(f"{part.name} is empty", "give a value, or leave it out")
    if kind == "bool" and not isinstance(value, bool):
        raise UsageError(f"{part.name} must be true or false, got {literal(value)}")
