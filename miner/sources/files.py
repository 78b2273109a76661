"""Finds files on disk, and reads their lines as UTF-8."""

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
"""Bytes."""
MOST_EXPANSION = (1 << 30, 200)
"""Limits on the size of an unpacked .gz: this many bytes, or this many times its size if that is more."""
MOST_FILES = 200_000
_HEAD = 4096
_FIRST_FILES = 100
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
    """Why the file cannot be read, such as `a broken link`; empty if it can."""
    holds: str = ""
    """The suffix that its content should have, such as `.tsv` for a table in a .txt; empty for its own."""

    @property
    def stem(self) -> str:
        """The name of the file without its suffix and without .gz."""
        return Path(self.path.name.removesuffix(".gz")).stem

    @property
    def suffix(self) -> str:
        """The suffix that names the format, such as `.tsv`, in lower case and without .gz."""
        return self.holds or Path(self.path.name.removesuffix(".gz")).suffix.lower()

    @property
    def size(self) -> int:
        """The size on disk, in bytes."""
        return self.path.stat().st_size


SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
AS_TABLE = "save its sheet as .csv in UTF-8, or as .parquet, and name that file"
"""What to do with one of these."""


class NotUtf8Error(InputError):
    """A file that is not UTF-8."""


class Line(NamedTuple):
    """One line with its line end, and the number of bytes it takes in the file."""

    number: int
    text: str
    size: int


def locate(source: str) -> Path:
    """Returns the path of a source; raises InputError, with the nearest name, if nothing is there."""
    if not source.strip():
        raise InputError("the name of a source is empty", "name a file or folder, hf:NAME, or python:PACKAGE")
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


HUB = "hf:"
"""The beginning of the name of a data set of the Hugging Face hub."""


def require_local(source: str, what: str) -> None:
    """Raises InputError for the name of a data set of the hub, with the command that downloads it.

    `what` is for what there are only local files, in the plural.
    """
    if not source.startswith(HUB):
        return
    name = source.removeprefix(HUB).partition(":")[0] or "NAME"
    folder = name.rpartition("/")[2]
    raise InputError(
        f"{source}: {what} are local files, not a data set of the hub",
        "download it, and name the file or folder: "
        f"hf download {name} --repo-type dataset --local-dir {folder}",
    )


def files_in(source: str, folder: Path) -> list[File]:
    """Returns the visible files of a folder, by name; for a file, the file itself."""
    if folder.is_file():
        return [File(folder, source)]
    base = source.rstrip("/") or "/"
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return [File(folder / name, f"{base}/{name}") for name in names]


def first_files(source: str, folder: Path) -> list[File]:
    """Returns the first visible files of a folder, enough to recognise it; for a file, the file itself."""
    return files_in(source, folder)[:_FIRST_FILES]


def tree(source: str, folder: Path) -> list[File]:
    """Returns the visible files of a folder and of all folders in it, by path; for a file, the file itself.

    Follows links, but reads each folder once, by its own path if that is within `folder`. The files include
    broken links, pipes and folders that cannot be read, with their `fault`. Raises InputError for a folder
    with more than MOST_FILES files.
    """
    if not folder.is_dir():
        return [File(folder, source)]
    base = source.rstrip("/") or "/"
    around = {_identity(current) for current in folder.resolve().parents}
    seen, found = set[tuple[int, int]](), list[File]()
    folders, links = [folder], list[Path]()
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        identity = _identity(current)
        if identity in seen:
            continue
        seen.add(identity)
        for path, fault in _entries(current, around):
            if fault is not None:
                found.append(File(path, f"{base}/{path.relative_to(folder)}", fault))
            else:
                (links if path.is_symlink() else folders).append(path)
        if len(found) > MOST_FILES:
            raise InputError(f"{source}: more than {MOST_FILES:,} files", "name the folder with the data")
    return sorted(found, key=lambda file: file.path)


def _entries(folder: Path, around: set[tuple[int, int]]) -> Iterator[tuple[Path, str | None]]:
    """Yields the visible entries of a folder: a file with its fault, a folder with None."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        yield folder, f"a folder that cannot be read: {error.strerror}"
        return
    for path in paths:
        if not os.path.isdir(path):
            yield path, _fault(path)
        elif path.is_symlink() and _identity(path) in around:
            yield path, "a link to a folder that contains it"
        else:
            yield path, None


def _identity(path: Path) -> tuple[int, int]:
    """Returns the device and inode of a folder, the same for all of its paths."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _fault(path: Path) -> str:
    """Returns why a path cannot be read as a file; empty if it can."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "a broken link" if path.is_symlink() else f"cannot be read: {error.strerror}"
    if stat.S_ISREG(mode):
        return ""
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def unread(files: Iterable[tuple[File, str]], folder: Path) -> list[str]:
    """Returns notes that list the files of a folder that are not read, with the reasons."""
    reasons: dict[str, list[str]] = {}
    for file, why in files:
        reasons.setdefault(file.fault or why, []).append(str(file.path.relative_to(folder)))
    return [f"not read: {listed(names)} ({why})" for why, names in reasons.items()]


def lines(file: File) -> Iterator[Line]:
    """Yields the lines of a text file, which may be a .gz, split at newlines only.

    Raises InputError, with the number of the line if possible, for a file that cannot be read, is not UTF-8,
    or is something else, such as a Git LFS pointer, an archive or UTF-16.
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
                    raise _too_large(file, number, data)
                yield Line(number, _decoded(data, file.origin, number), position - done)
                done = position
    except (OSError, EOFError, zlib.error) as error:
        where = f"{file.origin}:{number}" if number else file.origin
        raise InputError(f"{where}: cannot be read: {error}", "check the file and its permissions") from error


def head(file: File, size: int) -> str:
    """Returns the first `size` bytes of a file, unpacked if it is a .gz, each byte as one character.

    Returns an empty text for a file that cannot be read.
    """
    try:
        with gzip.open(file.path) if file.path.suffix == ".gz" else open(file.path, "rb") as stream:
            return stream.read(size).decode("latin-1")
    except (OSError, EOFError, zlib.error):
        return ""


def mentions(file: File, sign: bytes) -> bool:
    """Returns whether a byte occurs anywhere in a file; always True for a .gz."""
    if file.path.suffix == ".gz":
        return True
    with open(file.path, "rb") as raw:
        return any(sign in piece for piece in iter(partial(raw.read, 1 << 20), b""))


def _peek(raw: BufferedReader, stream: gzip.GzipFile | BufferedReader) -> bytes:
    """Returns the first bytes of an unpacked .gz, or of the file itself if it is a Git LFS pointer."""
    head = raw.peek(_HEAD)
    return head if head.startswith(_LFS) else stream.peek(_HEAD)


def _too_large(file: File, number: int, line: bytes) -> InputError:
    """Returns the error for a line that is too long, or a .gz that expands too far."""
    if len(line) >= LONGEST_LINE:
        sign = line[:_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        hint = {b"[": "write one object per line", b"{": "break the object into several, one per line"}
        return InputError(
            f"{file.origin}:{number}: a line of more than {LONGEST_LINE >> 20} MB",
            hint.get(sign, "break the line"),
        )
    return InputError(
        f"{file.origin}: expands to more than {MOST_EXPANSION[1]} times its size",
        "if that is right, unpack it yourself and name the unpacked file",
    )


def require_kind(file: File, kind: str) -> None:
    """Raises InputError for a file that is known not to be of this kind, such as a Git LFS pointer.

    Recognises a file by its first bytes; an unknown file passes.
    """
    with open(file.path, "rb") as raw:
        _require_text(file, raw.peek(_HEAD), kind)


def _require_text(file: File, head: bytes, kind: str = "text") -> None:
    what = _disguised(head)
    if what is _UTF16 and kind != "text":
        return  # many zeros are usual in numbers
    if what is not None and what[0] != kind:
        raise InputError(f"{file.origin}: {what[0]}, not {kind}", what[1])


def _disguised(head: bytes) -> tuple[str, str] | None:
    """Returns what a file is and what to do with it, if it is known not to be UTF-8 text; else None."""
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
