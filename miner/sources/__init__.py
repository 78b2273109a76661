"""Reads files, data sets and code into a store. One module per format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import cast

from miner.engine.files import WAIT, locked, replacing, spilling
from miner.engine.progress import SILENT, Progress, showing
from miner.errors import InputError, UsageError, listed, near, shown
from miner.sources import (
    beir,
    esci,
    exported,
    gpl,
    hub,
    id_sets,
    irds,
    llamaindex,
    msmarco,
    mteb,
    plain,
    python_docs,
    squad,
    tabular,
    trec,
)
from miner.sources.chunks import Chunking
from miner.sources.config import FORMATS, NO_COLUMN, SourceConfig
from miner.sources.files import AS_TABLE, SPREADSHEETS, File, files_in, locate
from miner.sources.memory import is_rows, open_memory
from miner.sources.nested import NESTED
from miner.sources.part import Part, Rows, Source
from miner.sources.rankings import is_run, run_error
from miner.sources.saved import is_saved_dataset
from miner.sources.understood import FirstRows
from miner.store.access import is_store
from miner.store.faults import becoming
from miner.store.ingested import IngestReport
from miner.store.intake import intake

__all__ = [
    "FORMATS",
    "IngestReport",
    "Part",
    "Rows",
    "Source",
    "SourceConfig",
    "detect",
    "ingest",
    "open_source",
]


_Is = Callable[[str, Path], bool]
_Open = Callable[[str, Path, SourceConfig], Source]
_LAYOUTS: Mapping[str, tuple[_Is, _Open]] = {
    "gpl": (gpl.is_gpl, gpl.open_gpl),
    "mteb": (mteb.is_mteb, mteb.open_mteb),
    "llamaindex": (llamaindex.is_llamaindex, llamaindex.open_llamaindex),
    "squad": (squad.is_squad, squad.open_squad),
    "esci": (esci.is_esci, esci.open_esci),
    **{one.format: (one.fits, one.open) for one in NESTED},
    "msmarco": (msmarco.is_msmarco, msmarco.open_msmarco),
}
"""Layouts of files and folders: what recognises one by its content, and what opens it. The first one that
fits counts."""
_TABLES_TOO = ("msmarco", "squad")
"""Layouts whose files are read as tables if options name columns."""


def ingest(
    store_path: str | os.PathLike[str],
    sources: object,
    config: SourceConfig | None = None,
    progress: Progress = SILENT,
    show: Callable[[str], None] | None = None,
) -> IngestReport:
    """Reads one or several sources into the store at `store_path`; creates the store if it does not exist.

    A source is what `open_source` reads, or a `Source` of your own. The ingest is one transaction: if
    anything fails, the store does not change, and a new one is not created. Returns what was added and what
    was left out. `show` gets what a source was taken for as soon as it is read: a wrong guess is seen even if
    a later source fails. Raises InputError for data that cannot be read, UsageError for a wrong
    configuration, StoreError for a store that cannot be used, MinerError if another process creates the same
    new store.
    """
    config = config or SourceConfig()
    config.check()
    several = isinstance(sources, list | tuple) and not is_rows(sources)
    given = cast(Sequence[object], sources if several else [sources])
    if not given:
        raise UsageError("the list of sources is empty", "give a file, or a table with at least one row")
    _require_order(os.fspath(store_path), given)
    chunking = Chunking.of(config)
    with showing(progress):
        opened = [one if isinstance(one, Source) else open_source(one, config) for one in given]
    _require_named(opened, config)
    store, understood = Path(store_path), list[str]()
    with (
        _opened(store) as file,
        spilling(store) as spill,
        intake(file, spill, progress.note) as arriving,
    ):
        for source in opened:
            if source.note:
                progress.note(source.note)
            first = FirstRows()
            with progress.task(f"read {source.name}", source.total, unit=source.unit) as advance:
                for part in source.parts:
                    tables = part.tables() if chunking is None else chunking.cut(part.tables())
                    arriving.add(tables, part.cleaned, divided=source.divided, annotated=source.annotated)
                    first.add(part)
                    advance(part.size)
                    if part.note:
                        progress.note(part.note)
            as_what = f" as {source.read_as}" if source.read_as else ""
            understood.append("\n".join([f"read {source.name}{as_what}", *first.lines()]))
            if show is not None:
                show(understood[-1])
        if arriving.is_empty:
            names = listed(source.name for source in opened)
            raise InputError(f"{names}: no rows", "add rows, or check that you named the right files")
        with progress.task("check and store", arriving.size, unit="bytes") as advance:
            report = arriving.finish(
                config.max_bad,
                config.unpad_query_ids,
                config.queries_are_documents,
                config.division,
                config.chunk_positives,
                advance,
            )
        return replace(report, understood=tuple(understood))


def _require_named(sources: Sequence[Source], config: SourceConfig) -> None:
    """Raises InputError for a column that an option names and no source has.

    A source does not need the columns of the others: a corpus has no query.
    """
    columns = dict.fromkeys(column for source in sources for column in source.columns)
    for column, setting in config.named_columns.items():
        if column not in (*columns, NO_COLUMN):
            raise InputError(
                f"{listed(one.name for one in sources)}: no column '{shown(column)}'{near(column, columns)}",
                f"the columns: {listed(columns)}; name yours with --set {setting}, or leave it out"
                if columns
                else f"this format needs no names of columns: leave {setting} out",
            )


def _require_order(store: str, sources: Sequence[object]) -> None:
    """Raises UsageError if `store` is what only a source can be: a folder, a table, hf:NAME, python:NAME."""
    is_table = tabular.is_table(File(Path(store), store))
    is_source = (
        is_table or store.startswith((hub.PREFIX, irds.PREFIX, python_docs.PREFIX)) or os.path.isdir(store)
    )
    if not is_source or is_store(Path(store)):
        return
    names = [os.fspath(one) if isinstance(one, str | os.PathLike) else "SOURCE" for one in sources]
    meant = next((name for name in names if name.endswith(".duckdb") or is_store(Path(name))), "my.duckdb")
    others = [store, *(name for name in names if name != meant)]
    raise UsageError(
        f"{store} is a source, not a store: the store comes first",
        f"miner ingest {quote(meant)} {' '.join(map(quote, others))}",
    )


@contextmanager
def _opened(store: Path) -> Iterator[Path]:
    """Yields the file to write to: the store, or a new file that becomes the store at the end."""
    is_new = not store.exists()
    with locked(store, 0 if is_new else WAIT):
        if is_new:
            with replacing(store, exists_ok=False) as new, becoming(new, store):
                yield new
    if not is_new:
        yield store


def open_source(source: object, config: SourceConfig) -> Source:
    """Returns a source, with its format detected and its header checked, ready to be read.

    A text or a path names files or a data set; anything else is a table for `open_memory`. Raises InputError
    if it does not exist, has no known format, or lacks a column; the error says so if another format fits.
    """
    try:
        return _open_as(source, config)
    except InputError as error:
        if config.format == "auto":
            raise
        try:
            fits = open_source(source, replace(config, format="auto")).read_as.partition(":")[0]
        except (InputError, UsageError):
            fits = ""
        if not fits:
            raise
        hint = f"{error.hint}; without --format {config.format} it is read as {fits}"
        raise InputError(error.message, hint) from error


def _open_as(source: object, config: SourceConfig) -> Source:
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if not isinstance(source, str):
        return open_memory(source, config)
    found = detect(source) if config.format == "auto" else config.format
    if found == "python":
        return python_docs.open_python(_prefixed(source, python_docs.PREFIX), config)
    if found == "irds":
        return irds.open_irds(_prefixed(source, irds.PREFIX), config)
    if source.startswith(hub.PREFIX) or (found in ("hf", "ids", "mteb") and not os.path.exists(source)):
        name = _prefixed(source, hub.PREFIX)
        found_set = id_sets.open_hub_set(name, config) or mteb.open_hub_set(name, config)
        return found_set or hub.open_hub(name, config)
    path = locate(source)
    if config.format in ("auto", "ids"):
        exported.require_no_part(source, path)
    if found == "export":
        return _open_export(source, path, config)
    if found == "beir" or (found == "documents" and path.is_dir() and beir.is_beir(path)):
        return beir.open_beir(source, path, config)
    is_table = config.format == "auto" and config.names_columns and _may_be_table(found, source, path, config)
    if found in _LAYOUTS and not is_table:
        return _LAYOUTS[found][1](source, path, config)
    if found == "trec" and not is_table:
        return trec.open_trec(source, path, config)
    if found == "ids":
        return _open_set(source, path, config)
    if found == "hf" or (path.is_dir() and is_saved_dataset(path)):
        return hub.open_hub(source, config)
    is_named = config.names_columns and bool(tabular.tables_in(source, path))
    if found == "documents" and not is_named and plain.is_plain(source, path):
        return plain.open_plain(source, path)
    return tabular.open_files(source, path, config)


def _may_be_table(found: str, source: str, path: Path, config: SourceConfig) -> bool:
    """Returns whether options that name columns make a table of a source that looks like another layout."""
    if found != "trec" or not path.is_file() or not tabular.is_table(file := File(path, source)):
        return found in _TABLES_TOO
    return not config.header or bool(set(config.named_columns) & set(tabular.open_table(file).columns))


def _prefixed(source: str, prefix: str) -> str:
    return source if source.startswith(prefix) else f"{prefix}{source}"


def _open_export(source: str, path: Path, config: SourceConfig) -> Source:
    export = exported.export_at(source, path)
    if export is None:
        raise InputError(
            f"{source}: not an export, since it has no {exported.MANIFEST} of one",
            "name the folder that miner export wrote, or leave --format out",
        )
    return exported.open_export(export, config)


def _open_set(source: str, path: Path, config: SourceConfig) -> Source:
    found = id_sets.find_set(source, path)
    if found is None:
        if path.is_file():
            return tabular.open_files(source, path, config)
        raise InputError(
            f"{source}: no set of ids",
            "it needs Parquet files `queries`, `documents` or `corpus`, and one with rows of ids",
        )
    return id_sets.open_set(found, config, path)


def _require_one(source: str, path: Path) -> None:
    """Raises InputError for a folder of data sets, and for one whose data are in a folder of their own."""
    inner = sorted(folder for folder in path.iterdir() if folder.is_dir() and beir.is_beir(folder))
    if inner:
        names = listed(folder.name for folder in inner)
        raise InputError(
            f"{source}: not a data set, but a folder of BEIR folders: {names}",
            f"name one of them: {inner[0]}",
        )
    if (path / exported.MANIFEST).is_file() and (path / exported.DATA).is_dir():
        raise InputError(
            f"{source}: it has a {exported.MANIFEST}, but not that of an export; its data are in a folder",
            f"name {path / exported.DATA}",
        )


def detect(source: str) -> str:
    """Returns the format of a source by its name and files.

    It is one of FORMATS, or `table`; the columns of a table then show whether it holds pairs, triplets,
    labelled texts, a corpus alone or the rows of another tool. Raises InputError if nothing there can be
    read.
    """
    for prefix, name in ((hub.PREFIX, "hf"), (irds.PREFIX, "irds"), (python_docs.PREFIX, "python")):
        if source.startswith(prefix):
            return name
    path = locate(source)
    if is_store(path):
        raise InputError(f"{source} is a store, not a source", "name the files that it was made from")
    if exported.export_at(source, path) is not None:
        return "export"
    if gpl.is_gpl(source, path):
        return "gpl"
    if path.is_dir() and beir.is_beir(path):
        return "beir"
    if path.is_dir() and is_saved_dataset(path):
        return "hf"
    if id_sets.find_set(source, path) is not None:
        return "ids"
    for name, (is_so, _) in _LAYOUTS.items():
        if is_so(source, path):
            return name
    if path.is_dir():
        _require_one(source, path)
    if trec.is_trec(source, path):
        return "trec"
    tables = tabular.tables_in(source, path)
    if path.is_file() and not tables and is_run(file := File(path, source)):
        raise run_error(file)
    if plain.is_plain(source, path) and not any(file.holds or tabular.has_layout(file) for file in tables):
        return "documents"
    if tables:
        return "table"
    sheets = [file for file in files_in(source, path) if file.suffix in SPREADSHEETS]
    if sheets:
        raise InputError(f"{sheets[0].origin}: a spreadsheet, which miner does not read", AS_TABLE)
    raise InputError(
        f"{source}: miner can read nothing here",
        "name a BEIR folder, a .tsv, .csv, .jsonl, .json or .parquet file, documents, topics and judgments "
        "of TREC or MS MARCO, a folder of save_to_disk, text files (.txt, .md), or python:FOLDER",
    )
