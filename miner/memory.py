"""How much memory this process may use, and how the stages share it. The module imports nothing heavy."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from miner.errors import UsageError
from miner.processors import control_groups
from miner.ranges import literal

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_SMALLEST, _LARGEST = 1, 1000**5
"""The range of a size, in bytes."""
LEAST = 512 * 2**20
"""The smallest limit: Python, its libraries and DuckDB's smallest working set need this much."""
_UNKNOWN = 4 * 2**30
"""The limit if the system does not report its memory."""
_MOST_DATABASE = 4 * 2**30
"""More than this hardly makes DuckDB faster; models, vectors and indexes need the rest."""
_MOST_BLOCK = 256 * 2**20


def parse_size(text: str) -> int:
    """Returns a size such as 500MB, 1.5 GB or 2GiB in bytes; raises UsageError for any other text."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    size = 0.0
    if match is not None:
        unit = match[2].upper()
        size = float(match[1]) * (1024 ** list(_UNITS).index(unit) if match[3] else _UNITS[unit])
    if not _SMALLEST <= size <= _LARGEST:
        raise UsageError(
            f"memory must be a size from 1 byte to 1000TB, got {literal(text)}",
            "give one such as 500MB or 2GB",
        )
    return int(size)


def shown_size(size: int) -> str:
    """Returns a number of bytes for people: 1.25 GiB, or 640 MiB if it is less than 1 GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


@dataclass(frozen=True)
class MemoryLimit:
    """The memory that a process should not exceed, and the shares of it that stages plan with.

    It is a plan, not a wall: every stage sizes its blocks by it, and DuckDB spills to disk above its share.
    Raises UsageError for a limit below LEAST.
    """

    total: int
    """Bytes."""

    def __post_init__(self) -> None:
        if self.total < LEAST:
            raise UsageError(
                f"a memory limit of {shown_size(self.total)} is too small to work",
                f"give at least --memory {shown_size(LEAST).replace(' ', '')}",
            )

    @classmethod
    def of(cls, size: str | int | None = None) -> MemoryLimit:
        """Returns the limit of a size; None: that of the process, which `limit_process` sets.

        Without one it is half of what the process may use.
        """
        if size is None:
            size = _process if _process is not None else max(LEAST, memory_bytes() // 2 or _UNKNOWN)
        return cls(parse_size(size) if isinstance(size, str) else size)

    @property
    def database(self) -> int:
        """Bytes that DuckDB may use before it spills to disk: a quarter of all, at most 4 GiB."""
        return min(self.total // 4, _MOST_DATABASE)

    @property
    def block(self) -> int:
        """Bytes that a stage may hold of the data that it goes through: a sixteenth, at most 256 MiB."""
        return min(self.total // 16, _MOST_BLOCK)

    def rows(self, bytes_per_row: int) -> int:
        """Returns how many rows of a size fit in a block; at least one."""
        return max(1, self.block // max(1, bytes_per_row))


_process: int | None = None


def limit_process(size: int | None) -> None:
    """Sets the limit of this process in bytes, which stores opened without a limit of their own have.

    None: half of what the process may use.
    """
    global _process
    _process = size


def process_limit() -> int | None:
    """Returns the limit that `limit_process` set, in bytes; None if it set none."""
    return _process


def memory_bytes(root: Path | None = None, own: Path | None = None) -> int:
    """Returns the memory that this process may use, in bytes: the machine's, or its control groups' if less.

    0 if the system does not report it. `root` and `own` are as in `processors.control_groups`.
    """
    limits = [_physical_bytes()]
    for folder in control_groups("memory", root, own):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # `max` is no limit
                limits.append(int((folder / name).read_text(encoding="ascii")))
    return min((limit for limit in limits if limit > 0), default=0)


def _physical_bytes() -> int:
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "darwin":
        import subprocess

        size = subprocess.run(["/usr/sbin/sysctl", "-n", "hw.memsize"], capture_output=True, check=False)
        return int(size.stdout or 0)
    return 0


def peak_bytes() -> int:
    """Returns the largest resident set of this process so far, mapped files included; 0 if unknown."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
