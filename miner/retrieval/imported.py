"""Candidates that another tool found, as a retriever: a run, or mined negatives with scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from miner.arrays import number_within, pair_keys, positions
from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.collection.given import Candidates
from miner.engine.progress import SILENT, Progress
from miner.errors import InputError, counted, listed, near

_CODE = 1
_NEAR = 20_000
"""Ids of the store among which a message looks for one that resembles an unknown id."""
_EXAMPLES = 3


class Imported:
    """Retrieves the candidates of a file, and scores the pairs that the file has.

    The score of a pair is the file's; in a file of ranks alone it is the negated rank, so that a higher score
    is better: rules can compare it with that of a positive in the file, but its differences mean little.
    """

    kind = "imported"
    proposes = True
    in_workers = False

    def __init__(
        self,
        collection: Collection,
        candidates: Candidates,
        *,
        name: str,
        progress: Progress = SILENT,
    ) -> None:
        self.name = name
        self._origin, self._digest = candidates.origin, candidates.digest
        self._queries = collection.queries.num_rows
        if candidates.note:
            progress.note(candidates.note)
        query, doc, score, rank = _known(collection, candidates, progress)
        order = np.lexsort((doc, -score, query))
        self._query, self._doc, self._score = query[order], doc[order], score[order]
        self._rank = number_within(self._query).astype(np.int32)
        if candidates.has_scores:
            _note_contradictions(self._origin, self._query, self._score, rank[order], progress)
        self.longest = int(self._rank.max(initial=0))
        """The most candidates of one query."""
        keys = pair_keys(self._query, self._doc)
        self._by_pair = np.argsort(keys)
        self._keys = keys[self._by_pair]

    def inputs(self) -> dict[str, Any]:
        """Returns everything that its hits depend on, except the texts and the depth."""
        return {"candidates": self._digest, "code": _CODE}

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the `depth` candidates of each query with the highest scores; ties by doc_id."""
        start, stop = np.searchsorted(self._query, [queries.start, queries.stop])
        rows = start + np.flatnonzero(self._rank[start:stop] <= depth)
        return Hits(self._query[rows], self._doc[rows], self._rank[rows], self._score[rows])

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the score of each pair of positions; NaN for a pair that the file does not have."""
        if not len(self._keys):
            return np.full(len(query), np.nan)
        wanted = pair_keys(query, doc)
        found = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[found] == wanted, self._score[self._by_pair[found]], np.nan)


@dataclass(frozen=True)
class _Side:
    """The queries or the documents of candidates, by position in the collection."""

    positions: Ints
    """The position of each candidate's query or document; -1 for an unknown id."""
    unknown: list[str]
    """The ids that the collection does not have."""
    known: int
    """Number of ids that it has."""

    @classmethod
    def of(cls, column: pa.ChunkedArray, collected: pa.Array) -> _Side:
        """Returns a column of ids by position."""
        ids = pa.concat_arrays(column.chunks)
        found = positions(pa.chunked_array([ids.dictionary]), collected)
        codes = ids.indices.to_numpy()
        used = np.zeros(len(found), dtype=np.bool_)
        used[codes] = True
        unknown = ids.dictionary.take(pa.array(np.flatnonzero(used & (found < 0)))).to_pylist()
        return cls(found[codes], unknown, int(used.sum()) - len(unknown))


def _known(
    collection: Collection, candidates: Candidates, progress: Progress
) -> tuple[Ints, Ints, Floats, Ints]:
    """Returns query, document, score and rank (0 for none) of the candidates that the collection has.

    Reports the others. Raises InputError if it has none.
    """
    table, origin, split = candidates.table, candidates.origin, _queries_of(collection)
    queries = _Side.of(table["query_id"], collection.query_ids)
    documents = _Side.of(table["doc_id"], collection.doc_ids)
    known = np.flatnonzero((queries.positions >= 0) & (documents.positions >= 0))
    if not len(known):
        raise _no_overlap(collection, origin, queries, documents)
    lost = []
    if queries.unknown:
        lost.append(f"{_few(queries.unknown, 'query', 'queries')} not among the {split}")
    if documents.unknown:
        lost.append(f"{_few(documents.unknown, 'document')} not in the store")
    if lost:
        left_out = counted(table.num_rows - len(known), "candidate")
        progress.note(f"{origin}: {left_out} left out: {'; '.join(lost)}")
    query = queries.positions[known]
    without = collection.queries.num_rows - len(np.unique(query))
    if without:
        number, has = collection.queries.num_rows, "has" if without == 1 else "have"
        progress.note(f"{origin}: {without:,} of {number:,} {split} {has} no candidates")
    rank = table["rank"].combine_chunks().fill_null(0).to_numpy()[known]
    score = table["score"].to_numpy()[known] if candidates.has_scores else -rank.astype(np.float64)
    return query, documents.positions[known], score, rank


def _queries_of(collection: Collection) -> str:
    """Returns which queries the collection has: those of a split, or a sample of them."""
    is_sample = "/" in collection.hashes.get("queries", "")
    return f"queries of {'this run, a sample of ' if is_sample else ''}split {collection.split}"


def _few(ids: list[str], one: str, many: str = "") -> str:
    """Returns the number of ids, and some of them, with the verb."""
    return (
        f"{counted(len(ids), one, many)} ({listed(ids, most=_EXAMPLES)}) {'is' if len(ids) == 1 else 'are'}"
    )


def _no_overlap(collection: Collection, origin: str, queries: _Side, documents: _Side) -> InputError:
    hint = "ids are compared character by character: write those of the store into the file"
    for side, what, whose, collected in (
        (queries, "queries", f"the {_queries_of(collection)}", collection.query_ids),
        (documents, "documents", "the documents of the store", collection.doc_ids),
    ):
        if not side.known:
            examples = collected.slice(0, _NEAR).to_pylist()
            return InputError(
                f"{origin}: none of its {what} ({listed(side.unknown, most=_EXAMPLES)}) is among {whose} "
                f"({listed(examples, most=_EXAMPLES)}){near(side.unknown[0], examples)}",
                hint,
            )
    return InputError(
        f"{origin}: no candidate has both one of the {_queries_of(collection)} and a document of the store",
        hint,
    )


def _note_contradictions(origin: str, query: Ints, score: Floats, rank: Ints, progress: Progress) -> None:
    """Warns if the given ranks contradict the scores, as in a file whose scores are distances.

    The rows are ordered by query, then score; a rank of 0 is missing.
    """
    given = rank > 0
    query, score, rank = query[given], score[given], rank[given]
    lower = (query[1:] == query[:-1]) & (score[:-1] > score[1:])
    wrong = len(np.unique(query[1:][lower & (rank[:-1] > rank[1:])]))
    if wrong:
        progress.note(
            f"warning: {origin}: for {wrong:,} of {counted(len(np.unique(query)), 'query', 'queries')}, a "
            "candidate with a better rank has a lower score; the scores decide (negate distances)"
        )
