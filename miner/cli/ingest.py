"""miner ingest: data into a store."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rich_click as click

from miner.cli.numbers import Within
from miner.engine.bars import progress
from miner.errors import listed, shown
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
    return click.option(flag, type=kind, default=default, show_default=default is not None, help=text)


def _names(_: Any, __: Any, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(","))


def _fields(value: str) -> list[str]:
    """Returns what commas separate; as in CSV, a field with a comma stands in double quotes."""
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
                f"'{shown(part)}' is not VALUE=NUMBER, or names a value again; an example: E=3,S=2,C=1,I=0",
                context,
                option,
            )
        found[name.strip()] = worth
    return found


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
@_option(
    "relevance_column",
    "Column of the relevance; 0 or less is a judged negative. none: every row is a positive, whatever its "
    "columns. [default: none, if no column looks like a label]",
)
@click.option(
    "--relevance-map",
    default=None,
    callback=_mapping,
    metavar="VALUE=NUMBER,…",
    help="The relevance that each value of --relevance-column stands for, such as E=3,S=2,C=1,I=0. "
    "Rows with other values are left out and counted; =0 is for rows without a value.",
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
    help=f"With --no-header: the names of the columns in order, {SKIPPED} for one that is not read. These "
    f"need no further option: {', '.join(NAMES)}.",
)
@click.option(
    "--quoted/--unquoted",
    default=None,
    help="TSV, CSV: whether fields stand in quotes. [default: CSV yes; TSV if the whole file fits that]",
)
@click.option(
    "--unpad-query-ids",
    is_flag=True,
    default=False,
    help="Remove leading zeros from query ids: 051 becomes 51.",
)
@_option("hf_split", "Split of a Hugging Face data set to read. [default: all]")
@_option("positives_per_query", "Labels: texts of the same label drawn as positives.")
@_option("max_bad", "Share of rows that may be left out as bad.")
@_option("seed", "Seed of the draw of positives for labels.")
@click.option(
    "--queries-are-documents/--no-queries-are-documents", default=None,
    help="A query and the document of the same id are the same thing, which is then no answer to itself. "
    "Kept in the store. [default: they are not]",
)  # fmt: skip
def command(store: Path, sources: tuple[str, ...], **options: Any) -> None:
    """Take SOURCES into STORE, all of them or, if anything is wrong, nothing.

    A source is a BEIR folder; pairs, triplets or labelled texts as .tsv, .csv, .jsonl, .json or .parquet,
    a file or a folder with one file per split; a TREC distribution (documents, topics, judgments); a
    Hugging Face data set; or Python code with docstrings. Ingesting the same again changes nothing.
    Files and columns that are not read are listed.

    \b
    miner ingest my.duckdb beir/scifact
    miner ingest my.duckdb pairs.tsv --query-column question --positive-column answer
    miner ingest my.duckdb nli.tsv --query-column premise --positive-column hypothesis \\
        --relevance-column label --relevance-map entailment=1,contradiction=0
    miner ingest my.duckdb triples.tsv --no-header --columns query,positive,negative
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
    yield from _identity(report.identity)
    for rejection in report.rejected:
        yield f"left out: {rejection.rows:,} {rejection.reason}"
        yield from (f"  {place}" for place in rejection.first)
    if report.rejected:
        yield f'list all: miner sql {store} "SELECT * FROM rejected"'


def _identity(found: Identity) -> Iterator[str]:
    if found.queries_are_documents:
        missing = f"; {found.without_document:,} queries have none" if found.without_document else ""
        yield f"queries are documents: a query is the document of the same id{missing}"
    elif found.other_text:
        yield (
            f"{found.other_text:,} queries have the id of a document with another text; ids of queries and "
            "of documents are separate. If equal ids mean the same thing, add --queries-are-documents"
        )
