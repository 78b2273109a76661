"""Contamination: evaluation texts that also occur in the training data, and how to remove them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from miner.arrays import Int64s
from miner.collection.texts import Texts, spooled
from miner.curation.near import WordSets, near_pairs, words
from miner.engine.files import WAIT, locked, require_file, write_whole
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.memory import MemoryLimit
from miner.ranges import ABOVE_0, NGRAM, check_fields, known_keywords, within
from miner.reporting.readable import Readable
from miner.store import contamination as stored
from miner.store.contamination import is_removed, record_contamination
from miner.store.database import Database
from miner.text import fingerprint, normalise

HOW = ("exact", "normalised", "near", "contained")
"""How an evaluation text matches a training text, strongest first: the same text; the same except for case
and white space; nearly the same words; parts of it in one training text. A document matches by its whole text
or by its passage without the title."""


@known_keywords
@dataclass(frozen=True)
class ContaminationConfig:
    """What counts as contamination. Raises UsageError for a value out of range."""

    split: str = "test"
    """Split of the evaluation data."""
    threshold: float = within(0.9, ABOVE_0)
    """Least Jaccard similarity of the words of near copies."""
    ngram: int = within(8, NGRAM)
    """Length of a part, in words."""
    contained: float = within(0.8, ABOVE_0)
    """Least fraction of the parts of an evaluation text that one training text must contain."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Match:
    """An evaluation text and the training text that is most similar to it."""

    role: str
    """`query` or `document`: what the text is in the evaluation data."""
    id: str
    text: str
    how: str
    """One of HOW."""
    similarity: float
    """Jaccard similarity of the words; for `contained` the fraction of the parts."""
    train_role: str
    train_id: str
    train_text: str


@dataclass(frozen=True)
class Removed:
    """What was removed from a store."""

    texts: int
    judgments: int
    stay: int
    """Matching texts that stay because the store uses them in its own evaluation split."""


@dataclass(frozen=True, repr=False)
class ContaminationReport(Readable):
    """What `miner contamination` found."""

    evaluation: dict[str, int]
    """Number of evaluation texts, per role."""
    training: int
    """Number of training texts."""
    matches: tuple[Match, ...]
    """One per evaluation text that occurs in the training data, ordered by role and id."""
    train_ids: dict[str, tuple[str, ...]]
    """Every training text that matches an evaluation text, per role: what `remove` deletes."""
    removed: Removed | None = None
    """What was removed; None if removal was not requested."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns the number of matches per role and HOW."""
        found = {role: dict.fromkeys(HOW, 0) for role in self.evaluation}
        for match in self.matches:
            found[match.role][match.how] += 1
        return found


def contamination(
    store: Database, against: Database, config: ContaminationConfig, progress: Progress = SILENT,
    *, remove: bool = False, out: Path | None = None,
) -> ContaminationReport:  # fmt: skip
    """Finds the evaluation texts of `against` that occur in `store`, and stores the result there.

    `against` may be `store` itself, to compare its splits. `remove` deletes the matching training texts, see
    `remove_matches`. `out` receives one JSON line per match. If the same removal has been done before and no
    text has changed since, both the stored result and `out` stay as they are. Raises UsageError if nothing is
    judged in the split.
    """
    if out is not None:
        require_file(out)
    report = find_contamination(store, against, config, progress)
    check = {"against": against.path.name, "path": fingerprint(str(against.path.resolve())), **asdict(config)}
    with store.transaction():
        if remove:
            removed = remove_matches(store, report, config.split, same=store is against)
            report = replace(report, removed=removed)
            if not removed.texts + removed.judgments and is_removed(store, check):
                listed = out is not None and out.is_file()
                progress.note("removed before, nothing to do" + (f"; {out} is unchanged" if listed else ""))
                if out is not None and not listed:
                    _write(out, report)
                return report
        counts = {"counts": report.counts(), "evaluation": report.evaluation, "removed": remove}
        record_contamination(store, {**check, **counts})
        if out is not None:
            _write(out, report)
    return report


def _write(out: Path, report: ContaminationReport) -> None:
    rows = [json.dumps(asdict(match), ensure_ascii=False) for match in report.matches]
    with locked(out, WAIT):
        write_whole(out, "".join(f"{row}\n" for row in rows))


def find_contamination(
    train: Database, evaluation: Database, config: ContaminationConfig, progress: Progress = SILENT
) -> ContaminationReport:
    """Returns which evaluation texts of a split occur in the texts of another store; writes nothing.

    Within one store it looks for the queries of the split among the queries of the other splits, since
    all splits share the documents. Raises UsageError if nothing is judged in the split.
    """
    with evaluation.snapshot():
        wanted = stored.evaluation_texts(evaluation, config.split)
    texts = None
    if train is evaluation:
        wanted = wanted.filter(pa.array([role == "query" for role in wanted["role"].to_pylist()]))
        known = stored.queries_elsewhere(train, config.split)
        if not known.num_rows:
            raise UsageError(
                f"{train.path} has no queries outside split '{config.split}'",
                "name another store with the evaluation data",
            )
    else:
        known = stored.all_keys(train)
        whole = np.cumsum(known["start"].to_numpy() == 0) - 1
        texts = spooled(stored.all_texts(train), train.path.parent).chosen(whole)
    return compare_texts(wanted, known, config, progress, texts)


_Found = tuple[str, int, int, float]
"""A match: HOW, the evaluation row, the training row and the similarity."""


def compare_texts(
    evaluation: pa.Table,
    train: pa.Table,
    config: ContaminationConfig,
    progress: Progress = SILENT,
    texts: Texts | None = None,
) -> ContaminationReport:
    """Returns which evaluation texts occur in the training texts.

    Both tables have the columns of `stored.all_keys`, and text unless `texts` are those of `train`.
    """
    own, training = _Texts.of(evaluation), _Texts.of(train, texts)
    best: dict[int, tuple[int, float, int]] = {}
    matched: set[int] = set()
    for how, row, train_row, similarity in _matches(own, training, config, progress):
        row, train_row = int(own.owner[row]), int(training.owner[train_row])
        matched.add(train_row)
        found = HOW.index(how), -similarity, train_row
        best[row] = min(best.get(row, found), found)
    matches = tuple(
        Match(*own.facts(row), HOW[how], -negated, *training.facts(train_row))
        for row, (how, negated, train_row) in sorted(best.items())
    )
    evaluated = own.roles(np.unique(own.owner))
    rows = np.array(sorted(matched), dtype=np.int64)
    named = list(
        zip(training.roles(rows), training.table["id"].take(pa.array(rows)).to_pylist(), strict=True)
    )
    ids = {role: tuple(one for of, one in named if of == role) for role in ("query", "document")}
    counts = {role: evaluated.count(role) for role in dict.fromkeys(evaluated)}
    return ContaminationReport(counts, len(np.unique(training.owner)), matches, ids)


@dataclass(frozen=True)
class _Texts:
    """Texts by row; a document's passage without its title has a row of its own."""

    table: pa.Table
    """role, id, text_key (that of the compared text), start."""
    texts: Texts
    owner: Int64s
    """Row of the whole text."""

    @classmethod
    def of(cls, table: pa.Table, texts: Texts | None = None) -> _Texts:
        """Returns the rows of a table that `stored.all_keys` describes, with its column text or `texts`."""
        owner = np.arange(len(table)) - (table["start"].to_numpy() > 0)
        return cls(table, texts or Texts(table["text"].combine_chunks()), owner)

    @property
    def key(self) -> Int64s:
        """The key of each compared text."""
        return np.asarray(self.table["text_key"].to_numpy(), dtype=np.int64)

    def roles(self, rows: Int64s) -> list[str]:
        """Returns the roles of rows."""
        roles: list[str] = self.table["role"].take(pa.array(rows)).to_pylist()
        return roles

    def facts(self, row: int) -> tuple[str, str, str]:
        """Returns the role, the id and the text of a row."""
        text: str = self.texts.of(np.array([row]))[0].as_py()
        return self.table["role"][row].as_py(), self.table["id"][row].as_py(), text

    def compared(self, rows: Int64s | None = None) -> Iterator[str]:
        """Yields the text, or its passage, of all rows or of some."""
        starts = self.table["start"].to_numpy()
        wanted = np.arange(len(starts)) if rows is None else rows
        block = self.texts.block(MemoryLimit.of())
        for first in range(0, len(wanted), block):
            some = wanted[first : first + block]
            pairs = zip(self.texts.of(some).to_pylist(), starts[some].tolist(), strict=True)
            yield from (text[start:] for text, start in pairs)


def _matches(
    own: _Texts, training: _Texts, config: ContaminationConfig, progress: Progress
) -> Iterator[_Found]:
    """Yields all matches; a pair may come several times."""
    wanted = list(own.compared())
    yield from _of_equal_keys(own.key, training, wanted)
    near = near_pairs(WordSets(training.compared()), config.threshold, progress, WordSets(wanted))
    pairs = zip(near.right.tolist(), near.left.tolist(), near.similarity.tolist(), strict=True)
    for row, train_row, similarity in pairs:
        yield "near", row, train_row, similarity
    whole = np.flatnonzero(training.owner == np.arange(len(training.owner)))
    for row, number, share in _contained(wanted, len(whole), training.compared(whole), config, progress):
        yield "contained", row, int(whole[number]), share


def _of_equal_keys(
    keys: Int64s, training: _Texts, wanted: Sequence[str]
) -> Iterator[tuple[str, int, int, float]]:
    """Yields the matches of equal text keys, as `_matches` does."""
    order = np.argsort(training.key, kind="stable")
    known = training.key[order]
    first, last = (np.searchsorted(known, keys, side=side) for side in ("left", "right"))
    for row in np.flatnonzero(first < last).tolist():
        rows = order[first[row] : last[row]]
        for train_row, text in zip(rows.tolist(), training.compared(rows), strict=True):
            yield "exact" if wanted[row] == text else "normalised", row, train_row, 1.0


def _contained(
    wanted: Sequence[str], size: int, known: Iterable[str], config: ContaminationConfig, progress: Progress
) -> Iterator[tuple[int, int, float]]:
    """Yields the evaluation texts whose parts one training text contains, that text, and the share of parts.

    `size` is the number of training texts. Texts shorter than `ngram` words have no parts.
    """
    parts = [_parts(text, config.ngram) for text in wanted]
    owners: dict[str, list[int]] = {}
    for row, own in enumerate(parts):
        for part in own:
            owners.setdefault(part, []).append(row)
    with progress.task("looking for parts", size, unit="texts") as advance:
        for train_row, text in enumerate(known):
            shared: dict[int, int] = {}
            for part in _parts(text, config.ngram):
                for row in owners.get(part, ()):
                    shared[row] = shared.get(row, 0) + 1
            for row, number in shared.items():
                if number >= config.contained * len(parts[row]):
                    yield row, train_row, number / len(parts[row])
            advance(1)


def _parts(text: str, size: int) -> frozenset[str]:
    found = words(normalise(text))
    return frozenset(" ".join(found[start : start + size]) for start in range(len(found) - size + 1))


def remove_matches(train: Database, report: ContaminationReport, split: str, same: bool = False) -> Removed:
    """Removes the matching training texts and their judgments from a store, within a transaction.

    Texts that the store uses in its own `split` stay; only their judgments in other splits are removed.
    If the evaluation data are in the `same` store, only judgments in other splits are removed.
    """
    queries, documents = set(report.train_ids["query"]), set(report.train_ids["document"])
    if same:
        judgments = stored.remove_judgments_elsewhere(train, sorted(queries), [], split)
        return Removed(0, judgments, 0)
    used = stored.used_in(train, split)
    kept_queries, kept_documents = queries & used["query"], documents & used["document"]
    gone = stored.remove_judgments_elsewhere(train, sorted(kept_queries), sorted(kept_documents), split)
    queries, documents = queries - kept_queries, documents - kept_documents
    gone += stored.remove_texts(train, sorted(queries), sorted(documents))
    return Removed(len(queries) + len(documents), gone, len(kept_queries) + len(kept_documents))
