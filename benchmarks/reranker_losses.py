"""Which loss, and which share of random negatives, suits a reranker? BEIR folders, from the bundled encoder.

Trains rerankers with `miner.train_reranker` on a sample of the train queries, drawn with the seed of the
training, and reranks BM25's best documents of test queries:

- bce with the default negatives (4 mined and 2 random per positive) and with mined ones only (6).
- lambda, with the grades of the judgments as labels.
- adrmse and margin-mse, with the scores of a teacher as labels. The teacher is trained with bce, as the
  others, but in more steps (--teacher-steps) on as many more queries. It scores each pair once.

All trainings of one seed have the same queries and the same number of steps (--steps) of about 32 pairs; with
the same negatives, the same pairs. There are as many queries as have the pairs of these steps, each pair once
(--epochs); where fewer negatives are found, pairs are repeated. An arm is compared with `bce`: with every
seed, and p < 0.05 in a paired randomisation test over queries, corrected for the number of comparisons
(Holm). The teacher and the order of BM25 are rows of their own, without a comparison. A finished training is
not repeated by the same command.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import TLDR, Report, parser, report, spread
from corpora import kept_store

from miner.collection.collection import Collection
from miner.engine.progress import Progress, WithoutNotes
from miner.engine.progress_bars import progress
from miner.evaluation.reranking import RerankingTask, reranking_task
from miner.models.device import resolve_device, resolve_dtype
from miner.models.names import resolve
from miner.models.reranker import Reranker
from miner.store.corpus import content_hashes, graded_positives
from miner.store.database import Database
from miner.store.rerank_scores import keep_scores, known_scores_of
from miner.training.reranker import train_reranker
from miner.training.reranker_config import LISTWISE, RerankerConfig
from miner.training.reranker_pairs import labelled_pairs, read_judgments, sample_queries
from miner.workflows.bench_result import Comparison, compared, trained_of
from miner.workflows.trial import kept

DATA = TLDR.parent
TAUGHT = "teacher"
"""The teacher of an arm that has one; its folder takes the place of this word."""
ARMS: Mapping[str, Mapping[str, Any]] = {
    "bce": {"loss": "bce"},
    "bce, none random": {"loss": "bce", "mined": 6, "random": 0},
    "lambda": {"loss": "lambda"},
    "adrmse, teacher": {"loss": "adrmse", "teacher": TAUGHT},
    "margin-mse, teacher": {"loss": "margin-mse", "teacher": TAUGHT},
}
"""The settings of each arm. The first one is what the others are compared with."""
BASE = next(iter(ARMS))
MEASURES = ("nDCG@10", "MAP")

Figures = dict[str, Any]


def training_of(store: Database, given: Namespace, seed: int, settings: Mapping[str, Any]) -> RerankerConfig:
    """Returns the settings of a training: as many queries as have the pairs for its steps, on average."""
    judged = graded_positives(store, "train")["query_id"]
    pairs = (1 + RerankerConfig.mined + RerankerConfig.random) * len(judged) / len(judged.unique())
    # A list of a query with many positives would be larger than a batch.
    lists = {"list_size": given.batch} if settings["loss"] in LISTWISE else {}
    return RerankerConfig(
        queries=max(1, round(given.steps * given.batch / given.epochs / pairs)), max_steps=given.steps,
        epochs=10_000, batch_size=given.batch, learning_rate=given.rate, held_out=0.0, probabilities=False,
        seed=seed, **lists, **settings,
    )  # fmt: skip


def figures_of(task: RerankingTask, scores: Any) -> Figures:
    """Returns the figures of the candidates in the order of their scores, as `trained_of` reads them."""
    found = task.measure(scores)
    values = {measure: found.values[measure].tolist() for measure in MEASURES}
    return {"means": {measure: found.means[measure] for measure in MEASURES}, "values": values}


def measured(model: Path, task: RerankingTask, shown: Progress) -> Figures:
    """Returns the figures of a reranker."""
    queries = [task.retrieval.queries[i] for i in task.candidates.query]
    documents = [task.retrieval.documents[i] for i in task.candidates.doc]
    return figures_of(task, Reranker(str(model)).score(queries, documents, progress=shown))


def measuring(store: Database, given: Namespace) -> list[Any]:
    """Returns what identifies the queries and documents that rerankers are measured on."""
    return [content_hashes(store, given.measure), given.depth, given.queries, given.seed]


def trial(
    store: Database, name: str, config: RerankerConfig, task: RerankingTask, given: Namespace, out: Path,
    shown: Progress,
) -> Figures:  # fmt: skip
    """Trains a reranker and measures it, unless its figures are stored."""
    teacher = Reranker(config.teacher).fingerprint if config.teacher else None
    identity = {
        "training": {**config.identity(), "base": resolve(config.base).fingerprint, "teacher": teacher},
        "data": content_hashes(store, config.split),
        "measured": measuring(store, given),
        "code": 1,
    }

    def make(folder: Path) -> Figures:
        """Trains into the folder."""
        started = time.process_time()
        metrics = train_reranker(store, folder, config, WithoutNotes(shown)).metrics
        seconds = time.process_time() - started
        made = measured(folder, task, shown)
        shown.note(f"{name}: {MEASURES[0]} {made['means'][MEASURES[0]]:.4f}")
        pairs = {kind: getattr(metrics, kind) for kind in ("queries", "positives", "mined", "random")}
        return {"name": name, "steps": metrics.steps, "seconds": seconds, "pairs": pairs, **made}

    return kept(out, identity, make)


def teacher_of(
    store: Database, task: RerankingTask, given: Namespace, out: Path, shown: Progress
) -> tuple[Reranker, Figures]:
    """Returns the teacher, which is trained unless it is there, and its figures."""
    folder = out.with_name(f"{out.name}-teacher")
    longer = Namespace(**vars(given) | {"steps": given.teacher_steps})
    config = training_of(store, longer, given.seed, ARMS[BASE])
    train_reranker(store, folder, config, WithoutNotes(shown), force=True)
    teacher = Reranker(str(folder))
    identity = {"teacher": teacher.fingerprint, "measured": measuring(store, given)}
    return teacher, kept(out, identity, lambda _: measured(folder, task, shown))


def keep_teacher_scores(store: Database, teacher: Reranker, config: RerankerConfig, shown: Progress) -> None:
    """Stores the teacher's scores of the pairs of a training, so that each of its trainings finds them."""
    collection = sample_queries(Collection.load(store, config.split), config)
    pairs = labelled_pairs(read_judgments(store, config), collection, config)
    lacking = np.isnan(known_scores_of(store, teacher.fingerprint, pairs.ids()))
    if lacking.any():
        wanted = pairs.where(lacking)
        scores = teacher.score(*wanted.texts(), progress=shown)
        keep_scores(store, teacher.fingerprint, wanted.ids().append_column("score", pa.array(scores)))


def trained(
    store: Database, given: Namespace, out: Path, shown: Progress
) -> tuple[dict[str, list[Figures]], dict[str, Figures]]:
    """Returns the figures of each arm, one per seed, and those to compare with: BM25 and the teacher."""
    task = reranking_task(store, given.measure, given.depth, given.queries, given.seed)
    beside = {"the order of BM25": figures_of(task, -np.arange(len(task.candidates.query), dtype=float))}
    teacher = None
    if any("teacher" in ARMS[arm] for arm in given.arms):
        teacher, beside["the teacher"] = teacher_of(store, task, given, out, shown)
    cells: dict[str, list[Figures]] = {arm: [] for arm in given.arms}
    for seed in range(given.seed, given.seed + given.repeats):
        for arm in given.arms:
            name = f"{out.name}, {arm}, seed {seed}"
            print(f"{name} …", file=sys.stderr, flush=True)
            config = training_of(store, given, seed, ARMS[arm])
            if teacher and config.teacher:
                config = replace(config, teacher=teacher.name)
                keep_teacher_scores(store, teacher, config, shown)
            cells[arm].append(trial(store, name, config, task, given, out, shown))
    return cells, beside


def add_rows(
    found: Report, cells: Mapping[str, list[Figures]], beside: Mapping[str, Figures], about: Mapping[str, Any]
) -> None:
    """Adds a row per arm with its figures and its difference to the base, and rows to compare with."""
    headline, data = MEASURES[0], about["data"]
    results = [trained_of(arm, sum(own[0]["pairs"].values()), own, 0) for arm, own in cells.items()]
    comparisons = compared([(one, results[0]) for one in results[1:]], MEASURES)
    gaps = {pair.first.arm: (pair, *pair.others) for pair in comparisons}
    for one in results:
        figures: Figures = {name: spread(values) for name, values in one.means.items()}
        for pair in gaps.get(one.arm, ()):
            figures |= difference(pair, "" if pair.difference.measure == headline else "MAP ")
        figures["processor seconds"] = spread(cell["seconds"] for cell in cells[one.arm])
        found.row(
            f"{data}, {one.arm}: {headline}", figures, value=one.mean(headline), steps=one.steps,
            pairs=cells[one.arm][0]["pairs"], **about,
        )  # fmt: skip
    for name, made in beside.items():
        found.row(f"{data}, {name}: {headline}", made["means"], value=made["means"][headline], **about)


def difference(pair: Comparison, prefix: str) -> Figures:
    """Returns the difference to the base as a row has it; `prefix` goes before the name of each figure."""
    gap = pair.difference
    figures = {
        f"minus {pair.second.arm}": round(gap.difference, 5),
        "interval": [round(gap.low, 5), round(gap.high, 5)],
        "each seed": [round(own, 5) for own in pair.per_seed],
        "p": gap.p, "holm": pair.holm, "verdict": pair.verdict,
    }  # fmt: skip
    return {prefix + name: value for name, value in figures.items()}


def arguments_of() -> Namespace:
    """Reads the command line."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--data", type=Path, nargs="+", default=[DATA / "tldr", DATA / "perspectrum"],
        help="BEIR folders [tldr perspectrum]",
    )  # fmt: skip
    arguments.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS], help="some of them [all]")
    arguments.add_argument("--epochs", type=float, default=1, help="over the pairs [%(default)s]")
    arguments.add_argument("--steps", type=int, default=200, help="batches of a training [%(default)s]")
    arguments.add_argument("--teacher-steps", type=int, default=400, help="[%(default)s]")
    arguments.add_argument("--batch", type=int, default=32, help="pairs per batch [%(default)s]")
    arguments.add_argument("--rate", type=float, default=5e-5, help="learning rate [%(default)s]")
    arguments.add_argument("--queries", type=int, default=100, help="measured on so many [%(default)s]")
    arguments.add_argument("--depth", type=int, default=50, help="BM25's best documents [%(default)s]")
    arguments.add_argument("--measure", default="test", choices=("test", "dev"), help="split [%(default)s]")
    return arguments.parse_args()


def main() -> None:
    """Reads the arguments, trains, compares, shows."""
    given = arguments_of()
    given.arms = list(dict.fromkeys([BASE, *given.arms]))
    full_size = given.steps >= 100 and given.queries >= 50 and len(given.data) > 1
    name = "reranker_losses-dev" if given.measure == "dev" else "reranker_losses"
    found = report(name, given, full_size=full_size)
    for data in given.data:
        path = kept_store(given.work / f"reranker-losses-{data.name}.duckdb", data)
        with progress() as shown, Database.open(path, note=shown.note) as store:
            cells, beside = trained(store, given, given.work / f"reranker-losses-{data.name}", shown)
        add_rows(found, cells, beside, {"data": data.name, "dtype": resolve_dtype("auto", resolve_device())})
    found.show()


if __name__ == "__main__":
    main()
