"""The ledger and the chunks of work: nothing is done twice, nothing is half done, results come in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.engine.progress import SILENT, Advance
from miner.engine.work import Tables, ordered_map, run_stage, worker_count
from miner.store.database import Database
from miner.store.ledger import KEY, Stage, begin_stage, commit_chunk, finish_stage
from tests.stores import new_store

STAGE = Stage("search bm25", {"documents": "3:abc", "k1": 1.2}, 4)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with new_store(tmp_path / "store.duckdb") as opened:
        yield opened


def hits(chunk: int, rows: int = 3) -> pa.Table:
    return pa.table(
        {
            "query_id": [f"q{chunk}"] * rows,
            "doc_id": [f"d{i}" for i in range(rows)],
            "score": [1.0 / (i + 1) for i in range(rows)],
        }
    )


class Work:
    """Computes chunks, remembers which, and fails at some."""

    def __init__(self, *fails: int) -> None:
        self.fails = fails
        self.computed: list[int] = []

    def __call__(self, chunk: int) -> Tables:
        """Returns the rows of a chunk."""
        self.computed.append(chunk)
        if chunk in self.fails:
            raise RuntimeError(f"chunk {chunk}")
        return {"rerank_scores": hits(chunk)}


def stored(store: Database) -> list[tuple[str, int]]:
    return [
        (query, rows)
        for query, rows in store.rows(
            "SELECT query_id, count(*) FROM rerank_scores GROUP BY ALL ORDER BY ALL"
        )
    ]


# Stages


def test_a_stage_is_computed_once(store: Database) -> None:
    work = Work()
    assert run_stage(store, STAGE, work, reranker="s") == 4
    assert run_stage(store, STAGE, work, reranker="s") == 0
    assert work.computed == [0, 1, 2, 3]
    assert stored(store) == [("q0", 3), ("q1", 3), ("q2", 3), ("q3", 3)]
    assert store.rows("SELECT chunk, rows FROM chunks ORDER BY chunk") == [(i, 3) for i in range(4)]
    ((stage, chunks, unfinished),) = store.rows("SELECT stage, chunks, finished IS NULL FROM stages")
    assert (stage, chunks, unfinished) == ("search bm25", 4, False)


def test_only_missing_chunks_are_computed(store: Database) -> None:
    begin_stage(store, STAGE)
    for chunk in (1, 3):
        commit_chunk(store, STAGE, chunk, 0.1, {"rerank_scores": hits(chunk)}, reranker="s")
    work = Work()
    assert run_stage(store, STAGE, work, reranker="s") == 2
    assert work.computed == [0, 2]
    assert stored(store) == [("q0", 3), ("q1", 3), ("q2", 3), ("q3", 3)]


def test_a_chunk_that_fails_leaves_nothing_and_the_next_run_goes_on_there(store: Database) -> None:
    with pytest.raises(RuntimeError, match=r"^chunk 2$"):
        run_stage(store, STAGE, Work(2), reranker="s")
    assert stored(store) == [("q0", 3), ("q1", 3)]
    assert store.rows("SELECT finished FROM stages") == [(None,)]
    work = Work()
    assert run_stage(store, STAGE, work, reranker="s") == 2
    assert work.computed == [2, 3]
    assert stored(store) == [("q0", 3), ("q1", 3), ("q2", 3), ("q3", 3)]


def test_rows_that_do_not_fit_leave_neither_rows_nor_a_ledger_row(store: Database) -> None:
    begin_stage(store, STAGE)
    broken = hits(0).set_column(2, "score", pa.array(["one", "two", "three"]))
    with pytest.raises(duckdb.BinderException, match='does not have a column with name "reranker"'):
        commit_chunk(store, STAGE, 0, 0.1, {"rerank_scores": hits(0), "positives": hits(0)}, reranker="s")
    with pytest.raises(duckdb.ConversionException, match="Could not convert string 'one'"):
        commit_chunk(store, STAGE, 0, 0.1, {"rerank_scores": broken}, reranker="s")
    assert stored(store) == []
    assert begin_stage(store, STAGE) == set()
    commit_chunk(store, STAGE, 0, 0.1, {"rerank_scores": hits(0)}, reranker="s")
    assert begin_stage(store, STAGE) == {0}


def test_an_empty_chunk_is_done_too(store: Database) -> None:
    stage = Stage("search dense", {}, 2)
    run_stage(store, stage, lambda chunk: {"rerank_scores": hits(chunk, 0)}, reranker="s")
    assert begin_stage(store, stage) == {0, 1}
    assert store.rows("SELECT rows FROM chunks") == [(0,), (0,)]


def test_a_stage_without_chunks_is_finished_at_once(store: Database) -> None:
    assert run_stage(store, Stage("nothing", {}, 0), Work()) == 0
    assert store.rows("SELECT finished IS NOT NULL FROM stages") == [(True,)]


def test_finishing_twice_changes_nothing(store: Database) -> None:
    begin_stage(store, STAGE)
    finish_stage(store, STAGE)
    before = store.rows("SELECT * FROM stages")
    finish_stage(store, STAGE)
    assert begin_stage(store, STAGE) == set()
    assert store.rows("SELECT * FROM stages") == before


def test_other_inputs_are_another_stage(store: Database) -> None:
    other = Stage(STAGE.name, {**STAGE.inputs, "k1": 0.9}, 4)
    run_stage(store, STAGE, Work(), reranker="s")
    work = Work()
    assert run_stage(store, other, work, reranker="t") == 4
    assert store.rows("SELECT reranker, count(*) FROM rerank_scores GROUP BY ALL ORDER BY ALL") == [
        ("s", 12),
        ("t", 12),
    ]


names = st.text(max_size=4)
inputs = st.dictionaries(names.filter(lambda name: name != "stage"), st.integers() | names, max_size=4)


@given(names, inputs, names, inputs)
def test_stages_are_equal_when_name_and_inputs_are(
    name: str, values: dict[str, object], other_name: str, other: dict[str, object]
) -> None:
    left = Stage(name, values, 1)
    assert left.fingerprint == Stage(name, dict(reversed(values.items())), 7).fingerprint
    assert left.key == left.fingerprint[:KEY]
    same = (name, values) == (other_name, other)
    assert (left.fingerprint == Stage(other_name, other, 1).fingerprint) == same


class Watched:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int, str]] = []
        self.advanced = 0

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Notes the task and what is reported to it."""
        self.seen.append((name, total, done, unit))

        def advance(units: int) -> None:
            self.advanced += units

        yield advance

    def note(self, message: str) -> None:
        """Says nothing."""


def test_progress_starts_where_the_last_run_ended(store: Database) -> None:
    with pytest.raises(RuntimeError):
        run_stage(store, STAGE, Work(3), reranker="s")
    watched = Watched()
    run_stage(store, STAGE, Work(), watched, reranker="s")
    assert watched.seen == [("search bm25", 4, 3, "chunks")]
    assert watched.advanced == 1


_KILLED = """
import sys, time
from tests.test_ledger import STAGE, Database, hits, run_stage
store = Database.open(sys.argv[1])
def compute(chunk):
    if chunk == 2:
        print("at 2", flush=True)
        time.sleep(600)
    return {"rerank_scores": hits(chunk, 50000)}
run_stage(store, STAGE, compute, reranker="s")
"""


@pytest.mark.slow
def test_a_killed_process_loses_only_the_chunk_it_was_at(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "store.duckdb"
    new_store(path).close()
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, cwd=root, env=os.environ
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"at 2\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Database.open(path, read_only=True) as store:
        assert stored(store) == [("q0", 50_000), ("q1", 50_000)]
    with Database.open(path) as store:
        work = Work()
        run_stage(store, STAGE, work, reranker="s")
        assert work.computed == [2, 3]


# Workers


@given(st.lists(st.integers(), max_size=30), st.integers(1, 4))
def test_results_come_in_order(items: list[int], workers: int) -> None:
    assert list(ordered_map(lambda item: item * 2, items, workers)) == [item * 2 for item in items]


def test_results_come_in_order_when_later_items_finish_first() -> None:
    first_may_end = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert first_may_end.wait(30)
        if item == 2:
            first_may_end.set()
        return item

    assert list(ordered_map(work, range(6), 2)) == list(range(6))


def test_an_exception_comes_in_order_and_ends_the_work() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        if item == 3:
            raise ValueError(f"item {item}")
        return item

    results = ordered_map(work, range(1000), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"^item 3$"):
        next(results)
    assert list(results) == []
    assert max(started) <= 3 + 2 * 2


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_at_most_twice_as_many_items_as_workers_are_in_flight(workers: int) -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for item in range(100):
            drawn += 1
            yield item

    received = 0
    for _ in ordered_map(lambda item: item, items(), workers):
        assert drawn - received <= 2 * workers
        received += 1
    assert drawn == received == 100


def test_a_caller_that_stops_early_stops_the_work() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return item

    results = ordered_map(work, range(1000), 2)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    after = len(started)
    time.sleep(0.01)
    assert len(started) == after <= 5


def test_every_worker_is_initialised_and_no_more_run_than_requested() -> None:
    initialised: set[int] = set()
    used: set[int] = set()

    def work(item: int) -> None:
        used.add(threading.get_ident())

    list(ordered_map(work, range(50), 3, lambda: initialised.add(threading.get_ident())))
    assert used <= initialised
    assert 1 <= len(used) <= 3


def test_worker_count_is_what_was_requested_or_the_processors() -> None:
    assert worker_count(3) == 3
    assert worker_count() == worker_count(None) >= 1


def test_silent_progress_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with SILENT.task("work", 3, unit="chunks") as advance:
        advance(1)
    SILENT.note("done")
    assert capsys.readouterr() == ("", "")
