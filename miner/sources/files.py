"""Files on disk: finding them, and reading their lines as UTF-8."""

from __future__ import annotations

import gzip
import math
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from miner.errors import InputError, listed, near

LONGEST_LINE = 1 << 29
"""In bytes."""
MOST_EXPANSION = (1 << 30, 200)
"""A .gz may always expand to the first, in bytes, and beyond that to so many times its size."""
MOST_FILES = 200_000
_HEAD = 4096
_LFS = b"version https://git-lfs.github.com/spec/"
_UTF16 = ("UTF-16", "convert it first: iconv -f UTF-16 -t UTF-8 OLD > NEW")
_UNPACK = "unpack it first"
_MAGIC = (
    (_LFS, "a Git LFS pointer", "the data is elsewhere; fetch it: git lfs pull"),
    (b"\xff\xfe\0\0", "UTF-32", "convert it first: iconv -f UTF-32 -t UTF-8 OLD > NEW"),
    (b"\xff\xfe", *_UTF16),
    (b"\xfe\xff", *_UTF16),
    (b"\x1f\x8b", "compressed with gzip", "end its name in .gz, such as data.jsonl.gz, or unpack it"),
    (b"\x1f\x9d", "compressed with compress", _UNPACK),
    (b"BZh", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"PK\x03\x04", "a zip archive or an office document", "unpack it, or save a table as .csv"),
    (b"PAR1", "Parquet", "end its name in .parquet"),
    (b"ARROW1", "an Arrow file", "save it as .parquet, or name the folder that save_to_disk wrote"),
    (b"SQLite format 3", "an SQLite database", "write its table as .csv"),
    (b"%PDF", "a PDF", "extract its texts first"),
)  # fmt: skip


@dataclass(frozen=True)
class File:
    """A file, and the name by which the user knows it."""

    path: Path
    origin: str
    fault: str = ""
    """Why nothing can be read from it, such as `a broken link`; empty if it is a file."""

    @property
    def stem(self) -> str:
        """The file's name without its ending and without .gz."""
        return Path(self.path.name.removesuffix(".gz")).stem

    @property
    def suffix(self) -> str:
        """The ending that tells the format, such as `.tsv`, in lower case, .gz left out."""
        return Path(self.path.name.removesuffix(".gz")).suffix.lower()

    @property
    def size(self) -> int:
        """Its size on disk in bytes."""
        return self.path.stat().st_size


class NotUtf8Error(InputError):
    """A file that is not UTF-8."""


class Line(NamedTuple):
    """One line, its end included, and how many bytes of the file it used up."""

    number: int
    text: str
    size: int


def locate(source: str) -> Path:
    """Returns the path of a source; raises InputError, with the nearest name, if it is no file or folder."""
    path = Path(source).expanduser()
    if path.exists():
        if not path.is_file() and not path.is_dir():
            raise InputError(
                f"{source}: {_fault(path)}, not a file or folder", "write the data to a file first"
            )
        return path
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise InputError(
        f"there is no file or folder {source}{near(path.name, siblings)}",
        "name a file or folder, hf:NAME, or python:PACKAGE",
    )


def files_in(source: str, folder: Path) -> list[File]:
    """Returns the visible files of a folder, by name; of a file, that file."""
    if folder.is_file():
        return [File(folder, source)]
    base = source.rstrip("/") or "/"
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return [File(folder / name, f"{base}/{name}") for name in names]


def tree(source: str, folder: Path) -> list[File]:
    """Returns the visible files of a folder and of all folders in it, by path; of a file, that file.

    Links are followed, but each folder is read once, under its own name if it has one here. Broken links,
    pipes and folders that cannot be read are among the files, with their `fault`. Raises InputError for a
    folder of more than MOST_FILES files.
    """
    if not folder.is_dir():
        return [File(folder, source)]
    base = source.rstrip("/") or "/"
    around = {_identity(place) for place in folder.resolve().parents}
    seen, found = set[tuple[int, int]](), list[File]()
    places, links = [folder], list[Path]()
    while places or links:
        place = places.pop() if places else links.pop(0)
        identity = _identity(place)
        if identity in seen:
            continue
        seen.add(identity)
        for path, fault in _entries(place, around):
            if fault is not None:
                found.append(File(path, f"{base}/{path.relative_to(folder)}", fault))
            else:
                (links if path.is_symlink() else places).append(path)
        if len(found) > MOST_FILES:
            raise InputError(f"{source}: more than {MOST_FILES:,} files", "name the folder of the data")
    return sorted(found, key=lambda file: file.path)


def _entries(folder: Path, around: set[tuple[int, int]]) -> Iterator[tuple[Path, str | None]]:
    """Yields what is visible in a folder, each with its fault, or None for a folder to go into."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        yield folder, f"a folder that cannot be read: {error.strerror}"
        return
    for path in paths:
        if not os.path.isdir(path):
            yield path, _fault(path)
        elif path.is_symlink() and _identity(path) in around:
            yield path, "a link to a folder that it is in"
        else:
            yield path, None


def _identity(path: Path) -> tuple[int, int]:
    """Returns what two paths of one folder have in common."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _fault(path: Path) -> str:
    """Returns why a path is no file to read; empty if it is one."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "a broken link" if path.is_symlink() else f"cannot be read: {error.strerror}"
    if stat.S_ISREG(mode):
        return ""
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def unread(files: Iterable[tuple[File, str]], folder: Path) -> list[str]:
    """Returns notes that list the files of a folder that are not read, each with the reason why."""
    reasons: dict[str, list[str]] = {}
    for file, why in files:
        reasons.setdefault(file.fault or why, []).append(str(file.path.relative_to(folder)))
    return [f"not read: {listed(names)} ({why})" for why, names in reasons.items()]


def lines(file: File) -> Iterator[Line]:
    """Yields the lines of a text file or a .gz of one, split at newlines only.

    Raises InputError, with the line where there is one, for a file that is not text but a Git LFS pointer,
    an archive, UTF-16 or the like, that is not UTF-8, or that cannot be read.
    """
    zipped = file.path.suffix == ".gz"
    number = done = unpacked = 0
    try:
        with open(file.path, "rb") as raw, gzip.open(raw) if zipped else nullcontext(raw) as stream:
            _require_text(file, raw.peek(_HEAD) if not zipped else b"")
            if zipped:
                _require_text(file, _peek(raw, stream))
            most = max(MOST_EXPANSION[0], MOST_EXPANSION[1] * file.size) if zipped else math.inf
            for number, data in enumerate(iter(partial(stream.readline, LONGEST_LINE), b""), 1):
                position = raw.tell() if zipped else done + len(data)
                unpacked += len(data)
                if len(data) >= LONGEST_LINE or unpacked > most:
                    raise _too_large(file, number, len(data))
                yield Line(number, _decoded(data, file.origin, number), position - done)
                done = position
    except (OSError, EOFError, zlib.error) as error:
        where = f"{file.origin}:{number}" if number else file.origin
        raise InputError(f"{where}: cannot be read: {error}", "check the file and its rights") from error


def head(file: File, size: int) -> str:
    """Returns the first `size` bytes of a file, or of what a .gz holds, each as one character.

    Returns an empty text for a file that cannot be read.
    """
    try:
        with gzip.open(file.path) if file.path.suffix == ".gz" else open(file.path, "rb") as stream:
            return stream.read(size).decode("latin-1")
    except (OSError, EOFError, zlib.error):
        return ""


def mentions(file: File, sign: bytes) -> bool:
    """Tells whether a byte occurs anywhere in a file; True too for one that has to be unpacked first."""
    if file.path.suffix == ".gz":
        return True
    with open(file.path, "rb") as raw:
        return any(sign in piece for piece in iter(partial(raw.read, 1 << 20), b""))


def _peek(raw: BufferedReader, stream: gzip.GzipFile | BufferedReader) -> bytes:
    """The head of what a .gz holds, or of the file itself if that is a Git LFS pointer."""
    head = raw.peek(_HEAD)
    return head if head.startswith(_LFS) else stream.peek(_HEAD)


def _too_large(file: File, number: int, line: int) -> InputError:
    """Says that memory may not hold a line, or that a .gz expands without end."""
    if line >= LONGEST_LINE:
        return InputError(f"{file.origin}:{number}: a line of more than {LONGEST_LINE >> 20} MB", "break it")
    return InputError(
        f"{file.origin}: expands to more than {MOST_EXPANSION[1]} times its size",
        "unpack it yourself if that is right, and name the unpacked file",
    )


def require_kind(file: File, kind: str) -> None:
    """Raises InputError for a file that is something else than data of this kind, such as a Git LFS pointer.

    Knows what a file is by its first bytes; a file that it does not know passes.
    """
    with open(file.path, "rb") as raw:
        _require_text(file, raw.peek(_HEAD), kind)


def _require_text(file: File, head: bytes, kind: str = "text") -> None:
    what = _disguised(head)
    if what is not None and what[0] != kind:
        raise InputError(f"{file.origin}: {what[0]}, not {kind}", what[1])


def _disguised(head: bytes) -> tuple[str, str] | None:
    """Returns what a file is and what to do with it, if it is not text in UTF-8 but something known."""
    for magic, what, hint in _MAGIC:
        if head.startswith(magic):
            return what, hint
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    if start.startswith((b"<!doctype html", b"<html")) or (
        start.startswith(b"<?xml") and b"<error>" in start
    ):
        return "an HTML page", "download the file itself, not the page about it"
    if len(head) >= 8 and max(head[::2].count(0), head[1::2].count(0)) > 0.4 * len(head[::2]):
        return _UTF16
    return None


def _decoded(data: bytes, origin: str, number: int) -> str:
    try:
        return data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise NotUtf8Error(
            f"{origin}:{number}: not UTF-8 (byte 0x{data[error.start]:02x} at column {error.start + 1})",
            "convert it first, for example: iconv -f LATIN1 -t UTF-8 OLD > NEW",
        ) from error
