"""JSON files: one object per line, or one array of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from miner.engine.progress import SILENT, shown_progress
from miner.errors import InputError, shown
from miner.sources.files import File, lines
from miner.sources.table import LIST, OBJECT, Record, Table, text_record
from miner.sources.values import JSON, parse_json

LARGEST_OBJECT = 1 << 29
"""Bytes of a file that is one JSON object, which is read at once."""
_MOST_KEYS = 10_000
_CHUNK = 1 << 20
"""Least number of characters of an array that are parsed at once; bytes between two reports."""
_LARGE = 100 << 20
"""Bytes of a file from which on looking for its keys takes seconds."""


class _Row(NamedTuple):
    number: int
    """Number of the line, or of the element in the array."""
    size: int
    record: dict[str, Any]


def open_json(file: File) -> Table:
    """Returns a .jsonl, .ndjson or .json file as a table whose columns are the keys of all rows.

    Reads the file once from end to end. Raises InputError for broken JSON and for rows that are not objects.
    """
    first = next((line.text.lstrip() for line in lines(file) if line.text.strip()), None)
    if first is None:
        raise InputError(f"{file.origin}: the file is empty", "write one object per line")
    array = first.startswith("[")
    if not array and file.suffix == ".json":
        _require_rows(file, first)
    columns, nested = _keys(file, array)

    def _read(texts: Sequence[str], passages: Sequence[str] = ()) -> Iterator[Record]:
        for number, size, record in json_objects(file, array):
            yield text_record(
                number,
                size,
                ([record.get(key) for key in texts], texts),
                ([record.get(key) for key in passages], passages),
            )

    return Table(file.origin, tuple(columns), file.size, "bytes", _read, nested)


def _keys(file: File, array: bool) -> tuple[dict[str, None], dict[str, str]]:
    """Returns the keys of all rows, and the keys with nested values, as `Table.nested` has them."""
    columns, nested = dict[str, None](), dict[str, str]()
    progress = shown_progress() if file.size >= _LARGE else SILENT
    with progress.task(f"look for the keys in {file.origin}", file.size, unit="bytes") as advance:
        size = 0
        for row in json_objects(file, array):
            size += row.size
            if size >= _CHUNK:
                advance(size)
                size = 0
            for key, value in row.record.items():
                columns[key] = None
                if isinstance(value, dict | list):
                    what = OBJECT if isinstance(value, dict) else LIST
                    nested[key] = what if nested.get(key, what) == what else f"{LIST} or {OBJECT}"
            if len(columns) > _MOST_KEYS:
                raise InputError(
                    f"{file.origin}:{row.number}: more than {_MOST_KEYS:,} different keys up to here",
                    "give all rows the same keys, such as query and positive",
                )
        advance(size)
    return columns, nested


def raw_column(file: File, name: str) -> list[Any]:
    """Returns the values of one key, numbers as numbers; None for rows without the key."""
    first = next((line.text.lstrip() for line in lines(file) if line.text.strip()), "")
    return [row.record.get(name) for row in json_objects(file, first.startswith("["), json.JSONDecoder())]


def _require_rows(file: File, first: str) -> None:
    """Raises InputError for a .json with one object over several lines, or around a list of rows."""
    try:
        record = JSON.decode(first.rstrip())
    except (json.JSONDecodeError, RecursionError):
        record = None
    hint = "write one object per line, or one array of objects"
    if not isinstance(record, dict):
        raise InputError(f"{file.origin}: one JSON value over several lines, not one object per line", hint)
    inner = next((k for k, v in record.items() if isinstance(v, list) and v and isinstance(v[0], dict)), None)
    alone = sum(1 for _, line in zip(range(2), lines(file), strict=False) if line.text.strip()) == 1
    if alone and inner is not None and "paragraphs" in record[inner][0]:
        raise InputError(
            f"{file.origin}: SQuAD's layout, one object around all questions",
            "leave out the options that name columns, or add --format squad",
        )
    if alone and inner is not None and not {"query", "question", "anchor"} & set(record):
        raise InputError(f"{file.origin}: one object around a list '{shown(inner)}', not rows", hint)


def json_objects(file: File, array: bool, decoder: json.JSONDecoder = JSON) -> Iterator[_Row]:
    """Yields the number, the size in bytes and the content of each object: of a line, or of one array.

    Raises InputError for broken JSON and for anything but an object.
    """
    if array:
        yield from _elements(file, decoder)
        return
    for line in lines(file):
        if line.text.strip():
            yield _Row(line.number, line.size, parse_json(line.text, file.origin, line.number, decoder))


def _elements(file: File, decoder: json.JSONDecoder) -> Iterator[_Row]:
    """Yields the objects of one array; reads it in pieces, and adds to a piece that ends within an object."""
    buffer, position, size, number, ended = "", 0, 0, 0, False
    opened = False
    pieces = _pieces(file)
    while True:
        text, read, last = next(pieces)
        wanted = len(buffer) - position
        buffer, position, size = buffer[position:] + text, 0, size + read
        while not last and len(buffer) < 2 * wanted:
            text, read, last = next(pieces)
            buffer, size = buffer + text, size + read
        while True:
            position = _after_blanks(buffer, position)
            if position == len(buffer) and not last:
                break
            sign = buffer[position : position + 1]
            if not opened:
                opened, position = True, position + 1  # the opening bracket
                continue
            if ended or sign == "]":
                ended, position = True, _after_blanks(buffer, position + (not ended))
                if position < len(buffer):
                    raise _broken(file, number, "text after the array")
                break
            if sign == ",":
                position += 1
                continue
            try:
                value, position = decoder.raw_decode(buffer, position)
            except (json.JSONDecodeError, RecursionError) as error:
                if last:
                    raise _broken(file, number + 1, getattr(error, "msg", "too deep")) from error
                break
            number += 1
            if not isinstance(value, dict):
                raise InputError(
                    f"{file.origin}:{number}: not an object", "make each element an object, one per row"
                )
            yield _Row(number, size, value)
            size = 0
        if last:
            if not ended:
                raise _broken(file, number, "the array is not closed")
            return


def _pieces(file: File) -> Iterator[tuple[str, int, bool]]:
    """Yields pieces of at least _CHUNK characters, their size in bytes, and whether it is the last piece."""
    waiting: list[str] = []
    characters = size = 0
    for line in lines(file):
        waiting.append(line.text)
        characters, size = characters + len(line.text), size + line.size
        if characters >= _CHUNK:
            yield "".join(waiting), size, False
            waiting, characters, size = [], 0, 0
    yield "".join(waiting), size, True


def _after_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _broken(file: File, number: int, what: str) -> InputError:
    return InputError(
        f"{file.origin}:{number}: broken JSON ({what}, element {number})",
        "write one complete array",
    )


def whole_object(file: File) -> dict[str, Any]:
    """Returns the object that a file consists of, over any number of lines, with its numbers as text.

    Raises InputError for broken JSON, for anything but an object, for a key that occurs twice in one object,
    and for a file of more than LARGEST_OBJECT bytes.
    """
    if file.size > LARGEST_OBJECT:
        raise InputError(
            f"{file.origin}: one JSON object of more than {LARGEST_OBJECT >> 20} MB", "break it into files"
        )
    text = "".join(line.text for line in lines(file))
    decoder = json.JSONDecoder(
        parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=partial(_without_twins, file)
    )
    return parse_json(text, file.origin, 1, decoder)


def _without_twins(file: File, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise InputError(f"{file.origin}: the key '{shown(twin)}' occurs twice in one object", "remove one")
    return found
