"""The false-negative rate of rules that nobody labelled, from labels of one run's sample.

The labels are of one run's negatives. Other rules select other candidates of the same evidence, and their
rate is a prediction: the chances of all candidates are fitted to the labels (Platt 1999, Probabilistic
outputs for support vector machines), and a setting's rate is the mean chance of its negatives. The labels
need no weights, since the strata of the sample depend on nothing but the predicted chance. The interval is a
percentile bootstrap over the labels of each stratum. It does not allow for a fit that is wrong where there
are no labels, as of candidates that the labelled run's rules dropped: with half of the positives in the
store they are relevant 1.6 times (Cranfield) and 2.3 times (perspectrum) as often as the fit predicts, in the
median over settings. So labels support a setting only if few of its negatives are such candidates, and a rate
to rely on needs a sample of the chosen run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from miner.arrays import as_numpy
from miner.auditing.prediction import predicted_chance
from miner.auditing.replay import Replays
from miner.auditing.sweep import Sweep
from miner.mining.config import Rules
from miner.mining.rules import KEPT
from miner.schema import CANDIDATES_PER_QUERY
from miner.stats import exact_interval, with_interval
from miner.store import labels as stored

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_DROPPED = 0.25
"""Labels support a setting if at most this share of its negatives was dropped by the labelled run's rules."""
_ROUNDS = 200
_BINS = 512
"""Candidates with about the same chance are counted together."""
_LEVEL = 0.95


@dataclass(frozen=True)
class PredictedRate:
    """A predicted false-negative rate with its 95 % interval."""

    rate: float
    low: float
    high: float
    dropped: float
    """The share of the negatives that the labelled run's rules dropped, so that no label is of their kind."""

    @property
    def supported(self) -> bool:
        """Whether the labels say enough about these negatives."""
        return self.dropped <= MOST_DROPPED

    def __str__(self) -> str:
        return with_interval(self.rate, self.low, self.high)


@dataclass(frozen=True)
class LabelledChances:
    """Every candidate's chance of being relevant, fitted to the labels of a run."""

    labels: int
    relevant: int
    bins: npt.NDArray[np.int16]
    """The bin of each candidate of the run; -1 for one that is never a false negative."""
    dropped: npt.NDArray[np.bool_]
    """Whether the rules of the labelled run drop each candidate."""
    chances: Floats
    """The chance in each bin, by all labels and then by each bootstrap sample: shape (1 + rounds, bins)."""
    starts: dict[int, int]
    """The first candidate of each range of queries, by the number of its first query."""

    @classmethod
    def of(cls, replays: Replays, seed: int) -> LabelledChances | None:
        """Returns the chances by the run's sample with the most labels; None without labels."""
        found = stored.labelled_sample(replays.store, replays.run)
        if found is None:
            return None
        labelled = found[1]
        table = stored.predictable(replays.store, replays.run)
        logit = _logit(predicted_chance(table))
        edges = np.unique(np.quantile(logit, np.linspace(0, 1, _BINS + 1)[1:-1]))
        bin_of = np.searchsorted(edges, logit)
        middle = np.bincount(bin_of, logit, len(edges) + 1) / np.maximum(
            1, np.bincount(bin_of, minlength=len(edges) + 1)
        )
        relevant = labelled["relevance"].to_numpy() > 0
        stratum = labelled["stratum"].to_numpy()
        known = _logit(labelled["predicted"].to_numpy())
        random = np.random.default_rng(seed)
        chances = [_fitted(known, relevant, middle)]
        for _ in range(_ROUNDS):
            again = _drawn_again(stratum, random)
            chances.append(_fitted(known[again], relevant[again], middle))
        number = table["candidate"].to_numpy()
        bin_of[table["judged"].to_numpy()] = -1
        bins, dropped, starts, total = [], [], {}, 0
        for replay in replays.parts():
            own = as_numpy(replay.candidates["candidate"]) + replay.numbers.start * CANDIDATES_PER_QUERY
            inside = slice(*np.searchsorted(number, own[[0, -1]] + [0, 1])) if len(own) else slice(0)
            of_part = np.full(len(own), -1, dtype=np.int16)
            of_part[np.searchsorted(own, number[inside])] = bin_of[inside]
            bins.append(of_part)
            dropped.append(replay.codes(replay.mined) > KEPT)
            starts[replay.numbers.start] = total
            total += len(own)
        counted = labelled.num_rows, int(relevant.sum())
        return cls(*counted, np.concatenate(bins), np.concatenate(dropped), np.array(chances), starts)

    def count(self, sweep: Sweep, settings: Sequence[Rules]) -> Ints:
        """Returns, for each setting, the negatives of some queries, those that the labelled run dropped, and
        those in each bin: shape (settings, 2 + bins). Counts of several ranges of queries add up."""
        start, found = self.starts[sweep.first], []
        for rules in settings:
            rows, negatives = sweep.negatives(rules)
            inside = self.bins[rows + start]
            number = np.bincount(inside[inside >= 0], minlength=self.chances.shape[1])
            found.append(np.append([negatives, int(self.dropped[rows + start].sum())], number))
        return np.array(found, dtype=np.int64)

    def rates(self, counts: Ints) -> list[PredictedRate]:
        """Returns the false-negative rate of each setting by its counts; 0 for one without negatives."""
        found = []
        most = exact_interval(0.0, self.labels, _LEVEL)[1]
        for negatives, dropped, *number in counts.tolist():
            if not negatives:
                found.append(PredictedRate(0.0, 0.0, 0.0, 0.0))
                continue
            rate, *again = (self.chances @ np.array(number) / negatives).tolist()
            tail = (1 - _LEVEL) / 2
            low, high = np.quantile(again, [tail, 1 - tail])
            # Few relevant labels cannot say more than none, of which the bootstrap shows no doubt.
            high = max(rate, float(high), most)
            found.append(PredictedRate(rate, min(rate, float(low)), high, dropped / negatives))
        return found


def _logit(chance: Floats) -> Floats:
    inside = np.clip(chance, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(inside / (1 - inside)))


def _fitted(known: Floats, relevant: npt.NDArray[np.bool_], positions: Floats) -> Floats:
    """Returns the chance at each of `positions` by labels at `known`; labels that agree give a constant."""
    if relevant.all() or not relevant.any():
        return np.full(len(positions), float(relevant[0]))
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=10.0).fit(known[:, None], relevant)
    return np.asarray(model.predict_proba(positions[:, None])[:, 1], dtype=np.float64)


def _drawn_again(stratum: Ints, random: np.random.Generator) -> Ints:
    """Returns a bootstrap sample: as many labels of each stratum, drawn with replacement."""
    order = np.argsort(stratum, kind="stable")
    numbers = np.bincount(stratum)
    starts = np.repeat(np.cumsum(numbers) - numbers, numbers)
    drawn: Ints = order[
        starts + np.floor(random.random(len(order)) * np.repeat(numbers, numbers)).astype(np.int64)
    ]
    return drawn
