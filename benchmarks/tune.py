"""Is what `miner tune` chooses on dev at least level on test? Against the default rules and easy negatives.

Mines a sample of the train queries with BM25 and the bundled encoder, tunes on dev, and trains the choice,
the default rules and easy negatives again with every seed, to measure them on test. The row has the time of
the tuning, the sizes and the choice.

Target: on test, neither the default rules nor easy negatives are ahead of the choice: with every seed, and
p < 0.05 in a paired randomisation test over queries, corrected for both comparisons (Holm).
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import TLDR, Goal, Report, parser, report, spread, timed
from corpora import kept_store

from miner.engine.progress import Progress
from miner.engine.progress_bars import progress
from miner.mining.config import MiningConfig
from miner.mining.pipeline import mine
from miner.models.device import resolve_device, resolve_dtype
from miner.store.database import Database
from miner.store.runs import find_run
from miner.training.encoder_config import EncoderConfig
from miner.training.encoder_trainer import rows_left_out
from miner.workflows.bench_config import EASY
from miner.workflows.bench_result import Trained, compared, trained_of
from miner.workflows.train import known_positives
from miner.workflows.trial import Measured, trial
from miner.workflows.tune import TuneReport, tune
from miner.workflows.tune_arms import Arm, ArmRows
from miner.workflows.tune_config import TuneConfig

LEVEL = Goal("1 if the other is not ahead with every seed and p (Holm) < 0.05", ">=", 1)


def on_test(path: Path, work: Path, found: TuneReport, arms: list[Arm], reports: Progress) -> list[Trained]:
    """Trains arms as the final of the tuning did, and measures them on test with every seed."""
    config = found.config
    with Database.open(path, read_only=True) as store:
        run = find_run(store, found.run)
        rows = ArmRows(store, run, arms, config.training, config.training_seeds)
        seed = config.training.seed
        measured = Measured.of(store, "test", config.queries, config.documents, seed, reports)
        known = known_positives(store)
    return [_trained(arm, rows, measured, known, work, found, reports) for arm in arms]


def _trained(
    arm: Arm, rows: ArmRows, measured: Measured, known: Any, work: Path, found: TuneReport, reports: Progress
) -> Trained:
    config, cells = found.config, []
    for seed in config.training_seeds:
        examples = rows.examples(arm, found.plan.rows, seed)
        training = replace(config.training, seed=seed, evaluations=0)
        name = f"test, {arm.name}: {len(examples):,} triplets, seed {seed}"
        cells.append(trial(name, examples, training, known, measured, work, reports))
    return trained_of(arm.name, len(examples), cells, rows_left_out(examples, config.training))


def add_rows(found: Report, tuned: TuneReport, trained: list[Trained], about: dict[str, Any]) -> None:
    """Adds the choice with its time, a row per arm on test, and a row per comparison with the choice."""
    measure = tuned.measure
    dev = {one.arm: spread(one.means[measure]) for one in tuned.finals}
    figures = {
        "seconds": round(tuned.seconds, 1), "trainings": tuned.plan.trainings,
        "choice": tuned.chosen.name, "arms": len(tuned.arms), f"dev {measure}": dev,
        "verdict": "; ".join(tuned.verdicts[1:]),
    }  # fmt: skip
    found.row("tune: seconds", figures, value=tuned.seconds, **about)
    for one in trained:
        figures = {name: spread(values) for name, values in one.means.items()}
        found.row(f"test, {one.arm}: {measure}", figures, value=one.mean(measure), triplets=one.rows, **about)
    for name, pair in zip(
        ("default", "easy"), compared([(trained[0], other) for other in trained[1:]], [measure]), strict=False
    ):
        gap = pair.difference
        figures = {
            "difference": round(gap.difference, 5),
            "interval": [round(gap.low, 5), round(gap.high, 5)],
            "each seed": [round(one, 5) for one in pair.per_seed],
            "p": gap.p, "holm": pair.holm, "verdict": pair.verdict,
        }  # fmt: skip
        level = pair.ahead is not pair.second
        found.row(f"choice - {name}, test", figures, goal=LEVEL, value=float(level), **about)


def distinct(tuned: TuneReport) -> list[Arm]:
    """The choice, the default rules and easy negatives; a baseline that is the choice comes once more."""
    default = next(arm for arm in tuned.arms.values() if arm.kind not in (EASY, "in-batch"))
    return [tuned.chosen, default, Arm(EASY, 1)]


def main() -> None:
    """Reads the arguments, mines, tunes, measures on test, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=TLDR, help="BEIR folder [%(default)s]")
    arguments.add_argument("--base", default="bundled", help="model to start from [%(default)s]")
    arguments.add_argument("--train-queries", type=int, help="mine a sample of so many [all]")
    arguments.add_argument("--rows", type=int, default=2000, help="triplets in the final [%(default)s]")
    arguments.add_argument("--arms", type=int, default=8, help="settings to compare [%(default)s]")
    arguments.add_argument("--queries", type=int, default=500, help="to measure on [%(default)s]")
    arguments.add_argument("--documents", type=int, default=2000, help="rank only so many [%(default)s]")
    arguments.add_argument("--batch", type=int, default=64, help="rows per batch [%(default)s]")
    arguments.add_argument("--rate", type=float, help="learning rate [as `miner train` has it]")
    given: Namespace = arguments.parse_args()
    found = report("tune", given, full_size=given.rows >= 1000)
    training = EncoderConfig(
        base=given.base, batch_size=given.batch, learning_rate=given.rate, seed=given.seed, evaluations=0
    )
    config = TuneConfig(
        arms=given.arms, rows=given.rows, seeds=given.repeats, queries=given.queries,
        documents=given.documents, training=training,
    )  # fmt: skip
    path = kept_store(given.work / f"tune-{given.data.name}.duckdb", given.data)
    work = given.work / f"tune-{given.data.name}"
    with progress() as reports:
        with Database.open(path, note=reports.note) as store:
            mining = MiningConfig(encoder="bundled", queries=given.train_queries)
            run = mine(store, mining, progress=reports).name
        tuned = tune(path, work / "dev", replace(config, run=run), reports)
        trained: list[Trained] = []
        seconds = timed(lambda: trained.extend(on_test(path, work / "test", tuned, distinct(tuned), reports)))
    print(tuned.as_text())
    about = {
        "dtype": resolve_dtype(training.dtype, resolve_device()), "queries": tuned.queries,
        "documents": tuned.documents, "test_seconds": round(seconds, 1),
    }  # fmt: skip
    add_rows(found, tuned, trained, about)
    found.show()


if __name__ == "__main__":
    main()
