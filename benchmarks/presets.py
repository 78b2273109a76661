"""Which negatives suit which loss? The strategies of selection, for each preset, on a BEIR folder.

Mines a sample of the train queries with BM25 and the bundled encoder, and decides once per strategy over the
same evidence. Every training has the same positives, rows and number of negatives per row:

- mnr: the bundled encoder with loss mnr, on negatives that the encoder's score decides.
- distillation: the same encoder with loss margin-mse, on negatives and scores of a cross-encoder that is
  trained on the data first and kept in --work.
- reranker: a cross-encoder of the bundled encoder on one positive per query and its negatives, which the
  encoder's score decides; measured on BM25's best candidates.

Each is trained with every seed and measured by nDCG@10. Negatives are drawn with one seed: another would draw
another sample of queries. Presets are chosen with --measure dev.

Target: no strategy is ahead of the preset's: with every seed, and p < 0.05 in a paired randomisation test
over queries, corrected for the number of comparisons of a loss (Holm).
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import TLDR, Goal, Report, parser, report, spread
from corpora import kept_store

from miner.arrays import positions
from miner.collection.collection import Collection
from miner.engine.progress import Progress
from miner.engine.progress_bars import progress
from miner.evaluation.reranking import RerankingTask, reranking_task
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import decide_again, mine
from miner.mining.presets import PRESETS
from miner.models.device import resolve_device, resolve_dtype
from miner.models.names import resolve
from miner.models.reranker import Reranker
from miner.store.database import Database
from miner.store.triplets import TextsById, mined_pairs
from miner.text import fingerprint
from miner.training.encoder_config import EncoderConfig
from miner.training.examples import Examples
from miner.training.reranker import train_reranker
from miner.training.reranker_config import RerankerConfig
from miner.training.reranker_pairs import LabelledPairs
from miner.training.reranker_trainer import train_cross_encoder
from miner.training.workspace import TRAINED
from miner.workflows.bench_result import Trained, compared, trained_of
from miner.workflows.run_rows import rows_of, usable
from miner.workflows.train import known_positives
from miner.workflows.trial import Measured, kept, trial

STRATEGIES = {
    "mnr": ("top", "mixed", "stratified", "random"),
    "distillation": ("top", "stratified", "random"),
    "reranker": ("top", "mixed", "random"),
}
"""The strategies that are compared for each preset."""
LOSSES = {"mnr": "mnr", "distillation": "margin-mse"}
LEVEL = Goal("1 if no strategy is ahead of the preset's with every seed and p (Holm) < 0.05", ">=", 1)

Figures = dict[str, Any]
Train = Callable[[int, Progress], Figures]
"""Trains with a seed and measures, unless it is done; the figures as `trial` returns them."""


def mining(given: Namespace, reranker: Path | None = None) -> MiningConfig:
    """Returns how the train queries are mined; the reranker's scores decide if there is one."""
    rules = Rules(relative_margin=None if given.margin == "none" else float(given.margin))
    return MiningConfig(
        encoder="bundled",
        reranker=() if reranker is None else str(reranker),
        depth=given.depth,
        queries=given.train_queries,
        rules=rules,
        selection=Selection(negatives=given.negatives, seed=given.seed),
    )


def teacher(store: Database, given: Namespace, reports: Progress) -> Path:
    """Returns a cross-encoder trained on the data; the one in --work if nothing has changed."""
    out: Path = given.work / f"presets-teacher-{given.data.name}"
    config = RerankerConfig(queries=given.train_queries, max_steps=given.teacher_steps, seed=given.seed)
    train_reranker(store, out, config, reports, force=True)
    return out


def selected(
    store: Database, config: MiningConfig, strategies: tuple[str, ...], easy_share: float, reports: Progress
) -> dict[str, pa.Table]:
    """Returns the positives of a search with the negatives that each strategy selects, as `mined_pairs`."""
    run = mine(store, config, progress=reports)
    found = {}
    for strategy in strategies:
        selection = replace(config.selection, strategy=strategy)
        if strategy == "mixed":
            selection = replace(selection, easy_share=easy_share)
        again = decide_again(store, run, replace(config, selection=selection), progress=reports)
        found[strategy] = usable(mined_pairs(store, again), config.selection.negatives, f"run {again.name}")
    return found


def encoder_trials(
    store: Database, pairs: Mapping[str, pa.Table], purpose: str, given: Namespace, reports: Progress
) -> tuple[dict[str, Train], int]:
    """Returns a trial per strategy, which trains and measures an encoder, and the number of rows."""
    texts, known = TextsById(store), known_positives(store)
    measured = Measured.of(store, given.measure, None, given.documents, given.seed, reports)
    training = EncoderConfig(
        loss=LOSSES[purpose], epochs=given.epochs, batch_size=given.batch, learning_rate=given.rate,
        evaluations=0,
    )  # fmt: skip
    rows: dict[str, Examples] = {}
    for strategy, table in pairs.items():
        order = np.random.default_rng(given.seed).permutation(table.num_rows)[: given.rows].tolist()
        every = rows_of(texts, table, training.loss, given.negatives, strategy)
        rows[strategy] = every.take(order)
    out = given.work / f"presets-{given.data.name}"

    def trained(strategy: str) -> Train:
        def train(seed: int, shown: Progress) -> Figures:
            name = f"{purpose}, {strategy}, seed {seed}"
            own = replace(training, seed=seed)
            return trial(name, rows[strategy], own, known, measured, out, shown)

        return train

    return {strategy: trained(strategy) for strategy in pairs}, min(map(len, rows.values()))


def reranker_trials(
    store: Database, pairs: Mapping[str, pa.Table], given: Namespace
) -> tuple[dict[str, Train], int]:
    """Returns a trial per strategy, which trains and measures a cross-encoder, and the number of pairs."""
    collection = Collection.load(store, "train", given.train_queries, given.seed)
    task = reranking_task(store, given.measure, given.rerank_depth, given.rerank_queries, given.seed)
    labelled = {name: one_positive(collection, table, given.seed) for name, table in pairs.items()}
    out = given.work / f"presets-{given.data.name}"

    def trained(strategy: str) -> Train:
        return lambda seed, shown: reranker_figures(
            strategy, labelled[strategy], task, seed, given, out, shown
        )

    return {strategy: trained(strategy) for strategy in pairs}, min(map(len, labelled.values()))


def one_positive(collection: Collection, pairs: pa.Table, seed: int) -> LabelledPairs:
    """Returns one positive of each query, drawn with the seed, and the query's negatives."""
    drawn = np.random.default_rng(seed).permutation(pairs.num_rows)
    _, first = np.unique(pairs["query_id"].to_numpy(zero_copy_only=False)[drawn], return_index=True)
    chosen = pairs.take(pa.array(np.sort(drawn[first])))
    counts = chosen["negative_ids"].combine_chunks().value_lengths().to_numpy()
    query = positions(chosen["query_id"], collection.query_ids)
    positive = positions(chosen["positive_id"], collection.doc_ids)
    negative = positions(pa.chunked_array([chosen["negative_ids"].combine_chunks().flatten()]),
                         collection.doc_ids)  # fmt: skip
    queries = np.concatenate([query, np.repeat(query, counts)])
    docs = np.concatenate([positive, negative])
    kinds = np.repeat(np.array([0, 1], dtype=np.int32), [len(positive), len(negative)])
    order = np.lexsort((docs, kinds, queries))
    return LabelledPairs(collection, queries[order], docs[order], kinds[order])


def reranker_figures(
    strategy: str, pairs: LabelledPairs, task: RerankingTask, seed: int, given: Namespace, out: Path,
    shown: Progress,
) -> Figures:  # fmt: skip
    """Trains a cross-encoder and measures it, unless its figures are stored."""
    base = resolve("bundled")
    config = RerankerConfig(epochs=given.reranker_epochs, batch_size=given.batch, seed=seed)
    name = f"reranker, {strategy}, seed {seed}"
    identity = {
        "pairs": [pairs.query.tolist(), pairs.doc.tolist(), pairs.kind.tolist()],
        "data": pairs.collection.hashes,
        "training": config.identity(),
        "base": base.fingerprint,
        "measured": [given.measure, given.rerank_depth, given.rerank_queries, given.seed],
        "task": fingerprint([task.retrieval.queries, len(task.retrieval.documents)]),
        "code": 1,
    }

    def make(folder: Path) -> Figures:
        folder.mkdir(parents=True, exist_ok=True)
        training = train_cross_encoder(pairs, base, folder, config, shown)
        model = Reranker(str(folder / TRAINED))
        queries = [task.retrieval.queries[i] for i in task.candidates.query]
        documents = [task.retrieval.documents[i] for i in task.candidates.doc]
        found = task.measure(model.score(queries, documents, progress=shown))
        shown.note(f"{name}: {found.headline} {found.means[found.headline]:.4f}")
        values = {measure: column.tolist() for measure, column in found.values.items()}
        return {"name": name, "steps": training.steps, "means": dict(found.means), "values": values}

    return kept(out, identity, make)


def add_rows(found: Report, purpose: str, trained: list[Trained], about: dict[str, Any]) -> None:
    """Adds a row per strategy, a comparison of the preset's with each other one, and the target."""
    measure = next(iter(trained[0].values))
    for one in trained:
        figures = {name: spread(values) for name, values in one.means.items()}
        found.row(f"{purpose}, {one.arm}: {measure}", figures, value=one.mean(measure),
                  rows=one.rows, steps=one.steps, **about)  # fmt: skip
    own = PRESETS[purpose]["strategy"]
    preset = next((one for one in trained if one.arm == own), trained[0])
    comparisons = compared([(preset, one) for one in trained if one is not preset], [measure])
    for pair in comparisons:
        gap = pair.difference
        difference = {
            "difference": round(gap.difference, 5), "interval": [round(gap.low, 5), round(gap.high, 5)],
            "each seed": [round(one, 5) for one in pair.per_seed],
            "p": gap.p, "holm": pair.holm, "verdict": pair.verdict,
        }  # fmt: skip
        found.row(
            f"{purpose}, {pair.first.arm} - {pair.second.arm}", difference, value=gap.difference, **about
        )
    ahead = [pair.second.arm for pair in comparisons if pair.ahead is pair.second]
    best = max(trained, key=lambda one: one.mean(measure)).arm
    chosen = {"preset": preset.arm, "best mean": best, "ahead of the preset": ahead}
    found.row(f"{purpose}: the preset's strategy", chosen, goal=LEVEL, value=float(not ahead), **about)


def arguments_of() -> Namespace:
    """Reads the command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=TLDR, help="BEIR folder [%(default)s]")
    arguments.add_argument(
        "--for", dest="purposes", nargs="+", choices=STRATEGIES, default=[*STRATEGIES], help="presets [all]"
    )
    arguments.add_argument("--train-queries", type=int, default=500, help="mine so many [%(default)s]")
    arguments.add_argument("--depth", type=int, default=50, help="of each retriever [%(default)s]")
    arguments.add_argument("--margin", default="0.05", help="relative margin, or none [%(default)s]")
    arguments.add_argument("--negatives", type=int, default=5, help="per row and query [%(default)s]")
    arguments.add_argument("--easy-share", type=float, default=0.4, help="of mixed [%(default)s]")
    arguments.add_argument("--rows", type=int, default=1200, help="for the encoder [%(default)s]")
    arguments.add_argument("--epochs", type=float, default=1, help="of the encoder [%(default)s]")
    arguments.add_argument("--batch", type=int, default=32, help="rows per batch [%(default)s]")
    arguments.add_argument("--rate", type=float, help="the encoder's rate [as `miner train` has it]")
    arguments.add_argument("--documents", type=int, default=4000, help="rank only so many [%(default)s]")
    arguments.add_argument("--teacher-steps", type=int, default=400, help="batches of 32 [%(default)s]")
    arguments.add_argument("--reranker-epochs", type=int, default=1, help="[%(default)s]")
    arguments.add_argument("--rerank-queries", type=int, default=150, help="to measure on [%(default)s]")
    arguments.add_argument("--rerank-depth", type=int, default=30, help="candidates each [%(default)s]")
    arguments.add_argument("--measure", default="dev", choices=("test", "dev"), help="split [%(default)s]")
    return arguments.parse_args()


def main() -> None:
    """Reads the arguments, mines, trains, compares, shows."""
    given = arguments_of()
    full_size = given.train_queries >= 300 and given.rows >= 500
    name = "presets-dev" if given.measure == "dev" else "presets"
    found = report(name, given, full_size=full_size)
    path = kept_store(given.work / f"presets-{given.data.name}.duckdb", given.data)
    # Every finished training stays for the same command after a kill.
    with progress() as reports, Database.open(path, note=reports.note) as store:
        for purpose in given.purposes:
            scorer = teacher(store, given, reports) if purpose == "distillation" else None
            pairs = selected(store, mining(given, scorer), STRATEGIES[purpose], given.easy_share, reports)
            if purpose == "reranker":
                trials, rows = reranker_trials(store, pairs, given)
            else:
                trials, rows = encoder_trials(store, pairs, purpose, given, reports)
            cells: dict[str, list[Figures]] = {strategy: [] for strategy in trials}
            for seed in range(given.seed, given.seed + given.repeats):
                for strategy, train in trials.items():
                    print(f"{purpose}, {strategy}, seed {seed} …", file=sys.stderr, flush=True)
                    cells[strategy].append(train(seed, reports))
            trained = [trained_of(strategy, rows, own, 0) for strategy, own in cells.items()]
            about = {"data": given.data.name, "dtype": resolve_dtype("auto", resolve_device())}
            add_rows(found, purpose, trained, about)
    found.show()


if __name__ == "__main__":
    main()
