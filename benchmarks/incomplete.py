"""With one positive per query in the store, how many negatives are false, before and after calibration?

Cranfield (test) and the train claims of perspectrum are judged so that most of their relevant documents are
known. One of each query's positives stays in the store, another one with each seed; the others are withheld
from it. A negative is false if it is a withheld positive: that is the true rate, of which the store knows
nothing. Each seed mines with the bundled encoder and BM25, five negatives per query and the default rules,
then calibrates: for the lowest hidden-positive rate at the coverage of the default (--keep-coverage), and for
a hidden-positive rate of 2 % (the default target). Every choice is decided again and compared with the truth.

Targets, for the choice at the default's coverage: its true rate and its coverage are no worse than the
default's with 90 % of the seeds; the median of the true rate is at most half of the default's; the 90th
percentile of the true rates is at most twice the 10th.
"""

from __future__ import annotations

import random
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, Goal, Report, parser, report
from corpora import new_store

from miner.auditing.audit import audit
from miner.auditing.calibrate import calibrate
from miner.auditing.config import AuditConfig, CalibrationConfig
from miner.errors import UsageError
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import config_of, decide_again, mine
from miner.mining.rules import name_of
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.verdicts import coverage, verdicts_of

DATA = HERE.parent.parent / "shared" / "data"
SPLITS = {"cranfield": "test", "perspectrum": "train"}
DEFAULT, KEPT, TARGET = "default rules", "calibrated, coverage of the default", "calibrated, target 2 %"
NO_WORSE = Goal("share of seeds with true rate and coverage no worse than the default's", ">=", 0.9)
HALF = Goal("median of the true rate / the default's", "<=", 0.5)
STABLE = Goal("90th / 10th percentile of the true rates", "<=", 2)

Pairs = set[tuple[str, str]]


@dataclass(frozen=True)
class Outcome:
    """What one setting of the rules does with one seed."""

    rules: str
    true_rate: float
    """The share of the negatives that are withheld positives."""
    coverage: float
    hidden_positive_rate: float
    """For the default that of an audit, for a calibrated setting that of the half that did not choose it."""
    confirmed: bool = False


def judged(folder: Path, split: str) -> dict[str, list[str]]:
    """Returns the positives of every query of a BEIR folder."""
    positives = defaultdict(list)
    for line in (folder / "qrels" / f"{split}.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, relevance = line.split("\t")
        if float(relevance) > 0:
            positives[query].append(document)
    return {query: sorted(positives[query]) for query in sorted(positives)}


def write_visible(source: Path, folder: Path, positives: dict[str, list[str]], seed: int) -> Path:
    """Writes a BEIR folder with the same texts and one positive of every query; returns it."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to((source / name).resolve())
    drawn = random.Random(seed)
    rows = [f"{query}\t{drawn.choice(known)}\t1" for query, known in positives.items()]
    (folder / "qrels" / "train.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n", "utf-8"
    )
    return folder


def true_rate(store: Database, run: StoredRun, withheld: Pairs) -> float:
    """Returns the share of a run's negatives that are withheld positives."""
    rows = verdicts_of(store, run).to_pylist()
    negatives = [(row["query_id"], row["doc_id"]) for row in rows if row["outcome"] == "negative"]
    return sum(pair in withheld for pair in negatives) / max(1, len(negatives))


def measured(
    store: Database, run: StoredRun, rules: Rules, withheld: Pairs, rate: float, confirmed: bool
) -> Outcome:
    """Decides the run's evidence again with some rules and compares its negatives with the truth."""
    again = decide_again(store, run, MiningConfig(**vars(config_of(run)) | {"rules": rules}))
    return Outcome(
        name_of(rules), true_rate(store, again, withheld), coverage(store, again) or 0.0, rate, confirmed
    )


def one_seed(store: Database, withheld: Pairs, seed: int) -> dict[str, Outcome]:
    """Returns the outcome of the default rules and of each calibration."""
    run = mine(store, MiningConfig(encoder="bundled", dtype="fp32"))
    rules = config_of(run).rules
    rate = audit(store, run, AuditConfig(seed=seed)).hidden_positive_rate.rate or 0.0
    found = {DEFAULT: measured(store, run, rules, withheld, rate, confirmed=False)}
    for name, target in ((KEPT, None), (TARGET, 0.02)):
        try:
            calibration = calibrate(store, run, target, CalibrationConfig(seed=seed))
        except UsageError:
            continue
        rate = calibration.chosen.confirming_half.hidden_positive_rate.rate or 0.0
        found[name] = measured(store, run, calibration.chosen.rules, withheld, rate, calibration.confirmed)
    return found


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Returns the rates and the coverage over the seeds, and how often each rule was chosen."""
    values = {
        name: np.array([getattr(one, name) for one in outcomes])
        for name in ("true_rate", "coverage", "hidden_positive_rate")
    }
    return {
        **{name: float(np.median(several)) for name, several in values.items()},
        **{f"{name}_10_to_90": np.percentile(several, [10, 90]).tolist() for name, several in values.items()},
        "seeds": len(outcomes),
        "confirmed": sum(one.confirmed for one in outcomes),
        "chosen": dict(Counter(one.rules.split(",")[0].split()[0] for one in outcomes).most_common()),
        "all": [vars(one) for one in outcomes],
    }


def add_rows(found: Report, data: str, seeds: list[dict[str, Outcome]]) -> None:
    """Adds a row per setting, and what the targets are compared with."""
    for name in (DEFAULT, KEPT, TARGET):
        outcomes = [one[name] for one in seeds if name in one]
        if outcomes:
            found.row(f"{data}: {name}", figures(outcomes), data=data)
    pairs = [(one[DEFAULT], one[KEPT]) for one in seeds]
    no_worse = [a.true_rate >= b.true_rate and a.coverage <= b.coverage for a, b in pairs]
    ratios = [b.true_rate / a.true_rate for a, b in pairs]
    low, high = np.percentile([b.true_rate for _, b in pairs], [10, 90])
    for name, goal, value in (
        ("no worse than the default", NO_WORSE, float(np.mean(no_worse))),
        ("true rate / the default's", HALF, float(np.median(ratios))),
        ("spread of the true rates", STABLE, float(high / low) if low else float("inf")),
    ):
        found.row(f"{data}: {name}", {"value": value, "seeds": len(pairs)}, goal=goal, value=value, data=data)


def measure(data: str, given: Namespace) -> list[dict[str, Outcome]]:
    """Returns the outcomes of every seed: a store each, with the same vectors."""
    source, folder = given.data / data, given.work / f"incomplete-{data}"
    positives = judged(source, SPLITS[data])
    everything = {(query, document) for query, known in positives.items() for document in known}
    seeds = []
    for seed in range(given.seed, given.seed + given.seeds):
        write_visible(source, folder / "source", positives, seed)
        path = new_store(folder / "store.duckdb", folder / "source")
        with Database.open(path) as store:
            kept = {(one["query_id"], one["doc_id"]) for one in store.table("FROM judgments").to_pylist()}
            seeds.append(one_seed(store, everything - kept, seed))
        print(f"{data}, seed {seed}: {seeds[-1]}", flush=True)
    return seeds


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=DATA, help="folder of the BEIR folders")
    arguments.add_argument("--seeds", type=int, default=50, help="how often [%(default)s]")
    given = arguments.parse_args()
    found = report("incomplete", given, full_size=given.seeds >= 50)
    for data in SPLITS:
        add_rows(found, data, measure(data, given))
    found.show()


if __name__ == "__main__":
    main()
