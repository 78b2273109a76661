"""The number of processors that this process may use. The module imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import inf
from pathlib import Path

_ROOT, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores() -> int:
    """Returns the number of processors that this process may use: its affinity, or its container's quota.

    A quota is rounded down to whole processors, but at least one.
    """
    return max(1, int(min(len(affinity()), quota())))


def affinity() -> set[int]:
    """Returns the numbers of the processors that this process may run on."""
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return set(range(os.cpu_count() or 1))


def quota(root: Path = _ROOT, own: Path = _OWN) -> float:
    """Returns the number of processors that this process's control groups allow; infinity without a limit."""
    return min((_limit(folder) for folder in _groups(root, own)), default=inf)


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """Yields the folders of the control groups that limit processors (cgroup v2 and v1), innermost first."""
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers
        folder = top / path.lstrip("/")
        # In a container the path may be the host's; the container's own group is then at the top.
        yield from (one for one in (folder, *folder.parents) if one.is_dir() and one.is_relative_to(top))


def _limit(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            granted, period = (folder / "cpu.max").read_text("ascii").split()
        else:
            granted = (folder / "cpu.cfs_quota_us").read_text("ascii")
            period = (folder / "cpu.cfs_period_us").read_text("ascii")
        return inf if granted == "max" or int(granted) <= 0 else int(granted) / int(period)
    except (OSError, ValueError):
        return inf
