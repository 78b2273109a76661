"""`miner generate`: a language model writes queries from the documents of a store."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.asking import budget_lines, plan_text, use_line
from miner.cli.options import OUTPUT, Command, Settings, dry_run, language_model, model_named
from miner.errors import counted, listed, printable
from miner.generation.config import SEARCH, GenerationConfig
from miner.mining.config import TABLES, MiningConfig
from miner.recipe import settings_of

if TYPE_CHECKING:
    from miner.generation.generate import GenerationPlan, GenerationReport

WRITING, FILTERS, COST = "Queries", "Filters", "Cost"
SETTINGS = Settings(
    {"": settings_of(GenerationConfig), "search": {name: TABLES[""][name] for name in SEARCH}},
    {
        WRITING: ("prompt", "documents", "queries"),
        FILTERS: ("encoder",),
        COST: ("concurrency", "budget"),
    },
)


@click.command("generate", cls=Command, settings=SETTINGS)
@click.argument("store", type=click.Path(path_type=Path))
@language_model(WRITING)
@dry_run
@click.option("--json", "as_json", is_flag=True, panel=OUTPUT, help="Print JSON instead of the table.")
def command(
    store: Path, endpoint: str, model: str | None, dry_run: bool, as_json: bool, **given: Any
) -> None:
    """Have a language model write queries from the documents of STORE: training data for a corpus alone.

    A query is kept if a search with it, by BM25 or an encoder, returns its document, and if no other query
    has nearly the same words. It becomes a query with its document as the positive (source `generated`);
    copies of the document are never its negatives. The key for the server comes from the environment variable
    MINER_API_KEY. Every answer is stored: no document with an answer is sent again. The queries replace those
    of an earlier call.

    \b
    miner generate my.duckdb --endpoint http://localhost:8000/v1 --model qwen3 --dry-run
    miner generate my.duckdb --endpoint http://localhost:8000/v1 --model qwen3 --set dev=0.1
    miner generate my.duckdb --endpoint https://api.example.com/v1 --model small --budget "2M tokens"
    """
    from miner.engine.progress_bars import progress
    from miner.generation import generate as generating
    from miner.store.database import Database

    values = SETTINGS.values(given)
    config = GenerationConfig(**values[""], search=MiningConfig(**values["search"]))
    name = model_named(endpoint, model)
    with progress() as reports, Database.open(store, read_only=dry_run, note=reports.note) as opened:
        if dry_run:
            planned = generating.plan(opened, name, config)
            click.echo(_json(planned) if as_json else _plan(planned))
            return
        report = generating.generate(opened, name, config, reports)
    click.echo(_json(report) if as_json else _table(report))


def _json(result: GenerationPlan | GenerationReport) -> str:
    return json.dumps(asdict(result), ensure_ascii=False, indent=1)


def _plan(plan: GenerationPlan) -> str:
    return plan_text(f"{counted(plan.documents, 'document')} to make queries from", plan, [plan.host])


def _table(report: GenerationReport) -> str:
    from miner.store.generated import OUTCOMES

    written = counted(report.made, "query", "queries")
    splits = listed(f"{split} {number:,}" for split, number in report.splits.items())
    lines = [
        f"{printable(report.model)}: {written} from {report.answered:,} of "
        f"{counted(report.documents, 'document')}; {report.unknown:,} without an answer that can be read",
        f"  kept     {report.kept:>8,}{f'  ({splits})' if splits else ''}",
    ]
    lines += [f"  dropped  {number:>8,}  {OUTCOMES[reason]}" for reason, number in report.dropped.items()]
    if report.replaced:
        earlier = counted(report.replaced, "query", "queries")
        lines.append(f"  replaced {report.replaced:>8,}  {earlier.split()[1]} of an earlier call")
    lines.append(use_line(report))
    if not report.kept:
        lines.append("  no query was kept, and the store has the queries that it had")
    return "\n".join([*lines, *budget_lines(report)])
