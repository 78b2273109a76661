"""Results as HTML, which notebooks show: every text is escaped, because stores hold other people's texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from miner.errors import printable


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]], left: Iterable[int] = (0,)) -> str:
    """Returns a table; the columns whose numbers are in `left` are aligned to the left, the others right."""
    to_left = set(left)
    lines = [_row("th", head, to_left), *(_row("td", row, to_left) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def _row(tag: str, cells: Sequence[object], to_left: set[int]) -> str:
    aligned = ("left" if column in to_left else "right" for column in range(len(cells)))
    inside = (
        f"<{tag} style='text-align:{side}'>{escaped(cell)}</{tag}>"
        for cell, side in zip(cells, aligned, strict=True)
    )
    return f"<tr>{''.join(inside)}</tr>"


def preformatted(text: str) -> str:
    """Returns a text of aligned lines as HTML that keeps them aligned."""
    return f"<pre style='line-height:1.3'>{escaped(text)}</pre>"


def escaped(value: object) -> str:
    """Returns a value as text in HTML, without what drives a terminal or turns the direction of the text."""
    return escape(printable(str(value), keep="\n"))
