"""Turns errors of the system and of damaged files into errors for the user. It imports nothing heavy."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, TypeVar

from miner.errors import MinerError, shown

Kind = TypeVar("Kind")

AGAIN = "then run the same command again"
_HINTS = {
    errno.ENOSPC: f"free space on the disk, {AGAIN}",
    errno.EDQUOT: f"free space in your quota, {AGAIN}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f), {AGAIN}",
    errno.EMFILE: f"raise the limit on open files (ulimit -n), {AGAIN}",
    errno.EROFS: "name a folder that can be written",
    errno.EIO: "check the disk",
}
_MEMORY = (
    "can't allocate memory",
    "CUDA out of memory",
    "std::bad_alloc",
    "Cannot allocate memory",
    "failed to map segment from shared object",
)
"""Messages of PyTorch, FAISS, the tokenizers and the library loader for a lack of memory."""


def hint_of(number: int | None, other: str) -> str:
    """Returns the hint for an error of the system, by its number (errno); `other` for an unknown number."""
    return _HINTS.get(number or 0, other)


def explained(error: BaseException) -> MinerError | None:
    """Returns the user's error for an error that is not a defect of this program; None for a defect."""
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY):
        return MinerError(
            "not enough memory", f"free memory, raise the limit (ulimit -v), or lower the sizes; {AGAIN}"
        )
    if "can't start new thread" in text:
        return MinerError("cannot start another thread", f"raise the limit (ulimit -u, ulimit -v), {AGAIN}")
    if isinstance(error, OSError) and (error.filename or error.errno in _HINTS):
        where = f"cannot use {shown(error.filename, 200)}: " if error.filename else ""
        hint = hint_of(error.errno, "check the path and its permissions")
        return MinerError(f"{where}{error.strerror or text}", hint)
    return None


def read_json(file: Path, kind: type[Kind], hint: str) -> Kind:
    """Returns the content of a JSON file; raises MinerError if it cannot be read or is not a `kind`."""
    import json  # which `miner --help` does not need

    try:
        content: Any = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = (
            "it is nested too deeply" if isinstance(error, RecursionError) else f"it is not JSON: {error}"
        )
        raise MinerError(f"{file} is damaged: {reason}", hint) from error
    except OSError as error:
        raise MinerError(f"cannot read {file}: {error.strerror or error}", hint) from error
    if not isinstance(content, kind):
        raise MinerError(f"{file} is damaged: it is not a {'list' if kind is list else 'JSON object'}", hint)
    return content
