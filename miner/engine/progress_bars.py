"""Shows progress: bars on a terminal or below a notebook's cell, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from io import StringIO
from threading import Lock
from typing import TYPE_CHECKING, Any

import click

from miner.engine.progress import SILENT, Advance, Pace, Progress
from miner.errors import printable

if TYPE_CHECKING:
    from rich import progress as rich_progress


SILENT_SECONDS = 30.0
"""Seconds between two lines of progress without a terminal."""
_REDRAW_SECONDS = 0.2
"""The least time between two drawings of the bars in a notebook's cell."""
_CELL = "<pre style='margin:0;white-space:pre-wrap;line-height:1.3;font-family:monospace'>{code}</pre>"


@contextmanager
def progress() -> Iterator[Progress]:
    """Yields the object to which long work reports, for the command line.

    A terminal shows one bar per task, with count, rate and time left. A pipe or a log file gets one plain
    line per note, and every half minute a line about the current task.
    """
    if not sys.stderr.isatty():
        yield Lines()
        return
    with _display() as display:
        yield _TerminalBars(display)


@contextmanager
def progress_for(wanted: Progress | bool | None) -> Iterator[Progress]:
    """Yields the object to which a function called from Python reports.

    None: bars in a notebook, nothing elsewhere. True: always bars or lines. False: nothing. A Progress is
    used as it is.
    """
    if wanted is not None and not isinstance(wanted, bool):
        yield wanted
    elif in_notebook() and wanted is not False:
        yield _NotebookBars()
    elif wanted:
        with progress() as reports:
            yield reports
    else:
        yield SILENT


def in_notebook() -> bool:
    """Returns whether this is a notebook, which shows HTML below its cells."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


class Lines:
    """Writes notes as plain lines, and from time to time the progress of the current task."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._written = clock()
        self._open = 0

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields a function that writes the progress if no line was written for half a minute."""
        if not self._open:
            self._written = self._clock()
        self._open += 1
        pace = Pace(total, done, self._clock)

        def advance(units: int) -> None:
            """Counts the units, and writes the progress if it is time."""
            nonlocal done
            done += units
            pace.advance(units)
            if self._clock() - self._written >= SILENT_SECONDS and done < total:
                left = pace.left
                rest = "" if left is None else f", about {_time(left)} left"
                self.note(f"{name}: {done:,} of {total:,} {unit}{rest}")

        try:
            yield advance
        finally:
            self._open -= 1

    def note(self, message: str) -> None:
        """Writes one line to stderr."""
        self._written = self._clock()
        click.echo(printable(message, keep="\n"), err=True)


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _TerminalBars:
    """Draws one bar per task; finished bars stay and show how long each task took."""

    def __init__(self, display: rich_progress.Progress) -> None:
        self._display = display

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields a function that advances the bar."""
        pace = Pace(total, done)
        bar = self._display.add_task(name, total=total, completed=done, unit=unit, pace=pace)

        def advance(units: int) -> None:
            """Advances the bar and measures the rate."""
            pace.advance(units)
            self._display.advance(bar, units)

        try:
            yield advance
        finally:
            self._display.stop_task(bar)

    def note(self, message: str) -> None:
        """Writes one line above the bars."""
        self._display.console.print(
            printable(message, keep="\n"), markup=False, highlight=False, soft_wrap=True
        )


class _NotebookBars(_TerminalBars):
    """Draws the bars below a notebook's cell as HTML, which needs no widgets."""

    def __init__(self) -> None:
        super().__init__(_display())
        self._notes: list[str] = []
        self._cell: Any = None
        self._drawn = 0.0
        self._lock = Lock()

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields a function that advances the bar."""
        with super().task(name, total, done, unit) as move:

            def advance(units: int) -> None:
                """Advances the bar, and draws it again if it is time."""
                move(units)
                if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
                    self._draw()

            self._draw()
            yield advance
        self._draw()

    def note(self, message: str) -> None:
        """Writes one line above the bars."""
        self._notes.append(printable(message, keep="\n"))
        self._draw()

    def _draw(self) -> None:
        from rich.console import Console

        with self._lock:
            self._drawn = time.monotonic()
            page = Console(file=StringIO(), record=True, width=100, force_terminal=True, force_jupyter=False)
            for line in self._notes:
                page.print(line, markup=False, highlight=False, soft_wrap=True)
            page.print(self._display.get_renderable())
            content = {
                "text/plain": page.export_text(clear=False),
                "text/html": page.export_html(code_format=_CELL, inline_styles=True),
            }
            if self._cell is None:
                show = import_module("IPython.display").display  # it is there: this is a notebook
                self._cell = show(content, raw=True, display_id=True)
            else:
                self._cell.update(content, raw=True)


def _display() -> rich_progress.Progress:
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.text import Text

    class Speed(rich_progress.ProgressColumn):
        """A column with the units per second."""

        def render(self, task: rich_progress.Task) -> Text:
            """Returns the rate; empty before the first unit is done."""
            speed = task.finished_speed or task.speed
            if not speed:
                return Text("")
            return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s", style="progress.data.speed")

    class Left(rich_progress.ProgressColumn):
        """A column with the estimated time left; with the time taken at the end."""

        max_refresh = 0.5

        def render(self, task: rich_progress.Task) -> Text:
            """Returns the time; dashes without an estimate."""
            pace: Pace = task.fields["pace"]
            if task.finished or task.stop_time is not None:
                return Text(_time(task.elapsed or 0), style="progress.elapsed")
            left = pace.left
            return Text("-:--" if left is None else _time(left), style="progress.remaining")

    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}", markup=False),
        Speed(),
        Left(),
        console=Console(stderr=True),
        # What a command prints stays on stdout, unless both are the same terminal.
        redirect_stdout=sys.stdout.isatty(),
    )
