"""The number of threads to compute with, given the processors that other programs use.

More threads than free processors slow the work down, because OpenMP threads wait for each other at every
step: with twice as many threads as free processors, a training and a search were five times slower.
Workers that do not wait for each other (`engine.work.ordered_map`) are never slower with one per processor.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from miner.engine.progress import SILENT, Progress
from miner.processors import affinity, cores

_STAT = Path("/proc/stat")
_SHORT, _LONG = 1.0, 30.0
"""A measurement is reused if it is younger than the first number of seconds, and continued, over the time
since it, if it is younger than the second."""
_SAMPLE = 0.2
"""The shortest measurement, in seconds."""
_NOTABLE = 0.75
_NOTABLE_SHARE = 0.2
"""Processors, and share of the planned threads, that other programs must use before threads are reduced."""


@dataclass(frozen=True)
class Usage:
    """Processor time up to one moment, in seconds."""

    at: float
    every: float
    """Time of all programs on the processors that this process may run on."""
    own: float

    @classmethod
    def now(cls) -> Usage | None:
        """Reads the times until now; None if the system does not report them."""
        try:
            text = _STAT.read_text("ascii")
        except OSError:
            return None
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return cls(time.monotonic(), busy_seconds(text, affinity(), os.nice(0) > 0), own)

    def others_since(self, before: Usage) -> float:
        """Returns the mean number of processors that other programs have used since then."""
        every, own = self.every - before.every, self.own - before.own
        return max(0.0, every - own) / max(1e-3, self.at - before.at)


def busy_seconds(stat: str, processors: set[int], niced: bool) -> float:
    """Returns the seconds that processors have been busy since the machine started, from /proc/stat.

    Programs of low priority (`nice`) do not count, unless this one has low priority too.
    """
    ticks = 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in processors:
            user, nice, system, _, _, irq, softirq, steal = map(int, [*fields, *"00000000"][:8])
            ticks += user + system + irq + softirq + steal + (nice if niced else 0)
    return ticks / os.sysconf("SC_CLK_TCK")


def threads_for(planned: int, processors: int, others: float) -> int:
    """Returns how many of the `planned` threads to use if other programs use `others` of the processors.

    At least one, and all of them if the other programs use little.
    """
    if others < max(_NOTABLE, _NOTABLE_SHARE * planned):
        return planned
    return max(1, min(planned, round(processors - others)))


class _Meter:
    """Measures the processors that other programs use, and keeps the last measurement."""

    def __init__(self) -> None:
        self._last = Usage.now()
        self._others: float | None = None
        self._lock = Lock()
        self._noted = False

    def others(self) -> float:
        """Returns the number of processors that other programs use; 0 if the system does not report it."""
        with self._lock:
            now = Usage.now()
            if now is None or self._last is None:
                return 0.0
            passed = now.at - self._last.at
            if passed < _SHORT and self._others is not None:
                return self._others
            if passed > _LONG:
                self._last, passed = now, 0.0
            if passed < _SAMPLE:
                time.sleep(_SAMPLE - passed)
                now = Usage.now() or now
            self._others, self._last = now.others_since(self._last), now
            return self._others

    def note(self, text: str, progress: Progress) -> None:
        """Passes a note on, the first time only."""
        if not self._noted:
            self._noted = True
            progress.note(text)


_METER = _Meter()


def free_threads(planned: int | None = None, progress: Progress = SILENT) -> int:
    """Returns the number of threads to compute with: `planned` (default: `cores()`), fewer on a busy machine.

    The first reduction gives a note. If OMP_NUM_THREADS is set, the planned number is returned. Use it only
    for work whose result does not depend on the number of threads.
    """
    wanted = planned or cores()
    if wanted == 1 or os.environ.get("OMP_NUM_THREADS"):
        return wanted
    processors, others = len(affinity()), _METER.others()
    threads = threads_for(wanted, processors, others)
    if threads < wanted:
        _METER.note(
            f"the machine is busy: other programs use {others:.1f} of {processors} processors; "
            f"computing with {threads} of {wanted} threads (set OMP_NUM_THREADS to decide yourself)",
            progress,
        )
    return threads
