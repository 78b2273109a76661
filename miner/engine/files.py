"""Files and folders that appear as a whole or not at all, whatever ends the process.

A result is built beside its target, under the name `.NAME.miner-new`, synced to the disk, and moved into
place in one step: after a kill the target is the old result or the new one. Whatever a kill leaves beside a
target is removed by the next command that locks the target.
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
"""Seconds to wait for another process that writes the same file: that is soon done."""
_NEW, _OLD, _LOCK = "miner-new", "miner-old", "miner-lock"
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self|proc/thread-self)/fd/(\d+)")
_LINKS = 40
"""Links that a path may go through, as in Linux."""
_HERE = -100
"""AT_FDCWD: paths are relative to the working directory."""
_KEEP, _EXCHANGE = 1, 2
"""RENAME_NOREPLACE and RENAME_EXCHANGE of renameat2."""
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


@contextmanager
def locked(target: Path, wait: float = 0.0) -> Iterator[None]:
    """Keeps other processes from writing `target`, a file or a folder, which need not exist.

    Removes first what killed processes left beside it. The lock is a file beside the target and is removed
    at the end, as are the folders that were made for it and are empty. Raises MinerError when another process
    holds the lock for more than `wait` seconds, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout  # only what writes needs it

    if is_stream(target):
        yield
        return
    place = _place(target)
    lock = FileLock(_beside(place, _LOCK), timeout=wait)
    missing = [folder for folder in place.parents if not folder.exists()]
    with _named(target):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise MinerError(
                f"another process is writing {target}", "wait until it ends, or name another target"
            ) from error
    try:
        with _named(target):
            tidy(place)
        yield
    finally:
        # While it is still held: filelock sees that a file it waited for is gone, and makes a new one.
        with suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()


def tidy(target: Path) -> None:
    """Removes what killed processes left beside `target`; restores it if a swap was cut off half-way.

    Only for a target that no other process can be writing: `locked` calls it.
    """
    place = _place(target)
    new, old = _beside(place, _NEW), _beside(place, _OLD)
    if os.path.lexists(old) and not os.path.lexists(place):
        old.rename(place)
    _clear(new)
    if os.path.lexists(old):
        old.rename(new)
        _clear(new)


def contents(folder: Path) -> list[Path]:
    """Returns what a folder holds, without locks and what is being built; nothing if there is no folder."""
    if not folder.is_dir():
        return []
    ours = re.compile(rf"\..*\.(?:{_NEW}|{_LOCK}|{_OLD})")
    return sorted(path for path in folder.iterdir() if not ours.match(path.name))


@contextmanager
def replacing(file: Path, *, exists_ok: bool = True) -> Iterator[Path]:
    """Yields another name, which becomes `file` when all is written and vanishes on an error.

    A link is followed. A device, a pipe or a descriptor such as /dev/stdout gets the content when it is
    complete. Raises MinerError when the file cannot be written, or exists and may not; UsageError when it is
    a store or a folder.
    """
    with replacing_all([file], exists_ok=exists_ok) as (partial,):
        yield partial


@contextmanager
def replacing_all(files: Sequence[Path], *, exists_ok: bool = True) -> Iterator[list[Path]]:
    """Does for a group of files what `replacing` does for one; they take their places in the given order."""
    for file in files:
        require_file(file)
    streams = [_stream(file) for file in files]
    with tempfile.TemporaryDirectory() if streams != [None] * len(files) else nullcontext("") as spool:
        places = [
            Path(spool, file.name) if stream is not None else _beside(_place(file), _NEW)
            for file, stream in zip(files, streams, strict=True)
        ]
        try:
            for file, place in zip(files, places, strict=True):
                with _named(file):
                    place.parent.mkdir(parents=True, exist_ok=True)
                    _clear(place)
            with _named(files[0], places):
                yield places
            for file, place, stream in zip(files, places, streams, strict=True):
                with _named(file):
                    _deliver(place, stream) if stream is not None else _settle(place, file, exists_ok)
        finally:
            for place in places:
                with suppress(OSError):  # as where its folder is none
                    _clear(place)


@contextmanager
def spilling(target: Path) -> Iterator[Path]:
    """Yields a folder for what memory cannot hold while `target` is written, and removes it at the end.

    What a kill leaves of it is removed by the next command that locks the target.
    """
    new = _beside(_place(target), _NEW)
    spill = new.with_name(f"{new.name}.spill")
    try:
        yield spill
    finally:
        with suppress(OSError):  # as where its folder is gone
            _clear(spill)


def require_file(file: Path) -> None:
    """Raises UsageError when `file` is a folder or a store, MinerError when it is write-protected."""
    from miner.store.faults import is_database  # brings DuckDB and Arrow, which a start does without

    if is_stream(file):
        return
    if is_database(file):
        raise UsageError(f"{file} is a DuckDB database, and would be lost", "name another file")
    if file.is_dir():
        raise UsageError(f"{file} is a folder", "name a file")
    if file.exists() and not os.access(file, os.W_OK):
        raise MinerError(f"cannot write {file}: {os.strerror(errno.EACCES)}", "name another file")


def is_stream(path: Path) -> bool:
    """Returns whether a path is a device, a pipe or an open descriptor, which take bytes."""
    return _stream(path) is not None


def write_whole(file: Path, content: str) -> None:
    """Writes a text file as `replacing` does."""
    with replacing(file) as partial:
        partial.write_text(content, "utf-8")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields an empty folder beside `out`, which takes its place at the end and vanishes on an error.

    Whether what is at `out` may be replaced is for the caller to say, under `locked`. Raises MinerError when
    the folder cannot be written, UsageError when it cannot be replaced.
    """
    require_replaceable(out)
    new = _beside(_place(out), _NEW)
    try:
        with _named(out):
            new.parent.mkdir(parents=True, exist_ok=True)
            _clear(new)
            new.mkdir()
        yield new
        put(new, out)
    finally:
        _clear(new)


def put(folder: Path, out: Path) -> None:
    """Moves a finished folder to `out`, on the same file system, so that `out` is never missing.

    What was at `out` is then at `folder`, for the caller to remove. Where the system cannot exchange two
    names at once `out` is missing for a moment, and `tidy` restores it if a kill falls into that. Raises
    MinerError when it cannot be written.
    """
    place = _place(out)
    with _named(out):
        for path in sorted(folder.rglob("*")):
            _sync(path)
        _sync(folder)
        if not place.is_dir() or not any(place.iterdir()):
            folder.rename(place)
        else:
            shutil.copymode(place, folder)
            if not _rename(folder, place, _EXCHANGE):
                old = _beside(place, _OLD)
                place.rename(old)
                folder.rename(place)
                old.rename(folder)
        _sync(place.parent)


def discard(folder: Path) -> None:
    """Removes a folder at once, as far as its name goes: a kill cannot leave half of it there."""
    new = _beside(_place(folder), _NEW)
    _clear(new)
    folder.rename(new)
    _clear(new)


def require_replaceable(out: Path) -> None:
    """Raises UsageError when `out` is a folder that nothing can take the place of."""
    place = _place(out)
    if place.is_dir() and Path.cwd().is_relative_to(place):
        raise UsageError(f"{out} is the folder that you are in", "name a new folder in it")
    if os.path.ismount(place):
        raise UsageError(f"{out} is where a file system is mounted", "name a new folder in it")


def _beside(place: Path, kind: str) -> Path:
    return place.with_name(f".{place.name}.{kind}")


def _place(path: Path) -> Path:
    """The file or folder that a path leads to, links followed, whether it exists or not."""
    return Path(os.path.realpath(path))


def _stream(path: Path) -> Path | int | None:
    """The open descriptor, the device or the pipe that a path leads to; None for anything else."""
    one = path.absolute()
    for _ in range(_LINKS):
        if found := _DESCRIPTOR.fullmatch(os.path.normpath(one)):
            return int(found[1])
        if not one.is_symlink():
            break
        one = one.parent / os.readlink(one)
    with suppress(OSError):
        mode = path.stat().st_mode
        return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else path
    return None


def _deliver(file: Path, stream: Path | int) -> None:
    """Writes what is complete into a descriptor, a device or a pipe."""
    if sys.stdout is not None:  # None: the caller closed it
        sys.stdout.flush()
    target = os.dup(stream) if isinstance(stream, int) else stream
    with file.open("rb") as source, open(target, "wb") as opened:
        shutil.copyfileobj(source, opened)


def _settle(new: Path, file: Path, exists_ok: bool) -> None:
    """Syncs a file and moves it into its place."""
    place = _place(file)
    if place.exists():
        shutil.copymode(place, new)
    _sync(new)
    if exists_ok:
        new.replace(place)
    else:
        try:
            if not _rename(new, place, _KEEP):
                os.link(new, place)
                new.unlink()
        except FileExistsError as error:
            raise MinerError(
                f"another process made {file} meanwhile", "run the same command again"
            ) from error
    _sync(place.parent)


def _rename(one: Path, other: Path, flag: int) -> bool:
    """Renames as renameat2 does with a flag; False where the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    sys.audit("os.rename", str(one), str(other), -1, -1)  # as the renames of Python itself are
    if call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def _clear(new: Path) -> None:
    """Removes what was being built under this name, with what DuckDB keeps beside it."""
    for path in [path for path in new.parent.iterdir() if path.name.startswith(new.name)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Makes sure that a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some network file systems cannot sync folders
            raise
    finally:
        os.close(handle)


@contextmanager
def _named(target: Path, own: Sequence[Path] = ()) -> Iterator[None]:
    """Makes an OSError one that names the target; with `own` only an error about one of these files."""
    try:
        yield
    except OSError as error:
        if own and error.filename is not None and error.filename not in map(str, own):
            raise
        hint = hint_of(error.errno, "check its folder")
        raise MinerError(f"cannot write {target}: {error.strerror or error}", hint) from error
