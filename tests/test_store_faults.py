"""Damaged and foreign stores, full disks and too little memory: a clear error, and nothing is changed."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import numpy as np
import pytest

from miner.errors import StoreError
from miner.store.database import Database
from miner.store.tables import FORMAT
from tests.fuzz.run import content_hash
from tests.stores import make_store


def refusal(path: Path, **options: bool) -> str:
    with pytest.raises(StoreError) as caught:
        Database.open(path, **options)  # type: ignore[arg-type]
    return str(caught.value)


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Returns the bytes and the time of change of every file in a folder."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a few megabytes."""
    path = tmp_path_factory.mktemp("filled") / "s.duckdb"
    with make_store(path, {"d1": "one"}, {"q1": "first"}, [("q1", "d1")]) as store:
        store.execute(
            "INSERT INTO documents (doc_id, title, text, text_key, label) "
            "SELECT 'd' || range, '', repeat(md5(range::VARCHAR), 9), range, NULL "
            "FROM range(10, 10000)"
        )
    return path


def unfolded(path: Path, statement: str) -> None:
    """Makes a DuckDB file whose last change is in its log only, as a killed writer leaves it."""
    source = path.with_name("source")
    with duckdb.connect(str(source)) as connection:
        connection.execute("CREATE TABLE a AS SELECT range FROM range(10)")
        connection.execute("CHECKPOINT")
        connection.execute("SET checkpoint_threshold = '1GB'")
        connection.execute(statement)
        shutil.copy(source, path)
        shutil.copy(f"{source}.wal", f"{path}.wal")
    source.unlink()


def test_a_foreign_database_with_a_log_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.duckdb"
    unfolded(path, "INSERT INTO a VALUES (77)")
    before = state(tmp_path)
    for options in ({}, {"read_only": True}, {"create": True}):
        assert refusal(path, **options) == (
            f"{path} is a DuckDB database, but not a miner store; name another file"
        )
    assert state(tmp_path) == before


def test_a_text_file_is_not_opened_as_a_database(tmp_path: Path) -> None:
    path = tmp_path / "faq.csv"
    path.write_text("question,answer\nhow,so\n", "utf-8")
    before = state(tmp_path)
    for options in ({}, {"read_only": True}, {"create": True}):
        assert refusal(path, **options) == f"{path} is not a DuckDB file; name a store made by miner ingest"
    assert state(tmp_path) == before


@pytest.mark.parametrize("found", ["3", "99", "one"])
def test_a_store_of_another_format_is_not_touched(tmp_path: Path, found: str) -> None:
    path = tmp_path / "s.duckdb"
    Database.open(path, create=True).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'format'", [found])
    before = state(tmp_path)
    for options in ({}, {"read_only": True}, {"create": True}):
        assert refusal(path, **options) == (
            f"{path} is not a store of this version of miner: its format is {found}, not {FORMAT}; "
            "make it again from its sources: miner ingest NEW.duckdb SOURCE"
        )
    assert state(tmp_path) == before


def of_version(path: Path, version: int) -> None:
    """Gives a DuckDB file another number of its storage version, with the checksum that belongs to it."""
    data = bytearray(path.read_bytes())
    data[12:20] = struct.pack("<Q", version)
    words = np.frombuffer(bytes(data[8:4096]), dtype="<u8")
    with np.errstate(over="ignore"):
        mixed = np.bitwise_xor.reduce(words * np.uint64(0xBF58476D1CE4E5B9))
    data[:8] = struct.pack("<Q", int(np.uint64(5381) ^ mixed))
    path.write_bytes(data)


@pytest.mark.parametrize("version", [30, 2000])
def test_a_file_of_a_duckdb_that_this_one_cannot_read_is_said_to_be_that(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "s.duckdb"
    Database.open(path, create=True).close()
    of_version(path, version)
    before = state(tmp_path)
    assert refusal(path) == (
        f"{path} was written by a version of DuckDB whose files DuckDB {duckdb.__version__} cannot read; "
        "open it with the version of miner that wrote it, or ingest the sources into a new file"
    )
    assert state(tmp_path) == before


RESTORE = "restore it from a copy, or ingest the sources into a new file"


@pytest.mark.parametrize("size", [12, 100, 4096, 12_288, 12_289, 300_000, 2_000_000])
def test_a_store_that_was_cut_is_damaged(filled: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(filled.read_bytes()[:size])
    before = state(tmp_path)
    with pytest.raises(StoreError) as caught, Database.open(path) as store:
        store.rows("SELECT * FROM documents")
    assert str(caught.value) == f"{path} is damaged: it ends too early; {RESTORE}"
    assert state(tmp_path) == before


@pytest.mark.parametrize("size", [0, 1, 11])
def test_the_stump_of_a_store_is_no_duckdb_file(filled: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "s.duckdb"
    path.write_bytes(filled.read_bytes()[:size])
    for options in ({}, {"read_only": True}, {"create": True}):
        assert refusal(path, **options) == f"{path} is not a DuckDB file; name a store made by miner ingest"
    assert path.stat().st_size == size


def damaged_places(data: bytes) -> Iterator[int]:
    """Yields a place in the header, in the catalogue and in the texts."""
    yield 100
    yield 5000
    yield data.index(b"documents")
    yield len(data) // 2


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("read", ["rows", "table"])
def test_a_flipped_bit_anywhere_is_found_when_it_is_read(
    filled: Path, tmp_path: Path, position: int, read: str
) -> None:
    path = tmp_path / "s.duckdb"
    data = bytearray(filled.read_bytes())
    data[list(damaged_places(bytes(data)))[position]] ^= 1
    path.write_bytes(data)
    before = state(tmp_path)
    with pytest.raises(StoreError) as caught, Database.open(path) as store:
        getattr(store, read)("SELECT * FROM documents")
    assert str(caught.value) == f"{path} is damaged: its checksums do not match; {RESTORE}"
    assert state(tmp_path) == before


def test_damage_that_sql_finds_is_named(filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    data = bytearray(filled.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ended = command("sql", path, "SELECT max(md5(d::VARCHAR)) FROM documents d")
    assert ended.returncode == 1
    assert ended.stderr == (f"Error: {path} is damaged: its checksums do not match\n  {RESTORE}\n")


def test_the_log_of_another_file_is_named(filled: Path, tmp_path: Path) -> None:
    unfolded(tmp_path / "other", "INSERT INTO a VALUES (1)")
    path = tmp_path / "s.duckdb"
    shutil.copy(filled, path)
    (tmp_path / "other.wal").rename(f"{path}.wal")
    before = state(tmp_path)
    for options in ({}, {"read_only": True}):
        assert refusal(path, **options) == (
            f"{path} is damaged: {path}.wal belongs to another file; "
            "restore both files from a copy, or ingest the sources into a new file"
        )
    assert state(tmp_path) == before


@pytest.mark.parametrize("options", [{}, {"read_only": True}, {"create": True}])
def test_a_pipe_is_no_store_and_is_not_waited_for(tmp_path: Path, options: dict[str, bool]) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert refusal(path, **options) == (
        f"{path} is a device or a pipe, not a store; name a file, such as my.duckdb"
    )


def command(*arguments: str | Path, limit: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command, after `limit` in the shell that starts it; stderr is without what was read before."""
    call = ' exec "$0" -m miner "$@"'
    ended = subprocess.run(
        ["bash", "-c", limit + call, sys.executable, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    ended.stderr = ended.stderr[max(0, ended.stderr.find("Error: ")) :]
    return ended


def pairs(folder: Path, rows: int) -> Path:
    """Writes pairs of texts that do not compress."""
    file = folder / "pairs.tsv"
    words = ("\t".join(os.urandom(150).hex() for _ in range(2)) for _ in range(rows))
    file.write_text("\n".join(["query\tpositive", *words]) + "\n")
    return file


def test_a_limit_on_the_size_of_files_is_said_and_the_store_is_as_it_was(
    filled: Path, tmp_path: Path
) -> None:
    path, source = tmp_path / "s.duckdb", pairs(tmp_path, 12_000)
    shutil.copy(filled, path)
    before = content_hash(path)
    ended = command("ingest", path, source, limit=f"ulimit -f {path.stat().st_size // 1024 + 512};")
    assert ended.returncode == 1
    assert ended.stderr == (
        f"Error: {path} cannot grow: the limit on the size of files is reached\n"
        "  raise the limit on the size of files (ulimit -f), "
        "then run the same command again: the store is unchanged\n"
    )
    assert content_hash(path) == before
    assert command("ingest", path, source).returncode == 0


@pytest.mark.parametrize("blocks", [10, 2000])
def test_a_limit_on_the_size_of_files_leaves_no_new_store_and_names_the_path(
    tmp_path: Path, blocks: int
) -> None:
    path, source = tmp_path / "s.duckdb", pairs(tmp_path, 12_000)
    ended = command("ingest", path, source, limit=f"ulimit -f {blocks};")
    assert (ended.returncode, ended.stderr) == (
        1,
        f"Error: {path} cannot grow: the limit on the size of files is reached\n"
        "  raise the limit on the size of files (ulimit -f), "
        "then run the same command again: no store was made\n",
    )
    assert [file.name for file in tmp_path.iterdir()] == [source.name]
    assert command("ingest", path, source).returncode == 0


def test_a_limit_on_the_size_of_files_is_said_of_a_result(filled: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.parquet"
    query = "SELECT range::DOUBLE AS n, md5(range::VARCHAR) AS t FROM range(100000)"
    ended = command("sql", filled, query, "--out", out, limit="ulimit -f 100;")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Error: cannot write {out}: ")
    assert ended.stderr.endswith(
        "\n  raise the limit on the size of files (ulimit -f), then run the same command again\n"
    )
    assert not out.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB, where the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_said_and_the_store_is_as_it_was(
    filled: Path, tmp_path: Path, small_disk: Path
) -> None:
    path, source = small_disk / "s.duckdb", pairs(tmp_path, 12_000)
    shutil.copy(filled, path)
    before = content_hash(path)
    ended = command("ingest", path, source)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"Error: the disk of {path} is full\n"
        "  free space on the disk, then run the same command again: the store is unchanged\n"
    )
    assert content_hash(path) == before


def test_a_full_disk_leaves_no_new_store_and_names_the_path(tmp_path: Path, small_disk: Path) -> None:
    path, source = small_disk / "s.duckdb", pairs(tmp_path, 12_000)
    (small_disk / "other").write_bytes(bytes(2**20))
    said = (
        f"Error: the disk of {path} is full\n"
        "  free space on the disk, then run the same command again: no store was made\n"
    )
    assert command("ingest", path, source).stderr == said
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(4096)):
            pass
    ended = command("ingest", path, source)
    assert (ended.returncode, ended.stderr) == (1, said)
    assert sorted(file.name for file in small_disk.iterdir()) == ["filler", "other"]


def test_too_little_memory_is_said(filled: Path) -> None:
    with Database.open(filled) as store:
        store.execute("SET memory_limit = '8MB'")
        with pytest.raises(StoreError) as caught:
            store.rows("SELECT list(text) FROM documents, range(200)")
    assert caught.value.message.startswith(f"not enough memory for {filled}: ")
