"""Text files as a corpus alone: each file is a document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from miner.errors import InputError, counted
from miner.sources.files import File, lines, tree, unread
from miner.sources.part import Part, Rows, Source
from miner.sources.rankings import A_RUN, is_run, run_error
from miner.sources.tabular import is_table

SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst")

_READ_AS = "text files: name = document id, content = document"
_ABOUT = re.compile(r"readme|licen[cs]e|notice|change(s|log)|contributing|authors|citation", re.IGNORECASE)
"""The beginnings of the names of files that are about the others."""


def is_plain(source: str, path: Path) -> bool:
    """Returns whether a path is a text file, or a folder of text files.

    A folder with tables is one of text files if these are more than the tables. Files about the others, such
    as README.md, do not count.
    """
    files = tree(source, path)
    texts = [file for file in files if _is_text(file)]
    tables = sum(is_table(file) and file.path.parent == path for file in files)
    if not tables:
        return bool(texts)
    return sum(_ABOUT.match(file.stem) is None for file in texts) > tables


def open_plain(source: str, path: Path) -> Source:
    """Returns a text file, or those of a folder and of all folders in it, as a source of documents.

    The id of a document is the path of its file within the folder, and the text is the whole file.
    """
    files = tree(source, path)
    texts = [file for file in files if _is_text(file)]
    runs = {file.path for file in texts if path.is_dir() and is_run(file)}
    chosen = [file for file in texts if file.path not in runs]
    if not chosen:
        raise run_error(texts[0])
    folder = path if path.is_dir() else path.parent
    tables = "a table among text files: to read it, name it"
    left = [
        (file, A_RUN if file.path in runs else tables if is_table(file) else f"not {', '.join(SUFFIXES)}")
        for file in files
        if file.path in runs or not _is_text(file)
    ]
    total = sum(file.size for file in chosen)
    notes = "\n".join(unread(left, folder))
    return Source(source, total, "bytes", _parts(source, chosen, folder), notes, read_as=_READ_AS)


def _is_text(file: File) -> bool:
    return file.suffix in SUFFIXES and not file.fault


def _parts(source: str, files: Sequence[File], folder: Path) -> Iterator[Part]:
    rows, empty = Rows(), 0
    for file in files:
        identity = file.path.relative_to(folder).as_posix().removesuffix(".gz")
        text = "".join(line.text for line in lines(file)).strip()
        rows.size += file.size
        rows.start("documents", file.origin, None, identity)
        if text:
            rows.text("documents", identity, text, id_name="the name of the file")
        else:
            empty += 1
            rows.reject("empty_file", "the file is empty")
        if rows.ready:
            yield rows.part()
    if empty == len(files):
        raise InputError(f"{source}: {counted(empty, 'text file')}, all empty", "name files with text")
    yield rows.part()
