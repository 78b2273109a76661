"""What the answers of people say: shares of relevant pairs by stratum, agreement, conflicts, coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from miner.agreement import MISSING, RaterAgreement, agreement
from miner.errors import counted, listed, printable, shown, snippet
from miner.reporting.readable import Readable
from miner.reporting.tables import decimal, percent, text_table
from miner.review.queue import Queue, QueueConfig
from miner.stats import Rate, clustered_rate
from miner.store import reviews as stored
from miner.store.database import Database
from miner.store.reviews import NOT_RELEVANT, RANDOM, RELEVANT, SAMPLE
from miner.store.runs import StoredRun

SUSPECTED, LIKELIEST = "suspected positives", "likeliest negatives"
RANDOMLY, SAMPLED = "random negatives", "sample of the audit"
ABOUT = {
    SAMPLED: "miner audit estimates the false-negative rate from it",
    SUSPECTED: "a rule dropped them for a high score; the likeliest come first",
    LIKELIEST: "selected negatives, the likeliest first: not the rate of all",
    RANDOMLY: "selected negatives at random, outside the sample of an audit: an estimate of their rate",
}
"""What the figures of each group of pairs mean."""
_MOST = 20
"""Conflicts that the text lists."""


@dataclass(frozen=True)
class Group:
    """The answers to one group of pairs."""

    name: str
    pairs: int
    """Pairs in the queue."""
    reviewed: int
    """Pairs that at least one person answered."""
    undecided: int
    """Reviewed pairs without a majority: unsure, or as many for as against."""
    relevant: Rate
    """The share of relevant pairs among the decided ones, with an interval for queries as clusters."""


@dataclass(frozen=True)
class Conflict:
    """A pair that some call relevant and others do not."""

    query_id: str
    doc_id: str
    answers: Mapping[str, str]
    """By reviewer."""
    at: int | None
    """Its position in the queue; None if it is not there."""


@dataclass(frozen=True, repr=False)
class ReviewSummary(Readable):
    """What people answered so far about the candidates of a run."""

    run: str
    pairs: int
    """Pairs in the queue."""
    reviewed: int
    """Those that at least one person answered."""
    queries: int
    reviewed_queries: int
    reviewers: Mapping[str, int]
    """Answers of each reviewer to pairs of the queue."""
    elsewhere: int
    """Answers to pairs that are not in the queue of this run."""
    seconds: float | None
    """Median time of an answer."""
    groups: Sequence[Group]
    agreement: RaterAgreement | None
    """None with fewer than two reviewers. `unsure` counts as no rating."""
    conflicts: Sequence[Conflict]

    def __repr__(self) -> str:
        return f"ReviewSummary of run '{self.run}': {self.reviewed:,} of {self.pairs:,} pairs reviewed"

    def as_json(self) -> dict[str, Any]:
        """Returns the fields as JSON-able values."""
        values = asdict(self)
        for group in values["groups"]:
            group["means"] = ABOUT[group["name"]]
        return values

    def as_text(self) -> str:
        """Returns progress, a table of the groups, agreement and the first conflicts."""
        lines = [
            f"run {printable(self.run)}: {self.reviewed:,} of {counted(self.pairs, 'pair')} reviewed, in "
            f"{self.reviewed_queries:,} of {counted(self.queries, 'query', 'queries')}"
        ]
        if self.reviewers:
            people = listed(f"{shown(name)} {number:,}" for name, number in self.reviewers.items())
            lines.append(f"answers: {people}; median {decimal(self.seconds, 1)} s")
        if self.elsewhere:
            lines.append(f"{counted(self.elsewhere, 'answer')} to pairs that are not in this run's queue")
        rows = [["", "pairs", "reviewed", "undecided", "relevant", "95 % interval"]]
        rows += [_row(group) for group in self.groups]
        lines += ["", *text_table(rows), ""]
        lines += [f"{group.name}: {ABOUT[group.name]}" for group in self.groups]
        if self.agreement is not None:
            lines += ["", _agreement_line(self.agreement)]
        if self.conflicts:
            lines += ["", f"{counted(len(self.conflicts), 'conflict')}:"]
            lines += [_conflict_line(one) for one in self.conflicts[:_MOST]]
            if len(self.conflicts) > _MOST:
                lines.append(f"  … {len(self.conflicts) - _MOST:,} more: --json lists all")
        return "\n".join(lines)


def _row(group: Group) -> list[str]:
    rate = group.relevant
    share = "-" if rate.rate is None else f"{rate.hits:,} of {rate.of:,} ({percent(rate.rate)})"
    interval = "-" if rate.rate is None else f"[{percent(rate.low)}, {percent(rate.high)}]"
    return [group.name, f"{group.pairs:,}", f"{group.reviewed:,}", f"{group.undecided:,}", share, interval]


def _agreement_line(found: RaterAgreement) -> str:
    over = f"{counted(found.units, 'pair')} of {counted(found.clusters, 'query', 'queries')}"
    if found.value is None:
        return f"{found.measure}: not defined over {over}: too few answers, or all are equal"
    interval = "" if found.low is None else f" [{decimal(found.low, 2)}, {decimal(found.high, 2)}]"
    return (
        f"{found.measure} {found.value:.2f}{interval} over {over} that at least two people decided; "
        f"{percent(found.observed)} of their answers are equal"
    )


def _conflict_line(one: Conflict) -> str:
    answers = listed(f"{shown(name)}: {answer}" for name, answer in one.answers.items())
    return f"  {shown(one.query_id)}  {shown(one.doc_id)}  {snippet(answers, 200)}"


def summarise(
    store: Database, run: StoredRun, config: QueueConfig | None = None, queue: Queue | None = None
) -> ReviewSummary:
    """Returns what people answered so far; `queue` is that of the run, if it is known already.

    The groups have the answers that were given for this run, because what another run selected is another
    population. Raises UsageError as `Queue.of`.
    """
    queue = Queue.of(store, run, config or QueueConfig()) if queue is None else queue
    table = stored.answers(store)
    rows = table.select(
        ["query_id", "doc_id", "reviewer", "answer", "run_id", "stratum", "seconds"]
    ).to_pylist()
    known = queue.positions
    inside = [row for row in rows if (row["query_id"], row["doc_id"]) in known]
    by_pair: dict[tuple[str, str], dict[str, str]] = {}
    for row in inside:
        by_pair.setdefault((row["query_id"], row["doc_id"]), {})[row["reviewer"]] = row["answer"]
    own: dict[tuple[str, str], str] = {}
    for row in inside:
        if row["run_id"] == run.run_id:
            own.setdefault((row["query_id"], row["doc_id"]), row["stratum"])
    people = sorted({row["reviewer"] for row in inside})
    return ReviewSummary(
        run=run.name,
        pairs=len(queue),
        reviewed=len(by_pair),
        queries=len(set(queue.query_ids)),
        reviewed_queries=len({query for query, _ in by_pair}),
        reviewers={name: sum(row["reviewer"] == name for row in inside) for name in people},
        elsewhere=len(rows) - len(inside),
        seconds=float(np.median([row["seconds"] for row in inside])) if inside else None,
        groups=_groups(queue, own, by_pair),
        agreement=_agreed(by_pair, people) if len(people) > 1 else None,
        conflicts=[
            Conflict(*pair, dict(sorted(answers.items())), known[pair])
            for pair, answers in sorted(by_pair.items(), key=lambda one: known[one[0]])
            if {RELEVANT, NOT_RELEVANT} <= set(answers.values())
        ],
    )


def group_of(queue: Queue, at: int, stratum: str | None = None) -> str:
    """Returns the name of the group of the pair at a position, or of one that was answered in a stratum."""
    stratum = stratum or queue.strata[at]
    if stratum in (SAMPLE, RANDOM):
        return SAMPLED if stratum == SAMPLE else RANDOMLY
    return SUSPECTED if queue.suspected[at] else LIKELIEST


def _groups(
    queue: Queue, strata: Mapping[tuple[str, str], str], answers: Mapping[tuple[str, str], Mapping[str, str]]
) -> list[Group]:
    """Returns the groups; `strata` says of each pair in which stratum it was when it was answered.

    A pair of another seed's random draw does not become a random one by being in this draw too.
    """
    in_queue = Counter(group_of(queue, at) for at in range(len(queue)))
    queries = {query: number for number, query in enumerate(dict.fromkeys(queue.query_ids))}
    named = {pair: group_of(queue, queue.positions[pair], stratum) for pair, stratum in strata.items()}
    groups = []
    for name in ABOUT:
        members = [pair for pair, group in named.items() if group == name]
        hits, totals = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.int64)
        for pair in members:
            said = stored.majority_of(list(answers[pair].values()))
            hits[queries[pair[0]]] += said == RELEVANT
            totals[queries[pair[0]]] += said is not None
        decided = int(totals.sum())
        if in_queue[name] or members:
            rate = clustered_rate(hits, totals, decided)
            groups.append(Group(name, in_queue[name], len(members), len(members) - decided, rate))
    return groups


def _agreed(by_pair: Mapping[tuple[str, str], Mapping[str, str]], people: Sequence[str]) -> RaterAgreement:
    number = {RELEVANT: 1, NOT_RELEVANT: 0}
    queries: dict[str, int] = {}
    clusters = [queries.setdefault(query, len(queries)) for query, _ in by_pair]
    ratings = [
        [number.get(answers.get(name, ""), MISSING) for name in people] for answers in by_pair.values()
    ]
    return agreement(np.array(ratings).reshape(-1, len(people)), np.array(clusters, dtype=np.int64))
