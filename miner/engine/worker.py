"""What runs in the process of a cluster's worker: objects, opened once, whose methods it calls."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from miner.errors import MinerError
from miner.faults import explained
from miner.memory import LEAST, limit_process, memory_bytes

_SAME = (
    "hardneg-miner", "numpy", "scipy", "torch", "sentence-transformers", "transformers", "tokenizers",
    "pyarrow", "numba", "bm25s", "PyStemmer",
)  # fmt: skip
"""Packages whose version must be the same on every node, because results depend on them."""


class Opener(Protocol):
    """How a worker gets an object; equal openers get the same object. An opener is hashable."""

    def open(self) -> Any:
        """Returns the object, whose methods are then called."""
        ...


@dataclass(frozen=True)
class Raised:
    """An error of a worker's that a user can act on."""

    error: MinerError


class Worker:
    """What runs in a worker's process: objects, opened once, whose methods are called one after the other."""

    def __init__(self, memory: int | None, together: int) -> None:
        """`together` is the number of workers on the machine, `memory` the limit of each if it is given."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        limit_process(memory if memory is not None else max(LEAST, memory_bytes() // (2 * together)))
        self._opened: dict[Opener, Any] = {}

    def versions(self) -> dict[str, str]:
        """Returns the versions of what results depend on."""
        return own_versions()

    def call(self, opener: Opener, method: str, *arguments: Any) -> Any:
        """Returns what a method of an opened object returns, or the error that a user can act on."""
        try:
            if opener not in self._opened:
                self._opened[opener] = opener.open()
            return getattr(self._opened[opener], method)(*arguments)
        except MinerError as error:
            return Raised(error)
        except Exception as error:
            if known := explained(error):
                return Raised(known)
            raise

    def close(self, opener: Opener) -> None:
        """Drops an opened object."""
        self._opened.pop(opener, None)


def own_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on, in this process."""
    found = {"Python": platform.python_version()}
    for package in _SAME:
        try:
            found[package] = version(package).partition("+")[0]  # +cpu and +cu129 are builds of one version
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
