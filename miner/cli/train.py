"""`miner train`: trains an encoder on triplets, or on a store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.options import OUTPUT, PUSHING, RUN, Command, Settings, described
from miner.errors import UsageError, listed
from miner.ranges import BELOW_1, LABEL_MAX, ROW_NEGATIVES
from miner.recipe import Setting, by_name
from miner.sources.config import SKIPPED
from miner.training.encoder_config import (
    ALL,
    DIRECTIONS,
    HARDNESS,
    LOSSES,
    ONE,
    SCRATCH,
    EncoderConfig,
)
from miner.workflows.bench_config import FEWER, KINDS, LEAVE_OUT, MINED

TRAIN, TEST = "train", "test"
JUDGMENTS = ("gold", "silver", "both")
DEV_TASKS = ("auto", "retrieval", "similarity", "labels")

if TYPE_CHECKING:
    from miner.store.database import Database
    from miner.training.model_card import EncoderReport

ABOUT: dict[str, tuple[click.ParamType[Any] | None, str]] = {
    "loss": (
        click.Choice(list(LOSSES)),
        "Training objective. mnr, cached-mnr (large batches), gist and cached-gist (with a guide) rank the "
        "positive above the batch, triplet above one negative; cosine learns grades, softmax classes, "
        "margin-mse a reranker's margins, distill the distribution of its scores.",
    ),
    "base": (click.STRING, "Model to start from: hub id, folder, bundled, or scratch."),
    "epochs": (None, "Number of passes over the rows."),
    "max_steps": (None, "Stop after this many batches [default: when the epochs end]."),
    "batch_size": (None, "Rows per batch; more rows are more negatives for each anchor."),
    "learning_rate": (None, "Peak learning rate [default: 2e-5; with lora 2e-4; for a static table 0.02]."),
    "warmup": (None, "Fraction of the steps in which the learning rate rises."),
    "scale": (None, "Losses that rank, distill: factor of the cosines."),
    "margin": (None, "triplet: margin between negative and positive, in cosine distance."),
    "guide": (click.STRING, "gist, cached-gist: model that masks likely false negatives in the batch."),
    "guide_margin": (
        None,
        "gist, cached-gist: mask texts that the guide scores above the positive's score less this.",
    ),
    "guide_relative_margin": (
        None,
        "gist, cached-gist: mask those above the positive's score less this fraction of it.",
    ),
    "contrast": (click.BOOL, "gist, cached-gist: rank anchors and positives among themselves too."),
    "mini_batch": (None, "cached-mnr, cached-gist: rows in memory at a time."),
    "directions": (
        click.Choice(list(DIRECTIONS)),
        "mnr, cached-mnr: rank documents for anchors (forward), also anchors for positives (symmetric), or "
        "all texts for both.",
    ),
    "hardness": (
        click.Choice(list(HARDNESS)),
        "mnr, cached-mnr: negatives that count more the nearer they are [default: none].",
    ),
    "hardness_strength": (None, "How much more they count [default: 9 for in-batch, else 5]."),
    "teacher_temperature": (
        None,
        "distill: divisor of the teacher's scores [default: for scores from -1 to 1 1/scale, else 1].",
    ),
    "dimensions": (click.STRING, "Shorter vectors to train too, such as 256,128,64 (Matryoshka)."),
    "lora": (None, "Rank of the matrices that are trained instead of all weights (LoRA) [default: all]."),
    "epoch_positives": (
        click.Choice([ALL, ONE]),
        "Positives of an anchor in each epoch: all, or one of them, drawn anew.",
    ),
    "mask": (click.BOOL, "Exclude known positives of an anchor from its in-batch negatives."),
    "max_length": (None, "Maximum tokens of a text."),
    "query_prompt": (click.STRING, "Text before every anchor [default: the model's]."),
    "document_prompt": (click.STRING, "Text before every document [default: the model's]."),
    "dimension": (None, "scratch: length of a vector."),
    "tokenizer": (click.STRING, "scratch: model whose tokens get a vector each."),
    "evaluations": (None, "Number of times the model is scored on the dev split; 0: never."),
    "patience": (None, "Stop after this many scores without a new best [default: never]."),
    "dtype": (
        click.Choice(["auto", "fp32", "bf16"]),
        "Model precision. auto: bf16 if the hardware supports it, else fp32.",
    ),
    "seed": (None, "Seed of every random choice."),
    "threads": (None, "Processor threads [default: as many as are free]."),
}
"""The type and the help of every setting in EncoderConfig."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


_ROWS = by_name(
    Setting("negatives_per_row", "Run: negatives in each row.", 1, range=ROW_NEGATIVES),
    Setting(
        "row_negatives",
        "Run: negatives of a row: the run's (mined), random documents (easy), or none of its own (in-batch).",
        MINED,
        choices=tuple(KINDS),
    ),
    Setting(
        "fewer_negatives",
        "Run: positives with fewer negatives than a row has: leave them out, or repeat their negatives.",
        LEAVE_OUT,
        choices=FEWER,
    ),
    Setting(
        "withheld",
        "Run: fraction of each query's positives withheld from training, for miner audit to hide.",
        0.0,
        range=BELOW_1,
    ),
    Setting(
        "judgments",
        "Store: train on judged pairs, not on a run: those of people (gold), of miner silver, or both.",
        choices=JUDGMENTS,
    ),
    Setting("split", "With judgments: their split [default: train]."),
)
_COLUMNS = by_name(
    Setting(
        "columns",
        "File: its columns of text in order, separated by commas [default: anchor or query, positive and "
        "negatives by their names, else all but ids].",
        convert=_names,
        metavar="NAME,…",
    ),
    Setting(
        "header",
        "TSV, CSV: with --no-header the first line is a row; --columns names all columns in order, "
        f"{SKIPPED} for one that is not read.",
        True,
        bool,
    ),
    Setting("label_column", "File: column of the label or score."),
    Setting("positive_label", "File: class that counts as 1, all others as 0."),
    Setting("label_max", "Divide labels or graded judgments by this number.", 1.0, range=LABEL_MAX),
)
_FIELDS = {"positive_label": "positive_label", "label_max": "most", "header": "header"}
"""The fields of Columns that settings have other names for, or that have a default."""
_DEV = by_name(
    Setting("dev_split", "Split to score on [default: dev, if it is judged]."),
    Setting("dev_task", "Task of the dev split; auto detects it.", "auto", choices=DEV_TASKS),
)
SETTINGS = Settings(
    {
        "": _ROWS | _COLUMNS | _DEV | described(EncoderConfig, ABOUT),
        "push": by_name(
            Setting("push", "Push OUT to a model on the Hugging Face Hub, OWNER/NAME: private."),
        )
        | PUSHING,
    },
    {
        "Rows": ("negatives_per_row", "judgments", "columns", "header", "label_column"),
        "Training": ("loss", "base", "epochs"),
    },
    others=("rules", "selection"),
    top="training",
)
_RENAMED = {"--hold-out": "--set withheld=VALUE", "--negatives": "--negatives-per-row"}


@click.command("train", cls=Command, settings=SETTINGS, renamed=_RENAMED)
@click.argument("triplets", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--run", panel=RUN, help="Store: train on this run [default: the last].")
@click.option(
    "--dev", type=click.Path(path_type=Path), panel="Dev split",
    help="Store to score on [default: TRIPLETS, if a store].",
)  # fmt: skip
@click.option(
    "--force", is_flag=True, panel=OUTPUT, help="Replace an encoder in OUT that has other rows or settings."
)
def command(triplets: Path, out: Path, run: str | None, dev: Path | None, force: bool, **given: Any) -> None:
    """Train an encoder on TRIPLETS and write it to the folder OUT.

    TRIPLETS is a store, a folder that `miner export` wrote, or a .tsv, .csv, .jsonl, .json or .parquet file
    with columns of text. A store's run or judged pairs are the rows, and its known positives are excluded
    from the in-batch negatives. The model with the best score on the dev split is kept. After a kill, the
    same command goes on from the last checkpoint.

    \b
    miner train my.duckdb my-model
    miner train my.duckdb my-model --run r2 --negatives-per-row 3 --epochs 2 --set patience=2
    miner train my.duckdb my-model --judgments both
    miner train my-triplets my-model --base scratch --epochs 3 --dev my.duckdb
    miner train nli.tsv my-model --loss softmax --columns premise,hypothesis --label-column label
    miner train sts.tsv my-model --loss cosine --columns sentence1,sentence2 --set label_max=5
    miner train triples.tsv my-model --no-header --columns query,positive,negative
    miner train my.duckdb my-model --set push=me/my-model
    """
    from miner.engine.progress_bars import progress
    from miner.export.push import PushConfig, push_model, pushed, require_repo
    from miner.store.faults import is_database
    from miner.training.examples import Columns
    from miner.workflows.train import Dev, TrainingRows, train

    tables = SETTINGS.values(given)
    values, pushing = tables[""], tables["push"]
    repo = pushing.pop("push", None)
    push = PushConfig(**pushing)
    if repo is not None:
        require_repo(repo)
    elif pushing:
        raise UsageError(f"{listed(pushing)} without push has no effect", "add --set push=OWNER/NAME")
    config = EncoderConfig(**{name: values[name] for name in ABOUT if name in values})
    read = Columns(
        texts=values.get("columns", ()),
        label=values.get("label_column"),
        **{_FIELDS[name]: values[name] for name in _FIELDS if name in values},
    )
    rows = TrainingRows(run, **{name: values[name] for name in _ROWS if name in values}, columns=read)
    with progress() as reports:
        scoring = Dev(dev, values.get("dev_split"), values.get("dev_task", "auto"))
        report = train(triplets, out, config, rows, dev=scoring, force=force, progress=reports)
    scored = dev or (triplets if is_database(triplets) else None)
    click.echo("\n".join([_summary(report), f"next      {_next(report, scored, triplets)}"]))
    if repo is not None:
        click.echo(pushed(push_model(report.out, repo, push)), err=True)


def _next(report: EncoderReport, store: Path | None, rows: Path) -> str:
    """Returns the command that measures the model, on a split that is judged, or what to ingest first.

    The split test, else one that neither trained nor chose the model, else the one that chose it.
    """
    from miner.errors import MinerError
    from miner.store.corpus import judged_splits
    from miner.store.database import Database

    metrics = report.metrics
    against = "" if metrics.base == SCRATCH else f" --against {quote(metrics.base)}"
    command = f"miner evaluate {quote(str(report.out))} {quote(str(store)) if store else 'STORE'} --split"
    judged, trained = [TEST], None
    if store is not None:
        with suppress(MinerError), Database.open(store, read_only=True) as opened, opened.snapshot():
            judged, trained = judged_splits(opened), _trained_split(opened, metrics.about, store == rows)
    others = [split for split in judged if split != trained]
    others.sort(key=lambda split: (split != TEST, split == metrics.dev))
    if others:
        return f"{command} {quote(others[0])}{against}"
    where = quote(str(store))
    return (
        f"judge queries that were not trained on: miner ingest {where} SOURCE --split {TEST}, then {command} "
        f"{TEST}{against}"
    )


def _trained_split(store: Database, about: Mapping[str, Any], is_source: bool) -> str:
    """Returns the split of the rows that a model was trained on; train unless they are of this store."""
    from miner.store.runs import find_run

    if not is_source or about.get("judgments") is not None:
        return about.get("split") or TRAIN
    return find_run(store, about.get("run")).split


def _summary(report: EncoderReport) -> str:
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
            + ("" if metrics.best_step else f": no step scores higher, so {report.out} is the base itself")
        )
    return "\n".join(lines)
