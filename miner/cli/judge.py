"""`miner judge`: a language model grades suspected positives or selected negatives."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.asking import budget_lines, plan_text, use_line
from miner.cli.options import (
    OUTPUT,
    RUN,
    Command,
    Settings,
    dry_run,
    language_model,
    model_named,
)
from miner.errors import UsageError, counted, printable
from miner.judging.config import JudgeConfig
from miner.recipe import settings_of

if TYPE_CHECKING:
    from miner.judging.check import JudgeError
    from miner.judging.judge import JudgePlan, JudgeReport

JUDGING, COST = "Judging", "Cost"
SETTINGS = Settings(
    {"": settings_of(JudgeConfig)},
    {RUN: ("of",), JUDGING: ("form", "prompt", "relevance"), COST: ("concurrency", "budget")},
)


@click.command("judge", cls=Command, settings=SETTINGS)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", "name", panel=RUN, help="The run whose pairs to judge [default: the last].")
@language_model(JUDGING)
@click.option(
    "--then",
    multiple=True,
    metavar="URL#MODEL",
    panel=JUDGING,
    help="Another model, which looks only at what the one before it called relevant. Repeatable.",
)
@click.option(
    "--batch",
    type=click.Path(path_type=Path),
    metavar="FILE",
    panel=COST,
    help="Send nothing; write the requests as a provider's batch, JSON lines.",
)
@click.option(
    "--answers",
    type=click.Path(path_type=Path),
    metavar="FILE",
    panel=COST,
    help="Send nothing; read the provider's answers to that batch.",
)
@dry_run
@click.option("--json", "as_json", is_flag=True, panel=OUTPUT, help="Print JSON instead of the table.")
def command(
    store: Path,
    name: str | None,
    endpoint: str,
    model: str | None,
    then: tuple[str, ...],
    batch: Path | None,
    answers: Path | None,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Have a language model grade pairs of a run in STORE, and measure how often it errs.

    The key for the server comes from the environment variable MINER_API_KEY. Every answer is stored: no pair
    with an answer is sent again, also after a kill or for another run. An answer that cannot be read counts
    as unknown. The model first grades pairs with known relevance; its precision, recall and kappa are
    reported. Its grades (0 to 3) are then scores of the run: `miner explain`, `miner decide --decide-by` and
    SQL see them.

    \b
    miner judge my.duckdb --endpoint http://localhost:8000/v1 --model qwen3 --dry-run
    miner judge my.duckdb --endpoint http://localhost:8000/v1 --model qwen3
    miner judge my.duckdb --endpoint https://api.example.com/v1 --model small --budget "2M tokens"
    """
    from miner.engine.progress_bars import progress
    from miner.judging import judge as judging
    from miner.store.database import Database
    from miner.store.runs import find_run

    if sum(map(bool, (batch, answers, dry_run))) > 1:
        raise UsageError("--batch, --answers and --dry-run exclude each other", "give one of them")
    config = JudgeConfig(**SETTINGS.values(given)[""])
    models = [model_named(endpoint, model), *then]
    with progress() as reports, Database.open(store, read_only=dry_run, note=reports.note) as opened:
        run = find_run(opened, name)
        if dry_run:
            planned = judging.plan(opened, run, models, config)
            click.echo(
                json.dumps(asdict(planned), ensure_ascii=False, indent=1) if as_json else _plan(planned)
            )
            return
        if batch is not None:
            number = judging.batch(opened, run, models, config, batch)
            click.echo(f"{counted(number, 'request')} in {batch}; when they are answered: --answers FILE")
            return
        report = judging.judge(opened, run, models, config, reports, answers=answers)
    if as_json:
        error = None if report.error is None else report.error.as_json()
        click.echo(json.dumps(asdict(report) | {"error": error}, ensure_ascii=False, indent=1))
    else:
        click.echo(_table(report))


def _plan(plan: JudgePlan) -> str:
    return plan_text(f"run {printable(plan.run)}: {counted(plan.pairs, 'pair')} to judge", plan, plan.hosts)


def _table(report: JudgeReport) -> str:
    numbers = [
        f"{number:,} of grade {grade}" for grade, number in report.grades.items() if grade != "unknown"
    ]
    judged = sum(report.grades.values())
    left = f"; {report.pairs - judged:,} others were not judged" if judged < report.pairs else ""
    lines = [
        f"run {printable(report.run)}, judge {printable(report.judge)}: {report.relevant:,} of "
        f"{counted(judged, 'pair')} relevant{left}",
        f"  {', '.join(numbers)}; {report.grades['unknown']:,} without an answer that can be read",
    ]
    if report.error is not None:
        lines += _error(report.error)
    lines.append(use_line(report))
    return "\n".join([*lines, *budget_lines(report)])


def _error(error: JudgeError) -> list[str]:
    negatives = counted(error.negatives, "negative")
    if error.random:
        negatives += f", {error.random:,} of them random documents"
    lines = [
        f"  measured on {error.positives:,} known positives and {negatives}:",
        f"    precision {error.precision}  recall {error.recall}",
        f"    kappa {_bare(error)}",
    ]
    if error.random:
        lines.append(
            "    random documents are easy to tell from positives: precision and kappa are optimistic"
        )
    return lines


def _bare(error: JudgeError) -> str:
    kappa = error.kappa
    return "-" if kappa.value is None else f"{kappa.value:.2f} [{kappa.low:.2f}, {kappa.high:.2f}]"
