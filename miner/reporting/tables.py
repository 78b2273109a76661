"""Tables as aligned text and as Markdown, and how numbers, names and texts are written in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from miner.errors import printable

NONE = "-"
"""The cell of a value that does not exist."""


def text_table(rows: Sequence[Sequence[str]], left: Iterable[int] = (0,)) -> list[str]:
    """Returns the rows as aligned lines.

    The columns whose numbers are in `left` (from 0; -1 is the last) are aligned to the left, the others
    to the right. Control characters are escaped, because cells may hold names from another person's store.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    to_left = {column % len(widths) for column in left}
    return [
        "  ".join(
            cell.ljust(width) if column in to_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[int] = ()
) -> list[str]:
    """Returns the lines of a Markdown table.

    The columns whose numbers are in `right` are aligned to the right. A vertical bar in a cell is escaped.
    """
    to_right = set(right)
    rule = ["---:" if column in to_right else "---" for column in range(len(head))]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, rule, *rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def percent(share: float | None, digits: int = 1) -> str:
    """Returns a share from 0 to 1 as a percentage, such as `12.5 %`; `-` for None."""
    return NONE if share is None else f"{100 * share:.{digits}f} %"


def percent_interval(low: float, high: float, digits: int = 1) -> str:
    """Returns the two ends of an interval of a share, such as `[11.0 %, 14.2 %]`."""
    return f"[{percent(low, digits)}, {percent(high, digits)}]"


def decimal(value: float | None, digits: int) -> str:
    """Returns a number with so many digits after the point; `-` for None."""
    return NONE if value is None else f"{value:.{digits}f}"


def signed(value: float, digits: int = 4) -> str:
    """Returns a difference with its sign, such as `+0.0124`."""
    return f"{value:+.{digits}f}"


def signed_interval(low: float, high: float, digits: int = 4) -> str:
    """Returns the two ends of an interval of a difference, such as `[-0.0012, +0.0260]`."""
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def short_names(names: Sequence[str]) -> list[str]:
    """Returns the last part of each path, hub id or `URL#MODEL`; the whole names if two would be equal."""
    ends = [name.rpartition("#")[2] if "://" in name else name for name in names]
    short = [name.rstrip("/").rpartition("/")[2] for name in ends]
    return short if len(set(short)) == len(set(names)) else list(names)


def shortened(value: Any, most: int) -> Any:
    """Returns a JSON-able value in which a text longer than `most` characters is cut and ends with ` …`."""
    if isinstance(value, str):
        return value if len(value) <= most else f"{value[:most]} …"
    if isinstance(value, list):
        return [shortened(item, most) for item in value]
    if isinstance(value, Mapping):
        return {key: shortened(item, most) for key, item in value.items()}
    return value
