"""Instructions for a language model, and its answers read strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miner.errors import UsageError

if TYPE_CHECKING:
    from miner.models.chat import ChatAnswer

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL)


def instructions_in(prompt: str | None, own: Path) -> str:
    """Returns the text of the file `prompt`, or without one of `own`, a file of the package.

    Raises UsageError for a file that is not there or not UTF-8.
    """
    if prompt is None:
        return own.read_text("utf-8").strip()
    try:
        return Path(prompt).read_text("utf-8").strip()
    except OSError as error:
        raise UsageError(
            f"cannot read the prompt {prompt}: {error.strerror}", "name a text file with instructions"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt {prompt} is not UTF-8", "save it as UTF-8") from error


def read_object(answer: ChatAnswer) -> dict[str, Any] | None:
    """Returns the JSON object that is the whole answer; None for any other answer.

    A code fence around it is allowed, and before it the thoughts of a model that shows them.
    """
    if answer.failure:
        return None
    text = _THOUGHTS.sub("", answer.text).strip()
    if fenced := _FENCE.match(text):
        text = fenced[1].strip()
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object; raises ValueError if a name occurs twice, as readers differ on what it means."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found
