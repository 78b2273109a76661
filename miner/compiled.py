"""Functions compiled to machine code by numba, where NumPy would need many passes or too much memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Returns the function compiled at its first call, and kept on disk for the next process.

    It runs without the interpreter's lock, on arrays and numbers alone. Division by zero gives infinity or
    NaN, as in NumPy. If no folder for compiled code can be written, each process compiles it again.
    """
    import numba

    settings: Any = numba.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(_folder(Path(function.__code__.co_filename), before))
    try:
        fast = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # numba found no folder that it can write
        fast = numba.njit(nogil=True, error_model="numpy")(function)
    finally:
        settings.CACHE_DIR = before
    return cast("Function", fast)


@cache
def _folder(source: Path, chosen: str) -> Path:
    """Returns the folder for the compiled code of a source file, which belongs to its content.

    Beside another version of the source, numba 0.68 may fail to read what it kept
    (findings/numba-cannot-read-its-cache-after-a-rename.sh). `chosen` is the folder that the user sets.
    """
    base = Path(chosen) if chosen else source.parent / "__pycache__"
    if not os.access(base if base.exists() else base.parent, os.W_OK):
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "miner"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return base / f"{source.stem}-{digest[:12]}"
