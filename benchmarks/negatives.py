"""Do hard negatives pay? Easy against hard, unfiltered and filtered, on a BEIR folder.

Mines the train split with BM25 and the bundled encoder (or with that alone), and trains the same base on the
same positives with in-batch negatives alone, with random ones, with BM25's and the encoder's best unfiltered,
and with the run's: what `miner bench` does. The setting (margin, window, negatives, epochs) is chosen with
--measure dev and is part of the row.

Target: hard-filtered ahead of easy, and of hard, with every seed and p < 0.05, corrected for the number of
comparisons (Holm).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import TLDR, Goal, Report, parser, report, spread
from corpora import new_store

from miner.engine.progress_bars import progress
from miner.mining.config import REFERENCE_POSITIVES, MiningConfig, Rules
from miner.mining.pipeline import mine
from miner.models.device import resolve_device, resolve_dtype
from miner.store.database import Database
from miner.training.encoder_config import EncoderConfig
from miner.workflows import bench_report
from miner.workflows.bench import bench
from miner.workflows.bench_config import ARMS, EASY, FILTERED, FITTING, HARD, BenchConfig, parse_sizes
from miner.workflows.bench_result import BenchReport, Comparison, Trained

AHEAD = Goal("1 if hard-filtered is ahead with every seed and p (Holm) < 0.05", ">=", 1)


def add_rows(found: Report, result: BenchReport, dtype: str) -> None:
    """Adds a row per arm and one per comparison."""
    measure = result.measure
    about: dict[str, Any] = {
        "dtype": dtype,
        "positives": result.pairs,
        "queries": len(result.ids),
        "documents": result.base.evaluations[0].documents,
    }
    before = result.base.means
    figures = {name: spread(values) for name, values in before.items()}
    found.row(
        f"before training: {measure}", figures, value=sum(before[measure]) / len(before[measure]), **about
    )
    for one in result.trained:
        figures = {name: spread(values) for name, values in one.means.items()}
        name = f"{one.arm}, {one.rows:,}: {measure}"
        found.row(name, figures, value=one.mean(measure), triplets=one.rows, steps=one.steps, **about)
    for pair in result.comparisons:
        _comparison(found, pair, about)


def _comparison(found: Report, pair: Comparison, about: dict[str, Any]) -> None:
    assert isinstance(pair.second, Trained)
    difference = pair.difference
    figures = {
        "difference": round(difference.difference, 5),
        "interval": [round(difference.low, 5), round(difference.high, 5)],
        "each seed": [round(gap, 5) for gap in pair.per_seed],
        "p": difference.p,
        "holm": pair.holm,
        "verdict": pair.verdict,
    }
    same = pair.first.rows == pair.second.rows
    rows = f"{pair.first.rows:,}" if same else f"{pair.first.rows:,} and {pair.second.rows:,}"
    name = f"{pair.first.arm} - {pair.second.arm}, {rows}"
    if same and {pair.first.arm, pair.second.arm} in ({FILTERED, EASY}, {FILTERED, HARD}):
        won = pair.ahead is not None and pair.ahead.arm == FILTERED
        found.row(name, figures, goal=AHEAD, value=float(won), **about)
    else:
        found.row(name, figures, value=difference.difference, **about)


def main() -> None:
    """Reads the arguments, mines, trains, compares, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=TLDR, help="BEIR folder [%(default)s]")
    arguments.add_argument("--base", default="bundled", help="model to start from [%(default)s]")
    arguments.add_argument("--arms", nargs="+", default=list(ARMS), help="[all]")
    arguments.add_argument(
        "--rows", default="6000", help="triplets, as `miner bench --sizes` has them [%(default)s]"
    )
    arguments.add_argument("--depth", type=int, default=100, help="of each retriever [%(default)s]")
    arguments.add_argument("--margin", type=float, default=0.05, help="relative margin [%(default)s]")
    arguments.add_argument(
        "--percentile", type=float, help="of the positives' scores, which no negative reaches, in its place"
    )
    arguments.add_argument(
        "--reference-positive",
        default="lowest",
        choices=REFERENCE_POSITIVES,
        help="positive that margins start from [%(default)s]",
    )
    arguments.add_argument("--no-bm25", action="store_true", help="candidates from the encoder alone")
    arguments.add_argument("--skip-top", type=int, default=0, help="ranks left out [%(default)s]")
    arguments.add_argument("--reranker", help="cross-encoder that scores the candidates [none]")
    arguments.add_argument("--negatives", type=int, default=1, help="per row [%(default)s]")
    arguments.add_argument("--loss", default="mnr", choices=FITTING, help="[%(default)s]")
    arguments.add_argument("--epochs", type=float, default=1, help="[%(default)s]")
    arguments.add_argument("--batch", type=int, default=64, help="rows per batch [%(default)s]")
    arguments.add_argument("--rate", type=float, help="learning rate [as `miner train` has it]")
    arguments.add_argument("--measure", default="test", choices=("test", "dev"), help="split [%(default)s]")
    arguments.add_argument("--documents", type=int, help="rank only so many [all]")
    given = arguments.parse_args()
    sizes = parse_sizes(given.rows)
    full_size = given.documents is None and max(size.rows for size in sizes) >= 5000
    found = report("negatives-dev" if given.measure == "dev" else "negatives", given, full_size=full_size)
    training = EncoderConfig(
        loss=given.loss, base=given.base, epochs=given.epochs, batch_size=given.batch,
        learning_rate=given.rate, seed=given.seed, evaluations=0,
    )  # fmt: skip
    config = BenchConfig(
        arms=tuple(given.arms), sizes=sizes, seeds=given.repeats,
        negatives_per_row=given.negatives, split=given.measure, documents=given.documents, training=training,
    )  # fmt: skip
    margin = given.margin if given.percentile is None else None
    rules = Rules(
        reference_positive=given.reference_positive,
        relative_margin=margin,
        percentile=given.percentile,
        skip_top=given.skip_top,
    )
    mining = MiningConfig(
        encoder="bundled", bm25=not given.no_bm25, reranker=given.reranker, depth=given.depth, rules=rules,
    )  # fmt: skip
    # What is mined, and every finished training, stays for the same command after a kill.
    path = given.work / f"negatives-{given.data.name}.duckdb"
    with progress() as reports:
        with Database.open(new_store(path, given.data)) as store:
            mine(store, mining, progress=reports)
        out = given.work / f"negatives-{given.data.name}"
        result = bench(path, out, config, reports)
    bench_report.write(result, out)
    print(bench_report.table(result))
    add_rows(found, result, resolve_dtype(training.dtype, resolve_device()))
    found.show()


if __name__ == "__main__":
    main()
