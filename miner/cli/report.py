"""`miner report`: writes an HTML page on a run."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from miner.cli.options import OUTPUT, RUN, Command


@click.command("report", cls=Command)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--run", "name", panel=RUN, help="The run to report on [default: the last].")
@click.option("--against", metavar="RUN", panel=RUN, help="Set this run beside it: what differs and moved.")
@click.option(
    "--training", type=click.Path(path_type=Path), metavar="FOLDER", multiple=True, panel=OUTPUT,
    help="Also show the curves of the model, or the verdicts of the bench, in this folder. Repeatable.",
)  # fmt: skip
def command(
    store: Path, out: Path, name: str | None, against: str | None, training: tuple[Path, ...]
) -> None:
    """Write an HTML page on a run of STORE to the file OUT, in place of a file that is there.

    The page has what the store knows of the run: data, candidates, verdicts with their reasons, scores,
    false-negative rate and hidden-positive rate with intervals, coverage, suspects and the hardest negatives
    in words, copies, contamination, the certificate, and the commands that made it. What is not measured is
    named beside the command that measures it. The page is one file, loads nothing, and can be printed.

    \b
    miner report my.duckdb report.html
    miner report my.duckdb report.html --run strict --against r1
    miner report my.duckdb report.html --training my-model --training my.duckdb.bench
    """
    from miner.engine.progress_bars import Lines
    from miner.html_report import write_report
    from miner.store.database import Database
    from miner.store.runs import find_run

    with Database.open(store, read_only=True, note=Lines().note) as opened, opened.snapshot():
        run = find_run(opened, name)
        beside = None if against is None else find_run(opened, against)
        written = write_report(opened, out, run, beside, training=training)
    click.echo(written.as_text(), err=True)
