"""`miner evaluate`: measure a model on a store, and compare it with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rich_click as click

from miner.cli.options import OUTPUT, Command, Settings
from miner.engine.files import WAIT, locked, require_file, write_whole
from miner.errors import UsageError
from miner.ranges import COUNT, DEPTH, SEED
from miner.recipe import Setting, by_name

_TASKS = ("auto", "retrieval", "similarity", "labels", "reranking")


SETTINGS = Settings(
    {
        "": by_name(
            Setting("split", "Split to measure on.", "test"),
            Setting(
                "task",
                "Task to measure; auto detects it from the model and the judgments.",
                "auto",
                choices=_TASKS,
            ),
            Setting("queries", "Measure a random sample of this many queries [default: all].", range=COUNT),
            Setting("depth", "Reranking: candidates per query, retrieved by BM25.", 100, range=DEPTH),
            Setting("seed", "Seed of the sample and of the tests.", 13, range=SEED),
        )
    },
    {"Data": ("split",)},
)


@click.command("evaluate", cls=Command, settings=SETTINGS)
@click.argument("model")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--against", multiple=True, metavar="MODEL", panel="Comparison",
    help="Another model; adds the difference with 95 % interval and p value. Repeatable.",
)  # fmt: skip
@click.option(
    "--beside", multiple=True, metavar="STORE[:SPLIT]", panel="Comparison",
    help="Another store, such as a public benchmark, to measure the models on as well. Repeatable.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, panel=OUTPUT, help="Print JSON instead of the table.")
@click.option("--per-query", is_flag=True, panel=OUTPUT, help="Add the values of every query to the JSON.")
@click.option(
    "--out", type=click.Path(path_type=Path), panel=OUTPUT, help="Also write the JSON to this file."
)
def command(
    model: str, store: Path, against: tuple[str, ...], beside: tuple[str, ...], as_json: bool,
    per_query: bool, out: Path | None, **given: Any,
) -> None:  # fmt: skip
    """Measure MODEL on a split of STORE: retrieval, similarity of scored pairs, labels, or reranking.

    MODEL is a hub id, a folder, bundled, or URL#MODEL of a server. With --against every measure has
    the difference MODEL − OTHER with a bootstrap interval and the p value of a paired randomisation
    test. Vectors are cached beside the store, so a second evaluation encodes nothing.

    \b
    miner evaluate bundled my.duckdb
    miner evaluate my-model my.duckdb --against bundled --split dev
    miner evaluate my-model my.duckdb --against bundled --beside stsb.duckdb:test
    miner evaluate my-reranker my.duckdb --set depth=50 --set queries=200 --json --per-query
    """
    from miner.engine.progress_bars import progress
    from miner.evaluation.evaluate import EvaluationConfig
    from miner.evaluation.report import as_json as to_json
    from miner.evaluation.report import evaluate_on, store_split
    from miner.evaluation.table import table

    if per_query and not (as_json or out):
        raise UsageError("--per-query adds to the JSON, which is not written", "add --json or --out FILE")
    if out is not None:
        require_file(out)
    config = EvaluationConfig(against=against, **SETTINGS.values(given)[""])
    splits = [store_split(text, config.split) for text in (str(store), *beside)]
    with progress() as reports:
        report = evaluate_on(model, splits, config, reports)
    content = json.dumps(to_json(report, per_query), ensure_ascii=False, indent=1)
    click.echo(content if as_json else table(report))
    if out is not None:  # last: if it cannot be written, the figures are on the screen
        with locked(out, WAIT):
            write_whole(out, f"{content}\n")
