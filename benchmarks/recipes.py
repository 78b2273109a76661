"""Which published recipe helps here? Each of miner.published trains the bundled encoder on BEIR folders.

Mines a sample of the train queries once, with the bundled encoder and a reranker that is trained on the data
first (kept in --work), and decides once per recipe over the same evidence. Then `bundled` is trained with the
recipe's loss and settings: the same number of rows, one negative a row, the same number of steps. Beside
the recipes stand `in-batch` (pairs without negatives), `default` (miner's rules and loss mnr), and
`margin-mse` and `distill`, which learn the reranker's scores.

What a recipe leaves open: the guide of gistembed is the bundled encoder itself, a of simans is 100 (cosines),
and msmarco-v3 decides by the logits of the reranker. The figures are of these stand-ins, not of the published
models.

Each is trained with every seed, measured by nDCG@10, and compared with `default`: with every seed, and
p < 0.05 in a paired randomisation test over queries, corrected for the number of comparisons (Holm). A
finished training is not repeated by the same command.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import TLDR, Report, parser, report, spread
from corpora import kept_store

from miner.engine.progress import Progress
from miner.engine.progress_bars import progress
from miner.mining.config import MiningConfig, Selection, with_rules
from miner.mining.pipeline import decide_again, mine
from miner.models.device import resolve_device, resolve_dtype
from miner.published import PUBLISHED
from miner.store.database import Database
from miner.store.runs import StoredRun
from miner.store.triplets import TextsById, mined_pairs
from miner.training.encoder_config import EncoderConfig
from miner.training.examples import Examples
from miner.training.reranker import train_reranker
from miner.training.reranker_config import RerankerConfig
from miner.training.steps import step_count
from miner.workflows.bench_result import Trained, compared, trained_of
from miner.workflows.run_rows import rows_of
from miner.workflows.train import known_positives
from miner.workflows.trial import Measured, trial

DATA = TLDR.parent
_LEARNED: Mapping[str, Mapping[str, Any]] = {
    "rules": {"relative_margin": None},
    "selection": {"strategy": "stratified"},
}
OURS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "in-batch": {},
    "default": {},
    "margin-mse": {**_LEARNED, "training": {"loss": "margin-mse"}},
    "distill": {**_LEARNED, "training": {"loss": "distill"}},
}
"""The settings of the trainings beside the recipes, by name and table. What learns scores needs no rule."""
STAND_INS: Mapping[str, Mapping[str, Any]] = {
    "gistembed": {"training": {"guide": "bundled"}},
    "simans": {"selection": {"ambiguous_a": 100.0}},
}
"""What a recipe leaves to the user, as this benchmark has it."""
BY_RERANKER = ("msmarco-v3", "margin-mse", "distill")
"""What decides by the reranker's scores; all else decides by the encoder's."""

Figures = dict[str, Any]


def reranker(store: Database, given: Namespace, data: Path, reports: Progress) -> tuple[Path, Path]:
    """Returns a cross-encoder trained on the data, with probabilities and with logits as scores."""
    import torch
    from sentence_transformers import CrossEncoder

    out: Path = given.work / f"recipes-teacher-{data.name}"
    config = RerankerConfig(queries=given.train_queries, max_steps=given.teacher_steps, seed=given.seed)
    train_reranker(store, out, config, reports, force=True)
    logits = out.with_name(f"{out.name}-logits")
    if not logits.exists():
        plain = CrossEncoder(str(out), activation_fn=torch.nn.Identity(), device="cpu", local_files_only=True)
        partial = logits.with_name(f"{logits.name}-partial")
        plain.save_pretrained(str(partial), create_model_card=False)
        partial.rename(logits)
    return out, logits


def tables_of(name: str) -> dict[str, dict[str, Any]]:
    """Returns the settings of a recipe or of a training beside them, by table, with the stand-ins."""
    tables = OURS[name] if name in OURS else PUBLISHED[name].tables
    found: dict[str, dict[str, Any]] = {"rules": {}, "selection": {}, "training": {}} | {
        table: dict(values) for table, values in tables.items()
    }
    for table, values in STAND_INS.get(name, {}).items():
        found[table] |= values
    return {
        table: {key: None if value == "none" else value for key, value in values.items()}
        for table, values in found.items()
    }


def decided(
    store: Database, runs: Mapping[str, tuple[StoredRun, MiningConfig]], name: str, reports: Progress
) -> pa.Table:
    """Returns the positives with the negatives that a recipe selects, as `mined_pairs`; there may be none."""
    tables = tables_of(name)
    scores = "logits" if name == "msmarco-v3" else "reranker" if name in BY_RERANKER else "encoder"
    run, config = runs[scores]
    selection = replace(config.selection, **tables["selection"])
    chosen = replace(config, rules=with_rules(config.rules, tables["rules"]), selection=selection)
    again = decide_again(store, run, chosen, progress=reports)
    return mined_pairs(store, again)


def training_of(name: str, rows: Examples, given: Namespace) -> EncoderConfig:
    """Returns how a recipe trains: as many steps as any other with that many rows."""
    config = EncoderConfig(
        epochs=given.epochs, batch_size=given.batch, learning_rate=given.rate, evaluations=0
    )
    steps = step_count(min(len(rows), given.rows), config)
    # An epoch with one positive of each query is shorter: as many as the steps need.
    return replace(config, max_steps=steps, epochs=10_000.0, **tables_of(name)["training"])


def trained(
    store: Database, data: Path, names: list[str], given: Namespace, reports: Progress
) -> list[Trained]:
    """Returns the results of every recipe and of the trainings beside them, on one data set."""
    probable, logits = reranker(store, given, data, reports)
    runs = {}
    for scores, model in (("encoder", ()), ("reranker", str(probable)), ("logits", str(logits))):
        config = MiningConfig(
            encoder="bundled", reranker=model, depth=given.depth, queries=given.train_queries,
            selection=Selection(negatives=given.negatives, seed=given.seed),
        )  # fmt: skip
        runs[scores] = (mine(store, config, progress=reports), config)
    texts, known = TextsById(store), known_positives(store)
    measured = Measured.of(store, given.measure, None, given.documents, given.seed, reports)
    out = given.work / f"recipes-{data.name}"
    rows: dict[str, Examples] = {}
    for name in names:
        table = decided(store, runs, name, reports)
        if not table.num_rows:
            reports.note(f"recipe {name} selects no negatives of {data.name}: it is not trained")
            continue
        order = np.random.default_rng(given.seed).permutation(table.num_rows)[: given.rows].tolist()
        loss = tables_of(name)["training"].get("loss", "mnr")
        rows[name] = rows_of(texts, table, loss, 0 if name == "in-batch" else 1, name).take(order)
    cells: dict[str, list[Figures]] = {name: [] for name in rows}
    for seed in range(given.seed, given.seed + given.repeats):
        for name in rows:
            print(f"{data.name}, {name}, seed {seed} …", file=sys.stderr, flush=True)
            own = replace(training_of(name, rows[name], given), seed=seed)
            made = trial(f"{name}, seed {seed}", rows[name], own, known, measured, out, reports)
            cells[name].append(made)
    return [trained_of(name, len(rows[name]), own, 0) for name, own in cells.items()]


def add_rows(found: Report, results: list[Trained], about: Mapping[str, Any]) -> None:
    """Adds a row per recipe with its figure and its difference to `default`."""
    measure = next(iter(results[0].values))
    base = next((one for one in results if one.arm == "default"), None)
    comparisons = compared([(one, base) for one in results if base and one is not base], [measure])
    gaps = {pair.first.arm: pair for pair in comparisons}
    for one in results:
        figures: Figures = {name: spread(values) for name, values in one.means.items()}
        if pair := gaps.get(one.arm):
            gap = pair.difference
            figures |= {
                "minus default": round(gap.difference, 5),
                "interval": [round(gap.low, 5), round(gap.high, 5)],
                "each seed": [round(own, 5) for own in pair.per_seed],
                "p": gap.p, "holm": pair.holm, "verdict": pair.verdict,
            }  # fmt: skip
        if one.arm in PUBLISHED:
            figures["source"] = PUBLISHED[one.arm].source
        found.row(
            f"{about['data']}, {one.arm}: {measure}", figures, value=one.mean(measure), rows=one.rows,
            steps=one.steps, **about,
        )  # fmt: skip


def arguments_of() -> Namespace:
    """Reads the command line."""
    arguments = parser(__doc__)
    every = [*OURS, *PUBLISHED]
    arguments.add_argument(
        "--data", type=Path, nargs="+", default=[DATA / "tldr", DATA / "perspectrum"],
        help="BEIR folders [tldr perspectrum]",
    )  # fmt: skip
    arguments.add_argument("--recipes", nargs="+", choices=every, default=every, help="some of them [all]")
    arguments.add_argument("--train-queries", type=int, default=500, help="mine so many [%(default)s]")
    arguments.add_argument("--depth", type=int, default=50, help="of each retriever [%(default)s]")
    arguments.add_argument("--negatives", type=int, default=5, help="per query [%(default)s]")
    arguments.add_argument("--rows", type=int, default=1200, help="of a training [%(default)s]")
    arguments.add_argument("--epochs", type=float, default=1, help="[%(default)s]")
    arguments.add_argument("--batch", type=int, default=32, help="rows per batch [%(default)s]")
    arguments.add_argument("--rate", type=float, help="learning rate [as `miner train` has it]")
    arguments.add_argument("--documents", type=int, default=4000, help="rank only so many [%(default)s]")
    arguments.add_argument("--teacher-steps", type=int, default=400, help="batches of 32 [%(default)s]")
    arguments.add_argument("--measure", default="test", choices=("test", "dev"), help="split [%(default)s]")
    return arguments.parse_args()


def main() -> None:
    """Reads the arguments, mines, trains, compares, shows."""
    given = arguments_of()
    names = list(dict.fromkeys(["default", *given.recipes]))
    full_size = given.train_queries >= 300 and given.rows >= 500 and len(given.data) > 1
    found = report("recipes-dev" if given.measure == "dev" else "recipes", given, full_size=full_size)
    for data in given.data:
        path = kept_store(given.work / f"recipes-{data.name}.duckdb", data)
        with progress() as reports, Database.open(path, note=reports.note) as store:
            results = trained(store, data, names, given, reports)
        add_rows(found, results, {"data": data.name, "dtype": resolve_dtype("auto", resolve_device())})
    found.show()


if __name__ == "__main__":
    main()
