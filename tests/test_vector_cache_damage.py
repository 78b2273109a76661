"""A damaged vector cache: whatever happens to its files, the vectors served are those encoded afresh."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.errors import MinerError
from miner.models.vector_cache import ENTRY, VectorCache, embed, vector_keys
from tests.cache_support import DIMENSION, MODEL, Lengths, Notes, cached, files_of

TEXTS = [f"text {i}" for i in range(12)]
DAMAGED = "damaged; miner computes the needed ones again"


def sound(folder: Path) -> Path:
    """Writes a cache of TEXTS in three appends."""
    for start in range(0, len(TEXTS), 4):
        cached(folder, TEXTS[start : start + 4])
    return folder


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, ...]:
    folder = sound(tmp_path_factory.mktemp("template"))
    return tuple(file.read_bytes() for file in files_of(folder))


def flipped(data: bytes, at: float, bit: int, size: int) -> bytes:
    position = int(at * len(data))
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def zeroed(data: bytes, at: float, bit: int, size: int) -> bytes:
    position = int(at * len(data))
    return data[:position] + bytes(len(data[position : position + size])) + data[position + size :]


def garbled(data: bytes, at: float, bit: int, size: int) -> bytes:
    position = int(at * len(data))
    return (
        data[:position]
        + np.random.default_rng(bit).bytes(len(data[position : position + size]))
        + data[position + size :]
    )


def cut(data: bytes, at: float, bit: int, size: int) -> bytes:
    return data[: int(at * len(data))]


def shifted(data: bytes, at: float, bit: int, size: int) -> bytes:
    position = int(at * len(data))
    return data[:position] + data[position + size :]


def extended(data: bytes, at: float, bit: int, size: int) -> bytes:
    return data + np.random.default_rng(bit).bytes(size)


@settings(max_examples=250, deadline=None)
@given(
    number=st.integers(0, 1),
    damage=st.sampled_from([flipped, zeroed, garbled, cut, shifted, extended]),
    at=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    size=st.integers(1, 200),
)
def test_no_damage_is_ever_served(
    tmp_path_factory: pytest.TempPathFactory,
    template: tuple[bytes, ...],
    number: int,
    damage: Callable[[bytes, float, int, int], bytes],
    at: float,
    bit: int,
    size: int,
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    (folder / MODEL[:16]).mkdir()
    for position, (file, data) in enumerate(zip(files_of(folder), template, strict=True)):
        file.write_bytes(damage(data, at, bit, size) if position == number else data)
    first, second = Notes(), Notes()
    encoded = cached(folder, [*TEXTS, "new"], progress=first)
    assert "new" in encoded
    assert set(encoded) <= {*TEXTS, "new"}
    assert not encoded[1:] or first.said, "texts are encoded again without a word"
    assert cached(folder, [*TEXTS, "new"], progress=second) == []
    assert second.said == [], "the cache is not mended"


def test_one_flipped_bit_costs_one_vector_and_is_reported(tmp_path: Path) -> None:
    vectors, _ = files_of(sound(tmp_path))
    vectors.write_bytes(flipped(vectors.read_bytes(), 7.5 / 12, 3, 0))
    notes = Notes()
    assert cached(tmp_path, TEXTS, progress=notes) == [TEXTS[7]]
    assert notes.said == [f"{vectors.parent}: 1 vector is {DAMAGED}"]
    assert cached(tmp_path, TEXTS) == []


def test_another_dimension_is_damage(tmp_path: Path) -> None:
    _, file = files_of(sound(tmp_path))
    entries = np.fromfile(file, ENTRY)
    entries["dimension"] = DIMENSION - 1
    entries.tofile(file)
    notes = Notes()
    assert cached(tmp_path, TEXTS, progress=notes) == TEXTS
    assert notes.said[0] == f"{file.parent}: 12 vectors are {DAMAGED}"


def test_another_models_files_are_damage(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "other", "0" * 64)
    wrong = np.ones((len(TEXTS), DIMENSION), dtype=np.float32)
    cache.append(vector_keys(TEXTS, ""), wrong)
    shutil.copytree(cache.folder, tmp_path / MODEL[:16])
    notes = Notes()
    assert cached(tmp_path, TEXTS, progress=notes) == TEXTS
    assert notes.said[0] == f"{tmp_path / MODEL[:16]}: 12 vectors are {DAMAGED}"
    assert cached(tmp_path, TEXTS) == []


@pytest.mark.parametrize("number", [0, 1])
def test_one_file_of_another_store_is_damage(tmp_path: Path, number: int) -> None:
    sound(tmp_path / "one")
    cached(tmp_path / "other", TEXTS[::-1])
    shutil.copy(files_of(tmp_path / "other")[number], files_of(tmp_path / "one")[number])
    assert cached(tmp_path / "one", TEXTS) == TEXTS
    assert cached(tmp_path / "one", TEXTS) == []


def test_both_files_of_another_store_of_the_same_model_are_its_vectors(tmp_path: Path) -> None:
    cached(tmp_path / "other", TEXTS[:3])
    shutil.copytree(tmp_path / "other", tmp_path / "one")
    assert cached(tmp_path / "one", TEXTS) == TEXTS[3:]


@pytest.mark.parametrize("number", [0, 1])
def test_a_lost_file_costs_its_vectors(tmp_path: Path, number: int) -> None:
    files_of(sound(tmp_path))[number].unlink()
    notes = Notes()
    assert cached(tmp_path, TEXTS, progress=notes) == TEXTS
    assert len(notes.said) == 1
    assert cached(tmp_path, TEXTS) == []


def test_files_that_are_replaced_while_in_use_are_refused(tmp_path: Path) -> None:
    cache = VectorCache(sound(tmp_path), MODEL)
    embed(cache, Lengths(), TEXTS, "")  # type: ignore[arg-type]
    shutil.rmtree(cache.folder)
    cached(tmp_path, TEXTS[::-1])
    with pytest.raises(MinerError, match="were replaced while they were in use; run the command again"):
        embed(cache, Lengths(), ["new"], "")  # type: ignore[arg-type]


def test_a_damaged_cache_that_can_only_be_read_is_not_served(tmp_path: Path) -> None:
    vectors, entries = files_of(sound(tmp_path))
    vectors.write_bytes(zeroed(vectors.read_bytes(), 0, 0, 4 * DIMENSION))
    before = entries.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VectorCache, "_mark_dead", lambda self, rows: None)
        cache = VectorCache(tmp_path, MODEL, notes := Notes())
        assert cache.rows(vector_keys(TEXTS, "")).tolist() == [-1, *range(1, 12)]
    assert notes.said == [f"{vectors.parent}: 1 vector is {DAMAGED}"]
    assert entries.read_bytes() == before
