"""Functions compiled to machine code by numba, where NumPy would need many passes or too much memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Returns the function compiled at its first call, and kept on disk for the next process.

    It runs without the interpreter's lock, on arrays and numbers alone. Division by zero gives infinity or
    NaN, as in NumPy. Where no folder for compiled code can be written, each process compiles it again.
    """
    import numba

    try:
        fast = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # numba found no folder that it can write
        fast = numba.njit(nogil=True, error_model="numpy")(function)
    return cast("Function", fast)
