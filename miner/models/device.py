"""The device and the precision in which models compute."""

from __future__ import annotations

import sys
from pathlib import Path

from miner.engine.machine import bf16_multiplies
from miner.errors import UsageError
from miner.ranges import DTYPES


def resolve_device() -> str:
    """Returns `cuda` if PyTorch can use a GPU, else `cpu`.

    On a Linux machine without a GPU driver it does not import PyTorch.
    """
    drivers = (Path("/proc/driver/nvidia"), Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
    if sys.platform == "linux" and not any(driver.exists() for driver in drivers):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(dtype: str, device: str) -> str:
    """Returns `fp32` or `bf16`; for `auto`, bf16 if the hardware supports it, else fp32.

    Raises UsageError for any other name.
    """
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype '{dtype}'", f"choose one of {', '.join(DTYPES)}")
    if dtype != "auto":
        return dtype
    if device == "cuda":
        import torch

        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if bf16_multiplies() else "fp32"
