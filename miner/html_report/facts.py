"""Everything that a report shows, gathered from a store as frozen dataclasses: no markup, nothing written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from miner.auditing.label_parts import PartRate, rates_by_part
from miner.errors import StoreError
from miner.export.certificate import facts as certificate_facts
from miner.html_report.records import BenchRecord, TrainingRecord, read_record
from miner.mining import rules as ruling
from miner.mining.config import MiningConfig
from miner.mining.diff import changes
from miner.mining.pipeline import config_of
from miner.mining.positives import Positives
from miner.mining.shortfalls import Shortfall, shortfalls
from miner.store import report as stored
from miner.store import verdicts
from miner.store.audits import frontier_of_run, last_audit
from miner.store.corpus import counts
from miner.store.database import Database
from miner.store.evidence import scored_positives
from miner.store.models import described_scorer, shown_scorer
from miner.store.report import Example, FoundBy, ScoreBins, TextLengths
from miner.store.runs import StoredRun
from miner.store.triplets import TripletCounts, triplet_counts
from miner.store.verdicts import Codes

BINS = 48
"""Ranges of a histogram of scores."""
SHOWN = 10
"""Examples of each kind."""


@dataclass(frozen=True)
class RunFigures:
    """The figures of a run that two runs are compared by."""

    run: StoredRun
    config: MiningConfig | None
    """None if another version of miner made the run, with settings that this one does not read."""
    triplets: TripletCounts
    verdicts: tuple[tuple[str, str | None, int], ...]
    """(verdict, reason, candidates), the most frequent first."""
    negatives: Mapping[int, int]
    """The number of queries for each number of negatives."""
    certificate: Mapping[str, Any]
    """As `export.certificate.facts`."""

    @property
    def candidates(self) -> int:
        """The number of candidates of the run."""
        return sum(number for *_, number in self.verdicts)

    @property
    def queries(self) -> int:
        """The queries that were mined."""
        return sum(self.negatives.values())

    @property
    def covered(self) -> int:
        """The queries that got all the negatives requested."""
        return sum(number for negatives, number in self.negatives.items() if negatives >= self.run.negatives)

    @property
    def coverage(self) -> float | None:
        """Their share; None if the run has no query."""
        return self.covered / self.queries if self.queries else None

    @property
    def rules(self) -> str:
        """The rules in force, in words."""
        return "not readable by this version" if self.config is None else ruling.in_force(self.config)


@dataclass(frozen=True)
class ScorerFigures:
    """A scorer of the run, and what it contributed."""

    name: str
    title: str
    """Its name as people know it: `BM25`, or the name of the model, file or folder."""
    kind: str
    found: int | None
    """Candidates that it found; None for a reranker or a judge, which find none. So in the next two."""
    alone: int | None
    """Candidates that no other retriever found."""
    positives: int | None
    """Known positives among those that it found."""
    scored: int
    """Candidates with a finite score."""
    decides: bool
    details: Mapping[str, Any]
    """As `store.models.described_scorer`."""


@dataclass(frozen=True)
class Threshold:
    """A bound that the rules put on the deciding score, over the queries."""

    is_upper: bool
    """Whether scores above it are dropped, rather than those below it."""
    low: float
    """A tenth of the queries have a lower bound; equal to `high` if all queries have the same."""
    median: float
    high: float


@dataclass(frozen=True)
class RunComparison:
    """Another run beside the run of the report: what differs, and what became of the negatives."""

    figures: RunFigures
    """Those of the other run."""
    causes: tuple[str, ...]
    """Settings, data and models that differ, from the other run to the run of the report."""
    triplets: Mapping[str, int]
    """How many are in `both`, `gone` (only in the other run) or `new`; so for the positives."""
    positives: Mapping[str, int]
    moved: tuple[tuple[str, str, int], ...]
    """(outcome in the other run, outcome in this run, number) of the negatives of either."""


@dataclass(frozen=True)
class ReportFacts:
    """Everything that a report shows."""

    store: str
    """The name of the store's file."""
    own: RunFigures
    counts: Mapping[str, int]
    """Documents, queries, judgments and runs of the store."""
    lengths: tuple[TextLengths, ...]
    positives: tuple[tuple[int, int], ...]
    """(number of positives, queries of the run with so many)."""
    rejected: tuple[tuple[str, int], ...]
    scorers: tuple[ScorerFigures, ...]
    found_by: tuple[FoundBy, ...]
    bins: ScoreBins | None
    thresholds: tuple[Threshold, ...]
    parts: tuple[PartRate, ...]
    hidden: tuple[PartRate, ...]
    """The hidden-positive rate of the last audit by rank and retriever; its labels are hidden positives."""
    frontier: Mapping[str, Any] | None
    shortfalls: tuple[Shortfall, ...]
    suspects: tuple[Example, ...]
    hardest: tuple[Example, ...]
    trainings: tuple[TrainingRecord, ...]
    benches: tuple[BenchRecord, ...]
    against: RunComparison | None


def gather(
    store: Database, run: StoredRun, against: StoredRun | None, training: Sequence[Path]
) -> ReportFacts:
    """Returns the facts of a run, beside those of another one if it is given.

    `training` are folders of trained models and of benches; MinerError for one without a record of either.
    """
    records = [read_record(folder) for folder in training]
    own = figures(store, run)
    found = tuple(stored.found_by(store, run))
    return ReportFacts(
        store=store.path.name,
        own=own,
        counts=counts(store),
        lengths=tuple(stored.text_lengths(store)),
        positives=tuple(stored.positives_per_query(store, run)),
        rejected=tuple(stored.rejected_rows(store)),
        scorers=tuple(_scorers(store, run, found)),
        found_by=found,
        bins=stored.score_bins(store, run, BINS),
        thresholds=tuple(_thresholds(store, run, own.config)),
        parts=tuple(rates_by_part(store, run)),
        hidden=tuple(_hidden(last_audit(store, run) or {})),
        frontier=frontier_of_run(store, run),
        shortfalls=() if own.config is None else tuple(shortfalls(store, run)),
        suspects=tuple(stored.suspects(store, run, SHOWN)),
        hardest=tuple(stored.hardest(store, run, SHOWN)),
        trainings=tuple(one for one in records if isinstance(one, TrainingRecord)),
        benches=tuple(one for one in records if isinstance(one, BenchRecord)),
        against=None if against is None else _compared(store, against, run),
    )


def figures(store: Database, run: StoredRun) -> RunFigures:
    """Returns the figures of a run."""
    config = None
    with suppress(StoreError, TypeError):  # made by another version
        config = config_of(run)
    return RunFigures(
        run=run,
        config=config,
        triplets=triplet_counts(store, run),
        verdicts=tuple(verdicts.verdict_counts(store, run)),
        negatives=Codes.of(store, run).negative_counts(),
        certificate=certificate_facts(store, run),
    )


def _scorers(store: Database, run: StoredRun, found: Sequence[FoundBy]) -> list[ScorerFigures]:
    scored = stored.scored_counts(store, run)
    result = []
    for one in run.scorers:
        own = [group for group in found if one.name in group.scorers]
        finds = one.is_retriever
        result.append(
            ScorerFigures(
                name=one.name,
                title=shown_scorer(store, one),
                kind=one.kind,
                found=sum(group.candidates for group in own) if finds else None,
                alone=sum(group.candidates for group in own if len(group.scorers) == 1) if finds else None,
                positives=sum(group.positives for group in own) if finds else None,
                scored=scored.get(one.number, 0),
                decides=one == run.deciding,
                details=described_scorer(store, one),
            )
        )
    return result


def _hidden(audit: Mapping[str, Any]) -> Iterator[PartRate]:
    """Yields the parts of an audit in which any positive was hidden."""
    for kind in ("rank", "retriever"):
        for name, one in audit.get(f"by_{kind}", {}).items():
            if one["of"]:
                yield PartRate(kind, name, one["rate"], one["low"], one["high"], one["of"], one["hits"])


def _thresholds(store: Database, run: StoredRun, config: MiningConfig | None) -> list[Threshold]:
    """Returns the bounds of the rules in force, each as a range over the queries."""
    if config is None:
        return []
    result, rules = [], config.rules
    positives = Positives(scored_positives(store, run)).scored
    reference = positives.score
    if rules.reference_positive != "each":
        kind = rules.reference_positive
        reference = ruling.reference_scores(positives.owner, reference, positives.queries, kind)
    reference = reference[np.isfinite(reference)]
    bound = ruling.highest(rules, reference, positives.sorted_scores)
    bound = bound[np.isfinite(bound)]
    if len(bound):
        low, median, high = (float(one) for one in np.quantile(bound, [0.1, 0.5, 0.9]))
        result.append(Threshold(True, low, median, high))
    if rules.min_score is not None:
        result.append(Threshold(False, *[rules.min_score] * 3))
    return result


def _compared(store: Database, before: StoredRun, after: StoredRun) -> RunComparison:
    (triplets,) = verdicts.triplet_changes(store, before, after).to_pylist()
    return RunComparison(
        figures=figures(store, before),
        causes=tuple(changes(before, after)),
        triplets=triplets,
        positives=verdicts.positive_changes(store, before, after),
        moved=tuple(verdicts.moved_negatives(store, before, after)),
    )
