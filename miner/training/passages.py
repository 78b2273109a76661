"""Rows with lists of positives and negatives, as FlagEmbedding, Tevatron and DPR have them, to train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from miner.errors import InputError
from miner.sources.values import NotTextError, as_passages
from miner.text import join_title

_POSITIVES = ("positive", "positives", "pos", "positive_passages", "positive_ctxs")
_NEGATIVES = ("negative", "negatives", "neg", "negative_passages", "hard_negative_ctxs")
_POSITIVE_SCORES, _NEGATIVE_SCORES = "pos_scores", "neg_scores"
SCORES = ("scores", "labels", _POSITIVE_SCORES, _NEGATIVE_SCORES)
"""Columns that may hold a list of numbers in each row."""


def is_passages(name: str) -> bool:
    """Tells whether a column of lists is named as one of positives or negatives is."""
    return name in _POSITIVES or name in _NEGATIVES


def passage_lists(values: Sequence[Any], column: str) -> list[list[str]]:
    """Returns the texts of every row, title first; raises InputError for what holds no text."""
    try:
        return [
            [join_title(passage.title, passage.text or "") for passage in as_passages(value, column)]
            for value in values
        ]
    except NotTextError as error:
        raise InputError(str(error), "a list needs texts, or objects with a key 'text'") from error


def one_passage_a_row(table: pa.Table, named: Sequence[str]) -> pa.Table:
    """Returns a table whose lists of positives and negatives are spread over rows of single texts.

    A row becomes one for each of its positives with each of its negatives, in columns `positive` and
    `negative`, or as they are called in `named`; `pos_scores` and `neg_scores` become `scores`. Other lists
    are left as they are, and so is a table without lists of positives or negatives.
    """
    positive, negative = _sides(table, named)
    if positive is None and negative is None:
        return table
    positives, negatives = _texts(table, positive), _texts(table, negative)
    scores = list(zip(_lists(table, _POSITIVE_SCORES), _lists(table, _NEGATIVE_SCORES), strict=True))
    places: list[int] = []
    sides: dict[str, list[str | None]] = {"positive": [], "negative": []}
    pairs: list[list[float] | None] = []
    for row in range(table.num_rows):
        for i, first in enumerate(positives[row] or [None]):
            for j, second in enumerate(negatives[row] or [None]):
                places.append(row)
                sides["positive"].append(first)
                sides["negative"].append(second)
                pairs.append(_pair(*scores[row], i, j))
    dropped = {positive, negative, _POSITIVE_SCORES, _NEGATIVE_SCORES}
    found = table.select([n for n in table.column_names if n not in dropped]).take(
        pa.array(places, pa.int64())
    )
    if not {"query", "anchor"} & set(found.column_names):
        found = found.rename_columns(["query" if n == "question" else n for n in found.column_names])
    for side, name in (("positive", positive), ("negative", negative)):
        if name is not None:
            found = found.append_column(name if named else side, pa.array(sides[side], pa.string()))
    if all(pairs) and "scores" not in found.column_names:
        found = found.append_column("scores", pa.array(pairs, pa.list_(pa.float64())))
    return found


def _sides(table: pa.Table, named: Sequence[str]) -> tuple[str | None, str | None]:
    """Returns the columns of positives and of negatives, the second and third named; none without lists."""
    known = [_POSITIVES, _NEGATIVES] if not named else [named[1:2], named[2:3] if len(named) == 3 else ()]
    positive, negative = (next((n for n in names if n in table.column_names), None) for names in known)
    lists = [
        name for name in (positive, negative) if name and pa.types.is_nested(table.schema.field(name).type)
    ]
    return (positive, negative) if lists else (None, None)


def _texts(table: pa.Table, name: str | None) -> list[list[str]]:
    return [[]] * table.num_rows if name is None else passage_lists(table[name].to_pylist(), name)


def _lists(table: pa.Table, name: str) -> list[list[Any]]:
    values = table[name].to_pylist() if name in table.column_names else [None] * table.num_rows
    return [value if isinstance(value, list) else [] for value in values]


def _pair(of_positives: list[Any], of_negatives: list[Any], i: int, j: int) -> list[float] | None:
    """The scores of one positive and one negative, if the row has both."""
    if i >= len(of_positives) or j >= len(of_negatives):
        return None
    return [float(of_positives[i]), float(of_negatives[j])]
