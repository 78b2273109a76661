"""miner demo: the whole way on real text that every Python installation has."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.numbers import Within
from miner.engine.files import locked
from miner.errors import snippet
from miner.ranges import whole

if TYPE_CHECKING:
    from miner.engine.progress import Progress
    from miner.mining.explain import Explanation
    from miner.store.database import Store
    from miner.store.runs import Run

STEPS = 8
RERANKER_QUERIES = 120
"""Queries that the reranker is trained on: half a minute."""
PERCENTILE = 25.0
"""A reranker trained for half a minute is a coarse one: stricter would leave few negatives."""
MODULES = (
    "argparse", "ast", "asyncio", "calendar", "collections", "concurrent", "contextlib", "ctypes",
    "datetime", "difflib", "email", "enum", "fractions", "ftplib", "functools", "heapq", "http",
    "imaplib", "importlib", "inspect", "ipaddress", "json", "logging", "mailbox", "multiprocessing",
    "pathlib", "pickle", "random", "shutil", "smtplib", "socket", "statistics", "subprocess",
    "tarfile", "tempfile", "textwrap", "threading", "traceback", "typing", "unittest", "urllib",
    "uuid", "wsgiref", "xml", "xmlrpc", "zipfile", "zoneinfo",
)  # fmt: skip
"""About half of the standard library: enough to find like functions, little enough to encode in a minute."""
TESTED = MODULES[::6]
"""Whose docstrings are kept for the test; their functions are candidates like all others."""


@click.command("demo")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False), default=Path("miner-demo"))
@click.option(
    "--queries",
    type=Within(whole(30, 1_000_000)),
    default=300,
    show_default=True,
    help="Queries to mine: fewer is faster.",
)
def command(out: Path, queries: int) -> None:
    """Mine the documentation of Python's standard library, train on it and compare, in the folder OUT.

    Every function with a docstring is a judged pair: the docstring asks, the code answers. Nothing
    is fetched. A demo that was interrupted goes on where it stopped.

    \b
    miner demo
    miner demo my-demo --queries 100
    """
    from miner.engine.bars import progress

    started = time.monotonic()
    with locked(out / "demo"), progress() as reports:
        run = _walk(out, queries, reports)
    _say(f"\nDone in {time.monotonic() - started:.0f} s. Everything is in {out}. Go on with:\n")
    _say(_next_steps(out, run))


def _walk(out: Path, queries: int, progress: Progress) -> Run:
    """Goes through the steps; each says what it does and why."""
    from miner.mining.pipeline import mine
    from miner.store.database import Store
    from miner.store.verdicts import reason_counts

    path = out / "demo.duckdb"
    _step(progress, 1, "Ingest: the functions of the standard library that have a docstring.")
    _ingest(path, progress)
    with Store.open(path, note=progress.note) as store:
        _step(progress, 2, "Candidates: BM25 finds shared words, the bundled encoder like meanings.")
        run = mine(store, _config(queries), progress=progress)
        progress.note(f"  {sum(reason_counts(store, run).values()):,} candidates of {queries} queries")
        _step(progress, 3, "A reranker, trained on the spot: it reads query and code together.")
        reranker = _train(store, out, progress)
        _step(progress, 4, "Filter: it scores each candidate; one that scores like a positive is dropped.")
        run = mine(store, _config(queries, reranker), progress=progress)
        _step(progress, 5, "One query: its positive, an easy negative, hard negatives, and who was dropped.")
        progress.note(_example(store, run))
        _step(progress, 6, "Every candidate has its reason.")
        progress.note(_reasons(store, run))
        _step(progress, 7, "Export: triplets that sentence-transformers trains on, with card and manifest.")
        _export(store, run, out, progress)
    _step(progress, 8, "Does it pay? A small model trained on easy and on hard negatives, three times each.")
    _compare(path, run, queries, out, progress)
    return run


def _step(progress: Progress, number: int, what: str) -> None:
    progress.note(f"\n[{number}/{STEPS}] {what}")


def _ingest(path: Path, progress: Progress) -> None:
    from miner.sources import SourceConfig, ingest
    from miner.store import corpus
    from miner.store.database import Store

    for split in ("train", "test"):
        modules = [f"python:{module}" for module in MODULES if (module in TESTED) == (split == "test")]
        ingest(path, modules, SourceConfig(split=split), progress=progress)
    with Store.open(path, read_only=True) as store:
        counts = corpus.counts(store)
    progress.note(
        f"  {counts['documents']:,} functions, {counts['queries']:,} docstrings, "
        f"{counts['judgments']:,} judged pairs"
    )


def _config(queries: int, reranker: Path | None = None) -> Any:
    from miner.mining.config import MiningConfig, Rules

    return MiningConfig(
        queries=queries,
        depth=20,
        encoder="bundled",
        reranker=str(reranker) if reranker else None,
        rerank_depth=10 if reranker else None,
        rules=Rules(percentile=PERCENTILE) if reranker else Rules(),
    )


def _train(store: Store, out: Path, progress: Progress) -> Path:
    from miner.training.reranker import train_reranker
    from miner.training.reranker_config import RerankerConfig

    config = RerankerConfig(
        max_queries=RERANKER_QUERIES, mined=3, random=2, max_length=96, learning_rate=1e-4
    )
    report = train_reranker(store, out / "reranker", config, progress, force=True)
    progress.note(f"  average precision on held-out queries: {report.metrics.average_precision:.2f}")
    return report.out


def _example(store: Store, run: Run) -> str:
    from miner.mining.explain import explain
    from miner.store import verdicts as explaining

    query_id = explaining.example_query(store, run)
    if query_id is None:
        return "  no query has both dropped candidates and enough negatives; try more --queries"
    found = explain(store, query_id, run.name)
    rows = found.candidates.to_pylist()
    lines = [f"  query            {snippet(found.query, 76)}"]
    for row in found.positives.to_pylist():
        lines.append(f"  positive         {_scored(row)}{snippet(row['text'], 76)}")
    lines.append(f"  easy negative            {snippet(explaining.easy_negative(store, run, query_id), 76)}")
    for row in rows:
        if row["slot"]:
            lines.append(f"  hard negative {row['slot']}  {_scored(row)}{snippet(row['text'], 76)}")
    lines += [
        f"  dropped          {_scored(row)}{snippet(row['text'], 76)}\n{' ' * 27}{_why(row)}"
        for row in _dropped(found)
    ]
    return "\n".join(lines)


def _dropped(found: Explanation) -> list[dict[str, Any]]:
    """The two candidates that most looked like positives and were dropped for their score."""
    rows: list[dict[str, Any]] = found.candidates.to_pylist()
    scored = [row for row in rows if row["verdict"] == "dropped" and row["reason"] == "percentile"]
    return sorted(scored, key=lambda row: -row["rerank_score"])[:2]


def _why(row: dict[str, Any]) -> str:
    return (
        f"because: {row['reason']} (the reranker scores it {row['rerank_score']:.3f}, "
        f"above what {PERCENTILE:.0f} % of the positives score)"
    )


def _scored(row: dict[str, Any]) -> str:
    score = row["rerank_score"]
    return f"{score:6.3f}  " if score is not None else " " * 8


def _reasons(store: Store, run: Run) -> str:
    from miner.store.verdicts import reason_counts

    counts = reason_counts(store, run)
    return "\n".join(f"  {number:>7,}  {reason}" for reason, number in counts.items())


def _export(store: Store, run: Run, out: Path, progress: Progress) -> None:
    from miner.export import ExportConfig, export_run

    report = export_run(store, out / "triplets", ExportConfig(run=run.name, force=True), progress)
    progress.note(f"  {report.rows:,} triplets in {report.data}")


def _compare(path: Path, run: Run, queries: int, out: Path, progress: Progress) -> None:
    from miner.training.encoder_config import EncoderConfig
    from miner.workflows import bench_report
    from miner.workflows.bench import bench
    from miner.workflows.bench_config import EASY, FILTERED, HARD, BenchConfig, Size

    training = EncoderConfig(base="scratch", epochs=5, batch_size=32, evaluations=0)
    config = BenchConfig(run=run.name, arms=(EASY, HARD, FILTERED), sizes=(Size(queries),), training=training)
    report = bench(path, out / "bench", config, progress)
    bench_report.write(report, out / "bench")
    progress.note(bench_report.table(report))
    progress.note(
        f"  so few triplets show the way, not the truth; chart: {out / 'bench' / bench_report.CHART}.png"
    )


def _next_steps(out: Path, run: Run) -> str:
    path = out / "demo.duckdb"
    return "\n".join(
        (
            f'miner sql {path} "SELECT reason, count(*) FROM dropped GROUP BY ALL ORDER BY 2 DESC"',
            f'miner sql {path} "SELECT query, negative, negative_score FROM triplet_texts LIMIT 10"',
            f'miner sql {path} "SELECT * FROM shortfalls LIMIT 10"',
            f"miner decide {path} --run {run.name} --percentile 10",
            f"miner train {path} my-model --run {run.name} --negatives 2",
            f"miner evaluate my-model {path} --against bundled",
            f"miner bench {path} --run {run.name}",
            f"miner export {path} my-tuples --run {run.name} --format n-tuple",
        )
    )


def _say(text: str) -> None:
    click.echo(text)
