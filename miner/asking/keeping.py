"""Storing answers while more of them arrive: in a thread, those that came since the last commit at once."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from miner.store.journal import Journal, Row

_GATHER = 0.1
"""Seconds that a commit waits for more answers: one commit of many is as fast as one of a single answer."""
_MOST = 4_000
"""Answers that wait for a commit, so that they fit into memory while another process has the store open."""


class Keeper:
    """Commits in a thread what is put into a journal; a context manager that ends the thread.

    The end of the context stores what is left, also after an error. An error of storing is raised by the next
    `wait` or at the end, and nothing is stored after it: it stays in the journal.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._is_ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def put(self, row: Row) -> None:
        """Writes a row to the journal, in the thread in which an answer comes; does not wait for a commit.

        Raises what `Journal.add` does.
        """
        try:
            self._journal.add(row)
        finally:
            with self._changed:
                self._changed.notify_all()

    def wait(self) -> None:
        """Waits while too many rows are not committed: call it before the next questions."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or len(self._journal) < _MOST)
            self._require_no_error()

    def _require_no_error(self) -> None:
        if (error := self._error) is not None:
            self._error = None  # it is raised once
            raise error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._journal) or self._is_ended)
                self._changed.wait_for(lambda: self._is_ended, timeout=_GATHER)
                if not len(self._journal):
                    return
            try:
                self._journal.commit()
            except BaseException as error:  # it belongs to the thread that asks
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._changed.notify_all()

    def _finish(self) -> None:
        """Waits until everything is stored."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()
        self._thread.join()
        self._journal.close()
        self._require_no_error()

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
            self._finish()
            return
        try:
            self._finish()
        except Exception as second:  # the first error is the one to report
            error.add_note(f"and the last answers are not stored: {second}")
