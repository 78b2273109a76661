"""SGML and XML of TREC: the elements of a file, their fields and text, in linear time."""

from __future__ import annotations

import html
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator
from typing import NamedTuple

from miner.errors import InputError
from miner.sources.files import File, lines

LONGEST_ELEMENT = 1 << 28
"""Longest element, in characters; a longer one counts as not closed."""
_TAG = re.compile(r"<(/?)([a-zA-Z][\w.:-]*)((?:\s[^<>]*)?)/?>")
_TITLES = frozenset(("title", "headline", "head", "hl", "ttl", "ti", "doctitle"))
_METADATA = frozenset(
    """docno docid docoldno dochdr docsrc fileid storyid first second date date1 date_time datetime pubdate
    pubno dd doctype edition page pages length num number profile parent cfrno rindock frfiling billing
    access accession an so in co g gv lang language url slug""".split()  # noqa: SIM905
)
"""Tags with numbers, dates and codes about a document instead of its text."""
_WEB = frozenset("docno docid docoldno dochdr script style".split())  # noqa: SIM905
"""The same for web pages: in HTML, some of these names mean something else."""


class Element(NamedTuple):
    """The content between an opening and a closing tag."""

    line: int
    text: str
    size: int
    """Number of bytes in the file."""
    attributes: str


def elements(file: File, tag: str) -> Iterator[Element]:
    """Yields each element with this tag; raises InputError for one that is never closed."""
    edge = re.compile(rf"<(/?){tag}((?:\s[^<>]*)?)>", re.IGNORECASE)
    start = size = characters = 0
    attributes = ""
    pieces: list[str] = []
    for line in lines(file):
        size += line.size
        position = 0
        for match in edge.finditer(line.text):
            if match[1] and start:
                yield Element(
                    start, "".join([*pieces, line.text[position : match.start()]]), size, attributes
                )
                start = size = 0
            elif not match[1]:
                if start:
                    raise InputError(
                        f"{file.origin}:{start}: <{tag}> is not closed before the next on line {line.number}",
                        f"write </{tag}> between them",
                    )
                start, pieces, characters, attributes = line.number, [], 0, match[2]
            position = match.end()
        if start:
            pieces.append(line.text[position:])
            characters += len(line.text)
            if characters > LONGEST_ELEMENT:
                _require_closed(file, tag, start)
    _require_closed(file, tag, start)


def _require_closed(file: File, tag: str, start: int) -> None:
    if start:
        raise InputError(f"{file.origin}:{start}: <{tag}> is never closed", "the file seems to be incomplete")


def attribute(attributes: str, names: tuple[str, ...]) -> str | None:
    """Returns the value of the first attribute that exists; None if none does."""
    for name in names:
        found = re.search(rf"(?:^|\s){name}\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s\"'>]+)", attributes, re.I)
        if found is not None:
            return html.unescape(found[1].strip("\"'")).strip()
    return None


class Markup:
    """A text with tags, parsed once."""

    def __init__(self, text: str) -> None:
        self._text = _without_comments(text)
        self._tags = _tags(self._text)
        self._closings: dict[str, list[int]] = {}
        """The start of the closing tags of each name."""
        self.unread: set[str] = set()
        """The tags whose content `document` left out, except the number of the document."""
        for name, closing, start, _ in self._tags:
            if closing:
                self._closings.setdefault(name, []).append(start)

    def fields(self, names: Collection[str]) -> dict[str, str]:
        """Returns the content of the first element with each name, without the tags in it.

        An element without a closing tag, as in old topics, ends at the next tag.
        """
        found: dict[str, str] = {}
        for position, (name, closing, _, end) in enumerate(self._tags):
            if not closing and name in names and name not in found:
                found[name] = folded(self._text[end : self._end(position)])
        return found

    def document(self) -> tuple[str, str]:
        """Returns the title and the text of a document, without tags of numbers, dates and codes.

        The title is the content of the title tags, the text everything else.
        """
        text, tags = self._text, self._tags
        metadata = _WEB if any(tag[0] in ("dochdr", "html") for tag in tags) else _METADATA
        title: list[str] = []
        body: list[str] = []
        into, position, until = body, 0, -1
        for number, (name, closing, start, end) in enumerate(tags):
            if start < position:
                continue
            into.append(text[position:start])
            position = end
            if 0 <= until <= start:
                into, until = body, -1
            if closing or into is title:
                continue
            if name in metadata:
                position = self._end(number)
                if name != "docno":
                    self.unread.add(name)
            elif name in _TITLES:
                # It ends at its closing tag, the first tag at or after `until`.
                into, until = title, self._end(number)
        into.append(text[position:])
        return folded(" ".join(title)), html.unescape(" ".join(body)).strip()

    def _end(self, number: int) -> int:
        """Returns the end of an element: its closing tag, or the next tag if it has none."""
        name, _, _, end = self._tags[number]
        closings = self._closings.get(name, ())
        after = bisect_left(closings, end)
        if after < len(closings):
            return closings[after]
        return self._tags[number + 1][2] if number + 1 < len(self._tags) else len(self._text)


def folded(markup: str) -> str:
    """Returns a text on one line, without tags and entities."""
    return " ".join(html.unescape(_TAG.sub(" ", markup)).split())


def _tags(text: str) -> list[tuple[str, bool, int, int]]:
    """Returns the name of each tag, whether it is a closing tag, its start and its end."""
    return [(m[2].lower(), bool(m[1]), m.start(), m.end()) for m in _TAG.finditer(text)]


def _without_comments(text: str) -> str:
    """Removes <!-- … --> with its content, and <![CDATA[ and ]]> around theirs."""
    if "<!" not in text:
        return text
    kept, position = [], 0
    while (start := text.find("<!--", position)) >= 0 and (end := text.find("-->", start)) >= 0:
        kept.append(text[position:start])
        position = end + 3
    whole = "".join([*kept, text[position:]])
    if "<![CDATA[" not in whole:
        return whole
    pieces = whole.split("<![CDATA[")
    for number, piece in enumerate(pieces[1:], 1):
        content, mark, rest = piece.partition("]]>")
        pieces[number] = html.escape(content, quote=False) + rest if mark else piece
    return "".join(pieces)
