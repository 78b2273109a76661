"""LlamaIndex's pairs for finetuning embeddings: one JSON object with queries, corpus and relevant documents.

The layout is that of `EmbeddingQAFinetuneDataset.save_json` (llama-index-core 0.14): `queries` and `corpus`
have a text for each id, `relevant_docs` a list of ids for each query, and `mode` says that they are texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from miner.errors import InputError, listed
from miner.sources.config import SourceConfig, require_splits, split_in
from miner.sources.files import File, files_in, first_files, head, tree, unread
from miner.sources.json_rows import whole_object
from miner.sources.part import Part, Rows, Source
from miner.sources.values import NotTextError, as_text

_KEYS = ("queries", "corpus", "relevant_docs")
_READ_AS = "LlamaIndex's pairs: queries = queries, corpus = documents, relevant_docs = judgments"
_FIRST = re.compile(r'\s*\{\s*"(queries|corpus|relevant_docs|mode)"\s*:')
_HEAD = 4096


def is_llamaindex(source: str, path: Path) -> bool:
    """Returns whether a .json file, or a .json file of a folder, begins as LlamaIndex's do."""
    return any(_begins(file) for file in first_files(source, path))


def _begins(file: File) -> bool:
    return file.suffix == ".json" and _FIRST.match(head(file, _HEAD)) is not None


def open_llamaindex(source: str, path: Path, config: SourceConfig) -> Source:
    """Returns a file, or the files of a folder, as a source; the split is in the name of the file.

    Reads each file at once. Raises InputError for a file that lacks a part.
    """
    files = files_in(source, path)
    chosen = [file for file in files if _begins(file)] if path.is_dir() else files
    if not chosen:
        raise InputError(
            f"{source}: no .json file with {listed(_KEYS)}", "name the file that LlamaIndex's save_json wrote"
        )
    splits = [split_in(file.stem) or "train" for file in chosen]
    require_splits(config, source, splits)
    paths = {file.path for file in chosen}
    left = [(file, "not LlamaIndex's pairs") for file in tree(source, path) if file.path not in paths]
    parts = _parts([(file, config.split or split) for file, split in zip(chosen, splits, strict=True)])
    notes = unread(left, path) if path.is_dir() else []
    total = sum(file.size for file in chosen)
    return Source(source, total, "bytes", parts, "\n".join(notes), read_as=_READ_AS)


def _parts(files: Sequence[tuple[File, str]]) -> Iterator[Part]:
    for file, split in files:
        record = whole_object(file)
        for key in _KEYS:
            if not isinstance(record.get(key), dict):
                raise InputError(
                    f"{file.origin}: no object '{key}'",
                    f"it has {listed(record)}; LlamaIndex's pairs have {listed(_KEYS)}",
                )
        rows = Rows()
        for key, noun in (("corpus", "documents"), ("queries", "queries")):
            for number, (identity, value) in enumerate(record[key].items(), 1):
                _text(rows, noun, (f"{file.origin}/{key}", number), identity, value)
                if rows.ready:
                    yield rows.part()
        for number, (query, documents) in enumerate(record["relevant_docs"].items(), 1):
            _judge(rows, (f"{file.origin}/relevant_docs", number), query, documents, split)
            if rows.ready:
                yield rows.part()
        rows.size = file.size
        yield rows.part()
        others = [key for key in record if key not in (*_KEYS, "mode")]
        if others:
            yield Part(note=f"{file.origin}: not read: {listed(others)}")


def _text(rows: Rows, noun: str, where: tuple[str, int], identity: str, value: Any) -> None:
    rows.start(noun, *where, identity, value)
    try:
        rows.text(noun, identity, as_text(value, identity) or "")
    except NotTextError as error:
        rows.reject("not_text", str(error))


def _judge(rows: Rows, where: tuple[str, int], query: str, documents: Any, split: str) -> None:
    rows.start("judgments", *where, query, documents, split)
    try:
        if not isinstance(documents, list):
            raise NotTextError("the relevant documents are not a list of ids")
        found = [as_text(one, query) or "" for one in documents]
    except NotTextError as error:
        rows.reject("not_text", str(error))
        return
    if not found:
        rows.reject("empty_list", "the query has no relevant document")
    for document in found:
        rows.judgment(query, document, split)
