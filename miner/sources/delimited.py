"""TSV and CSV files: with or without a header, with or without quoted fields."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence

from miner.errors import InputError, counted, shown
from miner.sources.config import SKIPPED, SourceConfig
from miner.sources.files import File, lines, mentions
from miner.sources.table import Record, Table
from miner.sources.values import Passage, as_number
from miner.text import is_sentence

LONGEST_FIELD = 2**31 - 1
_MOST_LINES = 10_000
"""Longest quoted field; an opening quote without an end within these lines is part of the text."""
_WORDS_OF_A_NAME = 3
_LONGEST_NAME = 60

Fields = Iterator[tuple[int, int, list[str]]]
"""Per row: its first line, its size in bytes, its fields."""


def open_delimited(file: File, config: SourceConfig, sign: str = "", layout: str = "") -> Table:
    """Returns a .tsv or .csv file as a table; `sign` separates its columns, by default a tab or a comma.

    `layout` is what gives `config.columns`, for messages, if it is not the user.
    Reads a .tsv once from end to end to find out whether its fields are quoted. Raises InputError for a file
    that is empty or broken, or whose quotes are inconsistent.
    """
    sign = sign or ("\t" if file.suffix == ".tsv" else ",")
    quoted, note = config.quoted, ""
    if quoted is None:
        quoted, note = is_quoted(file) if sign == "\t" else (True, "")
    first = next(_rows(file, sign, quoted), None)
    if first is None:
        raise InputError(f"{file.origin}: the file is empty", "write a header line and rows")
    names = tuple(first[2]) if config.header else config.columns or ()
    where = "the header has" if config.header else f"{layout} has" if layout else "--columns names"
    _require_separated(file, names, first[2], (sign, where))
    positions = {name: position for position, name in enumerate(names) if name != SKIPPED}
    least = len(names)
    while least and names[least - 1] == SKIPPED:
        least -= 1

    def _read(texts: Sequence[str], passages: Sequence[str] = ()) -> Iterator[Record]:
        chosen, several = ([positions[name] for name in columns] for columns in (texts, passages))
        rows = _rows(file, sign, quoted)
        if config.header:
            next(rows)
        for line, size, fields in rows:
            if not least <= len(fields) <= len(names):
                yield Record(line, size, (), (), ("field_count", _width(len(fields), where, names)))
                continue
            values = [fields[position] for position in chosen]
            found = [(Passage(fields[position]),) for position in several]
            yield Record(line, size, values, found)

    columns = names if config.header else tuple(positions)
    data = names if config.header and _is_data(names) else None
    return Table(file.origin, columns, file.size, "bytes", _read, note=note, first_row=data)


def _width(fields: int, where: str, names: Sequence[str]) -> str:
    return f"{counted(fields, 'field')} where {where} {len(names):,}"


def _is_data(names: Sequence[str]) -> bool:
    """Returns whether a first row is data, not a header: it has a number or a whole sentence."""
    return any(
        as_number(name) is not None
        or len(name) > _LONGEST_NAME
        or len(name.split()) > _WORDS_OF_A_NAME
        or is_sentence(name)
        for name in names
    )


def _require_separated(
    file: File, names: Sequence[str], first: Sequence[str], known: tuple[str, str]
) -> None:
    """Raises InputError if the first row shows that another character separates the columns.

    `known` is the character, and what says how many columns there are.
    """
    sign, where = known
    by = "commas" if sign == "," else "tabs"
    other = next((other for other in "\t,;|" if len(first) == 1 and other in first[0]), None)
    if other is not None:
        raise InputError(
            f"{file.origin}:1: one column, '{shown(first[0])}': {by} separate the columns of a {file.suffix} "
            f"file, not {other!r}",
            "end its name in .tsv" if other == "\t" else "end its name in .csv" if other == ","
            else f"save it with {by}",
        )  # fmt: skip
    if len(names) == len(first) or (len(names) > len(first) and set(names[len(first) :]) == {SKIPPED}):
        return
    raise InputError(
        f"{file.origin}:1: {counted(len(first), 'field')}, but {where} {len(names)}",
        f"name every column in order, {SKIPPED} for a column to skip"
        if "--" in where
        else "correct the line",
    )


def _rows(file: File, sign: str, quoted: bool) -> Fields:
    if quoted:
        yield from _CsvRows(file, sign)
        return
    for line in lines(file):
        text = line.text.removesuffix("\n").removesuffix("\r")
        if text:
            yield line.number, line.size, text.split(sign)


class _CsvRows:
    """Rows whose fields may be quoted."""

    def __init__(self, file: File, sign: str) -> None:
        csv.field_size_limit(LONGEST_FIELD)
        self._file = file
        self._size = 0
        self._reader = csv.reader(self._lines(), delimiter=sign, strict=True)

    def _lines(self) -> Iterator[str]:
        for line in lines(self._file):
            self._size += line.size
            yield line.text

    def __iter__(self) -> Fields:
        while True:
            start = self._reader.line_num + 1
            try:
                fields = next(self._reader, None)
            except csv.Error as error:
                tabs = self._file.suffix == ".tsv"
                raise InputError(
                    f"{self._file.origin}:{start}: broken {'TSV' if tabs else 'CSV'}: {error}",
                    'close every quote, and write a quote within a field as ""'
                    + ("; if quotes are part of the text: --set quoted=false" if tabs else ""),
                ) from error
            if fields is None:
                return
            size, self._size = self._size, 0
            if fields:
                yield start, size, fields


_QUOTED = re.compile(r'"([^"]*+(?:""[^"]*+)*+)"')
_CLOSE = re.compile(r'[^"]*+(?:""[^"]*+)*+"')


class _Quotes:
    """Counts the evidence for and against quoted fields in a whole .tsv file.

    Scans each line once for two readings. Plain: every quote is part of the text. Quoted, as in CSV: quotes
    surround fields and are doubled within, and tabs and line ends within them are part of the text.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.quoted = self.bare = 0
        """Quoted fields, and fields without quotes that are not numbers."""
        self.doubled = 0
        """Quoted fields that contain a doubled quote or a carriage return."""
        self.parted = 0
        """Quoted fields that contain a tab or a line end."""
        self.stray = 0
        """Quotes and carriage returns that are not valid in CSV, the first on line `first`."""
        self.first = 0
        self.wrong_plain = self.wrong_quoted = 0
        """Rows whose number of fields differs from the header, in either reading."""
        self._before = 0
        self._open = 0

    @property
    def faults(self) -> int:
        """The evidence against quoted fields."""
        return self.stray + self.wrong_quoted + (1 if self._open else 0)

    @property
    def lost(self) -> bool:
        """Whether an opening quote has no end within _MOST_LINES."""
        return self._open > _MOST_LINES

    def scan(self, text: str, number: int) -> None:
        """Adds one line without its line end."""
        fields = text.count("\t") + 1
        if text:
            self.wrong_plain += fields != self.width
        if not self._open and '"' not in text and "\r" not in text:
            if text:
                self.bare += 1
                self.wrong_quoted += fields != self.width
            return
        position, count = 0, self._before
        if self._open:
            closing = _CLOSE.match(text)
            if closing is None:
                self._open += 1
                return
            self._open, count, position = 0, count + 1, self._end(text, closing.end(), number)
            self.parted += 1
            self.quoted += 1
        while position <= len(text):
            if text.startswith('"', position):
                field = _QUOTED.match(text, position)
                if field is None:
                    self._open, self._before = 1, count
                    return
                self.quoted += 1
                self.doubled += '""' in field[1] or "\r" in field[1]
                self.parted += "\t" in field[1]
                position = self._end(text, field.end(), number)
            else:
                end = _until_tab(text, position)
                if '"' in text[position:end] or "\r" in text[position:end]:
                    self._stray(number)
                self.bare += end > position and as_number(text[position:end]) is None
                position = end + 1
            count += 1
        self.wrong_quoted += count != self.width
        self._before = 0

    def _end(self, text: str, end: int, number: int) -> int:
        """Returns the start of the next field after a closing quote; counts anything but a tab there."""
        if end < len(text) and text[end] != "\t":
            self._stray(number)
            end = _until_tab(text, end)
        return end + 1

    def _stray(self, number: int) -> None:
        self.stray += 1
        self.first = self.first or number


def _until_tab(text: str, position: int) -> int:
    end = text.find("\t", position)
    return len(text) if end < 0 else end


def is_quoted(file: File) -> tuple[bool, str]:
    """Returns whether the fields of a .tsv are quoted, from the whole file, and a note about it.

    They are if nothing in the file is against it, and either every field is quoted, or some field contains
    what makes a program quote it: a doubled quote, or a tab or line end without which its row would have too
    many fields. Raises InputError if both readings have faults, and the plain one has ten times as many.
    """
    if not mentions(file, b'"'):
        return False, ""
    found = None
    for line in lines(file):
        text = line.text.removesuffix("\n").removesuffix("\r")
        if found is None:
            found = _Quotes(text.count("\t") + 1)
        found.scan(text, line.number)
        if found.lost:
            return False, ""
    if found is None or not found.quoted:
        return False, ""
    if found.bare and found.parted and not found.wrong_plain:
        return False, ""  # these quotes would join whole fields
    evidence = found.doubled + found.parted
    if not found.faults and (evidence or not found.bare):
        return True, (
            f"{file.origin}: {found.quoted:,} quoted fields, read without their quotes "
            "(--set quoted=false keeps the quotes)"
        )
    if not found.faults:
        return False, (
            f"{file.origin}: {found.quoted:,} quoted fields keep the quotes (--set quoted=true removes them)"
        )
    if evidence and 10 * found.faults <= found.doubled + found.wrong_plain:
        raise InputError(
            f"{file.origin}: {found.quoted:,} quoted fields as in CSV, but "
            + (f"line {found.first:,} has other quotes" if found.first else "some rows do not fit"),
            "correct the file and add --set quoted=true, or keep all quotes as text with --set quoted=false",
        )
    return False, ""
