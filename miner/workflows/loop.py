"""`miner loop`: mine, train, mine again with the new model.

As ANCE does (Xiong et al., ICLR 2021, Approximate Nearest Neighbor Negative Contrastive Learning): negatives
that are hard for yesterday's model are easy for today's. Each round trains from the same base.
"""

from __future__ import annotations

import json
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
from miner.mining.config import MiningConfig
from miner.mining.pipeline import change, mine
from miner.ranges import BELOW_1, COUNT, ROUNDS, ROW_NEGATIVES, check_fields, within
from miner.reporting.readable import Readable
from miner.stats import Rate
from miner.store import runs
from miner.store.corpus import require_judgments
from miner.store.database import Store
from miner.store.lock import WriterLock
from miner.store.triplets import triplet_count
from miner.training.encoder import base_fingerprint
from miner.training.encoder_config import EncoderConfig
from miner.workflows.train import Dev, Rows, held_out, train

SETTINGS = "loop.json"
"""In the folder of the models: how they are made."""


@dataclass(frozen=True)
class LoopConfig:
    """What every round does. UsageError for values that make no sense."""

    mining: MiningConfig
    """Its encoder mines the first round; later ones have the model of the round before."""
    training: EncoderConfig
    rounds: int = within(3, ROUNDS)
    """At most."""
    negatives: int = within(1, ROW_NEGATIVES)
    """Per row."""
    hold_out: float = within(0.1, BELOW_1)
    """The share of each query's positives that no model sees, for the audits."""
    split: str = "dev"
    """Scored after each round."""
    queries: int | None = within(None, COUNT)
    """Score on so many queries; None: all."""
    audit: AuditConfig = field(default_factory=AuditConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.mining.encoder is None:
            raise UsageError("a loop mines with an encoder", "name one with --encoder, such as bundled")
        if self.mining.split == self.split:
            raise UsageError(
                f"split '{self.split}' is what would be trained on, and what says when to stop",
                "name another --dev-split",
            )


@dataclass(frozen=True)
class Round:
    """One round."""

    number: int
    run: str
    triplets: int
    hidden_positive_rate: Rate | None
    """Of the run's audit; None where nothing could be hidden."""
    coverage: float | None
    """The share of queries with as many negatives as asked, as mined."""
    model: str
    score: float


@dataclass(frozen=True, repr=False)
class LoopReport(Readable):
    """What the rounds gave."""

    measure: str
    before: float
    """Of the encoder that mined the first round."""
    encoder: str
    """That one."""
    rounds: tuple[Round, ...]
    best: str
    """The round's model with the highest score; the first encoder, where training starts from it and no round
    is ahead of it."""
    stopped: bool
    """Whether a round's score no longer rose."""

    def as_json(self) -> dict[str, Any]:
        """Returns the report as JSON-able values."""
        return asdict(self)


def loop(path: Path, out: Path, config: LoopConfig, progress: Progress = SILENT) -> LoopReport:
    """Mines and trains in turn until the score on the dev split no longer rises, or the rounds are over.

    Models go to `round-1` and so on below `out`, and runs have its name: `out-1`. Where training starts from
    the first encoder, the first round has to rise above that; from another base it is only held against the
    rounds after it. Started again, it repeats nothing that is finished. Raises UsageError when the dev split
    holds nothing to score on or the rounds in `out` were made otherwise, and what `mine` and `train` raise.
    """
    base_fingerprint(config.training)
    if config.mining.reranker:  # refused here rather than after the first score
        from miner.models.reranker import Reranker

        Reranker(config.mining.reranker, revision=config.mining.reranker_revision)
    with Store.open(path, read_only=True) as store:
        require_judgments(store, config.split, "--dev-split", config.mining.split)
    with WriterLock(path), locked(out / SETTINGS):  # all rounds are of one state of the store
        _settle(out, config)
        return _rounds(path, out, config, progress)


def _rounds(path: Path, out: Path, config: LoopConfig, progress: Progress) -> LoopReport:
    first = encoder = str(config.mining.encoder)
    measure, before = _score(path, encoder, config, progress)
    best, highest = (first, before) if config.training.base == first else ("", -1.0)
    rounds, stopped = [], False
    for number in range(1, config.rounds + 1):
        progress.note(f"round {number} of {config.rounds}, mining with {encoder}")
        one = _round(path, out / f"round-{number}", encoder, number, config, progress)
        rounds.append(one)
        until_now = f", the best until now {highest:.4f}" if best else ""
        progress.note(f"round {number}: {measure} {one.score:.4f}{until_now}")
        if one.score <= highest:
            stopped = True
            break
        best, highest, encoder = one.model, one.score, one.model
    return LoopReport(measure, before, first, tuple(rounds), best, stopped)


def _settle(out: Path, config: LoopConfig) -> None:
    """Notes in `out` how its rounds are made; UsageError where they were begun otherwise."""
    now = json.loads(json.dumps({**asdict(config), "rounds": None}))
    file = out / SETTINGS
    try:
        if not file.exists():
            if contents(out):
                raise UsageError(f"{out} is not empty, and holds no rounds of miner loop", "name another OUT")
            write_whole(file, json.dumps(now, indent=1) + "\n")
            return
        before = _flat(read_json(file, dict, "restore it, or name another OUT"))
    except OSError as error:
        raise MinerError(f"cannot write {file}: {error.strerror or error}", "name another OUT") from error
    both = ((key, before.get(key), value) for key, value in _flat(now).items())
    changed = [change(key, old, new) for key, old, new in both if old != new]
    if changed:
        told = "; ".join(changed)
        raise UsageError(f"{out} holds rounds that were made otherwise: {told}", "name another OUT")


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {key: value}
    return flat


def _round(path: Path, out: Path, encoder: str, number: int, config: LoopConfig, progress: Progress) -> Round:
    with Store.open(path, note=progress.note) as store:
        mining = replace(config.mining, encoder=encoder)
        run = mine(store, mining, name=printable(f"{out.parent.name.strip()}-{number}"), progress=progress)
        triplets = triplet_count(store, run)
        found = _audited(store, run, config, progress)
    rows = Rows(run=run.name, negatives=config.negatives, hold_out=config.hold_out)
    split = config.split if config.training.evaluations else None
    model = str(train(path, out, config.training, rows, dev=Dev(split=split), progress=progress).out)
    _, score = _score(path, model, config, progress)
    rate, coverage = (None, None) if found is None else (found.hidden_positive_rate, found.as_mined.coverage)
    return Round(number, run.name, triplets, rate, coverage, model, score)


def _audited(store: Store, run: runs.Run, config: LoopConfig, progress: Progress) -> Audit | None:
    """Stores the audit of a run; returns what it says of the positives that no round's model sees.

    In the first round others could be hidden as well, and its hidden-positive rate would mean something else.
    """
    try:
        found = audit(store, run, config.audit, progress)
        if not config.hold_out:
            return found
        held = held_out(store, run, config.hold_out, config.training.seed)
        held = held.rename_columns(["query_id", "doc_id"])
        return audit(store, run, config.audit, progress, among=held)
    except UsageError as error:
        progress.note(f"no audit: {error.message}")
        return None


def _score(path: Path, model: str, config: LoopConfig, progress: Progress) -> tuple[str, float]:
    """The most telling measure of the dev split, and what a model reaches."""
    settings = EvaluationConfig(split=config.split, queries=config.queries, seed=config.training.seed)
    with Store.open(path, read_only=True) as store:
        (found,) = evaluate(store, model, settings, progress)
    name = next(iter(found.means))
    return name, found.means[name]
