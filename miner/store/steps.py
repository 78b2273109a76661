"""How far the statements are that check and store what an ingest has read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread

from miner.store.database import Database

_LOOK = 0.5
"""Seconds between two reports."""


@contextmanager
def steps(store: Database, advance: Callable[[int], None]) -> Iterator[Callable[[float], None]]:
    """Yields a function that begins a step of so many units, and ends the step before.

    While a step runs, `advance` gets the units that DuckDB estimates to be done since the last call, 0 at
    times: whoever shows them sees that the work goes on.
    """
    progress = _Progress(store, advance)
    ended = Event()

    def look() -> None:
        """Reports what is done, again and again until the end."""
        while not ended.wait(_LOOK):
            progress.look()

    watcher = Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield progress.begin
        progress.begin(0)
    finally:
        ended.set()
        watcher.join()


class _Progress:
    """The units that were reported, and those of the step that runs."""

    def __init__(self, store: Database, advance: Callable[[int], None]) -> None:
        self._store, self._advance = store, advance
        self._guard = Lock()
        self._before = self._size = self._share = 0.0
        self._reported = 0

    def begin(self, size: float) -> None:
        """Ends a step and begins one of `size` units."""
        with self._guard:
            self._before += self._size
            self._size, self._share = size, 0.0
            self._report()

    def look(self) -> None:
        """Reports how far the step is: as far as the statement in it that came furthest."""
        with self._guard:
            self._share = max(self._share, self._store.share_done())
            self._report()

    def _report(self) -> None:
        units = round(self._before + self._size * self._share)
        self._advance(units - self._reported)
        self._reported = units
