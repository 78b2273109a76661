"""Charts of curves with bands, written as PNG and SVG with the same bytes each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INSIDE = 8
"""Most curves whose names fit inside a panel, and most values that are labelled on an axis."""
_STYLES = ("-", "--", ":")
"""Line styles: the next one is used after every ten curves, when the colours repeat."""


@dataclass(frozen=True)
class Curve:
    """A line of a chart: its points in order of x, and optionally a band from `low` to `high`.

    `x_low` and `x_high` are the ends of an interval of each x, which is drawn as a bar.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    x_low: Sequence[float] | None = None
    x_high: Sequence[float] | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes with its curves."""

    x_label: str
    y_label: str
    lines: Sequence[Curve]
    logarithmic: bool = False
    """Whether the x axis is logarithmic; it is linear from 0 to the smallest x above 0."""


def draw(title: str, panels: Sequence[Panel], png: Path, svg: Path) -> None:
    """Draws the panels side by side and writes them to a PNG and an SVG file, whatever the suffixes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    with matplotlib.rc_context({"svg.hashsalt": "miner", "svg.fonttype": "none"}):
        figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.6), squeeze=False)
        for panel, axis in zip(panels, axes[0], strict=True):
            _draw_panel(panel, axis)
        figure.suptitle(title)
        figure.tight_layout()
        if len(panels[0].lines) > _INSIDE:
            handles = axes[0][0].get_legend_handles_labels()
            figure.legend(*handles, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(png, format="png", dpi=144, bbox_inches="tight", metadata={"Software": None})
        undated = {"Date": None, "Creator": None}
        figure.savefig(svg, format="svg", bbox_inches="tight", metadata=undated)
        plt.close(figure)


def _draw_panel(panel: Panel, axis: Any) -> None:
    for number, line in enumerate(panel.lines):
        style = _STYLES[number // 10 % len(_STYLES)]
        size = 3 if len(line.x) > 1 else 7
        (drawn,) = axis.plot(line.x, line.y, style, marker="o", markersize=size, label=line.name)
        if line.low is not None and line.high is not None:
            axis.fill_between(line.x, line.low, line.high, alpha=0.15, color=drawn.get_color())
        if line.x_low is not None and line.x_high is not None:
            axis.hlines(line.y, line.x_low, line.x_high, alpha=0.5, linewidth=1.5, color=drawn.get_color())
    if panel.logarithmic:
        _by_factors(axis, sorted({x for line in panel.lines for x in line.x}))
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    axis.grid(alpha=0.25)
    if 1 < len(panel.lines) <= _INSIDE:
        axis.legend(fontsize="small")


def _by_factors(axis: Any, known: Sequence[float]) -> None:
    """Makes the x axis logarithmic; if there are few values, each one has a label."""
    least = min((x for x in known if x > 0), default=1.0)
    if not known or known[0] <= 0:
        axis.set_xscale("symlog", linthresh=least)
        axis.set_xticks([tick for tick in axis.get_xticks() if tick == 0 or tick >= least])
        return
    axis.set_xscale("log")
    if len(known) <= _INSIDE:
        axis.set_xticks(known, [f"{x:,g}" for x in known])
        axis.minorticks_off()
