"""Relabelling: pairs that scores or people call relevant become judgments, which can be undone.

Each way to choose the pairs has a function and a report of its own; all end in `judge_relevant`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa

from miner.arrays import as_numpy
from miner.auditing.audit import require_hideable
from miner.auditing.config import AuditConfig
from miner.auditing.probability import Facts, Probability
from miner.auditing.replay import Replay, ReplayEvidence
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError, printable
from miner.mining.adaptive import note_reach
from miner.mining.by_encoder import settings_in_run
from miner.mining.config import MiningConfig
from miner.mining.pipeline import config_of, mine
from miner.models.endpoint import is_served
from miner.models.names import resolve
from miner.ranges import ABOVE_0, check_fields, known_keywords, within
from miner.reporting.readable import Readable
from miner.schema import SUSPECTED
from miner.stats import Rate, clustered_rate
from miner.store import relabel as stored
from miner.store import reviews, verdicts
from miner.store.corpus import content_hashes
from miner.store.database import Database
from miner.store.models import models_of_unknown_training
from miner.store.runs import StoredRun, changed_since
from miner.store.tables import RELABELLED, REVIEWED


@known_keywords
@dataclass(frozen=True)
class RelabelConfig:
    """What becomes a judgment. Raises UsageError at construction for a value out of range."""

    probability: float = within(0.5, ABOVE_0)
    """Lowest probability of being a positive with which a suspected positive becomes a judgment."""
    hiding: AuditConfig = field(default_factory=AuditConfig)
    """How positives are hidden to fit the probability."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, repr=False)
class RelabelReport(Readable):
    """What a relabelling did, and how well it would find hidden positives."""

    run: str
    probability: float
    recall: Rate
    """The share of hidden positives that would have become judgments."""
    precision: Rate
    """The share of hidden positives among all that would have become judgments, with as many positives
    unjudged as were hidden. Documents that nobody judged count as not relevant. No hidden positive is among
    the pairs that are written now: this measures how well the probability separates, not how many of those
    pairs are relevant."""
    suspected: int
    relabelled: int
    cannot_hide: dict[str, int]
    """How many positives may not be hidden, by reason (`store.audits.CANNOT_HIDE`)."""
    unknown_training: list[str]
    """Models of the run whose training data the store does not know."""
    again: str | None
    """The run decided with the new judgments; None without new judgments, or with `dry_run`."""


def relabel(
    store: Database,
    run: StoredRun,
    config: RelabelConfig,
    progress: Progress = SILENT,
    *,
    dry_run: bool = False,
    workers: int | None = None,
) -> RelabelReport:
    """Turns the likely suspected positives of a run into judgments and decides again; `dry_run` only reports.

    The new run uses stored scores; pairs that it needs and no run has scored are scored. The same call
    after a kill continues. Raises UsageError if no positive of the run may be hidden, or if texts were
    added or removed since it was mined (undoing could not remove what they would add), ModelError if a
    model of the run is missing, and what `mine` raises.
    """
    if not dry_run:
        _require_models(run, config_of(run))
    note_reach(run, progress)
    with store.snapshot():
        _require_same_texts(store, run)
        replay = Replay.of(store, run)
        # The probability compares candidates with the positives of their query: one has to stay.
        replay = replace(replay, hideable=replay.hideable.with_others())
        require_hideable(store, run, replay.hideable)
        facts = Facts.of(store, run, replay)
        suspected = verdicts.suspected(store, run)
        unknown_training = models_of_unknown_training(store, run)
    with progress.task("hiding positives", config.hiding.repeats, unit="repeats") as advance:
        replays = []
        for hidden in replay.hideable.draws(config.hiding):
            replays.append(replay.hide(replay.hideable.hide(hidden)))
            advance(1)
    model = Probability(facts, replays, config.hiding.seed)
    recall, precision = _tested(replay, model, replays, config.probability, progress)
    probability = model.of(replay.mined)
    rows = np.searchsorted(as_numpy(replay.candidates["candidate"]), suspected["candidate"].to_numpy())
    likely = pa.array(probability[rows] >= config.probability)
    pairs = suspected.filter(likely).select(["query_id", "doc_id"])
    origin = asdict(config)
    again = None if dry_run else judge_relevant(store, run, pairs, RELABELLED, origin, progress, workers)
    return RelabelReport(
        run=run.name,
        probability=config.probability,
        recall=recall,
        precision=precision,
        suspected=suspected.num_rows,
        relabelled=pairs.num_rows,
        cannot_hide=replay.hideable.cannot_hide(),
        unknown_training=unknown_training,
        again=again,
    )


@dataclass(frozen=True, repr=False)
class PeopleReport(Readable):
    """What a relabelling by people's answers did."""

    run: str
    answered: int
    """Pairs of the run's queries that people answered in `miner review`."""
    relevant: int
    """Those that all, or most, call relevant."""
    conflicts: int
    """Those that as many call relevant as not; they are left out."""
    known: int
    """Relevant ones that have a judgment already; they are left out."""
    relabelled: int
    again: str | None
    """The run decided with the new judgments; None without new judgments, or with `dry_run`."""

    def as_text(self) -> str:
        """Returns a line for each count."""
        lines = [
            f"run {printable(self.run)}, answers of people",
            f"answered    {self.answered:,} pairs",
            f"relevant    {self.relevant:,}, of which {self.known:,} have a judgment already",
            f"conflicts   {self.conflicts:,} pairs that as many call relevant as not, left out",
        ]
        if self.again:
            lines.append(f"relabelled  {self.relabelled:,} judgments; decided again as run {self.again}")
        else:
            lines.append(f"relabelled  none{': --dry-run' if self.relabelled else ''}")
        return "\n".join(lines)


def relabel_by_people(
    store: Database,
    run: StoredRun,
    progress: Progress = SILENT,
    *,
    dry_run: bool = False,
    workers: int | None = None,
) -> PeopleReport:
    """Turns pairs that people call relevant into judgments and decides again; `dry_run` only reports.

    The answers are those of `miner review`. A pair is relevant if more reviewers say so than say that it is
    not; `unsure` does not count. The judgments have the source `reviewed`, and `remove_relabelled` undoes
    them. Raises UsageError without answers, or if texts were added or removed since the run was mined,
    ModelError if a model of the run is missing, and what `mine` raises.
    """
    if not dry_run:
        _require_models(run, config_of(run))
    with store.snapshot():
        _require_same_texts(store, run)
        counts = reviews.votes(store, run)
        known = reviews.judged_pairs(store)
    if not counts.num_rows:
        raise UsageError(
            f"nobody answered for queries of run '{run.name}'",
            f"review some pairs first: miner review {quote(str(store.path))}",
        )
    lead = counts["relevant"].to_numpy() - counts["not_relevant"].to_numpy()
    chosen = counts.filter(pa.array(lead > 0)).select(["query_id", "doc_id"])
    is_known = np.array([tuple(row.values()) in known for row in chosen.to_pylist()], dtype=bool)
    pairs = chosen.filter(pa.array(~is_known))
    again = None if dry_run else judge_relevant(store, run, pairs, REVIEWED, {}, progress, workers)
    return PeopleReport(
        run=run.name,
        answered=counts.num_rows,
        relevant=chosen.num_rows,
        conflicts=int(((lead == 0) & (counts["relevant"].to_numpy() > 0)).sum()),
        known=int(is_known.sum()),
        relabelled=pairs.num_rows,
        again=again,
    )


def _require_same_texts(store: Database, run: StoredRun) -> None:
    changed = changed_since(store, run)
    # Judgments that were removed may leave other queries to mine: their evidence is not stored.
    queries = content_hashes(store, run.split)["queries"]
    if "documents" in changed or queries != str(run.inputs["queries"]).split("/")[0]:
        raise UsageError(
            f"{' and '.join(changed)} changed since run '{run.name}' was mined",
            f"mine again with the same options, and relabel that run: miner mine {quote(str(store.path))}",
        )


def _require_models(run: StoredRun, config: MiningConfig) -> None:
    """Raises ModelError for a missing model before anything is written; deciding again has to resolve
    them."""
    revisions = settings_in_run(run, "encoder_revision")
    named = [*zip(config.encoder, revisions, strict=True)]
    for name, revision in [*named, *((one, config.reranker_revision) for one in config.reranker)]:
        if not is_served(name):
            resolve(name, revision)


def _tested(
    replay: Replay, model: Probability, replays: list[ReplayEvidence], least: float, progress: Progress
) -> tuple[Rate, Rate]:
    """Returns recall and precision on the hidden positives of these replays."""
    owner, queries = replay.hideable.positives.owner, replay.hideable.positives.queries
    recalled, hidden, right, made = (np.zeros(queries, dtype=np.int64) for _ in range(4))
    distinct = np.logical_or.reduce([one.hidden for one in replays])
    with progress.task("testing on hidden positives", len(replays), unit="repeats") as advance:
        for one in replays:
            chosen = (replay.codes(one) >= SUSPECTED) & (model.of(one) >= least)
            hits = one.hidden & np.append(chosen, False)[one.row]
            recalled += np.bincount(owner[hits], minlength=queries)
            hidden += np.bincount(owner[one.hidden], minlength=queries)
            right += np.bincount(replay.query[chosen & (one.hidden_in > 0)], minlength=queries)
            made += np.bincount(replay.query[chosen], minlength=queries)
            advance(1)
    precision = clustered_rate(right, made, max(1, int(made.sum()) // len(replays)))
    return clustered_rate(recalled, hidden, int(distinct.sum())), precision


def judge_relevant(
    store: Database,
    run: StoredRun,
    pairs: pa.Table,
    source: str,
    origin: Mapping[str, Any],
    progress: Progress,
    workers: int | None,
) -> str | None:
    """Makes judgments of pairs (query_id, doc_id) and decides again; returns the name of the new run.

    The judgments are relevant, of the run's split, and have this source; `origin` says how the pairs were
    chosen. Returns None without new judgments. Judgments that a killed call added are decided on first.
    """
    if pairs.num_rows and not _unfinished(store):
        whole = {"run": run.name, "run_id": run.run_id, "pairs": pairs.num_rows, "source": source, **origin}
        stored.add_relabelled(store, pairs, run.split, whole, source)
    if not _unfinished(store):
        return None
    made = mine(store, config_of(run), workers=workers, progress=progress)
    stored.note_made(store, made)
    return made.name


def _unfinished(store: Database) -> bool:
    """Whether judgments were added without a run decided on them: after a kill only that remains to do."""
    return any("made" not in origin for origin in stored.relabellings(store))
