"""`miner demo`: shows what the tool is for, on code that every Python installation has."""

from __future__ import annotations

import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.numbers import Within
from miner.engine.files import locked
from miner.errors import snippet
from miner.ranges import whole

if TYPE_CHECKING:
    from miner.engine.progress import Progress
    from miner.store.database import Database
    from miner.store.runs import StoredRun

STEPS = 6
NAIVE, FILTERED = "naive", "filtered"
MODULES = (
    "argparse", "ast", "asyncio", "calendar", "collections", "concurrent", "contextlib", "ctypes",
    "datetime", "difflib", "email", "enum", "fractions", "ftplib", "functools", "heapq", "http",
    "imaplib", "importlib", "inspect", "ipaddress", "json", "logging", "mailbox", "multiprocessing",
    "pathlib", "pickle", "random", "shutil", "smtplib", "socket", "statistics", "subprocess",
    "tarfile", "tempfile", "textwrap", "threading", "traceback", "typing", "unittest", "urllib",
    "uuid", "wsgiref", "xml", "xmlrpc", "zipfile", "zoneinfo",
)  # fmt: skip
"""About half of the standard library: enough functions that are alike, and encoded in a minute."""
TESTED = MODULES[::6]
"""Modules whose docstrings are the test queries; their functions are candidates like all others."""
_WIDTH = 66
"""Characters of a text."""


@click.command("demo")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False), default=Path("miner-demo"))
@click.option(
    "--queries",
    type=Within(whole(30, 1_000_000)),
    default=300,
    show_default=True,
    help="Queries that the models are trained on: fewer is faster.",
)
def command(out: Path, queries: int) -> None:
    """Mine, audit and train on the code of Python's standard library, in the folder OUT.

    The docstring of a function is a query, its code is the relevant document; some docstrings have several.
    The demo hides some of these known positives and counts how many naive mining would have selected as
    negatives (the hidden-positive rate), and how many filtered mining. Then it trains small
    models on easy and on hard negatives, and writes it all down in one HTML page. Nothing is downloaded. An
    interrupted demo continues.

    \b
    miner demo
    miner demo my-demo --queries 100
    """
    from miner.engine.progress_bars import progress
    from miner.store.database import Database

    started = time.monotonic()
    path = out / "demo.duckdb"
    with locked(out / "demo"), progress() as reports:
        _ingest(path, reports)
        with Database.open(path, note=reports.note) as store:
            naive, filtered = _mine(store, reports)
            _audit(store, (naive, filtered), reports)
            _show_false_negative(store, naive, reports)
        _train(path, filtered, queries, out, reports)
        _report(path, (naive, filtered), out, reports)
    click.echo(f"\nDone in {time.monotonic() - started:.0f} s. Everything is in {out}. Go on with:\n")
    click.echo(_next_steps(path))


def _step(progress: Progress, number: int, what: str) -> None:
    progress.note(f"\n[{number}/{STEPS}] {what}")


def _ingest(path: Path, progress: Progress) -> None:
    from miner.engine.progress import SILENT
    from miner.sources import SourceConfig, ingest
    from miner.store import corpus
    from miner.store.database import Database

    _step(progress, 1, "Data: functions of Python's standard library. The docstring is the query.")
    for split in ("train", "test"):
        modules = [f"python:{module}" for module in MODULES if (module in TESTED) == (split == "test")]
        ingest(path, modules, SourceConfig(split=split), progress=SILENT)
    with Database.open(path, read_only=True) as store:
        counts = corpus.counts(store)
    progress.note(f"      {counts['documents']:,} functions, {counts['queries']:,} docstrings")


def _mine(store: Database, progress: Progress) -> tuple[StoredRun, StoredRun]:
    """Returns the naive run, which no rule filters, and the filtered one, on the same candidates."""
    from miner.mining.config import MiningConfig, Rules, with_values
    from miner.mining.pipeline import decide_again, mine

    _step(progress, 2, "Mining: BM25 and the bundled encoder find candidates for every docstring.")
    config = MiningConfig(encoder=("bundled",), depth=20, rules=Rules(relative_margin=None))
    naive = mine(store, config, name=NAIVE, progress=progress)
    rules: dict[str, Any] = {"relative_margin": 0.05}
    return naive, decide_again(store, naive, with_values(config, rules), name=FILTERED)


def _audit(store: Database, both: tuple[StoredRun, StoredRun], progress: Progress) -> None:
    from miner.auditing.audit import audit
    from miner.auditing.config import AuditConfig
    from miner.reporting.tables import percent, percent_interval

    _step(progress, 3, "Audit: hide some known positives, and decide again as if nobody knew them:")
    progress.note("      how many does mining select as negatives? That is the hidden-positive rate.")
    for run, what in zip(both, ("no rule", "relative margin 0.05"), strict=True):
        rate = audit(store, run, AuditConfig()).hidden_positive_rate
        shown = "none could be hidden"
        if rate.rate is not None:
            shown = f"{percent(rate.rate)} {percent_interval(rate.low, rate.high)}"
        progress.note(f"      {run.name:<9} {what:<21} {shown}")


def _show_false_negative(store: Database, naive: StoredRun, progress: Progress) -> None:
    from miner.store.verdicts import example_of_false_negative

    _step(progress, 4, "One query. Had nobody judged the second function, it would be the first negative:")
    found = example_of_false_negative(store, naive)
    if found is None:
        progress.note("      no positive scores above the first negative of its query")
        return
    progress.note(f"      query                  {snippet(found['query'], _WIDTH)}")
    for name, title in (
        ("positive", "positive"), ("false_negative", "false negative"), ("negative", "hard negative"),
    ):  # fmt: skip
        progress.note(f"      {title:<15} {found[f'{name}_score']:.3f}  {snippet(found[name], _WIDTH)}")


def _train(path: Path, run: StoredRun, queries: int, out: Path, progress: Progress) -> None:
    from miner.training.encoder_config import EncoderConfig
    from miner.workflows import bench_report
    from miner.workflows.bench import bench
    from miner.workflows.bench_config import EASY, FILTERED, HARD, BenchConfig, Size

    _step(progress, 5, "Training: small models on easy, hard and filtered hard negatives, three each.")
    training = EncoderConfig(base="scratch", epochs=5, batch_size=32, evaluations=0)
    config = BenchConfig(run=run.name, arms=(EASY, HARD, FILTERED), sizes=(Size(queries),), training=training)
    report = bench(path, out / "bench", config, progress)
    bench_report.write(report, out / "bench")
    progress.note(bench_report.table(report))
    progress.note(
        f"\nSo few rows show the way, not the truth. Chart: {out / 'bench' / bench_report.CHART}.png"
    )


def _report(path: Path, both: tuple[StoredRun, StoredRun], out: Path, progress: Progress) -> None:
    from miner.html_report import write_report
    from miner.store.database import Database

    naive, filtered = both
    page = out / "report.html"
    _step(progress, 6, f"Report: all of this on one page, {page}")
    with Database.open(path, read_only=True, note=progress.note) as store, store.snapshot():
        write_report(store, page, filtered, naive, training=[out / "bench"])


def _next_steps(path: Path) -> str:
    store = quote(str(path))
    return "\n".join(
        (
            f"miner runs diff {store} {NAIVE} {FILTERED}",
            f'miner sql {store} "SELECT run, query, negative FROM triplet_texts LIMIT 10"',
            "miner ingest my.duckdb pairs.csv --query-column question --positive-column answer",
        )
    )
