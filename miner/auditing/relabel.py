"""Relabelling: suspected positives that are likely enough become judgments, which can be taken back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from shlex import quote

import numpy as np
import pyarrow as pa

from miner.auditing.audit import require_hideable
from miner.auditing.config import AuditConfig
from miner.auditing.probability import Facts, Probability
from miner.auditing.replay import Material, Unjudged
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.mining.config import MiningConfig
from miner.mining.pipeline import config_of, mine
from miner.models.names import resolve
from miner.ranges import ABOVE_0, check_fields, within
from miner.schema import SUSPECTED
from miner.stats import Rate, clustered_rate
from miner.store import relabel as stored
from miner.store.database import Store
from miner.store.models import models_of_unknown_training
from miner.store.runs import Run, changed_since
from miner.store.verdicts import suspected


@dataclass(frozen=True)
class RelabelConfig:
    """What becomes a judgment. UsageError for a value that cannot be."""

    probability: float = within(0.5, ABOVE_0)
    """Least chance that a suspected positive is one."""
    hiding: AuditConfig = field(default_factory=AuditConfig)
    """How positives are hidden to learn the chance."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class RelabelReport:
    """What a relabelling found on hidden positives, and did."""

    run: str
    probability: float
    won_back: Rate
    """Hidden positives that it would have made judgments of."""
    precision: Rate
    """Hidden positives among all that it would have made judgments of, where as many are unjudged as were
    hidden; what nobody judged counts as wrong. Of what is written now no positive is hidden, so this says how
    well the scores tell, and not how much of it is right."""
    suspected: int
    relabelled: int
    barred: dict[str, int]
    """How many positives may not be hidden, by `stored.CANNOT_HIDE`."""
    untold: list[str]
    """Models of the run of whose training the store knows nothing."""
    again: str | None
    """The run decided with the new judgments; None where there are none, or nothing was written."""


def relabel(
    store: Store,
    run: Run,
    config: RelabelConfig,
    progress: Progress = SILENT,
    *,
    dry: bool = False,
    workers: int | None = None,
) -> RelabelReport:
    """Makes judgments of a run's likely suspected positives and decides again; `dry` only reports.

    Retrievers and reranker have scored these pairs: the new run gathers evidence from what is stored. After a
    kill the same call goes on. Raises UsageError when no positive of the run may be hidden to learn from, or
    when texts came or went since it was mined (undoing could not take back what they would add), ModelError
    when a model of the run is gone, and what `mine` raises.
    """
    if not dry:
        _require_models(config_of(run))
    with store.snapshot():
        _require_same_texts(store, run)
        material = Material.of(store, run)
        require_hideable(store, run, material.hideable)
        facts = Facts.of(store, run, material)
        table, untold = suspected(store, run), models_of_unknown_training(store, run)
    with progress.task("hiding positives", config.hiding.repeats, unit="repeats") as advance:
        trials = []
        for hidden in material.hideable.draws(config.hiding):
            trials.append(material.without(hidden))
            advance(1)
    learnt = Probability(facts, trials, config.hiding.seed)
    won_back, precision = _tested(material, learnt, trials, config.probability, progress)
    chance = learnt.of(material.without(np.zeros_like(trials[0].hidden)))
    place = np.searchsorted(material.hideable.candidates, table["candidate"].to_numpy())
    pairs = table.filter(pa.array(chance[place] >= config.probability)).select(["query_id", "doc_id"])
    again = None if dry else _write(store, run, pairs, config, progress, workers)
    return RelabelReport(
        run=run.name,
        probability=config.probability,
        won_back=won_back,
        precision=precision,
        suspected=table.num_rows,
        relabelled=pairs.num_rows,
        barred=material.hideable.bars(),
        untold=untold,
        again=again,
    )


def _require_same_texts(store: Store, run: Run) -> None:
    changed = changed_since(store, run)
    if {"documents", "queries"} & {*changed}:
        raise UsageError(
            f"{' and '.join(changed)} changed since run '{run.name}' was mined",
            f"mine again with the same options, and relabel that run: miner mine {quote(str(store.path))}",
        )


def _require_models(config: MiningConfig) -> None:
    """Before anything is written: deciding again asks them for nothing, but has to find them."""
    for name, revision in (
        (config.encoder, config.encoder_revision), (config.reranker, config.reranker_revision)
    ):  # fmt: skip
        if name is not None:
            resolve(name, revision)


def _tested(
    material: Material, learnt: Probability, trials: list[Unjudged], least: float, progress: Progress
) -> tuple[Rate, Rate]:
    """The share of hidden positives that become judgments, and of the judgments that are hidden positives."""
    owner, queries = material.hideable.positives.owner, material.hideable.positives.queries
    won, hidden_ones, right, made = (np.zeros(queries, dtype=np.int64) for _ in range(4))
    distinct = np.logical_or.reduce([trial.hidden for trial in trials])
    with progress.task("testing on hidden positives", len(trials), unit="repeats") as advance:
        for trial in trials:
            chosen = (material.codes(trial) >= SUSPECTED) & (learnt.of(trial) >= least)
            back = trial.hidden & np.append(chosen, False)[trial.row]
            won += np.bincount(owner[back], minlength=queries)
            hidden_ones += np.bincount(owner[trial.hidden], minlength=queries)
            right += np.bincount(material.query[chosen & (trial.hidden_in > 0)], minlength=queries)
            made += np.bincount(material.query[chosen], minlength=queries)
            advance(1)
    precision = clustered_rate(right, made, max(1, int(made.sum()) // len(trials)))
    return clustered_rate(won, hidden_ones, int(distinct.sum())), precision


def _write(
    store: Store, run: Run, pairs: pa.Table, config: RelabelConfig, progress: Progress, workers: int | None
) -> str | None:
    """Adds the judgments and decides again; returns the new run's name, None where there is nothing new."""
    if pairs.num_rows and not _unfinished(store):
        origin = {"run": run.name, "run_id": run.run_id, "pairs": pairs.num_rows, **asdict(config)}
        stored.add_relabelled(store, pairs, run.split, origin)
    if not _unfinished(store):
        return None
    made = mine(store, config_of(run), workers=workers, progress=progress)
    stored.note_made(store, made)
    return made.name


def _unfinished(store: Store) -> bool:
    """Whether judgments were added that no run has been decided on: after a kill only that is left to do."""
    return any("made" not in origin for origin in stored.relabellings(store))
