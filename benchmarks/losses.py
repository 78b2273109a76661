"""Which loss makes the best similarity model of NLI pairs? Softmax, cosine and MNR, scored on STS-B.

The pairs of `nli/train.tsv` (a stand-in for MultiNLI) train one encoder per loss and seed, all in the same
way: softmax on the three classes, cosine on entailment = 1 and everything else = 0, MNR on the pairs of
entailment. Scored by Spearman's correlation on STS-B's test pairs; rows with a sentence of STS-B test are
taken out of the training data first, and counted. Epochs, batch and learning rate of each loss, and MNR's
negatives, are chosen with --measure dev.

Targets, from scratch: MNR > cosine > softmax with every seed, MNR at least 1.2 x softmax.
"""

from __future__ import annotations

import csv
import statistics
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import TLDR, Goal, Report, parser, ratios, report, scratch, spread
from corpora import base_of

from miner.evaluation.compare import compare
from miner.evaluation.result import Evaluation
from miner.evaluation.similarity import SimilarityTask, similarity_task
from miner.models.encoder import Encoder
from miner.sources import SourceConfig, ingest
from miner.stats import Difference
from miner.store.database import Database
from miner.text import normalise
from miner.training.encoder import train_encoder
from miner.training.encoder_config import EncoderConfig
from miner.training.examples import Columns, Examples, examples_of

DATA = TLDR.parent
LOSSES = ("softmax", "cosine", "mnr")
MEASURE = "Spearman"
LEAST = 5000
"""Rows, from MultiNLI all of them, that are enough where a transformer is trained."""
ORDER = (("mnr", "cosine"), ("cosine", "softmax"))
RATIO = Goal("Spearman of MNR over that of softmax", ">=", 1.2, " x")
PUBLISHED = {
    "source": "Alammar, Grootendorst: Hands-On Large Language Models, chapter 10",
    "softmax": 0.59,
    "cosine": 0.72,
    "mnr": 0.80,
}
DIFFERENCE = (
    "theirs: BERT-base on 50,000 pairs of MultiNLI, 1 epoch, MNR with random negatives; ours: {base} on "
    "{rows} pairs of {sources}, MNR on entailment, negatives: {negatives}"
)
SOURCES = {"mnli": "MultiNLI", "snli": "SNLI", "cad": "counterfactual NLI", "sick": "SICK"}


def rows(folder: Path) -> list[dict[str, str]]:
    """Returns the rows of a TSV that has neither quotes nor escapes."""
    with folder.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def training_rows(data: Path) -> tuple[pa.Table, int]:
    """Returns the NLI pairs without a sentence of STS-B test, with source, and how many were taken out."""
    held_out = {
        normalise(row[side])
        for row in rows(data / "stsb" / "test.tsv")
        for side in ("sentence1", "sentence2")
    }
    found = rows(data / "nli" / "train.tsv")
    kept = [row for row in found if held_out.isdisjoint(normalise(row[s]) for s in ("premise", "hypothesis"))]
    table = {name: [row[name] for row in kept] for name in ("premise", "hypothesis", "label", "source")}
    return pa.table(table), len(found) - len(kept)


def examples(table: pa.Table, loss: str, given: Namespace) -> Examples:
    """Returns the rows that a loss trains on."""
    if loss == "mnr" and given.negatives == "contradictions":
        return examples_of(contradicted(table, given.seed), "nli", loss)
    if loss == "mnr":
        return examples_of(table, "nli", loss, Columns(positive_label="entailment"))
    return examples_of(table, "nli", loss, Columns(positive_label="entailment" if loss == "cosine" else None))


def contradicted(table: pa.Table, seed: int) -> pa.Table:
    """Returns the pairs of entailment, each with a negative: what contradicts the premise, if anything does.

    To a premise without a contradiction goes a hypothesis drawn from all of them.
    """
    rng = np.random.default_rng(seed)
    pairs = table.to_pylist()
    against: dict[str, list[str]] = {}
    for pair in pairs:
        if pair["label"] == "contradiction":
            against.setdefault(pair["premise"], []).append(pair["hypothesis"])
    found: dict[str, list[str]] = {"anchor": [], "positive": [], "negative": []}
    for pair in pairs:
        if pair["label"] != "entailment":
            continue
        drawn = against.get(pair["premise"]) or [pairs[rng.integers(len(pairs))]["hypothesis"]]
        found["anchor"].append(pair["premise"])
        found["positive"].append(pair["hypothesis"])
        found["negative"].append(drawn[rng.integers(len(drawn))])
    return pa.table(found)


def stsb(folder: Path, data: Path, split: str) -> SimilarityTask:
    """Returns the graded pairs of a split of STS-B."""
    store = folder / "stsb.duckdb"
    columns = SourceConfig(
        format="pairs", query_column="sentence1", positive_column="sentence2", relevance_column="score"
    )
    ingest(store, [str(data / "stsb" / f"{split}.tsv")], columns)
    with Database.open(store, read_only=True) as opened:
        return similarity_task(opened, split)


def measured(task: SimilarityTask, model: Path | str) -> Evaluation:
    """Returns what a model reaches."""
    encoder = Encoder(str(model))
    return task.measure(lambda texts, side: encoder.encode(texts, encoder.prompts[side]))


def trained(folder: Path, data: Examples, loss: str, seed: int, given: Namespace) -> Path:
    """Returns a model trained now."""
    position = LOSSES.index(loss)
    config = EncoderConfig(
        loss=loss,
        base=given.base,
        epochs=given.epochs[position],
        batch_size=given.batch[position],
        learning_rate=given.rate[position] if given.rate else None,
        seed=seed,
    )
    print(f"seed {seed}: {loss}, {len(data):,} rows, {config.epochs:g} epochs …", file=sys.stderr, flush=True)
    return train_encoder(data, folder / f"{loss}-{seed}", config, force=True).out


def add_rows(found: Report, results: dict[str, list[Evaluation]], about: dict[str, Any]) -> None:
    """Adds a row per loss, the order of the losses, the ratio, and the published figures."""
    scores = {name: [one.means[MEASURE] for one in values] for name, values in results.items()}
    for name, values in scores.items():
        others = {"Pearson": spread(one.means["Pearson"] for one in results[name])}
        found.row(
            f"{name}: {MEASURE}", {MEASURE: spread(values), **others}, value=statistics.mean(values), **about
        )
    for better, other in ORDER:
        gaps = [compare(a, b)[0] for a, b in zip(results[better], results[other], strict=True)]
        goal = Goal(f"least difference of {better} and {other}", ">=", 0)
        least = min(gap.difference for gap in gaps)
        found.row(
            f"{better} - {other}",
            _figures(gaps),
            goal=goal,
            value=least,
            **about,
        )
    figures = ratios(scores["mnr"], scores["softmax"])
    found.row("mnr / softmax", {"ratio": figures}, goal=RATIO, value=figures["median"], **about)


def _figures(gaps: list[Difference]) -> dict[str, object]:
    return {"difference": spread(gap.difference for gap in gaps), "p": spread(gap.p for gap in gaps)}


def main() -> None:
    """Reads the arguments, trains, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=DATA, help="folder of nli and stsb [%(default)s]")
    arguments.add_argument("--base", default="scratch", help="model to start from [%(default)s]")
    each = ("SOFTMAX", "COSINE", "MNR")
    arguments.add_argument("--epochs", type=float, nargs=3, default=(1, 1, 1), metavar=each, help="[1 1 1]")
    arguments.add_argument(
        "--rate", type=float, nargs=3, metavar=each, help="learning rates [as `miner train` has it]"
    )
    arguments.add_argument(
        "--batch", type=int, nargs=3, default=(32, 32, 32), metavar=each, help="rows per batch [32 32 32]"
    )
    arguments.add_argument(
        "--negatives", default="in-batch", choices=("in-batch", "contradictions"), help="of MNR [%(default)s]"
    )
    arguments.add_argument("--rows", type=int, help="train on the first rows only [all]")
    arguments.add_argument("--measure", default="test", choices=("test", "dev"), help="split [%(default)s]")
    given = arguments.parse_args()
    enough = given.rows is None or (given.base != "scratch" and given.rows >= LEAST)
    full_size = enough and given.measure == "test"
    found = report("losses", given, full_size=full_size)
    table, removed = training_rows(given.data)
    table = table.slice(0, given.rows)
    trained_on = set(table["source"].to_pylist())
    data = {loss: examples(table.drop_columns("source"), loss, given) for loss in LOSSES}
    # What is trained stays for the same command after a kill.
    kept = given.work / f"losses-{Path(given.base).name}"
    with scratch(given.work) as folder:
        task = stsb(folder, given.data, given.measure)
        results: dict[str, list[Evaluation]] = {name: [] for name in ("before training", *LOSSES)}
        for repeat in range(given.repeats):
            seed = given.seed + repeat
            results["before training"].append(measured(task, base_of(folder, given.base, seed)))
            for loss in LOSSES:
                results[loss].append(measured(task, trained(kept, data[loss], loss, seed, given)))
    about: dict[str, object] = {
        "rows": {loss: len(rows) for loss, rows in data.items()},
        "removed_for_stsb_test": removed,
        "pairs": len(task.ids),
    }
    found.row("rows taken out: a sentence of STS-B test", {"rows": removed}, value=removed)
    add_rows(found, results, about)
    note = DIFFERENCE.format(
        base=given.base,
        rows=f"{table.num_rows:,}",
        sources=", ".join(name for source, name in SOURCES.items() if source in trained_on),
        negatives=given.negatives,
    )
    found.row("published, for orientation", PUBLISHED, note=note)
    found.show()


if __name__ == "__main__":
    main()
