"""The formulas of needs.py: constants from the newest rows of the benchmarks, and what follows from them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, gib

from miner.models.vector_cache import ENTRY

ROWS = HERE / "results"
DEPTH = 50
"""Candidates of each query and retriever, as in scale.py and bm25_large.py, whose rows do not have it."""
KNOWN_DIMENSION = 384
"""The dimension of memory.py's vectors, which its rows do not have."""
CORES, NODE_CORES, NODE_MEMORY = 2, 16, 64
"""Cores of the machine that was measured, and of the one that is assumed, with its memory in GiB."""
DAY = 86_400
ALONE = ("ingest", "gather, decide")
"""Steps that one process does, however many cores and machines there are."""
LARGEST = 2**31 - 1
"""What a position of a document (int32) and the bytes of all ids (offsets of int32) may be at most."""
MEMORY_PER_VECTOR = ENTRY.itemsize + 9 * np.dtype(np.int64).itemsize
"""Bytes in memory for each vector beside its numbers, which are mapped: its entry in the cache, its key (two
words), its row, its places in two orders, the first word of its key, and three numbers of equal vectors."""
SHARD_PER_DOCUMENT = np.dtype(np.float32).itemsize
"""Bytes of a document's norm, which searching with BM25 keeps beside the index."""
RUN_PER_POSTING = 2 * np.dtype(np.uint32).itemsize
"""Bytes of a posting (document and count) in the sorted runs from which the index is built."""

Row = dict[str, Any]


class Rows:
    """The newest rows, and which of their figures were used."""

    def __init__(self, folder: Path = ROWS) -> None:
        self._folder = folder
        self.used: dict[tuple[str, str, tuple[str, ...]], tuple[float, Row]] = {}
        """The value of each figure (benchmark, measurement, names), and the row that has it."""

    def of(self, benchmark: str) -> dict[str, Row]:
        """Returns the newest row of each measurement, of full size if there is one."""
        file = self._folder / f"{benchmark}.jsonl"
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
        newest: dict[str, Row] = {}
        for row in rows:
            before = newest.get(row["measurement"])
            if before is None or row["full_size"] or not before["full_size"]:
                newest[row["measurement"]] = row
        return newest

    def value(self, benchmark: str, measurement: str, *figure: str) -> float:
        """Returns a figure, the median of several repeats; raises SystemExit if no row has it."""
        row = self.of(benchmark).get(measurement)
        found: Any = row["figures"] if row else {}
        for name in figure:
            found = found.get(name, {})
        if isinstance(found, dict):
            found = found.get("median")
        if row is None or found is None:
            raise SystemExit(f"needs.py: {benchmark} has no row of: {measurement}, {' '.join(figure)}")
        self.used[benchmark, measurement, figure] = float(found), row
        return float(found)

    def by_size(self, benchmark: str, measurement: str, *figure: str) -> dict[int, float]:
        """Returns a figure by the number of documents; `measurement` has `{}` instead of that number."""
        before, after = map(re.escape, measurement.split("{}"))
        found = (re.fullmatch(rf"{before}([\d,]+){after}", name) for name in self.of(benchmark))
        sizes = [match[1] for match in found if match]
        return {
            int(size.replace(",", "")): self.value(benchmark, measurement.format(size), *figure)
            for size in sizes
        }


@dataclass(frozen=True)
class Line:
    """What grows in proportion to the documents, from a start."""

    start: float
    slope: float

    @classmethod
    def through(cls, points: Mapping[int, float]) -> Line:
        """Returns the line through the points of the two largest sizes; neither part is below 0."""
        (fewer, low), (more, high) = _largest_two(points)
        slope = max(0.0, (high - low) / (more - fewer))
        return cls(max(0.0, high - slope * more), slope)

    def at(self, documents: float) -> float:
        """Returns the value for so many documents."""
        return self.start + self.slope * documents


def _largest_two(points: Mapping[int, float]) -> list[tuple[int, float]]:
    if len(points) < 2:
        raise SystemExit(f"needs.py: rows of two sizes are needed; there are {sorted(points)}")
    return sorted(points.items())[-2:]


@dataclass(frozen=True)
class Constants:
    """What the formulas start from. Seconds are those of `CORES` cores, sizes are bytes, memory is GiB."""

    bm25_index: Line
    bm25_size: int
    """The largest number of documents that was searched with BM25 …"""
    bm25_rate: float
    """… how many queries a second, with all cores …"""
    bm25_exponent: float
    """… and the power of the number of documents with which a query's time grows."""
    threads: float
    """How many times as fast two threads are as one."""
    texts: Mapping[str, float]
    """Texts that each kind of encoder encodes in a second."""
    products: float
    """Products of two numbers that the exact search computes in a second."""
    pairs: float
    """Pairs that a reranker scores in a second."""
    rest: Line
    """Seconds of mining `queries` queries with `DEPTH` candidates each, beside those of the search."""
    queries: int
    peak: Line
    vector_peak: Line
    ingest: float
    store: float
    candidate: float
    index: float
    postings: float
    texts_size: float
    """Per document, as all sizes; `candidate` is per candidate."""

    @classmethod
    def read(cls, rows: Rows) -> Constants:
        """Returns the constants of the newest rows; raises SystemExit if one is missing."""
        index = Line.through(rows.by_size("bm25_large", "{} documents, miner: seconds to index", "seconds"))
        rates = rows.by_size(
            "bm25_large", "{} documents, miner, two threads: queries per second", "queries_per_second"
        )
        (fewer, faster), (more, slower) = _largest_two(rates)
        ratios = rows.by_size("bm25_large", "{} documents, two threads / one", "ratio")
        texts = {
            "static": rows.value("encoding", "static, miner: texts/s", "texts_per_second"),
            "transformer": rows.value("encoding", "tldr, miner, fp32: texts/s", "texts_per_second"),
        }
        mined = "mine, {} documents, BM25: peak"
        whole = rows.by_size("scale", mined, "seconds")
        searched = rows.by_size("scale", mined, "stage_seconds", "search bm25")
        peak = Line.through(rows.by_size("scale", mined, "peak_gib"))
        static = rows.by_size("scale", "mine, {} documents, BM25 and static: peak", "peak_gib")
        beside = Line(peak.start, peak.slope + gib(MEMORY_PER_VECTOR))
        return cls(
            bm25_index=index,
            bm25_size=more,
            bm25_rate=slower,
            bm25_exponent=max(0.0, math.log(faster / slower) / math.log(more / fewer)),
            threads=min(ratios.values()),
            texts=texts,
            products=_products(rows),
            pairs=rows.value("rerank", "miner: seconds", "last", "pairs_scored")
            / rows.value("rerank", "miner: seconds", "last", "stage_seconds", "rerank"),
            rest=Line.through({size: whole[size] - searched[size] for size in whole}),
            queries=rows.of("scale")[mined.format(f"{max(whole):,}")]["settings"]["queries"],
            peak=peak,
            vector_peak=Line.through(static) if len(static) > 1 else beside,
            **_sizes(rows),
        )

    def bm25_seconds(self, documents: float, queries: float, exponent: float | None = None) -> float:
        """Returns the seconds of searching with BM25; a larger exponent holds above the measured size."""
        power = self.bm25_exponent if exponent is None else exponent
        return queries / self.bm25_rate * math.pow(documents / self.bm25_size, power)


def _products(rows: Rows) -> float:
    """Returns the products a second of the exact search of known vectors."""
    name = "miner: seconds"
    last = rows.of("memory").get(name, {"figures": {"last": {"stage_seconds": {}}}})["figures"]["last"]
    stage = next((stage for stage in last["stage_seconds"] if stage.startswith("search")), "search")
    seconds = rows.value("memory", name, "last", "stage_seconds", stage)
    size = rows.of("memory")[name]["settings"]
    return float(size["queries"] * size["documents"] * KNOWN_DIMENSION / seconds)


def _sizes(rows: Rows) -> dict[str, float]:
    """Returns the bytes of a document and of a candidate, and the seconds of ingesting a document."""
    name = "{} documents: ingested and mined"
    names = {
        "ingest": "ingest_cpu_seconds", "store": "store_bytes", "index": "index_bytes",
        "postings": "postings", "texts_size": "text_bytes",
    }  # fmt: skip
    found = {what: Line.through(rows.by_size("needs", name, figure)).slope for what, figure in names.items()}
    mined, candidates = (rows.by_size("needs", name, one) for one in ("mined_bytes", "candidates"))
    growth = Line.through({int(candidates[size]): mined[size] for size in mined})
    return {**found, "candidate": growth.slope}


@dataclass(frozen=True)
class Scenario:
    """What retrieves."""

    title: str
    encoder: str = ""
    """The kind of encoder; empty: none."""
    dimension: int = 0

    @property
    def retrievers(self) -> int:
        """How many retrievers propose candidates."""
        return 2 if self.encoder else 1


SCENARIOS = (
    Scenario("BM25 only"),
    Scenario("BM25 and a static encoder of 256 dimensions", "static", 256),
    Scenario("BM25 and a transformer encoder of 384 dimensions", "transformer", 384),
)


@dataclass(frozen=True)
class Needs:
    """What a scenario needs."""

    seconds: dict[str, float]
    """On the machine that was measured, by step."""
    disk: float
    """Bytes that stay: store, index, vectors."""
    working: float
    """Bytes while it works."""
    memory: float
    """Peak of the process, in GiB."""
    shards: float
    """Bytes that all nodes of a cluster together search: index and vectors."""
    nodes: int
    """Nodes whose memory has room for a shard each."""
    stores: int

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return sum(self.seconds.values())

    @property
    def _alone(self) -> float:
        """Seconds of the steps that one process does, however many cores there are."""
        return sum(self.seconds[step] for step in ALONE)

    @property
    def _divided(self) -> float:
        """Seconds of the other steps on one machine with `NODE_CORES` cores, if work divides by cores."""
        return (self.total - self._alone) * CORES / NODE_CORES

    @property
    def larger(self) -> float:
        """Seconds of all steps on one machine with `NODE_CORES` cores."""
        return self._alone + self._divided

    @property
    def machines(self) -> float:
        """Such machines that finish in a day; infinity if one process alone has more than a day's work."""
        left = DAY - self._alone
        return max(1, math.ceil(self._divided / left)) if left > 0 else math.inf


def needs(known: Constants, scenario: Scenario, documents: int, queries: int) -> Needs:
    """Returns what so many documents and queries need."""
    width, candidates = scenario.dimension, queries * DEPTH * scenario.retrievers
    seconds = {
        "ingest": known.ingest * documents,
        "BM25": known.bm25_index.at(documents) + known.bm25_seconds(documents, queries),
        "encode": (documents + queries) / known.texts[scenario.encoder] if scenario.encoder else 0.0,
        "search vectors": queries * documents * width / known.products,
        "gather, decide": known.rest.start * candidates / (known.queries * DEPTH)
        + known.rest.slope * documents,
    }
    vectors = (4 * width + ENTRY.itemsize) * (documents + queries) if width else 0
    index = known.index * documents
    disk = (known.store * documents) + known.candidate * candidates + index + vectors
    working = disk + (known.texts_size + RUN_PER_POSTING * known.postings) * documents
    peak = known.vector_peak if scenario.encoder else known.peak
    shards = index + (SHARD_PER_DOCUMENT + 4 * width) * documents
    nodes = max(1, math.ceil(gib(shards) / (NODE_MEMORY - known.peak.start)))
    stores = -(-max(documents, id_bytes(documents)) // LARGEST)
    return Needs(seconds, disk, working, peak.at(documents), shards, nodes, stores)


def id_bytes(documents: int) -> int:
    """Returns the bytes of the ids d0, d1, d2, … of so many documents."""
    total, digits = documents, 1
    while 10 ** (digits - 1) < documents or digits == 1:
        first = 0 if digits == 1 else 10 ** (digits - 1)
        total += digits * (min(documents, 10**digits) - first)
        digits += 1
    return total
