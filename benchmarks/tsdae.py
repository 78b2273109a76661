"""Does TSDAE adapt an encoder to a domain without labels, and does it help the training that follows?

Four arms from one base, measured by nDCG@10 of the test queries over all documents:

    none                    the base as it is
    tsdae                   pretrained on the documents and the queries that no test judgment names
    tsdae then supervised   the same, then trained on the train split's positives with in-batch negatives
    supervised              trained on these positives alone

Both supervised arms see the same pairs in the same order for the same number of steps. Each repeat has
a seed of its own for all that is trained; a query's score is the mean over the seeds, and arms are
compared in pairs by query. `--base random` draws a small BERT that has learnt nothing: what the paper's
setting, a model without sentence training, looks like where no other model is at hand.

Target: tsdae then supervised at least as good as supervised.
"""

from __future__ import annotations

import json
import random
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import HERE, Goal, Report, parser, report, scratch, spread
from corpora import BUNDLED_FOLDER, kept_store

from miner.arrays import positions
from miner.collection.collection import Collection
from miner.evaluation.retrieval import retrieval_task
from miner.models.encoder import Encoder
from miner.stats import compare_values
from miner.store import corpus
from miner.store.database import Database
from miner.training.encoder import train_encoder
from miner.training.encoder_config import EncoderConfig
from miner.training.examples import Examples
from miner.training.pretrain_config import PretrainConfig
from miner.training.tsdae import pretrain

DATA = HERE.parent.parent / "shared" / "data" / "perspectrum"
MEASURE = "nDCG@10"
NO_WORSE = Goal("nDCG@10 of tsdae then supervised, minus that of supervised", ">=", 0)
ARMS = ("none", "tsdae", "tsdae then supervised", "supervised")
PAIRS = (
    ("tsdae", "none", None),
    ("tsdae then supervised", "supervised", NO_WORSE),
    ("tsdae then supervised", "tsdae", None),
)
TRIAL = {"max_steps": 20, "queries_per_split": 15}
PUBLISHED = {
    "source": "Alammar, Grootendorst: Hands-On Large Language Models, chapter 10",
    "TSDAE, no labels: STS-B": 0.70,
    "supervised, MNR on 50,000 MNLI pairs: STS-B": 0.80,
}
DIFFERENCE = (
    "not the same task: theirs starts from BERT-base, which no sentence training has seen, and is scored "
    "by the similarity of STS-B's pairs; ours starts from {base} and is scored by retrieval on {data}"
)


@dataclass(frozen=True)
class Bench:
    """What all arms share."""

    store: Path
    folder: Path
    base: str
    given: Namespace

    @property
    def steps(self) -> int | None:
        """Stops trainings early in a trial."""
        return TRIAL["max_steps"] if self.given.trial else None

    def models(self, seed: int) -> dict[str, str]:
        """Returns the model of each arm for a seed, trained now; `none` is the base."""
        adapted = self._pretrained(seed)
        return {
            "none": self.base,
            "tsdae": adapted,
            "tsdae then supervised": self._supervised(adapted, seed, "both"),
            "supervised": self._supervised(self.base, seed, "alone"),
        }

    def _pretrained(self, seed: int) -> str:
        say(f"seed {seed}: pretraining")
        config = PretrainConfig(
            base=self.base,
            max_steps=self.steps,
            epochs=self.given.pretrain_epochs,
            learning_rate=self.given.pretrain_rate,
            without=self.given.measure,
            pooling=self.given.pooling,
            seed=seed,
        )
        return str(pretrain(self.store, self.folder / f"tsdae-{seed}", config, force=True).out)

    def _supervised(self, base: str, seed: int, name: str) -> str:
        say(f"seed {seed}: training, {name}")
        config = EncoderConfig(
            base=base,
            max_steps=self.steps,
            epochs=self.given.epochs,
            learning_rate=self.given.rate,
            batch_size=32,
            seed=seed,
        )
        out = self.folder / f"supervised-{name}-{seed}"
        with Database.open(self.store, read_only=True) as store:
            examples = pairs(store)
        return str(train_encoder(examples, out, config, force=True).out)

    def scores(self, model: str) -> dict[str, float]:
        """Returns the measure of every test query."""
        with Database.open(self.store, read_only=True) as store:
            task = retrieval_task(store, self.given.measure)
        encoder = Encoder(model)
        measured = task.measure(lambda texts, side: encoder.encode(texts, encoder.prompts[side]))
        return dict(zip(measured.ids, measured.values[MEASURE], strict=True))


def say(line: str) -> None:
    """Writes to stderr what is being done."""
    print(f"{line} …", file=sys.stderr, flush=True)


def pairs(store: Database) -> Examples:
    """Returns the judged positives of the train split as (anchor, positive)."""
    collection = Collection.load(store, "train")
    judged = corpus.positives(store, "train")
    asking = pa.array(positions(judged["query_id"], collection.query_ids))
    texts = {
        "anchor": collection.queries["text"].take(asking).to_pylist(),
        "positive": collection.texts_of(positions(judged["doc_id"], collection.doc_ids)).to_pylist(),
    }
    return Examples(texts, origin="split train")


def random_base(folder: Path, seed: int) -> str:
    """Writes a BERT of 4 layers and 256 dimensions with drawn weights and the bundled tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(str(BUNDLED_FOLDER))
    shape = BertConfig(
        vocab_size=len(tokenizer), hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=1024, max_position_embeddings=512,
    )  # fmt: skip
    BertModel(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def cut(data: Path, folder: Path, measure: str, seed: int) -> Path:
    """Writes a BEIR folder of a few queries per split and the documents judged for them; returns it."""
    (folder / "qrels").mkdir(parents=True)
    kept: dict[str, set[str]] = {"queries": set(), "corpus": set()}
    for split in ("train", measure):
        head, *lines = (data / "qrels" / f"{split}.tsv").read_text("utf-8").splitlines()
        queries = sorted({line.split("\t")[0] for line in lines})
        drawn = set(random.Random(seed).sample(queries, min(len(queries), TRIAL["queries_per_split"])))
        rows = [line for line in lines if line.split("\t")[0] in drawn]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join([head, *rows]) + "\n", "utf-8")
        kept["queries"] |= drawn
        kept["corpus"] |= {line.split("\t")[1] for line in rows}
    for name, ids in kept.items():
        with (data / f"{name}.jsonl").open(encoding="utf-8") as source:
            rows = [line for line in source if json.loads(line)["_id"] in ids]
        (folder / f"{name}.jsonl").write_text("".join(rows), "utf-8")
    return folder


def add_rows(found: Report, scores: dict[str, list[dict[str, float]]], about: dict[str, Any]) -> None:
    """Adds a row per arm and one per pair of arms; `scores` holds per arm and seed those of the queries."""
    queries = sorted(scores["none"][0])
    table = {arm: np.array([[one[q] for q in queries] for one in scores[arm]]) for arm in ARMS}
    for arm, values in table.items():
        figures = {MEASURE: spread(values.mean(axis=1).tolist()), "queries": len(queries)}
        found.row(f"{arm}: {MEASURE}", figures, value=float(values.mean()), **about)
    for better, other, goal in PAIRS:
        result = compare_values(MEASURE, table[better].mean(axis=0), table[other].mean(axis=0))
        figures = {
            "difference": result.difference,
            "interval": [result.low, result.high],
            "p": result.p,
            "queries": len(queries),
        }
        found.row(f"{better} - {other}", figures, goal=goal, value=result.difference, **about)


def main() -> None:
    """Reads the arguments, trains, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=DATA, help="BEIR folder [%(default)s]")
    arguments.add_argument("--base", default="bundled", help="model to start from, or random [%(default)s]")
    arguments.add_argument("--pooling", default="keep", choices=("keep", "cls", "mean"), help="[%(default)s]")
    arguments.add_argument("--pretrain-epochs", type=int, default=1, help="of TSDAE [%(default)s]")
    arguments.add_argument("--pretrain-rate", type=float, default=3e-5, help="of TSDAE [%(default)s]")
    arguments.add_argument("--epochs", type=float, default=1, help="of the supervised arms [%(default)s]")
    arguments.add_argument("--rate", type=float, default=2e-5, help="of the supervised arms [%(default)s]")
    arguments.add_argument("--measure", default="test", choices=("test", "dev"), help="split [%(default)s]")
    arguments.add_argument("--trial", action="store_true", help=f"a quick look: {TRIAL}")
    given = arguments.parse_args()
    found = report("tsdae", given, full_size=not given.trial and given.measure == "test")
    folder = given.work / f"tsdae-{given.data.name}-{Path(given.base).name}{'-trial' * given.trial}"
    with scratch(given.work) as passing:
        base = random_base(folder / "base", given.seed) if given.base == "random" else given.base
        data = cut(given.data, passing, given.measure, given.seed) if given.trial else given.data
        store = kept_store(folder / "tsdae.duckdb", data)
        bench = Bench(store, folder, base, given)
        scores: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        for repeat in range(given.repeats):
            for arm, model in bench.models(given.seed + repeat).items():
                known = scores["none"] if arm == "none" else []
                scores[arm].append(known[0] if known else bench.scores(model))
        with Database.open(store, read_only=True) as opened:
            about = {"documents": corpus.counts(opened)["documents"], "training_pairs": len(pairs(opened))}
    add_rows(found, scores, about)
    difference = DIFFERENCE.format(data=given.data.name, base=given.base)
    found.row("published, for orientation", PUBLISHED, note=difference)
    found.show()


if __name__ == "__main__":
    main()
