"""Progress: what long work reports while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

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


class Within:
    """Lets work that opens bars of its own count in one that is open already."""

    def __init__(self, advance: Advance, inner: Progress) -> None:
        self._advance = advance
        self.note = inner.note

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields the open bar's function."""
        yield self._advance


SILENT = Silent()
