"""The memory limit: how it is written, what it refuses, who has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from miner.cli.main import group, main
from miner.errors import UsageError
from miner.memory import LEAST, MemoryLimit, limit_process, memory_bytes, parse_size, peak_bytes, shown_size
from miner.store.database import Database
from tests.stores import make_store, new_store


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GiB", 2**30), ("800MB", 800_000_000), ("1.5 gb", 1_500_000_000), ("2048MiB", 2**31), ("64K", 64_000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "1 GB of it", "-1GB", "0", "1e9", "9" * 400])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="memory must be a size from 1 byte to 1000TB"):
        parse_size(text)


def test_a_limit_that_is_too_small_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        MemoryLimit.of("300MB")
    assert caught.value.message == "a memory limit of 286 MiB is too small to work"
    assert caught.value.hint == "give at least --memory 512MiB"
    assert MemoryLimit.of(LEAST).total == LEAST


def test_the_default_is_half_of_what_the_process_may_use() -> None:
    assert MemoryLimit.of().total == max(LEAST, memory_bytes() // 2)


def test_the_limit_of_the_process_holds_for_every_store(tmp_path: Path) -> None:
    limit_process(2**30)
    try:
        with new_store(tmp_path / "s.duckdb") as store:
            assert store.memory == MemoryLimit(2**30)
            assert store.rows("SELECT current_setting('memory_limit')") == [("256.0 MiB",)]
        with Database.open(tmp_path / "s.duckdb", memory="3GiB") as store:
            assert store.memory.total == 3 * 2**30
    finally:
        limit_process(None)


@pytest.mark.parametrize("total", [LEAST, 2**30, 2**34, 2**40])
def test_the_shares_leave_room_for_the_rest(total: int) -> None:
    limit = MemoryLimit(total)
    assert limit.database + 2 * limit.block <= total // 2
    assert limit.rows(1 << 60) == 1
    assert limit.rows(100) == limit.block // 100


def test_control_groups_limit_the_memory(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    for folder, content in (("a", "900000000\n"), ("a/b", "max\n")):
        (tmp_path / "groups" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / folder / "memory.max").write_text(content)
    assert memory_bytes(tmp_path / "groups", own) == 900_000_000
    own.write_text("5:cpu:/\n4:memory:/box\n")
    (tmp_path / "groups" / "memory" / "box").mkdir(parents=True)
    (tmp_path / "groups" / "memory" / "box" / "memory.limit_in_bytes").write_text("700000000\n")
    assert memory_bytes(tmp_path / "groups", own) == 700_000_000


def test_the_peak_is_of_this_process() -> None:
    before = peak_bytes()
    block = bytes(os.urandom(1)) * (before + 2**26)
    assert peak_bytes() > len(block)


def test_sizes_are_shown() -> None:
    assert [shown_size(size) for size in (LEAST, 2**30, 5 * 2**28)] == ["512 MiB", "1.00 GiB", "1.25 GiB"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "s.duckdb"
    texts = {f"d{i}": f"bread number {i}" for i in range(9)}
    make_store(path, texts, {"q": "which bread"}, [("q", "d3")]).close()
    return path


@pytest.mark.parametrize("position", [0, 1, 3])
def test_the_option_can_be_given_anywhere(store: Path, position: int) -> None:
    command = ["mine", str(store), "--depth=5"]
    command[position:position] = ["--memory", "1GiB"]
    ended = subprocess.run(
        [sys.executable, "-m", "miner", *command], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0
    assert "of 1.00 GiB" in ended.stderr


@pytest.mark.parametrize("given", [["--memory", "10MB"], ["--memory=10MB"]])
def test_too_little_is_one_error(store: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["mine", str(store), *given])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "Error: a memory limit of 10 MiB is too small to work\n  give at least --memory 512MiB\n"
    )


def test_a_limit_ends_with_its_command(store: Path) -> None:
    CliRunner().invoke(group, ["--memory", "1GiB", "runs", str(store)])
    assert MemoryLimit.of().total == max(LEAST, memory_bytes() // 2)
