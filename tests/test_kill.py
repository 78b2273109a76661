"""A miner that is killed at any point ends, started again, where an undisturbed one ends."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import miner.engine.work
import miner.mining.scoring
import miner.models.vector_cache
import miner.retrieval.search
from miner.store import runs
from miner.store.database import Database
from miner.store.triplets import triplets as triplets_of
from tests import forking
from tests.stores import make_store
from tests.tiny import tiny_bert
from tests.tiny_encoders import tiny_multi_vector_encoder, tiny_sparse_encoder

ROUNDS, KILLS = 2, 5
"""Stores, and kills of each."""


def mine(words: list[str], workers: int, chunks: int = -1, seconds: float = 0) -> None:
    """Mines with small chunks, so that there are many points between which to be killed.

    It kills itself so many seconds after so many chunks: in the work, however fast the machine is.
    """
    miner.retrieval.search.CHUNK = 8
    miner.models.vector_cache.CHUNK = 16
    miner.mining.scoring.CHUNK = 64
    commit, committed = miner.engine.work.commit_chunk, 0

    def kill() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    def commit_and_count(*arguments: Any, **constants: Any) -> None:
        nonlocal committed
        commit(*arguments, **constants)
        committed += 1
        if committed == chunks:
            threading.Thread(target=kill, daemon=True).start()

    miner.engine.work.commit_chunk = commit_and_count
    forking.command([*words, "--workers", str(workers)])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small untrained models of every kind, and candidates from elsewhere."""
    folder = tmp_path_factory.mktemp("models")
    tiny_bert(folder / "dense")
    tiny_bert(folder / "reranker", labels=1)
    tiny_sparse_encoder(folder / "splade")
    tiny_multi_vector_encoder(folder / "colbert")
    lines = [f"q{q:02} Q0 d{d:03} {d + 1} {50 - d} run\n" for q in range(60) for d in range(0, 40, 3)]
    (folder / "run.trec").write_text("".join(lines))
    return folder


def fill(path: Path) -> None:
    rng = random.Random(3)
    words = [f"word{i}" for i in range(60)]
    documents = {f"d{i:03}": " ".join(rng.choices(words, k=rng.randint(3, 20))) for i in range(150)}
    queries = {f"q{i:02}": " ".join(rng.choices(words, k=rng.randint(2, 6))) for i in range(60)}
    judged = [(q, rng.choice(sorted(documents))) for q in queries]
    make_store(path, documents, queries, judged).close()


def command(path: Path, models: Path) -> list[str]:
    encoders = (models / "dense", models / "splade", models / "colbert")
    flags = [word for encoder in encoders for word in ("--encoder", str(encoder))]
    flags += ["--candidates", str(models / "run.trec"), "--reranker", str(models / "reranker")]
    return [
        "mine",
        str(path),
        *flags,
        "--set",
        "rerank=adaptive",
        "--depth",
        "20",
        "--relative-margin",
        "0.0",
    ]


def mined(path: Path, models: Path, workers: int) -> str:
    """Mines and returns what it said."""
    ended = forking.run(mine, command(path, models), workers)
    assert ended.code == 0, ended.err
    return ended.err


def dump(path: Path) -> tuple[Any, ...]:
    """The ordered triplets and decisions, and the ledger without its clock."""
    with Database.open(path, read_only=True) as store:
        run = runs.find_run(store)
        triplets = triplets_of(store, run).to_pylist()
        decided = store.rows("SELECT * FROM verdicts ORDER BY query_id, doc_id")
        scores = store.rows("SELECT * FROM scores ORDER BY ALL")
        ledger = store.rows("SELECT fingerprint, chunk, rows FROM chunks ORDER BY ALL")
    return triplets, decided, repr(scores), ledger


def ledger(path: Path) -> set[tuple[Any, ...]]:
    """The finished chunks with the moment at which each was finished."""
    with Database.open(path) as store:
        return set(store.rows("SELECT fingerprint, chunk, rows, seconds, finished FROM chunks"))


def exported(path: Path, out: Path) -> bytes:
    """The bytes of the ordered export, scores included."""
    ended = forking.miner("export", path, out, "--scores")
    assert ended.code == 0, ended.err
    data = (out / "data" / "train.jsonl").read_bytes()
    assert data
    return data


Undisturbed = tuple[tuple[Any, ...], int, bytes]
"""What the store holds, the number of chunks, the export."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Undisturbed:
    path = tmp_path_factory.mktemp("undisturbed") / "s.duckdb"
    fill(path)
    mined(path, models, 1)
    return dump(path), len(ledger(path)), exported(path, path.with_name("out"))


@pytest.mark.slow
def test_kill_9_at_any_point_changes_nothing(tmp_path: Path, models: Path, undisturbed: Undisturbed) -> None:
    expected, chunks, exported_undisturbed = undisturbed
    rng = random.Random(9)
    killed = 0
    for number in range(ROUNDS):
        path = tmp_path / f"s{number}.duckdb"
        fill(path)
        for _ in range(KILLS):
            before = ledger(path)
            after_chunks = rng.randint(1, max(1, (chunks - len(before)) // 2))
            seconds = rng.choice([0, 0.01, 0.1])
            ended = forking.run(mine, command(path, models), 2, after_chunks, seconds).code
            assert ended in (-signal.SIGKILL, 0)
            killed += ended != 0
            after = ledger(path)
            assert before <= after, "a finished chunk was computed again"
            assert len(after) >= len(before) + after_chunks
        mined(path, models, 2)
        assert ledger(path) >= after
        assert dump(path) == expected
        assert exported(path, tmp_path / f"out{number}") == exported_undisturbed
    assert killed >= ROUNDS * KILLS // 2


@pytest.mark.slow
def test_one_and_two_workers_give_the_same_bytes(
    tmp_path: Path, models: Path, undisturbed: Undisturbed
) -> None:
    for workers in (1, 2, 4):
        path = tmp_path / f"{workers}.duckdb"
        fill(path)
        mined(path, models, workers)
        assert dump(path) == undisturbed[0]
        assert exported(path, tmp_path / f"out{workers}") == undisturbed[2]


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(tmp_path: Path, models: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill(path)
    mined(path, models, 2)
    before = ledger(path)
    assert "run r1 is already finished; there is nothing to do" in mined(path, models, 2)
    assert ledger(path) == before
