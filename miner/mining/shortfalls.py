"""Why queries got too few negatives, and which settings would give them more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, floor, log10

import numpy as np
import numpy.typing as npt

from miner.arrays import as_numpy, number_within, slices
from miner.errors import counted
from miner.mining import rules as ruling
from miner.mining.config import RULES, MiningConfig, Rules
from miner.mining.pipeline import config_of
from miner.mining.positives import Positives
from miner.mining.unscored import no_scored_positive, other_deciders
from miner.reporting.tables import percent
from miner.schema import CANDIDATES_PER_QUERY, CODES, FREE, KEPT, SUSPECTED, Reason
from miner.store import evidence as stored
from miner.store.corpus import counts
from miner.store.database import Database
from miner.store.runs import LONGEST, StoredRun
from miner.store.scorers import DENSE, IMPORTED
from miner.store.verdicts import Codes

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FEW_CANDIDATES, EXCLUDED, UNUSED = "few_candidates", "excluded", "unused"
NO_SCORED_POSITIVE = "no_scored_positive"
"""The causes other than rules: few candidates, most of them excluded, unused because of a quota, or no
positive with a score by the scorer that decides."""
OTHERS = "others"
"""The queries with all causes that are too rare for a hint."""
_BY_RULE = (
    *ruling.BOUNDS,
    Reason.AGREE,
    Reason.NOT_RERANKED,
    Reason.MIN_SCORE,
    Reason.RANK_WINDOW,
    Reason.DOCUMENT_CAP,
    Reason.NOT_JUDGED,
    "not_scored",
)
_SAMPLE = 500
"""At most this many queries are used to find a looser value."""
_BLOCK = 1 << 20
"""Candidates whose codes are counted at a time."""
_ENOUGH = 0.9
"""The advised value suits this share of the queries that some value suits."""
_MOST = {"percentile": 50.0, "relative_percentile": 1.0}
"""The loosest values that are advised: looser ones keep candidates that score like positives."""
_OPTIONS = ("relative_margin", "percentile")
"""Rules that are options of the command line; the others are settings."""
_WORTH = 0.2
"""Causes of less than this share of the queries have no hint of their own."""


@dataclass(frozen=True)
class Shortfall:
    """Queries that got fewer negatives than requested, with one cause."""

    cause: str
    """The most frequent reason of their candidates, or FEW_CANDIDATES, EXCLUDED, UNUSED, NO_SCORED_POSITIVE
    or OTHERS."""
    queries: int
    hint: str
    """How many queries, why, and which settings would give them more, if any would."""

    def __str__(self) -> str:
        return self.hint


def shortfalls(store: Database, run: StoredRun, codes: Codes | None = None) -> list[Shortfall]:
    """Returns the main causes for which queries of a run got too few negatives, the most frequent first.

    The cause of a query is the most frequent reason of its candidates, or FEW_CANDIDATES if those that are
    not excluded are fewer than requested. The last one may be OTHERS. No model runs. `codes` are those of the
    run, for a caller that has them.
    """
    found = (codes or Codes.of(store, run)).short(run.negatives)
    if not len(found.query):
        return []
    short = _Short(store, run, config_of(run), found)
    causes = sorted(Counter(short.causes).items(), key=lambda one: (-one[1], one[0]))
    least = _WORTH * len(found.query)
    rare = sum(number for _, number in causes if number < least)
    main = [
        Shortfall(cause, number, f"{counted(number, 'query', 'queries')}: {short.hint(cause)}")
        for cause, number in causes
        if number >= least
    ]
    if rare:
        why = "rarer causes; view shortfalls has the commonest reason of each query"
        main.append(Shortfall(OTHERS, rare, f"{counted(rare, 'other query', 'other queries')}: {why}"))
    return main


def _cause(code: int) -> str:
    if code < KEPT:
        return "selected"
    if code == KEPT:
        return UNUSED
    reason = str(ruling.REASONS[code % SUSPECTED])
    return reason if reason in _BY_RULE else EXCLUDED


class _Short:
    """The queries of a run that got too few negatives."""

    def __init__(self, store: Database, run: StoredRun, config: MiningConfig, found: Codes) -> None:
        self._store, self._run, self._config = store, run, config
        self._numbers, self._candidates = found.query, found.sizes
        self._positives = Positives(stored.scored_positives(store, run))
        self.causes = self._causes(found.codes)
        """One per query."""

    def _causes(self, codes: npt.NDArray[np.int16]) -> list[str]:
        edges = np.concatenate([[0], np.cumsum(self._candidates)])
        blocks = [(rows, slice(*edges[[rows.start, rows.stop]])) for rows in slices(self._candidates, _BLOCK)]
        found: set[int] = set()
        for _, inside in blocks:
            # Codes are small numbers: a table of them spares np.unique's sort of all candidates.
            some, lowest = codes[inside].astype(np.int64), int(codes[inside].min(initial=0))
            found.update((np.flatnonzero(np.bincount(some - lowest)) + lowest).tolist())
        known, lowest = sorted(found), min(found, default=0)
        names = list(dict.fromkeys(map(_cause, known)))
        column = np.zeros(max(found, default=0) - lowest + 1, dtype=np.int64)
        for code in known:
            column[code - lowest] = names.index(_cause(code))
        shape = len(self._candidates), max(1, len(names))
        counts, unscored = np.zeros(shape, dtype=np.int64), np.zeros(shape[0], dtype=np.bool_)
        may_score = self._in_rounds and Reason.NOT_RERANKED in names
        depth = self._config.rerank_depth or CANDIDATES_PER_QUERY
        for rows, inside in blocks:
            some, sizes = codes[inside].astype(np.int64), self._candidates[rows]
            owner = np.repeat(np.arange(len(sizes)), sizes)
            cells = np.bincount(owner * shape[1] + column[some - lowest], minlength=len(sizes) * shape[1])
            counts[rows] = cells.reshape(len(sizes), shape[1])
            if may_score:
                deep = (some == CODES[Reason.NOT_RERANKED]) & (number_within(owner) <= depth)
                unscored[rows] = np.bincount(owner[deep], minlength=len(sizes)) > 0
        if "selected" in names:
            counts[:, names.index("selected")] = 0
        excluded = counts[:, names.index(EXCLUDED)].copy() if EXCLUDED in names else 0
        free = self._candidates - excluded
        many = (excluded > free) & (self._candidates >= self._run.negatives)
        few = (free < self._run.negatives) & ~many
        if EXCLUDED in names:
            # With enough others, these are not why negatives are missing, however many they are.
            missing = many & (free < self._run.negatives)
            counts[:, names.index(EXCLUDED)] = np.where(missing, len(codes), 0)
        if may_score:
            # What was not scored may be the negatives that are missing, however many others were dropped.
            counts[unscored, names.index(Reason.NOT_RERANKED)] = len(codes)
        most = counts.argmax(axis=1).tolist()
        scored = self._positives.has_scored[self._numbers]
        return [
            (FEW_CANDIDATES if one else names[column]) if known else NO_SCORED_POSITIVE
            for known, one, column in zip(scored, few, most, strict=True)
        ]

    def hint(self, cause: str) -> str:
        """Returns which settings would give more negatives to the queries with this cause."""
        of = np.array([one == cause for one in self.causes])
        if cause == FEW_CANDIDATES:
            return self._more_candidates(of)
        if cause == NO_SCORED_POSITIVE:
            return no_scored_positive(self._store, self._run)
        if cause == EXCLUDED:
            what = "most candidates are excluded (positives, their copies, protected documents)"
            deeper = self._deeper(of)
            return f"{what}; mine with a larger --depth" if deeper else f"{what}, and there are no others"
        if cause == UNUSED:
            selection = self._config.selection
            return f"a quota leaves kept candidates unused; raise quota {' or '.join(selection.quota)}"
        if cause == Reason.NOT_RERANKED and self._in_rounds:
            return "some candidates were not reranked; miner mine with these rules scores what is missing"
        if cause == Reason.NOT_RERANKED:
            larger = "rerank_depth or cascade_depth" if self._config.cascade_depth else "rerank_depth"
            return f"most candidates were not reranked; mine with a larger {larger}"
        if cause == Reason.NOT_JUDGED:
            return (
                f"most candidates were not judged by {self._run.deciding.name}: miner judge with --of both "
                "grades negatives too, or let another scorer decide"
            )
        if cause == Reason.DOCUMENT_CAP:
            return "most candidates are already negatives of other queries; raise document_cap"
        if cause == Reason.RANK_WINDOW:
            return self._wider()
        if cause == Reason.AGREE:
            agree = "most candidates were dropped by agree, as too few scorers put them low; lower agree"
            return self._deeper_first(agree)
        if cause in RULES:
            queries = self._numbers[of]
            looser = _Looser(self._store, self._run, self._config, cause, queries, self._positives)
            return self._deeper_first(looser.hint())
        if self._run.deciding.kind == IMPORTED:
            ways = other_deciders(self._store, self._run, "their pairs")
            return f"most candidates have no score by {self._run.deciding.name}; {ways}"
        return "most candidates have no finite score: reason not_scored in view verdicts"

    @property
    def _in_rounds(self) -> bool:
        """Whether a reranker decides that stopped when the rules it was mined with had their negatives."""
        return self._run.is_adaptive and self._run.deciding == self._run.scorers[-1]

    def _deeper_first(self, hint: str) -> str:
        """Returns a hint to loosen a rule, after a larger depth if an imported file has more candidates."""
        lengths: Mapping[str, int] = self._run.inputs.get(LONGEST, {})
        name = max(lengths, key=lambda one: lengths[one], default="")
        if not name or lengths[name] <= self._config.depth or self._config.rerank_depth is not None:
            return hint
        what, _, ways = hint.partition("; ")
        deeper = (
            f"mine with a larger --depth than {self._config.depth:,}: {name} has up to {lengths[name]:,} "
            "candidates per query"
        )
        return f"{what}; {deeper}" + ("" if "--depth" in ways else f"; or {ways}")

    def _deeper(self, of: npt.NDArray[np.bool_]) -> bool:
        """Returns whether a larger depth may find more candidates of some of these queries."""
        found = self._candidates[of]
        return bool(((found >= self._config.depth) & (found < counts(self._store)["documents"])).any())

    def _more_candidates(self, of: npt.NDArray[np.bool_]) -> str:
        config, wanted = self._config, self._run.negatives
        what = f"fewer than {wanted} candidates can be negatives"
        if self._deeper(of):
            return f"{what} with --depth {config.depth}; mine with a larger --depth"
        kinds = {one.kind for one in self._run.retrievers}
        if DENSE in kinds or counts(self._store)["documents"] <= wanted:
            return f"{what}, and there are no others"  # the other kinds do not find every document
        ways = [] if config.bm25 else ["leave BM25 on"]
        if config.bm25:
            languages = f"stemmer={config.stemmer} and stopwords={config.stopwords}"
            ways.append(f"check that {languages} suit the texts")
        encoder = "a dense --encoder" if config.encoder else "--encoder"
        ways.append(f"add {encoder}{', which needs no shared words' if config.bm25 else ''}")
        if IMPORTED in kinds:
            ways.append("import more candidates of these queries")
        return f"{what}; {', or '.join(ways)}"

    def _wider(self) -> str:
        rules = self._config.rules
        given = [name for name in ("skip_top", "max_rank") if getattr(rules, name) != RULES[name]]
        ways = [{"skip_top": "lower skip_top", "max_rank": "raise max_rank"}[name] for name in given]
        if rules.skip_top and rules.max_rank is None:
            ways.append("mine with a larger --depth")
        return f"most candidates are outside the window of ranks; {' or '.join(ways)}"


class _Looser:
    """Searches for a value of one rule that gives some queries enough negatives."""

    def __init__(
        self,
        store: Database,
        run: StoredRun,
        config: MiningConfig,
        rule: str,
        queries: Ints,
        positives: Positives,
    ) -> None:
        self._run, self._config, self._rule = run, config, rule
        step = max(1, ceil(len(queries) / _SAMPLE))
        self._queries, self._all = queries[::step], step == 1
        self._known: dict[str, tuple[Floats, Floats]] = {}
        self._positives = positives
        table = stored.scored_candidates(store, run, queries=self._queries.tolist())
        self._owner: Ints = as_numpy(table["candidate"]) // CANDIDATES_PER_QUERY
        self._score = np.asarray(as_numpy(table["score"]), dtype=np.float64)
        self._judged = as_numpy(table["judged_negative"])
        self._free = np.asarray(as_numpy(table["exclusion"]) == FREE)
        self._rank: Ints = as_numpy(table["best_rank"]).astype(np.int64)

    def hint(self) -> str:
        """Returns the value, the number of queries that it helps, and other settings that help, if any do."""
        what = f"most candidates were dropped by {self._rule}"
        if self._config.rules.reference_positive == "each":
            return f"{what}; loosen {self._rule}"
        ways = [*self._value(self._rule), *self._median()]
        if self._rule in ruling.FROM_REFERENCE:
            # One bound for all queries also helps those whose lowest positive scores very low.
            ways += self._value("percentile")
        ways.sort(key=lambda way: -way[0])
        if ways:
            least = _WORTH * ways[0][0]
            advice = [f"{flags} (for {self._many(helped)})" for helped, flags in ways if helped >= least]
            return f"{what}; {self._run.negatives} are left with {' or '.join(advice)}"
        others = [name for name in RULES if name != self._rule]
        if any(getattr(self._config.rules, name) != RULES[name] for name in others):
            return f"{what}, and the other rules leave fewer than {self._run.negatives} as well; loosen both"
        return f"{what}, and no looser value is safe; mine with a larger --depth"

    def _many(self, helped: int) -> str:
        """The number of queries; the share if they are a sample."""
        return f"{helped:,}" if self._all else f"about {percent(helped / len(self._queries), 0)}"

    def _value(self, rule: str) -> Iterator[tuple[int, str]]:
        """Yields how many queries a looser value of a rule helps, and the flags for it.

        Values that would keep candidates that score like positives are not advised.
        """
        if rule != self._rule and getattr(self._config.rules, rule) is not None:
            return
        needed = _needed(rule, *self._bounds(self._config.rules.reference_positive), self._positives)
        safe = np.isfinite(needed) & (needed <= _MOST.get(rule, np.inf))
        if rule in ("absolute_margin", "relative_margin"):
            safe &= needed >= 0
        known = np.sort(needed[safe])
        if not len(known):
            return
        loosest = known if _rises(rule) else known[::-1]
        value = _rounded(float(loosest[ceil(_ENOUGH * len(known)) - 1]), up=_rises(rule))
        value = min(value, _MOST.get(rule, np.inf))
        rules = replace(self._config.rules, **{self._rule: None, rule: value})  # type: ignore[arg-type]
        yield _suited(rule, needed, value), _flags(rules)

    def _median(self) -> Iterator[tuple[int, str]]:
        """Yields how many queries the median as reference positive helps, with the same value of the rule."""
        rules = self._config.rules
        if self._rule not in ruling.FROM_REFERENCE or rules.reference_positive != "lowest":
            return
        needed = _needed(self._rule, *self._bounds("median"), self._positives)
        if helped := _suited(self._rule, needed, getattr(rules, self._rule)):
            yield helped, "--set reference_positive=median"

    def _bounds(self, kind: str) -> tuple[Floats, Floats]:
        """Returns the score that the rule must keep to leave each query enough, and the reference score.

        NaN if the other rules alone leave too few.
        """
        if kind not in self._known:
            self._known[kind] = self._bounds_of(kind)
        return self._known[kind]

    def _bounds_of(self, kind: str) -> tuple[Floats, Floats]:
        owned = self._positives.owner, self._positives.score, self._positives.queries
        reference = ruling.reference_scores(*owned, kind)
        rules = replace(self._config.rules, **{self._rule: None})  # type: ignore[arg-type]
        rows = ruling.Scored(self._score, reference[self._owner], self._rank, self._judged)
        passed = self._free & (ruling.apply(rules, rows, self._positives.sorted_scores) == KEPT)
        # No rule against high scores applies to a known negative.
        harmless = self._judged & (self._rule != Reason.MIN_SCORE)
        sign = -1.0 if self._rule == Reason.MIN_SCORE else 1.0
        value = np.where(harmless, -np.inf, sign * self._score)[passed]
        owner = self._owner[passed]
        order = np.lexsort((value, owner))
        numbers, starts, counts = np.unique(owner[order], return_index=True, return_counts=True)
        wanted = self._run.negatives
        enough = counts >= wanted
        bounds = np.full(len(reference), np.nan)
        bounds[numbers[enough]] = sign * value[order][starts[enough] + wanted - 1]
        return bounds[self._queries], reference[self._queries]


def _rises(rule: str) -> bool:
    """Whether a higher value of a rule is looser."""
    return rule in ("max_score", "percentile", "relative_percentile")


def _suited(rule: str, needed: Floats, value: float) -> int:
    """How many queries a value of a rule suits."""
    return int(np.sum(needed <= value if _rises(rule) else needed >= value))


def _needed(rule: str, bound: Floats, start: Floats, positives: Positives) -> Floats:
    """The value of a rule with which each query's bound is kept; NaN or infinity if no value does.

    `start` are the queries' reference scores.
    """
    scores = positives.sorted_scores
    with np.errstate(divide="ignore", invalid="ignore"):
        if rule == "absolute_margin":
            return np.asarray(start - bound)
        if rule == "relative_margin":
            return np.asarray((start - bound) / np.abs(start))
        if rule == "percentile":
            return np.asarray(np.interp(bound, scores, np.linspace(0, 100, len(scores)), right=np.nan))
        if rule == "relative_percentile":
            share = np.where(np.isnan(bound), np.nan, ruling.distribution(scores, bound))
            return np.asarray(share / ruling.distribution(scores, start))
    return bound


def _rounded(value: float, up: bool) -> float:
    """The value with two digits, rounded to the looser side."""
    if not value:
        return 0.0
    step = 10.0 ** (floor(log10(abs(value))) - 1)
    return float(f"{(ceil(value / step) if up else floor(value / step)) * step:.12g}")


def _flags(rules: Rules) -> str:
    """Returns all rules that are on as the command line names them: naming one replaces the others."""
    on = {name: getattr(rules, name) for name in RULES if getattr(rules, name) != RULES[name]}
    return " ".join(
        f"--{name.replace('_', '-')} {value:g}" if name in _OPTIONS else f"--set {name}={value:g}"
        for name, value in on.items()
    )
