"""Candidates in rows of training data: the texts of positives and negatives, with the scores beside them.

Their ids are those that an ingest of the rows gives them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from miner.collection.given import Candidates
from miner.errors import InputError, counted, shown
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


class _Pair(NamedTuple):
    query_id: str
    doc_id: str
    score: float | None


def candidates_of_rows(tables: Sequence[Table], origin: str, files: Sequence[File]) -> Candidates:
    """Returns the positives and negatives of rows with their scores as candidates.

    The rows of an export without scores have the negatives in the order of their ranks, so the candidates get
    ranks, the positives first. Raises InputError for rows without scores that no export has, and for lists of
    different lengths.
    """
    pairs = [pair for table in tables for pair in _pairs(table)]
    scored = [pair for pair in pairs if pair.score is not None]
    if not scored and pairs and all(table.mined for table in tables):
        return _ranked(pairs, origin, files)
    if not scored:
        raise InputError(
            f"{origin}: the rows have texts, but no scores",
            "candidates need a score in each row; miner ingest reads the texts",
        )
    query_ids, doc_ids = (
        pa.array([pair[at] for pair in scored], pa.string()).dictionary_encode() for at in (0, 1)
    )
    scores = pa.array([pair.score for pair in scored], pa.float64())
    return merged(query_ids, doc_ids, scores, origin, files)


def _ranked(pairs: Sequence[_Pair], origin: str, files: Sequence[File]) -> Candidates:
    """Returns the different pairs, each with its position among those of its query as its rank."""
    ranks: dict[tuple[str, str], int] = {}
    found: dict[str, int] = {}
    for query_id, doc_id, _ in pairs:
        if (query_id, doc_id) not in ranks:
            ranks[query_id, doc_id] = found[query_id] = found.get(query_id, 0) + 1
    query_ids, doc_ids = (pa.array(one, pa.string()).dictionary_encode() for one in zip(*ranks, strict=True))
    table = candidates_table(query_ids, doc_ids, pa.array(ranks.values(), pa.int32()), None)
    return Candidates(origin, table, digest_of(files))


def _pairs(table: Table) -> list[_Pair]:
    """Returns the pairs of a table: all positives first, then the negatives."""
    layout = find_layout(table, SourceConfig())
    several = [*layout.passages, *dict.fromkeys(layout.scores.values())]
    cut = len(layout.passages)
    positives, negatives = list[_Pair](), list[_Pair]()
    for record in table.read(layout.texts, several, [layout.query]):
        if record.problem is not None or is_blank(record.values[0]):
            continue
        query_id = record.values[1] if layout.query_id else content_id("q-", record.values[0] or "")
        found = _ScoredRow(table.origin, record, layout, record.passages[cut:])
        positives += found.pairs(query_id or "", of_positives=True)
        negatives += found.pairs(query_id or "", of_positives=False)
    return positives + negatives


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

    def pairs(self, query_id: str, *, of_positives: bool) -> Iterator[_Pair]:
        """Yields the positives, or the negatives, that have a text."""
        for name, passages in self._found.items():
            if (name == self._layout.positive) == of_positives:
                for passage, score in zip(passages, self._scores_of(name, passages), strict=True):
                    if not is_blank(passage.text):
                        yield _Pair(query_id, passage_id(passage), score)

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
