"""`miner review`: a page on which people judge candidates, and what their answers say."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

import rich_click as click

from miner.cli.numbers import Within
from miner.cli.options import OUTPUT, RUN, Command
from miner.errors import UsageError, counted
from miner.ranges import number, whole

_PAGE, _FILES = "Page", "Files"
_SHARE, _PORT = number(0, 1), whole(0, 65535)


@click.command("review", cls=Command)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", "name", panel=RUN, help="The run whose candidates to review [default: the last].")
@click.option(
    "--random", "random", type=Within(_SHARE), default=0.2, show_default=True, panel=RUN,
    help="Share of random selected negatives among the pairs: they estimate the rate of all.",
)  # fmt: skip
@click.option(
    "--reviewer", panel=_PAGE,
    help="Your name [default: the page asks]; with --import, whose the rows without a name are.",
)  # fmt: skip
@click.option(
    "--port", type=Within(_PORT), default=0, panel=_PAGE, help="Port on 127.0.0.1 [default: a free one]."
)
@click.option("--no-browser", is_flag=True, panel=_PAGE, help="Print the address only; open no browser.")
@click.option(
    "--export", type=click.Path(path_type=Path), metavar="FILE", panel=_FILES,
    help="Write the pairs with all answers instead: to a .csv, .argilla.json or .label-studio.json file.",
)  # fmt: skip
@click.option(
    "--import", "source", type=click.Path(path_type=Path), metavar="FILE", panel=_FILES,
    help="Read answers instead, from a .csv file as --export writes it.",
)  # fmt: skip
@click.option("--summary", is_flag=True, panel=OUTPUT, help="Print the figures of the answers instead.")
@click.option("--json", "as_json", is_flag=True, panel=OUTPUT, help="Print the figures as JSON instead.")
def command(
    store: Path, name: str | None, random: float, reviewer: str | None, port: int, no_browser: bool,
    export: Path | None, source: Path | None, summary: bool, as_json: bool,
) -> None:  # fmt: skip
    """Judge candidates of a run in STORE by hand, on a local page.

    The page shows a query, its positives and one candidate at a time; 1, 2 and 3 answer, ? shows all keys.
    The sample of miner audit --label comes first, then suspected positives, then selected negatives, the
    likeliest first, with random ones mixed in. Every answer is stored as it is pressed. The same command
    goes on where you stopped; several people can review at once, each with a name.

    miner audit uses the answers to its sample; miner relabel --by people makes judgments of the others. It
    needs the extra `review`.

    \b
    miner review my.duckdb
    miner review my.duckdb --reviewer anna --port 8765 --no-browser
    miner review my.duckdb --summary
    miner review my.duckdb --export answers.csv
    """
    from miner.review.queue import QueueConfig

    _require_one(export=export, source=source, summary=summary or as_json)
    if export is not None or source is not None or summary or as_json:
        _require_page_unset(port=port, no_browser=no_browser, reviewer=reviewer if source is None else None)
    config = QueueConfig(random=random)
    if source is not None:
        _import(store, name, source, reviewer)
    elif export is not None:
        _export(store, name, config, export)
    elif summary or as_json:
        _summarise(store, name, config, as_json)
    else:
        _serve(store, name, config, reviewer, port, not no_browser)


def _require_one(*, export: Path | None, source: Path | None, summary: bool) -> None:
    """Raises UsageError for options that exclude each other."""
    given = [
        option
        for option, is_given in (("--export", export), ("--import", source), ("--summary", summary))
        if is_given
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", "give one of them")


def _require_page_unset(**given: Any) -> None:
    """Raises UsageError for an option of the page, if no page is shown."""
    for name, value in given.items():
        if value:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} has no effect without the page", "leave it out")


def _serve(path: Path, name: str | None, config: Any, reviewer: str | None, port: int, browser: bool) -> None:
    from miner.engine.progress_bars import Lines
    from miner.review.server import require_extra, serve
    from miner.review.session import Session, reviewer_name
    from miner.store.database import Database
    from miner.store.runs import find_run

    require_extra()
    person = None if reviewer is None else reviewer_name(reviewer)
    with Database.open(path, note=Lines().note) as store:
        session = Session(store, find_run(store, name), config)

        def opened(address: str) -> None:
            """Prints the address, before the server answers its first request."""
            click.echo(address)
            click.echo(
                f"{counted(len(session.queue), 'pair')} to review; Ctrl-C ends it, every answer is stored",
                err=True,
            )

        with suppress(KeyboardInterrupt):  # the way to end it
            serve(session, opened, port=port, reviewer=person, browser=browser)
        stored = counted(session.pressed, "answer")
        of = "" if name is None else f" --run {quote(name)}"
        click.echo(f"\n{stored} stored; figures: miner review {quote(str(path))}{of} --summary", err=True)


def _summarise(path: Path, name: str | None, config: Any, as_json: bool) -> None:
    from miner.review.summary import summarise
    from miner.store.database import Database
    from miner.store.runs import find_run

    with Database.open(path, read_only=True) as store, store.snapshot():
        found = summarise(store, find_run(store, name), config)
    click.echo(json.dumps(found.as_json(), ensure_ascii=False, indent=1) if as_json else found.as_text())


def _export(path: Path, name: str | None, config: Any, out: Path) -> None:
    from miner.review.exchange import export_reviews
    from miner.store.database import Database
    from miner.store.runs import find_run

    with Database.open(path, read_only=True) as store, store.snapshot():
        pairs, answers = export_reviews(store, find_run(store, name), config, out)
    click.echo(f"{out}: {counted(pairs, 'pair')}, {counted(answers, 'answer')}")


def _import(path: Path, name: str | None, source: Path, reviewer: str | None) -> None:
    from miner.engine.progress_bars import Lines
    from miner.review.exchange import import_reviews
    from miner.store.database import Database
    from miner.store.runs import find_run

    with Database.open(path, note=Lines().note) as store:
        found = import_reviews(store, find_run(store, name), source, reviewer)
    click.echo(found.as_text())
