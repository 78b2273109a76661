"""`miner loop`: mines, trains, and mines again with the new model.

Negatives that are hard for one model are easy for the model trained on them (ANCE: Xiong et al., ICLR 2021,
Approximate Nearest Neighbor Negative Contrastive Learning). Every round trains from the same base.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from miner.auditing.audit import Audit, audit
from miner.auditing.config import AuditConfig
from miner.engine.files import contents, locked, write_whole
from miner.engine.progress import SILENT, Progress
from miner.errors import MinerError, UsageError, printable
from miner.evaluation.evaluate import EvaluationConfig, evaluate
from miner.faults import read_json
from miner.mining.by_encoder import ENCODER_KEYS
from miner.mining.config import MiningConfig, require_used
from miner.mining.diff import change
from miner.mining.pipeline import mine
from miner.models.names import scorer_name
from miner.ranges import BELOW_1, COUNT, ROUNDS, ROW_NEGATIVES, check_fields, known_keywords, within
from miner.reporting.readable import Readable
from miner.stats import Rate
from miner.store import runs
from miner.store.corpus import require_judgments
from miner.store.database import Database
from miner.store.lock import WriterLock
from miner.store.triplets import triplet_count
from miner.training.encoder import base_fingerprint
from miner.training.encoder_config import EncoderConfig
from miner.workflows.train import Dev, TrainingRows, train, withheld_positives

SETTINGS = "loop.json"
"""The file with the settings of all rounds, in the folder of the models."""


@known_keywords
@dataclass(frozen=True)
class LoopConfig:
    """The settings of every round; UsageError for values that contradict each other."""

    mining: MiningConfig
    """Its encoder mines in the first round; in later rounds the model of the round before does."""
    training: EncoderConfig
    rounds: int = within(3, ROUNDS)
    """The most rounds."""
    negatives_per_row: int = within(1, ROW_NEGATIVES)
    """Negatives per training row."""
    withheld: float = within(0.1, BELOW_1)
    """The share of each query's positives that are withheld from every training, for the audits."""
    dev_split: str = "dev"
    """The split that models are scored on."""
    queries: int | None = within(None, COUNT)
    """Score on this many queries; None: all."""
    audit: AuditConfig = field(default_factory=AuditConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.mining.encoder) != 1:
            raise UsageError(
                f"loop mines with one encoder, the one that it trains, got {len(self.mining.encoder)}",
                "name one with --encoder, such as bundled",
            )
        (encoder,) = self.mining.encoder
        for key in ENCODER_KEYS:
            value = getattr(self.mining, key)
            if isinstance(value, tuple) or str(value).startswith(f"{scorer_name(encoder)}="):
                raise UsageError(
                    f"{key} names an encoder, and the encoder of loop has another name in each round",
                    f"write {key}=VALUE, for all rounds",
                )
        if self.mining.split == self.dev_split:
            raise UsageError(
                f"split '{self.dev_split}' is trained on and cannot also decide when to stop",
                "name another with --set dev_split=SPLIT",
            )


@dataclass(frozen=True)
class Round:
    """One round."""

    number: int
    run: str
    triplets: int
    hidden_positive_rate: Rate | None
    """The rate of the run's audit; None if no positive could be hidden."""
    coverage: float | None
    """The share of the run's queries that got all the negatives requested."""
    model: str
    score: float
    """The model's score on the dev split."""


@dataclass(frozen=True, repr=False)
class LoopReport(Readable):
    """The result of all rounds."""

    measure: str
    before: float
    """The dev score of the encoder that mined the first round."""
    encoder: str
    """The encoder that mined the first round."""
    rounds: tuple[Round, ...]
    best: str
    """The model with the highest dev score: of a round, or the encoder that mined the first one."""
    stopped: bool
    """Whether the loop ended because the last round's score did not rise."""

    def as_json(self) -> dict[str, Any]:
        """Returns the report as JSON-able values."""
        return asdict(self)


def loop(path: Path, out: Path, config: LoopConfig, progress: Progress = SILENT) -> LoopReport:
    """Mines and trains in turn until the score on the dev split no longer rises, or the rounds are over.

    Models are written to `round-1` and so on below `out`; runs are named after it, such as `out-1`. If the
    training starts from the encoder of the first round, the first model has to score higher than that
    encoder; from another base, a round is compared only with the rounds before it. The best model is the one
    with the highest score of all, which may be that encoder. The same call again repeats no finished round.
    Raises UsageError if the dev split is empty or `out` holds rounds of other settings, and the errors of
    `mine` and `train`.
    """
    require_used(config.mining.selection)
    base_fingerprint(config.training)
    if config.mining.reranker:  # a wrong name is refused before the first score
        from miner.models.loading import open_reranker

        for name in config.mining.reranker:
            open_reranker(name, revision=config.mining.reranker_revision, progress=progress)
    with Database.open(path, read_only=True) as store:
        require_judgments(store, config.dev_split, "--set dev_split", config.mining.split)
    with WriterLock(path), locked(out / SETTINGS):  # all rounds see the same state of the store
        _settle(out, config)
        return _rounds(path, out, config, progress)


def _rounds(path: Path, out: Path, config: LoopConfig, progress: Progress) -> LoopReport:
    (first,) = config.mining.encoder
    encoder = first
    measure, before = _score(path, encoder, config, progress)
    scores = {first: before}
    highest = before if config.training.base == first else -math.inf
    rounds, stopped = [], False
    for number in range(1, config.rounds + 1):
        progress.note(f"round {number} of {config.rounds}, mining with {encoder}")
        one = _round(path, out / f"round-{number}", encoder, number, config, progress)
        rounds.append(one)
        so_far = "" if highest == -math.inf else f", the best so far {highest:.4f}"
        progress.note(f"round {number}: {measure} {one.score:.4f}{so_far}")
        scores[one.model] = one.score
        if one.score <= highest:
            stopped = True
            break
        highest, encoder = one.score, one.model
    best = max(scores, key=scores.__getitem__)
    return LoopReport(measure, before, first, tuple(rounds), best, stopped)


def _settle(out: Path, config: LoopConfig) -> None:
    """Writes the rounds' settings into `out`; raises UsageError if `out` has rounds of other settings."""
    now = json.loads(json.dumps({**asdict(config), "rounds": None}))
    file = out / SETTINGS
    try:
        if not file.exists():
            if contents(out):
                raise UsageError(f"{out} is not empty, and miner loop did not make it", "name another OUT")
            write_whole(file, json.dumps(now, indent=1) + "\n")
            return
        before = _flat(read_json(file, dict, "restore it, or name another OUT"))
    except OSError as error:
        raise MinerError(f"cannot write {file}: {error.strerror or error}", "name another OUT") from error
    both = ((key, before.get(key), value) for key, value in _flat(now).items())
    changed = [change(key, old, new) for key, old, new in both if old != new]
    if changed:
        raise UsageError(f"{out} holds rounds of other settings: {'; '.join(changed)}", "name another OUT")


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {key: value}
    return flat


def _round(path: Path, out: Path, encoder: str, number: int, config: LoopConfig, progress: Progress) -> Round:
    with Database.open(path, note=progress.note) as store:
        mining = replace(config.mining, encoder=(encoder,))
        run = mine(store, mining, name=printable(f"{out.parent.name.strip()}-{number}"), progress=progress)
        triplets = triplet_count(store, run)
        audited = _audited(store, run, config, progress)
    rows = TrainingRows(run=run.name, negatives_per_row=config.negatives_per_row, withheld=config.withheld)
    split = config.dev_split if config.training.evaluations else None
    model = str(train(path, out, config.training, rows, dev=Dev(split=split), progress=progress).out)
    _, score = _score(path, model, config, progress)
    rate, coverage = (
        (None, None) if audited is None else (audited.hidden_positive_rate, audited.as_mined.coverage)
    )
    return Round(number, run.name, triplets, rate, coverage, model, score)


def _audited(store: Database, run: runs.StoredRun, config: LoopConfig, progress: Progress) -> Audit | None:
    """Stores the audit of a run; returns an audit that hides only the withheld positives.

    In the first round others could be hidden as well; its rate would then not compare with later rounds.
    """
    try:
        whole = audit(store, run, config.audit, progress)
        if not config.withheld:
            return whole
        withheld = withheld_positives(store, run, config.withheld, config.training.seed)
        withheld = withheld.rename_columns(["query_id", "doc_id"])
        return audit(store, run, config.audit, progress, among=withheld)
    except UsageError as error:
        progress.note(f"no audit: {error.message}")
        return None


def _score(path: Path, model: str, config: LoopConfig, progress: Progress) -> tuple[str, float]:
    """The headline measure of the dev split, and the model's score."""
    settings = EvaluationConfig(split=config.dev_split, queries=config.queries, seed=config.training.seed)
    with Database.open(path, read_only=True) as store:
        (evaluation,) = evaluate(store, model, settings, progress)
    return evaluation.headline, evaluation.means[evaluation.headline]
