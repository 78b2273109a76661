"""TREC collections: documents and topics in SGML, judgments as `query iteration document relevance`."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from miner.errors import InputError
from miner.sources.config import SourceConfig, require_one_split, split_in
from miner.sources.files import File, files_in, lines
from miner.sources.part import Part, Rows, Source
from miner.sources.qrels import TREC, judgments
from miner.sources.tables import is_table

_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9-]*(?:\s[^<>]*)?>")
_TITLES = ("title", "headline", "head")


def trec_kind(name: str) -> str | None:
    """Returns what a file holds by its name: `docs`, `topics` or `qrels`; None for other names."""
    kinds = {"docs": "docs", "topics": "topics", "queries": "topics", "qrels": "qrels"}
    return next((kind for start, kind in kinds.items() if name.lower().startswith(start)), None)


def is_trec(source: str, path: Path) -> bool:
    """Tells whether a folder holds docs* and topics* files, or a file is named like one of TREC's."""
    if path.is_file():
        return not is_table(File(path, source)) and trec_kind(path.name) is not None
    return {"docs", "topics"} <= {kind for _, kind in _files(source, path)}


def _files(source: str, path: Path) -> list[tuple[File, str]]:
    """Returns the TREC files with what each holds; in a folder, qrels may end in .tsv, the rest may not."""
    files = [(file, trec_kind(file.path.name)) for file in files_in(source, path)]
    return [
        (file, kind)
        for file, kind in files
        if kind is not None and (path.is_file() or kind == "qrels" or not is_table(file))
    ]


def open_trec(source: str, path: Path, config: SourceConfig) -> Source:
    """Returns a folder of docs*, topics* and qrels* files, or one such file, as a source.

    A judgment's split is the one that its file's name tells, else train. Raises InputError when
    no file has such a name.
    """
    known = _files(source, path)
    if not known:
        raise InputError(
            f"{source}: no docs*, topics* or qrels* file", "name the files so, or choose --format"
        )
    splits = {file.origin: split_in(file.stem) or "train" for file, kind in known if kind == "qrels"}
    require_one_split(config, source, list(splits.values()))
    if config.split is not None:
        splits = dict.fromkeys(splits, config.split)
    return Source(source, sum(file.size for file, _ in known), "bytes", _parts(known, splits))


def _parts(files: list[tuple[File, str]], splits: dict[str, str]) -> Iterator[Part]:
    for file, kind in files:
        if kind == "qrels":
            yield from judgments(file, splits[file.origin], TREC)
        else:
            yield from _records(file, kind)


def _records(file: File, kind: str) -> Iterator[Part]:
    rows = Rows()
    for block in _blocks(file, "doc" if kind == "docs" else "top"):
        rows.size += block.size
        (_document if kind == "docs" else _topic)(rows, file.origin, block)
        if rows.full:
            yield rows.part()
    yield rows.part()


class _Block(NamedTuple):
    """What stands between an opening and a closing tag, the line it starts on, the bytes it took."""

    line: int
    text: str
    size: int


def _blocks(file: File, tag: str) -> Iterator[_Block]:
    """Yields the contents of each <tag>; raises InputError for one that is never closed."""
    edge = re.compile(f"<(/?){tag}(?:\\s[^<>]*)?>", re.IGNORECASE)
    start = size = 0
    held: list[str] = []
    for line in lines(file):
        size += line.size
        place = 0
        for match in edge.finditer(line.text):
            if match[1] and start:
                yield _Block(start, "".join([*held, line.text[place : match.start()]]), size)
                start = size = 0
            elif not match[1]:
                _require_closed(file, tag, start)
                start, held = line.number, []
            place = match.end()
        if start:
            held.append(line.text[place:])
    _require_closed(file, tag, start)


def _require_closed(file: File, tag: str, start: int) -> None:
    if start:
        raise InputError(f"{file.origin}:{start}: <{tag}> is never closed", "the file seems to be cut off")


def _field(block: str, name: str) -> str | None:
    """Returns the content of <name>, up to its closing tag or, as old topics have it, the next tag."""
    found = re.search(rf"<{name}(?:\s[^<>]*)?>(.*?)(?:</{name}>|(?=<[a-z])|\Z)", block, re.I | re.S)
    return None if found is None else _folded(found[1])


def _sections(block: str, name: str) -> list[str]:
    return re.findall(rf"<{name}(?:\s[^<>]*)?>(.*?)</{name}>", block, re.I | re.S)


def _plain(markup: str) -> str:
    return html.unescape(_TAG.sub(" ", markup)).strip()


def _folded(markup: str) -> str:
    return " ".join(_plain(markup).split())


def _document(rows: Rows, origin: str, block: _Block) -> None:
    """Adds a <doc>: its text is the <text> sections, or all that is neither number nor title."""
    doc_id = _field(block.text, "docno")
    if not doc_id:
        raise InputError(f"{origin}:{block.line}: <doc> without a <docno>", "every document needs one")
    titles = [found for name in _TITLES for found in _sections(block.text, name)]
    sections = _sections(block.text, "text")
    if not sections:
        used = "|".join(("docno", *_TITLES))
        sections = [re.sub(rf"<({used})(?:\s[^<>]*)?>.*?</\1>", " ", block.text, flags=re.I | re.S)]
    title, text = _folded(" ".join(titles)), _plain("\n".join(sections))
    rows.start("documents", origin, block.line, doc_id, title, text)
    rows.document(doc_id, text, title)


def _topic(rows: Rows, origin: str, block: _Block) -> None:
    """Adds a <top>: its query is the title; description and narrative are for assessors."""
    number, title = _field(block.text, "num"), _field(block.text, "title")
    query_id = re.sub(r"^Number:\s*", "", number or "", flags=re.I)
    if not query_id:
        raise InputError(f"{origin}:{block.line}: <top> without a <num>", "every topic needs one")
    text = re.sub(r"^Topic:\s*", "", title or "", flags=re.I)
    rows.start("queries", origin, block.line, query_id, text)
    rows.query(query_id, text)
