"""Sets of ids: every text once, in `queries` and `documents` (or `corpus`), and rows that refer to them.

An export of miner has a part `titles` too: `resolve_ids` allows `documents` no third column, so a text begins
with its title, and `titles` says how far it goes.

Parts are the configs of a data set card (README.md), or Parquet files NAME.parquet, NAME-….parquet or
NAME/….parquet. `resolve_ids` of sentence-transformers 6.2 trains on such sets. The rows are of these kinds
(`id_rows.py` has the names of their columns):

- judgments: a query, a document, its relevance, as in MTEB's `qrels`. If a set has them, they alone are its
  judgments;
- triplets: a query, one or several positives, one or several negatives, perhaps a list of scores for all
  of them;
- lists of documents, with labels or with scores. In a part `scores`, as in lightonai/embeddings-fine-tuning,
  the first document of a row is its positive, the others are mined. In the sets of PyLate the part is
  `train`, and nothing says which documents are relevant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from miner.errors import InputError, listed, near, shown
from miner.sources.cards import CARD, Card, matching, patterns, read_card
from miner.sources.columns import column_named
from miner.sources.config import SourceConfig, require_splits, split_in
from miner.sources.files import File, tree, unread
from miner.sources.hub import PREFIX, columns_of, dataset_table, is_exported
from miner.sources.id_rows import IdRows, Reading, id_parts, id_rows
from miner.sources.layouts import Layout
from miner.sources.part import Part, Source
from miner.sources.qrels import are_scores
from miner.sources.rankings import DOCUMENT, QUERY
from miner.sources.table import Record, Table
from miner.sources.tabular import one_kind_parts, open_table

_KINDS = {"queries": ("queries", "query"), "documents": ("documents", "corpus")}
"""The names of the parts with texts."""
_TITLES = "titles"
"""The part with titles of documents, in the order of the documents."""
_JUDGED = ("qrels", "default")
"""The names that MTEB gives to judgments: beside `corpus` and `queries` they alone are a set of MTEB."""
_DOCUMENT_IDS = (*DOCUMENT[:9], "_id", "id")
_QUERY_IDS = (*QUERY[:4], "_id", "id")
_TEXTS = {"documents": ("document", "text", "contents", "passage"), "queries": ("query", "text", "question")}
_FIRST_IS_RELEVANT = "scores"
"""The part with lists in which the first document of a row is relevant."""
_SHARD = re.compile(r"-?\d{5}-of-\d{5}$")
_MANIFEST = "manifest.json"
"""What `miner export` writes beside the card."""


@dataclass(frozen=True)
class SetPiece:
    """One table of a part: a file, or a split of a data set of the hub."""

    name: str
    """The split in a card, or what the name of the file begins with; empty if that is the part."""
    split: str
    """The split; empty if nothing says it."""
    table: Table
    file: File | None = None

    @property
    def columns(self) -> IdRows | None:
        """The columns of rows of ids; None for another table."""
        return id_rows(self.table.columns)

    @property
    def has_score_lists(self) -> bool:
        """Whether each row has scores for its documents, or for its positives and negatives in this order."""
        columns = self.columns
        if columns is None or not columns.are_scored:
            return False
        return columns.has_lists or columns.scores in self.table.nested


@dataclass(frozen=True)
class IdSet:
    """The parts of a set, by name."""

    source: str
    texts: Mapping[str, Sequence[SetPiece]]
    """The pieces of `queries` and of `documents`."""
    rows: Mapping[str, Sequence[SetPiece]]
    """The parts with rows of ids."""
    titles: Sequence[SetPiece] = ()
    """The pieces of `titles`."""
    others: Sequence[str] = ()
    """Parts that have neither texts nor rows of ids."""
    card: bool = False
    """Whether its card names the parts."""
    note: str = ""
    """A message to the user about its card; empty for none."""
    is_scored: bool = False
    """Whether a part has scores, so that the negatives in all of them were mined."""

    @property
    def pieces(self) -> list[SetPiece]:
        """The pieces of all parts that are read or could be."""
        return [piece for part in (*self.texts.values(), self.titles, *self.rows.values()) for piece in part]

    @property
    def scored(self) -> list[SetPiece]:
        """The pieces with a list of scores in each row."""
        return [piece for part in self.rows.values() for piece in part if piece.has_score_lists]


def _are_scored(parts: Iterable[IdRows | None]) -> bool:
    return any(columns is not None and columns.are_scored for columns in parts)


def find_set(source: str, folder: Path) -> IdSet | None:
    """Returns the set in a folder; None if there are no texts and rows of ids as Parquet files."""
    if not folder.is_dir() or not any(any(folder.glob(f"{way}*.parquet")) for way in ("", "*/", "*/*/")):
        return None
    files = [file for file in tree(source, folder) if file.suffix == ".parquet" and not file.fault]
    if not files:
        return None
    card = read_card(source, folder)
    by_card = _by_card(card, folder, files)
    parts = by_card or _by_name(folder, files)
    if not all(any(name in parts for name in names) for names in _KINDS.values()):
        return None
    pieces = {
        part: [
            SetPiece(name, name if by_card else split_in(name) or "", open_table(file), file)
            for name, file in named
        ]
        for part, named in parts.items()
    }
    found = set_of(source, pieces)
    return None if found is None else replace(found, card=bool(by_card), note=card.note)


def set_of(source: str, parts: Mapping[str, Sequence[SetPiece]]) -> IdSet | None:
    """Returns the set with these parts; None if there are no texts or rows of ids, and for a set of MTEB."""
    texts = {
        kind: next((parts[name] for name in names if parts.get(name)), ()) for kind, names in _KINDS.items()
    }
    used = {name for names in _KINDS.values() for name in names}
    titled = any(column_named(piece.table.columns, ("title",)) for piece in texts["documents"])
    titles = [] if titled else [one for one in parts.get(_TITLES, ()) if _title_columns(one.table)]
    used |= {_TITLES} if titles else set()
    rows = {
        name: pieces
        for name, pieces in parts.items()
        if name not in used and pieces and pieces[0].columns is not None
    }
    others = [name for name in parts if name not in used and name not in rows]
    is_scored = _are_scored(piece.columns for part in rows.values() for piece in part)
    found = IdSet(source, texts, rows, titles, others, is_scored=is_scored)
    only_judgments = all(columns.is_qrels for part in rows.values() if (columns := part[0].columns))
    is_mteb = only_judgments and "documents" not in parts and any(name in rows for name in _JUDGED)
    return found if all(texts.values()) and rows and not is_mteb else None


def _by_name(folder: Path, files: Sequence[File]) -> dict[str, list[tuple[str, File]]]:
    """Returns the files of each part by their names, each with what its own name begins with."""
    parts: dict[str, list[tuple[str, File]]] = {}
    for file in files:
        inner = file.path.relative_to(folder).parts
        stem = _SHARD.sub("", file.path.stem)
        part = inner[0] if len(inner) > 1 else file.path.stem.split("-")[0]
        parts.setdefault(part, []).append(("" if stem == part else stem, file))
    return parts


def _by_card(card: Card, folder: Path, files: Sequence[File]) -> dict[str, list[tuple[str, File]]]:
    """Returns the files of each config of the data set card with their splits; empty without a card."""
    known = {file.path: file for file in files}
    parts: dict[str, list[tuple[str, File]]] = {}
    for config in card.configs:
        for split, pattern in patterns(config.get("data_files")):
            found = matching(folder, pattern)
            part = parts.setdefault(str(config.get("config_name")), [])
            part += [(split, known[path]) for path in found if path in known]
    return {name: found for name, found in parts.items() if found}


def require_one_corpus(found: IdSet) -> None:
    """Raises InputError if the texts belong to several corpora, whose ids each begin anew."""
    for pieces in found.texts.values():
        corpora = sorted({piece.name for piece in pieces if split_in(piece.name) is None})
        if len(corpora) > 1:
            one = corpora[0]
            raise InputError(
                f"{found.source}: {len(corpora)} corpora ({listed(corpora)}), and the ids begin anew in each",
                f"name a folder with the files of one, such as {one}: */{one}-*.parquet",
            )


def open_set(found: IdSet, config: SourceConfig, folder: Path | None = None, mined: bool = False) -> Source:
    """Returns a set as a source: its texts, and the judgments in its rows.

    `folder` is where it is on disk; `mined`: its negatives are known to be mined. Raises InputError for
    several corpora in one set, and for missing columns.
    """
    require_one_corpus(found)
    titles = _Titles([piece.table for piece in found.titles])
    texts = [
        (*titles.before(piece.table, text_layout(piece.table.origin, piece.table.columns, kind)), "")
        for kind, pieces in found.texts.items()
        for piece in pieces
    ]
    readings = _readings(found, config, mined)
    if config.mined_negatives:
        readings = [one._replace(mined=True, exported=not one.columns.is_qrels) for one in readings]
    require_splits(config, found.source, [reading.split for reading in readings])
    if config.split is not None:
        readings = [reading._replace(split=config.split) for reading in readings]
    every = [*(table for table, _, _ in texts), *(reading.table for reading in readings)]
    total = sum(table.size for table in every)

    def _parts() -> Iterator[Part]:
        for text in texts:
            yield from one_kind_parts(found.source, [text], config)
        titles.require_all_read()
        yield from id_parts(readings)

    notes = [
        *([found.note] if found.note else []),
        *(_unread_files(found, folder) if folder is not None else []),
        *_unread_columns(found, texts, readings),
        *_unread_parts(found, readings, folder),
    ]
    roles = _read_as(found, readings)
    return Source(found.source, total, every[0].unit, _parts(), "\n".join(notes), read_as=roles)


def _readings(found: IdSet, config: SourceConfig, mined: bool) -> list[Reading]:
    """Returns how to read the rows that say which documents are relevant.

    Negatives of a set with scores were mined.
    """
    readings = []
    for name, pieces in found.rows.items():
        for piece in pieces:
            columns = piece.columns
            if columns is None or (config.hf_split is not None and piece.name != config.hf_split):
                continue
            first = name == _FIRST_IS_RELEVANT and not (columns.positives or columns.grades)
            if columns.is_qrels and are_scores(piece.table, columns.grades or ""):
                continue
            if columns.positives or columns.grades or first:
                split = (piece.split or "train") if mined else _split(name, piece)
                readings.append(Reading(piece.table, columns, split, mined or found.is_scored, first, mined))
    qrels = [reading for reading in readings if reading.columns.is_qrels]
    return [reading._replace(exported=False) for reading in qrels] or readings


def _split(part: str, piece: SetPiece) -> str:
    """Returns the split of rows: that of the piece, unless only the name of the part says it."""
    split = split_in(piece.split) or piece.split or "train"
    return (split_in(part) or split) if split == "train" else split


def text_layout(origin: str, names: Sequence[str], kind: str) -> Layout:
    """Returns the layout of a table of `documents` or `queries`; raises InputError without id or text."""
    identity = column_named(names, _DOCUMENT_IDS if kind == "documents" else _QUERY_IDS)
    text = column_named(names, _TEXTS[kind])
    wanted = ("document_id", "document") if kind == "documents" else ("query_id", "query")
    for found, name in zip((identity, text), wanted, strict=True):
        if found is None:
            raise InputError(
                f"{origin}: no column '{name}'{near(name, names)}", f"its columns: {listed(names)}"
            )
    if kind == "queries":
        return Layout(kind, query_id=identity, text=text or "")
    return Layout(kind, document_id=identity, text=text or "", title=column_named(names, ("title",)))


def _title_columns(table: Table) -> tuple[str, str] | None:
    """Returns the columns of the id and the title; None for a table with others."""
    identity, title = column_named(table.columns, _DOCUMENT_IDS), column_named(table.columns, ("title",))
    return None if identity is None or title is None or len(table.columns) > 2 else (identity, title)


class _Titles:
    """The titles of documents, read beside the documents: both have the same order."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables
        self._rows = self._read()
        self._next = next(self._rows, None) if tables else None

    def _read(self) -> Iterator[tuple[str, str, str]]:
        """Yields the id and the title of each document that has one, and where they are."""
        for table in self._tables:
            columns = _title_columns(table)
            for record in table.read(columns) if columns else ():
                if record.problem is not None:
                    raise InputError(f"{table.origin}:{record.line}: {record.problem[1]}", "correct the row")
                identity, title = (value or "" for value in record.values)
                if title:
                    yield identity, title, f"{table.origin}:{record.line}"

    def before(self, table: Table, layout: Layout) -> tuple[Table, Layout]:
        """Returns documents with their titles in a column of their own, and the rest as their text."""
        if not self._tables or layout.kind != "documents":
            return table, layout
        columns = [column for column in (layout.document_id, layout.text) if column is not None]

        def _read(texts: Sequence[str], passages: Sequence[str] = ()) -> Iterator[Record]:
            for record in table.read(columns):
                if record.problem is not None:
                    yield record
                    continue
                identity, text = (value or "" for value in record.values)
                title = self._of(identity)
                yield record._replace(
                    values=[identity, text.removeprefix(f"{title} ") if title else text, title]
                )

        return (
            replace(table, columns=(*table.columns, _TITLES), read=_read),
            replace(layout, title=_TITLES),
        )

    def _of(self, doc_id: str) -> str:
        if self._next is None or self._next[0] != doc_id:
            return ""
        title, self._next = self._next[1], next(self._rows, None)
        return title

    def require_all_read(self) -> None:
        """Raises InputError if a title is left, after all documents."""
        if self._next is not None:
            doc_id, _, where = self._next
            raise InputError(
                f"{where}: the title of '{shown(doc_id)}', which is not a document, or comes too late",
                f"write {_TITLES} in the order of the documents, or remove that part",
            )


def _unread_files(found: IdSet, folder: Path) -> list[str]:
    known = {piece.file.path for piece in found.pieces if piece.file is not None}
    about = {folder / name for name in ([CARD, _MANIFEST] if found.card else [])}
    files = [file for file in tree(found.source, folder) if file.path not in known | about]
    return unread([(file, "not a part of the set") for file in files], folder)


def _unread_columns(
    found: IdSet, texts: Sequence[tuple[Table, Layout, str]], readings: Sequence[Reading]
) -> list[str]:
    """Returns a note that lists the columns that are not read, but for the scores that have their own."""
    noted = {(id(piece.table), piece.columns.scores) for piece in found.scored if piece.columns}
    left = [name for table, layout, _ in texts for name in table.columns if name not in layout.read]
    left += [
        name
        for reading in readings
        for name in reading.table.columns
        if name not in reading.columns.read and (id(reading.table), name) not in noted
    ]
    return [f"not read: columns {listed(dict.fromkeys(left))}"] if left else []


def _unread_parts(found: IdSet, readings: Sequence[Reading], folder: Path | None) -> list[str]:
    """Returns notes on the parts that are not read, and on scores."""
    read = {id(reading.table) for reading in readings}
    scored = {id(piece.table) for piece in found.scored}
    left = [name for name, pieces in found.rows.items() if not any(id(one.table) in read for one in pieces)]
    with_scores = [name for name, pieces in found.rows.items() if any(id(p.table) in scored for p in pieces)]
    notes = []
    if with_scores:
        how = f"miner mine --candidates {quote(found.source)} reads them" if folder is not None else ""
        how = how or "download the set, and miner mine --candidates FOLDER reads them"
        notes.append(f"not read: the scores in {listed(with_scores)}; {how}")
    pairs = [
        name for name in left if any(piece.columns and piece.columns.is_qrels for piece in found.rows[name])
    ]
    left = [name for name in left if name not in pairs]
    if pairs:
        notes.append(
            f"not read: {listed(pairs)} (scores, not judgments); miner mine --candidates FILE reads them"
        )
    if readings and left:
        by = "the judgments are in other parts"
        notes.append(f"not read: {listed(left)} ({by})")
    elif not readings and left:
        notes.append(
            f"{found.source}: {listed(left)} does not say which documents are relevant: no judgments"
        )
    if found.others:
        notes.append(f"not read: {listed(found.others)} (neither texts nor rows of ids)")
    return notes


def open_hub_set(source: str, config: SourceConfig) -> Source | None:
    """Returns a set of the hub, `hf:NAME`, or the rows of one part, `hf:NAME:PART`, as a source.

    Returns None for other data sets, for parts of other kinds, if loading fails, and if an option asks for
    another format.
    """
    import datasets

    if config.format not in ("auto", "hf", "ids"):
        return None
    name, _, part = source.removeprefix(PREFIX).partition(":")
    try:
        parts = datasets.get_dataset_config_names(name) if name else []
        used = [*_KINDS.values(), *(() if "documents" in parts else (_JUDGED,))]
        others = set(parts) - {one for names in used for one in names}
        if not others or not all(any(one in parts for one in names) for names in _KINDS.values()):
            return None
        if part and part not in others:
            return None
        pieces = {
            one: [
                SetPiece(split, split, dataset_table(f"{PREFIX}{name}:{one}/{split}", data))
                for split, data in datasets.load_dataset(name, one).items()
            ]
            for one in ([part] if part else parts)
        }
        mined = is_exported(name, min(others))
        if part:
            is_scored = _are_scored(id_rows(columns_of(name, one)) for one in others)
            found: IdSet | None = IdSet(source, {}, pieces, is_scored=is_scored)
        else:
            found = set_of(source, pieces)
    except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError):
        return None  # open_hub has the error message
    if found is None or (part and not _readings(found, config, mined)):
        return None
    return open_set(found, config, mined=mined)


def _read_as(found: IdSet, readings: Sequence[Reading]) -> str:
    """Returns what each part is read as."""
    within = f"{found.source.rstrip('/')}/"
    parts = [
        f"{kind} = {listed(piece.table.origin.removeprefix(within) for piece in pieces)}"
        for kind, pieces in found.texts.items()
    ]
    for reading in readings:
        roles = ", ".join(f"{name} = {role}" for name, role in reading.columns.roles.items())
        mined = "; negatives were mined, not judged" if reading.columns.negatives and reading.mined else ""
        first = "; the first document is relevant" if reading.first_is_relevant else ""
        parts.append(f"{reading.table.origin.removeprefix(within)}: {roles}{mined}{first}")
    what = "a set of ids" if found.texts else "rows of ids"
    return f"{what}: {'; '.join(parts)}"
