"""`miner ingest`: read data into a store."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import rich_click as click

from miner.cli.options import Command, Settings, described
from miner.engine.progress_bars import progress
from miner.errors import UsageError, counted, listed, shown
from miner.ranges import near_split, split_name
from miner.sources import FORMATS, IngestReport, SourceConfig, ingest
from miner.sources.config import NAMES, SKIPPED
from miner.store.chunks import CHUNK_POSITIVES
from miner.store.ingested import Identity


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _fields(value: str) -> list[str]:
    """Returns the fields between commas; as in CSV, double quotes surround a field with a comma."""
    try:
        return next(csv.reader([value])) or [""]
    except csv.Error:  # a line end outside of quotes
        return [value]


def _mapping(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in _fields(text):
        name, sign, number = part.rpartition("=")
        try:
            worth = float(number)
        except ValueError:
            sign = ""
        if not sign or name.strip() in found:
            raise UsageError(
                f"relevance_map: '{shown(part)}' is not VALUE=NUMBER, or repeats a value",
                "write it like E=3,S=2,C=1,I=0",
            )
        found[name.strip()] = worth
    return found


ABOUT: dict[str, tuple[click.ParamType[Any] | None, str]] = {
    "format": (
        click.Choice(FORMATS),
        "Format of the sources; auto detects it from the files and their columns.",
    ),
    "split": (click.STRING, "Split of the judgments [default: from the names of the files, else train]."),
    "dev": (None, "Fraction of the queries to put into split dev [default: 0]."),
    "test": (None, "Fraction of the queries to put into split test [default: 0]."),
    "query_column": (click.STRING, "Pairs, triplets: column of the query."),
    "positive_column": (click.STRING, "Pairs, triplets: column of the relevant document."),
    "negative_column": (click.STRING, "Triplets: column of the negative; also NAME_1, NAME_2, and so on."),
    "text_column": (click.STRING, "Labels: column of the text."),
    "label_column": (click.STRING, "Labels: column of the label."),
    "query_id_column": (click.STRING, "Column of the query's id [default: made from its text]."),
    "document_id_column": (
        click.STRING,
        "Column of the relevant document's id [default: made from its text].",
    ),
    "relevance_column": (
        click.STRING,
        "Column of the relevance; 0 or less means not relevant. none: every row is a positive "
        "[default: none, but an error if a column looks like a label].",
    ),
    "relevance_map": (
        click.STRING,
        "Relevance of each value of the relevance column, such as E=3,S=2,C=1,I=0. Rows with other "
        "values are left out and counted; =0 is for rows without a value.",
    ),
    "header": (
        click.BOOL,
        "TSV, CSV: with --no-header the first line is data, and --columns names the columns.",
    ),
    "columns": (
        click.STRING,
        f"With --no-header: names of the columns in order, {SKIPPED} for a column to skip. Names that need "
        f"no further option: {', '.join(NAMES)}.",
    ),
    "quoted": (
        click.BOOL,
        "TSV, CSV: whether fields are quoted [default: CSV yes; TSV if the whole file fits].",
    ),
    "unpad_query_ids": (click.BOOL, "Remove leading zeros from query ids: 051 becomes 51."),
    "hf_split": (click.STRING, "Split of a Hugging Face data set to read [default: all]."),
    "mined_negatives": (
        click.BOOL,
        "Triplets, lists and ids: nobody judged the negatives, so they are documents only; false: without a "
        "score they are judged not relevant.",
    ),
    "positives_per_query": (None, "Labels: number of texts of the same label to draw as positives."),
    "max_bad": (None, "Largest fraction of bad rows; with more, nothing is ingested."),
    "chunk": (
        click.STRING,
        "Cut documents into chunks of at most N: words:N, sentences:N or tokens:N [default: whole].",
    ),
    "overlap": (None, "Words, sentences or tokens of a chunk that are in the one before it too."),
    "chunk_tokenizer": (click.STRING, "Model whose tokens tokens:N counts: hub id, folder or bundled."),
    "chunk_positives": (
        click.Choice(CHUNK_POSITIVES),
        "Which chunks of a relevant document are positives: the one that shares most words with the query, "
        "or all.",
    ),
    "seed": (None, "Seed of dev and test, and of the positives drawn for labels."),
    "queries_are_documents": (
        click.BOOL,
        "A query and the document with the same id are the same thing, never a negative of itself. "
        "The setting is stored [default: they are not].",
    ),
}
"""The type and the help of every setting in SourceConfig."""
_KEYS = described(SourceConfig, ABOUT)
_KEYS["relevance_column"] = replace(
    _KEYS["relevance_column"], may_be_none=False
)  # none is a value of its own
_KEYS["columns"] = replace(_KEYS["columns"], convert=_names, metavar="NAME,…")
_KEYS["relevance_map"] = replace(_KEYS["relevance_map"], convert=_mapping, metavar="VALUE=NUMBER,…")
SETTINGS = Settings(
    {"": _KEYS},
    {
        "Source": ("format", "split", "dev", "test"),
        "Columns": (
            "query_column", "positive_column", "text_column", "label_column", "relevance_column",
            "relevance_map", "header", "columns",
        ),
    },
)  # fmt: skip


@click.command("ingest", cls=Command, settings=SETTINGS, renamed={"--unquoted": "--set quoted=false"})
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, required=True)
def command(store: Path, sources: tuple[str, ...], **given: Any) -> None:
    """Read documents, queries and judgments from SOURCES into STORE: all of them, or nothing on an error.

    A source is a table of pairs, triplets or labelled texts (.tsv, .csv, .jsonl, .json, .parquet; a file, or
    a folder with one file per split), the training data of another tool, a folder of miner export, a
    collection with queries and judgments (BEIR, MTEB, MS MARCO, TREC), a Hugging Face data set or set of
    ids, Python code with docstrings, or documents alone: a table with a text and an id, or a folder of text
    files. The format is recognised and shown, with the first rows as understood. --dev and --test divide
    the queries of a source that has a single split: queries with equal texts stay together, and the seed
    decides. Ignored files, columns and splits are listed. Ingesting the same sources again changes nothing.

    \b
    miner ingest my.duckdb beir/scifact
    miner ingest my.duckdb hf:mteb/scifact
    miner ingest my.duckdb collection.tsv queries.train.tsv qrels.train.tsv triples.train.small.tsv
    miner ingest my.duckdb pairs.csv --query-column question --positive-column answer --dev 0.1 --test 0.1
    miner ingest my.duckdb nli.tsv --query-column premise --positive-column hypothesis \\
        --relevance-column label --relevance-map entailment=1,contradiction=0
    miner ingest my.duckdb triples.tsv --no-header --columns query,positive,negative
    miner ingest my.duckdb reviews/ --text-column review --label-column stars
    miner ingest my.duckdb hf:sentence-transformers/all-nli:triplet --query-column anchor
    miner ingest my.duckdb scored.jsonl --format flagembedding
    miner ingest my.duckdb python: python:numpy python:./src
    miner ingest my.duckdb handbook/ articles.jsonl
    """
    values = SETTINGS.values(given)[""]
    config = SourceConfig(**values)
    with progress() as reports:
        report = ingest(store, sources, config, reports, reports.note)
    divided = bool(config.dev or config.test)
    for line in (*_summary(store, report, divided), *_about_splits(values.get("split"), report)):
        click.echo(line, err=True)


def _about_splits(given: str | None, report: IngestReport) -> Iterator[str]:
    """Yields what the user may not expect of the splits: another name, a misspelt one, queries that stay."""
    if given is not None and (name := split_name(given)) != given:
        yield f"note: split {shown(given)} is called {name} in a store"
    for split in report.queries:
        if meant := near_split(split):
            yield (
                f"note: split {shown(split)} is none of train, dev and test, which commands look for (did "
                f"you mean '{meant}'?); if so, ingest into a new store"
            )
    if stay := report.kept_split:
        yield (
            f"note: {counted(stay, 'query stays in its', 'queries stay in their')} split: --dev, --test and "
            "the seed divide only queries that the store does not have; to divide all again, ingest into a "
            "new store"
        )


def _summary(store: Path, report: IngestReport, divided: bool) -> Iterator[str]:
    for table, added in report.added.items():
        there = report.already_there[table]
        yield f"{table:<10}{added:>12,} added" + (f", {there:,} already there" if there else "")
    if not report.splits and not report.added["queries"] + report.already_there["queries"]:
        yield (
            "no queries: ingest queries with judgments too, or make some from the documents: "
            f"miner generate {quote(str(store))} --endpoint URL --model NAME"
        )
    if report.splits:
        splits = listed(f"{split} {number:,}" for split, number in report.splits.items())
        yield f"positives by split: {splits}"
    if report.cut:
        yield f"chunks: {counted(report.cut, 'document')} cut"
    if report.all_chunks:
        pairs = counted(report.all_chunks, "relevant document")
        yield f"no chunk shares a word with the query: all chunks of {pairs} are positives"
    if report.in_several_splits:
        several = counted(report.in_several_splits, "query has", "queries have")
        yield f"warning: {several} positives in more than one split: what is trained on must not be measured"
    if divided:
        queries = listed(f"{split} {number:,}" for split, number in report.queries.items())
        yield f"queries by split: {queries}"
    if report.cleaned:
        yield f"cleaned: {counted(report.cleaned, 'text')} had NUL characters or lone surrogates"
    yield from _identity(report.identity)
    for rejection in report.rejected:
        yield f"left out: {rejection.rows:,} {rejection.reason}"
        yield from (f"  {example}" for example in rejection.first)
    if report.rejected:
        yield f'list all: miner sql {quote(str(store))} "SELECT * FROM rejected"'


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
            "--set queries_are_documents=true"
        )
