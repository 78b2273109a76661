"""`miner export`: write a run's triplets as training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.options import OUTPUT, RUN, Command, Settings
from miner.errors import counted, printable
from miner.ranges import COUNT
from miner.recipe import Setting, by_name

if TYPE_CHECKING:
    from miner.export import ExportReport

FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list", "flagembedding", "tevatron", "dpr")
FILE_TYPES = ("jsonl", "csv", "parquet", "datasets", "json")


SETTINGS = Settings(
    {
        "": by_name(
            Setting(
                "format",
                "Contents of a row. sentence-transformers trains on the first four without changes.",
                "triplet",
                choices=FORMATS,
            ),
            Setting(
                "file_type",
                "Type of the data file; csv cannot contain lists [default: jsonl; dpr: json].",
                choices=FILE_TYPES,
            ),
            Setting("scores", "Add the deciding scores, for losses that learn from scores.", False, bool),
            Setting("negatives_per_row", "Negatives in an n-tuple [default: as mined].", range=COUNT),
        )
    },
    {"Rows": ("format", "file_type", "scores")},
)


@click.command(
    "export", cls=Command, settings=SETTINGS, renamed={"--negatives": "--set negatives_per_row=VALUE"}
)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--run", panel=RUN, help="The run to export [default: the last].")
@click.option("--force", is_flag=True, panel=OUTPUT, help="Replace an earlier export in OUT.")
def command(store: Path, out: Path, run: str | None, force: bool, **given: Any) -> None:
    """Write the triplets of a run in STORE to the new folder OUT.

    OUT gets the data (data/), a manifest (manifest.json: fingerprints, settings, counts, checksums)
    and a data set card (README.md) that `datasets.load_dataset` and the Hugging Face Hub understand. Card
    and manifest have the false-negative rate that miner audit --labels estimated and the hidden-positive
    rate that miner audit measured, or say that they were not measured.

    \b
    miner export my.duckdb out
    miner export my.duckdb out --format n-tuple --set negatives_per_row=3 --file-type parquet
    miner export my.duckdb out --run strict --format triplet --scores
    miner export my.duckdb out --format flagembedding --force
    """
    from miner.engine.progress_bars import progress
    from miner.export import ExportConfig, export_run
    from miner.store.database import Database

    config = ExportConfig(run=run, force=force, **SETTINGS.values(given)[""])
    with Database.open(store, read_only=True) as opened, opened.snapshot(), progress() as shown:
        report = export_run(opened, out, config, shown)
    click.echo(_summary(report), err=True)


def _summary(report: ExportReport) -> str:
    """Returns the lines that report what was written."""
    counts = report.counts
    lines = [
        f"run '{printable(report.run)}': {counted(report.rows, 'row')} from "
        f"{counted(counts.queries, 'query', 'queries')} (the run has {counted(counts.triplets, 'triplet')}) "
        f"in {report.data}",
    ]
    if report.shortfalls:
        lines.append(f"queries with fewer negatives than requested: {report.shortfalls:,}")
    lines += [f"left out: {item}" for item in report.left_out]
    return "\n".join(lines)
