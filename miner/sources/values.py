"""Single values: what counts as text and as a number, and JSON that keeps numbers as written."""

from __future__ import annotations

import json
import math
from typing import Any

from miner.errors import InputError
from miner.text import clean

_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
"""Numbers stay the text they were, so that an id 007.10 or of 30 digits is never rounded."""


class NotTextError(ValueError):
    """A value is a list or an object where text is needed."""


def as_text(value: object, column: str) -> str | None:
    """Returns a value as text, None for a missing one; raises NotTextError for lists and objects."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise NotTextError(f"'{column}' holds a {type(value).__name__}, not text")


def is_blank(text: str | None) -> bool:
    """Tells whether nothing but white space is left of a text once it is cleaned."""
    return text is None or not clean(text)[0].strip()


def as_number(text: str | None) -> float | None:
    """Returns the finite number that a text writes, or None."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def parse_json(text: str, origin: str, line: int) -> dict[str, Any]:
    """Returns the object on a line of JSON, its numbers as text.

    Raises InputError with file and line when it is broken or no object.
    """
    try:
        value = _DECODER.decode(text.rstrip())
    except (json.JSONDecodeError, RecursionError) as error:
        what = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
        raise InputError(
            f"{origin}:{line}: broken JSON ({what})", "each line must hold one whole JSON object"
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            f"{origin}:{line}: a JSON {type(value).__name__}, not an object",
            'each line must hold one JSON object, such as {"_id": "1", "text": "…"}',
        )
    return value
