"""`miner export`: a run's triplets as training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from miner.cli.numbers import Within
from miner.errors import printable
from miner.ranges import COUNT

if TYPE_CHECKING:
    from miner.export import ExportReport

FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list", "flagembedding", "tevatron", "dpr")
FILE_TYPES = ("jsonl", "csv", "parquet", "datasets", "json")


@click.command("export")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--run", help="Name of the run [default: the last].")
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), default="triplet", show_default=True,
    help="What a row is. The first four train with sentence-transformers as they are.",
)  # fmt: skip
@click.option(
    "--file-type", type=click.Choice(FILE_TYPES), help="csv holds no lists [default: jsonl; dpr: json]."
)
@click.option("--scores", is_flag=True, help="Write the deciding scores too, for losses that learn them.")
@click.option("--negatives", type=Within(COUNT), help="Negatives in an n-tuple [default: as mined].")
@click.option("--force", is_flag=True, help="Replace an earlier export in OUT.")
def command(
    store: Path,
    out: Path,
    run: str | None,
    format_: str,
    file_type: str | None,
    scores: bool,
    negatives: int | None,
    force: bool,
) -> None:
    """Write the triplets of a run in STORE to the new folder OUT.

    OUT gets the data (data/), a manifest (manifest.json: fingerprints, settings, counts, checksums)
    and a data set card (README.md) that `datasets.load_dataset` and the Hugging Face Hub understand.

    Examples:

    \b
    miner export my.duckdb out
    miner export my.duckdb out --format n-tuple --negatives 3 --file-type parquet
    miner export my.duckdb out --run strict --format triplet --scores
    miner export my.duckdb out --format flagembedding --force
    """
    from miner.engine.bars import progress
    from miner.export import ExportConfig, export_run
    from miner.store.database import Store

    config = ExportConfig(run, format_, file_type, scores, negatives, force)
    with Store.open(store, read_only=True) as opened, opened.snapshot(), progress() as shown:
        report = export_run(opened, out, config, shown)
    click.echo(_summary(report), err=True)


def _summary(report: ExportReport) -> str:
    """Returns what was written, for people."""
    counts = report.counts
    lines = [
        f"run '{printable(report.run)}': {report.rows:,} rows from {counts.queries:,} queries "
        f"(the run has {counts.triplets:,} triplets) in {report.data}",
    ]
    if report.shortfalls:
        lines.append(f"queries with fewer negatives than asked for: {report.shortfalls:,}")
    lines += [f"left out: {item}" for item in report.left_out]
    return "\n".join(lines)
