"""How many threads can run: how many processors other programs use now.

More threads than can run cost more than they bring: threads that wait for each other at every step of a
training or a search (OpenMP) made both five times slower with twice as many as there were free processors.
Workers that compute apart (`engine.work.ordered_map`) wait for nobody: one per processor is never slower.
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
"""Use by others is measured again, since the last time, if that was so many seconds ago."""
_SAMPLE = 0.2
"""Over so many seconds at least it is measured: since the start of the program, or from now on."""
_NOTABLE = 0.75
"""Processors that others have to use before fewer threads are taken, and ..."""
_NOTABLE_SHARE = 0.2
"""... the share of the threads that were planned."""


@dataclass(frozen=True)
class Usage:
    """Processor time until one moment, in seconds."""

    at: float
    every: float
    """Of all programs, on the processors that this process may run on."""
    own: float

    @classmethod
    def now(cls) -> Usage | None:
        """Reads it; None where the system does not tell."""
        try:
            text = _STAT.read_text("ascii")
        except OSError:
            return None
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return cls(time.monotonic(), busy_seconds(text, affinity(), os.nice(0) > 0), own)

    def others_since(self, before: Usage) -> float:
        """Returns how many processors other programs kept busy since then, mean."""
        every, own = self.every - before.every, self.own - before.own
        return max(0.0, every - own) / max(1e-3, self.at - before.at)


def busy_seconds(stat: str, processors: set[int], niced: bool) -> float:
    """Returns the seconds that processors were busy since the machine began, from the text of /proc/stat.

    Programs that give way (`nice`) do not count, unless this one does so too.
    """
    ticks = 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in processors:
            user, nice, system, _, _, irq, softirq, steal = map(int, [*fields, *"00000000"][:8])
            ticks += user + system + irq + softirq + steal + (nice if niced else 0)
    return ticks / os.sysconf("SC_CLK_TCK")


def threads_for(planned: int, processors: int, others: float) -> int:
    """Returns how many of the `planned` threads can run beside what other programs use of the processors.

    At least one; all of them where the others use little.
    """
    if others < max(_NOTABLE, _NOTABLE_SHARE * planned):
        return planned
    return max(1, min(planned, round(processors - others)))


class _Meter:
    """Measures what other programs use, now and then."""

    def __init__(self) -> None:
        self._last = Usage.now()
        self._others: float | None = None
        self._lock = Lock()
        self._noted = False

    def others(self) -> float:
        """Returns how many processors other programs use; 0 where the system does not tell."""
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
        """Says it, once."""
        if not self._noted:
            self._noted = True
            progress.note(text)


_METER = _Meter()


def free_threads(planned: int | None = None, progress: Progress = SILENT) -> int:
    """Returns how many threads to compute with: `planned` (default: `cores()`), fewer on a busy machine.

    A note says so, once. Where the environment sets OMP_NUM_THREADS the user has decided, and all that are
    planned are taken. For work whose result does not depend on it.
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
