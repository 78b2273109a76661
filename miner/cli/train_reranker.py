"""`miner train-reranker`: a cross-encoder from a store's judgments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.options import field_options
from miner.errors import counted
from miner.training.reranker_config import RerankerConfig

if TYPE_CHECKING:
    from miner.training.reranker import TrainingReport

_OPTIONS: dict[str, tuple[click.ParamType[Any] | None, str]] = {
    "split": (click.STRING, "Learn from the positives of this split."),
    "base": (click.STRING, "Model to start from: hub id, folder, or bundled."),
    "epochs": (None, "How often every pair is seen."),
    "max_steps": (None, "Stop after so many batches [default: when the epochs end]."),
    "batch_size": (None, "Pairs per batch."),
    "learning_rate": (None, "Learning rate at its peak."),
    "warmup": (None, "Share of the steps over which the learning rate rises."),
    "mined": (None, "Negatives per positive from the rank window."),
    "random": (None, "Random negatives per positive."),
    "skip_top": (None, "Mine no negatives from so many first ranks: unjudged positives are there."),
    "depth": (None, "Last rank of the window."),
    "folds": (None, "Train so many models, each without the queries it will score; 0: one model on all."),
    "held_out": (None, "Share of the queries kept from training: to measure and calibrate on."),
    "hold_out": (None, "Fraction of each query's positives withheld from training, for miner audit to hide."),
    "calibrate": (click.BOOL, "Make scores probabilities, on the queries kept from training."),
    "max_queries": (None, "Use only so many queries, drawn with the seed [default: all]."),
    "max_length": (None, "Tokens read of a pair."),
    "dtype": (click.Choice(["auto", "fp32", "bf16"]), "Numbers to compute in; auto: bf16 where it is fast."),
    "seed": (None, "Seed of every random choice."),
    "threads": (None, "Processor threads [default: as many as are free]."),
}
"""Every field of RerankerConfig, with what it may be and what it means."""


@click.command("train-reranker")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@field_options(RerankerConfig(), _OPTIONS)
@click.option("--force", is_flag=True, help="Replace a reranker in OUT that was trained otherwise.")
def command(store: Path, out: Path, force: bool, **settings: Any) -> None:
    """Train a reranker on the judged positives in STORE and write it to the folder OUT.

    A cross-encoder learns to tell the positives from negatives mined with BM25 and from random
    ones. Its scores are calibrated: of pairs drawn like the training pairs and scored 0.8, about 8 in
    10 are positives. OUT has a model card with what was measured on held-out queries, and is used
    with `miner mine --reranker OUT` or by sentence-transformers. Started again after a kill, the
    same command goes on from the last checkpoint, at most a minute old.

    \b
    miner train-reranker my.duckdb my-reranker
    miner train-reranker my.duckdb my-reranker --base answerdotai/ModernBERT-base --epochs 2
    miner train-reranker my.duckdb in-folds --folds 2
    miner train-reranker my.duckdb for-the-audit --hold-out 0.3
    miner train-reranker my.duckdb quick --max-queries 200 --max-steps 100
    """
    from miner.engine.bars import progress
    from miner.store.database import Store
    from miner.training.reranker import train_reranker

    config = RerankerConfig(**settings)
    with Store.open(store, read_only=True) as opened, progress() as reports:
        report = train_reranker(opened, out, config, reports, force=force)
    click.echo(_summary(report, store))


def _summary(report: TrainingReport, store: Path) -> str:
    metrics = report.metrics
    lines = [
        f"reranker   {report.out}" + (" (was finished before)" if report.reused else ""),
        f"trained    {counted(metrics.positives, 'positive')}, {metrics.mined:,} mined and "
        f"{metrics.random:,} random negatives of {counted(metrics.queries, 'query', 'queries')}, "
        f"{counted(metrics.steps, 'step')}",
    ]
    if metrics.average_precision is not None:
        lines.append(
            f"held out   average precision {metrics.average_precision:.4f} on "
            f"{counted(metrics.held_out_queries, 'query', 'queries')} (random order: {metrics.chance:.4f})"
        )
    lines += [f"calibrated {told}" for told in _calibrated(metrics.calibration)]
    return "\n".join(
        [*lines, f"next       miner mine {quote(str(store))} --reranker {quote(str(report.out))}"]
    )


def _calibrated(calibration: Mapping[str, Any] | None) -> list[str]:
    if calibration is None:
        return []
    if calibration["reason"]:
        return [f"no: {calibration['reason']}"]
    (brier, scaled), (error, left) = calibration["brier"], calibration["calibration_error"]
    return [
        f"on {counted(calibration['pairs'], 'held-out pair')}: Brier score {brier:.4f} → {scaled:.4f}, "
        f"calibration error {error:.4f} → {left:.4f}"
    ]
