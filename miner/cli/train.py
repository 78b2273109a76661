"""`miner train`: an encoder from triplets, or straight from a store."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.numbers import Within
from miner.cli.options import field_options
from miner.ranges import BELOW_1, LABEL_MAX, ROW_NEGATIVES
from miner.training.encoder_config import LOSSES, SCRATCH, EncoderConfig

JUDGMENTS = ("gold", "silver", "both")
DEV_TASKS = ("auto", "retrieval", "similarity", "labels")

if TYPE_CHECKING:
    from miner.training.encoder_card import EncoderReport

OPTIONS: dict[str, tuple[click.ParamType[Any] | None, str]] = {
    "loss": (click.Choice(list(LOSSES)), "What the model is to learn; see docs/training.md."),
    "base": (click.STRING, "Model to start from: hub id, folder, bundled, or scratch."),
    "epochs": (None, "How often every row is seen."),
    "max_steps": (None, "Stop after so many batches [default: when the epochs end]."),
    "batch_size": (None, "Rows per batch: the more, the more negatives each has."),
    "learning_rate": (None, "At its peak [default: 2e-5; for a static table 0.02]."),
    "warmup": (None, "Share of the steps over which the rate rises."),
    "scale": (None, "mnr, cached-mnr, gist: what cosines are multiplied by."),
    "margin": (None, "triplet: how much further the negative is to be, in cosine distance."),
    "guide": (click.STRING, "gist: the model that finds false negatives in the batch."),
    "mini_batch": (None, "cached-mnr: rows in memory at a time."),
    "mask": (click.BOOL, "Leave known positives of an anchor out of its in-batch negatives."),
    "max_length": (None, "Tokens read of a text."),
    "query_prompt": (click.STRING, "Text before every anchor [default: the model's]."),
    "document_prompt": (click.STRING, "Text before every document [default: the model's]."),
    "dimension": (None, "scratch: length of a vector."),
    "tokenizer": (click.STRING, "scratch: model whose tokens get a vector each."),
    "evaluations": (None, "How often the model is scored on the dev split; 0: never."),
    "patience": (None, "Stop after so many scores without a better one [default: never]."),
    "dtype": (click.Choice(["auto", "fp32", "bf16"]), "Numbers to compute in; auto: bf16 where it is fast."),
    "seed": (None, "Seed of every random choice."),
    "threads": (None, "Processor threads [default: as many as are free]."),
}
"""Every field of EncoderConfig, with what it may be and what it means."""


def _names(_: Any, __: Any, value: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",")) if value else ()


@click.command("train")
@click.argument("triplets", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--run", help="TRIPLETS is a store: train on this run [default: the last].")
@click.option(
    "--negatives",
    type=Within(ROW_NEGATIVES),
    default=1,
    show_default=True,
    help="Of a store: negatives per row.",
)
@click.option(
    "--hold-out", type=Within(BELOW_1), default=0.0, show_default=True,
    help="Of a run: share of each query's positives that the model never sees; miner audit hides those.",
)  # fmt: skip
@click.option(
    "--judgments", type=click.Choice(JUDGMENTS), help="Of a store: train on judged pairs, not on a run."
)
@click.option("--split", help="With --judgments: their split [default: train].")
@click.option(
    "--columns",
    callback=_names,
    help="Of a file: its text columns in order, with commas between; not given: anchor or query, positive, "
    "negatives by their names, else all but ids.",
)
@click.option("--label-column", help="Of a file: column of the label or score.")
@click.option("--positive-label", help="Of a file: the class that counts as 1, all others as 0.")
@click.option(
    "--label-max",
    type=Within(LABEL_MAX),
    default=1.0,
    show_default=True,
    help="Divide labels, or graded judgments, by this.",
)
@click.option(
    "--dev", type=click.Path(path_type=Path), help="Store to score on [default: TRIPLETS, if a store]."
)
@click.option("--dev-split", help="Split to score on [default: dev, if it is judged].")
@click.option(
    "--dev-task", type=click.Choice(DEV_TASKS), default="auto", show_default=True,
    help="What the judgments to score on are for; auto looks at them.",
)  # fmt: skip
@field_options(EncoderConfig(), OPTIONS)
@click.option("--force", is_flag=True, help="Replace an encoder in OUT that was trained otherwise.")
def command(
    triplets: Path, out: Path, run: str | None, negatives: int, judgments: str | None, split: str | None,
    columns: tuple[str, ...], label_column: str | None, positive_label: str | None, label_max: float,
    dev: Path | None, dev_split: str | None, dev_task: str, force: bool, **settings: Any,
) -> None:  # fmt: skip
    """Train an encoder on TRIPLETS and write it to the folder OUT.

    TRIPLETS is a file or folder that `miner export` wrote, any .tsv, .csv, .jsonl, .json or .parquet with
    columns of text, or a store: then it trains on a run or on judged pairs, masks what the store knows
    to be positive, and keeps the model that is best on the dev split. Started again after a kill,
    the same command goes on from the last checkpoint.

    \b
    miner train my.duckdb my-model
    miner train my.duckdb my-model --run r2 --negatives 3 --epochs 2 --patience 2
    miner train my.duckdb my-model --judgments both
    miner train my-triplets my-model --base scratch --epochs 3 --dev my.duckdb
    miner train nli.tsv my-model --loss softmax --columns premise,hypothesis --label-column label
    miner train sts.tsv my-model --loss cosine --columns sentence1,sentence2 --label-max 5
    """
    from miner.engine.bars import progress
    from miner.store.faults import is_database
    from miner.training.examples import Columns
    from miner.workflows.train import Dev, Rows, train

    config = EncoderConfig(**{name: settings[name] for name in OPTIONS})
    read = Columns(columns, label_column, positive_label, label_max)
    rows = Rows(run, negatives, judgments, split, settings["hold_out"], read)
    with progress() as reports:
        scoring = Dev(dev, dev_split, dev_task)
        report = train(triplets, out, config, rows, dev=scoring, force=force, progress=reports)
    place = dev or (triplets if is_database(triplets) else None)
    click.echo(_summary(report, quote(str(place)) if place else "STORE"))


def _summary(report: EncoderReport, store: str) -> str:
    metrics = report.metrics
    lines = [
        f"encoder   {report.out}" + (" (was finished before)" if report.reused else ""),
        f"rows      {metrics.rows:,} of {', '.join(metrics.columns)}",
        f"trained   {metrics.trained}, loss {metrics.config['loss']}",
    ]
    if metrics.losses:
        lines.append(f"loss      {metrics.losses[0][1]:.4f} at first, {metrics.losses[-1][1]:.4f} at last")
    if metrics.measure is not None and metrics.best_step is not None:
        scores = dict(metrics.scores)
        before, kept = (scores[step][metrics.measure] for step in (0, metrics.best_step))
        lines.append(
            f"dev       {metrics.measure} {before:.4f} before, {kept:.4f} at step {metrics.best_step}"
            + ("" if metrics.best_step else f": no step was better, {report.out} is the base itself")
        )
    base = metrics.base
    against = "" if base == SCRATCH else f" --against {quote(base)}"
    return "\n".join(
        [*lines, f"next      miner evaluate {quote(str(report.out))} {store} --split test{against}"]
    )
