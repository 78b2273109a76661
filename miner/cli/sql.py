"""`miner sql`: run one SELECT on the store."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import IO, TYPE_CHECKING, Any

import click

from miner.cli.numbers import Within
from miner.errors import MinerError, UsageError, counted, printable
from miner.ranges import NATURAL
from miner.store.select import SECONDS, Limits, Result, confined, select

if TYPE_CHECKING:
    from rich.text import Text

_UNFOLDED = 1_000_000
"""Width of a table that goes to a pipe or a file: its cells are not folded."""
FORMATS = ("table", "csv", "tsv", "json", "jsonl", "parquet")
_PLAIN_TYPES = {"VARCHAR", "BOOLEAN", "INTEGER", "BIGINT", "HUGEINT", "SMALLINT", "DOUBLE", "FLOAT"}
"""DuckDB types whose values are written to CSV without conversion."""


@click.command("sql")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("query")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), metavar="NAME",
    help=f"Format of the result: {', '.join(FORMATS)} [default: the suffix of --out, else table].",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Write to this file instead of stdout.")
@click.option(
    "--limit-rows", type=Within(NATURAL), default=100, show_default=True,
    help="Rows that a table shows; 0: all.",
)  # fmt: skip
@click.option(
    "--timeout",
    type=Within(SECONDS),
    default=60.0,
    show_default=True,
    help="Time limit of the query in seconds, with --out including the writing.",
)
def command(
    store: Path, query: str, form: str | None, out: Path | None, limit_rows: int, timeout: float
) -> None:
    """Run one SELECT on the store, read-only: the query cannot change anything.

    The query may use 2GB of memory, or what --memory gives.

    \b
    miner sql my.duckdb "SHOW TABLES"
    miner sql my.duckdb "SELECT run, reason, count(*) FROM dropped GROUP BY ALL"
    miner sql my.duckdb "FROM triplet_texts" --out triplets.parquet
    """
    if os.path.isfile(query):
        raise UsageError(
            f"{query} is a file, not QUERY: the order is STORE QUERY",
            f"miner sql {quote(query)} {quote(str(store))}",
        )
    given = {"memory": size} if (size := click.get_current_context().find_object(str)) else {}
    limits = Limits(timeout=timeout, is_total=out is not None, **given)
    chosen = _format(form, out)
    with confined(limits), select(store, query, limits, abandon=_give_up) as result:
        _write(result, chosen, out, limit_rows)


def _write(result: Result, form: str, out: Path | None, limit_rows: int) -> None:
    """Writes the result to `out` or to stdout; raises UsageError if the format cannot contain it."""
    if form in ("json", "jsonl", "parquet") and len(set(result.columns)) < len(result.columns):
        twice = next(name for name in result.columns if result.columns.count(name) > 1)
        raise UsageError(f"two columns are named '{twice}'", "rename one: SELECT … AS name")
    if form == "parquet":
        _write_parquet(result, out)
        return
    with _stream(out) as stream:
        if form == "table":
            _write_table(result, stream, limit_rows)
        else:
            _WRITERS[form](result, stream)


def _give_up(error: MinerError) -> None:
    """Ends the process, because the query does not react to the interrupt."""
    click.echo(f"Error: {error.message}\n  {error.hint}", err=True)
    os._exit(error.exit_code)


def _format(form: str | None, out: Path | None) -> str:
    if form is not None:
        return form
    ending = out.suffix.lstrip(".").lower() if out else "txt"
    if ending == "txt":
        return "table"
    if ending not in FORMATS[1:]:
        raise UsageError(
            f"no format has the suffix of {out}", f"use .{', .'.join(FORMATS[1:])}, or give --format"
        )
    return ending


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    from miner.engine.files import WAIT, locked, replacing  # an answer on the screen needs none of it

    with locked(out, WAIT), replacing(out) as whole:
        yield whole


@contextmanager
def _stream(out: Path | None) -> Iterator[IO[str]]:
    if out is None:
        yield sys.stdout
        return
    with _replacing(out) as whole, whole.open("w", encoding="utf-8", newline="") as stream:
        yield stream


def _write_parquet(result: Result, out: Path | None) -> None:
    if out is None:
        raise UsageError("parquet cannot be written to the screen", "name a file: --out result.parquet")
    import pyarrow.parquet as pq

    reader = result.arrow()
    with _replacing(out) as whole, pq.ParquetWriter(whole, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def _write_csv(result: Result, stream: IO[str], delimiter: str = ",") -> None:
    """Writes CSV, nested values as JSON. pyarrow's writer cannot do that, and it quotes all texts."""
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow(result.columns)
    plain = all(kind in _PLAIN_TYPES for kind in result.types)
    for batch in result.batches():
        writer.writerows(batch if plain else ([_text(value) for value in row] for row in batch))


def _write_jsonl(result: Result, stream: IO[str]) -> None:
    for line in _json_rows(result):
        stream.write(f"{line}\n")


def _write_json(result: Result, stream: IO[str]) -> None:
    before = "[\n"
    for line in _json_rows(result):
        stream.write(f"{before}{line}")
        before = ",\n"
    stream.write("[]\n" if before == "[\n" else "\n]\n")


def _json_rows(result: Result) -> Iterator[str]:
    """Yields each row as JSON. DuckDB's own JSON has NaN and Infinity, which JSON does not allow."""
    for row in (row for batch in result.batches() for row in batch):
        yield _json(dict(zip(result.columns, row, strict=True)))


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError):
        return json.dumps(_strict(value), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """Returns a value that JSON can contain for one that it cannot."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if isinstance(value, (date, datetime, time)) else str(value)


def _strict(value: Any) -> Any:
    """Returns a value that JSON can contain: None for NaN and infinities, keys as texts."""
    if isinstance(value, dict):
        return {str(key): _strict(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> Any:
    """Returns a value as CSV and tables show it: nested values as JSON."""
    if isinstance(value, (dict, list, tuple)):
        return _json(value)
    return _plain(value) if isinstance(value, (bytes, datetime)) else value


def _cell(value: Any) -> Text:
    """Returns a table cell: numbers are aligned to the right, control characters escaped."""
    from rich.text import Text

    if isinstance(value, float):
        return Text(f"{value:.6g}", justify="right")
    number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
    shown = "" if value is None else printable(str(_text(value)))
    return Text(shown, justify="right" if number else "left")


def _write_table(result: Result, stream: IO[str], most: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in result.columns:
        table.add_column(Text(printable(name)), overflow="fold")
    rows = (row for batch in result.batches(1000) for row in batch)
    for row in islice(rows, most or None):
        table.add_row(*map(_cell, row))
    if stream.isatty():
        Console(file=stream, highlight=False).print(table)
    else:
        wide = io.StringIO()
        Console(file=wide, width=_UNFOLDED, color_system=None).print(table)
        stream.writelines(f"{line.rstrip()}\n" for line in wide.getvalue().splitlines())
    if most and next(rows, None) is not None:
        click.echo(
            f"showing the first {counted(most, 'row')}; for all: --limit-rows 0 or --out FILE.csv", err=True
        )


_WRITERS: dict[str, Callable[[Result, IO[str]], None]] = {
    "csv": _write_csv,
    "tsv": partial(_write_csv, delimiter="\t"),
    "json": _write_json,
    "jsonl": _write_jsonl,
}
