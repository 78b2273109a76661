"""Columns that grade pairs: the relevance of their values, and how to recognise such a column."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from io import StringIO
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from miner.errors import InputError, UsageError, listed, near, shown
from miner.sources.config import NO_COLUMN, SourceConfig
from miner.sources.table import Table
from miner.sources.values import as_number

if TYPE_CHECKING:
    from miner.sources.layouts import Layout

_MOST_VALUES = 12
_SHOWN = 3
_REPEATED = 3
"""Least average number of rows per value in a label column whose name says nothing."""
_LONGEST_VALUE = 40
_GRADING = {
    "label", "labels", "duplicate", "relevance", "relevant", "rel", "score", "scores", "similarity", "sim",
    "grade", "graded", "grades", "rating", "ratings", "judgment", "judgement", "judgments", "judgements",
    "stars", "gold", "entailment", "paraphrase", "match", "matched", "class", "correct",
    "quality", "verdict", "answerable",
}  # fmt: skip
"""Words in the names of columns that grade pairs."""
_ABOUT = {
    "split", "set", "subset", "source", "src", "dataset", "corpus", "domain", "genre", "category", "topic",
    "type", "kind", "task", "lang", "language", "locale", "country", "region", "version", "year", "month",
    "day", "date", "time", "author", "publisher", "origin", "license", "site", "model", "prompt",
    "instruction", "format", "gender", "section",
}  # fmt: skip
"""Words in the names of columns that describe a row in other ways."""
_WORTH = {
    "entailment": 1, "neutral": 0, "contradiction": 0, "duplicate": 1, "paraphrase": 1, "relevant": 1,
    "irrelevant": 0, "not_relevant": 0, "yes": 1, "no": 0, "true": 1, "false": 0, "e": 3, "s": 2, "c": 1,
    "i": 0, "exact": 3, "substitute": 2, "complement": 1, "positive": 1, "negative": 0, "good": 1, "bad": 0,
}  # fmt: skip
"""The relevance that messages propose for a value; it is never used unless the user asks for it."""
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_ID = re.compile(r"(.*[_-])?(q|d|p|s|doc|query|pair|row|example)?(id|ids|idx|index|no|number)", re.IGNORECASE)


def is_grade(name: str) -> bool:
    """Returns whether the name of a column says that it grades pairs, such as `is_duplicate`."""
    return bool(_words(name) & _GRADING)


def is_id(name: str) -> bool:
    """Returns whether the name of a column says that it holds ids; `label_id` counts, and may hold grades."""
    return _ID.fullmatch(name) is not None


def _words(name: str) -> set[str]:
    return {word.lower() for word in _WORDS.findall(name)}


_NO_VALUE = "no relevance (--relevance-map =1 would count rows without a value as relevant)"


class ProposedMap(dict[str, float]):
    """A relevance for each value that miner knows, not the user: not all values have to occur."""


class Grades:
    """The relevance of rows, from the values of one column."""

    def __init__(self, config: SourceConfig) -> None:
        self._map = config.relevance_map
        self._worth = {value_form(value): float(relevance) for value, relevance in (self._map or {}).items()}
        self._numbers = set(self._worth) <= {""}
        # A map of the missing value alone: the other values are numbers.
        self._unseen = {} if isinstance(self._map, ProposedMap) else dict.fromkeys(self._worth)
        self._others: dict[str, None] = {}

    def relevance(self, value: str | None) -> float | tuple[str, str]:
        """Returns the relevance of a value, or the reason and the detail why its row is left out."""
        form = value_form(value or "")
        self._unseen.pop(form, None)
        if form in self._worth:
            return self._worth[form]
        if self._numbers:
            number = as_number(value)
            detail = f"relevance '{shown(value)}' is not a number" if form else _NO_VALUE
            return ("bad_relevance", detail) if number is None else number
        if len(self._others) <= _MOST_VALUES:
            self._others[form] = None
        where = (
            f"none of {listed(self._map)}" if isinstance(self._map, ProposedMap) else "not in --relevance-map"
        )
        return ("unmapped_relevance", f"relevance '{shown(value or '')}' is {where}")

    def require_all_seen(self, origin: str) -> None:
        """Raises UsageError for a value of the map that occurs in no row: it may be misspelt."""
        for form in self._unseen:
            hint = near(form, self._others)
            raise UsageError(
                f"{origin}: no row has the value '{shown(form)}' of --relevance-map{hint}",
                "its other values: " + (", ".join(map(shown, self._others)) or "none"),
            )


def value_form(value: str) -> str:
    """Returns a form that is the same for equal values: 1 and 1.0, true and True."""
    text = value.strip().lower()
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def require_graded(tables: Sequence[tuple[Table, Layout]], config: SourceConfig) -> None:
    """Raises InputError for a column that looks like a label of pairs and that no option mentions.

    Reads each table until every such column has more than 12 different values. Also raises InputError for a
    relevance column of names without a map to numbers.
    """
    for table, layout in tables:
        if layout.kind not in ("pairs", "triplets") or not layout.judged or layout.grades is not None:
            continue
        if layout.relevance is not None:
            if set(config.relevance_map or ()) <= {""}:
                _require_numbers(table, layout.relevance)
        elif config.relevance_column is None:
            _require_no_label(table, layout)


def _require_numbers(table: Table, column: str) -> None:
    values = _values(table, [column])[column]
    names = [value for value in values.first if as_number(value) is None]
    if names:
        raise InputError(
            f"{table.origin}: values of column '{shown(column)}' are not numbers: {_listed(values.first)}",
            f"give each value a relevance: --relevance-map {_map(values.first)} (rows with other values are "
            "left out)",
        )


def _require_no_label(table: Table, layout: Layout) -> None:
    columns = [
        name
        for name in table.columns
        if name not in layout.read and name not in table.nested and _may_be_label(name, layout.kind)
    ]
    found = _values(table, columns) if columns else {}
    suspects = [name for name in columns if _is_label(name, found[name], layout.kind)]
    if not suspects:
        return
    name = min(suspects, key=lambda name: not is_grade(name))
    values = found[name].first
    numbers = all(as_number(value) is not None for value in values)
    raise InputError(
        f"{table.origin}: column '{shown(name)}' looks like a label of the pairs (with values such as "
        f"{_listed(values)}), and no option mentions it: every row would be a positive",
        f"to read it as relevance: --relevance-column {quote(name)}"
        + ("" if numbers else f" --relevance-map {_map(values)}")
        + (" (0 or less means not relevant)" if numbers else " (rows with other values are left out)")
        + f"; if every row is a positive: --relevance-column {NO_COLUMN}",
    )


class _Values(NamedTuple):
    """The values of a column."""

    first: tuple[str, ...]
    """The different values, sorted; only the first ones if there are too many."""
    many: bool
    rows: int
    """Number of rows that have a value."""


def _may_be_label(name: str, kind: str) -> bool:
    """Returns whether the name of a column allows it to be a label."""
    if is_grade(name):
        return True
    return kind == "pairs" and not is_id(name) and not _words(name) & _ABOUT


def _is_label(name: str, values: _Values, kind: str) -> bool:
    """Returns whether the values of a column look like grades of the pairs."""
    if not values.first:
        return False
    if values.many:
        graded = is_grade(name) and not is_id(name)
        return kind == "pairs" and graded and all(as_number(value) is not None for value in values.first)
    if len(values.first) == 1:
        worth = _proposed(values.first[0])
        return is_grade(name) and worth is not None and worth <= 0
    if is_grade(name):
        return True
    if all(value.lower() in _WORTH or as_number(value) in (0, 1, -1) for value in values.first):
        return True
    often = values.rows >= _REPEATED * len(values.first)
    return often and all(len(value) <= _LONGEST_VALUE for value in values.first)


def _values(table: Table, columns: Sequence[str]) -> dict[str, _Values]:
    """Returns the values of columns; stops reading when each has more than _MOST_VALUES."""
    found: dict[str, dict[str, None]] = {column: {} for column in columns}
    counts = dict.fromkeys(columns, 0)
    few = dict(enumerate(columns))
    for record in table.read(columns):
        for index, column in tuple(few.items()) if record.problem is None else ():
            value = (record.values[index] or "").strip()
            if value:
                counts[column] += 1
                found[column][value] = None
                if len(found[column]) > _MOST_VALUES:
                    del few[index]
        if not few:
            break
    return {
        column: _Values(tuple(values)[:_SHOWN], True, counts[column])
        if len(values) > _MOST_VALUES
        else _Values(tuple(sorted(values, key=_order)), False, counts[column])
        for column, values in found.items()
    }


def _order(value: str) -> tuple[bool, float, str]:
    number = as_number(value)
    return number is None, number or 0, value


def _listed(values: Sequence[str]) -> str:
    return ", ".join(shown(value, 30) for value in values)


def _proposed(value: str) -> float | None:
    number = as_number(value)
    return _WORTH.get(value.lower()) if number is None else number


def _map(values: Sequence[str]) -> str:
    """Returns a value for --relevance-map, quoted for the shell."""
    proposed = ((value, _proposed(value)) for value in values)
    text = StringIO()
    csv.writer(text, lineterminator="").writerow(
        f"{shown(value)}={'NUMBER' if worth is None else f'{worth:g}'}" for value, worth in proposed
    )
    return quote(text.getvalue())
