"""miner ingest: data into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rich_click as click

from miner.cli.progress import progress
from miner.errors import listed
from miner.sources import FORMATS, IngestReport, SourceConfig, ingest

_DEFAULTS = SourceConfig()


def _option(name: str, text: str, kind: Any = str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    default = getattr(_DEFAULTS, name)
    flag = f"--{name.replace('_', '-')}"
    return click.option(flag, type=kind, default=default, show_default=default is not None, help=text)


@click.command("ingest")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, required=True)
@_option("format", "What the sources hold; auto looks at files and columns.", click.Choice(FORMATS))
@_option("split", "Split of the judgments. [default: from the file names, else train]")
@_option("query_column", "Pairs, triplets: column of the query.")
@_option("positive_column", "Pairs, triplets: column of the relevant document.")
@_option("negative_column", "Triplets: column of the negative; NAME_1, NAME_2, … are found too.")
@_option("text_column", "Labels: column of the text.")
@_option("label_column", "Labels: column of the label.")
@_option("query_id_column", "Column of the query's id. [default: made from its text]")
@_option("document_id_column", "Column of the relevant document's id. [default: made from its text]")
@_option("relevance_column", "Column of the relevance; 0 or less is a judged negative. [default: all 1]")
@_option("hf_split", "Split of a Hugging Face data set to read. [default: all]")
@_option("positives_per_query", "Labels: texts of the same label drawn as positives.", click.IntRange(1))
@_option("max_bad", "Share of rows that may be left out as bad.", click.FloatRange(0, 1))
@_option("seed", "Seed of the draw of positives for labels.", click.INT)
def command(store: Path, sources: tuple[str, ...], **options: Any) -> None:
    """Take SOURCES into STORE, all of them or, if anything is wrong, nothing.

    A source is a BEIR folder; pairs, triplets or labelled texts as .tsv, .csv, .jsonl or .parquet,
    a file or a folder with one file per split; a TREC folder (docs*, topics*, qrels*); a Hugging
    Face data set; or Python code with docstrings. Ingesting the same again changes nothing.

    \b
    miner ingest my.duckdb beir/scifact
    miner ingest my.duckdb pairs.tsv --query-column question --positive-column answer
    miner ingest my.duckdb reviews/ --text-column review --label-column stars
    miner ingest my.duckdb hf:sentence-transformers/all-nli:triplet --query-column anchor
    miner ingest my.duckdb python: python:numpy python:./src
    """
    with progress() as shown:
        report = ingest(store, sources, SourceConfig(**options), shown)
    for line in _summary(store, report):
        click.echo(line, err=True)


def _summary(store: Path, report: IngestReport) -> Iterator[str]:
    for table, added in report.added.items():
        there = report.already_there[table]
        yield f"{table:<10}{added:>12,} added" + (f", {there:,} already there" if there else "")
    if report.splits:
        splits = listed(f"{split} {number:,}" for split, number in report.splits.items())
        yield f"positives by split: {splits}"
    if report.cleaned:
        yield f"cleaned: {report.cleaned:,} texts held NUL characters or lone surrogates"
    for rejection in report.rejected:
        yield f"left out: {rejection.rows:,} {rejection.reason}"
        yield from (f"  {place}" for place in rejection.first)
    if report.rejected:
        yield f'list all: miner sql {store} "SELECT * FROM rejected"'
