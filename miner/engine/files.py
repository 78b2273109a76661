"""Atomic files and folders: a result appears complete or not at all, even if the process is killed.

A result is built beside its target, under the name `.NAME.miner-new`, synced to the disk and renamed to the
target in one step. After a kill the target is either the old result or the new one. The next command that
locks the target removes what the kill left beside it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from miner.errors import MinerError, UsageError
from miner.faults import hint_of

WAIT = 10.0
"""Seconds to wait for another process that writes the same file, which it soon completes."""
_NEW, _OLD, _LOCK = "miner-new", "miner-old", "miner-lock"
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self|proc/thread-self)/fd/(\d+)")
_LINKS = 40
"""The most symbolic links that a path may go through, as in Linux."""
_AT_FDCWD = -100
"""For renameat2: paths are relative to the working directory."""
_KEEP, _EXCHANGE = 1, 2
"""RENAME_NOREPLACE and RENAME_EXCHANGE of renameat2."""
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


@contextmanager
def locked(target: Path, wait: float = 0.0) -> Iterator[None]:
    """Prevents other processes from writing `target`, a file or a folder, which need not exist.

    First removes what killed processes left beside it. The lock is a file beside the target; at the end it is
    removed, and so are empty folders that were made for it. Raises MinerError if another process has the lock
    for more than `wait` seconds, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout  # needed only for writing

    if is_stream(target):
        yield
        return
    path = _resolved(target)
    lock = FileLock(_beside(path, _LOCK), timeout=wait)
    missing = [folder for folder in path.parents if not folder.exists()]
    with _errors_naming(target):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise MinerError(
                f"another process is writing {target}", "wait until it ends, or name another target"
            ) from error
    try:
        with _errors_naming(target):
            tidy(path)
        yield
    finally:
        # Before the release: a process that waits for the lock sees that the file is gone and makes another.
        with suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()


def tidy(target: Path) -> None:
    """Removes what killed processes left beside `target`; restores the target of an interrupted exchange.

    Call it only if no other process can be writing the target; `locked` calls it.
    """
    path = _resolved(target)
    new, old = _beside(path, _NEW), _beside(path, _OLD)
    if os.path.lexists(old) and not os.path.lexists(path):
        old.rename(path)
    _clear(new)
    if os.path.lexists(old):
        old.rename(new)
        _clear(new)


def contents(folder: Path) -> list[Path]:
    """Returns the contents of a folder, without locks and unfinished results; empty if there is no folder."""
    if not folder.is_dir():
        return []
    ours = re.compile(rf"\..*\.(?:{_NEW}|{_LOCK}|{_OLD})")
    return sorted(path for path in folder.iterdir() if not ours.match(path.name))


@contextmanager
def replacing(file: Path, *, exists_ok: bool = True) -> Iterator[Path]:
    """Yields a temporary file, which replaces `file` at the end and is removed on an error.

    A link is followed. A device, a pipe or a descriptor such as /dev/stdout receives the complete content at
    the end. Raises MinerError if the file cannot be written, or exists and `exists_ok` is false; UsageError
    if it is a store or a folder.
    """
    with replacing_all([file], exists_ok=exists_ok) as (partial,):
        yield partial


@contextmanager
def replacing_all(files: Sequence[Path], *, exists_ok: bool = True) -> Iterator[list[Path]]:
    """Does for several files what `replacing` does for one; they are replaced in the given order."""
    for file in files:
        require_file(file)
    streams = [_stream(file) for file in files]
    with tempfile.TemporaryDirectory() if streams != [None] * len(files) else nullcontext("") as spool:
        partials = [
            Path(spool, file.name) if stream is not None else _beside(_resolved(file), _NEW)
            for file, stream in zip(files, streams, strict=True)
        ]
        try:
            for file, partial in zip(files, partials, strict=True):
                with _errors_naming(file):
                    partial.parent.mkdir(parents=True, exist_ok=True)
                    _clear(partial)
            with _errors_naming(files[0], partials):
                yield partials
            for file, partial, stream in zip(files, partials, streams, strict=True):
                with _errors_naming(file):
                    _deliver(partial, stream) if stream is not None else _settle(partial, file, exists_ok)
        finally:
            for partial in partials:
                with suppress(OSError):  # for example, its folder is a file
                    _clear(partial)


@contextmanager
def spilling(target: Path) -> Iterator[Path]:
    """Yields a folder for data that exceeds the memory while `target` is written; removes it at the end.

    If the process is killed, the next command that locks the target removes the folder.
    """
    new = _beside(_resolved(target), _NEW)
    spill = new.with_name(f"{new.name}.spill")
    try:
        yield spill
    finally:
        with suppress(OSError):  # for example, its folder is gone
            _clear(spill)


def require_file(file: Path) -> None:
    """Raises UsageError if `file` is a folder or a store, MinerError if it is write-protected."""
    from miner.store.faults import is_database  # imports DuckDB and Arrow, which `miner --help` does not need

    if is_stream(file):
        return
    if is_database(file):
        raise UsageError(f"{file} is a DuckDB database and would be lost", "name another file")
    if file.is_dir():
        raise UsageError(f"{file} is a folder", "name a file")
    if file.exists() and not os.access(file, os.W_OK):
        raise MinerError(f"cannot write {file}: {os.strerror(errno.EACCES)}", "name another file")


def is_stream(path: Path) -> bool:
    """Returns whether a path is a device, a pipe or an open descriptor."""
    return _stream(path) is not None


def write_whole(file: Path, content: str) -> None:
    """Writes a text file through `replacing`."""
    with replacing(file) as partial:
        partial.write_text(content, "utf-8")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields an empty folder beside `out`, which replaces `out` at the end and is removed on an error.

    The caller decides, within `locked`, whether `out` may be replaced. Raises MinerError if the folder cannot
    be written, UsageError if it cannot be replaced.
    """
    require_replaceable(out)
    new = _beside(_resolved(out), _NEW)
    try:
        with _errors_naming(out):
            new.parent.mkdir(parents=True, exist_ok=True)
            _clear(new)
            new.mkdir()
        yield new
        put(new, out)
    finally:
        _clear(new)


def put(folder: Path, out: Path) -> None:
    """Moves a finished folder to `out` on the same file system, so that `out` is never missing.

    The old content of `out` is then at `folder`, for the caller to remove. If the system cannot exchange two
    names in one step, `out` is missing for a moment, and `tidy` restores it after a kill. Raises MinerError
    if it cannot be written.
    """
    path = _resolved(out)
    with _errors_naming(out):
        for part in sorted(folder.rglob("*")):
            _sync(part)
        _sync(folder)
        if not path.is_dir() or not any(path.iterdir()):
            folder.rename(path)
        else:
            shutil.copymode(path, folder)
            if not _rename(folder, path, _EXCHANGE):
                old = _beside(path, _OLD)
                path.rename(old)
                folder.rename(path)
                old.rename(folder)
        _sync(path.parent)


def discard(folder: Path) -> None:
    """Removes a folder. It is renamed first, so that a kill never leaves half of it under its name."""
    new = _beside(_resolved(folder), _NEW)
    _clear(new)
    folder.rename(new)
    _clear(new)


def require_replaceable(out: Path) -> None:
    """Raises UsageError if `out` is a folder that cannot be replaced."""
    path = _resolved(out)
    if path.is_dir() and Path.cwd().is_relative_to(path):
        raise UsageError(f"{out} is the current folder or contains it", "name a new folder in it")
    if os.path.ismount(path):
        raise UsageError(f"{out} is the mount point of a file system", "name a new folder in it")


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")


def _resolved(path: Path) -> Path:
    """Returns a path with its links followed, whether or not it exists."""
    return Path(os.path.realpath(path))


def _stream(path: Path) -> Path | int | None:
    """Returns the open descriptor, the device or the pipe at a path; None for anything else."""
    one = path.absolute()
    for _ in range(_LINKS):
        if descriptor := _DESCRIPTOR.fullmatch(os.path.normpath(one)):
            return int(descriptor[1])
        if not one.is_symlink():
            break
        one = one.parent / os.readlink(one)
    with suppress(OSError):
        mode = path.stat().st_mode
        return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else path
    return None


def _deliver(file: Path, stream: Path | int) -> None:
    """Copies a complete file into a descriptor, a device or a pipe."""
    if sys.stdout is not None:  # None: the caller closed it
        sys.stdout.flush()
    target = os.dup(stream) if isinstance(stream, int) else stream
    with file.open("rb") as source, open(target, "wb") as opened:
        shutil.copyfileobj(source, opened)


def _settle(new: Path, file: Path, exists_ok: bool) -> None:
    """Syncs a file and renames it to its final name."""
    path = _resolved(file)
    if path.exists():
        shutil.copymode(path, new)
    _sync(new)
    if exists_ok:
        new.replace(path)
    else:
        try:
            if not _rename(new, path, _KEEP):
                os.link(new, path)
                new.unlink()
        except FileExistsError as error:
            raise MinerError(
                f"another process made {file} meanwhile", "run the same command again"
            ) from error
    _sync(path.parent)


def _rename(one: Path, other: Path, flag: int) -> bool:
    """Renames with a flag of renameat2; returns False if the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    sys.audit("os.rename", str(one), str(other), -1, -1)  # as os.rename does
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def _clear(new: Path) -> None:
    """Removes the unfinished result of this name, and the files that DuckDB keeps beside it."""
    for path in [path for path in new.parent.iterdir() if path.name.startswith(new.name)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Writes a file or a folder from the system's cache to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some network file systems cannot sync folders
            raise
    finally:
        os.close(handle)


@contextmanager
def _errors_naming(target: Path, own: Sequence[Path] = ()) -> Iterator[None]:
    """Turns an OSError into a MinerError that names the target; with `own`, only errors about these files."""
    try:
        yield
    except OSError as error:
        if own and error.filename is not None and error.filename not in map(str, own):
            raise
        hint = hint_of(error.errno, "check its folder")
        raise MinerError(f"cannot write {target}: {error.strerror or error}", hint) from error
