"""Files and folders appear whole or not at all, one process writes a target at a time, streams stay."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from packaging.requirements import Requirement

from miner.engine import files
from miner.engine.files import (
    contents,
    discard,
    locked,
    new_folder,
    put,
    replacing,
    replacing_all,
    require_replaceable,
    write_whole,
)
from miner.errors import MinerError, UsageError
from tests.stores import make_store

HOLDER = """
import sys, time
from pathlib import Path
from miner.engine.files import locked, new_folder, replacing

with locked(Path(sys.argv[1])):
    if sys.argv[2] == "file":
        with replacing(Path(sys.argv[1])) as new:
            new.write_text("half")
            print("held", flush=True)
            time.sleep(600)
    with new_folder(Path(sys.argv[1])) as new:
        (new / "half").write_text("half")
        print("held", flush=True)
        time.sleep(600)
"""


@contextmanager
def writer(target: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Starts a process that is half-way through writing the target, and kills it at the end."""
    command = [sys.executable, "-c", HOLDER, str(target), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        os.kill(process.pid, signal.SIGKILL)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_one_process_writes_a_target_and_what_a_kill_leaves_is_removed(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "below" / "target"
    with writer(target, kind):
        with pytest.raises(MinerError) as caught, locked(target):
            pass
        assert str(caught.value) == (
            f"another process is writing {target}; wait until it ends, or name another target"
        )
        assert caught.value.exit_code == 1
    assert names(target.parent) == [".target.miner-lock", ".target.miner-new"]
    assert contents(target.parent) == []
    with locked(target):
        assert names(target.parent) == [".target.miner-lock"]
        with pytest.raises(MinerError), locked(target):
            pass
    assert list(tmp_path.iterdir()) == [target.parent], "only a folder that it made itself is removed"


def test_folders_that_were_made_for_a_target_and_are_empty_are_removed(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b" / "target"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "a" / "b" / "target"):
        (tmp_path / "a" / "kept").touch()
    assert names(tmp_path / "a") == ["kept"]


def test_processes_take_turns(tmp_path: Path) -> None:
    """Each adds one to a number in a file; none of them reads what another is about to change."""
    code = """
import sys, time
from pathlib import Path
from miner.engine.files import locked, replacing
for _ in range(3):
    with locked(Path(sys.argv[1]), 60):
        number = int(Path(sys.argv[1]).read_text())
        with replacing(Path(sys.argv[1])) as new:
            new.write_text(str(number + 1))
"""
    (tmp_path / "n").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "n")]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "n").read_text() == "12"
    assert names(tmp_path) == ["n"]


def test_an_error_leaves_the_old_file_and_a_new_one_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(0o640)
    with pytest.raises(ZeroDivisionError), replacing(file) as new:
        new.write_text(str(1 / 0))
    assert (file.read_text(), names(tmp_path)) == ("old", ["file"])
    write_whole(file, "new")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o640)


def _race(file: Path) -> None:
    with replacing(file, exists_ok=False) as new:
        new.write_text("loser")
        file.write_text("winner")


def test_what_exists_is_not_replaced_where_that_is_not_wanted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(MinerError) as caught:
        _race(file)
    assert str(caught.value) == f"another process made {file} meanwhile; run the same command again"
    assert (file.read_text(), names(tmp_path)) == ("winner", ["file"])
    file.unlink()
    with replacing(file, exists_ok=False) as new:
        new.write_text("alone")
    assert file.read_text() == "alone"


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far/file")
    for content in ("through a dangling link", "through a link"):
        with locked(tmp_path / "link"):
            write_whole(tmp_path / "link", content)
        assert (tmp_path / "far" / "file").read_text() == content
        assert (tmp_path / "link").is_symlink()
    (tmp_path / "out").symlink_to(tmp_path / "far" / "folder")
    for content in ("one", "two"):
        with locked(tmp_path / "out"), new_folder(tmp_path / "out") as new:
            (new / content).touch()
        assert names(tmp_path / "far" / "folder") == [content]
        assert (tmp_path / "out").is_symlink()
    assert names(tmp_path / "far") == ["file", "folder"]


def test_a_pipe_gets_the_content_when_it_is_complete(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    with locked(pipe), replacing(pipe) as new:
        new.write_text("content")
    reader.join()
    assert got == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_devices_and_descriptors_are_written_to_and_stay(tmp_path: Path) -> None:
    before = os.stat("/dev/null")
    write_whole(Path("/dev/null"), "content")
    assert os.stat("/dev/null")[:3] == before[:3]
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    (tmp_path / "link").symlink_to("/dev/null")
    write_whole(tmp_path / "link", "content")
    assert (tmp_path / "link").is_symlink()
    with (tmp_path / "opened").open("w+b") as opened:
        opened.write(b"before ")
        opened.flush()
        write_whole(Path(f"/dev/fd/{opened.fileno()}"), "content")
        opened.seek(0, os.SEEK_END)
        opened.write(b" after")
    assert (tmp_path / "opened").read_text() == "before content after"
    with pytest.raises(MinerError, match="cannot write /dev/full: No space left on device"):
        write_whole(Path("/dev/full"), "content")
    with pytest.raises(MinerError, match="cannot write /dev/fd/987: Bad file descriptor"):
        write_whole(Path("/dev/fd/987"), "content")


def test_what_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path / "file" / "below", Path("/sys/below"), Path("/sys/new/below")):
        for write in (lambda target: write_whole(target, ""), lambda target: locked(target).__enter__()):
            with pytest.raises(MinerError, match=rf"^cannot write {target}: .*; check its folder$"):
                write(target)
    with pytest.raises(UsageError, match="is a folder; name a file"):
        write_whole(tmp_path, "content")
    assert names(tmp_path) == ["file"]


def test_a_file_without_permission_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o444)
    # Who may everything, as in a container, may write to it too; this is what the system says to others.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(MinerError, match="file: Permission denied"):
        write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"


def test_a_group_takes_its_places_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with replacing_all([first, second]) as (one, other):
        one.write_text("1")
        other.write_text("2")
    with pytest.raises(ZeroDivisionError), replacing_all([first, second]) as (one, _):
        one.write_text(str(1 / 0))
    assert (first.read_text(), second.read_text(), names(tmp_path)) == ("1", "2", ["first", "second"])


@pytest.fixture(params=["exchange", "two renames"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the system can exchange two names at once, or, like some file systems, not."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "_rename", lambda one, other, flag: False)
    return str(request.param)


def test_a_folder_replaces_another(swap: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for content in ("first", "second", "third"):
        with locked(out), new_folder(out) as new:
            (new / content).touch()
        assert names(out) == [content]
    with pytest.raises(ZeroDivisionError), locked(out), new_folder(out) as new:
        (new / str(1 / 0)).touch()
    assert names(out) == ["third"]
    assert names(tmp_path) == ["out"]


def test_the_old_folder_is_handed_over(swap: str, tmp_path: Path) -> None:
    for name in ("new", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"in {name}").touch()
    put(tmp_path / "new", tmp_path / "out")
    assert (names(tmp_path / "out"), names(tmp_path / "new")) == (["in new"], ["in out"])
    discard(tmp_path / "new")
    assert names(tmp_path) == ["out"]


def test_a_swap_of_two_renames_that_was_cut_off_is_undone(tmp_path: Path) -> None:
    (tmp_path / ".out.miner-old").mkdir()
    (tmp_path / ".out.miner-old" / "old").touch()
    (tmp_path / ".out.miner-new").mkdir()
    with locked(tmp_path / "out"):
        assert names(tmp_path / "out") == ["old"]
    (tmp_path / ".out.miner-old").mkdir()
    (tmp_path / ".out.miner-old" / "older").touch()
    with locked(tmp_path / "out"):
        assert names(tmp_path / "out") == ["old"]
    assert names(tmp_path) == ["out"]


def test_the_folder_one_is_in_and_a_mount_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    for out in (Path(), Path(".."), tmp_path / "in"):
        with pytest.raises(UsageError, match="is the current folder or contains it; name a new folder in it"):
            require_replaceable(out)
    require_replaceable(Path("new"))
    with pytest.raises(UsageError, match="/proc is the mount point of a file system"):
        require_replaceable(Path("/proc"))


SHELL = """
set -e
miner() { "$PYTHON" -m miner "$@"; }
miner sql s.duckdb "SELECT doc_id FROM documents" --format csv --out >(cat > substituted; touch done)
miner sql s.duckdb "SELECT doc_id FROM documents" --format csv --out /dev/stdout | cat > piped
miner sql s.duckdb "SELECT doc_id FROM documents" --format csv --out /dev/stdout > redirected
miner sql s.duckdb "SELECT doc_id FROM documents" --format parquet --out /dev/stdout > rows.parquet
miner sql s.duckdb "SELECT doc_id FROM documents" --format csv --out /dev/null
miner sql s.duckdb "SELECT doc_id FROM documents" --out link.csv
while [ ! -e done ]; do sleep 0.05; done
"""


def test_results_go_through_pipes_and_links_of_a_shell(tmp_path: Path) -> None:
    make_store(tmp_path / "s.duckdb", {"d1": "text"}, {"q": "query"}, [("q", "d1")]).close()
    (tmp_path / "link.csv").symlink_to("far.csv")
    called = subprocess.run(
        ["bash", "-c", SHELL], cwd=tmp_path, env={**os.environ, "PYTHON": sys.executable},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (called.returncode, called.stderr) == (0, "")
    for name in ("substituted", "piped", "redirected", "far.csv"):
        assert (tmp_path / name).read_text() == "doc_id\nd1\n", name
    assert (tmp_path / "rows.parquet").read_bytes()[:4] == b"PAR1"
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert not [name for name in names(tmp_path) if "miner" in name]


def test_a_lock_whose_file_its_holder_removes_passes_to_one_other(tmp_path: Path, root: Path) -> None:
    """Our locks remove their file while they hold it: older versions of filelock then let two in."""
    name = tmp_path / "lock"
    first, second = FileLock(name), FileLock(name)
    with first:
        name.unlink()
        second.acquire(timeout=0)
        first.release()
        assert name.exists()
        with pytest.raises(Timeout):
            FileLock(name, thread_local=False).acquire(timeout=0)
        second.release()
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    (needed,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "filelock")
    assert not needed.specifier.contains("3.29.4")
