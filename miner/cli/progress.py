"""Progress bars on stderr, for the person who waits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from miner.engine.progress import Advance, Progress

if TYPE_CHECKING:
    from rich import progress as rich_progress


@contextmanager
def progress() -> Iterator[Progress]:
    """Yields where long work reports to.

    On a terminal: one bar per piece of work, with count, rate and time left. Elsewhere (a pipe, a
    log file) only the notes, one plain line each.
    """
    if not sys.stderr.isatty():
        yield _Lines()
        return
    with _display() as display:
        yield _Bars(display)


class _Lines:
    """Says notes as plain lines and draws no bars."""

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields a function that does nothing."""
        yield lambda _: None

    def note(self, message: str) -> None:
        """Writes one line to stderr."""
        click.echo(message, err=True)


class _Bars:
    """Draws a bar per piece of work; finished ones stay, so that one sees what took how long."""

    def __init__(self, display: rich_progress.Progress) -> None:
        self._display = display

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields a function that moves the bar on."""
        bar = self._display.add_task(name, total=total, completed=done, unit=unit)
        try:
            yield lambda units: self._display.advance(bar, units)
        finally:
            self._display.stop_task(bar)

    def note(self, message: str) -> None:
        """Writes one line above the bars."""
        self._display.console.print(message, markup=False, highlight=False, soft_wrap=True)


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

    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}", markup=False),
        Rate(),
        rich_progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
        # What a command prints stays on stdout, unless both are the same terminal.
        redirect_stdout=sys.stdout.isatty(),
    )
