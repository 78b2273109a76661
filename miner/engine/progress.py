"""Progress: what long work reports while it runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

STEADY_SECONDS = 15.0
"""How long work has to go on, after its first units, before its rate means something."""
STEADY_SHARE = 0.02
"""How large a share of it has to be done in that time; a long while does as well."""
LONG_SECONDS = 180.0
WINDOW_SECONDS = 120.0
"""The rate is that of the last while, so that a slow start or a machine that was busy is forgotten."""

Advance = Callable[[int], None]
"""Called with the number of units just finished."""


class Progress(Protocol):
    """Where long work reports to. The library is silent; the command line draws bars."""

    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> AbstractContextManager[Advance]:
        """Opens a piece of work of `total` units of which `done` were finished earlier."""
        ...

    def note(self, message: str) -> None:
        """Says one line to the person who waits."""
        ...


class Pace:
    """How fast one piece of work goes, and so how long it has still to go."""

    def __init__(self, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._last = clock(), done
        self._seen: deque[tuple[float, int]] = deque()
        """Times, and how much was done then: from the first one the rate is measured."""
        self._began: tuple[float, int] | None = None

    def advance(self, units: int) -> None:
        """Counts units that were just finished.

        The first ones only start the clock: they hold the loading of a library or a model's warm-up.
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
        """The seconds left, or None while too little is done for a rate that means something."""
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
        """Says nothing."""


class WithoutNotes:
    """Passes bars on and keeps notes back: for work that does the same many times."""

    def __init__(self, inner: Progress) -> None:
        self.task = inner.task

    def note(self, message: str) -> None:
        """Says nothing."""


class CountedInto:
    """Lets work that opens bars of its own count in one that is open already."""

    def __init__(self, advance: Advance, inner: Progress) -> None:
        self._advance = advance
        self.note = inner.note

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields the open bar's function."""
        yield self._advance


SILENT = Silent()
