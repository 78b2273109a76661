"""Normalisation, text keys and content hashes, which define when two texts are the same; and words."""

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

_SPACED = re.compile(r"\S+")
PASSAGE = 4
"""The fewest words of a document's text that can stand alone as a passage, without the title."""
_LONG_PASSAGE = 8
"""Words with which it is one under any title: as many in a row are also a part for `miner contamination`."""
_START = 100
"""Characters in which so many words usually are."""
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
"""Blocks of the scripts that have no spaces between words; only their letters and marks matter here, not
their digits and punctuation. Korean has spaces."""
_WIDE = "\u2e80-\u2fdf\u3200-\u33ff\uff00-\uffef"
"""Compatibility characters that occur among such letters: radicals, squared words, half and full width."""
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Break hints and variation selectors, which do not distinguish texts."""


def clean(text: str) -> tuple[str, bool]:
    """Removes the characters that a store cannot hold: NUL characters and lone surrogates.

    Returns the text and whether anything was removed.
    """
    if "\0" not in text and (text.isascii() or _UNSTORABLE.search(text) is None):
        return text, False
    return _UNSTORABLE.sub("", text), True


def normalise(text: str) -> str:
    """Returns the normalised text: texts of equal normalised form are the same text.

    It is Unicode NFKC, case-folded, with single spaces between words and none at the ends.
    """
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    # The only printable white space is the space; most texts have single ones, and need no splitting.
    if folded.isprintable() and "  " not in folded and folded.strip(" ") == folded:
        return folded
    return " ".join(folded.split())


def text_key(text: str) -> int:
    """Returns the signed 64-bit hash of the normalised text; 0 if it is empty."""
    return _key(normalise(text))


def _key(normalised: str) -> int:
    if not normalised:
        return 0
    digest = hashlib.blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def document_keys(titles: Iterable[str], texts: Iterable[str]) -> tuple[list[int], list[int | None]]:
    """Returns the `text_key` of every document (title and text), and that of its passage.

    A document's text without its title is a passage if it has at least eight words, or at least four and no
    fewer than the title. Otherwise its passage is None: the text "Yes." under the title "Is it open on
    Sundays?" means nothing alone.
    """
    keys, passages = [], list[int | None]()
    for title, text in zip(titles, texts, strict=True):
        passage = normalise(text)
        if not title:
            keys.append(_key(passage))
            passages.append(None)
            continue
        heading = normalise(title)
        keys.append(_key(" ".join(filter(None, (heading, passage)))))
        least = max(PASSAGE, _word_count(heading))
        passages.append(_key(passage) if heading and _word_count(passage) >= least else None)
    return keys, passages


def _word_count(normalised: str) -> int:
    """Returns the number of words, or _LONG_PASSAGE if there are more."""
    if normalised.isascii():
        return min(normalised.count(" ") + 1, _LONG_PASSAGE) if normalised else 0
    # The beginning alone has never more words than the whole text, and is read much faster.
    start = words(_INVISIBLE.sub("", normalised[:_START]))
    return min(len(start) if len(start) >= _LONG_PASSAGE else len(words(normalised)), _LONG_PASSAGE)


def text_keys(texts: Iterable[str]) -> npt.NDArray[np.int64]:
    """Returns the `text_key` of every text, in order."""
    return np.fromiter((text_key(text) for text in texts), dtype=np.int64)


@cache
def marks() -> str:
    """Returns all combining marks, as the content of a regular expression's character class.

    A mark belongs to the word of the letter before it, although `\\w` does not match it.
    """
    return _ranges(code for code in range(0x300, 0x1F000) if unicodedata.category(chr(code))[0] == "M")


@cache
def _unspaced() -> str:
    """Returns the letters and marks of scripts without spaces, as the content of a character class."""
    kinds = ("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nl", "No")
    codes = (code for first, last in _UNSPACED_BLOCKS[:-1] for code in range(first, last + 1))
    first, last = map(chr, _UNSPACED_BLOCKS[-1])
    return _ranges(code for code in codes if unicodedata.category(chr(code)) in kinds) + f"{first}-{last}"


def _ranges(codes: Iterable[int]) -> str:
    """Returns sorted code points as ranges of a character class."""
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """Returns a compiled pattern. It is compiled at its first use, since ASCII texts need none."""
    letters = _unspaced()
    distinctive = marks().replace("\ufe00-\ufe0f", "")  # emoji contain these
    patterns = {
        "unspaced": _quick(letters),
        "marked": _quick(letters + marks()),
        "odd": _quick(f"{letters}{distinctive}{_WIDE}\u0130"),
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
    """Returns a fast character class for a search in every text: one table look-up per character.

    Beyond the first 65,536 code points it is coarse and matches everything but emoji.
    """
    near = re.sub("[\U00010000-\U0010ffff]-[\U00010000-\U0010ffff]", "", characters)
    return f"[{near}\U00010000-\U0001efff\U00020000-\U0010ffff]"


def is_marked(text: str) -> bool:
    """Returns whether a text has combining marks or letters of a script without spaces."""
    return not text.isascii() and _pattern("marked").search(text) is not None


def words(text: str, size: int = 2) -> list[str]:
    """Returns the words of a normalised text: the pieces between white space.

    A run of a script without spaces (Chinese, Japanese, Thai, Khmer, Lao, Burmese and others) becomes its
    overlapping n-grams of `size` characters, or the run itself if it is shorter. A character is a letter with
    its marks. White space within such a run is ignored.
    """
    if not is_unspaced(text):
        return text.split()
    result: list[str] = []
    for piece in _pattern("piece").finditer(_pattern("gap").sub("", _INVISIBLE.sub("", text))):
        result += _grams(piece[0], size) if piece[1] else [piece[0]]
    return result


def parts(text: str) -> list[list[str]]:
    """Returns the parts of each piece of a text between white space; together they are the whole piece.

    Usually a piece is one part, a word. In scripts without spaces each character (a letter with its marks) is
    a part, and so is every run of other characters.
    """
    pieces = text.split()
    if not is_unspaced(text):
        return [[piece] for piece in pieces]
    return [_pattern("part").findall(piece) for piece in pieces]


def part_spans(text: str) -> list[tuple[int, int]]:
    """Returns where each of the `parts` of a text begins and ends, in order."""
    pattern = _pattern("part") if is_unspaced(text) else _SPACED
    return [part.span() for part in pattern.finditer(text)]


def is_unspaced(text: str) -> bool:
    """Returns whether a text has letters of a script without spaces between words."""
    return not text.isascii() and _pattern("unspaced").search(text) is not None


def is_sentence(text: str) -> bool:
    """Returns whether a text has too many words for the name of a column: more than 20.

    In scripts without spaces that is a run of more than 21 characters.
    """
    return len(words(text)) > _WORDS_OF_A_NAME


def _grams(run: str, size: int) -> list[str]:
    characters = [one for one in _pattern("character").findall(run) if one]
    return ["".join(characters[start : start + size]) for start in range(max(1, len(characters) - size + 1))]


def words_in_any_script(text: str) -> list[str] | None:
    """Returns the lower-case words of a text with marks or with letters of scripts without spaces.

    In these scripts a word is a pair of neighbouring characters, as in `words`, or a character alone. Returns
    None for other texts: their words are the runs of two or more letters, digits and underscores.
    """
    if text.isascii() or _pattern("odd").search(text) is None:
        return None
    return _pattern("token").findall(_spread(text).lower())


def _spread(text: str) -> str:
    """Returns the text with composed letters, and spaces around the bigrams of scripts without spaces.

    The lower case of İ is an i with a mark, in Python as in Unicode; here it becomes a plain i.
    """
    visible = _pattern("joiner").sub("", _INVISIBLE.sub("", text.replace("\u0130", "i")))
    composed = unicodedata.normalize("NFC", visible)
    plain = _pattern("wide").sub(lambda run: unicodedata.normalize("NFKC", run[0]), composed)
    return _pattern("wide").sub(lambda run: f" {' '.join(words(run[0]))} ", plain)


def join_title(title: str, text: str) -> str:
    """Returns the text of a document for models and indexes: the title, if any, before the text."""
    return f"{title} {text}" if title else text


def content_id(prefix: str, text: str) -> str:
    """Returns a short id that depends only on the text: `prefix` and 16 hexadecimal digits."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return f"{prefix}{digest.hexdigest()}"


def fingerprint(value: Any) -> str:
    """Returns the sha256 of a JSON-able value in canonical form (sorted keys, no spaces)."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
