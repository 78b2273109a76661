"""Files on disk: finding them, and reading their lines as UTF-8."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from miner.errors import InputError, near


@dataclass(frozen=True)
class File:
    """A file, and the name by which the user knows it."""

    path: Path
    origin: str

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


class Line(NamedTuple):
    """One line, its end included, and how many bytes of the file it used up."""

    number: int
    text: str
    size: int


def locate(source: str) -> Path:
    """Returns the path of a source; raises InputError, with the nearest name, if it is not there."""
    path = Path(source).expanduser()
    if path.exists():
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


def lines(file: File) -> Iterator[Line]:
    """Yields the lines of a text file or a .gz of one, split at newlines only.

    Raises InputError with file and line where it is not UTF-8 or cannot be read.
    """
    zipped = file.path.suffix == ".gz"
    number = done = 0
    try:
        with open(file.path, "rb") as raw, gzip.open(raw) if zipped else nullcontext(raw) as stream:
            for number, data in enumerate(stream, 1):
                position = raw.tell() if zipped else done + len(data)
                yield Line(number, _decoded(data, file.origin, number), position - done)
                done = position
    except (OSError, EOFError, zlib.error) as error:
        where = f"{file.origin}:{number}" if number else file.origin
        raise InputError(f"{where}: cannot be read: {error}", "check the file and its rights") from error


def _decoded(data: bytes, origin: str, number: int) -> str:
    try:
        return data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{origin}:{number}: not UTF-8 (byte 0x{data[error.start]:02x} at column {error.start + 1})",
            "convert it first, for example: iconv -f LATIN1 -t UTF-8 OLD > NEW",
        ) from error
