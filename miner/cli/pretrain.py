"""`miner pretrain`: an encoder adapted to a store's texts, without labels."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.options import field_options
from miner.training.pretrain_config import POOLINGS, TEXTS, PretrainConfig

if TYPE_CHECKING:
    from miner.training.pretrain_card import PretrainReport

OPTIONS: dict[str, tuple[click.ParamType[Any] | None, str]] = {
    "base": (click.STRING, "Transformer to start from: hub id, folder, or bundled."),
    "texts": (click.Choice(list(TEXTS)), "Which texts of STORE to learn from."),
    "without": (click.STRING, "Leave out the texts of queries judged in this split; '' for none."),
    "deletion": (
        None,
        "Probability with which each word is deleted; in scripts without spaces, each character.",
    ),
    "pooling": (click.Choice(POOLINGS), "How token vectors become one; keep: as the base does it."),
    "epochs": (None, "How often every text is seen."),
    "max_steps": (None, "Stop after so many batches [default: when the epochs end]."),
    "batch_size": (None, "Texts per batch."),
    "learning_rate": (None, "Learning rate, constant after the warm-up."),
    "warmup": (None, "Share of the steps over which the learning rate rises."),
    "max_length": (None, "Tokens read of a text."),
    "dtype": (click.Choice(["auto", "fp32", "bf16"]), "Numbers to compute in; auto: bf16 where it is fast."),
    "seed": (None, "Seed of every random choice."),
    "threads": (None, "Processor threads [default: as many as are free]."),
}
"""Every field of PretrainConfig, with what it may be and what it means."""


@click.command("pretrain")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@field_options(PretrainConfig(), OPTIONS)
@click.option("--force", is_flag=True, help="Replace an encoder in OUT that was pretrained otherwise.")
def command(store: Path, out: Path, force: bool, **settings: Any) -> None:
    """Adapt an encoder to the texts in STORE, without labels, and write it to the folder OUT.

    TSDAE: words are deleted, and a decoder rebuilds each text from the vector of what is left. What
    is judged relevant to what is not read. Train on pairs after it, with `miner train --base OUT`.
    Started again after a kill, the same command goes on from the last checkpoint, at most a minute
    old.

    \b
    miner pretrain my.duckdb adapted
    miner pretrain my.duckdb adapted --base google-bert/bert-base-uncased --pooling cls
    miner pretrain my.duckdb quick --texts queries --max-steps 100
    """
    from miner.engine.bars import progress
    from miner.training.tsdae import pretrain

    config = PretrainConfig(**{**settings, "without": settings["without"] or None})
    with progress() as reports:
        report = pretrain(store, out, config, reports, force=force)
    click.echo(_summary(report))


def _summary(report: PretrainReport) -> str:
    metrics = report.metrics
    lines = [
        f"encoder    {report.out}" + (" (was finished before)" if report.reused else ""),
        f"texts      {metrics.documents:,} documents, {metrics.queries:,} queries",
        f"trained    {metrics.steps:,} step{'' if metrics.steps == 1 else 's'} of at most "
        f"{metrics.config['batch_size']} texts",
        f"loss       {metrics.losses[0][1]:.4f} at first, {metrics.losses[-1][1]:.4f} at last",
        f"next       miner train TRIPLETS OUT --base {quote(str(report.out))}",
    ]
    return "\n".join(lines)
