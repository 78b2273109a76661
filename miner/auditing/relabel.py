"""Relabelling: pairs that scores, people or a judge call relevant become judgments, which can be undone.

Each way to choose the pairs has a function and a report of its own; all end in `judge_relevant`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import as_numpy
from miner.auditing.audit import require_hideable
from miner.auditing.config import AuditConfig
from miner.auditing.probability import Facts, Probability
from miner.auditing.replay import Replay, ReplayEvidence
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError, listed, near, printable, shown
from miner.mining.adaptive import note_reach
from miner.mining.by_encoder import settings_in_run
from miner.mining.config import MiningConfig
from miner.mining.pipeline import config_of, mine
from miner.models.endpoint import is_served
from miner.models.names import resolve
from miner.ranges import ABOVE_0, SHARE, check_fields, known_keywords, within
from miner.reporting.readable import Readable
from miner.reporting.tables import percent
from miner.schema import SUSPECTED
from miner.stats import Rate, clustered_rate
from miner.store import judges, reviews, verdicts
from miner.store import relabel as stored
from miner.store.corpus import content_hashes
from miner.store.database import Database
from miner.store.models import models_of_unknown_training
from miner.store.runs import StoredRun, changed_since
from miner.store.scorers import Scorer
from miner.store.tables import JUDGE, RELABELLED, REVIEWED


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
    relevant, not_relevant = (counts[name].to_pylist() for name in ("relevant", "not_relevant"))
    said = [reviews.majority(*votes) for votes in zip(relevant, not_relevant, strict=True)]
    chosen = counts.filter(pa.array([one == reviews.RELEVANT for one in said])).select(["query_id", "doc_id"])
    is_known = np.array([tuple(row.values()) in known for row in chosen.to_pylist()], dtype=bool)
    pairs = chosen.filter(pa.array(~is_known))
    again = None if dry_run else judge_relevant(store, run, pairs, REVIEWED, {}, progress, workers)
    return PeopleReport(
        run=run.name,
        answered=counts.num_rows,
        relevant=chosen.num_rows,
        conflicts=sum(one is None and number > 0 for one, number in zip(said, relevant, strict=True)),
        known=int(is_known.sum()),
        relabelled=pairs.num_rows,
        again=again,
    )


@known_keywords
@dataclass(frozen=True)
class RelabelByJudgeConfig:
    """Which judge's grades become judgments. Raises UsageError at construction for a value out of range."""

    judge: str | None = None
    """Its name among the scorers of the run (default: the last)."""
    min_kappa: float = within(0.4, SHARE)
    """The lowest measured kappa with which its grades become judgments."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, repr=False)
class RelabelByJudgeReport(Readable):
    """What a relabelling by a judge's grades did."""

    run: str
    judge: str
    kappa: float
    """Its agreement with the known relevance, as `miner judge` measured it."""
    recall: float
    """The share of known positives that it called relevant there."""
    relevant: int
    """Candidates of the run that it calls relevant: grade 2 or 3."""
    known: int
    """Those that have a judgment already; they are left out."""
    relabelled: int
    again: str | None
    """The run decided with the new judgments; None without new judgments, or with `dry_run`."""

    def as_text(self) -> str:
        """Returns a line for each count."""
        again = f"; decided again as run {printable(self.again)}" if self.again else ""
        return "\n".join(
            [
                f"run {printable(self.run)}, judge {printable(self.judge)} (kappa {self.kappa:.2f}, finds "
                f"{percent(self.recall)} of known positives)",
                f"relevant    {self.relevant:,}, of which {self.known:,} have a judgment already",
                f"relabelled  {self.relabelled:,}{again}",
            ]
        )


def relabel_by_judge(
    store: Database,
    run: StoredRun,
    config: RelabelByJudgeConfig,
    progress: Progress = SILENT,
    *,
    dry_run: bool = False,
    workers: int | None = None,
) -> RelabelByJudgeReport:
    """Turns candidates that a judge calls relevant into judgments and decides again; `dry_run` only reports.

    The grades are those of `miner judge`. The judgments have the source `judge`, and `remove_relabelled`
    undoes them. Raises UsageError if no judge graded pairs of the run, if its error was not measured or its
    kappa is too low, if the run is decided by a judge, or if texts were added or removed since the run was
    mined; ModelError if a model of the run is missing, and what `mine` raises.
    """
    if not dry_run:
        _require_models(run, config_of(run))
    with store.snapshot():
        _require_same_texts(store, run)
        judge = _judge_of(store, run, config.judge)
        checked = _require_agreement(store, run, judge, config.min_kappa)
        found = judges.relevant_pairs(store, run, judge, judges.RELEVANT)
    pairs = found.filter(pc.invert(found["known"])).select(["query_id", "doc_id"])
    origin = asdict(config) | {"judge": judge.judge}
    again = None if dry_run else judge_relevant(store, run, pairs, JUDGE, origin, progress, workers)
    return RelabelByJudgeReport(
        run=run.name,
        judge=judge.name,
        kappa=checked["kappa"]["value"],
        recall=checked["recall"]["value"],
        relevant=found.num_rows,
        known=found.num_rows - pairs.num_rows,
        relabelled=pairs.num_rows,
        again=again,
    )


_LEAST = 20
"""Pairs of each kind on which the error of a judge has to be measured."""


def _judges_of(run: StoredRun) -> list[Scorer]:
    return [one for one in run.scorers if one.is_judge]


def _judge_of(store: Database, run: StoredRun, name: str | None) -> judges.StoredJudge:
    """Returns a judge of a run by its name there, by default the last; raises UsageError."""
    known = {one.name: one.model for one in _judges_of(run)}
    if run.deciding.is_judge or (run.config["rules"]["agree"] is not None and any(_judges_of(run))):
        raise UsageError(
            f"run '{run.name}' is decided with a judge, which mining again does not ask",
            "relabel the run that it was decided from",
        )
    if not known:
        raise UsageError(
            f"no judge graded pairs of run '{run.name}'",
            f"judge some first: miner judge {quote(str(store.path))} --run {quote(run.name)}",
        )
    if name is not None and name not in known:
        raise UsageError(
            f"no judge '{shown(name)}' graded pairs of run '{run.name}'{near(name, known)}",
            f"judges: {listed(known)}",
        )
    key = known[name] if name is not None else list(known.values())[-1]
    return next(one for one in judges.judges(store) if one.judge == key)


def _require_agreement(
    store: Database, run: StoredRun, judge: judges.StoredJudge, least: float
) -> Mapping[str, Any]:
    """Returns the measured error of a judge; raises UsageError if it was not measured, or is too large."""
    checked = judge.checked
    if checked is None or checked["kappa"]["value"] is None:
        raise UsageError(
            f"the error of judge '{judge.name}' was not measured",
            f"measure it: miner judge {quote(str(store.path))} --run {quote(run.name)} --set check=200",
        )
    if (number := min(checked["positives"], checked["negatives"])) < _LEAST:
        raise UsageError(
            f"the error of judge '{judge.name}' was measured on {number} pairs of a kind: too few to rely on",
            f"measure it: miner judge {quote(str(store.path))} --run {quote(run.name)} --set check=200",
        )
    kappa = checked["kappa"]
    if kappa["value"] < least:
        raise UsageError(
            f"judge '{judge.name}' agrees too little with the known relevance: kappa {kappa['value']:.2f} "
            f"[{kappa['low']:.2f}, {kappa['high']:.2f}], below {least:g}",
            "use a better model or instructions, or lower it: --set min_kappa=…",
        )
    return checked


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
