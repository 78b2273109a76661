"""Candidates in rows of training data: the texts of positives and negatives, with the scores beside them.

Their ids are those that an ingest of the rows gives them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import pair_keys
from miner.collection.given import ID, Candidates
from miner.errors import InputError, counted, listed, shown
from miner.sources.columns import candidates_table, digest_of
from miner.sources.config import SourceConfig
from miner.sources.files import File, lines
from miner.sources.layouts import Layout, find_layout
from miner.sources.scored_sets import merged
from miner.sources.table import Record, Table
from miner.sources.tabular import open_table, passage_id
from miner.sources.training_rows import NotFittingError, has_score, passages_of, shape_of
from miner.sources.values import Passage, as_number, is_blank, parse_json
from miner.text import content_id


def has_passages(file: File) -> bool:
    """Returns whether the rows of a file have texts of positives, by the first of them."""
    first = None
    if file.suffix not in (".parquet", ".csv", ".tsv"):
        first = next((line for line in lines(file) if line.text.strip()), None)
    if first is not None and first.text.lstrip().startswith("{"):
        names = list(parse_json(first.text, file.origin, first.number, json.JSONDecoder()))
    else:
        names = list(open_table(file).columns)
    return shape_of(names) is not None or {"query", "positive"} <= set(names)


_LEFT = {
    "row without a query or with a fault": "rows without a query or with a fault",
    "passage without a text": "passages without a text",
    "passage without a score": "passages without a score",
}
"""What is left out, for one and for several."""
_PIECE = 1 << 16
"""How many pairs are Python objects at once."""
_PAIRS = pa.schema([("query", ID), ("document", ID), ("score", pa.float64())])


class _PairColumns:
    """Collects pairs of ids with their scores, as columns."""

    def __init__(self) -> None:
        self._waiting = list[tuple[str, str, float | None]]()
        self._tables = [_PAIRS.empty_table()]

    def add(self, pairs: Iterable[tuple[str, str, float | None]]) -> None:
        """Adds a query, a document and perhaps a score."""
        self._waiting += pairs
        if len(self._waiting) >= _PIECE:
            self._tables = self.tables()

    def tables(self) -> list[pa.Table]:
        """Returns the pairs so far, in their order."""
        if self._waiting:
            columns = zip(*self._waiting, strict=True)
            arrays = [pa.array(found, field.type) for found, field in zip(columns, _PAIRS, strict=True)]
            self._tables.append(pa.Table.from_arrays(arrays, schema=_PAIRS))
            self._waiting = []
        return self._tables


def candidates_of_rows(tables: Sequence[Table], origin: str, files: Sequence[File]) -> Candidates:
    """Returns the positives and negatives of rows with their scores as candidates.

    The rows of an export without scores have the negatives in the order of their ranks, so the candidates get
    ranks, the positives first. Raises InputError for rows without scores that no export has, and for lists of
    different lengths.
    """
    left = Counter[str]()
    pairs = pa.concat_tables([part for table in tables for part in _pairs(table, left)]).unify_dictionaries()
    scored = pairs.filter(pairs["score"].is_valid())
    if not scored.num_rows and pairs.num_rows and all(table.mined for table in tables):
        return _noted(_ranked(pairs, origin, files), left)
    if not scored.num_rows:
        raise InputError(
            f"{origin}: the rows have texts, but no scores",
            "candidates need a score in each row; miner ingest reads the texts",
        )
    left["passage without a score"] = len(np.setdiff1d(_keys(pairs), _keys(scored)))
    return _noted(merged(*_arrays(scored), origin, files), left)


def _keys(pairs: pa.Table) -> npt.NDArray[np.int64]:
    """Returns the `pair_keys` of a table."""
    query, doc, _ = _arrays(pairs)
    return pair_keys(query.indices.to_numpy(), doc.indices.to_numpy())


def _noted(found: Candidates, left: Counter[str]) -> Candidates:
    """Returns the candidates with a note on what was left out."""
    parts = [counted(left[one], one, many) for one, many in _LEFT.items() if left[one]]
    notes = [found.note, f"{found.origin}: left out: {listed(parts)}" if parts else ""]
    return replace(found, note="; ".join(filter(None, notes)))


def _arrays(pairs: pa.Table) -> tuple[pa.DictionaryArray, pa.DictionaryArray, pa.Array]:
    query, doc, score = (pa.concat_arrays(column.chunks) for column in pairs.columns)
    return query, doc, score


def _ranked(pairs: pa.Table, origin: str, files: Sequence[File]) -> Candidates:
    """Returns the different pairs, each with its position among those of its query as its rank."""
    query, doc, _ = _arrays(pairs)
    codes = query.indices.to_numpy()
    _, first = np.unique(pair_keys(codes, doc.indices.to_numpy()), return_index=True)
    rows = np.sort(first)
    by_query = np.argsort(codes[rows], kind="stable")
    of_query = codes[rows][by_query]
    starts = np.flatnonzero(np.diff(of_query, prepend=-1))
    ranks = np.empty(len(rows), dtype=np.int32)
    ranks[by_query] = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows))) + 1
    taken = pa.array(rows)
    table = candidates_table(query.take(taken), doc.take(taken), pa.array(ranks), None)
    return Candidates(origin, table, digest_of(files))


def _pairs(table: Table, left: Counter[str]) -> list[pa.Table]:
    """Returns the pairs of a table, all positives before the negatives; counts what it leaves out."""
    layout = find_layout(table, SourceConfig())
    several = [*layout.passages, *dict.fromkeys(layout.scores.values())]
    cut = len(layout.passages)
    positives, negatives = _PairColumns(), _PairColumns()
    for record in table.read(layout.texts, several):
        if record.problem is not None or is_blank(record.values[0]):
            left["row without a query or with a fault"] += 1
            continue
        query_id = record.values[1] if layout.query_id else content_id("q-", record.values[0] or "")
        found = _ScoredRow(table.origin, record, layout, record.passages[cut:])
        positives.add(found.pairs(query_id or "", of_positives=True))
        negatives.add(found.pairs(query_id or "", of_positives=False))
        left["passage without a text"] += found.blanks
    return [*positives.tables(), *negatives.tables()]


class _ScoredRow:
    """One row with its passages and their scores."""

    def __init__(
        self, origin: str, record: Record, layout: Layout, scores: Sequence[Sequence[Passage]]
    ) -> None:
        self._where, self._layout = f"{origin}:{record.line}", layout
        try:
            found = passages_of(record._replace(passages=record.passages[: len(layout.passages)]), layout)
        except NotFittingError as error:
            raise InputError(f"{self._where}: {error.args[1]}", "correct the row") from error
        self._found = {layout.positive: found.positives, **dict(found.negatives)}
        self._scores = dict(zip(dict.fromkeys(layout.scores.values()), scores, strict=True))

    @property
    def blanks(self) -> int:
        """How many passages have no text."""
        return sum(is_blank(passage.text) for passages in self._found.values() for passage in passages)

    def pairs(self, query_id: str, *, of_positives: bool) -> Iterator[tuple[str, str, float | None]]:
        """Yields the positives, or the negatives, that have a text: query, document and score."""
        for name, passages in self._found.items():
            if (name == self._layout.positive) == of_positives:
                for passage, score in zip(passages, self._scores_of(name, passages), strict=True):
                    if not is_blank(passage.text):
                        yield query_id, passage_id(passage), score

    def _scores_of(self, name: str, passages: Sequence[Passage]) -> Sequence[float | None]:
        layout = self._layout
        if (column := layout.scores.get(name)) is not None:
            scores = self._scores[column]
        elif (column := layout.scores.get("")) is not None:
            every = [found for found in self._found.values() for _ in found]
            self._require_as_many(len(every), "", column, len(self._scores[column]))
            before = sum(len(found) for one, found in self._found.items() if one in self._before(name))
            scores = self._scores[column][before : before + len(passages)]
        else:
            return [as_number(passage.score) if has_score(passage) else None for passage in passages]
        self._require_as_many(len(passages), name, column, len(scores))
        return [self._number(column, score) for score in scores]

    def _before(self, name: str) -> tuple[str, ...]:
        names = tuple(self._found)
        return names[: names.index(name)]

    def _number(self, column: str, score: Passage) -> float:
        value = as_number(score.text)
        if value is None:
            raise InputError(
                f"{self._where}: '{column}' has {shown(score.text)}, not a finite number",
                "write a finite number for each passage",
            )
        return value

    def _require_as_many(self, passages: int, name: str, column: str, scores: int) -> None:
        if passages != scores:
            inside = f" in '{name}'" if name else ""
            raise InputError(
                f"{self._where}: {counted(passages, 'passage')}{inside}, but {counted(scores, 'score')} in "
                f"'{column}'",
                "give every passage a score",
            )
