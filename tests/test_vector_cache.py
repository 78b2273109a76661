"""The vector cache: nothing encoded twice, nothing stale, and only vectors that pass their checksums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.errors import MinerError
from miner.models import row_cache
from miner.models import vector_cache as module
from miner.models.vector_cache import ENTRY, VectorCache, embed, vector_keys, vectors_of
from tests.cache_support import DIMENSION, MODEL, Lengths, Notes, cached, files_of, vector_of


def test_a_new_cache_is_empty(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "none", MODEL)
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
    assert not np.array_equal(vector_keys(["c"], "a\0b"), vector_keys(["b\0c"], "a"))


def test_equal_texts_share_a_row(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path, MODEL)
    rows = embed(cache, Lengths(), ["x", "y", "x", "x"], "")  # type: ignore[arg-type]
    assert rows[0] == rows[2] == rows[3] != rows[1]
    assert len(cache) == 2


def test_chunks_are_written_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    assert cached(tmp_path, [str(i) for i in range(10)]) == [str(i) for i in range(10)]
    vectors, entries = files_of(tmp_path)
    assert entries.stat().st_size == ENTRY.itemsize * 10
    assert vectors.stat().st_size == 4 * DIMENSION * 10


def test_two_models_have_caches_of_their_own(tmp_path: Path) -> None:
    one, other = VectorCache(tmp_path, MODEL), VectorCache(tmp_path, "0" * 64)
    embed(one, Lengths(), ["a"], "")  # type: ignore[arg-type]
    assert other.rows(vector_keys(["a"], "")).tolist() == [-1]


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
    requested: list[tuple[np.uint64, np.uint64]],
) -> None:
    cache = VectorCache(tmp_path_factory.mktemp("cache"), MODEL)
    for start in range(0, len(stored), 3):
        part = np.array(stored[start : start + 3], dtype=np.uint64).reshape(-1, 2)
        cache.append(part, np.zeros((len(part), 2), dtype=np.float32))
    expected = [stored.index(key) if key in stored else -1 for key in requested]
    assert cache.rows(np.array(requested, dtype=np.uint64).reshape(-1, 2)).tolist() == expected


# Texts longer than the model reads


def served(cache: VectorCache, texts: Sequence[str]) -> int:
    embed(cache, Lengths(), texts, "")  # type: ignore[arg-type]
    return cache.truncated


def test_distinct_truncated_texts_are_counted_cold_and_from_the_cache(tmp_path: Path) -> None:
    texts = ["long one", "a", "long two", "long one", "b"]
    assert served(VectorCache(tmp_path, MODEL), texts) == 2
    warm = VectorCache(tmp_path, MODEL)
    assert served(warm, ["long one", "a"]) == 1
    assert served(warm, ["a", "b"]) == 1
    assert served(warm, texts) == 2
    assert served(VectorCache(tmp_path, MODEL), ["a", "b"]) == 0


def test_truncated_texts_are_counted_where_nothing_can_be_kept(tmp_path: Path) -> None:
    served(VectorCache(tmp_path, MODEL), ["long one", "a"])
    notes = Notes()
    cache = VectorCache(tmp_path, MODEL, notes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VectorCache, "refusal", "Permission denied")
        for _ in range(2):
            found = vectors_of(cache, Lengths(), ["long two", "long one", "c", "long two"], "")  # type: ignore[arg-type]
    assert cache.truncated == 2
    assert np.array_equal(
        found[:], np.stack([vector_of(t) for t in ("long two", "long one", "c", "long two")])
    )
    assert notes.said == [f"vectors are not cached: cannot write to {cache.folder}: Permission denied"]


def test_texts_in_blocks_get_the_rows_of_the_whole(tmp_path: Path) -> None:
    texts = ["a", "long one", "b", "a", "c " * 9, "b"]
    whole = embed(VectorCache(tmp_path / "whole", MODEL), Lengths(), texts, "")
    for name, most in (("_BLOCK", 2), ("_CHARACTERS", 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, most)
            encoder = Lengths()
            rows = embed(VectorCache(tmp_path / name, MODEL), encoder, tuple(texts), "")
        assert rows.tolist() == whole.tolist()
        assert encoder.requested == ["a", "long one", "b", "c " * 9]


# What a killed writer leaves


def killed_while_appending(folder: Path, at: int, left: int) -> None:
    """Leaves the cache as a process does that dies in an append, `left` bytes into file number `at`."""
    before = [file.read_bytes() if file.exists() else b"" for file in files_of(folder)]
    cached(folder, ["new 1", "new 2"])
    for number, file in list(enumerate(files_of(folder)))[at:]:
        kept = left if number == at else 0
        file.write_bytes(file.read_bytes()[: len(before[number]) + kept])


KILLS = [*((0, left) for left in (0, 7, 20, 33)), *((1, left) for left in (0, 5, 32, 63))]


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize(("at", "left"), KILLS)
def test_rows_that_a_killed_writer_left_are_encoded_again(
    tmp_path: Path, existed: bool, at: int, left: int
) -> None:
    if existed:
        assert cached(tmp_path, ["a", "b", "c"]) == ["a", "b", "c"]
    killed_while_appending(tmp_path, at, left)
    whole = left // ENTRY.itemsize if at else 0
    old = ["a", "b", "c"] if existed else []
    assert cached(tmp_path, ["new 2", "new 1", *old]) == ["new 2", "new 1"][: 2 - whole]
    assert cached(tmp_path, ["new 1", "new 2", "d", *old]) == ["d"]


def test_a_failed_write_leaves_the_cache_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path, ["a", "b"])
    before = [file.read_bytes() for file in files_of(tmp_path)]
    put = row_cache._put

    def on_a_full_disk(file: object, at: int, data: np.ndarray) -> None:  # type: ignore[type-arg]
        put(file, at, data[: len(data) // 2])  # type: ignore[arg-type]
        if data.dtype == ENTRY:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_cache, "_put", on_a_full_disk)
    cache = VectorCache(tmp_path, MODEL)
    with pytest.raises(MinerError, match=r"cannot write vectors to .*: No space left on device"):
        embed(cache, Lengths(), ["c", "d"], "")  # type: ignore[arg-type]
    assert [file.read_bytes() for file in files_of(tmp_path)] == before
    monkeypatch.undo()
    embed(cache, Lengths(), ["c", "d"], "")  # type: ignore[arg-type]
    assert cached(tmp_path, ["a", "b", "c", "d"]) == []


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_texts_in_blocks_are_encoded_in_the_same_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    texts = [f"text {number % 9}" for number in range(25)]
    whole, parts = VectorCache(tmp_path / "whole", MODEL), VectorCache(tmp_path / "parts", MODEL)
    embed(parts, Lengths(), texts[4:6], "")  # type: ignore[arg-type]
    embed(whole, Lengths(), texts[4:6], "")  # type: ignore[arg-type]
    encoder = Lengths()
    rows = embed(parts, encoder, lambda: (texts[i : i + size] for i in range(0, 25, size)), "")  # type: ignore[arg-type]
    assert encoder.requested == [text for text in texts[:9] if text not in texts[4:6]]
    assert np.array_equal(rows, embed(whole, Lengths(), texts, ""))  # type: ignore[arg-type]
    assert np.array_equal(parts.vectors, whole.vectors)
