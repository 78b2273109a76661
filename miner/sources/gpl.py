"""The folder of GPL: BEIR's corpus, generated queries with their judgments, and mined negatives.

The files are those of gpl 0.1.4: corpus.jsonl, PREFIX-queries.jsonl and PREFIX-qrels/train.tsv (PREFIX is
`qgen` by default), hard-negatives.jsonl and gpl-training-data.tsv. Nobody judged the negatives. The judgments
name for each generated query the document that it was generated from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from miner.errors import InputError, listed
from miner.sources import beir
from miner.sources.config import SourceConfig, require_splits, split_in
from miner.sources.files import File, files_in, tree, unread
from miner.sources.part import Part, Source
from miner.sources.qrels import judgment_layout, judgments

_QUERIES = "-queries.jsonl"
_MINED = ("hard-negatives.jsonl", "gpl-training-data.tsv")


def is_gpl(source: str, folder: Path) -> bool:
    """Returns whether a path is a folder with a corpus, and generated queries with judgments."""
    return (folder / "corpus.jsonl").is_file() and bool(_prefixes(folder))


def _prefixes(folder: Path) -> list[str]:
    """Returns the beginning of the names of queries that have judgments: `qgen`."""
    names = (path.name.removesuffix(_QUERIES) for path in folder.glob(f"*{_QUERIES}"))
    return sorted(name for name in names if (folder / f"{name}-qrels").is_dir())


def open_gpl(source: str, folder: Path, config: SourceConfig) -> Source:
    """Returns the folder as a source, with BEIR's own queries and judgments if it has some.

    Raises InputError if the corpus or the generated queries are missing.
    """
    prefixes = _prefixes(folder) if (folder / "corpus.jsonl").is_file() else []
    if not prefixes:
        raise InputError(
            f"{source}: no corpus.jsonl, or no queries with judgments",
            "GPL's folder has corpus.jsonl, qgen-queries.jsonl and qgen-qrels/train.tsv",
        )
    base = source.rstrip("/")
    before = [f"{prefix}-" for prefix in prefixes] + ([""] if (folder / "queries.jsonl").is_file() else [])
    queries = [File(folder / f"{name}queries.jsonl", f"{base}/{name}queries.jsonl") for name in before]
    judged = [
        (file, layout, split_in(file.stem) or file.stem)
        for name in before
        if (folder / f"{name}qrels").is_dir()
        for file in files_in(f"{base}/{name}qrels", folder / f"{name}qrels")
        if (layout := judgment_layout(file)) is not None
    ]
    require_splits(config, source, [split for _, _, split in judged])
    corpus = File(folder / "corpus.jsonl", f"{base}/corpus.jsonl")
    read = [corpus, *queries, *(file for file, _, _ in judged)]
    left = [
        (file, "negatives that were mined, which nobody judged" if file.path.name in _MINED else "not GPL's")
        for file in tree(source, folder)
        if file not in read
    ]

    def _parts() -> Iterator[Part]:
        yield from beir.text_parts(corpus, "documents")
        for file in queries:
            yield from beir.text_parts(file, "queries")
        for file, layout, split in judged:
            yield from judgments(file, config.split or split, layout)

    notes = unread(left, folder)
    if not judged:
        notes.append(f"{source}: no judgments in {listed(f'{name}qrels' for name in before)}")
    total, names = sum(file.size for file in read), listed(file.path.name for file in queries)
    what = f"GPL: corpus.jsonl = documents, {names} = queries, qrels = judgments"
    return Source(source, total, "bytes", _parts(), "\n".join(notes), read_as=what)
