"""Single values: text, passages and numbers, and JSON that keeps numbers as written."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from miner.errors import InputError, shown
from miner.text import clean

JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
"""Keeps numbers as text, so that an id such as 1.10 or of 30 digits is not rounded."""


class Passage(NamedTuple):
    """A document in a row of pairs or triplets."""

    text: str | None
    title: str = ""
    id: str | None = None
    """None to make an id from the text."""
    score: str | None = None
    """The score that a retriever gave it, as it is written; None if it has none."""
    has_answer: str | None = None
    """Whether it contains an answer to the question, `true` or `false`, as DPR's retriever writes it."""


_TEXT_KEYS = ("text", "contents", "passage")
_ID_KEYS = ("docid", "doc_id", "_id", "id", "pid", "psg_id", "passage_id")
"""Keys of a passage that is an object, as in the data of Tevatron and DPR."""


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
    raise NotTextError(f"'{shown(column)}' holds {_NOUNS.get(type(value), 'an object')}, not text")


_NOUNS: dict[type, str] = {list: "a list", tuple: "a list"}


def as_passages(value: object, column: str) -> tuple[Passage, ...]:
    """Returns the passages of a value: a text, an object with a text, or a list of these; none for None.

    An object with a list of texts is what `datasets` makes of a list of objects. Raises NotTextError for
    anything else.
    """
    if isinstance(value, str):
        return (Passage(value),)
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return tuple(_passage(part, column) for part in value)
    if isinstance(value, dict) and isinstance(value.get(_text_key(value) or ""), list):
        lists = {key: each for key, each in value.items() if isinstance(each, list)}
        if len({len(each) for each in lists.values()}) > 1:
            raise NotTextError(f"'{shown(column)}' holds lists of different lengths")
        rows = zip(*lists.values(), strict=True)
        return tuple(_passage(dict(zip(lists, row, strict=True)), column) for row in rows)
    return (_passage(value, column),)


def _text_key(value: dict[str, object]) -> str | None:
    return next((key for key in _TEXT_KEYS if key in value), None)


def _passage(value: object, column: str) -> Passage:
    if not isinstance(value, dict):
        return Passage(as_text(value, column))
    key = _text_key(value)
    if key is None:
        raise NotTextError(f"'{shown(column)}' holds an object without a text")
    identity = next((value[key] for key in _ID_KEYS if value.get(key) is not None), None)
    return Passage(
        as_text(value[key], column),
        as_text(value.get("title"), column) or "",
        as_text(identity, column),
        *(_single(value.get(key)) for key in ("score", "has_answer")),
    )


def _single(value: object) -> str | None:
    return None if isinstance(value, list | dict) else as_text(value, "")


def is_blank(text: str | None) -> bool:
    """Returns whether a cleaned text is only white space."""
    return text is None or not clean(text)[0].strip()


_BOOLEANS = {"true": 1.0, "false": 0.0}


def as_number(text: str | None) -> float | None:
    """Returns the finite number in a text, 1 for `true` and 0 for `false`; else None."""
    try:
        number = float(text or "")
    except ValueError:
        return _BOOLEANS.get((text or "").strip().lower())
    return number if math.isfinite(number) else None


_JSON_KINDS: dict[type, str] = {
    list: "a list",
    str: "a text or number",
    bool: "true or false",
    type(None): "null",
}


def parse_json(text: str, origin: str, line: int, decoder: json.JSONDecoder = JSON) -> dict[str, Any]:
    """Returns the object on a line of JSON, with its numbers as text.

    Raises InputError with file and line if the JSON is broken or not an object.
    """
    try:
        value = decoder.decode(text.rstrip())
    except (json.JSONDecodeError, RecursionError) as error:
        what = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
        raise InputError(
            f"{origin}:{line}: broken JSON ({what})", "write one complete JSON object per line"
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            f"{origin}:{line}: {_JSON_KINDS.get(type(value), 'a number')}, not an object",
            'write one JSON object per line, such as {"_id": "1", "text": "…"}',
        )
    return value
