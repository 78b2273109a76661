"""What the errors of the system and of damaged files mean for the user. Imports nothing heavy."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, TypeVar

from miner.errors import MinerError, shown

Kind = TypeVar("Kind")

AGAIN = "then run the same command again"
_HINTS = {
    errno.ENOSPC: f"free some space on the disk, {AGAIN}",
    errno.EDQUOT: f"free some of your quota, {AGAIN}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f), {AGAIN}",
    errno.EMFILE: f"raise the limit on open files (ulimit -n), {AGAIN}",
    errno.EROFS: "name a place that can be written",
    errno.EIO: "check the disk",
}
_MEMORY = (
    "can't allocate memory",
    "CUDA out of memory",
    "std::bad_alloc",
    "Cannot allocate memory",
    "failed to map segment from shared object",
)
"""How PyTorch, FAISS, the tokenizers and the loader of libraries say that memory is missing."""


def hint_of(number: int | None, other: str) -> str:
    """Returns what to do about an error of the system, by its number (errno); `other` for the rest."""
    return _HINTS.get(number or 0, other)


def explained(error: BaseException) -> MinerError | None:
    """Returns what to tell the user about an error that is no defect of this program; None for a defect."""
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY):
        return MinerError(
            "not enough memory", f"free some, raise the limit (ulimit -v), or lower the sizes; {AGAIN}"
        )
    if "can't start new thread" in text:
        return MinerError(
            "no further thread can be started", f"raise the limit (ulimit -u, ulimit -v), {AGAIN}"
        )
    if isinstance(error, OSError) and (error.filename or error.errno in _HINTS):
        where = f"cannot use {shown(error.filename, 200)}: " if error.filename else ""
        hint = hint_of(error.errno, "check the path and its permissions")
        return MinerError(f"{where}{error.strerror or text}", hint)
    return None


def read_json(file: Path, kind: type[Kind], hint: str) -> Kind:
    """Returns what a JSON file holds; raises MinerError that names the file where that is no `kind`."""
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
        raise MinerError(f"{file} is damaged: it holds no {'list' if kind is list else 'JSON object'}", hint)
    return content
