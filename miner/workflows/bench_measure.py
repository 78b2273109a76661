"""What a bench measures besides its trainings: untrained models, and test queries that occur in train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from miner.curation.contamination import HOW, ContaminationConfig, compare_texts
from miner.engine.progress import Progress
from miner.errors import MinerError, counted
from miner.evaluation.result import Evaluation
from miner.mining.by_encoder import settings_in_run
from miner.models.cached_encoder import CachedEncoder
from miner.models.encoder import Encoder
from miner.models.loading import AnyEncoder, open_encoder
from miner.models.names import BUNDLED
from miner.store import corpus
from miner.store.contamination import texts_of
from miner.store.database import Database
from miner.store.models import is_trained_here, model_name, seen_positives
from miner.store.runs import StoredRun
from miner.store.scorers import DENSE
from miner.text import fingerprint
from miner.training.encoder import base_fingerprint
from miner.training.encoder_config import SCRATCH
from miner.training.encoder_trainer import load_base
from miner.workflows.bench_config import BenchConfig
from miner.workflows.bench_result import Contaminated, Untrained
from miner.workflows.trial import Measured, kept, prompts_of

_CODE = 1
"""Raise it when the same model and split give other figures."""


@dataclass(frozen=True)
class OffTheShelf:
    """An encoder that is measured as it is."""

    encoder: AnyEncoder
    prompts: Mapping[str, str]
    notes: tuple[str, ...]


def off_the_shelf(
    store: Database, run: StoredRun, config: BenchConfig, progress: Progress
) -> OffTheShelf | None:
    """Returns the encoder to compare with: the one that `config` names, or for base scratch the run's own.

    If the run has none, or it was trained on positives of this store, it is the bundled encoder. Raises
    ModelError if the encoder that `config` names does not load.
    """
    if config.off_the_shelf is not None:
        return _opened(store, run, config.off_the_shelf, config, progress)
    if config.training.base != SCRATCH:
        return None
    dense = [one for one in run.scorers if one.kind == DENSE]
    names = [
        name
        for one in dense[-1:]
        if one.model and not is_trained_here(store, one.model) and (name := model_name(store, one.model))
    ]
    for name in dict.fromkeys((*names, BUNDLED)):
        try:
            return _opened(store, run, name, config, progress)
        except MinerError as error:
            progress.note(f"{name} is not measured as an off-the-shelf encoder: {error.message}")
    return None


def _opened(
    store: Database, run: StoredRun, name: str, config: BenchConfig, progress: Progress
) -> OffTheShelf:
    """The encoder, with the run's settings if it is the run's: then most vectors are cached."""
    keys = ("encoder_revision", "query_prompt", "document_prompt")
    settings: dict[str, Any] = dict.fromkeys(keys)
    is_of_run = name in run.config["encoder"]
    if is_of_run:
        number = run.config["encoder"].index(name)
        settings = {key: settings_in_run(run, key)[number] for key in keys}
    dtype = run.config["dtype"] if is_of_run else config.training.dtype
    encoder = open_encoder(name, revision=settings["encoder_revision"], dtype=dtype, progress=progress)
    given = {role: settings[f"{role}_prompt"] for role in ("query", "document")}
    prompts = encoder.prompts | {role: text for role, text in given.items() if text is not None}
    seen = seen_positives(store, encoder.fingerprint, config.split)
    note = f"{name} was trained on {counted(seen, 'positive')} of split '{config.split}'"
    return OffTheShelf(encoder, prompts, (note,) if seen else ())


@dataclass(frozen=True)
class TrainingTexts:
    """The texts of the measured queries, and those that arms train on; columns as `store.contamination`."""

    queries: pa.Table
    training: pa.Table
    """The queries and positives of the pairs."""
    identity: str
    """A hash of both."""

    @classmethod
    def read(
        cls, store: Database, ids: Sequence[str], run: StoredRun, pairs: Sequence[tuple[str, str]]
    ) -> TrainingTexts:
        """Reads the queries `ids`, and the pairs' queries and positives."""
        queries, positives = (sorted(set(column)) for column in zip(*pairs, strict=True))
        hashes = corpus.content_hashes(store, run.split)
        return cls(
            texts_of(store, ids, ()),
            texts_of(store, queries, positives),
            fingerprint({"split": hashes, "queries": queries, "positives": positives}),
        )


@dataclass(frozen=True)
class Measuring:
    """The task that models are measured on, and where their figures and vectors are kept."""

    measured: Measured
    vectors: Path
    """The folder of cached vectors."""
    out: Path
    config: BenchConfig
    progress: Progress

    def base(self) -> Untrained:
        """Returns the figures of the base before training; for a random table, one per seed."""
        training = self.config.training
        if training.base == SCRATCH:
            measured = [self._random(seed) for seed in self.config.training_seeds]
        else:
            encoder = Encoder(training.base, dtype=training.dtype)
            measured = [self._cached(encoder, encoder.prompts | prompts_of(training))]
        return self._noted(Untrained(training.base, tuple(measured)))

    def off_the_shelf(self, found: OffTheShelf) -> Untrained:
        """Returns the figures of an encoder as it is."""
        measured = self._cached(found.encoder, found.prompts)
        return self._noted(Untrained(found.encoder.name, (measured,), True, found.notes))

    def _noted(self, found: Untrained) -> Untrained:
        for warning in found.warnings:
            self.progress.note(f"warning: {warning}")
        return found

    def _random(self, seed: int) -> Evaluation:
        """The figures of the random table of a seed, which is saved to be measured like any model."""
        training = replace(self.config.training, seed=seed)

        def compute(folder: Path) -> dict[str, Any]:
            """Saves the table in the folder and measures it."""
            load_base(training).save_pretrained(str(folder), create_model_card=False)
            return _as_json(self.measured.figures(folder, training, self.progress))

        identity = {
            "model": base_fingerprint(training),
            "dtype": training.dtype,
            "prompts": prompts_of(training),
        }
        return self._kept(identity, compute)

    def _cached(self, encoder: AnyEncoder, prompts: Mapping[str, str]) -> Evaluation:
        """The figures of an encoder whose vectors are cached beside the store."""

        def compute(_: Path) -> dict[str, Any]:
            """Measures the encoder."""
            encode = CachedEncoder(self.vectors, encoder, prompts, progress=self.progress)
            return _as_json(self.measured.task.measure(encode, encode.similarity))

        return self._kept({"model": encoder.fingerprint, "prompts": dict(prompts)}, compute)

    def _kept(self, identity: Mapping[str, Any], compute: Callable[[Path], dict[str, Any]]) -> Evaluation:
        found = kept(
            self.out, {"untrained": identity, "measured": self.measured.content, "code": _CODE}, compute
        )
        values = {name: np.array(column) for name, column in found["values"].items()}
        return Evaluation(**{**found, "ids": tuple(found["ids"]), "values": values})

    def contaminated(self, texts: TrainingTexts) -> Contaminated:
        """Returns which of the measured queries occur in the training texts."""
        config = ContaminationConfig(self.config.split)

        def compute(_: Path) -> dict[str, Any]:
            """Finds the matches."""
            found = compare_texts(texts.queries, texts.training, config, self.progress)
            return {"matches": [[match.id, match.how, match.train_role] for match in found.matches]}

        identity = {
            "contamination": asdict(config),
            "measured": self.measured.content,
            "trained": texts.identity,
            "code": _CODE,
        }
        matches = kept(self.out, identity, compute)["matches"]
        hows, roles = (Counter(match[position] for match in matches) for position in (1, 2))
        return Contaminated(
            tuple(match[0] for match in matches),
            len(self.measured.task.ids),
            {how: hows[how] for how in HOW if hows[how]},
            {role: roles[role] for role in ("query", "document") if roles[role]},
        )


def _as_json(measured: Evaluation) -> dict[str, Any]:
    """Returns the fields of an evaluation, JSON-able; those of similarity are left out."""
    return {
        "task": measured.task,
        "ids": list(measured.ids),
        "values": {name: column.tolist() for name, column in measured.values.items()},
        "means": dict(measured.means),
        "documents": measured.documents,
        "left_out": dict(measured.left_out),
        "chance": measured.chance,
        "unscored": dict(measured.unscored),
        "constant": measured.constant,
    }
