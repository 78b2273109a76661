"""Normalisation, text keys and content hashes: when two texts are the same."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

PASSAGE = 4
"""Words that a document's text has at least where it is a passage of its own, without the title."""
_LONG_PASSAGE = 8
"""Words with which it is one under any title: as many in a row are also a part for `miner contamination`."""
_WORDS_OF_A_NAME = 20

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

_UNSPACED_BLOCKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x109F),  # Tibetan, Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x3005, 0x30FF),  # iteration marks, Hiragana, Katakana
    (0x3100, 0x312F),  # Bopomofo
    (0x31A0, 0x31FF),  # Bopomofo and Katakana extensions
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0xA4CF),  # Han, Yi
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xF900, 0xFAFF),  # Han
    (0x16FE0, 0x18DFF),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # Kana, Nushu
    (0x20000, 0x3FFFD),  # Han
)
"""Where scripts are written without spaces between words. Their letters and marks count, not their digits
and punctuation. Korean has spaces."""
_WIDE = "\u2e80-\u2fdf\u3200-\u33ff\uff00-\uffef"
"""Compatibility forms that stand among such letters: radicals, squared words, half and full width."""
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Break hints and variation selectors: a text is the same text with and without them."""


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
    return _key(normalise(text))


def _key(normalised: str) -> int:
    if not normalised:
        return 0
    digest = hashlib.blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def document_keys(titles: Iterable[str], texts: Iterable[str]) -> tuple[list[int], list[int | None]]:
    """Returns the `text_key` of every document, title before the text, and that of its passage.

    A document's text without its title is a passage of its own if it has eight words or more, or if it
    has four or more and no fewer than the title. Else its passage is None: of "Yes." under "Is it open
    on Sundays?" the title says as much as the text.
    """
    keys, passages = [], list[int | None]()
    for title, text in zip(titles, texts, strict=True):
        passage = normalise(text)
        if not title:
            keys.append(_key(passage))
            passages.append(None)
            continue
        above = normalise(title)
        keys.append(_key(" ".join(filter(None, (above, passage)))))
        least = min(max(PASSAGE, _word_count(above)), _LONG_PASSAGE)
        passages.append(_key(passage) if above and _word_count(passage) >= least else None)
    return keys, passages


def _word_count(normalised: str) -> int:
    if normalised.isascii():
        return normalised.count(" ") + 1 if normalised else 0
    return len(words(normalised))


def text_keys(texts: Iterable[str]) -> npt.NDArray[np.int64]:
    """Returns the `text_key` of every text, in order."""
    return np.fromiter((text_key(text) for text in texts), dtype=np.int64)


@cache
def marks() -> str:
    """Returns all combining marks as the inside of a regular expression's character class.

    Marks belong to the word of the letter before them, though `\\w` does not match them.
    """
    return _ranges(code for code in range(0x300, 0x1F000) if unicodedata.category(chr(code))[0] == "M")


@cache
def _unspaced() -> str:
    """Letters and marks of scripts without spaces, as the inside of a character class."""
    kinds = ("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nl", "No")
    codes = (code for first, last in _UNSPACED_BLOCKS[:-1] for code in range(first, last + 1))
    first, last = map(chr, _UNSPACED_BLOCKS[-1])
    return _ranges(code for code in codes if unicodedata.category(chr(code)) in kinds) + f"{first}-{last}"


def _ranges(codes: Iterable[int]) -> str:
    """Sorted code points as ranges of a character class."""
    found: list[list[int]] = []
    for code in codes:
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in found)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """Compiled when it is first needed: ASCII texts need none of them."""
    letters = _unspaced()
    telling = marks().replace("\ufe00-\ufe0f", "")  # emoji have these
    patterns = {
        "unspaced": _quick(letters),
        "marked": _quick(letters + marks()),
        "odd": _quick(f"{letters}{telling}{_WIDE}\u0130"),
        "joiner": f"(?<=[{marks()}])[\u200c\u200d]",
        "gap": rf"(?<=[{letters}])\s+(?=[{letters}])",
        "piece": rf"([{letters}]+)|[^\s{letters}]+",
        "part": rf"[{letters}][{marks()}\u200b-\u200d\u2060\U000e0100-\U000e01ef]*|[^\s{letters}]+",
        "character": f"(?:(?![{marks()}])[{letters}])?[{marks()}]*",
        "wide": f"[{letters}{_WIDE}]+",
        "token": rf"\w[\w{marks()}]+|[{letters}]",
    }
    return re.compile(patterns[name])


def _quick(characters: str) -> str:
    """A class that is searched for in every text: one table look-up per character.

    Beyond the first 65,536 characters it is coarse, and finds all but emoji.
    """
    near = re.sub("[\U00010000-\U0010ffff]-[\U00010000-\U0010ffff]", "", characters)
    return f"[{near}\U00010000-\U0001efff\U00020000-\U0010ffff]"


def is_marked(text: str) -> bool:
    """Returns whether a text has combining marks or letters of a script without spaces."""
    return not text.isascii() and _pattern("marked").search(text) is not None


def words(text: str, size: int = 2) -> list[str]:
    """Returns the words of a normalised text: what white space separates.

    A run of a script without spaces (Chinese, Japanese, Thai, Khmer, Lao, Burmese and others) is
    returned as its overlapping n-grams of `size` characters, the run itself where it is shorter; a
    character is a letter with its marks, and white space between two of them does not end a run.
    """
    if not is_unspaced(text):
        return text.split()
    found: list[str] = []
    for piece in _pattern("piece").finditer(_pattern("gap").sub("", _INVISIBLE.sub("", text))):
        found += _grams(piece[0], size) if piece[1] else [piece[0]]
    return found


def parts(text: str) -> list[list[str]]:
    """Returns for each piece of a text between white space the parts it consists of, nothing left out.

    A piece is one part, a word; but in scripts without spaces every character is a part, a letter with
    its marks, and what stands between such characters is another.
    """
    pieces = text.split()
    if not is_unspaced(text):
        return [[piece] for piece in pieces]
    return [_pattern("part").findall(piece) for piece in pieces]


def is_unspaced(text: str) -> bool:
    """Returns whether a text has letters of a script without spaces between words."""
    return not text.isascii() and _pattern("unspaced").search(text) is not None


def is_sentence(text: str) -> bool:
    """Returns whether a text has too many words for the name of a column: more than 20.

    That is a run of more than 21 characters in scripts without spaces.
    """
    return len(words(text)) > _WORDS_OF_A_NAME


def _grams(run: str, size: int) -> list[str]:
    characters = [found for found in _pattern("character").findall(run) if found]
    return ["".join(characters[start : start + size]) for start in range(max(1, len(characters) - size + 1))]


def for_tokens(texts: Iterable[str]) -> tuple[list[str], str | None]:
    """Prepares texts for a tokeniser of two or more word characters: what it finds are words in any script.

    Returns the texts and the pattern to use, None for the usual one. Only texts that need it are changed,
    and texts without marks or letters of scripts without spaces have the same tokens with either pattern.
    A run of a script without spaces becomes its overlapping pairs of characters, as in `words`.
    """
    found = list(texts)
    search = _pattern("odd").search
    odd = [place for place, text in enumerate(found) if not text.isascii() and search(text)]
    for place in odd:
        found[place] = _spread(found[place])
    return found, _pattern("token").pattern if odd else None


def _spread(text: str) -> str:
    """The text with spaces around the bigrams of its scripts without spaces, and composed letters.

    The lower case of İ is an i with a mark, in Python as in Unicode: it becomes a plain one.
    """
    visible = _pattern("joiner").sub("", _INVISIBLE.sub("", text.replace("\u0130", "i")))
    composed = unicodedata.normalize("NFC", visible)
    plain = _pattern("wide").sub(lambda run: unicodedata.normalize("NFKC", run[0]), composed)
    return _pattern("wide").sub(lambda run: f" {' '.join(words(run[0]))} ", plain)


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
