"""Does training on one's own idea of similarity pay, and what does the public benchmark say meanwhile?

Here similar means: the same sentiment. Reviews and their minimal edits of the opposite label (near-identical
words) are mined and trained on; measured are same-label retrieval and k-NN on the test reviews, STS-B beside
it, and the share of test reviews that are nearer to another review of their label, drawn at random, than to
their own edit of the opposite label, both before and after.

Target: MAP of same-label retrieval rises, p < 0.05.
"""

from __future__ import annotations

import csv
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from common import TLDR, Goal, Report, parser, report, scratch
from losses import stsb

from miner.cli.progress import progress
from miner.evaluation.labels import label_task
from miner.evaluation.measured import Measured
from miner.evaluation.significance import compare, compare_values
from miner.evaluation.similarity import SimilarityTask
from miner.mining.config import MiningConfig, Selection
from miner.mining.pipeline import mine
from miner.models.encoder import Encoder
from miner.sources import ingest
from miner.store.database import Store
from miner.training.encoder_config import EncoderConfig
from miner.workflows.train import train

DATA = TLDR.parent
LIFTED = Goal("p of the rise of MAP, 1 if it fell", "<=", 0.05)


def pairs(data: Path, seed: int) -> list[tuple[str, str, str]]:
    """Returns for each test review another of its label, drawn, and its edit of the other label."""
    with (data / "sentiment" / "test.tsv").open(encoding="utf-8", newline="") as stream:
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

    def __init__(self, store: Path, similarity: SimilarityTask, triples: list[tuple[str, str, str]]) -> None:
        with Store.open(store, read_only=True) as opened:
            self._labels = label_task(opened, "test")
        self._similarity = similarity
        self._triples = triples

    def measured(self, model: str) -> tuple[Measured, Measured, np.ndarray]:
        """Returns same-label retrieval, STS-B, and per review whether its own label is nearer."""
        encoder = Encoder(model)

        def encode(texts: Any, side: str) -> Any:
            return encoder.encode(texts, encoder.prompts[side])

        review, same, edit = (encode(column, "query") for column in zip(*self._triples, strict=True))
        nearer = (review * same).sum(axis=1) > (review * edit).sum(axis=1)
        return self._labels.measure(encode), self._similarity.measure(encode), nearer.astype(np.float64)


def add_rows(found: Report, before: Any, after: Any) -> None:
    """Adds what rose and what fell."""
    for title, old, new in (("same label", before[0], after[0]), ("STS-B test", before[1], after[1])):
        for difference in compare(new, old):
            up = difference.p if difference.difference > 0 else 1.0
            goal = LIFTED if difference.measure == "MAP" else None
            figures = {**asdict(difference), "before": difference.second, "after": difference.first}
            value = up if goal else difference.difference
            found.row(f"{title}: {difference.measure}, after - before", figures, goal=goal, value=value)
    change = compare_values("own label nearer than own edit", after[2], before[2])
    figures = {**asdict(change), "before": change.second, "after": change.first}
    found.row("pairs: own label nearer than the edit, after - before", figures, value=change.difference)


def main() -> None:
    """Reads the arguments, mines, trains, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--data", type=Path, default=DATA, help="folder of sentiment and stsb [%(default)s]"
    )
    arguments.add_argument("--base", default="bundled", help="model to start from [%(default)s]")
    arguments.add_argument("--steps", type=int, default=60, help="batches [%(default)s]")
    arguments.add_argument("--batch", type=int, default=32, help="rows per batch [%(default)s]")
    arguments.add_argument(
        "--max-length", type=int, default=128, help="tokens read in training [%(default)s]"
    )
    given = arguments.parse_args()
    found = report("sentiment", given, full=True)
    config = EncoderConfig(
        base=given.base, max_steps=given.steps, epochs=100, batch_size=given.batch,
        max_length=given.max_length, seed=given.seed, evaluations=0,
    )  # fmt: skip
    path = given.work / "sentiment.duckdb"
    with scratch(given.work) as folder, progress() as reports:
        path.unlink(missing_ok=True)
        ingest(path, [str(given.data / "sentiment")])
        with Store.open(path) as store:
            selection = Selection(negatives=1)
            mine(store, MiningConfig(encoder="bundled", depth=50, selection=selection), progress=reports)
        models = Models(path, stsb(folder, given.data, "test"), pairs(given.data, given.seed))
        before = models.measured("bundled" if given.base == "scratch" else given.base)
        train(path, folder / "model", config, progress=reports)
        after = models.measured(str(folder / "model"))
    add_rows(found, before, after)
    found.show()


if __name__ == "__main__":
    main()
