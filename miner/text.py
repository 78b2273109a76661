"""Normalisation, text keys and content hashes: when two texts are the same."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def clean(text: str) -> tuple[str, bool]:
    """Removes what no UTF-8 store can hold: NUL characters and lone surrogates.

    Returns the text and whether anything was removed.
    """
    if _UNSTORABLE.search(text) is None:
        return text, False
    return _UNSTORABLE.sub("", text), True


def normalise(text: str) -> str:
    """Returns the form in which two texts count as the same text.

    Unicode NFKC, case folded, runs of white space folded to one space, none at the ends.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def text_key(text: str) -> int:
    """Returns the signed 64-bit hash of the normalised text; 0 if nothing is left of it."""
    normalised = normalise(text)
    if not normalised:
        return 0
    digest = hashlib.blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def text_keys(texts: Iterable[str]) -> npt.NDArray[np.int64]:
    """Returns the `text_key` of every text, in order."""
    return np.fromiter((text_key(text) for text in texts), dtype=np.int64)


def join_title(title: str, text: str) -> str:
    """Returns what models and indexes read of a document: the title, if any, before the text."""
    return f"{title} {text}" if title else text


def content_id(prefix: str, text: str) -> str:
    """Returns a short id that depends on the text alone: `prefix` and 16 hexadecimal digits."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return f"{prefix}{digest.hexdigest()}"


def fingerprint(value: Any) -> str:
    """Returns the sha256 of a JSON-able value in canonical form (sorted keys, no spaces)."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
