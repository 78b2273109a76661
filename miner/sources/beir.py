"""A BEIR folder: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from miner.errors import InputError, counted, listed, near
from miner.sources.config import SourceConfig, require_splits, split_in
from miner.sources.files import File, files_in, lines, tree, unread
from miner.sources.part import Part, Rows, Source
from miner.sources.qrels import JudgmentLayout, judgment_layout, judgments
from miner.sources.values import NotTextError, as_text, parse_json

_QRELS = (".tsv", ".txt", ".trec", ".qrels", ".qrel", ".jsonl", "")
"""Suffixes of files of judgments."""
_ONLY_QRELS = r"^qrels?[-_.]*"
"""What a name may have before the split."""
_TEXTS = {"corpus": "documents", "queries": "queries"}
"""What the files of texts hold."""
_READ_AS = "BEIR: _id = id, title = title, text = text, qrels = judgments"


def is_beir(folder: Path) -> bool:
    """Returns whether a folder has BEIR's layout: a corpus, or queries and judgments without their corpus.

    A corpus alone has `_id` in its first line; other tools have a corpus.jsonl beside rows of their own.
    """
    corpus, queries = (
        next((path for ending in ("", ".gz") if (path := folder / f"{name}.jsonl{ending}").is_file()), None)
        for name in ("corpus", "queries")
    )
    if corpus is None or queries is not None or any(folder.glob("qrels*")):
        return corpus is not None or (queries is not None and (folder / "qrels").is_dir())
    try:
        first = next((line.text for line in lines(File(corpus, str(corpus))) if line.text.strip()), "")
        return not first or "_id" in parse_json(first, str(corpus), 1)
    except InputError:
        return True  # reading the file reports it


def open_beir(source: str, folder: Path, config: SourceConfig) -> Source:
    """Returns the folder as a source; the split of a judgment is the name of its file.

    With the format `documents` only the corpus is read.

    Raises InputError if the corpus or the queries are missing, or if a qrels file has no judgments.
    """
    files = {file.path.name.removesuffix(".gz"): file for file in files_in(source, folder)}
    only_documents = config.format == "documents"
    judged = [] if only_documents else _qrels(source, folder, list(files.values()))
    has_queries = any("quer" in name.lower() for name in files)
    is_alone = "corpus.jsonl" in files and (only_documents or not (judged or has_queries))
    for name in ("corpus.jsonl", "queries.jsonl"):
        if name not in files and not (is_alone and name == "queries.jsonl"):
            raise InputError(
                f"{source}: no {name}{near(name, files)}",
                "a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/train.tsv",
            )
    qrels = [(file, _layout(file)) for file in judged]
    splits = [_split(file) for file, _ in qrels]
    require_splits(config, source, splits)
    qrels_files = [
        (file, layout, config.split or split) for (file, layout), split in zip(qrels, splits, strict=True)
    ]
    kinds = {name: kind for name, kind in _TEXTS.items() if kind == "documents" or not is_alone}
    texts = [(files[f"{name}.jsonl"], kind) for name, kind in kinds.items()]
    read = [file for file, *_ in (*texts, *qrels)]
    paths = {file.path for file in read}
    left = [
        (file, "not corpus.jsonl" if only_documents else "not corpus.jsonl, queries.jsonl or qrels/SPLIT.tsv")
        for file in tree(source, folder)
        if file.path not in paths
    ]
    notes = unread(left, folder)
    if not qrels and not only_documents:
        missing = "qrels and no queries.jsonl" if is_alone else "qrels/SPLIT.tsv"
        notes.append(
            f"{source} has no {missing}: no judgments; a file of them elsewhere is a source of its own"
        )
    total = sum(file.size for file in read)
    parts = _parts(texts, qrels_files)
    return Source(source, total, "bytes", parts, "\n".join(notes), read_as=_READ_AS)


def _qrels(source: str, folder: Path, files: list[File]) -> list[File]:
    """Returns the files in the folder qrels; without it, the files named qrels… beside the corpus."""
    inside = folder / "qrels"
    if inside.is_dir():
        files = files_in(f"{source.rstrip('/')}/qrels", inside)
    else:
        files = [file for file in files if file.path.name.lower().startswith("qrels")]
    return [file for file in files if file.suffix in _QRELS or (file.suffix == ".csv" and _has_layout(file))]


def _has_layout(file: File) -> bool:
    try:
        return judgment_layout(file) is not None
    except InputError:
        return False


def _split(file: File) -> str:
    """Returns the split in the name of a file of judgments; `train` if it is only named qrels."""
    named = re.sub(_ONLY_QRELS, "", file.stem, flags=re.IGNORECASE)
    return split_in(file.stem) or named or "train"


def _layout(file: File) -> JudgmentLayout:
    layout = judgment_layout(file)
    if layout is not None:
        return layout
    first = next((line.text for line in lines(file) if line.text.strip()), None)
    if first is None:
        return JudgmentLayout(3, 0, 1, 2, "\t")
    cells = first.rstrip("\r\n").split("\t") if "\t" in first else first.split()
    raise InputError(
        f"{file.origin}: no judgments; its first line has {counted(len(cells), 'field')}: {listed(cells)}",
        "write query, document, relevance between tabs, or TREC's query, 0, document, relevance; a header "
        "such as query-id, corpus-id, score may give another order",
    )


def _parts(
    texts: Sequence[tuple[File, str]], qrels_files: Sequence[tuple[File, JudgmentLayout, str]]
) -> Iterator[Part]:
    for file, kind in texts:
        yield from text_parts(file, kind)
    for file, layout, split in qrels_files:
        yield from judgments(file, split, layout)


def text_parts(file: File, kind: str) -> Iterator[Part]:
    """Yields the `documents` or `queries` of a file: JSON lines with `_id`, `text` and perhaps `title`."""
    rows = Rows()
    for line in lines(file):
        rows.size += line.size
        if line.text.strip():
            _text(rows, kind, file.origin, line.number, line.text)
        if rows.ready:
            yield rows.part()
    yield rows.part()


def _text(rows: Rows, kind: str, origin: str, number: int, text: str) -> None:
    record = parse_json(text, origin, number)
    for key, reason in (("_id", "empty_id"), ("text", "empty_text")):
        if key not in record:
            rows.start(kind, origin, number, text)
            rows.reject(reason, f"no key '{key}'{near(key, record)}; its keys: {listed(record) or 'none'}")
            return
    try:
        identity, content = as_text(record["_id"], "_id"), as_text(record["text"], "text")
        title = as_text(record.get("title"), "title")
    except NotTextError as error:
        rows.start(kind, origin, number, text)
        rows.reject("not_text", str(error))
        return
    title, content = title or "", content or ""
    rows.start(kind, origin, number, identity, title, content)
    rows.text(kind, identity or "", content, title, id_name="'_id'")
