"""The number of processors that this process may use, and its control groups. It imports nothing heavy."""

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


def quota(root: Path | None = None, own: Path | None = None) -> float:
    """Returns the number of processors that this process's control groups allow; infinity without a limit."""
    return min((_limit(folder) for folder in control_groups("cpu", root, own)), default=inf)


def control_groups(controller: str, root: Path | None = None, own: Path | None = None) -> Iterator[Path]:
    """Yields the folders of this process's control groups (cgroup v2 and v1), innermost first.

    Those of version 1 are the ones of `controller`: `cpu` or `memory`. `root` is where the groups are
    mounted, `own` the file that names those of the process.
    """
    root, own = root or _ROOT, own or _OWN
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
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
