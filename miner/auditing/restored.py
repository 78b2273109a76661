"""What hiding a positive opens again: candidates that were excluded for its sake."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import pair_keys, positions
from miner.collection.collection import Collection
from miner.collection.exclusion import Exclusions
from miner.mining.config import MiningConfig
from miner.schema import CANDIDATES_PER_QUERY
from miner.store import audits as stored
from miner.store.corpus import IDENTITY
from miner.store.database import Store
from miner.store.runs import Run

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Exclusion:
    """What is excluded with some positives hidden, where that may differ from what is stored."""

    rows: Ints
    """Rows of candidates."""
    reasons: pa.Array
    """Why each is excluded all the same; null where it may be a negative."""
    stands_for: Ints
    """Per positive, the row that it is, or, where that is excluded or was not found, the row of the copy that
    would be taken in its place; -1 without either."""


@dataclass(frozen=True)
class Reopenable:
    """The candidates that are excluded for the sake of a positive, or that have copies, in order."""

    texts: Collection
    """Theirs, those of the positives and of the queries; without labels."""
    known: pa.Table
    """The known positives of the queries, in any split: query_id, doc_id."""
    negatives: pa.Table
    """Those of these candidates that are known negatives: query_id, doc_id."""
    rows: Ints
    """Of each among all candidates."""
    query: Places
    doc: Places
    """Positions of each in `texts`."""
    config: MiningConfig

    @classmethod
    def of(cls, store: Store, run: Run, config: MiningConfig, candidates: pa.Table) -> Reopenable:
        """Reads them; `candidates` are all of the run's evidence (`evidence.scored_candidates`)."""
        texts = Collection(*stored.texts_to_hide(store, run), {}, run.split, IDENTITY in run.inputs)
        known = stored.known_positives(store, run)
        doc = positions(candidates["doc_id"], texts.doc_ids)
        exclusion = candidates["exclusion"].cast(pa.string())
        follows = pc.is_in(exclusion, pa.array(stored.FOLLOWS_POSITIVES)).to_numpy()
        has_copies = texts.documents["cluster"].is_valid().to_numpy()
        rows = np.flatnonzero((doc >= 0) & (follows | (exclusion.is_null().to_numpy() & has_copies[doc])))
        numbers = candidates["candidate"].to_numpy()[rows] // CANDIDATES_PER_QUERY
        query = np.searchsorted(texts.queries["query_no"].to_numpy(), numbers).astype(np.int32)
        flags = candidates["judged_negative"].to_numpy()[rows]
        negatives = pa.table(
            {
                "query_id": texts.query_ids.take(pa.array(query[flags])),
                "doc_id": texts.doc_ids.take(pa.array(doc[rows][flags])),
            }
        )
        return cls(texts, known, negatives, rows, query, doc[rows], config)

    def exclusion(self, pairs: pa.Table, row: Ints, hidden: Flags) -> Exclusion:
        """Returns what is excluded when those of `pairs` that are `hidden` are not known to be positives.

        `pairs` are the run's positives (query_id, doc_id), `row` the candidate that each is, -1 without.
        """
        keys = self._keys(pairs)
        of = np.flatnonzero(np.isin(self.query, keys[hidden] >> 32))
        query, doc = self.query[of], self.doc[of]
        reasons = self._exclusions(keys[hidden]).of_candidates(query, doc)
        free = np.asarray(reasons.is_null())
        stands_for = row.copy()
        lost = np.flatnonzero(hidden & ~np.isin(row, self.rows[of[free]]))
        # In fused order: the first free copy is the one that would be taken.
        groups, first = np.unique(pair_keys(query[free], self._alike[doc[free]]), return_index=True)
        wanted = pair_keys(keys[lost] >> 32, self._alike[keys[lost] & 0xFFFFFFFF])
        found = np.flatnonzero(np.isin(wanted, groups))
        copies = first[np.searchsorted(groups, wanted[found])]
        stands_for[lost[found]] = self.rows[of[free]][copies]
        return Exclusion(self.rows[of], reasons, stands_for)

    def _exclusions(self, hidden: Ints) -> Exclusions:
        """With the pairs of these keys not known to be positives."""
        known = self.known.filter(pa.array(~np.isin(self._known_keys, hidden)))
        return Exclusions(self.texts, known, self.negatives, self.config.overlaps, self.config.protected)

    @cached_property
    def _known_keys(self) -> Ints:
        return self._keys(self.known)

    def _keys(self, pairs: pa.Table) -> Ints:
        query = positions(pairs["query_id"], self.texts.query_ids)
        return pair_keys(query, positions(pairs["doc_id"], self.texts.doc_ids))

    @cached_property
    def _alike(self) -> Ints:
        """A number per document, equal for copies."""
        texts = self.texts.passages
        cluster = self._exclusions(np.zeros(0, dtype=np.int64)).clusters
        return np.where(cluster >= 0, len(texts) + cluster, texts).astype(np.int64)
