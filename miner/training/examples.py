"""Rows to train an encoder on: their texts and labels, checked for what the loss can use."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, isnan
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from miner.errors import InputError, UsageError, listed, near, shown
from miner.ranges import LABEL_MAX, check_fields, known_keywords, within
from miner.sources.config import SKIPPED
from miner.sources.grades import is_grade, is_id
from miner.sources.values import as_number, is_blank
from miner.text import is_sentence
from miner.training.encoder_config import LOSSES, Loss
from miner.training.training_files import SCORES, one_passage_a_row, read_rows

LABELS = ("label", "labels", "score", "scores")
"""The columns that sentence-transformers uses as the target; all others are texts, in order."""
_EXPORTED = "anchor"
"""The column that marks an export."""
_ANCHORS = (_EXPORTED, "query")
_POSITIVE = "positive"
_NEGATIVE = re.compile(r"negative[_-]?(\d*)")
_ID = re.compile(r"(.*[_-])?(q|d|p|s|doc|query|pair)?(id|ids|idx|index)", re.IGNORECASE)
_LONG_NAME = 40
_ROWS_LOOKED_AT = 10_000
_MOST_CLASSES = 12


@known_keywords
@dataclass(frozen=True)
class Columns:
    """The columns to train on, and the meaning of their labels."""

    texts: tuple[str, ...] = ()
    """In order: anchor, positive, negatives. None named: what `text_columns` returns. Without a header, all
    columns of the file in order: all but the label and SKIPPED are texts."""
    label: str | None = None
    """None: the first column named label, labels, score or scores."""
    positive_label: str | None = None
    """For labels that are classes: this class is 1, every other is 0."""
    most: float = within(1.0, LABEL_MAX)
    """For labels that are numbers: the number that they are divided by."""
    header: bool = True
    """Whether the first line of a .tsv or .csv file has the names of the columns."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.header and not self.texts:
            raise UsageError(
                "--no-header needs the names of the columns",
                f"name all of them in order with --columns, such as query,positive; {SKIPPED} skips one",
            )
        twice = next((name for name in self.named if self.named.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"column '{twice}' is named twice", "name every column of text once")

    @property
    def named(self) -> tuple[str, ...]:
        """The columns that are named as texts, in order; none if they are to be found by their names."""
        if self.header:
            return self.texts
        label = self.label or next((name for name in LABELS if name in self.texts), None)
        return tuple(name for name in self.texts if name not in (label, SKIPPED))


@dataclass(frozen=True)
class Examples:
    """Rows of texts with the target of the loss."""

    texts: Mapping[str, Sequence[str]]
    """Columns of one length, in order: anchor, positive, negatives; or the two texts of a pair."""
    target: Sequence[Any] | None = None
    """Per row a number, the number of a class, or the scores of the positive and the negatives."""
    classes: tuple[str, ...] = ()
    """The names of the classes by number."""
    origin: str = ""
    unread: tuple[str, ...] = ()
    """The columns that are not read."""
    unread_splits: tuple[str, ...] = ()
    """The splits of a `datasets` folder that are not read."""
    without_text: int = 0
    """The number of rows that are left out because a text is empty."""
    without_label: int = 0
    """The number of further rows that are left out because the loss needs a label and they have none."""

    def __len__(self) -> int:
        return len(next(iter(self.texts.values()), ()))

    def take(self, rows: Sequence[int]) -> Examples:
        """Returns these rows, in this order."""
        texts = {name: [column[row] for row in rows] for name, column in self.texts.items()}
        return replace(self, texts=texts, target=self.target and [self.target[row] for row in rows])

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """Returns the rows of several examples of the same columns, one after another."""
        texts = {name: [text for part in parts for text in part.texts[name]] for name in parts[0].texts}
        target = None if parts[0].target is None else [value for part in parts for value in part.target or ()]
        return replace(parts[0], texts=texts, target=target)

    @property
    def fingerprint(self) -> str:
        """A hash of all rows in their order."""
        digest = hashlib.sha256()
        for column in self.texts.values():
            for text in column:
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
            digest.update(b"\1")
        digest.update(json.dumps([list(self.target or ()), self.classes]).encode())
        return digest.hexdigest()


def read_examples(source: str, loss: str, columns: Columns | None = None) -> Examples:
    """Reads rows for a loss from a table, a `datasets` folder, or a folder that `miner export` wrote.

    Rows with an empty text are left out and counted, and so are rows without a label if the loss needs one.
    Raises InputError for data that cannot be read or lacks a column, UsageError for rows that the loss cannot
    use.
    """
    columns = columns or Columns()
    table, splits = read_rows(source, None if columns.header else columns.texts)
    return replace(examples_of(table, source, loss, columns), unread_splits=splits)


def examples_of(table: pa.Table, origin: str, loss: str, columns: Columns | None = None) -> Examples:
    """Returns the rows of a table for a loss; raises the errors of `read_examples`."""
    columns, needs = columns or Columns(), LOSSES[loss]
    table = one_passage_a_row(table, columns.named, origin)
    label = _label_column(table, origin, columns)
    names = columns.named or text_columns(_candidates(table, label), origin)
    _require_columns(table, origin, names)
    _require_shape(origin, loss, needs, names, label)
    _require_texts(table, origin, loss, needs, names)
    if not columns.named and needs.label not in ("number", "class"):
        _require_roles(origin, needs, names)
    if columns.positive_label is not None and not needs.label:
        table = _of_class(table, origin, label, columns.positive_label)
    elif label is not None and not columns.named:
        _require_no_label(table, origin, loss, needs, label)
    texts = {name: table[name].cast(pa.string()).to_pylist() for name in names}
    filled = [i for i, row in enumerate(zip(*texts.values(), strict=True)) if not any(map(is_blank, row))]
    values = table[label].to_pylist() if label and needs.label else None
    rows = filled if values is None else [i for i in filled if not _is_missing(values[i])]
    if not rows:
        labelled = "" if values is None else f", and a label in column '{label}'"
        raise InputError(f"{origin}: no rows to train on", f"every row needs text in each column{labelled}")
    target, classes = (
        _target({i + 1: values[i] for i in rows}, origin, needs, columns, len(names) - 1)
        if values
        else (None, ())
    )
    kept = {name: [column[i] for i in rows] for name, column in texts.items()}
    used = {*names, label} if needs.label or columns.positive_label else set(names)
    unread = tuple(name for name in table.column_names if name not in used)
    left_out = {"without_text": table.num_rows - len(filled), "without_label": len(filled) - len(rows)}
    return Examples(kept, target, classes, origin, unread, **left_out)


def _candidates(table: pa.Table, label: str | None) -> list[str]:
    """The columns that may be texts: no labels, and no lists if two columns are left without them."""
    names = [name for name in table.column_names if name not in (*LABELS, *SCORES) and name != label]
    single = [name for name in names if not pa.types.is_nested(table.schema.field(name).type)]
    return single if len([name for name in single if not _ID.fullmatch(name)]) > 1 else names


def _prose_among(names: Sequence[str]) -> str | None:
    """A name that looks like a text: a sentence, or three words if no name of the table is a known one."""
    known = any(
        name in (*_ANCHORS, _POSITIVE, *LABELS, *SCORES) or _NEGATIVE.fullmatch(name) for name in names
    )
    return next(
        (
            name
            for name in names
            if is_sentence(name)
            or (len(name) > _LONG_NAME and " " in name.strip())
            or (not known and len(name.split()) > 2)
        ),
        None,
    )


def text_columns(names: Sequence[str], origin: str) -> tuple[str, ...]:
    """Returns the columns to train on, in order: anchor, positive, negatives.

    Columns with these names (or query for anchor) are used at any position, and then no others. Without a
    column named positive, all columns but ids are used in the order of the table, negatives last. Raises
    InputError if the first row looks like texts, UsageError if no column or several columns may be the
    anchor.
    """
    prose = _prose_among(names)
    if prose is not None:
        raise InputError(
            f"{origin}: its first row looks like texts, not like names of columns: "
            f"'{shown(prose, _LONG_NAME + 1)}'",
            "name the columns with --no-header --columns, such as anchor,positive,negative; if these are "
            "names, name those to train on with --columns",
        )
    texts = [name for name in names if not _ID.fullmatch(name)]
    anchors = [name for name in texts if name in _ANCHORS]
    negatives = sorted((name for name in texts if _NEGATIVE.fullmatch(name)), key=_number_of)
    if _POSITIVE not in texts:
        first = anchors[:1]
        return (*first, *(name for name in texts if name not in (*first, *negatives)), *negatives)
    anchors = anchors or [name for name in texts if name != _POSITIVE and name not in negatives]
    if len(anchors) != 1:
        which = f"columns {listed(anchors, ' and ')} may both be" if anchors else "no column is"
        raise UsageError(
            f"{origin}: {which} the anchor",
            "name the columns of text in order with --columns, such as query,positive,negative",
        )
    return (*anchors, _POSITIVE, *negatives)


def _number_of(negative: str) -> int:
    match = _NEGATIVE.fullmatch(negative)
    return int(match[1]) if match and match[1] else 0


def _is_missing(label: Any) -> bool:
    """Whether a row has no label: null, blank, or the NaN that pandas writes for a missing one."""
    if isinstance(label, float):
        return isnan(label)
    return label is None or (isinstance(label, str) and is_blank(label))


def _known(labels: Iterable[Any]) -> list[str]:
    """The labels that occur, sorted as text."""
    return sorted({str(label) for label in labels if not _is_missing(label)})


def _of_class(table: pa.Table, origin: str, label: str | None, wanted: str) -> pa.Table:
    """The rows of one class."""
    if label is None:
        raise UsageError(
            f"{origin} has no labels to find '{shown(wanted)}' in", "name them with --label-column"
        )
    labels = table[label].cast(pa.string())
    kept = table.filter(pc.equal(labels, wanted))
    if kept.num_rows == 0:
        raise _no_class(origin, wanted, labels.to_pylist())
    return kept


def _no_class(origin: str, wanted: str, labels: Iterable[Any]) -> UsageError:
    known = _known(labels)
    return UsageError(
        f"{origin}: no row is labelled '{shown(wanted)}'{near(wanted, known)}",
        f"its labels: {listed(known) or 'none'}",
    )


def _label_column(table: pa.Table, origin: str, columns: Columns) -> str | None:
    """The column of labels: the named one, else one of LABELS, else one with a name that labels have."""
    if columns.label is not None:
        _require_columns(table, origin, (columns.label,))
        return columns.label
    known = next((name for name in LABELS if name in table.column_names), None)
    if known is not None or any(_NEGATIVE.fullmatch(name) for name in table.column_names):
        return known
    return next((name for name in table.column_names if _is_grade(table, name, columns.named)), None)


def _is_grade(table: pa.Table, name: str, texts: Sequence[str]) -> bool:
    """Whether a column that is not named as a text holds labels of pairs, such as is_duplicate."""
    if name in texts or not is_grade(name) or pa.types.is_nested(table.schema.field(name).type):
        return False
    known = _known(table[name].slice(0, _ROWS_LOOKED_AT).to_pylist())
    few = len(known) <= _MOST_CLASSES
    if all(as_number(value) is not None for value in known):
        return few or not is_id(name)
    return few and all(len(value) <= _LONG_NAME for value in known)


def _require_columns(table: pa.Table, origin: str, names: Sequence[str]) -> None:
    for name in names:
        if name not in table.column_names:
            raise InputError(
                f"{origin}: no column '{shown(name)}'{near(name, table.column_names)}",
                f"its columns: {listed(table.column_names)}; name yours with --columns and --label-column",
            )


def _require_shape(origin: str, loss: str, needs: Loss, names: Sequence[str], label: str | None) -> None:
    least, most = needs.texts
    if not least <= len(names) <= most:
        wanted = str(least) if least == most else f"{least} or more" if most > 3 else f"{least} to {most}"
        raise UsageError(
            f"loss {loss} takes {wanted} columns of text, {origin} has {len(names)}: {listed(names)}",
            _hint(needs, names, "name the columns of text in order with --columns"),
        )
    if needs.label and label is None:
        raise UsageError(
            f"loss {loss} needs a {needs.label if needs.label != 'scores' else 'list of scores'} "
            f"with every row, {origin} has none",
            _hint(needs, names, "name the column of labels with --label-column"),
        )


def _hint(needs: Loss, names: Sequence[str], other: str) -> str:
    """The hint for rows that the loss cannot use; for an export, to export it again comes first."""
    hints = [f"export as {' or '.join(needs.formats)}", other]
    return ", or ".join(hints if _EXPORTED in names else hints[::-1])


def _require_roles(origin: str, needs: Loss, names: Sequence[str]) -> None:
    """Raises UsageError for a third column without a name that says that it is a negative."""
    others = [name for name in names if not _NEGATIVE.fullmatch(name)]
    if _POSITIVE in names or len(others) == 2:
        return
    order = others[: needs.texts[0]] if len(others) > 2 else (_ANCHORS[1], _POSITIVE, "negative")
    raise UsageError(
        f"{origin}: none of its columns is named positive: {listed(names)}",
        f"name the columns of text in order with --columns, such as {','.join(order)}",
    )


def _require_texts(table: pa.Table, origin: str, loss: str, needs: Loss, names: Sequence[str]) -> None:
    for name in names:
        if pa.types.is_nested(table.schema.field(name).type):
            raise UsageError(
                f"{origin}: column '{shown(name)}' holds lists, loss {loss} takes texts",
                f"export as {' or '.join(needs.formats)}",
            )


def _require_no_label(table: pa.Table, origin: str, loss: str, needs: Loss, label: str) -> None:
    """Raises UsageError for labels that the loss ignores: it would train on every row as a positive."""
    if needs.label or pa.types.is_nested(table.schema.field(label).type):
        return
    exported = _EXPORTED in table.column_names
    every = "name the columns of text with --columns"
    known = _known(table[label].to_pylist())
    hint = f"train on the rows of one class with --set positive_label=CLASS, one of {listed(known)}"
    if known and all(as_number(value) is not None for value in known):
        most = max(float(as_number(value) or 0) for value in known)
        hint = "train on the numbers with --loss cosine" + (f" --set label_max={most:g}" if most > 1 else "")
    raise UsageError(
        f"loss {loss} treats every row as a positive, but {origin} has labels in column '{shown(label)}'",
        _hint(needs, table.column_names, every)
        if exported or not known
        else f"{hint}; or, for every row, {every}",
    )


def _target(
    labels: Mapping[int, Any], origin: str, needs: Loss, columns: Columns, documents: int
) -> tuple[Sequence[Any] | None, tuple[str, ...]]:
    """The target of the loss, from labels by row number, and the names of the classes."""
    values = labels.values()
    if needs.label == "class" and columns.positive_label is None:
        classes = tuple(sorted({str(value) for value in values}))
        if len(classes) < 2:
            raise UsageError(
                f"{origin}: all rows are of class '{shown(classes[0])}', a classifier needs two",
                "add rows of another class, or use a loss that needs none, such as mnr",
            )
        return [classes.index(str(value)) for value in values], classes
    if columns.positive_label is not None:
        flags = [float(str(value) == columns.positive_label) for value in values]
        if not any(flags):
            raise _no_class(origin, columns.positive_label, values)
        named = ("other", columns.positive_label) if needs.label == "class" else ()
        return ([int(flag) for flag in flags], named) if needs.label == "class" else (flags, ())
    if needs.label == "scores":
        return _score_lists(labels, origin, documents), ()
    return _numbers(labels, origin, columns.most), ()


def _score_lists(labels: Mapping[int, Any], origin: str, documents: int) -> list[list[float]]:
    lists = [_list(value) for value in labels.values()]
    for row, scores in zip(labels, lists, strict=True):
        if len(scores) != documents or not all(
            isinstance(number, int | float) and isfinite(number) for number in scores
        ):
            raise UsageError(
                f"{origin}: row {row} has no list of {documents} scores, the positive's and its negatives'",
                "export with --scores",
            )
    return [[float(number) for number in scores] for scores in lists]


def _list(value: Any) -> list[Any]:
    """The list that a value is, or that its JSON text is; otherwise an empty list."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return []
    return parsed if isinstance(parsed, list) else []


def _numbers(labels: Mapping[int, Any], origin: str, most: float) -> list[float]:
    numbers = []
    for row, value in labels.items():
        number = as_number(str(value))
        if number is None:
            raise InputError(
                f"{origin}: row {row} is labelled '{shown(value)}', not with a number",
                "for classes: --set positive_label=CLASS, or --loss softmax",
            )
        numbers.append(number / most)
    if min(numbers) < -1 or max(numbers) > 1:
        raise UsageError(
            f"{origin}: labels go from {min(numbers):g} to {max(numbers):g}, but a cosine from -1 to 1",
            "divide them by their largest with --set label_max=NUMBER, such as 5 for STS",
        )
    if len(numbers) > 1 and min(numbers) == max(numbers):
        raise UsageError(
            f"{origin}: every row is labelled {min(numbers):g}: one vector for all texts would be perfect",
            "add pairs that are less alike, or use --loss mnr",
        )
    return numbers
