"""Charts as inline SVG that follow the width of the page and can be read without colour.

Every x is a percentage of the width, every y and every size a number of pixels, so that texts keep their
size on a narrow screen. A chart has a title and a description for screen readers; its groups differ in their
labels and patterns, not in colour alone. The same values give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from math import ceil, floor, isfinite, log10

from miner.errors import shown
from miner.html_report.markup import Html, details, join, tag

SOLID, HATCHED, OPEN, DOTTED = "solid", "hatched", "open", "dotted"
"""The patterns of areas."""
MARKERS = ("circle", "square", "triangle", "diamond", "ring", "cross")
"""The shapes of points, by series."""
_LABEL = 34
"""Characters of a label: two fit beside each other on a narrow screen. The table has the whole name."""
_PLOT = 190
"""The height of the area of a curve."""

PATTERNS = Html(
    '<svg class="patterns" width="0" height="0" aria-hidden="true" focusable="false"><defs>'
    '<pattern id="hatched" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><path d="M0 0V6" stroke="currentColor" stroke-width="3"/></pattern>'
    '<pattern id="dotted" width="5" height="5" patternUnits="userSpaceOnUse">'
    '<circle cx="2" cy="2" r="1.2" fill="currentColor"/></pattern></defs></svg>'
)
"""What the charts of a page are filled with: once in a page, before the first chart."""


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart."""

    label: str
    value: float
    note: str
    """The value in words."""
    pattern: str = SOLID
    before: float | None = None
    """An earlier value, drawn hatched above it; None without one."""


@dataclass(frozen=True)
class BinRow:
    """A row of a histogram: how many values are in each of several equal ranges."""

    label: str
    note: str
    counts: Sequence[int]
    pattern: str = SOLID


@dataclass(frozen=True)
class Mark:
    """A place on the x axis of a histogram, or a range."""

    label: str
    low: float
    high: float


@dataclass(frozen=True)
class Span:
    """A row of an interval chart: a value with the ends of its interval."""

    label: str
    value: float
    low: float
    high: float
    note: str
    others: Sequence[float] = ()
    """Further values of the row, such as those of each seed."""


@dataclass(frozen=True)
class Series:
    """The points of a curve, in order of x; `labels` are short texts above the points, as far as they fit."""

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    is_joined: bool = True


def figure(title: str, chart: Html, *numbers: Html, note: str = "") -> Html:
    """Returns a chart with its caption, and the tables with its numbers below it."""
    caption = tag("figcaption", tag("strong", title), join([" ", note]) if note else None)
    return tag("figure", caption, chart, details("Numbers", *numbers) if numbers else None)


def bar_chart(title: str, about: str, rows: Sequence[Bar]) -> Html:
    """Returns horizontal bars from 0, each below its label and its value."""
    most = max((max(row.value, row.before or 0) for row in rows), default=0) or 1.0
    parts, top = [], 0.0
    for row in rows:
        parts += _labelled(row.label, row.note, top + 13)
        areas = [(row.value, row.pattern)]
        if row.before is not None:
            areas.insert(0, (row.before, HATCHED))
        for value, pattern in areas:
            width = max(0.4, 99.6 * value / most) if value else 0.0
            parts.append(_rect(0.2, top + 20, width, 12 / len(areas) + 2 * (len(areas) - 1), pattern))
            top += 11 * (len(areas) - 1)
        top += 42 - 11 * (len(areas) > 1)
    return _svg(title, about, top, parts)


def histogram(
    title: str, about: str, low: float, high: float, rows: Sequence[BinRow], marks: Sequence[Mark] = ()
) -> Html:
    """Returns a histogram per row over one x axis from `low` to `high`; each has its own height scale."""
    width = (high - low) or 1.0
    head = 18 * len(marks) + (6 if marks else 0)
    bottom = head + 78 * len(rows)
    parts: list[Html] = []
    for number, mark in enumerate(marks):
        x, end = (_percent((at - low) / width) for at in (mark.low, mark.high))
        if end > x:
            parts.append(
                tag(
                    "rect",
                    x=f"{x}%",
                    y=head - 4,
                    width=f"{_number(end - x)}%",
                    height=bottom - head + 4,
                    class_="band",
                )
            )
        for at in dict.fromkeys((x, end)):
            parts.append(_line(at, 18 * number + 16, at, bottom, "mark"))
        parts.append(_text(0, 18 * number + 12, mark.label, "start", "label"))
    for number, row in enumerate(rows):
        top = head + 78 * number
        parts += _labelled(row.label, row.note, top + 14)
        most, step = max(row.counts, default=0) or 1, 100 / max(1, len(row.counts))
        for position, count in enumerate(row.counts):
            if count:
                size = max(1.0, 48 * count / most)
                parts.append(_rect(position * step + 0.1, top + 70 - size, step - 0.2, size, row.pattern))
        parts.append(_line(0, top + 70, 100, top + 70, "axis"))
    for tick in (one for one in ticks(low, high) if low <= one <= low + width):
        x = _percent((tick - low) / width)
        parts.append(_line(x, bottom - 8, x, bottom - 3, "axis"))
        parts.append(_text(x, bottom + 12, f"{tick:g}", _anchor(x, 4), "tick"))
    return _svg(title, about, bottom + 18, parts)


def interval_chart(title: str, about: str, rows: Sequence[Span], unit: str = "", start: float = 0.0) -> Html:
    """Returns a point with its interval per row, over one x axis from `start`; `unit` follows the ticks."""
    ends = [end for row in rows for end in (row.value, row.high, *row.others) if isfinite(end)]
    high = max([*ends, start])
    most = high if high > start else start + 1
    steps = ticks(start, most)
    most = max(most, steps[-1]) or 1.0
    bottom, parts = 44 * len(rows), []

    def _x(value: float) -> float:
        return 1 + 0.97 * _percent((value - start) / (most - start))

    for tick in steps:
        parts.append(_line(_x(tick), 0, _x(tick), bottom, "grid"))
        parts.append(_text(_x(tick), bottom + 14, f"{tick:g}{unit}", _anchor(_x(tick), 4), "tick"))
    for number, row in enumerate(rows):
        top = 44 * number
        parts += _labelled(row.label, row.note, top + 14)
        if row.high > row.low:
            parts.append(_line(_x(row.low), top + 28, _x(row.high), top + 28, "interval"))
            parts += [_line(_x(end), top + 24, _x(end), top + 32, "interval") for end in (row.low, row.high)]
        parts += [_marker("ring", _x(value), top + 28) for value in row.others]
        parts.append(_marker("circle", _x(row.value), top + 28))
    return _svg(title, about, bottom + 20, parts)


def curves(title: str, about: str, series: Sequence[Series], x_label: str, y_label: str) -> Html:
    """Returns the points of each series, joined or not, with marks of their own, over common axes."""
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    steps = ticks(low, high)
    low, high = min(low, steps[0]), max(high, steps[-1])
    bottom, parts = _PLOT + 34, []

    def _x(value: float) -> float:
        return 12 + 84 * (value - left) / ((right - left) or 1.0) if right > left else 54.0

    def _y(value: float) -> float:
        return 34 + _PLOT * (1 - (value - low) / ((high - low) or 1.0))

    parts.append(_text(0, 10, y_label, "start", "label"))
    for step in steps:
        parts.append(_line(0, _y(step), 100, _y(step), "grid"))
        parts.append(_text(0, _y(step) - 3, f"{step:g}", "start", "tick"))
    for tick in ticks(left, right):
        if left <= tick <= right:
            parts.append(_text(_x(tick), bottom + 16, f"{tick:g}", "middle", "tick"))
    parts.append(_text(100, bottom + 34, x_label, "end", "label"))
    for number, one in enumerate(series):
        places = [(_x(x), _y(y)) for x, y in one.points]
        if one.is_joined:
            parts += [_line(*a, *b, "curve") for a, b in pairwise(places)]
        if len(places) <= 60:
            parts += [_marker(MARKERS[number % len(MARKERS)], x, y) for x, y in places]
    parts += _apart(
        [
            (_x(x), _y(y) - 8, label)
            for one in reversed(series)
            for (x, y), label in zip(one.points, one.labels, strict=False)
        ]
    )
    if len(series) > 1:
        parts += _legend(series, bottom + 48)
        bottom += 20 * len(series) + 8
    return _svg(title, about, bottom + 40, parts)


def _apart(labels: Sequence[tuple[float, float, str]]) -> Iterator[Html]:
    """Yields the labels that would not lie on an earlier one; those of later series come first."""
    known: list[tuple[float, float]] = []
    for x, y, label in labels:
        if not any(abs(x - a) < 4 and abs(y - b) < 14 for a, b in known):
            known.append((x, y))
            yield _text(x, y, label, _anchor(x, 4), "label")


def _legend(series: Sequence[Series], top: float) -> Iterator[Html]:
    for number, one in enumerate(series):
        yield _marker(MARKERS[number % len(MARKERS)], 2, top + 20 * number + 4)
        yield _text(5, top + 20 * number + 8, shown(one.name, 44), "start", "label")


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Returns round numbers from at most `low` to at least `high` that divide the range into a few steps."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _svg(title: str, about: str, height: float, parts: Sequence[Html]) -> Html:
    key = f"c{sha256(f'{title} {about}'.encode('utf-8', 'replace')).hexdigest()[:10]}"
    return tag(
        "svg",
        tag("title", title, id=f"{key}t"),
        tag("desc", about, id=f"{key}d"),
        *parts,
        class_="chart", width="100%", height=_number(height), role="img",
        aria_labelledby=f"{key}t {key}d",
    )  # fmt: skip


def _labelled(label: str, note: str, y: float) -> list[Html]:
    """The two texts above a row: its name at the left, its value at the right."""
    return [
        _text(0, y, shown(label, _LABEL), "start", "label"),
        _text(100, y, note, "end", "value"),
    ]


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> Html:
    return tag("text", text, x=f"{_number(x)}%", y=_number(y), text_anchor=anchor, class_=kind)


def _line(x: float, y: float, to_x: float, to_y: float, kind: str) -> Html:
    return tag(
        "line", x1=f"{_number(x)}%", y1=_number(y), x2=f"{_number(to_x)}%", y2=_number(to_y), class_=kind
    )


def _rect(x: float, y: float, width: float, height: float, pattern: str) -> Html:
    return tag(
        "rect", x=f"{_number(x)}%", y=_number(y), width=f"{_number(width)}%", height=_number(height),
        class_=pattern,
    )  # fmt: skip


_SHAPES = {
    "square": "M-4 -4H4V4H-4Z",
    "triangle": "M-5 4L0 -5L5 4Z",
    "diamond": "M0 -5L5 0L0 5L-5 0Z",
    "cross": "M-4 -4L4 4M-4 4L4 -4",
}


def _marker(shape: str, x: float, y: float) -> Html:
    if shape in ("circle", "ring"):
        return tag("circle", cx=f"{_number(x)}%", cy=_number(y), r=4, class_=f"point {shape}")
    # A path has no percentages: an inner drawing carries it to its place.
    inner = tag("path", d=_SHAPES[shape], class_=f"point {shape}")
    return tag("svg", inner, x=f"{_number(x)}%", y=_number(y), overflow="visible", width=1, height=1)


def _anchor(x: float, margin: float) -> str:
    """Returns how a text at x percent is anchored, so that it stays inside."""
    return "start" if x < margin else "end" if x > 100 - margin else "middle"


def _percent(share: float) -> float:
    return round(100 * min(1.0, max(0.0, share)), 3)


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
