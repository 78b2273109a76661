"""`miner export`: write a run's triplets as training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.options import OUTPUT, PUSHING, RUN, Command, Settings
from miner.errors import UsageError, counted, listed, printable
from miner.ranges import COUNT
from miner.recipe import Setting, by_name

if TYPE_CHECKING:
    from miner.export import Exported, ExportReport

FORMATS = (
    "triplet",
    "n-tuple",
    "labeled-pair",
    "labeled-list",
    "ids",
    "reranking",
    "flagembedding",
    "tevatron",
    "dpr",
)
FILE_TYPES = ("jsonl", "csv", "parquet", "datasets", "json")
LABELS = ("binary", "grade")

SETTINGS = Settings(
    {
        "": by_name(
            Setting(
                "format",
                "Contents of a row. sentence-transformers trains on the first four without changes, on ids "
                "through resolve_ids, and evaluates rerankers on reranking.",
                "triplet",
                choices=FORMATS,
            ),
            Setting(
                "file_type",
                "Type of the data file; csv cannot contain lists [default: jsonl; dpr: json; ids: parquet].",
                choices=FILE_TYPES,
            ),
            Setting("scores", "Add the deciding scores, for losses that learn from scores.", False, bool),
            Setting(
                "negatives_per_row",
                "Negatives in a row of n-tuple, or of scored in ids [default: as mined].",
                range=COUNT,
            ),
            Setting(
                "labels",
                "Label of a positive in labeled-pair, labeled-list and ids: 1, or its relevance (grade).",
                "binary",
                choices=LABELS,
            ),
            Setting(
                "include_positives",
                "In reranking: the positives that were found stand among the documents, in the order of the "
                "candidates, to evaluate the ranking before and after.",
                False,
                bool,
            ),
            Setting(
                "more_runs",
                "Runs of other splits, which become splits of ids. Repeatable.",
                (),
                tuple,
            ),
            Setting("language", "Languages of the texts for the card: en. Repeatable.", (), tuple),
            Setting("license", "Licence of the texts for the card, as the Hub names it: cc-by-4.0."),
            Setting("pretty_name", "Title for the card [default: one with the name of the run]."),
            Setting(
                "source_datasets",
                "Data sets on the Hub that the texts are from, for the card. Repeatable.",
                (),
                tuple,
            ),
        ),
        "push": PUSHING,
    },
    {"Rows": ("format", "file_type", "scores")},
)


@click.command(
    "export", cls=Command, settings=SETTINGS, renamed={"--negatives": "--set negatives_per_row=VALUE"}
)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--run", panel=RUN, help="The run to export [default: the last].")
@click.option(
    "--push",
    metavar="OWNER/NAME",
    panel=OUTPUT,
    help="Push OUT to a data set on the Hugging Face Hub: private, and into others' as a pull request.",
)
@click.option("--force", is_flag=True, panel=OUTPUT, help="Replace an earlier export in OUT.")
def command(store: Path, out: Path, run: str | None, push: str | None, force: bool, **given: Any) -> None:
    """Write the triplets of a run in STORE to the new folder OUT.

    OUT gets the data (data/, or a folder for each config of ids), a manifest (manifest.json: fingerprints,
    settings, counts, checksums) and a data set card (README.md) that `datasets.load_dataset` and the Hugging
    Face Hub understand. Card and manifest have the false-negative rate that miner audit --labels estimated
    and the hidden-positive rate that miner audit measured, or say that they were not measured.

    \b
    miner export my.duckdb out
    miner export my.duckdb out --format n-tuple --set negatives_per_row=3 --file-type parquet
    miner export my.duckdb out --run strict --format triplet --scores
    miner export my.duckdb out --format flagembedding --force
    miner export my.duckdb out --format ids --set more_runs=dev --set language=en --set license=cc-by-4.0
    miner export my.duckdb out --format ids --push me/my-negatives --set dry_run=true
    """
    from miner.engine.progress_bars import progress
    from miner.export import ExportConfig, export_run
    from miner.export.push import PushConfig, push_export, pushed, require_repo
    from miner.store.database import Database

    values = SETTINGS.values(given)
    config = ExportConfig(run=run, force=force, **values[""])
    pushing = PushConfig(**values["push"])
    if push is not None:
        require_repo(push)
    elif values["push"]:
        raise UsageError(f"{listed(values['push'])} without --push has no effect", "add --push OWNER/NAME")
    with Database.open(store, read_only=True) as opened, opened.snapshot(), progress() as shown:
        report = export_run(opened, out, config, shown)
    click.echo(_summary(report), err=True)
    if push is not None:
        click.echo(pushed(push_export(out, push, pushing)), err=True)


def _summary(report: ExportReport) -> str:
    """Returns the lines that report what was written."""
    lines = [f"{_rows_of(report)} in {report.data}", *map(_rows_of, report.further)]
    lines += [
        f"  {config}: {', '.join(f'{split} {number:,}' for split, number in splits.items())}"
        for config, splits in report.configs.items()
    ]
    each: tuple[ExportReport | Exported, ...] = (report, *report.further)
    for one in each:
        of = f" of run {printable(one.run)}" if report.further else ""
        if one.shortfalls:
            lines.append(f"queries{of} with fewer negatives than requested: {one.shortfalls:,}")
        lines += [f"left out{of}: {item}" for item in one.left_out]
    return "\n".join(lines)


def _rows_of(one: ExportReport | Exported) -> str:
    counts = one.counts
    return (
        f"run '{printable(one.run)}': {counted(one.rows, 'row')} from "
        f"{counted(counts.queries, 'query', 'queries')} (the run has {counted(counts.triplets, 'triplet')})"
    )
