"""How do time and memory grow with the data, and does `miner mine` keep to a memory limit?

Made-up text with word frequencies like real text's (`../shared/tools/gen_corpus.py`): 20 to 59 words a
document, 10,000 queries of six words with one positive each, top 50. Every figure is of a whole process; the
seconds of a stage are those of the ledger. Mining runs with BM25, and with candidates of another tool (50
random documents per query), which leaves BM25 out; each also with `--memory 1GiB`. Last with BM25 and a
static encoder of 256 dimensions (random vectors, the bundled tokenizer); `--only static` measures this alone.

Then the evidence of 1,000,000 queries with 100 candidates each, made up: decide, audit, calibrate, export.

Targets, with 1,000,000 documents: peak at most 1.2 GiB, gather evidence at most 5 s, at most 1.3 GiB with
`--memory 1GiB`. Decide, audit, calibrate, export of 1,000,000 queries: peak at most 6 GiB. With 10,000,000
documents, BM25 and a static encoder: peak at most 8 GiB, each stage at most 11 x its seconds with 1,000,000.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import audit
import numpy as np
from common import (
    HERE,
    SEED,
    Finished,
    Goal,
    Report,
    alternate,
    gib,
    miner,
    parser,
    report,
    run_process,
    scratch,
    spread,
)
from corpora import copy_store, drop_store, new_store

from miner.models.scratch import scratch_model
from miner.store.database import Database

TOOL = HERE.parent.parent / "shared" / "tools" / "gen_corpus.py"
DEPTH = 50
MILLION = 1_000_000
TEN_MILLION = 10 * MILLION
DIMENSION = 256
LIMIT = "1GiB"
PEAK = Goal("peak memory of miner mine", "<=", 1.2, " GiB")
LIMITED = Goal(f"peak memory of miner mine with --memory {LIMIT}", "<=", 1.3, " GiB")
GATHER = Goal("seconds of gather evidence", "<=", 5, " s")
PEAK_OF_TEN = Goal("peak memory of miner mine", "<=", 8, " GiB")
GROWTH = Goal("seconds of the stage that grows most, over 1,000,000 documents", "<=", 11, " x")
OVER_EVIDENCE = Goal("peak memory over 1,000,000 queries x 100 candidates", "<=", 6, " GiB")
_BLOCK = 20_000
"""Queries whose evidence is made at a time."""


@dataclass(frozen=True)
class Mined:
    """What mining took, and the seconds of each stage."""

    took: Finished
    stages: dict[str, float]


def corpus(folder: Path, documents: int, queries: int) -> Path:
    """Writes a BEIR folder of made-up text; returns it."""
    run_process([sys.executable, TOOL, str(documents), str(queries), folder])
    return folder


def candidates(file: Path, documents: int, queries: int) -> Path:
    """Writes a TREC run with 50 random documents for every query; returns it."""
    rng = np.random.default_rng(SEED)
    with file.open("w", encoding="utf-8") as out:
        for query in range(queries):
            found = rng.choice(documents, DEPTH, replace=False)
            out.writelines(f"q{query} Q0 d{doc} {n + 1} {DEPTH - n} run\n" for n, doc in enumerate(found))
    return file


def mine(store: Path, options: list[str | Path], _: int) -> Mined:
    """Mines a copy of a store."""
    copy = copy_store(store, store.with_name(f"mined-{store.name}"), vectors=False)
    try:
        took = run_process(miner("mine", copy, "--depth", str(DEPTH), *options))
        with Database.open(copy, read_only=True) as opened:
            stages = dict(
                opened.rows(
                    "SELECT stage, sum(seconds) FROM stages JOIN chunks USING (fingerprint) GROUP BY ALL"
                )
            )
        return Mined(took, stages)
    finally:
        drop_store(copy)


def measure_mining(found: Report, folder: Path, documents: int, given: argparse.Namespace) -> None:
    """Adds the rows of mining with so many documents: peak, seconds, and those of each stage."""
    made = corpus(folder / f"corpus-{documents}", documents, given.queries)
    store = new_store(folder / f"{documents}.duckdb", made)
    run = candidates(folder / f"{documents}.trec", documents, given.queries)
    given_only: list[str | Path] = ["--no-bm25", "--candidates", run]
    systems: dict[str, Callable[[int], Mined]] = {
        "BM25": partial(mine, store, []),
        "given candidates": partial(mine, store, given_only),
        f"given candidates, --memory {LIMIT}": partial(mine, store, [*given_only, "--memory", LIMIT]),
        f"BM25, --memory {LIMIT}": partial(mine, store, ["--memory", LIMIT]),
    }
    chosen = {name: run for name, run in systems.items() if given.only in name}
    is_full = documents == MILLION
    for name, results in alternate(chosen, given.repeats).items():
        what = f"mine, {documents:,} documents, {name}"
        peaks = spread(gib(one.took.peak_bytes) for one in results)
        stages = {stage: spread(one.stages[stage] for one in results) for stage in results[0].stages}
        figures = {
            "peak_gib": peaks, "seconds": spread(one.took.seconds for one in results), "stage_seconds": stages
        }  # fmt: skip
        goal = LIMITED if LIMIT in name else PEAK
        found.row(f"{what}: peak", figures, goal=goal if is_full else None, value=peaks["median"])
        gathered = stages["gather evidence"]
        found.row(
            f"{what}: gather",
            {"seconds": gathered},
            goal=GATHER if is_full else None,
            value=gathered["median"],
        )


def measure_static(found: Report, folder: Path, given: argparse.Namespace) -> None:
    """Adds the rows of mining with BM25 and a static encoder: peak, seconds of each stage, and their growth.

    What a process takes beside its stages (start, reading, encoding, building the index) counts as one more.
    """
    table = folder / "static"
    scratch_model("bundled", DIMENSION, given.seed).save_pretrained(str(table), create_model_card=False)
    before: dict[str, float] = {}
    for documents in given.documents:
        store = new_store(folder / f"{documents}.duckdb", corpus(folder / "corpus", documents, given.queries))
        mined = mine(store, ["--encoder", table], 0)
        drop_store(store)
        what = f"mine, {documents:,} documents, BM25 and static"
        stages = mined.stages | {"the rest": mined.took.seconds - sum(mined.stages.values())}
        peak = gib(mined.took.peak_bytes)
        figures = {"peak_gib": peak, "seconds": mined.took.seconds, "stage_seconds": stages}
        goal = PEAK_OF_TEN if documents == TEN_MILLION else None
        found.row(f"{what}: peak", figures, goal=goal, value=peak)
        if before:
            growth = {stage: seconds / before[stage] for stage, seconds in stages.items()}
            goal = GROWTH if (documents, given.documents[0]) == (TEN_MILLION, MILLION) else None
            found.row(
                f"{what}: growth over {given.documents[0]:,}", growth, goal=goal, value=max(growth.values())
            )
        before = before or stages


def measure_evidence(found: Report, folder: Path, given: argparse.Namespace) -> None:
    """Adds the rows of deciding, auditing, calibrating and exporting over made-up evidence."""
    store = folder / "evidence.duckdb"
    audit.fill(store, given.evidence, given.evidence, given.seed, block=_BLOCK)
    size = f"{given.evidence:,} queries x {audit.CANDIDATES} candidates"
    commands = {
        "decide": miner("decide", store, "--relative-margin", "0.1", "--name", "again"),
        "audit": miner("audit", store, "--run", "r1", "--json"),
        "calibrate": miner("calibrate", store, "--run", "r1", "--target", "0.05", "--json"),
        "export": miner("export", store, folder / "out", "--run", "again"),
    }
    for name, command in commands.items():
        took = run_process(command)
        figures = {"peak_gib": gib(took.peak_bytes), "seconds": took.seconds}
        goal = OVER_EVIDENCE if given.evidence == MILLION else None
        found.row(f"{name}, {size}: peak", figures, goal=goal, value=figures["peak_gib"])


def main() -> None:
    """Reads the arguments, measures, shows."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--documents", type=int, nargs="*", default=[100_000, MILLION], help="[%(default)s]"
    )
    arguments.add_argument("--queries", type=int, default=10_000, help="[%(default)s]")
    arguments.add_argument(
        "--evidence",
        type=int,
        default=MILLION,
        help="queries of the made-up evidence; 0: none [%(default)s]",
    )
    arguments.add_argument(
        "--only", default="", help="mine only the ways with this in their name, such as BM25; or static"
    )
    given = arguments.parse_args()
    is_full = max([*given.documents, given.evidence]) >= MILLION and given.queries >= 10_000
    least = 1 if given.only == "static" or not given.documents else 3  # what runs once takes long
    found = report("scale", given, full_size=is_full, least=least)
    with scratch(given.work) as folder:
        if given.only == "static":
            measure_static(found, folder, given)
        else:
            for documents in given.documents:
                measure_mining(found, folder, documents, given)
        if given.evidence:
            measure_evidence(found, folder, given)
    found.show()


if __name__ == "__main__":
    main()
