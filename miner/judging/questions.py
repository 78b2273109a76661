"""Questions for a language model about pairs, and its answers read strictly.

The instructions are the system message. The texts are one JSON object in the user message: whatever they
contain stays inside a JSON string. Any other answer than a grade of the scale gives none.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from miner.asking.answers import read_object
from miner.judging.config import COMPARED, JudgeConfig
from miner.models.chat import ChatAnswer, Question

VERDICTS = {"irrelevant": 0, "worse": 1, "as good": 2, "better": 3}
"""The grade of each verdict of the form `compared`."""
SHOWN = 3
"""The most positives that a request of the form `compared` shows."""
_GRADED: Mapping[str, Any] = {
    "type": "object",
    "properties": {"grade": {"type": "integer", "enum": [0, 1, 2, 3]}},
    "required": ["grade"],
    "additionalProperties": False,
}
_COMPARED: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "verdicts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "number": {"type": "integer"},
                    "verdict": {"type": "string", "enum": list(VERDICTS)},
                },
                "required": ["number", "verdict"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["verdicts"],
    "additionalProperties": False,
}

Grades = list[int | None]
"""A grade from 0 to 3 for each document of a question; None if the answer has none that can be read."""


@dataclass(frozen=True)
class QuestionTexts:
    """The texts of one question."""

    query: str
    documents: Sequence[str]
    known: Sequence[str] = ()
    """Positives of the query that the documents are compared with."""


def question(config: JudgeConfig, instructions: str, texts: QuestionTexts) -> Question:
    """Returns the question about one document (graded) or several (compared), in the order given."""
    shown = [text[: config.characters] for text in texts.documents]
    data: dict[str, Any] = {"query": texts.query}
    if config.form == COMPARED:
        data["known"] = [text[: config.characters] for text in texts.known[:SHOWN]]
        data["documents"] = [{"number": n, "text": text} for n, text in enumerate(shown, start=1)]
        return Question(instructions, json.dumps(data, ensure_ascii=False), _COMPARED)
    (data["document"],) = shown
    return Question(instructions, json.dumps(data, ensure_ascii=False), _GRADED)


def in_random_order(doc_ids: Sequence[str], query_id: str, seed: int) -> list[str]:
    """Returns the documents of a query in the order that the seed gives them: models favour positions."""
    shuffled = sorted(doc_ids)
    random.Random(f"{seed} {query_id}").shuffle(shuffled)
    return shuffled


def grades(form: str, answer: ChatAnswer, documents: int) -> Grades:
    """Returns the grades in an answer about so many documents.

    It has to be one JSON object of the right form, alone or in a code fence, after the thoughts
    of a model that shows them. A grade that is not one of the scale, a missing or repeated number: None.
    """
    unknown: Grades = [None] * documents
    found = read_object(answer)
    if found is None:
        return unknown
    return _compared(found, documents) if form == COMPARED else [_grade(found.get("grade"))]


def _grade(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 3 else None


def _compared(found: Mapping[str, Any], documents: int) -> Grades:
    rows = found.get("verdicts")
    given: dict[int, list[Any]] = {}
    for row in rows if isinstance(rows, list) else ():
        number = row.get("number") if isinstance(row, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= documents:
            return [None] * documents  # it speaks of other documents: which ones it means is not known
        given.setdefault(number, []).append(row.get("verdict"))
    return [_verdict(given.get(number, [])) for number in range(1, documents + 1)]


def _verdict(values: Sequence[Any]) -> int | None:
    if len(values) != 1 or not isinstance(values[0], str):
        return None
    return VERDICTS.get(values[0].strip().lower())
