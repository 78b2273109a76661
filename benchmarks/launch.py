"""Runs one command from a process that is next to empty, and writes what it took.

Linux hands the parent's peak memory on to a child it starts; this parent has none worth the name, so
the figure is the child's own. usage: launch.py RESULT.json COMMAND [ARGUMENT…]
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    """Writes seconds, cpu_seconds, peak_bytes (the largest resident set) and the exit code to RESULT.json."""
    result, *command = sys.argv[1:]
    started = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024
    with open(result, "w", encoding="utf-8") as file:
        used = usage.ru_utime + usage.ru_stime
        figures = {"seconds": seconds, "cpu_seconds": used, "peak_bytes": usage.ru_maxrss * unit}
        json.dump(figures | {"code": os.waitstatus_to_exitcode(status)}, file)


if __name__ == "__main__":
    main()
