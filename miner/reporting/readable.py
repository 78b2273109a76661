"""Results as a prompt shows them, in one line, and as a notebook shows them, in a table.

Every text in HTML is escaped, because stores hold other people's texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any

from miner.errors import listed, printable, shown
from miner.reporting.tables import NONE, text_table

_FEW = 5
"""Entries of a list or a mapping that are shown, rather than their number."""


class Readable:
    """A dataclass with a short `repr`, and a table in notebooks. Subclasses say more with `as_text`."""

    def as_text(self) -> str:
        """Returns the result as people read it: a line per field, in aligned columns."""
        rows = [[name.replace("_", " "), text] for name, text in _shown_fields(self).items()]
        return "\n".join(text_table(rows, left=(0, 1)))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={shown(text, 60)}" for name, text in _shown_fields(self).items())
        return f"{type(self).__name__}({values})"

    def _repr_html_(self) -> str:
        return preformatted(self.as_text())


def _shown_fields(result: Any) -> dict[str, str]:
    """Returns the fields that fit into a line, as text; for a long list its number of entries."""
    texts = {part.name: _text(getattr(result, part.name)) for part in fields(result) if part.repr}
    return {name: text for name, text in texts.items() if text is not None}


def _text(value: Any) -> str | None:
    if value is None:
        return NONE
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str | int | Path):
        return str(value)
    if isinstance(value, Mapping) and len(value) <= _FEW and not any(map(_is_large, value.values())):
        return listed(f"{key} {_text(inner)}" for key, inner in value.items()) or NONE
    if isinstance(value, list | tuple) and len(value) <= _FEW and not any(map(_is_large, value)):
        return listed(str(_text(inner)) for inner in value) or NONE
    if hasattr(value, "__len__"):
        return f"{len(value):,} entries"
    return str(value) if _has_text(value) else None


def _is_large(value: Any) -> bool:
    return not isinstance(value, str | int | float | Path | None) and not _has_text(value)


def _has_text(value: Any) -> bool:
    own: object = type(value).__str__
    return isinstance(value, Readable) or own is not object.__str__


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
