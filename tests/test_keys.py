"""Keys that other processes compute are those that this one would, whatever happens to the others."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from miner.errors import InputError
from miner.sources import Part, Rows, Source, ingest
from miner.store import keys
from miner.store.keys import Keying
from miner.text import document_keys, text_keys
from tests.sources_support import dump

TEXTS = [f"Text {number} of  many, große Wörter" for number in range(40)]
TITLES = [f"Title {number % 3}" * (number % 2) for number in range(40)]


@pytest.fixture(autouse=True)
def _every_table_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_LARGE", 1)


@pytest.fixture
def keying() -> Iterator[Keying]:
    """Two other processes."""
    made = Keying(2)
    yield made
    made.close()


def documents(first: int) -> pa.Table:
    return pa.table({"title": TITLES[first : first + 10], "text": TEXTS[first : first + 10]})


def expected(first: int) -> dict[str, list[int | None]]:
    found = document_keys(TITLES[first : first + 10], TEXTS[first : first + 10])
    return {"text_key": found[0], "passage_key": found[1]}


def keys_in(table: pa.Table) -> dict[str, list[int | None]]:
    result: dict[str, list[int | None]] = table.select(["text_key", "passage_key"]).to_pydict()
    return result


def test_they_are_those_of_the_text_module(keying: Keying) -> None:
    begun = [keying.begin("documents", documents(first)) for first in (0, 10, 20, 30)]
    assert [keys_in(keyed()) for keyed in begun] == [expected(first) for first in (0, 10, 20, 30)]
    (query,) = [keying.begin("queries", documents(0).drop_columns("title"))()]
    assert query["text_key"].to_pylist() == text_keys(TEXTS[:10]).tolist()
    assert "passage_key" not in query.schema.names
    assert 1 <= len(keying._helpers) <= 2


def test_the_first_table_and_small_ones_need_no_other_process(
    keying: Keying, monkeypatch: pytest.MonkeyPatch
) -> None:
    keying.begin("documents", documents(0))()
    monkeypatch.setattr(keys, "_LARGE", 1 << 20)
    keying.begin("documents", documents(10))()
    assert keying._helpers == []


@pytest.mark.parametrize("gone", ["killed", "never there", "of another version"])
def test_a_process_that_is_lost_is_not_needed(
    keying: Keying, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gone == "never there":
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
    elif gone == "of another version":
        monkeypatch.setattr(keys, "_SERVE", "print('something else')")
    keying.begin("documents", documents(0))()
    for first in (10, 20, 30):
        assert keys_in(keying.begin("documents", documents(first))()) == expected(first)
        for helper in keying._helpers:
            helper.process.kill()


@pytest.mark.parametrize("printed", ["'welcome\\n'", "'no end of a line'", "'much of it\\n' * 20_000"])
def test_what_a_python_prints_is_not_taken_for_keys(
    keying: Keying, printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_SERVE", f"print({printed}, end=''); {keys._SERVE}")
    keying.begin("documents", documents(0))()
    assert keys_in(keying.begin("documents", documents(10))()) == expected(10)
    (helper,) = keying._helpers
    assert helper._keys is not None


def test_a_table_may_be_larger_than_what_a_pipe_holds(keying: Keying) -> None:
    table = pa.table({"title": TITLES * 1000, "text": [f"{text} {n}" for n in range(1000) for text in TEXTS]})
    assert table.nbytes > 1 << 20
    keying.begin("documents", documents(0))()
    begun = [keying.begin("documents", table) for _ in range(3)]
    found, passages = document_keys(table["title"].to_pylist(), table["text"].to_pylist())
    for keyed in begun:
        assert keys_in(keyed()) == {"text_key": found, "passage_key": passages}
    assert all(helper._keys is not None for helper in keying._helpers)


def test_only_a_python_has_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "cores", lambda: 8)
    assert Keying().processes == 2
    monkeypatch.setattr(sys, "executable", "")
    assert Keying().processes == 0
    monkeypatch.undo()
    monkeypatch.setattr(keys, "cores", lambda: 8)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert Keying().processes == 0


def test_a_source_that_fails_leaves_neither_processes_nor_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Keying] = []
    begun = Keying.begin
    monkeypatch.setattr(keys, "cores", lambda: 3)
    monkeypatch.setattr(Keying, "begin", lambda self, *a: (made.append(self), begun(self, *a))[1])

    def parts() -> Iterator[Part]:
        yield from source(30).parts
        raise InputError("made:31: broken", "mend it")

    with pytest.raises(InputError, match="broken"):
        ingest(tmp_path / "s.duckdb", Source("made", 0, "rows", parts()))
    assert made[0]._helpers
    assert None not in [helper.process.returncode for helper in made[0]._helpers]
    assert list(tmp_path.iterdir()) == []


def test_they_end_when_they_are_closed(keying: Keying) -> None:
    for first in (0, 10, 20):
        keying.begin("documents", documents(first))()
    keying.begin("documents", documents(30))  # nobody waits for these
    keying.close()
    assert keying._helpers
    assert None not in [helper.process.returncode for helper in keying._helpers]


def source(size: int) -> Source:
    """Parts of ten documents each."""

    def parts() -> Iterator[Part]:
        for first in range(0, size, 10):
            rows = Rows()
            for number in range(first, first + 10):
                rows.start("documents", "made", number, number)
                rows.document(f"d{number:03}", TEXTS[number], TITLES[number])
            yield rows.part()

    return Source("made", 0, "rows", parts())


def test_a_store_is_the_same_with_and_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dumps = []
    for spare in (0, 1, 2):
        monkeypatch.setattr(keys, "cores", lambda spare=spare: spare + 1)
        ingest(tmp_path / f"{spare}.duckdb", source(40))
        dumps.append(dump(tmp_path / f"{spare}.duckdb"))
    assert dumps[0] == dumps[1] == dumps[2]
    assert len(dumps[0]["documents"]) == 40


def test_they_end_with_a_process_that_is_killed() -> None:
    killed = """
import os, signal, pyarrow as pa
from miner.store import keys
keys._LARGE = 1
keying = keys.Keying(1)
for _ in range(2):
    keying.begin("queries", pa.table({"text": ["a"]}))()
print(keying._helpers[0].process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", killed], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    pid = int(ended.stdout)
    for _ in range(500):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    raise AssertionError("it goes on")
