"""Does the interval of the false-negative rate contain the truth, and how wide is it?

Cranfield (test) is judged exhaustively, the train claims of perspectrum nearly so. One of each query's
positives stays in the store, or half of them; the others are withheld from it, so that the true rate is
known: the share of a run's negatives that are withheld positives. Each run has the default rules, five
negatives, BM25 and the bundled encoder. `miner audit --label 200` draws the sample, and the full judgments
label it.

Targets: over 200 seeds (the positives that stay are drawn anew every ten samples) the 95 % interval contains
the true rate in at least 93 %, and is at most 0.75 times as wide as that of a plain random sample of 200
labels (the same interval, Clopper and Pearson, at the labels that the plain sample found). Calibrate with the
labels of each store's first sample says of some choices that they meet a false-negative rate of 2 %: in at
least 90 % of these the true rate of the choice is at most 2 %.
"""

from __future__ import annotations

import random
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, Goal, Report, parser, report
from corpora import new_store
from incomplete import SPLITS, judged, true_rate

from miner.auditing.calibrate import calibrate
from miner.auditing.config import CalibrationConfig
from miner.auditing.labels import SampleConfig, draw_sample, keep_labels
from miner.errors import UsageError
from miner.mining.config import MiningConfig
from miner.mining.pipeline import config_of, decide_again, mine
from miner.mining.rules import name_of
from miner.stats import exact_interval
from miner.store.database import Database
from miner.store.runs import StoredRun

DATA = HERE.parent.parent / "shared" / "data"
COVERED = Goal("share of 95 % intervals that contain the true rate", ">=", 0.93)
NARROW = Goal("width of the interval / that of a plain sample", "<=", 0.75)
TRUE = Goal("share of choices said to meet 2 % whose true rate does", ">=", 0.9)
TARGET = 0.02
KEPT = {"one": "one positive per query in the store", "half": "half of the positives in the store"}
Pairs = set[tuple[str, str]]


@dataclass(frozen=True)
class Outcome:
    """One sample, its labels, and a plain sample of the same run."""

    true_rate: float
    rate: float
    low: float
    high: float
    relevant: int
    plain_low: float
    plain_high: float


@dataclass(frozen=True)
class Choice:
    """What calibrate chose with labels."""

    rules: str
    confirmed: bool
    """Whether it says that the choice meets the target."""
    true_rate: float
    coverage: float


def stay(known: list[str], keep: str, drawn: random.Random) -> list[str]:
    """Returns the positives of a query that stay in the store."""
    return drawn.sample(known, 1 if keep == "one" else max(1, len(known) // 2))


def write_visible(
    source: Path, path: Path, positives: dict[str, list[str]], keep: str, drawn: random.Random
) -> Path:
    """Writes a BEIR folder with the same texts and the positives that stay; returns it."""
    (path / "qrels").mkdir(parents=True, exist_ok=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to((source / name).resolve())
    rows = [f"{query}\t{doc}\t1" for query, known in positives.items() for doc in stay(known, keep, drawn)]
    text = "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n"
    (path / "qrels" / "train.tsv").write_text(text, "utf-8")
    return path


def negatives(store: Database, run: StoredRun) -> list[tuple[str, str]]:
    """Returns the negatives of a run: query_id, doc_id."""
    return [
        (query, doc)
        for query, doc in store.rows(
            "SELECT query_id, doc_id FROM verdicts WHERE run = ? AND slot IS NOT NULL ORDER BY ALL",
            [run.name],
        )
    ]


def choice(store: Database, run: StoredRun, truth: Pairs, seed: int) -> Choice | None:
    """Returns what calibrate chooses with the labels of the store; None if no setting meets the target."""
    try:
        found = calibrate(store, run, TARGET, CalibrationConfig(seed=seed))
    except UsageError:
        return None
    again = decide_again(store, run, MiningConfig(**vars(config_of(run)) | {"rules": found.chosen.rules}))
    return Choice(
        name_of(found.chosen.rules),
        found.confirmed,
        true_rate(store, again, truth),
        found.chosen.all_queries.coverage,
    )


def samples(
    store: Database, truth: Pairs, given: Namespace, first: int
) -> tuple[list[Outcome], list[Choice | None]]:
    """Returns the outcomes of several samples of one run, and the choice with the labels of the first."""
    choices: list[Choice | None] = []
    run = mine(store, MiningConfig(encoder="bundled", dtype="fp32"))
    pairs = negatives(store, run)
    relevant = np.array([pair in truth for pair in pairs])
    outcomes = []
    for seed in range(first, first + given.draws):
        store.execute("DELETE FROM labels")
        sample = draw_sample(store, run, SampleConfig(given.labels, seed))
        rows = sample.pairs.select(["query_id", "doc_id"]).to_pylist()
        labels = [{**row, "relevance": int((row["query_id"], row["doc_id"]) in truth)} for row in rows]
        # The labels are of this sample alone: an older one with more labels would count instead.
        found = keep_labels(store, run, labels)
        plain = np.random.default_rng(seed).choice(len(pairs), given.labels, replace=False)
        low, high = exact_interval(float(relevant[plain].mean()), given.labels)
        outcomes.append(
            Outcome(float(relevant.mean()), found.rate, found.low, found.high, found.relevant, low, high)
        )
        if seed == first:
            choices.append(choice(store, run, truth, seed))
    return outcomes, choices


def measure(data: str, keep: str, given: Namespace) -> tuple[list[Outcome], list[Choice | None]]:
    """Returns the outcomes of all seeds, and the choice with labels of every store."""
    source, folder = given.data / data, given.work / f"labels-{data}"
    positives = judged(source, SPLITS[data])
    truth = {(query, document) for query, known in positives.items() for document in known}
    outcomes: list[Outcome] = []
    choices: list[Choice | None] = []
    for seed in range(given.seed, given.seed + given.seeds // given.draws):
        path = write_visible(source, folder / "source", positives, keep, random.Random(seed))
        with Database.open(new_store(folder / "store.duckdb", path)) as store:
            found, chosen = samples(store, truth, given, seed * given.draws)
        outcomes += found
        choices += chosen
        print(f"{data}, {keep}, {len(outcomes)} seeds", flush=True)
    return outcomes, choices


def figures(outcomes: list[Outcome]) -> dict[str, Any]:
    """Returns coverage and widths over the seeds, of the tool's intervals and of plain ones."""
    inside = [one.low <= one.true_rate <= one.high for one in outcomes]
    plain = [one.plain_low <= one.true_rate <= one.plain_high for one in outcomes]
    errors = np.array([one.rate - one.true_rate for one in outcomes])
    width = float(np.mean([one.high - one.low for one in outcomes]))
    plain_width = float(np.mean([one.plain_high - one.plain_low for one in outcomes]))
    return {
        "true_rate": float(np.mean([one.true_rate for one in outcomes])),
        "contained": float(np.mean(inside)),
        "plain_contained": float(np.mean(plain)),
        "width": width,
        "plain_width": plain_width,
        "ratio": width / plain_width,
        "bias": float(errors.mean()),
        "standard_error": float(errors.std()),
        "relevant": float(np.mean([one.relevant for one in outcomes])),
        "seeds": len(outcomes),
        "all": [asdict(one) for one in outcomes],
    }


def add_rows(
    found: Report, data: str, keep: str, outcomes: list[Outcome], choices: list[Choice | None]
) -> None:
    """Adds the figures of one data set, and what the targets are compared with."""
    name, values = f"{data}, {KEPT[keep]}", figures(outcomes)
    found.row(f"{name}: contained", values, goal=COVERED, value=values["contained"], data=data, keep=keep)
    width = {one: values[one] for one in ("width", "plain_width", "ratio", "seeds")}
    found.row(f"{name}: width", width, goal=NARROW, value=values["ratio"], data=data, keep=keep)
    said = [one for one in choices if one is not None and one.confirmed]
    share = float(np.mean([one.true_rate <= TARGET for one in said])) if said else None
    chosen = {
        "said": len(said),
        "met": sum(one.true_rate <= TARGET for one in said),
        "choices": len(choices),
        "true_rate": float(np.median([one.true_rate for one in said])) if said else None,
        "coverage": float(np.median([one.coverage for one in said])) if said else None,
        "all": [None if one is None else asdict(one) for one in choices],
    }
    found.row(f"{name}: calibrated", chosen, goal=TRUE, value=share, data=data, keep=keep)


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.set_defaults(repeats=1)
    arguments.add_argument("--data", type=Path, default=DATA, help="folder of the BEIR folders")
    arguments.add_argument("--labels", type=int, default=200, help="labels per sample [%(default)s]")
    arguments.add_argument("--seeds", type=int, default=200, help="samples in all [%(default)s]")
    arguments.add_argument("--draws", type=int, default=10, help="samples per store [%(default)s]")
    given = arguments.parse_args()
    found = report("labels", given, full_size=given.seeds >= 200, least=1)
    for data in SPLITS:
        for keep in KEPT:
            add_rows(found, data, keep, *measure(data, keep, given))
    found.show()


if __name__ == "__main__":
    main()
