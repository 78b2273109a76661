"""A BEIR folder: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from miner.errors import InputError, listed, near
from miner.sources.config import SourceConfig, require_one_split, split_in
from miner.sources.files import File, files_in, lines
from miner.sources.part import Part, Rows, Source
from miner.sources.qrels import BEIR, judgments
from miner.sources.values import NotTextError, as_text, parse_json


def is_beir(folder: Path) -> bool:
    """Tells whether a folder holds a corpus in BEIR's layout, or queries and judgments that lack theirs."""
    corpus, queries = (
        any((folder / f"{name}.jsonl{ending}").is_file() for ending in ("", ".gz"))
        for name in ("corpus", "queries")
    )
    return corpus or (queries and (folder / "qrels").is_dir())


def open_beir(source: str, folder: Path, config: SourceConfig) -> Source:
    """Returns the folder as a source; a judgment's split is the name of its file.

    Raises InputError when the corpus or the queries are missing.
    """
    files = {file.path.name.removesuffix(".gz"): file for file in files_in(source, folder)}
    for name in ("corpus.jsonl", "queries.jsonl"):
        if name not in files:
            raise InputError(
                f"{source}: no {name}{near(name, files)}",
                "a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/train.tsv",
            )
    qrels = [file for file in _qrels(source, folder) if file.suffix == ".tsv"]
    splits = [split_in(file.stem) or file.stem for file in qrels]
    require_one_split(config, source, splits)
    judged = [(file, config.split or split) for file, split in zip(qrels, splits, strict=True)]
    corpus, queries = files["corpus.jsonl"], files["queries.jsonl"]
    total = sum(file.size for file in (corpus, queries, *qrels))
    note = "" if qrels else f"{source} has no qrels/*.tsv: no judgments"
    return Source(source, total, "bytes", _parts(corpus, queries, judged), note)


def _qrels(source: str, folder: Path) -> list[File]:
    qrels = folder / "qrels"
    return files_in(f"{source.rstrip('/')}/qrels", qrels) if qrels.is_dir() else []


def _parts(corpus: File, queries: File, judged: list[tuple[File, str]]) -> Iterator[Part]:
    yield from _texts(corpus, "documents")
    yield from _texts(queries, "queries")
    for file, split in judged:
        yield from judgments(file, split, BEIR)


def _texts(file: File, kind: str) -> Iterator[Part]:
    rows = Rows()
    for line in lines(file):
        rows.size += line.size
        if line.text.strip():
            _text(rows, kind, file.origin, line.number, line.text)
        if rows.full:
            yield rows.part()
    yield rows.part()


def _text(rows: Rows, kind: str, origin: str, number: int, text: str) -> None:
    record = parse_json(text, origin, number)
    for key in ("_id", "text"):
        if key not in record:
            raise InputError(
                f"{origin}:{number}: no key '{key}'{near(key, record)}",
                f"the keys there: {listed(record) or 'none'}",
            )
    try:
        identity, title, content = (as_text(record.get(key), key) for key in ("_id", "title", "text"))
    except NotTextError as error:
        rows.start(kind, origin, number, text)
        rows.reject("not_text", str(error))
        return
    title, content = title or "", content or ""
    rows.start(kind, origin, number, identity, title, content)
    if not identity:
        rows.reject("empty_id", "'_id' is empty")
    elif kind == "documents":
        rows.document(identity, content, title)
    else:
        rows.query(identity, content)
