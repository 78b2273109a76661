"""HTML that is safe by type: a plain text is escaped, and only what this module made is markup.

Stores hold other people's texts. Nothing that is written into a page as a `str` can become markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from miner.errors import counted
from miner.reporting.readable import escaped
from miner.reporting.tables import percent

_EMPTY = frozenset(("br", "meta", "rect", "line", "circle", "path"))
"""Elements without content."""


class Html(str):
    """A piece of a page that is already markup."""

    __slots__ = ()


Content = str | Html | None
"""What an element contains: markup, a text to escape, or nothing."""


def safe(content: Content) -> Html:
    """Returns markup as it is, and a text escaped; control characters and marks that turn the direction of a
    text become visible escapes such as `\\x1b`."""
    if isinstance(content, Html):
        return content
    return Html("" if content is None else escaped(content))


def tag(name: str, /, *content: Content, **attributes: str | float | bool | None) -> Html:
    """Returns an element. An attribute that is None or False is left out, and True has no value.

    `class_` is `class`; other underscores become hyphens, except in `viewBox` and its like.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        written = key.rstrip("_").replace("_", "-")
        parts.append(written if value is True else f'{written}="{escaped(value)}"')
    opened = f"<{' '.join(parts)}>"
    inside = "".join(map(safe, content))
    if name in _EMPTY:
        return Html(opened if name in ("br", "meta") else f"{opened[:-1]}/>")
    return Html(f"{opened}{inside}</{name}>")


def join(parts: Iterable[Content], between: str = "") -> Html:
    """Returns the pieces one after the other."""
    return Html(between.join(map(safe, parts)))


def paragraph(*content: Content, class_: str | None = None) -> Html:
    """Returns a paragraph."""
    return tag("p", *content, class_=class_)


def code(text: str) -> Html:
    """Returns a command or a name as code."""
    return tag("code", text)


def share(value: float | None, digits: int = 1) -> str:
    """Returns a share as `reporting.tables.percent` writes it, with a space at which no line breaks."""
    return percent(value, digits).replace(" ", "\u00a0")


def data_text(text: str | None, most: int, size: int | None = None) -> Html:
    """Returns a text of the data in its own direction, cut after `most` characters.

    `size` is the number of characters of the whole text, if `text` is only its beginning. None is a text that
    the store no longer has.
    """
    if text is None:
        return tag("em", "no longer in the store")
    text = text.replace("\r\n", "\n").expandtabs(4)
    whole = len(text) if size is None else size
    if whole <= most:
        return tag("span", text, dir="auto", class_="text")
    cut = tag("span", text[:most], " …", dir="auto", class_="text")
    return join([cut, tag("span", f" ({counted(whole, 'character')} in all)", class_="quiet")])


def table(
    caption: str, head: Sequence[Content], rows: Iterable[Sequence[Content]], left: Iterable[int] = (0,)
) -> Html:
    """Returns a table that scrolls by itself if it is wider than the page.

    The columns whose numbers are in `left` (-1 is the last) are aligned to the left, the others are numbers.
    The first column has the names of the rows.
    """
    to_left = {column % len(head) for column in left}
    classes = ["left" if column in to_left else "number" for column in range(len(head))]
    heads = (tag("th", cell, scope="col", class_=name) for cell, name in zip(head, classes, strict=True))
    body = []
    for row in rows:
        cells = [
            tag("td" if column else "th", cell, class_=name, scope=None if column else "row")
            for column, (cell, name) in enumerate(zip(row, classes, strict=True))
        ]
        body.append(tag("tr", *cells))
    inner = tag(
        "table", tag("caption", tag("span", caption)), tag("thead", tag("tr", *heads)), tag("tbody", *body)
    )
    return tag("div", inner, class_="scroll", role="region", aria_label=caption, tabindex="0")


def details(summary: str, *content: Content) -> Html:
    """Returns what a reader opens: a line, and what is below it."""
    return tag("details", tag("summary", summary), *content)


def listing(items: Iterable[Content]) -> Html:
    """Returns a bulleted list."""
    return tag("ul", *(tag("li", item) for item in items))


def terms(pairs: Iterable[tuple[Content, Content]]) -> Html:
    """Returns names with what they are, as a description list."""
    return tag("dl", *(join([tag("dt", name), tag("dd", value)]) for name, value in pairs))
