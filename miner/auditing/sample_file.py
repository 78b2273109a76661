"""A sample of negatives as a file that people fill in, often with a spreadsheet: written, and read back."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from miner.engine.files import locked, replacing, require_file
from miner.errors import InputError, UsageError, listed, shown
from miner.sources.config import SourceConfig
from miner.sources.delimited import open_delimited
from miner.sources.files import File, lines
from miner.sources.memory import table_of
from miner.sources.table import Table
from miner.sources.values import as_number
from miner.store import labels as stored
from miner.store.database import Database
from miner.store.runs import StoredRun, runs

COLUMNS = ("query_id", "doc_id", "query", "document", "relevance")
"""The columns of a sample to label."""
_READ = ("query_id", "doc_id", "relevance")
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""A cell that starts with one of these is a formula in a spreadsheet."""
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")

Pair = tuple[str, str]
"""A query_id and a doc_id."""


def require_new(out: Path) -> None:
    """Raises UsageError for a file that exists, and may hold labels, or that is no .csv or .tsv."""
    require_file(out)
    if out.suffix not in (".csv", ".tsv"):
        raise UsageError(f"a sample cannot be written to {out}", "end its name in .csv or .tsv")
    if out.exists():
        raise UsageError(
            f"{out} exists and may hold labels", f"read them with --labels {out}, or name another file"
        )


def write_sample(pairs: pa.Table, out: Path) -> None:
    """Writes the sample as a table to fill in; cells that a spreadsheet would run are quoted with `'`.

    A .csv begins with a byte order mark, without which spreadsheets read UTF-8 as another encoding.
    """
    encoding = "utf-8-sig" if out.suffix == ".csv" else "utf-8"
    with (
        locked(out),
        replacing(out, exists_ok=False) as partial,
        partial.open("w", newline="", encoding=encoding) as file,
    ):
        writer = csv.writer(file, delimiter="\t" if out.suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in pairs.to_pylist():
            ids = [written_id(row[name]) for name in ("query_id", "doc_id")]
            texts = [written_text(row[name]) for name in ("query", "document")]
            relevance = "" if row["relevance"] is None else f"{row['relevance']:g}"
            writer.writerow([*ids, *texts, relevance])


def written_text(text: str) -> str:
    """Returns a text as a sample file has it: a spreadsheet does not run it."""
    return f"'{text}" if text.startswith(_FORMULAS) else text


def written_id(identity: str) -> str:
    """Returns an id as a sample file has it: different ids differ there too."""
    return f"'{identity}" if identity.startswith((*_FORMULAS, "'")) else identity


def open_labels(source: Path | Any) -> Table:
    """Returns a table of labels: a file, or what `sources.memory` reads. Raises InputError."""
    if not isinstance(source, Path):
        return table_of(source)
    if not source.is_file():
        raise InputError(
            f"{source}: no such file", "name the sample that miner audit --label wrote, filled in"
        )
    if source.suffix not in (".csv", ".tsv"):
        raise InputError(f"{source}: labels are read from .csv or .tsv files", "save it as .csv")
    file = File(source, str(source))
    first = next(lines(file), None)
    # Spreadsheets of countries with decimal commas separate the columns of a .csv with semicolons.
    semicolons = (
        source.suffix == ".csv" and first is not None and first.text.count(";") > first.text.count(",")
    )
    return open_delimited(file, SourceConfig(quoted=True), ";" if semicolons else "")


@dataclass(frozen=True)
class _SampledPairs:
    """The pairs of a run's samples, by their ids as a table of labels may have them."""

    pairs: Mapping[Pair, Pair]
    """By the ids as they are, and as a sample file has them."""
    unpadded: Mapping[Pair, set[Pair]]
    """By the ids without leading zeros, which spreadsheets remove from numbers."""

    @classmethod
    def of(cls, store: Database, run: StoredRun, *, written: bool) -> _SampledPairs:
        """Returns the pairs of a run; `written` says that the table is a file, whose ids are quoted."""
        tables = [stored.sampled_pairs(store, one) for one in stored.samples_of(store, run)]
        own = dict.fromkeys(
            pair
            for table in tables
            for pair in zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True)
        )
        exact = {(query.strip(), doc.strip()): (query, doc) for query, doc in own}
        quoted = {(written_id(query).strip(), written_id(doc).strip()): (query, doc) for query, doc in own}
        pairs = {**exact, **quoted} if written else {**quoted, **exact}
        unpadded: dict[Pair, set[Pair]] = {}
        for (query, doc), pair in pairs.items():
            unpadded.setdefault((_unpadded(query), _unpadded(doc)), set()).add(pair)
        return cls(pairs, unpadded)

    def alike(self, query_id: str, doc_id: str) -> set[Pair]:
        """Returns the pairs whose ids are those of a row, up to leading zeros."""
        return self.unpadded.get((_unpadded(query_id), _unpadded(doc_id)), set())

    def find(self, query_id: str, doc_id: str) -> Pair | None:
        """Returns the pair of a row; None if no pair, or more than one, could be it."""
        alike = self.alike(query_id, doc_id)
        return self.pairs.get((query_id, doc_id)) or (next(iter(alike)) if len(alike) == 1 else None)


def _unpadded(identity: str) -> str:
    return identity.lstrip("0") or "0" if identity.isdecimal() else identity


def _not_sampled(store: Database, run: StoredRun, where: str, pair: Pair, *, written: bool) -> InputError:
    """Returns the error for a pair that is in no sample of the run; it names the runs whose it is."""
    query_id, doc_id = pair
    what = f"{where}: query '{shown(query_id)}' and document '{shown(doc_id)}' are not in the sample"
    with_samples = stored.runs_with_samples(store)
    others = [
        one.name
        for one in runs(store)
        if one.name in with_samples and _SampledPairs.of(store, one, written=written).find(*pair)
    ]
    if others:
        return InputError(
            f"{what} of run '{run.name}'; these are labels of run {listed(others, ' or ')}",
            f"read them for that run: --run {listed(others, ' or ')}",
        )
    return InputError(
        what,
        "leave the rows as they were drawn; a spreadsheet may have changed ids that look like numbers: "
        "import the columns as text",
    )


def read_labels(table: Table, store: Database, run: StoredRun) -> tuple[pa.Table, list[Pair]]:
    """Returns the labels of a table (query_id, doc_id, relevance), and the pairs that it leaves empty.

    Raises InputError for a wrong row, or if nothing is labelled. Names of columns are read in any case, and
    decimal commas as points.
    """
    named = {name.strip().lower(): name for name in table.columns} | {name: name for name in table.columns}
    missing = [name for name in _READ if name not in named]
    if missing:
        raise InputError(
            f"{table.origin}: no column {listed(missing)}; its columns: {table.listed}",
            "give the file that miner audit --label wrote, with the column relevance filled in",
        )
    written = table.unit == "bytes"
    sampled = _SampledPairs.of(store, run, written=written)
    found: dict[Pair, float] = {}
    empty: list[Pair] = []
    rows: set[Pair] = set()
    for record in table.read([named[name] for name in _READ]):
        where = f"{table.origin}:{record.line}"
        if record.problem is not None:
            raise InputError(f"{where}: {record.problem[1]}", "mend the row")
        query_id, doc_id, text = ((value or "").strip() for value in record.values)
        if (query_id, doc_id) in rows and len(sampled.alike(query_id, doc_id)) > 1:
            raise InputError(
                f"{where}: query '{shown(query_id)}' and document '{shown(doc_id)}' occur twice, and the "
                "sample has ids that differ from these in leading zeros only",
                "a spreadsheet has removed the zeros: import the columns as text",
            )
        rows.add((query_id, doc_id))
        if not text:
            empty += filter(None, [sampled.find(query_id, doc_id)])
            continue
        relevance = as_number(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
        if relevance is None:
            raise InputError(
                f"{where}: relevance '{shown(text)}' is not a number",
                "write 0 for not relevant, 1 for relevant, and nothing for not labelled",
            )
        pair = sampled.find(query_id, doc_id)
        if pair is None:
            raise _not_sampled(store, run, where, (query_id, doc_id), written=written)
        if found.setdefault(pair, relevance) != relevance:
            raise InputError(f"{where}: this pair has two different labels", "leave one of the rows")
    if not found:
        raise InputError(
            f"{table.origin}: no row has a relevance",
            "fill in the column relevance: 0 for not relevant, 1 for relevant",
        )
    pairs, values = list(found), list(found.values())
    labels = pa.table(
        {
            "query_id": pa.array([query for query, _ in pairs], pa.string()),
            "doc_id": pa.array([doc for _, doc in pairs], pa.string()),
            "relevance": pa.array(values, pa.float64()),
        }
    )
    return labels, [pair for pair in empty if pair not in found]
