"""Do silver judgments make up for gold ones that nobody has? Augmented SBERT on a retrieval task.

A seeded sample of tldr's train queries; a fifth of them keep their judgments, the others are queries that
nobody judged. A cross-encoder trained on the fifth judges the pairs that BM25 and the bundled encoder
propose (`miner silver`). Four arms from one base, measured by nDCG@10 of the test queries over all
documents:

    none                    the base as it is
    gold 20 %               trained on the judged fifth's positives with in-batch negatives
    gold 20 % + silver      the same and the silver positives
    gold 100 %              trained on the positives of all sampled queries

All arms train for the same number of steps, those of one epoch of gold 100 % by default; smaller sets are
seen more often. Each repeat has a seed of its own for the training of the encoders; a query's score is
the mean over the seeds, and arms are compared in pairs by query. Settings are chosen with --measure dev.

Target: gold 20 % + silver ahead of gold 20 % with p < 0.05.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import TLDR, Goal, Report, parser, report, scratch, spread
from corpora import base_of, kept_store

from miner.curation.silver import SilverReport, silver
from miner.curation.silver_config import SilverConfig
from miner.engine.progress import Progress
from miner.engine.progress_bars import progress
from miner.evaluation.compare import compare
from miner.evaluation.result import Evaluation, from_values
from miner.evaluation.retrieval import RetrievalTask, retrieval_task
from miner.models.encoder import Encoder
from miner.store.database import Database
from miner.store.silver import judged_pairs
from miner.training.encoder import train_encoder
from miner.training.encoder_config import EncoderConfig
from miner.training.examples import Examples
from miner.training.reranker_config import RerankerConfig

SHARE = 0.2
MEASURE = "nDCG@10"
ARMS = ("none", "gold 20 %", "gold 20 % + silver", "gold 100 %")
AHEAD = Goal("p of gold 20 % + silver against gold 20 %, 1 if it is behind", "<=", 0.05)
PAIRS = (
    ("gold 20 % + silver", "gold 20 %", AHEAD),
    ("gold 20 % + silver", "none", None),
    ("gold 100 %", "gold 20 % + silver", None),
)
TRIAL = {"queries": 150, "documents": 600, "steps": 5}
PUBLISHED = {
    "source": "Alammar, Grootendorst: Hands-On Large Language Models, chapter 10",
    "Augmented SBERT, 20 % of the labels: STS-B": 0.71,
    "cosine loss, all labels: STS-B": 0.72,
}
DIFFERENCE = (
    "not the same task: theirs trains BERT-base on 10,000 gold and 40,000 silver pairs of MNLI and is scored "
    "by the similarity of STS-B's pairs; ours starts from {base}, takes what the cross-encoder scores "
    "{positive:g} or more, and is scored by retrieval on {data}"
)


@dataclass(frozen=True)
class Bench:
    """What all arms share."""

    data: dict[str, Examples]
    """Per arm that is trained, its rows."""
    task: RetrievalTask
    folder: Path
    steps: int
    given: Namespace

    def measured(self, arm: str, seed: int) -> Evaluation:
        """Returns how an arm's model, trained now, ranks the queries."""
        print(f"seed {seed}: {arm} …", file=sys.stderr, flush=True)
        if arm in self.data:
            config = EncoderConfig(
                base=self.given.base,
                epochs=1000,
                max_steps=self.steps,
                batch_size=self.given.batch,
                seed=seed,
            )
            model = str(train_encoder(self.data[arm], self.folder / f"{ARMS.index(arm)}-{seed}", config).out)
        else:
            model = str(base_of(self.folder, self.given.base, seed))
        encoder = Encoder(model)
        return self.task.measure(lambda texts, side: encoder.encode(texts, encoder.prompts[side]))


def rows(store: Database, *sources: str) -> Examples:
    """Returns the positives of the train split, of these sources, as (anchor, positive)."""
    table = judged_pairs(store, "train", sources)
    positive = (pair for pair in table.to_pylist() if pair["relevance"] > 0)
    pairs = sorted({(pair["query"], pair["document"]) for pair in positive})
    return Examples(
        {"anchor": [q for q, _ in pairs], "positive": [d for _, d in pairs]}, origin="+".join(sources)
    )


def stores(source: Path, given: Namespace) -> tuple[Path, Path]:
    """Returns stores of the same texts, with a fifth or all of the sample's judgments.

    They stay in the work folder, with the cross-encoder and what it scored: only what is trained on
    that differs from one threshold to another.
    """
    size = "trial" if given.trial else str(given.queries)
    folder = given.work / f"augsbert-{source.name}-{given.measure}-{size}-{given.seed}"
    with scratch(given.work) as written:
        few, every = write(source, written, given)
        return kept_store(folder / "few.duckdb", few), kept_store(folder / "all.duckdb", every)


def write(source: Path, folder: Path, given: Namespace) -> tuple[Path, Path]:
    """Writes BEIR folders `few` and `all`: the same texts, a fifth or all of the sample's judgments."""
    rng = random.Random(given.seed)
    lines = {
        s: (source / "qrels" / f"{s}.tsv").read_text("utf-8").splitlines() for s in ("train", "dev", "test")
    }
    judged = sorted({line.split("\t")[0] for line in lines["train"][1:]})
    pool = rng.sample(judged, min(given.queries, len(judged)))
    if given.trial:
        tested = sorted({line.split("\t")[0] for line in lines[given.measure][1:]})[: TRIAL["queries"]]
        lines[given.measure] = of_queries(lines[given.measure], set(tested))
    chosen = {"few": pool[: round(SHARE * len(pool))], "all": pool}
    for name, queries in chosen.items():
        (folder / name / "qrels").mkdir(parents=True)
        kept = {**lines, "train": of_queries(lines["train"], set(queries))}
        for split in ("train", given.measure):
            (folder / name / "qrels" / f"{split}.tsv").write_text("\n".join(kept[split]) + "\n", "utf-8")
        texts = {line.split("\t")[0] for line in lines[given.measure][1:]} | set(pool)
        copy(source / "queries.jsonl", folder / name / "queries.jsonl", texts)
    documents = None
    if given.trial:
        used = of_queries(lines["train"], set(pool))[1:] + lines[given.measure][1:]
        documents = {line.split("\t")[1] for line in used}
        documents |= {f"d{i}" for i in rng.sample(range(20_000), TRIAL["documents"])}
    for name in chosen:
        copy(source / "corpus.jsonl", folder / name / "corpus.jsonl", documents)
    return folder / "few", folder / "all"


def of_queries(lines: list[str], queries: set[str]) -> list[str]:
    """Returns the head and the judgments of some queries."""
    return [lines[0], *(line for line in lines[1:] if line.split("\t")[0] in queries)]


def copy(source: Path, target: Path, ids: set[str] | None) -> None:
    """Copies the rows with these ids; None: all."""
    if ids is None:
        shutil.copyfile(source, target)
        return
    with source.open(encoding="utf-8") as stream:
        target.write_text("".join(line for line in stream if json.loads(line)["_id"] in ids), "utf-8")


def make(store: Database, given: Namespace, reports: Progress) -> SilverReport:
    """Trains the cross-encoder on the fifth and stores the silver judgments."""
    config = SilverConfig(
        encoder="bundled",
        query_set=given.query_set,
        depth=given.depth,
        per_query=given.per_query,
        positive=given.positive,
        negative=min(0.1, given.positive / 2),
    )
    training = RerankerConfig(
        seed=given.seed, held_out=0.15, max_steps=TRIAL["steps"] if given.trial else None
    )
    return silver(store, config, training=training, progress=reports)


def truth(few: Database, every: Database) -> float:
    """Returns the share of the silver positives of hidden queries that their hidden judgments confirm.

    Queries that stayed judged are left out: silver judges none of their positives.
    """
    seen = {pair["query"] for pair in judged_pairs(few, "train").to_pylist()}
    hidden = [pair for pair in judged_pairs(every, "train").to_pylist() if pair["query"] not in seen]
    right = {(pair["query"], pair["document"]) for pair in hidden if pair["relevance"] > 0}
    queries_of_rows = {query for query, _ in right}
    made = [p for p in judged_pairs(few, "train", ("silver",)).to_pylist() if p["relevance"] > 0]
    found = [(p["query"], p["document"]) in right for p in made if p["query"] in queries_of_rows]
    return float(np.mean(found)) if found else float("nan")


def add_rows(found: Report, results: dict[str, list[Evaluation]], about: dict[str, Any]) -> None:
    """Adds a row per arm and one per pair of arms."""
    mean = {}
    for arm, measured in results.items():
        values = np.mean([one.values[MEASURE] for one in measured], axis=0)
        mean[arm] = from_values("retrieval", measured[0].ids, {MEASURE: values}, measured[0].documents)
        figures = {MEASURE: spread(one.means[MEASURE] for one in measured), "queries": len(values)}
        found.row(f"{arm}: {MEASURE}", figures, value=mean[arm].means[MEASURE], **about)
    for better, other, goal in PAIRS:
        (result,) = compare(mean[better], mean[other])
        value = (result.p if result.difference > 0 else 1.0) if goal else result.difference
        found.row(f"{better} - {other}", asdict(result), goal=goal, value=value, **about)


def main() -> None:
    """Reads the arguments, trains, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=TLDR, help="BEIR folder [%(default)s]")
    arguments.add_argument("--base", default="bundled", help="encoder to start from [%(default)s]")
    arguments.add_argument("--queries", type=int, default=6000, help="of the train split [%(default)s]")
    arguments.add_argument(
        "--query-set", default="all", choices=("all", "unjudged"), help="queries to judge [%(default)s]"
    )
    arguments.add_argument("--depth", type=int, default=20, help="of each retriever [%(default)s]")
    arguments.add_argument("--per-query", type=int, default=10, help="pairs scored [%(default)s]")
    arguments.add_argument("--positive", type=float, default=0.9, help="least silver score [%(default)s]")
    arguments.add_argument("--epochs", type=float, default=1, help="of gold 100 %% [%(default)s]")
    arguments.add_argument("--batch", type=int, default=32, help="rows per batch [%(default)s]")
    arguments.add_argument("--measure", default="test", choices=("test", "dev"), help="split [%(default)s]")
    arguments.add_argument("--trial", action="store_true", help=f"a quick look: {TRIAL}")
    given = arguments.parse_args()
    given.queries = min(given.queries, TRIAL["queries"]) if given.trial else given.queries
    found = report("augsbert", given, full_size=not given.trial and given.measure == "test")
    with scratch(given.work) as folder:
        judged_few, judged_all = stores(given.data, given)
        with progress() as reports, Database.open(judged_few) as few, Database.open(judged_all) as every:
            made = make(few, given, reports)
            about: dict[str, Any] = {
                "silver": asdict(made),
                "confirmed": truth(few, every) if made.positives else float("nan"),
            }
            data = dict(
                zip(
                    ARMS[1:],
                    (rows(few, "gold"), rows(few, "gold", "silver"), rows(every, "gold")),
                    strict=True,
                )
            )
            task = retrieval_task(every, given.measure)
        about["rows"] = {arm: len(examples) for arm, examples in data.items()}
        about["silver"] |= {"reranker": "trained on the fifth"}
        steps = TRIAL["steps"] if given.trial else round(given.epochs * len(data["gold 100 %"]) / given.batch)
        bench = Bench(data, task, folder, steps, given)
        results: dict[str, list[Evaluation]] = {arm: [] for arm in ARMS}
        for repeat in range(given.repeats):
            for arm in ARMS:
                known = results[arm] if arm == "none" and given.base != "scratch" else []
                results[arm].append(known[0] if known else bench.measured(arm, given.seed + repeat))
    print(f"silver: {about['rows']}, confirmed {about['confirmed']:.3f}", file=sys.stderr)
    add_rows(found, results, about | {"steps": steps})
    found.row(
        "published, for orientation",
        PUBLISHED,
        note=DIFFERENCE.format(data=given.data.name, base=given.base, positive=given.positive),
    )
    found.show()


if __name__ == "__main__":
    main()
