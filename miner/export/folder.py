"""A folder that appears complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from miner.errors import UsageError

MARK = "manifest.json"
"""The file that every export has; a folder without it is never replaced."""


@contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """Yields an empty folder beside `out` that takes its place when the context ends without error.

    With `force` an earlier export at `out` is replaced. Raises UsageError when `out` is a file, or a
    folder that is not empty and may not be replaced.
    """
    _require_free(out, force)
    out = out.absolute()
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {out}: {error.strerror}", "name another folder") from error
    try:
        yield partial
        for file in sorted(partial.rglob("*")):
            _sync(file)
        _take_place(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _require_free(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, not a folder", "name a new folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not force:
        raise UsageError(f"the folder {out} is not empty", "name a new folder, or add --force")
    if not (out / MARK).is_file():
        raise UsageError(
            f"{out} is not an earlier export (it holds no {MARK})", "--force replaces exports only"
        )


def _take_place(partial: Path, out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        old = out.with_name(f".{out.name}.replaced-{os.getpid()}")
        out.rename(old)
        partial.rename(out)
        shutil.rmtree(old)
    else:
        partial.rename(out)
    _sync(out.parent)


def _sync(path: Path) -> None:
    """Makes sure that a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
