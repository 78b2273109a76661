"""Runs chunks of work in worker threads of this process and returns the results in order.

Each worker computes its chunk with a single thread, so that a result depends on the chunk and never on the
number of workers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa

from miner.engine.progress import SILENT, Progress
from miner.processors import cores
from miner.store.database import Database
from miner.store.ledger import Stage, begin_stage, commit_chunk, finish_stage

Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_count(workers: int | None = None) -> int:
    """Returns the number of workers: `workers`, or one per processor that this process may use."""
    return workers or cores()


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    initializer: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Yields `function(item)` for every item, in order, computed by `workers` threads.

    At most twice as many items as workers are in progress at a time, which bounds the memory.
    """
    with ThreadPoolExecutor(workers, initializer=initializer) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


Tables = Mapping[str, pa.Table]


def run_stage(
    store: Database,
    stage: Stage,
    compute: Callable[[int], Tables],
    progress: Progress = SILENT,
    **constants: str,
) -> int:
    """Computes the chunks of a stage that are not in the ledger, and commits each with its ledger row.

    `compute(chunk)` returns the rows per base table. Returns the number of computed chunks: 0 if the stage
    was already finished.
    """
    done = begin_stage(store, stage)
    missing = [chunk for chunk in range(stage.chunks) if chunk not in done]
    with progress.task(stage.name, stage.chunks, len(done), "chunks") as advance:
        for chunk in missing:
            started = time.perf_counter()
            tables = compute(chunk)
            commit_chunk(store, stage, chunk, time.perf_counter() - started, tables, **constants)
            advance(1)
    finish_stage(store, stage)
    return len(missing)
