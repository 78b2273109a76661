"""Progress as people see it: bars on a terminal or below a notebook's cell, lines in a log."""

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
"""How long work may go on without a line where there is no terminal."""
_REDRAW_SECONDS = 0.2
"""How long a notebook's cell shows the same bars, at least."""
_CELL = "<pre style='margin:0;white-space:pre-wrap;line-height:1.3;font-family:monospace'>{code}</pre>"


@contextmanager
def progress() -> Iterator[Progress]:
    """Yields where long work reports to.

    On a terminal: one bar per piece of work, with count, rate and time left. Elsewhere (a pipe, a
    log file) one plain line per note, and every half minute one on what is under way.
    """
    if not sys.stderr.isatty():
        yield Lines()
        return
    with _display() as display:
        yield _Bars(display)


@contextmanager
def shown(wanted: Progress | bool | None) -> Iterator[Progress]:
    """Yields where a function called from Python reports to.

    None: bars in a notebook, nothing elsewhere. True: always bars or lines. False: nothing. Anything else is
    used as it is.
    """
    if wanted is not None and not isinstance(wanted, bool):
        yield wanted
    elif in_notebook() and wanted is not False:
        yield _CellBars()
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
    """Says notes as plain lines, and now and then how far the work is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spoke = clock()
        self._open = 0

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields a function that says how far the work is when nothing was said for half a minute."""
        if not self._open:
            self._spoke = self._clock()
        self._open += 1
        pace = Pace(total, done, self._clock)

        def advance(units: int) -> None:
            """Counts the units, and says how far the work is when it is time."""
            nonlocal done
            done += units
            pace.advance(units)
            if self._clock() - self._spoke >= SILENT_SECONDS and done < total:
                left = pace.left
                rest = "" if left is None else f", about {_time(left)} left"
                self.note(f"{name}: {done:,} of {total:,} {unit}{rest}")

        try:
            yield advance
        finally:
            self._open -= 1

    def note(self, message: str) -> None:
        """Writes one line to stderr."""
        self._spoke = self._clock()
        click.echo(printable(message, keep="\n"), err=True)


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _Bars:
    """Draws a bar per piece of work; finished ones stay, so that one sees what took how long."""

    def __init__(self, display: rich_progress.Progress) -> None:
        self._display = display

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields a function that moves the bar on."""
        pace = Pace(total, done)
        bar = self._display.add_task(name, total=total, completed=done, unit=unit, pace=pace)

        def advance(units: int) -> None:
            """Moves the bar, and measures."""
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


class _CellBars(_Bars):
    """Draws the bars below a notebook's cell as HTML, which needs no widgets to be installed."""

    def __init__(self) -> None:
        super().__init__(_display())
        self._notes: list[str] = []
        self._cell: Any = None
        self._drawn = 0.0
        self._lock = Lock()

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields a function that moves the bar on."""
        with super().task(name, total, done, unit) as move:

            def advance(units: int) -> None:
                """Moves the bar, and draws it again when it is time."""
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

    class Rate(rich_progress.ProgressColumn):
        """How many units a second, over the last half minute."""

        def render(self, task: rich_progress.Task) -> Text:
            """Returns the rate, or nothing before the first unit is done."""
            speed = task.finished_speed or task.speed
            if not speed:
                return Text("")
            return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s", style="progress.data.speed")

    class Left(rich_progress.ProgressColumn):
        """The time left once it means something; in the end how long it took."""

        max_refresh = 0.5

        def render(self, task: rich_progress.Task) -> Text:
            """Returns the time, or dashes."""
            pace: Pace = task.fields["pace"]
            if task.finished or task.stop_time is not None:
                return Text(_time(task.elapsed or 0), style="progress.elapsed")
            left = pace.left
            return Text("-:--" if left is None else _time(left), style="progress.remaining")

    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}", markup=False),
        Rate(),
        Left(),
        console=Console(stderr=True),
        # What a command prints stays on stdout, unless both are the same terminal.
        redirect_stdout=sys.stdout.isatty(),
    )
