"""The request for queries from a document, and the queries in an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from miner.asking.answers import read_object
from miner.models.chat import ChatAnswer, Question
from miner.text import clean, text_key

_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"queries": {"type": "array", "items": {"type": "string"}}},
    "required": ["queries"],
    "additionalProperties": False,
}


def question(instructions: str, document: str) -> Question:
    """Returns the request; the document is a string in a JSON object, whatever it contains."""
    return Question(instructions, json.dumps({"document": document}, ensure_ascii=False), _SCHEMA)


def queries_in(answer: ChatAnswer, most: int) -> list[str] | None:
    """Returns the first `most` queries of an answer, white space collapsed; None for one of another form.

    An answer has the right form if it is `{"queries": [...]}`, alone or in a code fence, and every item is a
    text that is not blank.
    """
    found = (read_object(answer) or {}).get("queries")
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        return None
    texts = [" ".join(clean(one)[0].split()) for one in found]
    return texts[:most] if all(map(text_key, texts)) else None
