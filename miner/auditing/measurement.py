"""How a calibration measures settings: by draws of hidden positives, on either half of the queries.

The evidence is read by ranges of queries, once for all settings. Only sums over queries are kept, of whole
numbers or without rounding, so that the ranges make no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.auditing.choice import Figures, SweptRules
from miner.auditing.config import CalibrationConfig
from miner.auditing.grid import families, rounded
from miner.auditing.hiding import Hidden, Hideable
from miner.auditing.replay import LeftSums, Replay, ReplayEvidence, Replays
from miner.auditing.sweep import Sweep, only
from miner.auditing.transfer import LabelledChances, PredictedRate
from miner.engine.progress import Progress
from miner.engine.work import ordered_map, worker_count
from miner.mining.config import Rules
from miner.mining.rules import highest, reference_scores
from miner.stats import ClusterSums, Rate
from miner.store.scorers import Scorer

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HIDDEN_SHARES = (0.3, 0.6, 1.0)
"""The shares of each query's positives that are hidden, one after the other; 1 leaves one of them."""
OF_SINGLES = 0.6
"""At most this share of the queries with a single positive loses it: percentiles need some visible ones."""
_BISECTIONS = 10
_HALVES = 1 << 20
"""The second number of the halves' seed; it differs from the number of every repeat."""


def halves(hideable: Hideable, seed: int) -> tuple[Flags, Flags]:
    """Returns which queries choose the setting, and which confirm it, by query number."""
    queries = hideable.positives.queries
    chooses = np.random.default_rng([seed, _HALVES]).permutation(queries) < queries // 2
    exists = np.bincount(hideable.positives.owner, minlength=queries) > 0
    return chooses & exists, ~chooses & exists


@dataclass(frozen=True)
class DecidingScores:
    """A scorer that decides, with the run's rules for its scores."""

    scorer: Scorer
    rules: Rules
    hideable: Hideable
    """The positives with its scores."""

    def covered(self, rules: Rules, least: Floats) -> int:
        """Returns how many queries have all their negatives, which needs a bound of at `least` so much in
        each (`Sweep.covering`)."""
        known, kind = self.hideable.positives, rules.reference_positive
        reference = reference_scores(known.owner, known.score, known.queries, kind)
        return int((highest(rules, reference, known.sorted_scores) >= least).sum())


@dataclass(frozen=True)
class Draws:
    """Several draws of one share of hidden positives."""

    share: float
    drawn: dict[str | None, list[Hidden]]
    """What each draw hides, by the `decide_by` of the rules: the same positives whichever scorer decides."""
    hidden: Ints
    """Positives hidden per query, over all draws."""
    distinct: Ints
    """Different positives hidden per query."""

    @classmethod
    def of(
        cls,
        deciders: Mapping[str | None, DecidingScores],
        share: float,
        number: int,
        settings: CalibrationConfig,
    ) -> Draws:
        """Returns the draws of a share, the `number`-th of HIDDEN_SHARES."""
        hideable = next(iter(deciders.values())).hideable
        seeds = ([settings.seed, number * settings.repeats + repeat] for repeat in range(settings.repeats))
        drawn = [hideable.draw(share, np.random.default_rng(seed), min(share, OF_SINGLES)) for seed in seeds]
        hidden = {name: [one.hideable.hide(flags) for flags in drawn] for name, one in deciders.items()}
        owner, queries = hideable.positives.owner, hideable.positives.queries
        hidden_of = np.zeros(queries, dtype=np.int64)
        for flags in drawn:
            hidden_of += np.bincount(owner[flags], minlength=queries)
        distinct = np.bincount(owner[np.logical_or.reduce(drawn)], minlength=queries)
        return cls(share, hidden, hidden_of, distinct)

    def rate(self, hits: ClusterSums, among: Flags, against: float = 0.0) -> Rate:
        """Returns the rate of some queries, from the sums over them."""
        return hits.rate(int(self.distinct[among].sum()), against=against)

    def sums(self, selected: Ints, among: Flags) -> list[ClusterSums]:
        """Returns the sums over some queries of their hidden positives, and of the selected ones: those of
        each row of `selected`, shape (rows, 3), the sums of the counts, their squares, and their products
        with the hidden ones."""
        sizes = self.hidden[among]
        fixed = int(sizes.sum()), int(sizes @ sizes), int(np.count_nonzero(sizes))
        return [
            ClusterSums(hits, fixed[0], squares, products, *fixed[1:])
            for hits, squares, products in selected.tolist()
        ]


@dataclass(frozen=True)
class Measurement:
    """Measures settings on either half and on all queries."""

    replays: Replays
    deciders: dict[str | None, DecidingScores]
    """By the `decide_by` of the rules."""
    chances: LabelledChances | None
    """The chances of the candidates by labels, if the run has labels."""
    draws: list[Draws]
    halves: tuple[Flags, Flags]
    """Which queries choose, and which confirm."""
    choosing: dict[Rules, ClusterSums] = field(default_factory=dict)
    """The selected positives on the half that chooses, of each setting that was measured."""

    @classmethod
    def of(
        cls,
        replays: Replays,
        deciders: dict[str | None, DecidingScores],
        settings: CalibrationConfig,
        chances: LabelledChances | None,
    ) -> Measurement:
        """Returns the measurement of a run; without queries of several positives, two shares are the same."""
        hideable = replays.hideable
        shares = HIDDEN_SHARES[:2] if hideable.single.all() else HIDDEN_SHARES
        draws = [Draws.of(deciders, share, number, settings) for number, share in enumerate(shares)]
        return cls(replays, deciders, chances, draws, halves(hideable, settings.seed))

    def settings(self, grid: Sequence[Rules], progress: Progress) -> list[SweptRules]:
        """Returns every setting of the grid with its figures, in order. The evidence is read once."""
        of_scorer: dict[str | None, list[Rules]] = {}
        for rules in grid:
            of_scorer.setdefault(rules.decide_by, []).append(rules)
        ranges = self.replays.ranges() if grid else []
        repeats = sum(len(draws.drawn[name]) for name in of_scorer for draws in self.draws)
        costs = {rules: [LeftSums(), LeftSums()] for rules in grid}
        hits: dict[str | None, Any] = dict.fromkeys(of_scorer, 0)
        labelled: dict[str | None, Any] = dict.fromkeys(of_scorer, 0)
        with progress.task("sweeping", len(ranges) * repeats, unit="repeats") as advance:
            for part in map(self.replays.part, ranges):
                replays = {name: self._by(part, name) for name in of_scorer}
                inside = [half[part.numbers.start : part.numbers.stop] for half in self.halves]
                for name, settings in of_scorer.items():
                    sweep = Sweep(replays[name], replays[name].mined)
                    for rules, counts in zip(settings, sweep.counts(settings), strict=True):
                        costs[rules] = [
                            one + counts.sums(half) for one, half in zip(costs[rules], inside, strict=True)
                        ]
                    if self.chances is not None:
                        labelled[name] += self.chances.count(sweep, settings)
                for name, found in self._hits(part, replays, of_scorer, inside, advance).items():
                    hits[name] += found
        swept: dict[Rules, SweptRules] = {}
        for name, settings in of_scorer.items():
            predicted: Sequence[PredictedRate | None] = [None] * len(settings)
            if self.chances is not None:
                predicted = self.chances.rates(labelled[name])
            for rules, sums, rate in zip(settings, self._sums(hits[name]), predicted, strict=True):
                swept[rules] = self._swept(rules, costs[rules], sums, rate)
        return [swept[rules] for rules in grid]

    def _by(self, part: Replay, decide_by: str | None) -> Replay:
        """Returns the evidence of some queries, decided by a scorer."""
        one = self.deciders[decide_by]
        return part if decide_by == part.config.rules.decide_by else part.by(one.scorer, one.hideable)

    def _hits(
        self,
        part: Replay,
        replays: Mapping[str | None, Replay],
        of_scorer: Mapping[str | None, list[Rules]],
        halves: Sequence[Flags],
        advance: Callable[[int], None],
    ) -> dict[str | None, Ints]:
        """Returns the sums over some queries of their selected positives, by scorer: shape (shares, halves,
        settings, 3), the sums of the counts, their squares, and their products with the hidden ones."""

        def trials() -> Iterator[tuple[int, str | None, ReplayEvidence]]:
            """Yields the evidence of every draw, by the number of its share and the scorer."""
            for number, draws in enumerate(self.draws):
                for several in zip(*(draws.drawn[name] for name in replays), strict=True):
                    exclusions = part.exclusions(several[0])
                    for (name, replay), hidden in zip(replays.items(), several, strict=True):
                        yield number, name, replay.hide_with(hidden, exclusions)

        def swept(trial: tuple[int, str | None, ReplayEvidence]) -> tuple[int, str | None, Ints]:
            """Returns the selected positives of each setting and query."""
            number, name, evidence = trial
            return number, name, np.array(Sweep(replays[name], evidence).selected(of_scorer[name]))

        shape = len(self.draws), len(part.numbers)
        selected = {
            name: np.zeros((shape[0], len(settings), shape[1]), dtype=np.int64)
            for name, settings in of_scorer.items()
        }
        for number, name, counts in ordered_map(swept, trials(), worker_count()):
            selected[name][number] += counts
            advance(1)
        found = {}
        for name, counts in selected.items():
            found[name] = np.zeros((shape[0], len(halves), counts.shape[1], 3), dtype=np.int64)
            for number, draws in enumerate(self.draws):
                hidden = draws.hidden[part.numbers.start : part.numbers.stop]
                for half, among in enumerate(halves):
                    own = counts[number][:, among]
                    sums = own.sum(axis=1), np.einsum("ij,ij->i", own, own), own @ hidden[among]
                    found[name][number, half] = np.column_stack(sums)
        return found

    def _sums(self, hits: Ints) -> Iterator[list[list[ClusterSums]]]:
        """Yields, for each setting, the sums of each share of hidden positives on each half."""
        per_share = [
            [draws.sums(one, half) for one, half in zip(of_halves, self.halves, strict=True)]
            for draws, of_halves in zip(self.draws, hits, strict=True)
        ]
        for setting in range(hits.shape[2]):
            yield [[half[setting] for half in halves] for halves in per_share]

    def _swept(
        self,
        rules: Rules,
        costs: Sequence[LeftSums],
        hits: Sequence[Sequence[ClusterSums]],
        false_negatives: PredictedRate | None,
    ) -> SweptRules:
        either = self.halves[0] | self.halves[1]
        rates = [
            draws.rate(one + other, either).rate or 0.0
            for draws, (one, other) in zip(self.draws, hits, strict=True)
        ]
        worst = int(np.argmax(rates))
        draws, (one, other) = self.draws[worst], hits[worst]
        self.choosing[rules] = one
        choosing, confirming, both = (
            _figures(draws.rate(sums, among), left)
            for sums, among, left in zip(
                (one, other, one + other), (*self.halves, either), (*costs, costs[0] + costs[1]), strict=True
            )
        )
        return SweptRules(rules, draws.share, choosing, confirming, both, false_negatives)

    def expected(self, chosen: SweptRules) -> Rate:
        """Returns the rate on the choosing half, with the interval expected on the confirming half."""
        (draws,) = (draws for draws in self.draws if draws.share == chosen.share)
        chooses, confirms = self.halves
        sizes = [int(draws.distinct[half].sum()) for half in (confirms, chooses)]
        return draws.rate(self.choosing[chosen.rules], chooses, sizes[0] / max(1, sizes[1]))

    def strictest(self, own: Rules, grid: Sequence[Rules]) -> list[Rules]:
        """Returns the strictest setting of every rule whose coverage is at least that of the `own` rules.

        A stricter setting of one rule selects fewer false negatives, so only coverage bounds it.
        """
        least = self._least([own, *grid])

        def covered(rules: Rules) -> int:
            """Returns how many queries have all their negatives with the rules."""
            return self.deciders[rules.decide_by].covered(rules, least[_apart_from_bounds(rules)])

        needed, found = covered(own), []
        for name, alike in families(grid):
            counts = np.array([covered(rules) for rules in alike])
            first = int(np.argmax(counts >= needed))
            if counts[first] < needed:
                continue
            strict, loose = alike[max(0, first - 1)], alike[first]
            for _ in range(_BISECTIONS):
                middle = rounded((getattr(strict, name) + getattr(loose, name)) / 2)
                tried = only(loose, **{name: middle})
                if covered(tried) >= needed:
                    loose = tried
                else:
                    strict = tried
            found.append(loose)
        return found

    def _least(self, settings: Sequence[Rules]) -> dict[_Apart, Floats]:
        """Returns the lowest bound with which each query has all its negatives (`Sweep.covering`), for all
        settings that differ in bounds alone."""
        alike = {_apart_from_bounds(rules): rules for rules in settings}
        found: dict[_Apart, list[Floats]] = {key: [] for key in alike}
        for part in self.replays.parts():
            replays = {name: self._by(part, name) for name in {rules.decide_by for rules in settings}}
            sweeps = {name: Sweep(replay, replay.mined) for name, replay in replays.items()}
            for key, rules in alike.items():
                found[key].append(sweeps[rules.decide_by].covering(rules))
        return {key: np.concatenate(one) for key, one in found.items()}


_Apart = tuple[str | None, int, int | None, float | None]


def _apart_from_bounds(rules: Rules) -> _Apart:
    """Returns what else than bounds on high scores the coverage depends on."""
    return rules.decide_by, rules.skip_top, rules.max_rank, rules.min_score


def _figures(rate: Rate, left: LeftSums) -> Figures:
    queries, negatives = max(1, left.queries), left.negatives
    ranks, margins = (left.ranks / negatives, float(left.margins / negatives)) if negatives else (None, None)
    return Figures(rate, negatives / queries, left.covered / queries, ranks, margins)
