"""`miner train-reranker`: trains a cross-encoder on a store's judgments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.options import OUTPUT, Command, Settings, described
from miner.errors import counted
from miner.training.reranker_config import BCE, RERANKER_LOSSES, RerankerConfig

if TYPE_CHECKING:
    from miner.training.model_card import RerankerReport

ABOUT: dict[str, tuple[click.ParamType[Any] | None, str]] = {
    "split": (click.STRING, "Train on the positives of this split."),
    "loss": (
        click.Choice(list(RERANKER_LOSSES)),
        "Training objective. bce learns whether a pair is relevant, lambda and adrmse the order of a query's "
        "documents by grade or by a teacher's scores, margin-mse a teacher's margins.",
    ),
    "teacher": (
        click.STRING,
        "lambda, adrmse, margin-mse: reranker whose scores are the labels [default: the judgments' grades].",
    ),
    "list_size": (
        None,
        "lambda, adrmse: most documents of a list; more: several lists, each with a positive.",
    ),
    "base": (click.STRING, "Model to start from: hub id, folder, or bundled."),
    "epochs": (None, "Number of passes over the pairs."),
    "max_steps": (None, "Stop after this many batches [default: when the epochs end]."),
    "batch_size": (None, "Pairs per batch, of lists and triplets too."),
    "learning_rate": (None, "Peak learning rate."),
    "warmup": (None, "Fraction of the steps in which the learning rate rises."),
    "mined": (None, "Negatives per positive from the rank window."),
    "random": (None, "Random negatives per positive; mined and random set the share of random ones."),
    "skip_top": (None, "Mine no negatives from this many first ranks, where most unjudged positives are."),
    "depth": (None, "Last rank of the window."),
    "folds": (None, "Train this many models, each without the queries that it scores; 0: one model on all."),
    "held_out": (
        None,
        "Fraction of the queries held out from training, to measure and fit probabilities.",
    ),
    "withheld": (None, "Fraction of each query's positives withheld from training, for miner audit to hide."),
    "probabilities": (click.BOOL, "Make scores probabilities, fitted on the held-out queries."),
    "queries": (None, "Train on only this many queries, drawn with the seed [default: all]."),
    "max_length": (None, "Maximum tokens of a pair."),
    "dtype": (
        click.Choice(["auto", "fp32", "bf16"]),
        "Model precision. auto: bf16 if the hardware supports it, else fp32.",
    ),
    "seed": (None, "Seed of every random choice."),
    "threads": (None, "Processor threads [default: as many as are free]."),
}
"""The type and the help of every setting in RerankerConfig."""


SETTINGS = Settings(
    {"": described(RerankerConfig, ABOUT)},
    {"Queries": ("folds",), "Training": ("loss", "base")},
)
_RENAMED = {"--hold-out": "--set withheld=VALUE", "--max-queries": "--set queries=VALUE"}


@click.command("train-reranker", cls=Command, settings=SETTINGS, renamed=_RENAMED)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--force", is_flag=True, panel=OUTPUT, help="Replace a reranker in OUT that has other data or settings."
)
def command(store: Path, out: Path, force: bool, **given: Any) -> None:
    """Train a reranker on the judged positives in STORE and write it to the folder OUT.

    A cross-encoder learns to score the positives above negatives that are mined with BM25 and random ones.
    Its scores are probabilities: about 8 in 10 pairs with the score 0.8 are positives, if they are drawn like
    the training pairs. The model card in OUT has the figures on held-out queries. Use it with `miner mine
    --reranker OUT` or sentence-transformers. After a kill, the same command goes on from the last checkpoint,
    at most a minute old.

    \b
    miner train-reranker my.duckdb my-reranker
    miner train-reranker my.duckdb my-reranker --base answerdotai/ModernBERT-base --set epochs=3
    miner train-reranker my.duckdb my-reranker --loss lambda
    miner train-reranker my.duckdb small --loss margin-mse --set teacher=my-reranker
    miner train-reranker my.duckdb in-folds --folds 2
    miner train-reranker my.duckdb for-the-audit --set withheld=0.3
    miner train-reranker my.duckdb quick --set queries=200 --set max_steps=100
    """
    from miner.engine.progress_bars import progress
    from miner.store.database import Database
    from miner.training.reranker import train_reranker

    config = RerankerConfig(**SETTINGS.values(given)[""])
    with Database.open(store, read_only=True) as opened, progress() as reports:
        report = train_reranker(opened, out, config, reports, force=force)
    click.echo(_summary(report, store))


def _summary(report: RerankerReport, store: Path) -> str:
    metrics = report.metrics
    loss = "" if metrics.config["loss"] == BCE else f", loss {metrics.config['loss']}"
    lines = [
        f"reranker   {report.out}" + (" (was finished before)" if report.reused else ""),
        f"trained    {counted(metrics.positives, 'positive')}, {metrics.mined:,} mined and "
        f"{metrics.random:,} random negatives of {counted(metrics.queries, 'query', 'queries')}, "
        f"{counted(metrics.steps, 'step')}{loss}",
    ]
    if metrics.average_precision is not None:
        lines.append(
            f"held out   average precision {metrics.average_precision:.4f} on "
            f"{counted(metrics.held_out_queries, 'query', 'queries')} (random order: {metrics.chance:.4f})"
        )
    lines += [f"scores     {line}" for line in _probabilities(metrics.probabilities)]
    return "\n".join(
        [*lines, f"next       miner mine {quote(str(store))} --reranker {quote(str(report.out))}"]
    )


def _probabilities(fitted: Mapping[str, Any] | None) -> list[str]:
    if fitted is None:
        return []
    if fitted["reason"]:
        return [f"not probabilities: {fitted['reason']}"]
    (brier, scaled), (error, left) = fitted["brier"], fitted["calibration_error"]
    return [
        f"probabilities, fitted on {counted(fitted['pairs'], 'held-out pair')}: "
        f"Brier score {brier:.4f} → {scaled:.4f}, calibration error {error:.4f} → {left:.4f}"
    ]
