"""`miner contamination`: find evaluation texts that also occur in the training data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.options import OUTPUT, Command, Settings
from miner.errors import counted, snippet
from miner.ranges import ABOVE_0, NGRAM
from miner.recipe import Setting, by_name

if TYPE_CHECKING:
    from miner.curation.contamination import ContaminationReport, Removed

_SNIPPET = 90
"""Characters of an example."""
_EXAMPLES = 2
"""Examples of each kind."""
_KINDS = {
    "exact": "the same text",
    "normalised": "the same except for case and white space",
    "near": "nearly the same words",
    "contained": "the same parts",
}


SETTINGS = Settings(
    {
        "": by_name(
            Setting("split", "Split of the evaluation data.", "test"),
            Setting("threshold", "Least Jaccard similarity of the words of near copies.", 0.9, range=ABOVE_0),
            Setting("ngram", "Length of a part, in words.", 8, range=NGRAM),
            Setting(
                "contained",
                "Match if a training text contains at least this fraction of the evaluation text's parts.",
                0.8,
                range=ABOVE_0,
            ),
        )
    },
    {"Evaluation data": ("split",)},
)


@click.command(
    "contamination", cls=Command, settings=SETTINGS, renamed={"--against": "the argument EVALUATION"}
)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("evaluation", type=click.Path(path_type=Path))
@click.option(
    "--remove", is_flag=True, panel=OUTPUT,
    help="Remove the matching training texts from STORE. This cannot be undone: copy STORE first.",
)  # fmt: skip
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    panel=OUTPUT,
    help="Write all matches to this file, as JSON lines.",
)
@click.option("--json", "as_json", is_flag=True, panel=OUTPUT, help="Print JSON instead of the table.")
def command(
    store: Path, evaluation: Path, remove: bool, out: Path | None, as_json: bool, **given: Any
) -> None:
    """Find evaluation texts that also occur in the training data (contamination).

    Looks for the queries and positives of EVALUATION, another store, in the texts of STORE: the same text,
    the same except for case and white space, nearly the same words, or the same parts (runs of words). A
    model trained on STORE has seen them, so its score on EVALUATION is too high. The result is stored in
    STORE and goes into the certificate of every export.

    --remove also deletes the judgments of the removed texts. Texts that STORE uses in its own --split stay;
    only their judgments in other splits go. Existing runs keep the texts: mine again. If EVALUATION is STORE,
    the queries of its splits are compared, and only judgments are removed.

    \b
    miner contamination my.duckdb benchmark.duckdb
    miner contamination my.duckdb benchmark.duckdb --split dev --out matches.jsonl
    miner contamination my.duckdb my.duckdb
    miner contamination my.duckdb benchmark.duckdb --remove
    """
    from miner.curation.contamination import ContaminationConfig, contamination
    from miner.engine.progress_bars import progress
    from miner.store.corpus import next_command
    from miner.store.database import Database

    config = ContaminationConfig(**SETTINGS.values(given)[""])
    with progress() as reports, ExitStack() as stack:
        train = other = stack.enter_context(Database.open(store, note=reports.note))
        if store.resolve() != evaluation.resolve():
            other = stack.enter_context(Database.open(evaluation, read_only=True))
        report = contamination(train, other, config, reports, remove=remove, out=out)
        following = next_command(train)
    lines = [json.dumps(asdict(report), ensure_ascii=False, indent=1)] if as_json else _lines(report)
    for line in lines:
        click.echo(line)
    if report.removed is not None:
        click.echo(_removed(store, report.removed, config.split, following), err=True)
    elif report.matches:
        read = "" if out else "with --out matches.jsonl to read them all, or "
        click.echo(f"next: the same command {read}with --remove", err=True)


def _removed(store: Path, removed: Removed, split: str, following: str) -> str:
    line = (
        f"removed from {store}: {counted(removed.texts, 'text')} and {counted(removed.judgments, 'judgment')}"
    )
    if removed.stay:
        verb = "stays" if removed.stay == 1 else "stay"
        line += f"; {counted(removed.stay, 'text')} {verb}: {store} uses them in its own split '{split}'"
    return f"{line}; next: {following}" if removed.texts + removed.judgments else line


def _lines(report: ContaminationReport) -> Iterator[str]:
    from miner.reporting.tables import percent

    for role, counts in report.counts().items():
        number, total = sum(counts.values()), report.evaluation[role]
        name = {"query": "queries", "document": "positives"}[role]
        yield (
            f"{number:,} of {total:,} evaluation {name} ({percent(number / total)}) occur in the "
            f"{report.training:,} training texts"
        )
        for how, number in counts.items():
            if number:
                yield f"{number:>9,} {_KINDS[how]}"
            examples = [match for match in report.matches if (match.role, match.how) == (role, how)]
            for match in examples[:_EXAMPLES]:
                yield f"            {snippet(match.text, _SNIPPET)}"
                if match.text != match.train_text:
                    yield f"          = {snippet(match.train_text, _SNIPPET)}"
