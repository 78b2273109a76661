"""The vector cache: nothing encoded twice, nothing stale, nothing false after a kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.engine.progress import SILENT, Progress
from miner.models import vectors as module
from miner.models.vectors import VectorCache, embed, vector_keys

FILES = ("dimension", "vectors.f32", "keys.u64")
DIMENSION = 5


class Lengths:
    """An encoder whose vector tells the text and the prompt, and that counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(
        self,
        texts: Sequence[str],
        prompt: str = "",
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> npt.NDArray[np.float32]:
        """Returns a vector made of the text alone."""
        self.asked += texts
        return np.stack([vector_of(text, prompt) for text in texts])


def vector_of(text: str, prompt: str = "") -> npt.NDArray[np.float32]:
    seed = int(vector_keys([text], prompt)[0, 0])
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)


def cached(folder: Path, texts: Sequence[str], prompt: str = "") -> list[str]:
    """Embeds texts into the cache in `folder`, checks every vector, returns what had to be encoded."""
    cache, encoder = VectorCache(folder), Lengths()
    rows = embed(cache, encoder, texts, prompt)  # type: ignore[arg-type]
    assert rows.shape == (len(texts),)
    for row, text in zip(rows.tolist(), texts, strict=True):
        assert np.array_equal(cache.vectors[row], vector_of(text, prompt))
    again = VectorCache(folder)
    assert np.array_equal(again.rows(vector_keys(texts, prompt)), rows)
    assert np.array_equal(again.vectors, cache.vectors)
    return encoder.asked


def test_a_new_cache_is_empty(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "none")
    assert len(cache) == 0
    assert cache.vectors.shape == (0, 0)
    assert cache.rows(vector_keys(["a", "b"], "")).tolist() == [-1, -1]
    assert not (tmp_path / "none").exists()


def test_nothing_is_encoded_twice(tmp_path: Path) -> None:
    assert cached(tmp_path, ["a", "b", "a", "c"]) == ["a", "b", "c"]
    assert cached(tmp_path, ["c", "d", "a", "d"]) == ["d"]
    assert cached(tmp_path, ["a", "b", "c", "d"]) == []
    assert cached(tmp_path, []) == []


def test_the_prompt_is_part_of_the_key(tmp_path: Path) -> None:
    assert cached(tmp_path, ["a"]) == ["a"]
    assert cached(tmp_path, ["a"], "query: ") == ["a"]
    assert cached(tmp_path, ["a"], "query:") == ["a"]
    assert cached(tmp_path, ["a"], "query: ") == []
    assert not np.array_equal(vector_keys(["b"], "a"), vector_keys(["ab"], ""))


def test_equal_texts_share_a_row(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path)
    rows = embed(cache, Lengths(), ["x", "y", "x", "x"], "")  # type: ignore[arg-type]
    assert rows[0] == rows[2] == rows[3] != rows[1]
    assert len(cache) == 2


def test_chunks_are_written_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    assert cached(tmp_path, [str(i) for i in range(10)]) == [str(i) for i in range(10)]
    assert (tmp_path / "keys.u64").stat().st_size == 16 * 10
    assert (tmp_path / "vectors.f32").stat().st_size == 4 * DIMENSION * 10
    assert (tmp_path / "dimension").read_text() == "5"


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.text(max_size=3), max_size=8), max_size=5), st.sampled_from(["", "p", "p\0"]))
def test_any_order_of_texts_is_served_right(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[str]], prompt: str
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    seen: set[str] = set()
    for texts in rounds:
        storable = [text for text in texts if text.isprintable()]
        assert cached(folder, storable, prompt) == list(dict.fromkeys(t for t in storable if t not in seen))
        seen |= set(storable)


words = st.integers(0, 3).map(np.uint64)
keys = st.lists(st.tuples(words, words), max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(words, words), unique=True, max_size=16), keys)
def test_rows_are_right_where_first_words_collide(
    tmp_path_factory: pytest.TempPathFactory,
    stored: list[tuple[np.uint64, np.uint64]],
    asked: list[tuple[np.uint64, np.uint64]],
) -> None:
    cache = VectorCache(tmp_path_factory.mktemp("cache"))
    for start in range(0, len(stored), 3):
        part = np.array(stored[start : start + 3], dtype=np.uint64).reshape(-1, 2)
        cache.append(part, np.zeros((len(part), 2), dtype=np.float32))
    expected = [stored.index(key) if key in stored else -1 for key in asked]
    assert cache.rows(np.array(asked, dtype=np.uint64).reshape(-1, 2)).tolist() == expected


# What a killed writer leaves


def killed_while_appending(folder: Path, at: str, left: int) -> None:
    """Leaves the cache as a process does that dies in an append, `left` bytes into one file."""
    before = {name: (folder / name).read_bytes() if (folder / name).exists() else b"" for name in FILES}
    existed = folder.exists()
    cached(folder, ["new 1", "new 2"])
    for name in FILES[FILES.index(at) :]:
        kept = left if name == at else 0
        whole = (folder / name).read_bytes()
        if name == "dimension" and existed:
            continue
        if name != at and not existed:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(whole[: len(before[name]) + kept])


@pytest.mark.parametrize(
    ("at", "left"),
    [
        *(("vectors.f32", left) for left in (0, 7, 20, 33)),
        *(("keys.u64", left) for left in (0, 5, 16, 31)),
    ],
)
def test_a_partial_tail_is_dropped_and_encoded_again(tmp_path: Path, at: str, left: int) -> None:
    folder = tmp_path / "cache"
    assert cached(folder, ["a", "b", "c"]) == ["a", "b", "c"]
    killed_while_appending(folder, at, left)
    whole = left // 16 if at == "keys.u64" else 0
    assert cached(folder, ["new 2", "new 1", "a", "b", "c"]) == ["new 2", "new 1"][: 2 - whole]
    assert cached(folder, ["new 1", "new 2", "a", "d"]) == ["d"]


@pytest.mark.parametrize(
    ("at", "left"),
    [
        ("dimension", 0),
        *(("vectors.f32", left) for left in (0, 3, 21)),
        *(("keys.u64", left) for left in (0, 15, 16)),
    ],
)
def test_the_first_append_may_be_killed_anywhere(tmp_path: Path, at: str, left: int) -> None:
    folder = tmp_path / "cache"
    killed_while_appending(folder, at, left)
    whole = left // 16 if at == "keys.u64" else 0
    assert cached(folder, ["new 1", "new 2"]) == ["new 1", "new 2"][whole:]


def test_a_half_written_dimension_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "dimension").write_text("1")  # of "16", say
    assert cached(tmp_path, ["a"]) == ["a"]
    assert (tmp_path / "dimension").read_text() == str(DIMENSION)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "garbage after it"])
def test_damage_to_any_file_costs_encoding_but_never_a_wrong_vector(
    tmp_path: Path, name: str, damage: str
) -> None:
    texts = ["a", "b", "c", "d"]
    cached(tmp_path, texts)
    file = tmp_path / name
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "garbage after it":
        file.write_bytes(whole + b"xyz")
    else:
        file.write_bytes(whole[: len(whole) // 2 if damage == "half" else 0])
    assert set(cached(tmp_path, texts)) <= set(texts)
    assert cached(tmp_path, [*texts, "e"]) == ["e"]


_WRITER = """
import sys
from pathlib import Path
import tests.test_vectors as here
here.module.CHUNK = 1
here.cached(Path(sys.argv[1]), ["first"])
print("ready", flush=True)
here.cached(Path(sys.argv[1]), [str(i) for i in range(100000)])
"""


@pytest.mark.slow
def test_a_killed_process_leaves_a_cache_that_serves_the_truth(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=root, env=os.environ
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"
    while (tmp_path / "keys.u64").stat().st_size < 16 * 12:
        assert writer.poll() is None
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    copy = shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    done = len(VectorCache(copy))
    assert done >= 12
    texts = ["first", *(str(i) for i in range(done + 4))]
    assert cached(copy, texts) == texts[done:]
