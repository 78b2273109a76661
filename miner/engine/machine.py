"""This machine's disk and instruction sets. The module imports nothing heavy."""

from __future__ import annotations

import os
import platform
import shutil
from functools import lru_cache
from pathlib import Path

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of x86 processors with AVX512-BF16 or AMX, and of Arm, that multiply bf16 in hardware."""


@lru_cache(maxsize=1)
def processor_flags() -> frozenset[str]:
    """Returns the instruction sets that Linux reports for the first processor; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def bf16_multiplies() -> bool:
    """Returns whether the processor multiplies bf16 matrices in hardware, faster than fp32."""
    return not _BF16_FLAGS.isdisjoint(processor_flags())


def processor_name() -> str:
    """Returns the processor's name as its maker gives it, or the architecture's."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def free_disk_bytes(path: str | os.PathLike[str]) -> int:
    """Returns the free space of the disk that holds `path`, or its nearest existing parent."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
