"""The scores of a teacher, which a reranker learns from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from miner.engine.files import write_whole
from miner.engine.progress import CountedInto, Progress
from miner.engine.work import in_order
from miner.errors import ModelError, counted
from miner.faults import read_json
from miner.models.loading import AnyReranker, open_reranker
from miner.models.remote import in_workers, scores_of
from miner.store.database import Database
from miner.store.rerank_scores import known_scores_of
from miner.training.reranker_config import RerankerConfig
from miner.training.reranker_pairs import Flags, LabelledPairs, Labels
from miner.training.workspace import TEACHER, remove_hint

CHUNK = 4096
"""Pairs whose labels are written together: the most scores that a kill can lose."""


@dataclass(frozen=True)
class RerankerTeacher:
    """A reranker whose scores are the labels."""

    reranker: AnyReranker

    @classmethod
    def of(cls, config: RerankerConfig, progress: Progress) -> RerankerTeacher | None:
        """Opens the teacher that a configuration names; None if it names none."""
        if config.teacher is None:
            return None
        return cls(open_reranker(config.teacher, dtype=config.dtype, progress=progress))

    def stored(self, store: Database, pairs: LabelledPairs) -> LabelledPairs:
        """Returns the pairs with the scores as labels that the store has; NaN without one."""
        return replace(pairs, given=known_scores_of(store, self.reranker.fingerprint, pairs.ids()))

    def label(
        self, pairs: LabelledPairs, chosen: Flags, work: Path, config: RerankerConfig, progress: Progress
    ) -> LabelledPairs:
        """Returns the pairs with the teacher's scores as labels; those that are not `chosen` get 0.

        Takes the result of `stored`; only pairs whose label is NaN are scored. The labels of each chunk are
        written to `work`, and the same call reads them again. Raises ModelError for a score that is not
        finite, UsageError for one that the loss cannot use.
        """
        from miner.training.reranker_losses import require_gains

        labels = np.where(chosen, pairs.labels, 0.0)
        chunks = np.split(np.arange(len(pairs)), range(CHUNK, len(pairs), CHUNK))
        files = {work / TEACHER / f"{number:06}.json": rows for number, rows in enumerate(chunks)}
        missing = [file for file in files if not file.exists()]
        for file in files.keys() - missing:
            labels[files[file]] = read_json(file, list, remove_hint(work))
        total, unknown = int(chosen.sum()), int(np.isnan(labels).sum())
        if missing:
            known = counted(total - unknown, "score")
            progress.note(f"teacher {self.reranker.name}: {known} known, {unknown:,} to compute")

        def score(file: Path) -> tuple[Path, Labels]:
            """Returns the file of a chunk and its labels."""
            found = labels[files[file]]
            lacking = np.isnan(found)
            if lacking.any():
                texts = pairs.where(files[file][lacking]).texts()
                notes = CountedInto(lambda _: None, progress)
                found[lacking] = scores_of(self.reranker, *texts, workers=config.threads, progress=notes)
            return file, found

        with progress.task("scores of the teacher", total, total - unknown, "pairs") as advance:
            for file, found in in_order(score, missing, progress, None if in_workers(self.reranker) else 1):
                self._require_finite(found)
                require_gains(found, config)
                write_whole(file, json.dumps(found.tolist()))
                advance(int(np.isnan(labels[files[file]]).sum()))
                labels[files[file]] = found
        return replace(pairs, given=labels)

    def _require_finite(self, labels: Labels) -> None:
        if wrong := int((~np.isfinite(labels)).sum()):
            raise ModelError(
                f"teacher {self.reranker.name} gives {counted(wrong, 'pair')} a score that is not finite",
                "name another teacher",
            )
