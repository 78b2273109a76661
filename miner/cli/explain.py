"""`miner explain`: shows the verdict and the reason of every candidate of one query."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from miner.cli.numbers import Within
from miner.cli.options import OUTPUT, RUN, Command
from miner.ranges import COUNT

if TYPE_CHECKING:
    from miner.mining.explain import Explanation


@click.command("explain", cls=Command)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("query_id")
@click.option("--run", panel=RUN, help="The run to explain [default: the last].")
@click.option(
    "--limit", type=Within(COUNT), default=30, show_default=True, panel=OUTPUT,
    help="Positives and candidates to show.",
)  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True, panel=OUTPUT,
    help="Print JSON instead of the table. It has all candidates.",
)  # fmt: skip
def command(store: Path, query_id: str, run: str | None, limit: int, as_json: bool) -> None:
    """Show the verdict and the reason of every candidate of QUERY_ID in STORE.

    \b
    miner explain my.duckdb q17
    miner explain my.duckdb q17 --run strict --json
    """
    from miner.mining.explain import explain
    from miner.store.database import Database

    with Database.open(store, read_only=True) as opened, opened.snapshot():
        explanation = explain(opened, query_id, run)
    click.echo(_json(explanation) if as_json else explanation.as_text(limit))


def _json(explanation: Explanation) -> str:
    return json.dumps(
        {
            "run": explanation.run.name,
            "decided_by": explanation.run.deciding.name,
            "query_id": explanation.query_id,
            "query": explanation.query,
            "positives": explanation.positives.to_pylist(),
            "candidates": explanation.candidates.to_pylist(),
        },
        ensure_ascii=False,
        indent=1,
    )
