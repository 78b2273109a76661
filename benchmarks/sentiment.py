"""Does training on one's own idea of similarity pay, and what does the public benchmark say meanwhile?

Here similar means: the same sentiment. Reviews and their minimal edits of the opposite label (near-identical
words) are mined and trained on. It measures same-label retrieval and k-NN on the test reviews, STS-B, and
the share of test reviews that are nearer to another review of their label, drawn at random, than to their
own edit of the opposite label: each before and after training.

Several seeds; how many steps is chosen with --measure dev. Target: MAP of same-label retrieval rises with
p < 0.05 for every seed.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import TLDR, Goal, Report, parser, report, scratch, spread
from corpora import base_of
from losses import stsb

from miner.engine.progress_bars import progress
from miner.evaluation.compare import compare
from miner.evaluation.labels import label_task
from miner.evaluation.result import Evaluation
from miner.evaluation.similarity import SimilarityTask
from miner.mining.config import MiningConfig, Selection
from miner.mining.pipeline import mine
from miner.models.encoder import Encoder
from miner.sources import ingest
from miner.stats import Difference, compare_values
from miner.store.database import Database
from miner.training.encoder_config import EncoderConfig
from miner.workflows.train import train

DATA = TLDR.parent
LIFTED = Goal("largest p of the rise of MAP over the seeds, 1 if it fell", "<=", 0.05)


def pairs(data: Path, split: str, seed: int) -> list[tuple[str, str, str]]:
    """Returns for each review of a split another of its label, drawn, and its edit of the other label."""
    with (data / "sentiment" / f"{split}.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    edits = {(row["pair_id"], row["label"]): row["text"] for row in rows}
    of_label: dict[str, list[str]] = {}
    for row in rows:
        of_label.setdefault(row["label"], []).append(row["text"])
    rng, found = random.Random(seed), []
    for row in rows:
        edit = next((edits[row["pair_id"], other] for other in sorted(of_label)
                     if other != row["label"] and (row["pair_id"], other) in edits), None)  # fmt: skip
        same = [text for text in of_label[row["label"]] if text != row["text"]]
        if edit is not None:
            found.append((row["text"], rng.choice(same), edit))
    return found


class Models:
    """Measures a model on everything."""

    def __init__(
        self, store: Path, split: str, similarity: SimilarityTask, triples: list[tuple[str, str, str]]
    ) -> None:
        with Database.open(store, read_only=True) as opened:
            self._labels = label_task(opened, split)
        self._similarity = similarity
        self._triples = triples

    def measured(self, model: str) -> tuple[Evaluation, Evaluation, np.ndarray]:
        """Returns same-label retrieval, STS-B, and per review whether its own label is nearer."""
        encoder = Encoder(model)

        def encode(texts: Any, role: str) -> Any:
            return encoder.encode(texts, encoder.prompts[role])

        review, same, edit = (encode(column, "query") for column in zip(*self._triples, strict=True))
        nearer = (review * same).sum(axis=1) > (review * edit).sum(axis=1)
        return self._labels.measure(encode), self._similarity.measure(encode), nearer.astype(np.float64)


def add_rows(found: Report, before: list[Any], after: list[Any]) -> None:
    """Adds what rose and what fell, with the first seed's test and every seed's difference."""
    for position, title in enumerate(("same label", "STS-B")):
        per_seed = [compare(new[position], old[position]) for new, old in zip(after, before, strict=True)]
        for differences in zip(*per_seed, strict=True):
            name = differences[0].measure
            goal = LIFTED if (position, name) == (0, "MAP") else None
            worst = max(d.p if d.difference > 0 else 1.0 for d in differences)
            mean = float(np.mean([d.difference for d in differences]))
            found.row(
                f"{title}: {name}, after - before",
                _figures(differences),
                goal=goal,
                value=worst if goal else mean,
            )
    changes = [
        compare_values("own label nearer than own edit", new[2], old[2])
        for new, old in zip(after, before, strict=True)
    ]
    value = float(np.mean([change.difference for change in changes]))
    found.row("pairs: own label nearer than the edit, after - before", _figures(changes), value=value)


def _figures(differences: Sequence[Difference]) -> dict[str, Any]:
    return {
        "before": spread(d.second for d in differences),
        "after": spread(d.first for d in differences),
        "difference": spread(d.difference for d in differences),
        "p": spread(d.p for d in differences),
    }


def main() -> None:
    """Reads the arguments, mines, trains, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--data", type=Path, default=DATA, help="folder of sentiment and stsb [%(default)s]"
    )
    arguments.add_argument("--base", default="bundled", help="model to start from [%(default)s]")
    arguments.add_argument("--steps", type=int, default=60, help="batches [%(default)s]")
    arguments.add_argument("--batch", type=int, default=32, help="rows per batch [%(default)s]")
    arguments.add_argument("--max-length", type=int, default=128, help="tokens read [%(default)s]")
    arguments.add_argument("--measure", default="test", choices=("test", "dev"), help="split [%(default)s]")
    given = arguments.parse_args()
    found = report("sentiment", given, full_size=given.measure == "test" and given.steps >= 60)
    path = given.work / "sentiment.duckdb"
    before: list[tuple[Evaluation, Evaluation, np.ndarray]] = []
    after: list[tuple[Evaluation, Evaluation, np.ndarray]] = []
    with scratch(given.work) as folder, progress() as reports:
        path.unlink(missing_ok=True)
        ingest(path, [str(given.data / "sentiment")])
        with Database.open(path) as store:
            selection = Selection(negatives=1)
            mine(store, MiningConfig(encoder="bundled", depth=50, selection=selection), progress=reports)
        triples = pairs(given.data, given.measure, given.seed)
        models = Models(path, given.measure, stsb(folder, given.data, given.measure), triples)
        for seed in range(given.seed, given.seed + given.repeats):
            config = EncoderConfig(
                base=given.base, max_steps=given.steps, epochs=100, batch_size=given.batch,
                max_length=given.max_length, seed=seed, evaluations=0,
            )  # fmt: skip
            same = before and given.base != "scratch"
            before.append(before[0] if same else models.measured(str(base_of(folder, given.base, seed))))
            train(path, folder / f"model-{seed}", config, progress=reports)
            after.append(models.measured(str(folder / f"model-{seed}")))
    add_rows(found, before, after)
    found.show()


if __name__ == "__main__":
    main()
