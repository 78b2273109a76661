"""How fast is `miner ingest`, and how much memory does it take, with 10 GB of JSON lines or Parquet?

A BEIR folder of made-up documents is written once and kept in `--work`: about 100 words each (log-normal),
word frequencies like real text's, some with capitals, punctuation, quotes and accents; 5,000 queries of six
words with one relevant document each. The same is written as Parquet (`corpus`, `queries`, `qrels`; snappy).
Megabytes are 10^6 bytes of corpus.jsonl, for Parquet too: it holds the same documents.

The systems take turns, each a process of its own:

- miner: `miner ingest` into a new store, once more with `--memory 1GiB`. It checks every row, finds rows that
  occur twice, makes keys of the normalised texts, refuses an id with two texts, and checks the judgments; if
  that fails, nothing is written.
- json.loads: reads corpus.jsonl line by line and counts; stores nothing, checks nothing but the JSON.
- json.loads, DuckDB: the same, and inserts Arrow tables of 50,000 rows into a new file; checks no more.
- DuckDB: its own reader, CREATE TABLE AS into a new file, with the defaults of all settings.

`peak_gib` is the largest resident set of the process, or the memory of it and of its further processes
together if that was more at one of the looks (proportional set sizes, every second). `disk_gib` is the most
that new files had at once: store, log, and data that were moved out of memory. `cpu_seconds` are the
processor's, which matter if the machine is busy.

Targets: at least half the speed of json.loads, DuckDB; peak of miner at most 1 GiB above DuckDB's share of
the memory (a quarter of the limit), and 1.5 GiB with `--memory 1GiB`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
from common import (
    HERE,
    Finished,
    Goal,
    Report,
    alternate,
    gib,
    miner,
    parser,
    ratios,
    report,
    run_process,
    scratch,
    spread,
)

from miner.memory import MemoryLimit

LIMIT = "1GiB"
PEAK = Goal("peak memory of miner ingest", "<=", round(gib(MemoryLimit.of().database) + 1, 2), " GiB")
LIMITED = Goal(f"peak memory of miner ingest with --memory {LIMIT}", "<=", 1.5, " GiB")
OF_INSERTING = Goal("speed over that of json.loads, DuckDB", ">=", 0.5, " x")
MB = 10**6
BLOCK = 50_000
"""Documents that are made at a time."""
VOCABULARY, DRAWN = 200_000, 1 << 22
WORDS, SIGMA, FEWEST, MOST = 80, 0.7, 5, 2000
"""Median, spread and range of the number of words of a document."""
QUERIES, QUERY_WORDS = 5_000, 6
SHAPES: Sequence[tuple[Callable[[str], str], float]] = (
    (str, 0.792),
    (str.capitalize, 0.07),
    ("{},".format, 0.06),
    ("{}.".format, 0.07),
    ('"{}"'.format, 0.005),
    ("{}’s".format, 0.002),
    (lambda word: word.replace("e", "é"), 0.001),
)
"""What a word looks like, and how often: a third of the documents is not ASCII."""


# The corpus


def vocabulary(random: np.random.Generator) -> Any:
    """Returns words, a common one many times, so that each draw can be even."""
    syllables = np.array([c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"])
    lengths = random.integers(1, 5, VOCABULARY)
    parts = np.split(syllables[random.integers(0, len(syllables), lengths.sum())], np.cumsum(lengths)[:-1])
    words = ["".join(part) for part in parts]
    shares = np.cumsum(1 / np.arange(2, VOCABULARY + 2) ** 1.05)
    drawn = np.searchsorted(shares / shares[-1], (np.arange(DRAWN) + 0.5) / DRAWN)
    shaped = np.array([[shape(word) for word in words] for shape, _ in SHAPES], object)
    return shaped[random.choice(len(SHAPES), DRAWN, p=[share for _, share in SHAPES]), drawn]


def documents(random: np.random.Generator) -> Iterator[list[tuple[str, str, str]]]:
    """Yields blocks of documents without end: id, title and text."""
    words, number = vocabulary(random), 0
    while True:
        lengths = np.exp(random.normal(np.log(WORDS), SIGMA, BLOCK)).astype(int).clip(FEWEST, MOST)
        cuts = np.cumsum(np.column_stack([random.integers(2, 9, BLOCK), lengths]))
        drawn = words[random.integers(0, DRAWN, cuts[-1], np.int32)].tolist()
        texts = [" ".join(drawn[start:end]) for start, end in pairwise([0, *cuts.tolist()])]
        ids = (f"d{number + i}" for i in range(BLOCK))
        yield list(zip(ids, texts[::2], texts[1::2], strict=True))
        number += BLOCK


def made_corpus(work: Path, given: argparse.Namespace) -> Path:
    """Returns a folder with the corpus in both forms; one that an earlier run has written stays."""
    folder = work / f"ingest-{given.gigabytes:g}-{given.seed}"
    if not folder.exists():
        new = folder.with_name(f"new-{folder.name}")
        shutil.rmtree(new, ignore_errors=True)
        _write(new / "beir", new / "parquet", given)
        new.rename(folder)
    return folder


def _write(beir: Path, parquet: Path, given: argparse.Namespace) -> None:
    for inner in (beir / "qrels", *(parquet / name for name in ("corpus", "queries", "qrels"))):
        inner.mkdir(parents=True)
    random = np.random.default_rng(given.seed)
    schema = pa.schema([(name, pa.string()) for name in ("_id", "title", "text")])
    queries = list[tuple[str, str]]()
    with (
        (beir / "corpus.jsonl").open("w", encoding="utf-8") as lines,
        pq.ParquetWriter(parquet / "corpus" / "corpus.parquet", schema) as table,
    ):
        for block in documents(random):
            queries = queries or [
                (doc, " ".join(text.split()[:QUERY_WORDS])) for doc, _, text in block[:QUERIES]
            ]
            _write_lines(lines, ({"_id": doc, "title": title, "text": text} for doc, title, text in block))
            columns = zip(*block, strict=True)
            table.write_table(pa.table([pa.array(column) for column in columns], schema=schema))
            if lines.tell() >= given.gigabytes * 1000 * MB:
                break
    with (beir / "queries.jsonl").open("w", encoding="utf-8") as lines:
        _write_lines(lines, ({"_id": f"q-{doc}", "text": text} for doc, text in queries))
    judged = "".join(f"q-{doc}\t{doc}\t1\n" for doc, _ in queries)
    (beir / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    ids = [f"q-{doc}" for doc, _ in queries]
    pq.write_table(
        pa.table({"_id": ids, "text": [text for _, text in queries]}), parquet / "queries" / "queries.parquet"
    )
    judgments = {"query-id": ids, "corpus-id": [doc for doc, _ in queries], "score": [1] * len(ids)}
    pq.write_table(pa.table(judgments), parquet / "qrels" / "train.parquet")


def _write_lines(file: Any, records: Iterator[dict[str, str]]) -> None:
    file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


# Measuring


@dataclass(frozen=True)
class Read:
    """What reading the corpus once took."""

    took: Finished
    peak_bytes: int
    """The most memory of all its processes together."""
    disk_bytes: int
    """The most bytes of new files at once."""
    left_bytes: int
    """Bytes of the file that stays; 0 if none does."""


def read(command: Callable[[Path], list[str | Path]], work: Path, _: int) -> Read:
    """Runs a command that is made for the path of a new store."""
    with scratch(work) as folder:
        store = folder / "new.duckdb"
        with _watched(_disk(folder), 0.2) as disk, _watched(_memory, 1.0) as memory:
            took = run_process(command(store))
        peak = max(took.peak_bytes, *memory)
        return Read(took, peak, max(disk), store.stat().st_size if store.exists() else 0)


@contextmanager
def _watched(size: Callable[[], int], seconds: float) -> Iterator[list[int]]:
    """Yields the sizes that something has until the end, which it looks at every so many seconds."""
    sizes, ended = [0], Event()

    def look() -> None:
        while not ended.wait(seconds):
            sizes.append(size())

    watcher = Thread(target=look)
    watcher.start()
    try:
        yield sizes
    finally:
        ended.set()
        watcher.join()


def _memory() -> int:
    """Returns the bytes of memory of all processes below this one; what several share counts once."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total


def _disk(folder: Path) -> Callable[[], int]:
    return lambda: sum(_size(file) for file in folder.rglob("*"))


def _size(file: Path) -> int:
    try:
        return file.stat().st_blocks * 512
    except FileNotFoundError:  # it was removed meanwhile
        return 0


def systems(folder: Path) -> dict[str, Callable[[Path], list[str | Path]]]:
    """Returns the command of each system for a new store."""
    beir, parquet = folder / "beir", folder / "parquet"
    peer: list[str | Path] = [sys.executable, HERE / "ingest_peers.py"]
    lines, table = beir / "corpus.jsonl", parquet / "corpus" / "corpus.parquet"
    return {
        "miner, JSON lines": lambda store: [*miner("ingest", store, beir)],
        f"miner --memory {LIMIT}, JSON lines": lambda store: [
            *miner("ingest", store, beir, "--memory", LIMIT)
        ],
        "miner, Parquet": lambda store: [*miner("ingest", store, parquet)],
        "json.loads": lambda _: [*peer, "read", lines],
        "json.loads, DuckDB": lambda store: [*peer, "insert", lines, store],
        "DuckDB, JSON lines": lambda store: [*peer, "copy", lines, store],
        "DuckDB, Parquet": lambda store: [*peer, "copy", table, store],
    }


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument("--gigabytes", type=float, default=10, help="of corpus.jsonl; fewer: a trial [10]")
    arguments.add_argument("--only", default="", help="systems with this in their name, such as miner")
    given = arguments.parse_args()
    found = report("ingest", given, full_size=given.gigabytes >= 10, least=1)
    folder = made_corpus(given.work, given)
    size = (folder / "beir" / "corpus.jsonl").stat().st_size
    chosen = {
        name: partial(read, command, given.work)
        for name, command in systems(folder).items()
        if given.only in name
    }
    results = alternate(chosen, given.repeats)
    add_rows(found, folder, size, results)
    add_ratios(found, results)
    found.show()


def add_rows(found: Report, folder: Path, size: int, results: dict[str, list[Read]]) -> None:
    """Adds a row with the speed of each system, `size` bytes in its seconds, and miner's peak."""
    for name, runs in results.items():
        figures = {
            "mb_per_second": spread(size / MB / one.took.seconds for one in runs),
            "seconds": spread(one.took.seconds for one in runs),
            "cpu_seconds": spread(one.took.cpu_seconds for one in runs),
            "peak_gib": (peak := spread(gib(one.peak_bytes) for one in runs)),
            "disk_gib": spread(gib(one.disk_bytes) for one in runs),
            "file_gib": spread(gib(one.left_bytes) for one in runs),
        }
        about: dict[str, Any] = {"corpus_bytes": size, "read_bytes": _read_bytes(folder, name)}
        found.row(f"{name}: MB/s", figures, value=figures["mb_per_second"]["median"], **about)
        if name.startswith("miner"):
            goal = LIMITED if LIMIT in name else PEAK
            found.row(f"{name}: peak GiB", {"peak_gib": peak}, goal=goal, value=peak["median"], **about)


def add_ratios(found: Report, results: dict[str, list[Read]]) -> None:
    """Adds how many times as fast as each other system miner is, by the clock and by processor's seconds."""
    for name in ("miner, JSON lines", "miner, Parquet"):
        for other in ("json.loads", "json.loads, DuckDB", f"DuckDB, {name.partition(', ')[2]}"):
            if {name, other} <= results.keys():
                both = [[one.took for one in results[system]] for system in (other, name)]
                speed = ratios(*([took.seconds for took in runs] for runs in both))
                of_cpu = ratios(*([took.cpu_seconds for took in runs] for runs in both))
                goal = OF_INSERTING if other == "json.loads, DuckDB" else None
                figures = {"speed": speed, "speed_by_cpu": of_cpu}
                found.row(f"{name} / {other}", figures, goal=goal, value=speed["median"])


def _read_bytes(folder: Path, name: str) -> int:
    """Returns the size of the corpus in the form that a system reads."""
    inner = "parquet/corpus/corpus.parquet" if "Parquet" in name else "beir/corpus.jsonl"
    return (folder / inner).stat().st_size


if __name__ == "__main__":
    main()
