"""Hiding known positives: which may be hidden, a seeded draw of them, and the candidates that this
restores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from shlex import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import as_numpy, drawn_share, pair_keys, positions
from miner.auditing.config import AuditConfig
from miner.collection.collection import Collection
from miner.collection.exclusion import Codes, Exclusions
from miner.collection.texts import StoredTexts
from miner.errors import UsageError
from miner.mining.config import EXCLUDE, MiningConfig
from miner.mining.decide import Documents
from miner.mining.positives import Positives
from miner.schema import CANDIDATES_PER_QUERY, CODES, FREE, Reason
from miner.store import audits as stored
from miner.store import corpus, evidence
from miner.store.corpus import IDENTITY
from miner.store.database import Database
from miner.store.runs import StoredRun

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Hidden:
    """Which positives of a run are hidden, and what follows from the visible ones of all its queries."""

    flags: Flags
    stand_in: Flags
    """Hidden positives that stay with another score (`Positives.stand_in`), one in each query that loses all
    its positives with a finite score."""
    medians: Mapping[str, float]
    """That score, by the name of the column of scores: the median of all visible positives."""
    sorted_scores: Mapping[str, Floats]
    """The finite scores of the visible positives, ascending, by the name of the column."""


@dataclass(frozen=True)
class Hideable:
    """The positives of a run, in order of query_no and doc_id, and which of them may be hidden."""

    table: pa.Table
    """As `stored.positives_to_hide`."""
    positives: Positives
    """The same positives with their deciding scores."""
    scored: Flags
    """Whether each has a finite score by every scorer that is compared; no other is hidden."""

    @classmethod
    def of(cls, store: Database, run: StoredRun, config: MiningConfig) -> Hideable:
        """Returns the positives of a run.

        Raises UsageError if a text of the evidence is no longer in the store.
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
        return cls(table, positives, finite)

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

    def hide(self, flags: Flags) -> Hidden:
        """Returns what follows if these positives are hidden.

        A query that loses all its positives with a finite score keeps one of them, with another score: the
        median of all visible positives. Mining has no reference positive for such a query, and would select
        nothing.
        """
        positives = self.positives
        finite = np.isfinite(positives.score)
        known = finite & ~flags
        has_known = np.bincount(positives.owner[known], minlength=positives.queries) > 0
        lost = np.flatnonzero(flags & finite & ~has_known[positives.owner])
        stand_in = np.zeros(len(flags), dtype=np.bool_)
        if known.any():
            stand_in[lost[np.unique(positives.owner[lost], return_index=True)[1]]] = True
        medians, ascending = {}, {}
        for name in positives.score_names:
            scores = np.asarray(as_numpy(positives.table[name]), dtype=np.float64)[known]
            if stand_in.any():
                medians[name] = float(np.nanmedian(scores))
            ascending[name] = np.sort(scores[np.isfinite(scores)])
        return Hidden(flags, stand_in, medians, ascending)

    @cached_property
    def nothing(self) -> Hidden:
        """What follows if no positive is hidden."""
        return self.hide(np.zeros(len(self.scored), dtype=np.bool_))

    def visible(self, hidden: Hidden, rows: slice, first: int, queries: int) -> Positives:
        """Returns the positives in `rows` that are visible or keep another score; `first` is 0 then.

        `queries` is the number of queries that these are of.
        """
        table, stand_in = (
            self.positives.table.slice(rows.start, rows.stop - rows.start),
            hidden.stand_in[rows],
        )
        columns = {"query_no": as_numpy(table["query_no"]) - first}
        for name in self.positives.score_names if stand_in.any() else ():
            score = np.asarray(as_numpy(table[name]), dtype=np.float64)
            columns[name] = np.where(stand_in, hidden.medians[name], score)
        for name, column in columns.items():
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(column))
        left = ~hidden.flags[rows] | stand_in
        return Positives(table.filter(pa.array(left)), queries, stand_in[left], hidden.sorted_scores)


def _with_cannot_hide(table: pa.Table, reasons: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index("cannot_hide"), "cannot_hide", reasons)


def _cannot_hide(reasons: pa.ChunkedArray, scored: Flags) -> pa.ChunkedArray:
    """Adds the reasons that follow from which positives have a finite score.

    A positive without one could never be selected. Without any visible one no rule can decide.
    """
    if scored.sum() == 1:
        return pc.if_else(pc.and_(pa.array(scored), reasons.is_null()), "alone", reasons)
    return pc.if_else(pc.or_(pa.array(scored), reasons.is_valid()), reasons, "not_scored")


def rows_of(owner: Ints, positive: Ints, query: Ints, doc: Positions) -> Ints:
    """Returns the row of each positive among candidates, -1 without one.

    `owner` are the positives' queries and `positive` their documents, `query` and `doc` those of the
    candidates; -1 for a document without a number.
    """
    wanted = pair_keys(owner, positive)
    is_wanted = np.zeros(max(doc.max(initial=0), positive.max(initial=0)) + 1, dtype=np.bool_)
    is_wanted[positive] = True
    candidates = np.flatnonzero((doc >= 0) & is_wanted[doc])
    keys = pair_keys(query[candidates], doc[candidates])
    order = np.argsort(keys, kind="stable")
    rows = np.full(len(wanted), -1, dtype=np.int64)
    if len(keys):
        inside = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
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
class RunTexts:
    """What the texts and the judgments of a run say about its candidates, whichever positives are hidden."""

    collection: Collection
    """All documents, and the run's queries; without labels."""
    known: Ints
    """The `pair_keys` of the known positives of the queries in any split, sorted."""
    positives: Ints
    """The `pair_keys` of the run's positives, in order of query_no and doc_id."""
    documents: Positions
    """The position of each document that is a candidate of the run, -1 if the store has lost it."""
    config: MiningConfig

    @classmethod
    def of(
        cls, store: Database, run: StoredRun, config: MiningConfig, pairs: pa.Table, documents: Documents
    ) -> RunTexts:
        """Returns those of a run with these positives (query_id, doc_id)."""
        table = corpus.documents(store)
        labels = pa.nulls(len(table), pa.string())
        table = table.set_column(table.schema.get_field_index("label"), "label", labels)
        queries = stored.queries_to_hide(store, run)
        source = StoredTexts(store)
        collection = Collection(
            table, queries, {}, run.split, IDENTITY in run.inputs, source, memory=store.memory
        )
        known = np.sort(collection.keys_of(stored.known_positives_of_run(store, run)))
        found = positions(pa.chunked_array([documents.ids]), collection.doc_ids)
        return cls(collection, known, collection.keys_of(pairs), found, config)

    def restorable(self, candidates: pa.Table, doc: Positions, first: int, rows: slice) -> Restorable:
        """Returns the restorable ones of some `candidates`, whose query 0 is the run's query `first`.

        `doc` are the positions of their documents, `rows` the rows of the positives of their queries.
        """
        exclusion = as_numpy(candidates["exclusion"])
        follows = np.isin(exclusion, [CODES[Reason(name)] for name in stored.FOLLOWS_POSITIVES])
        has_copies = self.collection.clusters >= 0
        at = np.flatnonzero((doc >= 0) & (follows | ((exclusion == FREE) & has_copies[doc])))
        numbers = as_numpy(self.collection.queries["query_no"])
        number = as_numpy(candidates["candidate"])[at] // CANDIDATES_PER_QUERY + first
        query: Positions = np.searchsorted(numbers, number).astype(np.int32)
        judged = as_numpy(candidates["judged_negative"])[at]
        positives = self.positives[rows]
        queries = (int(positives[0] >> 32), int(positives[-1] >> 32) + 1) if len(positives) else (0, 0)
        known = self.known[slice(*np.searchsorted(self.known, np.array(queries, dtype=np.int64) << 32))]
        negatives = pair_keys(query[judged], doc[at][judged])
        return Restorable(self, known, negatives, positives, len(doc), at, query, doc[at])

    @cached_property
    def alike(self) -> Ints:
        """A number per document, equal for copies."""
        texts, cluster = self.collection.passages, self.collection.clusters
        return np.where(cluster >= 0, len(texts) + cluster, texts).astype(np.int64)


@dataclass(frozen=True)
class Restorable:
    """The candidates of some queries that are excluded because of a positive, or that have copies, in
    order."""

    texts: RunTexts
    known: Ints
    """The `pair_keys` of the known positives of the queries, in any split."""
    negatives: Ints
    """The `pair_keys` of those of these candidates that are known negatives."""
    positives: Ints
    """The `pair_keys` of the run's positives of the queries, in order."""
    candidates: int
    """How many candidates the queries have."""
    rows: Ints
    """The row of each among them."""
    query: Positions
    doc: Positions
    """The position of each in `texts`."""

    def exclusions(self, row: Ints, hidden: Flags) -> ExclusionsLeft:
        """Returns the exclusions that hold if the `hidden` ones of `positives` are not known.

        `row` is the candidate that each positive is, -1 without.
        """
        gone = self.positives[hidden]
        visible = np.ones(len(self.known), dtype=np.bool_)
        visible[np.searchsorted(self.known, gone)] = False
        reasons = self._without_positives.copy()
        for reason, rows, number in self._causes:
            rows = rows[visible[number]]
            if reason in (Reason.OVERLAPS_POSITIVE, Reason.SAME_DOCUMENT):
                rows = rows[np.isin(reasons[rows], (FREE, CODES[Reason.SAME_DOCUMENT]))]
            reasons[rows] = CODES[reason]
        has_hidden = np.zeros(int(self.query.max(initial=-1)) + 1, dtype=np.bool_)
        queries = gone >> 32
        has_hidden[queries[queries < len(has_hidden)]] = True
        of = np.flatnonzero(has_hidden[self.query])
        query, doc = self.query[of], self.doc[of]
        reasons = self._exclusions.without_copies(reasons[of], query, doc)
        free = reasons == FREE
        is_free = np.zeros(self.candidates + 1, dtype=np.bool_)
        is_free[self.rows[of[free]]] = True
        replaced_by = row.copy()
        lost = np.flatnonzero(hidden & ~is_free[row])
        # Rows are in fused order: the first copy that is not excluded is the candidate instead.
        alike, keys = self.texts.alike, self.positives[lost]
        groups, first = np.unique(pair_keys(query[free], alike[doc[free]]), return_index=True)
        wanted = pair_keys(keys >> 32, alike[keys & 0xFFFFFFFF])
        has_copy = np.flatnonzero(np.isin(wanted, groups))
        copies = first[np.searchsorted(groups, wanted[has_copy])]
        replaced_by[lost[has_copy]] = self.rows[of[free]][copies]
        return ExclusionsLeft(self.rows[of], reasons, replaced_by)

    @cached_property
    def _exclusions(self) -> Exclusions:
        """The exclusions with all positives known."""
        config = self.texts.config
        collection, protected = self.texts.collection, tuple(config.protected)
        same = config.same_document == EXCLUDE
        return Exclusions(collection, self.known, self.negatives, config.overlaps, protected, same)

    @cached_property
    def _causes(self) -> list[tuple[Reason, Ints, Ints]]:
        """Which known positives exclude which of these candidates: texts are compared once for all draws."""
        return self._exclusions.causes(self.query, self.doc)

    @cached_property
    def _without_positives(self) -> Codes:
        """The exclusion of each that is due to no positive."""
        nobody = replace(self._exclusions, positives=np.zeros(0, dtype=np.int64))
        return nobody.reasons(self.query, self.doc)
