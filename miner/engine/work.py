"""Runs chunks of work, in worker threads of this process or in a cluster, and returns the results in order.

Each thread computes its chunk with a single thread of its own, so that a result depends on the chunk and
never on the number of workers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa

from miner.engine.cluster import current
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
    stop: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Yields `function(item)` for every item, in order, computed by `workers` threads.

    At most twice as many items as workers are in progress at a time, which bounds the memory. `stop` is
    called if the results are not wanted any more, to end the computing of those in progress.
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
        except BaseException:
            if stop is not None:
                stop()
            raise
        finally:
            for future in waiting:
                future.cancel()


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    progress: Progress | None = None,
    most: int | None = None,
) -> Iterator[Result]:
    """Yields `function(item)` for every item, in order: several at a time, at `most`, if there is a cluster.

    Without a cluster one item follows the other, because `function` uses all processors itself.
    """
    cluster = current(progress)
    if cluster is None or most == 1:
        return map(function, items)
    return ordered_map(function, items, min(cluster.at_once, most or cluster.at_once), stop=cluster.stop)


Tables = Mapping[str, pa.Table]


def run_stage(
    store: Database,
    stage: Stage,
    compute: Callable[[int], Tables],
    progress: Progress = SILENT,
    *,
    prepare: Callable[[], object] | None = None,
    at_once: int | None = None,
    **constants: str,
) -> int:
    """Computes the chunks of a stage that are not in the ledger, and commits each with its ledger row.

    `compute(chunk)` returns the rows per base table. With a cluster, `prepare` is called first, and then
    several chunks are computed at a time, at most `at_once`. Returns the number of computed chunks: 0 if the
    stage was already finished.
    """
    done = begin_stage(store, stage)
    missing = [chunk for chunk in range(stage.chunks) if chunk not in done]

    def timed(chunk: int) -> tuple[int, float, Tables]:
        """Returns a chunk with the seconds that it took, and its rows."""
        started = time.perf_counter()
        tables = compute(chunk)
        return chunk, time.perf_counter() - started, tables

    if missing and prepare is not None and at_once != 1 and current(progress) is not None:
        prepare()
    with progress.task(stage.name, stage.chunks, len(done), "chunks") as advance:
        for chunk, seconds, tables in in_order(timed, missing, progress, at_once):
            commit_chunk(store, stage, chunk, seconds, tables, **constants)
            advance(1)
    finish_stage(store, stage)
    return len(missing)
