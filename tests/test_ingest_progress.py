"""An ingest shows how far it is all the time, and its memory does not grow with the size of the source."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner.engine.progress import Advance, Silent
from miner.engine.progress_bars import SILENT_SECONDS, Lines
from miner.sources import SourceConfig, ingest, json_rows, open_source
from miner.store.database import Database
from miner.store.steps import steps
from tests.sources_support import beir, jsonl, write


class Recorded(Silent):
    """Keeps the total of each task, and the units that were reported."""

    def __init__(self) -> None:
        self.total: dict[str, int] = {}
        self.done: dict[str, int] = {}

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yields a function that counts."""
        self.total[name], self.done[name] = total, done

        def advance(units: int) -> None:
            """Counts the units."""
            self.done[name] += units

        yield advance


def test_what_follows_reading_is_a_task_too_and_ends_complete(tmp_path: Path) -> None:
    texts = {f"d{number}": f"text {number}" for number in range(50)}
    source = beir(tmp_path / "set", texts, {"q": "query"}, train=[("q", "d1", 1), ("q", "d2", 1)])
    found = Recorded()
    ingest(tmp_path / "s.duckdb", str(source), progress=found)
    assert list(found.total) == [f"read {source}", "check and store"]
    assert found.done == found.total
    assert found.total["check and store"] > sum(map(len, texts.values()))


def test_looking_for_the_keys_of_a_large_json_file_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "_LARGE", 100)
    small, large = ({"query": text, "positive": "p"} for text in ("q", "q" * 200))
    folder = tmp_path / "set"
    write(folder / "train.jsonl", jsonl(large, small))
    write(folder / "test.jsonl", jsonl(small))
    found = Recorded()
    ingest(tmp_path / "s.duckdb", str(folder), progress=found)
    first, *_ = found.total
    assert first == f"look for the keys in {folder}/train.jsonl"
    assert found.total[first] == found.done[first] == (folder / "train.jsonl").stat().st_size
    assert not any("test.jsonl" in task for task in found.total)


def test_a_long_statement_is_reported_while_it_runs(tmp_path: Path) -> None:
    reports: list[tuple[float, int]] = []
    with Database.in_memory(tmp_path / "s.duckdb", tmp_path / "spill") as store:
        store.execute("CREATE TABLE numbers AS SELECT range AS one FROM range(1000000)")
        started = time.monotonic()
        with steps(store, lambda units: reports.append((time.monotonic() - started, units))) as step:
            step(1000)
            while time.monotonic() - started < 2.5:  # the same again, for slow and fast machines
                store.rows("SELECT count(DISTINCT hash(one, other.range)) FROM numbers, range(20) other")
            step(10)
    before_the_end = [units for seconds, units in reports if 0.1 < seconds < 2.4]
    assert len(before_the_end) >= 3
    assert 0 < sum(before_the_end) <= 1000
    assert all(units >= 0 for _, units in reports)
    assert sum(units for _, units in reports) == 1010


def test_work_that_gets_no_further_is_said_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with Lines(lambda: now[0]).task("check and store", 100, unit="bytes") as advance:
        advance(40)
        now[0] += SILENT_SECONDS
        advance(0)
    assert capsys.readouterr().err == "check and store: 40 of 100 bytes\n"


def test_what_was_read_of_a_parquet_file_is_forgotten(tmp_path: Path) -> None:
    texts = [os.urandom(5_000).hex() for _ in range(4_000)]
    file = tmp_path / "corpus.parquet"
    ids = [str(number) for number in range(len(texts))]
    pq.write_table(pa.table({"id": ids, "text": texts}), file, row_group_size=200, compression="none")
    rows, most, before = 0, 0, pa.total_allocated_bytes()
    for part in open_source(str(file), SourceConfig(format="documents")).parts:
        assert part.documents is not None
        rows += part.documents.num_rows
        most = max(most, pa.total_allocated_bytes() - before - part.documents.nbytes)
        del part
    assert rows == len(texts)
    assert most < file.stat().st_size / 2
