"""MS MARCO's files: columns between tabs, and no header. Content and name of a file show what it holds.

The layouts are those of passage and document ranking (microsoft.github.io/msmarco/Datasets, as of 2021):
collection.tsv (pid, text), msmarco-docs.tsv (docid, url, title, body), queries.*.tsv (qid, text), qrels.*.tsv
(qid, 0, pid, label), qidpidtriples.*.tsv (qid, pid, pid), triples.*.tsv (query, text, text).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from miner.errors import InputError, listed
from miner.sources import trec
from miner.sources.config import SKIPPED, SourceConfig, require_splits, split_in
from miner.sources.delimited import open_delimited
from miner.sources.files import File, lines, tree, unread
from miner.sources.part import Part, Rows, Source
from miner.sources.qrels import is_judgments, judgment_layout, judgments
from miner.sources.rankings import A_RUN, is_run
from miner.sources.table import Table
from miner.sources.tabular import from_tables, if_mined

_LOOKED_AT = 100
_SUFFIXES = (".tsv", ".txt", ".trec", ".qrels", "")
_ID = re.compile(r"(?:[A-Za-z_]+)?\d[\d_]*")
"""An id of a query, passage or document by content alone: 7, D59219, msmarco_passage_00_0."""
_SOME_ID = re.compile(r"\S*\d\S*|")
"""An id in a file whose name says what it holds: one word with a digit, or nothing."""
_NAME = (
    "anchor|query|question|topic|q|positive|pos|negative|neg|hard|document|doc|passage|corpus|p|d|answer|context|"
    "contents|text|title|ids|id"
)
_HEADER = re.compile(rf"_?(?:{_NAME})s?(?:[_-]?(?:{_NAME}|\d+))*", re.IGNORECASE)
"""The name of a column in a first line that is a header: `anchor`, `positive_id`, `negative_1`."""
_IDS = ("query_id", "positive_id", "negative_id")
_COLUMNS = {
    "documents": ("doc_id", "text"),
    "long documents": ("doc_id", SKIPPED, "title", "text"),
    "queries": ("query_id", "text"),
    "triples of ids": _IDS,
    "triples of texts": ("query", "positive", "negative"),
}
"""The columns of a file, by what it holds."""
_NAMES = "name it collection….tsv, queries….tsv, qrels….tsv or triples….tsv"


@dataclass(frozen=True)
class _TabContent:
    """What a file holds: a key of _COLUMNS, or `judgments`; "" for a file that is not read, and why."""

    holds: str
    why: str = ""

    def described(self, *, mined: bool) -> str:
        """Returns what the file holds, and its columns in order; `mined`: nobody judged negatives."""
        columns = ", ".join(_COLUMNS.get(self.holds, ()))
        unjudged = ": mined, not judged" if mined and self.holds.startswith("triples") else ""
        return f"{self.holds} ({columns}{unjudged})" if columns else self.holds

    @property
    def judges(self) -> bool:
        """Whether the file has judgments, which belong to a split."""
        return self.holds == "judgments" or self.holds.startswith("triples")


def is_msmarco(source: str, path: Path) -> bool:
    """Returns whether a .tsv without a header, or a folder of such files, is in MS MARCO's layouts.

    Judgments are not enough, since TREC has them too. A folder with documents or topics that only TREC has is
    TREC's.
    """
    if path.is_file():
        file = File(path, source)
        return file.suffix == ".tsv" and _content_of(file).holds not in ("", "judgments")
    files = tree(source, path)
    if not any(file.suffix == ".tsv" for file in files):
        return False
    ours = {file.path for file in files if _content_of(file).holds not in ("", "judgments")}
    others = trec.texts_in([file for file in files if file.suffix != ".tsv"]) if ours else []
    return bool(ours) and {file.path for file in others} <= ours


def open_msmarco(source: str, path: Path, config: SourceConfig) -> Source:
    """Returns a file, or a folder of files, as a source; the split of judgments is in the name of their file.

    The negatives of triples are judged 0, unless `mined_negatives` says that nobody did. Raises InputError if
    nothing there is in one of MS MARCO's layouts.
    """
    found = [(file, _content_of(file, known=True)) for file in tree(source, path)]
    known = [(file, content) for file, content in found if content.holds]
    left = [(file, content.why) for file, content in found if not content.holds]
    notes = unread(left, path if path.is_dir() else path.parent)
    if not known:
        raise InputError("; ".join([f"{source}: none of MS MARCO's files", *notes]), _NAMES)
    splits = [split_in(file.stem) or "train" for file, content in known if content.judges]
    require_splits(config, source, splits)
    opened = [
        _opened(file, content, config.split or split_in(file.stem) or "train", config)
        for file, content in known
    ]
    notes += [one.note for one in opened if one.note]
    if any(content.holds.startswith("triples") for _, content in known) and not config.mined_negatives:
        notes.append(if_mined(source))
    total = sum(one.total for one in opened)
    parts = (part for one in opened for part in one.parts)
    names: dict[str, list[str]] = {}
    for file, content in known:
        names.setdefault(content.described(mined=config.mined_negatives), []).append(file.path.name)
    what = "; ".join(f"{listed(few, most=5)} = {described}" for described, few in names.items())
    return Source(source, total, "bytes", parts, "\n".join(notes), read_as=f"MS MARCO: {what}")


def _opened(file: File, content: _TabContent, split: str, config: SourceConfig) -> Source:
    if content.holds == "judgments":
        layout = judgment_layout(file)
        parts: Iterator[Part] = iter(()) if layout is None else judgments(file, split, layout)
        return Source(file.origin, file.size, "bytes", parts)
    columns = _COLUMNS[content.holds]
    bare = replace(config, format="auto", header=False, columns=columns, quoted=config.quoted or False)
    table = open_delimited(file, bare, "\t", "MS MARCO's layout")
    if columns == _IDS:
        return Source(file.origin, file.size, "bytes", _triples(table, split, mined=config.mined_negatives))
    source = from_tables(file.origin, [(table, None)], replace(bare, split=split, dev=0.0, test=0.0))
    if SKIPPED in columns:
        return replace(source, note=f"{file.origin}: not read: column 2, the address")
    return source


def _triples(table: Table, split: str, *, mined: bool) -> Iterator[Part]:
    """Yields a judgment for the positive of each row of ids, and one for the negative unless it was mined."""
    rows = Rows()
    for record in table.read(_IDS):
        rows.size += record.size
        rows.start("triplets", table.origin, record.line, *record.content, split)
        query, positive, negative = (value or "" for value in record.values or ("", "", ""))
        if record.problem is not None:
            rows.reject(*record.problem)
        elif not (query and positive and negative):
            rows.reject("empty_id", "one of the three ids is empty")
        else:
            rows.judgment(query, positive, split)
            if not mined:
                rows.judgment(query, negative, split, 0.0)
        if rows.ready:
            yield rows.part()
    yield rows.part()


def _content_of(file: File, *, known: bool = False) -> _TabContent:
    """Returns what a file holds by its first lines, and by its name if these are ambiguous.

    Unless it is `known` that files are MS MARCO's, ids need a digit.
    """
    if file.fault or file.suffix not in _SUFFIXES:
        return _TabContent("", file.fault or "not a file of columns between tabs")
    try:
        first = [line.text.rstrip("\r\n") for line in islice(lines(file), _LOOKED_AT) if line.text.strip()]
    except InputError as error:
        return _TabContent("", error.message.removeprefix(f"{file.origin}: "))
    if not first:
        return _TabContent("", "empty")
    rows = [line.split("\t") for line in first]
    widths = Counter(len(row) for row in rows)
    width = max(widths, key=lambda width: (widths[width], width))
    named = "triples" if "triple" in file.path.name.lower() else trec.name_says(file)
    if all(_HEADER.fullmatch(cell.strip()) for cell in rows[0]) and named != "qrels":
        return _TabContent("", "the first line is a header, which MS MARCO's files lack")
    if is_run(file):
        return _TabContent("", A_RUN)
    if named == "qrels" or width < 2:
        judged = judgment_layout(file) is not None if named == "qrels" else is_judgments(file)
        return _TabContent("judgments") if judged else _TabContent("", "no columns between tabs")
    if width > 2:
        return _by_content(file, [row for row in rows if len(row) == width], named)
    holds = {"docs": "documents", "topics": "queries"}.get(named, "")
    if not holds:
        return _TabContent("", f"an id and a text in each line: documents or queries; {_NAMES}")
    if not known and not all(row[0] and _SOME_ID.fullmatch(row[0]) for row in rows):
        return _TabContent("", "no ids in the first column")
    return _TabContent(holds)


def _by_content(file: File, rows: Sequence[Sequence[str]], named: str) -> _TabContent:
    """Returns what a file with at least three columns holds."""
    width = len(rows[0])
    ids = [all(_ID.fullmatch(row[position]) for row in rows) for position in range(width)]
    if width == 3 and named == "triples":
        some = all(_SOME_ID.fullmatch(cell) for row in rows for cell in row)
        return _TabContent("triples of ids" if some else "triples of texts")
    if named != "docs" and is_judgments(file):
        return _TabContent("judgments")
    if named != "docs" and width == 3 and all(ids):
        return _TabContent("triples of ids")
    if width == 4 and ids[0] and all(not row[1] or "://" in row[1] for row in rows):
        return _TabContent("long documents")
    if width == 4 and ids[0] and ids[1]:
        return _TabContent("", "candidates with their texts, which nobody judged")
    return _TabContent("", f"{width} columns that are none of MS MARCO's")
