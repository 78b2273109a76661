"""Hiding known positives: the evidence as it would be if nobody had judged them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from shlex import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import drawn_share, positions
from miner.auditing.config import AuditConfig
from miner.auditing.restored import Exclusion, Reopenable
from miner.errors import UsageError
from miner.mining.config import MiningConfig
from miner.mining.decide import Positives, deciding_score
from miner.schema import CANDIDATES_PER_QUERY
from miner.store import audits as stored
from miner.store import evidence
from miner.store.database import Store
from miner.store.runs import Run

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Hideable:
    """The positives of a run, in order of query_no and doc_id, and which of them may be hidden."""

    table: pa.Table
    """As `stored.positives_to_hide`."""
    positives: Positives
    """The same with their deciding scores."""
    row: Ints
    """The row of `candidates` that each positive is, -1 where no retriever found it."""
    candidates: Ints
    """The numbers of all candidates, in order."""
    reopenable: Reopenable

    @classmethod
    def of(cls, store: Store, run: Run, config: MiningConfig, candidates: pa.Table) -> Hideable:
        """Reads what a run's evidence says of its positives.

        `candidates` are all of them in order (`evidence.scored_candidates`). Raises UsageError when
        the store has lost a text of the evidence.
        """
        table = stored.positives_to_hide(store, run)
        scored = evidence.scored_positives(store, run.evidence, deciding_score(config), run.reranker)
        if table.num_rows != scored.num_rows:
            raise UsageError(
                f"{store.path} has lost queries or documents since run '{run.name}' was mined",
                f"mine again with the same options: miner mine {quote(str(store.path))}",
            )
        positives = Positives(scored)
        table = table.set_column(
            table.schema.get_field_index("cannot_hide"), "cannot_hide", _bars(table["cannot_hide"], positives)
        )
        numbers = candidates["candidate"].to_numpy()
        row = _rows(table, numbers // CANDIDATES_PER_QUERY, candidates["doc_id"])
        reopenable = Reopenable.of(store, run, config, candidates)
        return cls(table, positives, row, numbers, reopenable)

    @cached_property
    def allowed(self) -> Flags:
        """Whether each positive may be hidden."""
        return np.asarray(self.table["cannot_hide"].is_null().to_numpy())

    def bars(self) -> dict[str, int]:
        """Returns how many positives may not be hidden, by reason of `stored.CANNOT_HIDE`."""
        found = self.table["cannot_hide"].drop_null().value_counts().to_pylist()
        counts = {one["values"]: one["counts"] for one in found}
        return {bar: counts[bar] for bar in stored.CANNOT_HIDE if bar in counts}

    def among(self, pairs: pa.Table) -> Hideable:
        """Returns the same, but only those of these pairs (query_id, doc_id) may be hidden."""
        named = set(zip(pairs["query_id"].to_pylist(), pairs["doc_id"].to_pylist(), strict=True))
        own = zip(self.table["query_id"].to_pylist(), self.table["doc_id"].to_pylist(), strict=True)
        inside = pa.array([pair in named for pair in own], pa.bool_())
        bar = pc.if_else(
            pc.or_(inside, self.table["cannot_hide"].is_valid()), self.table["cannot_hide"], "not_held_out"
        )
        return replace(self, table=self.table.drop_columns("cannot_hide").append_column("cannot_hide", bar))

    def draws(self, settings: AuditConfig) -> list[Flags]:
        """Returns which positives each repeat hides."""
        rngs = (np.random.default_rng([settings.seed, repeat]) for repeat in range(settings.repeats))
        return [self.draw(settings.share, rng) for rng in rngs]

    def draw(self, share: float, rng: np.random.Generator) -> Flags:
        """Returns which positives to hide: about `share` of each query's, of those that may be.

        A query keeps one positive with a finite score at least.
        """
        scored = np.isfinite(self.positives.score)
        drawn = np.zeros(len(scored), dtype=np.bool_)
        drawn[scored] = drawn_share(self.positives.owner[scored], self.allowed[scored], share, rng)
        return drawn

    def visible(self, hidden: Flags) -> Positives:
        """Returns the positives that are left, with their scores."""
        return Positives(self.positives.table.filter(pa.array(~hidden)), self.positives.queries)

    def exclusion(self, hidden: Flags) -> Exclusion:
        """Returns what is excluded with these positives hidden, where that may differ."""
        return self.reopenable.exclusion(self.table, self.row, hidden)


def _bars(bars: pa.ChunkedArray, positives: Positives) -> pa.ChunkedArray:
    """What bars each positive from being hidden, with those that only its score tells.

    One without a finite score could never come back as a negative, and the last one that has one is needed.
    """
    scored = np.isfinite(positives.score)
    if scored.all():
        return bars
    number = np.bincount(positives.owner[scored], minlength=positives.queries)[positives.owner]
    bars = pc.if_else(pc.or_(pa.array(scored), bars.is_valid()), bars, "not_scored")
    return pc.if_else(pc.or_(pa.array(number > 1), bars.is_valid()), bars, "only")


def _rows(table: pa.Table, query: Ints, doc_ids: pa.ChunkedArray) -> Ints:
    """The row of each positive among the candidates (`query` numbers and ids, in order), -1 without one."""
    known = table["doc_id"].unique()
    ours = positions(table["doc_id"], known).astype(np.int64)
    theirs = positions(doc_ids, known).astype(np.int64)
    places = np.flatnonzero(theirs >= 0)
    keys = query[places] * len(known) + theirs[places]
    order = np.argsort(keys, kind="stable")
    wanted = table["query_no"].to_numpy().astype(np.int64) * len(known) + ours
    found = np.searchsorted(keys[order], wanted)
    inside = np.minimum(found, len(keys) - 1)
    rows = np.full(len(wanted), -1, dtype=np.int64)
    if len(keys):
        hit = keys[order][inside] == wanted
        rows[hit] = places[order[inside[hit]]]
    return rows
