"""A trial: one short training that is measured and removed. Its figures are stored: none is repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.engine.files import contents, discard, write_whole
from miner.engine.progress import Progress, WithoutNotes
from miner.errors import UsageError, counted
from miner.evaluation.evaluate import EncoderTask, EvaluationConfig, encoder_task, task_of_split, warnings
from miner.evaluation.result import Evaluation
from miner.evaluation.retrieval import sampled_task
from miner.faults import read_json
from miner.models.encoder import Encoder, Vectors
from miner.models.names import resolve
from miner.store import corpus
from miner.store.database import Database
from miner.text import fingerprint
from miner.training.batches import KnownPositives
from miner.training.encoder import base_fingerprint, train_encoder
from miner.training.encoder_config import EncoderConfig
from miner.training.examples import Examples

_CODE = 2
"""Raise it when the same rows and settings give other figures."""
CELLS = "cells"
"""The folder in OUT with the figures of everything that was measured. Its lock is the lock of OUT."""
MODELS = ".models"
"""The folder in OUT of the model that is trained or measured now."""


def require_own(out: Path, what: str) -> None:
    """Raises UsageError if `out` holds anything that `what` (such as `a bench`) did not make."""
    names = {path.name for path in contents(out)}
    if (out.exists() and not out.is_dir()) or (names - {MODELS} and CELLS not in names):
        raise UsageError(
            f"{out} exists and is not the folder of {what}", "name a folder that does not exist yet"
        )


@dataclass(frozen=True)
class Measured:
    """What models are measured on."""

    task: EncoderTask
    content: str
    """A hash of the content of the split, and of the sample of it."""

    @classmethod
    def of(
        cls,
        store: Database,
        split: str,
        queries: int | None,
        documents: int | None,
        seed: int,
        progress: Progress,
    ) -> Measured:
        """Returns the task of a split; `queries` and `documents` limit it to a seeded sample.

        Raises UsageError for a split without judgments or with graded pairs, or if `documents` is given for
        anything but retrieval.
        """
        settings = EvaluationConfig(split=split, queries=queries, seed=seed)
        kind = task_of_split(store, settings)
        if kind == "similarity":
            raise UsageError(
                f"split '{split}' has graded pairs, but arms are compared query by query",
                "name a split with retrieval judgments or labels",
            )
        content = fingerprint(
            {**corpus.content_hashes(store, split), "measured": [split, queries, documents, seed]}
        )
        if documents is None:
            return cls(encoder_task(store, settings), content)
        if kind != "retrieval":
            raise UsageError(f"documents is for retrieval, split '{split}' has {kind}", "leave it out")
        sample = sampled_task(store, split, queries, documents, seed)
        if len(sample.documents) > documents:
            relevant = counted(len(sample.documents), "document is", "documents are")
            progress.note(f"{relevant} relevant: all of them are ranked")
        return cls(sample, content)

    def figures(self, model: Path | str, training: EncoderConfig, progress: Progress) -> Evaluation:
        """Returns the figures of a model with the prompts of the training; its vectors are not cached."""
        encoder = Encoder(str(model), dtype=training.dtype)
        prompts = encoder.prompts | prompts_of(training)

        def encode(texts: Sequence[str], role: str) -> Vectors:
            """Returns the vectors of texts in that role."""
            return encoder.for_role(role).encode(texts, prompts[role], progress=progress)

        return self.task.measure(encode, encoder.similarity)


def prompts_of(training: EncoderConfig) -> dict[str, str]:
    """Returns the prompts that a training names, by role."""
    given = {"query": training.query_prompt, "document": training.document_prompt}
    return {role: text for role, text in given.items() if text is not None}


def trial(
    name: str,
    examples: Examples,
    training: EncoderConfig,
    known: KnownPositives,
    measured: Measured,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Trains on rows and measures the last model, unless the figures are stored in `out/cells`.

    Returns the steps, the last loss, the number of documents that were ranked, the means and the values per
    query of every measure, the seconds of training and measuring, and warnings.
    """
    identity = {
        "rows": examples.fingerprint,
        "training": {**training.identity(), "base": base_fingerprint(training)},
        "known": known.fingerprint,
        "guide": resolve(training.guide).fingerprint if training.guide else None,
        "measured": measured.content,
        "code": _CODE,
    }

    def make(model: Path) -> dict[str, Any]:
        """Trains into the folder `model`, and returns the figures."""
        progress.note(name)
        quiet = WithoutNotes(progress)
        report = train_encoder(examples, model, training, known=known, progress=quiet)
        started = time.perf_counter()
        evaluation = measured.figures(model, training, quiet)
        progress.note(f"{name}: {evaluation.headline} {evaluation.means[evaluation.headline]:.4f}")
        return {
            "name": name,
            "steps": report.metrics.steps,
            "last_loss": report.metrics.losses[-1][1],
            "seconds": report.metrics.seconds,
            "measure_seconds": round(time.perf_counter() - started, 2),
            "documents": evaluation.documents,
            "means": dict(evaluation.means),
            "values": {measure: column.tolist() for measure, column in evaluation.values.items()},
            "warnings": warnings(f"the model of {name}", evaluation),
        }

    return kept(out, identity, make)


def kept(out: Path, identity: Mapping[str, Any], make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures of that identity in `out/cells`; if there are none, `make` computes them.

    `make` receives the path of a folder of its own, which is removed once the figures are stored.
    """
    name = fingerprint(identity)[:24]
    file, folder = out / CELLS / f"{name}.json", out / MODELS / name
    if file.exists():
        return read_json(
            file, dict, "remove it, then run the command again: it measures that model once more"
        )
    figures = make(folder)
    write_whole(file, json.dumps(figures))
    if folder.exists():
        discard(folder)
    return figures
