"""Charts: lines with bands, drawn once, written as PNG and SVG with the same bytes each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Line:
    """One line of a chart: its points in order of x, and a band around it where one is given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    x_label: str
    y_label: str
    lines: Sequence[Line]
    logarithmic: bool = False
    """Whether x grows by factors."""


def draw(title: str, panels: Sequence[Panel], target: Path) -> tuple[Path, Path]:
    """Draws the panels side by side; returns the files `target`.png and `target`.svg."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    with matplotlib.rc_context({"svg.hashsalt": "miner", "svg.fonttype": "none"}):
        figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.6), squeeze=False)
        for panel, axis in zip(panels, axes[0], strict=True):
            _draw_panel(panel, axis)
        figure.suptitle(title)
        figure.tight_layout()
        files = target.with_suffix(".png"), target.with_suffix(".svg")
        figure.savefig(files[0], dpi=144, metadata={"Software": None})
        figure.savefig(files[1], metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return files


def _draw_panel(panel: Panel, axis: Any) -> None:
    for line in panel.lines:
        (drawn,) = axis.plot(line.x, line.y, marker="o", markersize=3, label=line.name)
        if line.low is not None and line.high is not None:
            axis.fill_between(line.x, line.low, line.high, alpha=0.15, color=drawn.get_color())
    if panel.logarithmic:
        axis.set_xscale("log")
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    axis.grid(alpha=0.25)
    if len(panel.lines) > 1:
        axis.legend(fontsize="small")
