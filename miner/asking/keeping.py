"""Storing results while more of them arrive: in a thread, those that came since the last commit at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

_GATHER = 0.05
"""Seconds that a commit waits for more results: one commit of many is as fast as one of a single result."""


class Keeper(Generic[Item]):
    """Calls `keep` in a thread with what was put since its last call; a context manager that ends the thread.

    At most `most` results wait for their commit, or are being committed. The end of the context stores what
    is left, also after an error. An error of `keep` is raised by the next `put` or at the end, and nothing is
    stored after it.
    """

    def __init__(self, keep: Callable[[Sequence[Item]], None], most: int) -> None:
        self._keep, self._most = keep, most
        self._changed = threading.Condition()
        self._arrived: list[Item] = []
        self._under_way = 0
        self._kept: list[Item] = []
        self._error: BaseException | None = None
        self._is_ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def put(self, items: Sequence[Item]) -> list[Item]:
        """Takes results, and returns those that were stored since the last call.

        Waits while too many are not stored.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._has_room(len(items)))
            self._require_no_error()
            self._arrived.extend(items)
            self._changed.notify_all()
            kept, self._kept = self._kept, []
            return kept

    def _has_room(self, number: int) -> bool:
        waiting = len(self._arrived) + self._under_way
        return not waiting or waiting + number <= self._most

    def finish(self) -> list[Item]:
        """Waits until everything is stored, and returns what was stored since the last `put`."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()
        self._thread.join()
        self._require_no_error()
        kept, self._kept = self._kept, []
        return kept

    def _require_no_error(self) -> None:
        if (error := self._error) is not None:
            self._error = None  # it is raised once
            self._is_ended = True
            raise error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._arrived or self._is_ended)
                self._changed.wait_for(
                    lambda: self._is_ended or len(self._arrived) >= self._most // 2, timeout=_GATHER
                )
                if not self._arrived:
                    return
                items, self._arrived = self._arrived, []
                self._under_way = len(items)
            try:
                self._keep(items)
            except BaseException as error:  # it belongs to the thread that puts results
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._under_way = 0
                self._kept.extend(items)
                self._changed.notify_all()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
            return
        try:
            self.finish()
        except Exception as second:  # the first error is the one to report
            error.add_note(f"and the last answers are not stored: {second}")
