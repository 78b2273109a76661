"""The cache of rows of any length: nothing encoded twice, and no damaged row is returned."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.engine.progress import SILENT, Progress
from miner.models import row_cache
from miner.models.library_encoder import EncodedRows
from miner.models.ragged_cache import Ragged, RaggedCache
from miner.models.vector_cache import embed, vector_keys
from tests.cache_support import MODEL, Notes
from tests.test_vector_cache_damage import cut, extended, flipped, garbled, shifted, zeroed

ROOT = Path(__file__).parent.parent
DTYPE = np.dtype("<f2")
TEXTS = [f"text {i}" for i in range(12)]


def row_of(text: str) -> npt.NDArray[np.float16]:
    """Returns the row that `Lines` gives a text: 0 to 4 items of 3 numbers."""
    rng = np.random.default_rng(int(vector_keys([text], "")[0, 0]))
    return rng.normal(size=(rng.integers(0, 5), 3)).astype(DTYPE)


class Lines:
    """An encoder of rows that are known beforehand, which keeps what was requested."""

    bulk = 1

    def __init__(self) -> None:
        self.requested: list[str] = []

    def encoded(
        self,
        texts: Sequence[str],
        prompt: str = "",
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> EncodedRows:
        """Returns the rows of texts."""
        self.requested += texts
        rows = [row_of(text) for text in texts]
        ragged = Ragged(np.concatenate(rows), np.array([len(row) for row in rows]))
        return EncodedRows(ragged, np.zeros(len(texts), dtype=bool))


def cached(folder: Path, texts: Sequence[str], progress: Progress = SILENT) -> list[str]:
    """Embeds texts into the cache below `folder`, checks every row, returns what had to be encoded."""
    cache, encoder = RaggedCache(folder, MODEL, progress, dtype=DTYPE), Lines()
    firsts, sizes = cache.spans(embed(cache, encoder, texts, ""))
    for text, first, size in zip(texts, firsts, sizes, strict=True):
        assert np.array_equal(cache.items[first : first + size], row_of(text))
    return encoder.requested


def files_of(folder: Path) -> tuple[Path, Path]:
    """Returns the files of a cache: its items, and their entries."""
    return folder / MODEL[:16] / "rows.items", folder / MODEL[:16] / "rows.idx"


def test_nothing_is_encoded_twice(tmp_path: Path) -> None:
    assert cached(tmp_path, ["a", "b", "a", "c"]) == ["a", "b", "c"]
    assert cached(tmp_path, ["c", "d", "a", "d"]) == ["d"]
    assert cached(tmp_path, ["a", "b", "c", "d"]) == []


def sound(folder: Path) -> Path:
    for start in range(0, len(TEXTS), 4):
        cached(folder, TEXTS[start : start + 4])
    return folder


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, ...]:
    folder = sound(tmp_path_factory.mktemp("template"))
    return tuple(file.read_bytes() for file in files_of(folder))


@settings(max_examples=120, deadline=None)
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
    assert set(cached(folder, [*TEXTS, "new"])) <= {*TEXTS, "new"}
    notes = Notes()
    assert cached(folder, [*TEXTS, "new"], notes) == []
    assert notes.said == [], "the cache is not mended"


def test_one_flipped_bit_costs_one_row_and_is_reported(tmp_path: Path) -> None:
    items, _ = files_of(sound(tmp_path))
    items.write_bytes(flipped(items.read_bytes(), 0.99, 3, 0))
    notes = Notes()
    (again,) = cached(tmp_path, TEXTS, notes)
    assert again in TEXTS
    assert notes.said == [f"{items.parent}: 1 vector is damaged; miner computes the needed ones again"]
    assert cached(tmp_path, TEXTS) == []


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("left", [0, 5, 44, 60])
def test_rows_that_a_killed_writer_left_are_encoded_again(tmp_path: Path, at: int, left: int) -> None:
    sound(tmp_path)
    before = [file.read_bytes() for file in files_of(tmp_path)]
    new = [f"new {i}" for i in range(6)]
    cached(tmp_path, new)
    for number, file in list(enumerate(files_of(tmp_path)))[at:]:
        file.write_bytes(file.read_bytes()[: len(before[number]) + (left if number == at else 0)])
    whole = left // RaggedCache._ENTRY.itemsize if at else 0
    assert cached(tmp_path, [*new, *TEXTS]) == new[whole:]
    assert cached(tmp_path, [*new, *TEXTS, "d"]) == ["d"]


def test_a_failed_write_leaves_the_cache_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [file.read_bytes() for file in files_of(sound(tmp_path))]
    put = row_cache._put

    def on_a_full_disk(file: object, at: int, data: npt.NDArray[np.void]) -> None:
        put(file, at, data[: len(data) // 2])  # type: ignore[arg-type]
        if data.dtype == RaggedCache._ENTRY:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_cache, "_put", on_a_full_disk)
    with pytest.raises(row_cache.MinerError, match="No space left on device"):
        cached(tmp_path, ["c", "d"])
    assert [file.read_bytes() for file in files_of(tmp_path)] == before


_WRITER = """
import random, sys
from pathlib import Path
from miner.models import vector_cache
from tests.test_ragged_cache import cached
vector_cache.CHUNK = 3
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
rng = random.Random(seed)
for _ in range(6):
    cached(folder, [f"text {rng.randrange(60)}" for _ in range(20)] + [f"own {seed} {rng.randrange(9)}"])
"""


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), str(seed)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for seed in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    cache = RaggedCache(tmp_path, MODEL, dtype=DTYPE)
    assert len({key.tobytes() for key in cache.keys}) == len(cache)
    texts = [f"text {i}" for i in range(60)]
    assert set(cached(tmp_path, texts)) <= set(texts)
