"""Does "retrievers disagree" find false negatives that one score does not?

perspectrum's train claims are judged nearly exhaustively. Half of each claim's positives stay in the store,
the others are withheld from it: a negative is false if it is a withheld positive. The run has three scorers:
BM25, the bundled encoder, and vectors made from the corpus alone (LSA: tf-idf and 128 singular vectors). The
bundled encoder's score decides, five negatives per claim.

`agree N` keeps a candidate if N or more of the scorers put it below the reference positive, each by its own
percentile. It is compared with two rules that look at the deciding score alone, a percentile of all
positives' scores and a relative margin under the same reference positive: once with the strictest parameter
that has the coverage of `agree N`, and once with the strictest one whose negatives rank as high (mean fused
rank), since a rule may buy its coverage with easy negatives. Then `agree N` is added to a loose setting of
the rule (the default margin of 0.05, percentile 40) and compared with the strictest setting of the rule alone
that has the same coverage.

For every comparison the benchmark reports both true false-negative rates and their difference (with agree −
without) with its interval over claims, the hidden-positive rates of an audit, and, of the negatives that the
single score selects (with the loose setting, if `agree` is added to one), the share of relevant ones among
those that `agree N` drops and among the others.
There is no target: the question is open.
"""

from __future__ import annotations

import json
import random
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import Figures, Report, parser, report
from corpora import new_store
from incomplete import SPLITS, judged
from labels import DATA, write_visible

from miner.auditing.config import AuditConfig
from miner.auditing.replay import Replay
from miner.auditing.sweep import only
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.mining.rules import KEPT, REASONS, name_of
from miner.schema import Reason
from miner.stats import clustered_rate, compare_values
from miner.store.database import Database
from miner.text import join_title

NAME = "perspectrum"
AGREE = (2, 3)
KINDS = ("lowest", "median")
"""Reference positives of `agree` and of the margin."""
MARGIN, PERCENTILE = "relative_margin", "percentile"
RANGES = {MARGIN: (1.0, -1.0), PERCENTILE: (0.0, 100.0)}
"""The strictest and the loosest parameter of each rule on one score."""
ADDED_TO = {MARGIN: 0.05, PERCENTILE: 40.0}
"""The loose settings that `agree` is added to."""
STEPS = 10
"""Bisections of a parameter: its last step is a thousandth of the range."""
DIMENSION = 128
BASE = Rules(relative_margin=None, decide_by="bundled", agree=1)
"""The run's own rules: with `agree`, the scores of all scorers are read."""


@dataclass
class Side:
    """One side of a comparison: the counts of each claim, over the draws."""

    false: list[Any] = field(default_factory=list)
    negatives: list[Any] = field(default_factory=list)
    hits: list[Any] = field(default_factory=list)
    """Hidden positives that an audit finds among the negatives."""
    hidden: list[Any] = field(default_factory=list)
    distinct: list[int] = field(default_factory=list)
    coverage: list[float] = field(default_factory=list)
    ranks: list[float] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)

    def figures(self) -> Figures:
        """Returns the rates with their intervals, over all draws."""
        false, negatives = np.sum(self.false, axis=0), np.sum(self.negatives, axis=0)
        true = clustered_rate(false, negatives, int(np.sum(self.negatives[0])))
        hidden = clustered_rate(np.sum(self.hits, axis=0), np.sum(self.hidden, axis=0), max(self.distinct))
        return {
            "false_negative_rate": true.rate,
            "interval": [true.low, true.high],
            "hidden_positive_rate": hidden.rate,
            "hidden_interval": [hidden.low, hidden.high],
            "coverage": float(np.mean(self.coverage)),
            "mean_rank": float(np.mean(self.ranks)),
            "rules": self.rules,
        }

    def per_claim(self) -> Any:
        """Returns each claim's part of the false-negative rate: their mean is the rate."""
        false, negatives = np.sum(self.false, axis=0), np.sum(self.negatives, axis=0)
        return false * len(false) / negatives.sum()


@dataclass
class Comparison:
    """A rule on one score, and with `agree`, at the same coverage."""

    alone: Side = field(default_factory=Side)
    agreeing: Side = field(default_factory=Side)
    dropped: list[tuple[int, int]] = field(default_factory=list)
    """Per draw, of the negatives of one score: how many `agree` drops, and how many of these are relevant."""
    others: list[tuple[int, int]] = field(default_factory=list)
    """The same of those that it does not drop."""

    def figures(self) -> Figures:
        """Returns both sides, their difference, and what `agree` drops of the other side's negatives."""
        found = compare_values("false negatives", self.agreeing.per_claim(), self.alone.per_claim())
        shares = {}
        for name, counts in (("dropped_by_agree", self.dropped), ("not_dropped", self.others)):
            number, relevant = np.sum(counts, axis=0).tolist()
            share = relevant / number if number else None
            shares[name] = {"negatives": number, "relevant": relevant, "share": share}
        return {
            "alone": self.alone.figures(),
            "with_agree": self.agreeing.figures(),
            "difference": found.difference,
            "difference_interval": [found.low, found.high],
            "p": found.p,
            **shares,
        }


class Truth:
    """The replay of a run, what rules do with its candidates, and which of these are withheld positives."""

    def __init__(self, replay: Replay, withheld: set[tuple[str, str]], audits: AuditConfig) -> None:
        self._replay = replay
        table = replay.hideable.table
        query_of = dict(zip(table["query_no"].to_pylist(), table["query_id"].to_pylist(), strict=True))
        docs = replay.documents.ids_of(replay.candidates).to_pylist()
        pairs = zip(replay.query.tolist(), docs, strict=True)
        self.false = np.array([(query_of[query], doc) in withheld for query, doc in pairs])
        self._exists = np.bincount(replay.hideable.positives.owner) > 0
        self._draws = [replay.hide(replay.hideable.hide(flags)) for flags in replay.hideable.draws(audits)]
        self._known: dict[Rules, Any] = {}

    def _under(self, rules: Rules) -> Replay:
        return replace(self._replay, config=replace(self._replay.config, rules=rules))

    def codes(self, rules: Rules) -> Any:
        """Returns every candidate's code under some rules."""
        if rules not in self._known:
            self._known[rules] = self._under(rules).codes(self._replay.mined)
        return self._known[rules]

    def negatives(self, rules: Rules) -> Any:
        """Returns which candidates are negatives."""
        return self.codes(rules) < KEPT

    def coverage(self, rules: Rules) -> float:
        """Returns the share of claims with all their negatives."""
        counts = self._per_claim(self.negatives(rules))
        return float((counts >= self._replay.config.selection.negatives).mean())

    def height(self, rules: Rules) -> float:
        """Returns how high the negatives rank: their mean fused rank, below 0."""
        negatives = self.negatives(rules)
        return -float(self._replay.fused_rank[negatives].mean()) if negatives.any() else -np.inf

    def _per_claim(self, flags: Any) -> Any:
        return np.bincount(self._replay.query[flags], minlength=len(self._exists))[self._exists]

    def strictest(
        self, rules: Rules, name: str, what: Callable[[Rules], float], least: float
    ) -> Rules | None:
        """Returns the rules with the strictest value of a parameter that has enough of something.

        None if the loosest value has not enough.
        """
        strict, loose = RANGES[name]
        if what(with_rule(rules, name, loose)) < least:
            return None
        for _ in range(STEPS):
            middle = (strict + loose) / 2
            if what(with_rule(rules, name, middle)) >= least:
                loose = middle
            else:
                strict = middle
        return with_rule(rules, name, loose)

    def add(self, side: Side, rules: Rules) -> None:
        """Adds what some rules do to a side of a comparison."""
        negatives = self.negatives(rules)
        side.false.append(self._per_claim(negatives & self.false))
        side.negatives.append(self._per_claim(negatives))
        side.coverage.append(self.coverage(rules))
        side.ranks.append(-self.height(rules))
        side.rules.append(name_of(rules))
        replay = self._under(rules)
        trials = [replay.decide(evidence) for evidence in self._draws]
        owner, count = replay.hideable.positives.owner, len(self._exists)
        for flags, counts in (("selected", side.hits), ("hidden", side.hidden)):
            per_claim = [np.bincount(owner[getattr(one, flags)], minlength=count) for one in trials]
            counts.append(np.sum(per_claim, axis=0)[self._exists])
        side.distinct.append(int(np.logical_or.reduce([one.hidden for one in trials]).sum()))


def with_rule(rules: Rules, name: str, value: float) -> Rules:
    """Returns the rules with one of them at a value."""
    values: dict[str, Any] = {name: value}
    return replace(rules, **values)


def compare(
    truth: Truth, found: dict[str, Comparison], name: str, alone: Rules | None, agreeing: Rules
) -> None:
    """Adds one draw of a comparison of rules on one score with rules that have `agree`.

    Nothing is added if no setting of the rules on one score fits.
    """
    if alone is None:
        return
    comparison = found.setdefault(name, Comparison())
    truth.add(comparison.alone, alone)
    truth.add(comparison.agreeing, agreeing)
    is_added = only(agreeing, agree=None) != replace(agreeing, agree=None)
    without = replace(agreeing, agree=None) if is_added else alone
    negatives = truth.negatives(without)
    kind = agreeing.reference_positive
    codes = truth.codes(replace(without, agree=agreeing.agree, reference_positive=kind))
    dropped = negatives & (codes == REASONS.index(Reason.AGREE))
    for flags, counts in ((dropped, comparison.dropped), (negatives & ~dropped, comparison.others)):
        counts.append((int(flags.sum()), int((flags & truth.false).sum())))


def one_draw(truth: Truth, found: dict[str, Comparison]) -> None:
    """Adds the comparisons of one store."""
    for least, kind in product(AGREE, KINDS):
        base = replace(only(BASE, agree=None), reference_positive=kind)
        agreeing, name = replace(base, agree=least), f"agree {least}, {kind} positive"
        for rule in RANGES:
            same = truth.strictest(base, rule, truth.coverage, truth.coverage(agreeing))
            compare(truth, found, f"{name}, against {rule} at its coverage", same, agreeing)
            as_hard = truth.strictest(base, rule, truth.height, truth.height(agreeing))
            compare(truth, found, f"{name}, against {rule} at its mean rank", as_hard, agreeing)
        for rule, loose in ADDED_TO.items():
            both = with_rule(agreeing, rule, loose)
            same = truth.strictest(base, rule, truth.coverage, truth.coverage(both))
            compare(truth, found, f"{name}, added to {rule} {loose:g}, against {rule} alone", same, both)


def texts(source: Path, kind: str) -> dict[str, str]:
    """Returns the texts of a BEIR folder by id, titles before them."""
    with (source / f"{kind}.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["_id"]: join_title(row.get("title", ""), row["text"]) for row in rows}


def write_vectors(source: Path, folder: Path, seed: int) -> Path:
    """Writes LSA vectors of the documents and queries of a BEIR folder; returns the folder."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    folder.mkdir(parents=True, exist_ok=True)
    documents, queries = texts(source, "corpus"), texts(source, "queries")
    weights = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    table = weights.fit_transform(documents.values())
    reduced = TruncatedSVD(DIMENSION, random_state=seed).fit(table)
    for role, known in (("documents", documents), ("queries", queries)):
        vectors = reduced.transform(weights.transform(known.values())).astype(np.float32)
        vectors[~vectors.any(axis=1)] = 1e-6  # a text without a known word has a vector, though of no meaning
        np.save(folder / f"{role}.npy", vectors)
        (folder / f"{role}.txt").write_text("".join(f"{one}\n" for one in known), "utf-8")
    return folder


def measure(given: Namespace) -> dict[str, Comparison]:
    """Returns the comparisons over all draws: a store each, with the same vectors."""
    source, folder = given.data / NAME, given.work / "disagreement"
    positives = judged(source, SPLITS[NAME])
    everything = {(query, document) for query, known in positives.items() for document in known}
    vectors = write_vectors(source, folder / "lsa", given.seed)
    config = MiningConfig(encoder=("bundled",), vectors=(str(vectors),), dtype="fp32", rules=BASE)
    found: dict[str, Comparison] = {}
    for seed in range(given.seed, given.seed + given.draws):
        path = write_visible(source, folder / "source", positives, "half", random.Random(seed))
        with Database.open(new_store(folder / "store.duckdb", path)) as store:
            run = mine(store, config)
            kept = {(one["query_id"], one["doc_id"]) for one in store.table("FROM judgments").to_pylist()}
            truth = Truth(Replay.of(store, run), everything - kept, AuditConfig(repeats=2, seed=seed))
            one_draw(truth, found)
        print(f"draw {seed - given.seed + 1} of {given.draws}", flush=True)
    return found


def add_rows(found: Report, comparisons: dict[str, Comparison]) -> None:
    """Adds a row per comparison: its value is the difference of the false-negative rates, in points."""
    for name, comparison in comparisons.items():
        figures = comparison.figures()
        before, after = figures["alone"], figures["with_agree"]
        low, high = figures["difference_interval"]
        note = (
            f"false-negative rate {100 * before['false_negative_rate']:.2f} % on one score, "
            f"{100 * after['false_negative_rate']:.2f} % with agree; difference "
            f"{100 * figures['difference']:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]"
        )
        print(f"{name}: {note}")
        found.row(f"{name}: points", figures, value=100 * figures["difference"], note=note, data=NAME)


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.set_defaults(repeats=1)
    arguments.add_argument("--data", type=Path, default=DATA, help="folder of the BEIR folders")
    arguments.add_argument("--draws", type=int, default=3, help="stores with other positives [%(default)s]")
    given = arguments.parse_args()
    found = report("disagreement", given, full_size=given.draws >= 3, least=1)
    add_rows(found, measure(given))
    found.show()


if __name__ == "__main__":
    main()
