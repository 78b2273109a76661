"""One vector cache, several processes: each gets the vectors that it would get alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from miner.evaluation.evaluate import EvaluationConfig, evaluate
from miner.models.vector_cache import VectorCache
from miner.store.database import Database
from tests.cache_support import MODEL, cached, files_of
from tests.evaluation_support import judged_store
from tests.tiny import tiny_bert

ROOT = Path(__file__).parent.parent
_WRITER = """
import random, sys
from pathlib import Path
from miner.models import vector_cache
from tests.cache_support import cached
vector_cache.CHUNK = 3
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
rng = random.Random(seed)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(6):
    cached(folder, [f"text {rng.randrange(60)}" for _ in range(20)] + [f"own {seed} {rng.randrange(9)}"])
"""
_ENDLESS = """
import sys
from pathlib import Path
from miner.models import vector_cache
from tests.cache_support import cached
vector_cache.CHUNK = 1
print("ready", flush=True)
sys.stdin.readline()
cached(Path(sys.argv[1]), [f"endless {i}" for i in range(100000)])
"""


def started(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts a Python process that waits to be let go."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_writers_at_once_serve_the_right_vectors_and_add_no_text_twice(tmp_path: Path) -> None:
    """Some of them reach the folder through a symbolic link, one its files through hard links."""
    cached(tmp_path / "one", ["first"])
    (tmp_path / "link").symlink_to(tmp_path / "one")
    for file in files_of(tmp_path / "one"):
        other = tmp_path / "hard" / file.relative_to(tmp_path / "one")
        other.parent.mkdir(parents=True, exist_ok=True)
        other.hardlink_to(file)
    folders = [tmp_path / name for name in ("one", "link", "hard", "one")]
    processes = [started(_WRITER, folder, seed) for seed, folder in enumerate(folders)]
    for process in processes:
        let_go(process)
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    cache = VectorCache(tmp_path / "one", MODEL)
    keys = {key.tobytes() for key in cache.keys}
    assert len(keys) == len(cache)
    assert cached(tmp_path / "hard", [f"text {i}" for i in range(60)] + ["first"]) is not None


def test_a_killed_writer_harms_nobody(tmp_path: Path) -> None:
    victim, witness = started(_ENDLESS, tmp_path), started(_WRITER, tmp_path, 1)
    let_go(victim)
    entries = files_of(tmp_path)[1]
    while not entries.exists() or entries.stat().st_size < 32 * 12:
        assert victim.poll() is None
    let_go(witness)
    victim.kill()
    victim.communicate()
    _, errors = witness.communicate(timeout=120)
    assert witness.returncode == 0, errors
    done = sum(key.any() for key in VectorCache(tmp_path, MODEL).keys)
    assert done >= 12
    texts = [f"endless {i}" for i in range(done + 4)]
    again = cached(tmp_path, texts)
    assert again == texts[len(texts) - len(again) :]


def _similar(path: Path) -> Path:
    """Writes a store with graded pairs in two splits that share some texts."""
    queries = {f"q{i:03}": f"{i} apples and {i % 7} pears" for i in range(160)}
    documents = {f"d{i:03}": f"a bag of {i % 13} pears or {i} plums" for i in range(160)}
    judgments = [
        (f"q{i:03}", f"d{i:03}", float(i % 5), split)
        for split, rows in (("dev", range(90)), ("test", range(70, 160)))
        for i in rows
    ]
    judged_store(path, documents, queries, judgments).close()
    return path


@pytest.mark.slow
def test_two_evaluations_at_once_give_the_figures_of_each_alone(tmp_path: Path) -> None:
    model, splits = tiny_bert(tmp_path / "model"), ("dev", "test")
    with Database.open(_similar(tmp_path / "alone.duckdb"), read_only=True) as store:
        alone = [
            dict(evaluate(store, str(model), EvaluationConfig(split, "similarity"))[0].means)
            for split in splits
        ]
    both = _similar(tmp_path / "both.duckdb")
    command = [sys.executable, "-m", "miner", "evaluate", str(model), str(both), "--set", "task=similarity"]
    processes = [
        subprocess.Popen(
            [*command, "--json", "--split", split],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for split in splits
    ]
    for process, expected in zip(processes, alone, strict=True):
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        (found,) = json.loads(out)["sections"][0]["measures"]
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
