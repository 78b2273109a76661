"""SGML and XML as TREC has them: records between tags, their fields and text, in linear time."""

from __future__ import annotations

import html
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator
from typing import NamedTuple

from miner.errors import InputError
from miner.sources.files import File, lines

LONGEST_RECORD = 1 << 28
"""In characters; a record that goes on for longer is not closed."""
_TAG = re.compile(r"<(/?)([a-zA-Z][\w.:-]*)((?:\s[^<>]*)?)/?>")
_TITLES = frozenset(("title", "headline", "head", "hl", "ttl", "ti", "doctitle"))
_METADATA = frozenset(
    """docno docid docoldno dochdr docsrc fileid storyid first second date date1 date_time datetime pubdate
    pubno dd doctype edition page pages length num number profile parent cfrno rindock frfiling billing
    access accession an so in co g gv lang language url slug""".split()  # noqa: SIM905
)
"""Tags whose content is numbers, dates and codes about a document, not its text."""
_WEB = frozenset("docno docid docoldno dochdr script style".split())  # noqa: SIM905
"""The same for documents that are web pages: HTML gives other meanings to some of the names."""


class Record(NamedTuple):
    """What stands between an opening and a closing tag."""

    line: int
    text: str
    size: int
    """The bytes it took of the file."""
    attributes: str


class _Tag(NamedTuple):
    name: str
    closing: bool
    start: int
    end: int


def records(file: File, tag: str) -> Iterator[Record]:
    """Yields the contents of each <tag>; raises InputError for one that is never closed."""
    edge = re.compile(rf"<(/?){tag}((?:\s[^<>]*)?)>", re.IGNORECASE)
    start = size = characters = 0
    attributes = ""
    held: list[str] = []
    for line in lines(file):
        size += line.size
        place = 0
        for match in edge.finditer(line.text):
            if match[1] and start:
                yield Record(start, "".join([*held, line.text[place : match.start()]]), size, attributes)
                start = size = 0
            elif not match[1]:
                _require_closed(file, tag, start)
                start, held, characters, attributes = line.number, [], 0, match[2]
            place = match.end()
        if start:
            held.append(line.text[place:])
            characters += len(line.text)
            if characters > LONGEST_RECORD:
                _require_closed(file, tag, start)
    _require_closed(file, tag, start)


def _require_closed(file: File, tag: str, start: int) -> None:
    if start:
        raise InputError(f"{file.origin}:{start}: <{tag}> is never closed", "the file seems to be cut off")


def attribute(attributes: str, names: tuple[str, ...]) -> str | None:
    """Returns the value of the first of the attributes that is there."""
    for name in names:
        found = re.search(rf"(?:^|\s){name}\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s\"'>]+)", attributes, re.I)
        if found is not None:
            return html.unescape(found[1].strip("\"'")).strip()
    return None


def fields(text: str, names: Collection[str]) -> dict[str, str]:
    """Returns the content of the first element of each of the names, tags in it removed.

    An element without a closing tag, as old topics have them, ends at the next tag.
    """
    text = _without_comments(text)
    tags = list(_tags(text))
    closings = _closings(tags)
    found: dict[str, str] = {}
    for place, tag in enumerate(tags):
        if tag.closing or tag.name not in names or tag.name in found:
            continue
        end = _closing(closings, tag)
        if end is None:
            end = tags[place + 1].start if place + 1 < len(tags) else len(text)
        found[tag.name] = folded(text[tag.end : end])
    return found


def document(text: str) -> tuple[str, str]:
    """Returns title and text of a document: all that is in no tag of numbers, dates and codes.

    The title is the content of the tags that hold titles. A tag that is never closed ends at the next tag.
    """
    text = _without_comments(text)
    tags = list(_tags(text))
    closings = _closings(tags)
    metadata = _WEB if {"dochdr", "html"} & {tag.name for tag in tags} else _METADATA
    title: list[str] = []
    body: list[str] = []
    place = number = 0
    into = body
    until = -1
    while number <= len(tags):
        tag = tags[number] if number < len(tags) else _Tag("", True, len(text), len(text))
        number += 1
        if tag.start < place:
            continue
        into.append(text[place : tag.start])
        place = tag.end
        if 0 <= until <= tag.start:
            into, until = body, -1
        if tag.closing or into is title:
            continue
        end = _closing(closings, tag)
        following = tags[number].start if number < len(tags) else len(text)
        if tag.name in metadata:
            place = following if end is None else end
        elif tag.name in _TITLES:
            # The title ends at its closing tag, which is the first tag at or after `until`.
            into, until = title, following if end is None else end
            title.append(" ")
    return folded(" ".join(title)), html.unescape(" ".join(body)).strip()


def left_out(text: str) -> set[str]:
    """Returns the names of tags in a text whose content is not read, numbers of documents apart."""
    return {tag.name for tag in _tags(text) if not tag.closing and tag.name in _METADATA} - {"docno"}


def folded(markup: str) -> str:
    """Returns a text on one line, without tags and entities."""
    return " ".join(html.unescape(_TAG.sub(" ", markup)).split())


def _tags(text: str) -> Iterator[_Tag]:
    for match in _TAG.finditer(text):
        yield _Tag(match[2].lower(), bool(match[1]), match.start(), match.end())


def _closings(tags: list[_Tag]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for tag in tags:
        if tag.closing:
            found.setdefault(tag.name, []).append(tag.start)
    return found


def _closing(closings: dict[str, list[int]], tag: _Tag) -> int | None:
    """Returns where the first closing tag after an opening one of that name starts."""
    places = closings.get(tag.name, [])
    after = bisect_left(places, tag.end)
    return places[after] if after < len(places) else None


def _without_comments(text: str) -> str:
    """Removes <!-- … --> and the marks of <![CDATA[ … ]]>, whose content is text."""
    if "<!" not in text:
        return text
    kept, place = [], 0
    while (start := text.find("<!--", place)) >= 0 and (end := text.find("-->", start)) >= 0:
        kept.append(text[place:start])
        place = end + 3
    whole = "".join([*kept, text[place:]])
    if "<![CDATA[" not in whole:
        return whole
    pieces = whole.split("<![CDATA[")
    for number, piece in enumerate(pieces[1:], 1):
        content, mark, rest = piece.partition("]]>")
        pieces[number] = html.escape(content, quote=False) + rest if mark else piece
    return "".join(pieces)
