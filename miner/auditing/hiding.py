"""Hiding known positives: which may be hidden, a seeded draw of them, and the candidates that this
restores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from shlex import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import drawn_share, pair_keys, positions
from miner.auditing.config import AuditConfig
from miner.collection.collection import Collection
from miner.collection.exclusion import Codes, Exclusions
from miner.errors import UsageError
from miner.mining.config import MiningConfig
from miner.mining.decide import Documents, Positives
from miner.schema import CANDIDATES_PER_QUERY, CODES, FREE, Reason
from miner.store import audits as stored
from miner.store import evidence
from miner.store.corpus import IDENTITY
from miner.store.database import Database
from miner.store.runs import StoredRun

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Hideable:
    """The positives of a run, in order of query_no and doc_id, and which of them may be hidden."""

    table: pa.Table
    """As `stored.positives_to_hide`."""
    positives: Positives
    """The same positives with their deciding scores."""
    scored: Flags
    """Whether each has a finite score by every scorer that is compared; no other is hidden."""
    row: Ints
    """The row of `candidates` that each positive is, -1 if no retriever found it."""
    candidates: Ints
    """The numbers of all candidates, in order."""
    restorable: Restorable

    @classmethod
    def of(
        cls,
        store: Database,
        run: StoredRun,
        config: MiningConfig,
        candidates: pa.Table,
        documents: Documents,
    ) -> Hideable:
        """Returns the positives of a run.

        `candidates` are all of the run's in order (`evidence.scored_candidates`), of `documents`. Raises
        UsageError if a text of the evidence is no longer in the store.
        """
        table = stored.positives_to_hide(store, run)
        others = run.scorers if config.rules.agree is not None else ()
        scored = evidence.scored_positives(store, run, others=others)
        if table.num_rows != scored.num_rows:
            raise UsageError(
                f"{store.path} has lost queries or documents since run '{run.name}' was mined",
                f"mine again with the same options: miner mine {quote(str(store.path))}",
            )
        positives = Positives(scored)
        finite = np.isfinite(positives.score)
        table = _with_cannot_hide(table, _cannot_hide(table["cannot_hide"], finite))
        numbers = candidates["candidate"].to_numpy()
        indices = documents.indices(candidates)
        row = _rows(table, numbers // CANDIDATES_PER_QUERY, indices, documents.ids)
        restorable = Restorable.of(store, run, config, candidates, documents)
        return cls(table, positives, finite, row, numbers, restorable)

    def scored_by(self, others: Sequence[Floats]) -> Hideable:
        """Returns the same positives, of which those may not be hidden that another scorer did not score.

        `others` are the scores of all positives by each other scorer that is compared. Every scorer is then
        measured on the same hidden positives.
        """
        scored = np.logical_and.reduce([self.scored, *(np.isfinite(one) for one in others)])
        table = _with_cannot_hide(self.table, _cannot_hide(self.table["cannot_hide"], scored))
        return replace(self, scored=scored, table=table)

    def by(self, scores: Floats) -> Hideable:
        """Returns the same positives with the scores of another scorer that decides; the draws are equal."""
        table = self.positives.table
        table = table.set_column(table.schema.get_field_index("score"), "score", pa.array(scores))
        return replace(self, positives=Positives(table, self.positives.queries))

    @cached_property
    def allowed(self) -> Flags:
        """Whether each positive may be hidden."""
        return np.asarray(self.table["cannot_hide"].is_null().to_numpy())

    def cannot_hide(self) -> dict[str, int]:
        """Returns how many positives may not be hidden, by reason of `stored.CANNOT_HIDE`."""
        rows = self.table["cannot_hide"].drop_null().value_counts().to_pylist()
        counts = {row["values"]: row["counts"] for row in rows}
        return {reason: counts[reason] for reason in stored.CANNOT_HIDE if reason in counts}

    def among(self, pairs: pa.Table) -> Hideable:
        """Returns the same positives, of which only these pairs (query_id, doc_id) may be hidden."""
        named = set(zip(pairs["query_id"].to_pylist(), pairs["doc_id"].to_pylist(), strict=True))
        own = zip(self.table["query_id"].to_pylist(), self.table["doc_id"].to_pylist(), strict=True)
        return self._also(np.array([pair not in named for pair in own], dtype=np.bool_), "not_withheld")

    def _also(self, barred: Flags, reason: str) -> Hideable:
        """Returns the same positives, of which those `barred` may not be hidden either."""
        known = self.table["cannot_hide"]
        reasons = pc.if_else(pc.and_(pa.array(barred), known.is_null()), reason, known)
        return replace(self, table=_with_cannot_hide(self.table, reasons))

    def draws(self, settings: AuditConfig) -> list[Flags]:
        """Returns the positives that each repeat hides."""
        rngs = (np.random.default_rng([settings.seed, repeat]) for repeat in range(settings.repeats))
        return [self.draw(settings.share, rng) for rng in rngs]

    def draw(self, share: float, rng: np.random.Generator, of_singles: float | None = None) -> Flags:
        """Returns the positives to hide: about `share` of each query's, among those that may be hidden.

        A query with several positives that have a finite score (`scored`) keeps one of them; with a share of
        1 it loses all others. About `of_singles` (by default `share`) of the queries with a single one lose
        it.
        """
        scored, single = self.scored, self.single
        drawn = np.zeros(len(scored), dtype=np.bool_)
        drawn[scored] = drawn_share(self.positives.owner[scored], self.allowed[scored], share, rng)
        if self.allowed[single].any():
            left = int(single.sum() == scored.sum())
            group = np.zeros(single.sum(), dtype=np.int64)
            lost = share if of_singles is None else of_singles
            drawn[single] = drawn_share(group, self.allowed[single], lost, rng, left)
        return drawn

    @cached_property
    def single(self) -> Flags:
        """Whether each positive is the only one of its query with a finite score."""
        owner, scored = self.positives.owner, self.scored
        alone = np.bincount(owner[scored], minlength=self.positives.queries) == 1
        return np.asarray(scored & alone[owner])

    def with_others(self) -> Hideable:
        """Returns the same positives, of which those may not be hidden whose query has no other."""
        return self._also(self.single, "only")

    def visible(self, hidden: Flags) -> Positives:
        """Returns the positives that are not hidden, with their scores.

        A query that loses all its positives with a finite score keeps one of them, with another score
        (`Positives.stand_in`): the median of all visible positives. Mining has no reference positive for
        such a query, and would select nothing.
        """
        positives = self.positives
        known = np.isfinite(positives.score) & ~hidden
        has_known = np.bincount(positives.owner[known], minlength=positives.queries) > 0
        lost = np.flatnonzero(hidden & np.isfinite(positives.score) & ~has_known[positives.owner])
        if not len(lost) or not known.any():
            return Positives(positives.table.filter(pa.array(~hidden)), positives.queries)
        stand_in = np.zeros(len(hidden), dtype=np.bool_)
        stand_in[lost[np.unique(positives.owner[lost], return_index=True)[1]]] = True
        table = positives.table
        for name in (name for name in table.column_names if name.startswith("score")):
            score = np.asarray(table[name].to_numpy(), dtype=np.float64)
            median = np.nanmedian(score[known])
            column = pa.array(np.where(stand_in, median, score))
            table = table.set_column(table.schema.get_field_index(name), name, column)
        left = ~hidden | stand_in
        return Positives(table.filter(pa.array(left)), positives.queries, stand_in[left])

    def exclusions(self, hidden: Flags) -> ExclusionsLeft:
        """Returns the exclusions that may differ with these positives hidden."""
        return self.restorable.exclusions(self.table, self.row, hidden)


def _with_cannot_hide(table: pa.Table, reasons: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index("cannot_hide"), "cannot_hide", reasons)


def _cannot_hide(reasons: pa.ChunkedArray, scored: Flags) -> pa.ChunkedArray:
    """Adds the reasons that follow from which positives have a finite score.

    A positive without one could never be selected. Without any visible one no rule can decide.
    """
    if scored.sum() == 1:
        return pc.if_else(pc.and_(pa.array(scored), reasons.is_null()), "alone", reasons)
    return pc.if_else(pc.or_(pa.array(scored), reasons.is_valid()), reasons, "not_scored")


def _rows(table: pa.Table, query: Ints, indices: Positions, ids: pa.Array) -> Ints:
    """The row of each positive among the candidates, -1 without one.

    `query` are the candidates' query numbers, in order, and `indices` their documents' indices among `ids`.
    """
    ours = positions(table["doc_id"], ids).astype(np.int64)
    wanted = np.where(ours >= 0, table["query_no"].to_numpy().astype(np.int64) * len(ids) + ours, -1)
    is_positive = np.zeros(len(ids), dtype=np.bool_)
    is_positive[ours[ours >= 0]] = True
    candidates = np.flatnonzero(is_positive[indices])
    keys = query[candidates] * len(ids) + indices[candidates]
    order = np.argsort(keys, kind="stable")
    inside = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    rows = np.full(len(wanted), -1, dtype=np.int64)
    if len(keys):
        hit = keys[order][inside] == wanted
        rows[hit] = candidates[order[inside[hit]]]
    return rows


@dataclass(frozen=True)
class ExclusionsLeft:
    """The exclusions of the candidates that a hidden positive may have excluded."""

    rows: Ints
    """Rows of candidates."""
    reasons: Codes
    """Why each is excluded without the hidden positives, as a code; FREE if it is restored."""
    replaced_by: Ints
    """Per positive, its row. If that is excluded, or no retriever found it, the row of the copy that is then
    a candidate instead; -1 without either."""


@dataclass(frozen=True)
class Restorable:
    """The candidates that are excluded because of a positive, or that have copies, in order."""

    texts: Collection
    """The texts of these candidates, of the positives and of the queries; without labels."""
    known: pa.Table
    """The known positives of the queries, in any split: query_id, doc_id."""
    negatives: pa.Table
    """Which of these candidates are known negatives: query_id, doc_id."""
    rows: Ints
    """The row of each among all candidates."""
    query: Positions
    doc: Positions
    """The position of each in `texts`."""
    config: MiningConfig

    @classmethod
    def of(
        cls,
        store: Database,
        run: StoredRun,
        config: MiningConfig,
        candidates: pa.Table,
        documents: Documents,
    ) -> Restorable:
        """Returns those of a run; `candidates` and `documents` are those of `Hideable.of`."""
        texts = Collection(*stored.texts_to_hide(store, run), {}, run.split, IDENTITY in run.inputs)
        known = stored.known_positives_of_run(store, run)
        known_documents = positions(pa.chunked_array([documents.ids]), texts.doc_ids)
        doc = known_documents[documents.indices(candidates)]
        exclusion = candidates["exclusion"].to_numpy()
        follows = np.isin(exclusion, [CODES[Reason(name)] for name in stored.FOLLOWS_POSITIVES])
        has_copies = texts.documents["cluster"].is_valid().to_numpy()
        rows = np.flatnonzero((doc >= 0) & (follows | ((exclusion == FREE) & has_copies[doc])))
        numbers = candidates["candidate"].to_numpy()[rows] // CANDIDATES_PER_QUERY
        query = np.searchsorted(texts.queries["query_no"].to_numpy(), numbers).astype(np.int32)
        flags = candidates["judged_negative"].to_numpy()[rows]
        negatives = pa.table(
            {
                "query_id": texts.query_ids.take(pa.array(query[flags])),
                "doc_id": texts.doc_ids.take(pa.array(doc[rows][flags])),
            }
        )
        return cls(texts, known, negatives, rows, query, doc[rows], config)

    def exclusions(self, pairs: pa.Table, row: Ints, hidden: Flags) -> ExclusionsLeft:
        """Returns the exclusions that hold if the `hidden` ones of `pairs` are not known to be positives.

        `pairs` are the run's positives (query_id, doc_id), `row` the candidate that each is, -1 without.
        """
        keys = self._keys(pairs)
        of = np.flatnonzero(np.isin(self.query, keys[hidden] >> 32))
        query, doc = self.query[of], self.doc[of]
        reasons = self._exclusions(keys[hidden]).of_candidates(query, doc)
        free = reasons == FREE
        replaced_by = row.copy()
        lost = np.flatnonzero(hidden & ~np.isin(row, self.rows[of[free]]))
        # Rows are in fused order: the first copy that is not excluded is the candidate instead.
        groups, first = np.unique(pair_keys(query[free], self._alike[doc[free]]), return_index=True)
        wanted = pair_keys(keys[lost] >> 32, self._alike[keys[lost] & 0xFFFFFFFF])
        has_copy = np.flatnonzero(np.isin(wanted, groups))
        copies = first[np.searchsorted(groups, wanted[has_copy])]
        replaced_by[lost[has_copy]] = self.rows[of[free]][copies]
        return ExclusionsLeft(self.rows[of], reasons, replaced_by)

    def _exclusions(self, hidden: Ints) -> Exclusions:
        """The exclusions if the pairs with these keys are not known to be positives."""
        known = self.known.filter(pa.array(~np.isin(self._known_keys, hidden)))
        return Exclusions(self.texts, known, self.negatives, self.config.overlaps, self.config.protected)

    @cached_property
    def _known_keys(self) -> Ints:
        return self._keys(self.known)

    def _keys(self, pairs: pa.Table) -> Ints:
        query = positions(pairs["query_id"], self.texts.query_ids)
        return pair_keys(query, positions(pairs["doc_id"], self.texts.doc_ids))

    @cached_property
    def _alike(self) -> Ints:
        """A number per document, equal for copies."""
        texts = self.texts.passages
        cluster = self._exclusions(np.zeros(0, dtype=np.int64)).clusters
        return np.where(cluster >= 0, len(texts) + cluster, texts).astype(np.int64)
