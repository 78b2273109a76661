"""How often a judge errs, on pairs whose relevance is known: the user's own judgments.

Half of the pairs are known positives that people judged, hidden among the questions. The others are judged
not relevant or, if there are too few of those, random documents, which are easier to tell from positives.
With as many relevant pairs as others Cohen's kappa (1960, A coefficient of agreement for nominal scales) is
recall minus the rate of false alarms, whatever the judge's bias, because chance agreement is 1/2. Its
interval combines the exact ones of both rates (Newcombe 1998, Interval estimation for the difference between
independent proportions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import hypot
from typing import Any

import numpy as np
import pyarrow as pa

from miner.judging.config import COMPARED, JudgeConfig
from miner.stats import exact_interval, with_interval
from miner.store import judges as stored
from miner.store.database import Database
from miner.store.judges import RELEVANT
from miner.store.runs import StoredRun


@dataclass(frozen=True)
class JudgeRate:
    """A measure with its 95 % interval."""

    value: float | None
    """None if there is nothing to measure it on."""
    low: float
    high: float

    def __str__(self) -> str:
        return "-" if self.value is None else with_interval(self.value, self.low, self.high)


@dataclass(frozen=True)
class JudgeError:
    """The measured error of a judge on pairs with known relevance."""

    run: str
    positives: int
    """Known positives that it graded."""
    found: int
    """Those among them that it calls relevant."""
    negatives: int
    """Pairs that are not relevant, or random ones, that it graded."""
    false_alarms: int
    """Those among them that it calls relevant."""
    random: int
    """How many of the negatives are random documents."""
    unknown: int
    """Pairs to which it gave no answer that can be read."""
    drawn: int
    """Pairs that were to be drawn: the setting `check`."""
    seed: int

    @property
    def recall(self) -> JudgeRate:
        """The share of known positives that it calls relevant."""
        return _rate(self.found, self.positives)

    @property
    def false_alarm_rate(self) -> JudgeRate:
        """The share of the negatives that it calls relevant."""
        return _rate(self.false_alarms, self.negatives)

    @property
    def precision(self) -> JudgeRate:
        """The share of positives among what it calls relevant, if there are as many positives as negatives.

        The interval combines the ends of both rates' intervals, and is somewhat too wide.
        """
        recall, alarms = self.recall, self.false_alarm_rate
        low, high = _share(recall.low, alarms.high), _share(recall.high, alarms.low)
        return JudgeRate(
            _share(recall.value, alarms.value), 0.0 if low is None else low, 1.0 if high is None else high
        )

    @property
    def kappa(self) -> JudgeRate:
        """Cohen's kappa with the known relevance, if there are as many positives as negatives."""
        recall, alarms = self.recall, self.false_alarm_rate
        if recall.value is None or alarms.value is None:
            return JudgeRate(None, -1.0, 1.0)
        kappa = recall.value - alarms.value
        low = kappa - hypot(recall.value - recall.low, alarms.high - alarms.value)
        high = kappa + hypot(recall.high - recall.value, alarms.value - alarms.low)
        return JudgeRate(kappa, max(-1.0, low), min(1.0, high))

    def as_json(self) -> dict[str, Any]:
        """Returns the counts and the rates as JSON-able values."""
        rates = {name: asdict(getattr(self, name)) for name in ("recall", "precision", "kappa")}
        return asdict(self) | rates

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> JudgeError:
        """Returns what `as_json` made."""
        names = (
            "run",
            "positives",
            "found",
            "negatives",
            "false_alarms",
            "random",
            "unknown",
            "drawn",
            "seed",
        )
        return cls(**{name: values[name] for name in names})


def _rate(number: int, of: int) -> JudgeRate:
    return JudgeRate(number / of, *exact_interval(number / of, of)) if of else JudgeRate(None, 0.0, 1.0)


def _share(part: float | None, rest: float | None) -> float | None:
    return None if part is None or rest is None or part + rest == 0 else part / (part + rest)


@dataclass(frozen=True)
class KnownPairs:
    """Pairs with known relevance: query_id and doc_id, and whether each is relevant."""

    pairs: pa.Table
    relevant: list[bool]
    random: int
    """How many are random documents."""
    requested: int
    """The setting `check`."""

    @classmethod
    def draw(cls, store: Database, run: StoredRun, config: JudgeConfig) -> KnownPairs:
        """Returns `config.check` pairs, half of them positives, or fewer if there are not as many.

        At most one positive of a query, and one other pair, as long as there are enough queries. For the form
        `compared` only queries with two positives or more: one is left to compare with.
        """
        rng = np.random.default_rng([config.seed, 1])
        positives = stored.positives_by_people(store, run)
        by_query = _by_query(positives)
        if config.form == COMPARED:
            by_query = {query: docs for query, docs in by_query.items() if len(docs) > 1}
        number = config.check // 2
        hidden = _spread(rng, by_query, number)
        judged = {q: d for q, d in _by_query(stored.judged_negatives(store, run)).items() if q in by_query}
        others = _spread(rng, judged, number)
        documents = stored.pooled_ids(store, run)
        missing = min(number, len(hidden)) - len(others)
        random = _random(rng, by_query, documents, set(others), missing)
        rows = [*hidden, *others, *random]
        pairs = pa.table(
            {
                "query_id": pa.array([query for query, _ in rows], pa.string()),
                "doc_id": pa.array([doc for _, doc in rows], pa.string()),
            }
        )
        return cls(pairs, [n < len(hidden) for n in range(len(rows))], len(random), config.check)

    def error(self, grades: pa.Table, run: StoredRun, seed: int) -> JudgeError:
        """Returns the error of a judge, given its grades (query_id, doc_id, grade; null: not readable)."""
        keys = zip(grades["query_id"].to_pylist(), grades["doc_id"].to_pylist(), strict=True)
        known = dict(zip(keys, grades["grade"].to_pylist(), strict=True))
        graded, called = {True: 0, False: 0}, {True: 0, False: 0}
        unknown = 0
        for row, relevant in zip(self.pairs.to_pylist(), self.relevant, strict=True):
            grade = known.get((row["query_id"], row["doc_id"]))
            if grade is None:
                unknown += 1
                continue
            graded[relevant] += 1
            called[relevant] += grade >= RELEVANT
        return JudgeError(
            run=run.name,
            positives=graded[True],
            found=called[True],
            negatives=graded[False],
            false_alarms=called[False],
            random=self.random,
            unknown=unknown,
            drawn=self.requested,
            seed=seed,
        )


def _by_query(pairs: pa.Table) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for query, doc in zip(pairs["query_id"].to_pylist(), pairs["doc_id"].to_pylist(), strict=True):
        found.setdefault(query, []).append(doc)
    return found


def _spread(
    rng: np.random.Generator, by_query: Mapping[str, list[str]], number: int
) -> list[tuple[str, str]]:
    """Draws pairs: one of every query in random order, then a second one, and so on."""
    queries = sorted(by_query)
    order = [queries[n] for n in rng.permutation(len(queries))]
    drawn = {query: rng.permutation(by_query[query]).tolist() for query in order}
    longest = max(map(len, drawn.values()), default=0)
    rows = [(query, drawn[query][n]) for n in range(longest) for query in order if n < len(drawn[query])]
    return rows[:number]


def _random(
    rng: np.random.Generator,
    by_query: Mapping[str, list[str]],
    documents: list[str],
    taken: set[tuple[str, str]],
    number: int,
) -> list[tuple[str, str]]:
    """Draws pairs of a query and a random document that is not among its known positives."""
    queries, found = sorted(by_query), dict[tuple[str, str], None]()
    for _ in range(50 * max(0, number)):
        if len(found) >= number:
            break
        query = queries[rng.integers(len(queries))]
        pair = (query, documents[rng.integers(len(documents))])
        if pair[1] not in by_query[query] and pair not in taken:
            found.setdefault(pair)
    return list(found)
