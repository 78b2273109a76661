"""A folder that one process works in is held: others are refused, and a kill holds nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from miner.engine.files import LOCK, held
from miner.errors import UsageError

HOLDER = """
import sys, time
from pathlib import Path
from miner.engine.files import held

with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Starts a process that holds the folder, and returns it when it does."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_refused_until_the_holder_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "below" / "folder"
    with holder(folder) as process:
        with pytest.raises(UsageError) as caught, held(folder):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert str(caught.value) == f"another process works in {folder}; wait for it, or name another OUT"
    with held(folder), pytest.raises(UsageError), held(folder):
        pass
    assert [path.name for path in folder.iterdir()] == [LOCK]


def test_a_folder_that_was_made_and_stays_empty_is_removed(tmp_path: Path) -> None:
    with held(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with held(tmp_path / "old"):
        pass
    assert (tmp_path / "old").is_dir(), "somebody else made it"
    with held(tmp_path / "full"):
        (tmp_path / "full" / "file").touch()
    assert (tmp_path / "full" / "file").exists()


def test_who_holds_a_folder_may_remove_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with held(folder):
        shutil.rmtree(folder)
        with held(folder):
            (folder / "file").touch()
    assert (folder / "file").exists()


def test_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is in the way; move it"), held(tmp_path / "file"):
        pass
