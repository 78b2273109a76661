"""The scores of a teacher, which a reranker learns from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from miner.arrays import pair_keys, positions
from miner.engine.files import write_whole
from miner.engine.progress import Progress
from miner.errors import ModelError, counted
from miner.faults import read_json
from miner.models.loading import AnyReranker, open_reranker
from miner.models.remote import scores_of
from miner.store.database import Database
from miner.store.evidence import known_scores
from miner.training.reranker_config import RerankerConfig
from miner.training.reranker_pairs import Flags, LabelledPairs, Labels
from miner.training.workspace import remove_hint

_SCORES = "teacher.json"
"""The file in the workspace with the scores, so that a training that goes on need not score again."""


@dataclass(frozen=True)
class RerankerTeacher:
    """A reranker, and the scores of it that the store has."""

    reranker: AnyReranker
    known: pa.Table
    """query_id, doc_id, score: what mining with this reranker has stored."""

    @classmethod
    def of(cls, store: Database, config: RerankerConfig, progress: Progress) -> RerankerTeacher | None:
        """Opens the teacher that a configuration names; None if it names none."""
        if config.teacher is None:
            return None
        reranker = open_reranker(config.teacher, dtype=config.dtype, progress=progress)
        return cls(reranker, known_scores(store, reranker.fingerprint))

    def label(
        self, pairs: LabelledPairs, chosen: Flags, work: Path, config: RerankerConfig, progress: Progress
    ) -> LabelledPairs:
        """Returns the pairs with the teacher's scores as labels; those that are not `chosen` get 0.

        Only pairs that the store has no score of are scored. Raises ModelError for a score that is not
        finite.
        """
        file = work / _SCORES
        if file.exists():
            return replace(
                pairs, given=np.asarray(read_json(file, list, remove_hint(work)), dtype=np.float64)
            )
        labels = self._stored(pairs)
        unknown = np.flatnonzero(chosen & np.isnan(labels))
        progress.note(
            f"teacher {self.reranker.name}: {counted(int(chosen.sum()) - len(unknown), 'score')} of the "
            f"store, {len(unknown):,} to compute"
        )
        if len(unknown):
            texts = pairs.where(np.isin(np.arange(len(pairs)), unknown)).texts()
            labels[unknown] = scores_of(self.reranker, *texts, workers=config.threads, progress=progress)
        if wrong := int((~np.isfinite(labels[chosen])).sum()):
            raise ModelError(
                f"teacher {self.reranker.name} gives {counted(wrong, 'pair')} a score that is not finite",
                "name another teacher",
            )
        labels[~chosen] = 0
        write_whole(file, json.dumps(labels.tolist()))
        return replace(pairs, given=labels)

    def _stored(self, pairs: LabelledPairs) -> Labels:
        """The stored score of each pair; NaN without one."""
        query = positions(self.known["query_id"], pairs.collection.query_ids)
        doc = positions(self.known["doc_id"], pairs.collection.doc_ids)
        inside = (query >= 0) & (doc >= 0)
        if not inside.any():
            return np.full(len(pairs), np.nan)
        keys = pair_keys(query[inside], doc[inside])
        order = np.argsort(keys)
        keys, scores = keys[order], self.known["score"].to_numpy()[inside][order]
        wanted = pair_keys(pairs.query, pairs.doc)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, scores[at], np.nan)
