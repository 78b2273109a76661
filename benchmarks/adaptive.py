"""Does adaptive reranking give triplets as good as scoring every candidate, and for how many pairs?

A share of the train positives of a BEIR folder is left out of the judgments. A cross-encoder is trained on
the others, and the queries are mined with BM25, the bundled encoder and that cross-encoder, once with
rerank=all and once with rerank=adaptive, under several rules. What was left out is the truth: the benchmark
counts the positives left out that are selected as negatives (per positive left out: the hidden-positive
rate; per negative selected: the false-negative rate), the queries that have all their negatives (coverage),
and the pairs scored.

Target: for every rule the false-negative rate and the coverage of rerank=adaptive are not outside the 95 %
interval, over queries, of rerank=all on the worse side.
"""

from __future__ import annotations

import random
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, Goal, Report, parser, report, scratch
from corpora import Beir, new_store

from miner.engine.progress import Progress
from miner.engine.progress_bars import progress
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import mine
from miner.stats import Rate, clustered_rate
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.triplets import mined_pairs
from miner.training.reranker import train_reranker
from miner.training.reranker_config import RerankerConfig

DATA = HERE.parent.parent / "shared" / "data" / "perspectrum"
RULES = {
    "relative margin 0.05": Rules(),
    "percentile 5": Rules(percentile=5),
    "relative percentile 0.5": Rules(relative_percentile=0.5),
    "no rule": Rules(relative_margin=None),
}
WAYS = ("all", "adaptive")
INSIDE = Goal("1 if neither rate of rerank=adaptive is worse than the interval of rerank=all", ">=", 1)


@dataclass(frozen=True)
class Counts:
    """What one run did, per query."""

    negatives: Any
    """Distinct negatives selected."""
    wrong: Any
    """Those among them that are positives left out."""
    left_out: Any
    wanted: int
    pairs: int
    """Candidates that the reranker scored."""

    @property
    def false_negatives(self) -> Rate:
        """The share of the negatives that are positives."""
        return clustered_rate(self.wrong, self.negatives, int(self.negatives.sum()))

    @property
    def hidden_positives(self) -> Rate:
        """The share of the positives left out that are negatives."""
        return clustered_rate(self.wrong, self.left_out, int(self.left_out.sum()))

    @property
    def coverage(self) -> Rate:
        """The share of the queries that have all the negatives requested."""
        return clustered_rate(
            self.negatives >= self.wanted, np.ones(len(self.negatives)), len(self.negatives)
        )


def hidden(data: Beir, share: float, seed: int) -> tuple[Beir, set[tuple[str, str]]]:
    """Returns the data without a share of its positives, and these; each query keeps one at least."""
    drawn = random.Random(seed).sample(data.judgments, round(share * len(data.judgments)))
    gone = set(drawn)
    kept = {query for query, doc in data.judgments if (query, doc) not in gone}
    gone = {pair for pair in gone if pair[0] in kept}
    rest = [pair for pair in data.judgments if pair not in gone]
    return Beir(data.documents, data.queries, rest), gone


def counted(store: Database, run: StoredRun, gone: set[tuple[str, str]]) -> Counts:
    """Returns the counts of a run; its decisions say which candidates were not scored."""
    pairs = mined_pairs(store, run)
    negatives: dict[str, set[str]] = {q: set() for (q,) in store.rows(
        "SELECT DISTINCT query_id FROM positives WHERE evidence = ?", [run.evidence])}  # fmt: skip
    for row in pairs.select(["query_id", "negative_ids"]).to_pylist():
        negatives[row["query_id"]] |= set(row["negative_ids"])
    wrong = [sum((query, doc) in gone for doc in docs) for query, docs in negatives.items()]
    left_out = [sum(query == one for one, _ in gone) for query in negatives]
    ((scored,),) = store.rows(
        "SELECT count(*) FROM verdicts WHERE run = ? AND reason IS DISTINCT FROM 'not_reranked'", [run.name]
    )
    return Counts(
        np.array([len(docs) for docs in negatives.values()]), np.array(wrong), np.array(left_out),
        run.negatives, int(scored),
    )  # fmt: skip


def add_rows(found: Report, rule: str, both: dict[str, Counts], about: dict[str, Any]) -> None:
    """Adds a row per way of reranking, and whether the adaptive one is as good."""
    for way, one in both.items():
        figures: dict[str, Any] = {
            name: {"rate": rate.rate, "interval": [rate.low, rate.high], "hits": rate.hits}
            for name, rate in (("false_negatives", one.false_negatives), ("coverage", one.coverage),
                               ("hidden_positives", one.hidden_positives))
        }  # fmt: skip
        figures |= {"pairs": one.pairs, "per_query": round(float(one.negatives.mean()), 3)}
        found.row(f"{rule}, rerank={way}: false negatives", figures, value=one.false_negatives.rate, **about)
    every, adaptive = (both[way] for way in WAYS)
    inside = (adaptive.false_negatives.rate or 0) <= every.false_negatives.high
    inside &= (adaptive.coverage.rate or 0) >= every.coverage.low
    ratio = {"pairs of rerank=all / of rerank=adaptive": round(every.pairs / max(1, adaptive.pairs), 3)}
    found.row(f"{rule}: adaptive as good", ratio, goal=INSIDE, value=float(inside), **about)


def measure(given: Namespace, folder: Path, found: Report, reports: Progress) -> None:
    """Leaves positives out, mines with every rule in both ways, and adds the rows."""
    data = Beir.read(given.data).sample(given.queries, given.seed)
    visible, gone = hidden(data, given.share, given.seed)
    path = new_store(folder / "adaptive.duckdb", visible.write(folder / "data"))
    with Database.open(path, note=reports.note) as store:
        training = RerankerConfig(max_steps=given.steps, seed=given.seed)
        out = train_reranker(store, folder / "reranker", training, reports).out
        for depth in given.depths:
            config = MiningConfig(
                encoder="bundled", reranker=str(out), depth=depth, rerank_depth=given.rerank_depth,
                selection=Selection(negatives=given.negatives, seed=given.seed),
            )  # fmt: skip
            for rule, rules in RULES.items():
                runs = {
                    way: mine(store, replace(config, rules=rules, rerank=way), progress=reports)
                    for way in WAYS
                }
                both = {way: counted(store, run, gone) for way, run in runs.items()}
                add_rows(found, f"depth {depth}, {rule}", both, {"data": given.data.name, **data.sizes()})


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=DATA, help="BEIR folder [%(default)s]")
    arguments.add_argument("--queries", type=int, help="a sample of the queries [all]")
    arguments.add_argument("--share", type=float, default=0.5, help="of positives left out [%(default)s]")
    arguments.add_argument("--depths", type=int, nargs="+", default=[30, 100], help="[30 100]")
    arguments.add_argument("--rerank-depth", type=int, help="by fused rank [all candidates]")
    arguments.add_argument("--negatives", type=int, default=5, help="per query [%(default)s]")
    arguments.add_argument("--steps", type=int, default=300, help="of the reranker's training [%(default)s]")
    given = arguments.parse_args()
    found = report("adaptive", given, full_size=given.queries is None)
    with scratch(given.work) as folder, progress() as reports:
        measure(given, folder, found, reports)
    found.show()


if __name__ == "__main__":
    main()
