"""Progress: what long work reports while it runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

STEADY_SECONDS = 15.0
"""Seconds of work, after its first units, before the time left is estimated."""
STEADY_SHARE = 0.02
LONG_SECONDS = 180.0
"""For an estimate this share of the work must be done, or it must have gone on for so long."""
WINDOW_SECONDS = 120.0
"""The time over which the rate is measured, so that a slow start has no lasting effect."""

Advance = Callable[[int], None]
"""A function that is called with the number of units just finished."""


class Progress(Protocol):
    """The object to which long work reports. The library is silent; the command line draws bars."""

    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> AbstractContextManager[Advance]:
        """Opens a task of `total` units, of which `done` were finished earlier."""
        ...

    def note(self, message: str) -> None:
        """Shows one line to the user."""
        ...


class Pace:
    """Measures the rate of a task and estimates the time left."""

    def __init__(self, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._last = clock(), done
        self._seen: deque[tuple[float, int]] = deque()
        """Times, and the units done by then; the rate is measured from the first one."""
        self._began: tuple[float, int] | None = None

    def advance(self, units: int) -> None:
        """Counts units that were just finished.

        The first units only start the clock, since loading a library or a model slows them down.
        """
        now = self._clock()
        self._last = now, self._last[1] + units
        if self._began is None:
            self._began = self._last
        if not self._seen or now - self._seen[-1][0] >= 1:
            self._seen.append(self._last)
        while len(self._seen) > 1 and self._seen[1][0] <= now - WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def left(self) -> float | None:
        """The estimated seconds left; None while too little is done for an estimate."""
        if self._began is None:
            return None
        (now, done), (began, before) = self._last, self._began
        enough = done - before >= STEADY_SHARE * self._total or now - began >= LONG_SECONDS
        since, counted = self._seen[0]
        if now - began < STEADY_SECONDS or not enough or done == counted:
            return None
        return max(0.0, (now - since) * (self._total - done) / (done - counted) - (self._clock() - now))


class Silent:
    """Reports nothing."""

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields a function that does nothing."""
        yield lambda _: None

    def note(self, message: str) -> None:
        """Does nothing."""


class WithoutNotes:
    """Shows tasks but no notes, for work that repeats the same steps."""

    def __init__(self, inner: Progress) -> None:
        self.task = inner.task

    def note(self, message: str) -> None:
        """Does nothing."""


class CountedInto:
    """Counts the units of inner tasks in a task that is already open."""

    def __init__(self, advance: Advance, inner: Progress) -> None:
        self._advance = advance
        self.note = inner.note

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields the function of the open task."""
        yield self._advance


SILENT = Silent()

_SHOWN: ContextVar[Progress] = ContextVar("shown", default=SILENT)


@contextmanager
def showing(progress: Progress) -> Iterator[None]:
    """Makes `shown_progress` return this progress within it."""
    token = _SHOWN.set(progress)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def shown_progress() -> Progress:
    """Returns the progress for work far below the function that got it; SILENT outside of `showing`."""
    return _SHOWN.get()
