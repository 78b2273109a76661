"""`miner ingest`: read data into a store."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rich_click as click

from miner.cli.numbers import Within
from miner.engine.bars import progress
from miner.errors import counted, listed, shown
from miner.ranges import range_of
from miner.sources import FORMATS, IngestReport, SourceConfig, ingest
from miner.sources.config import NAMES, SKIPPED
from miner.store.intake import Identity

_DEFAULTS = SourceConfig()


def _option(name: str, text: str, kind: Any = str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    default = getattr(_DEFAULTS, name)
    flag = f"--{name.replace('_', '-')}"
    if not isinstance(default, str | None):
        kind = Within(range_of(SourceConfig, name))
    return click.option(flag, type=kind, default=default, show_default=bool(default), help=text)


def _names(_: Any, __: Any, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(","))


def _fields(value: str) -> list[str]:
    """Returns the fields between commas; as in CSV, double quotes surround a field with a comma."""
    try:
        return next(csv.reader([value])) or [""]
    except csv.Error:  # a line end outside of quotes
        return [value]


def _mapping(context: click.Context, option: click.Parameter, value: str | None) -> dict[str, float] | None:
    if value is None:
        return None
    found: dict[str, float] = {}
    for part in _fields(value):
        name, sign, number = part.rpartition("=")
        try:
            worth = float(number)
        except ValueError:
            sign = ""
        if not sign or name.strip() in found:
            raise click.BadParameter(
                f"'{shown(part)}' is not VALUE=NUMBER, or repeats a value; write it like E=3,S=2,C=1,I=0",
                context,
                option,
            )
        found[name.strip()] = worth
    return found


@click.command("ingest")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, required=True)
@_option(
    "format",
    "Format of the sources; auto detects it from the files and their columns.",
    click.Choice(FORMATS),
)
@_option("split", "Split of the judgments. [default: from the names of the files, else train]")
@_option("dev", "Fraction of the queries to put into split dev. [default: none]")
@_option("test", "Fraction of the queries to put into split test. [default: none]")
@_option("query_column", "Pairs, triplets: column of the query.")
@_option("positive_column", "Pairs, triplets: column of the relevant document.")
@_option("negative_column", "Triplets: column of the negative; also NAME_1, NAME_2, and so on.")
@_option("text_column", "Labels: column of the text.")
@_option("label_column", "Labels: column of the label.")
@_option("query_id_column", "Column of the query's id. [default: made from its text]")
@_option("document_id_column", "Column of the relevant document's id. [default: made from its text]")
@_option(
    "relevance_column",
    "Column of the relevance; 0 or less means not relevant. none: every row is a positive. [default: none, "
    "if no column looks like a label]",
)
@click.option(
    "--relevance-map",
    default=None,
    callback=_mapping,
    metavar="VALUE=NUMBER,…",
    help="Relevance of each value of --relevance-column, such as E=3,S=2,C=1,I=0. Rows with other values are "
    "left out and counted; =0 is for rows without a value.",
)
@click.option(
    "--header/--no-header",
    default=True,
    help="TSV, CSV: whether the first line has the names of the columns. [default: header]",
)
@click.option(
    "--columns",
    default=None,
    callback=_names,
    metavar="NAME,…",
    help=f"With --no-header: names of the columns in order, {SKIPPED} for a column to skip. Names that need "
    f"no further option: {', '.join(NAMES)}.",
)
@click.option(
    "--quoted/--unquoted",
    default=None,
    help="TSV, CSV: whether fields are quoted. [default: CSV yes; TSV if the whole file fits]",
)
@click.option(
    "--unpad-query-ids",
    is_flag=True,
    default=False,
    help="Remove leading zeros from query ids: 051 becomes 51.",
)
@_option("hf_split", "Split of a Hugging Face data set to read. [default: all]")
@_option("positives_per_query", "Labels: number of texts of the same label to draw as positives.")
@_option("max_bad", "Largest fraction of bad rows; with more, nothing is ingested.")
@_option("seed", "Seed of --dev and --test, and of the positives drawn for labels.")
@click.option(
    "--queries-are-documents/--no-queries-are-documents", default=None,
    help="A query and the document with the same id are the same thing, never a negative of itself. The "
    "setting is stored. [default: they are not]",
)  # fmt: skip
def command(store: Path, sources: tuple[str, ...], **options: Any) -> None:
    """Read documents, queries and judgments from SOURCES into STORE: all of them, or nothing on an error.

    A source is a table of pairs, triplets or labelled texts (.tsv, .csv, .jsonl, .json, .parquet; a file, or
    a folder with one file per split), a BEIR folder, a TREC collection (documents, topics, judgments), a
    Hugging Face data set, or Python code with docstrings. --dev and --test divide the queries of a source
    that has a single split: queries with equal texts stay together, and --seed decides. Ignored files,
    columns and splits are listed. Ingesting the same sources again changes nothing.

    \b
    miner ingest my.duckdb beir/scifact
    miner ingest my.duckdb pairs.csv --query-column question --positive-column answer --dev 0.1 --test 0.1
    miner ingest my.duckdb nli.tsv --query-column premise --positive-column hypothesis \\
        --relevance-column label --relevance-map entailment=1,contradiction=0
    miner ingest my.duckdb triples.tsv --no-header --columns query,positive,negative
    miner ingest my.duckdb reviews/ --text-column review --label-column stars
    miner ingest my.duckdb hf:sentence-transformers/all-nli:triplet --query-column anchor
    miner ingest my.duckdb python: python:numpy python:./src
    """
    with progress() as shown:
        report = ingest(store, sources, SourceConfig(**options), shown)
    divided = bool(options["dev"] or options["test"])
    for line in _summary(store, report, divided):
        click.echo(line, err=True)


def _summary(store: Path, report: IngestReport, divided: bool) -> Iterator[str]:
    for table, added in report.added.items():
        there = report.already_there[table]
        yield f"{table:<10}{added:>12,} added" + (f", {there:,} already there" if there else "")
    if report.splits:
        splits = listed(f"{split} {number:,}" for split, number in report.splits.items())
        yield f"positives by split: {splits}"
    if divided:
        queries = listed(f"{split} {number:,}" for split, number in report.queries.items())
        yield f"queries by split: {queries}"
    if report.cleaned:
        yield f"cleaned: {counted(report.cleaned, 'text')} had NUL characters or lone surrogates"
    yield from _identity(report.identity)
    for rejection in report.rejected:
        yield f"left out: {rejection.rows:,} {rejection.reason}"
        yield from (f"  {place}" for place in rejection.first)
    if report.rejected:
        yield f'list all: miner sql {store} "SELECT * FROM rejected"'


def _identity(found: Identity) -> Iterator[str]:
    if found.queries_are_documents:
        missing = (
            f"; {counted(found.without_document, 'query has', 'queries have')} none"
            if found.without_document
            else ""
        )
        yield f"queries are documents: a query is the document with the same id{missing}"
    elif found.other_text:
        yield (
            f"{counted(found.other_text, 'query has', 'queries have')} the id of a document with another "
            "text; ids of queries and of documents are separate. If equal ids mean the same thing, add "
            "--queries-are-documents"
        )
