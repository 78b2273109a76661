"""The console entry: help, endings, errors, and what goes to which stream."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from miner import __version__
from miner.cli import main as module
from miner.cli.main import COMMANDS, GROUPS, main
from miner.engine.progress_bars import progress
from miner.errors import MinerError, UsageError
from tests.stores import new_store


def miner(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "miner", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


LOWER = "free memory, raise the limit (ulimit -v), or lower the sizes; then run the same command again"


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Makes the command `doctor` raise `error`."""

    @click.command("doctor")
    def command() -> None:
        raise error

    stand_in = ModuleType("miner.cli.doctor")
    stand_in.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "miner.cli.doctor", stand_in)


def ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_lists_every_command(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    ended(*arguments)
    captured = capfd.readouterr()
    shown = captured.out + captured.err
    lines = shown.split("--help")[-1].splitlines()
    assert [line.split("  ")[1] for line in lines[1:] if line.startswith("  ")] == list(COMMANDS)
    titles = [line.removesuffix(":") for line in lines[1:] if line and not line.startswith(" ")]
    assert titles == list(GROUPS)
    assert max(map(len, shown.splitlines())) <= 80


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert ended("--version") == 0
    assert capfd.readouterr().out == f"miner {__version__}\n"


def test_an_error_says_what_is_wrong_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, MinerError("the well is dry", "dig deeper"))
    assert ended("doctor") == 1
    captured = capfd.readouterr()
    assert captured.err == "Error: the well is dry\n  dig deeper\n"
    assert captured.out == ""


def test_wrong_use_ends_with_2(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, UsageError("no such colour"))
    assert ended("doctor") == 2
    assert capfd.readouterr().err == "Error: no such colour\n"


def test_an_unexpected_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, ZeroDivisionError("by zero\nand more"))
    assert ended("doctor") == 1
    assert capfd.readouterr().err == (
        "Error: unexpected ZeroDivisionError: by zero\n  run again with --debug for the traceback\n"
    )


def test_an_error_of_the_system_that_is_of_no_file_is_not_said_to_be(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, ConnectionResetError(104, "Connection reset by peer"))
    assert ended("doctor") == 1
    assert capfd.readouterr().err == (
        "Error: unexpected ConnectionResetError: [Errno 104] Connection reset by peer\n"
        "  run again with --debug for the traceback\n"
    )


@pytest.mark.parametrize("arguments", [["--debug", "doctor"], ["doctor", "--debug"]])
@pytest.mark.parametrize("error", [ZeroDivisionError("x"), MinerError("y", "z")])
def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: Exception
) -> None:
    failing(monkeypatch, error)
    with pytest.raises(type(error)):
        main(arguments)


@pytest.mark.parametrize(
    ("error", "reported", "hint"),
    [
        (
            PermissionError(13, "Permission denied", "/data/m1.partial"),
            "cannot use /data/m1.partial: Permission denied",
            "check the path and its permissions",
        ),
        (
            OSError(28, "No space left on device"),
            "No space left on device",
            "free space on the disk, then run the same command again",
        ),
        (
            OSError(27, "File too large", "/data/x"),
            "cannot use /data/x: File too large",
            "raise the limit on the size of files (ulimit -f), then run the same command again",
        ),
        (
            OSError(36, "File name too long", "x" * 100_000),
            f"cannot use {'x' * 199}…: File name too long",
            "check the path and its permissions",
        ),
        (MemoryError(), "not enough memory", LOWER),
        (ImportError("libx.so: failed to map segment from shared object"), "not enough memory", LOWER),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "not enough memory",
            LOWER,
        ),
        (
            RuntimeError("can't start new thread"),
            "cannot start another thread",
            "raise the limit (ulimit -u, ulimit -v), then run the same command again",
        ),
    ],
)
def test_what_the_system_refuses_is_said(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    reported: str,
    hint: str,
) -> None:
    failing(monkeypatch, error)
    assert ended("doctor") == 1
    assert capfd.readouterr().err == f"Error: {reported}\n  {hint}\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("Query interrupted")])
def test_an_interrupt_says_that_work_is_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: BaseException
) -> None:
    failing(monkeypatch, error)
    heeded = signal.getsignal(signal.SIGINT)
    try:
        assert ended("doctor") == 130
    finally:
        signal.signal(signal.SIGINT, heeded)  # ended(), the process is deaf to it
    assert capfd.readouterr().err.strip() == (
        "Interrupted. Finished work is kept, what was under way is undone: run the same command again."
    )


@pytest.mark.parametrize("arguments", [["nonsense"], ["sql", "--nonsense"], ["--nonsense"], ["sql"]])
def test_wrong_arguments_end_with_2(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert ended(*arguments) == 2
    captured = capfd.readouterr()
    assert "Error" in captured.err
    assert captured.out == ""


def test_a_misspelt_command_gets_the_nearest(capfd: pytest.CaptureFixture[str]) -> None:
    assert ended("exportt") == 2
    assert "No such command 'exportt'. (did you mean 'export'?)" in capfd.readouterr().err


def test_a_command_that_had_another_name_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert ended("diff", "my.duckdb", "r1", "r2") == 2
    assert "No such command 'diff'. (it is 'miner runs diff' now)" in capfd.readouterr().err


def test_python_m_miner_is_the_command() -> None:
    assert miner("--version").stdout == f"miner {__version__}\n"


def empty_store(folder: Path) -> Path:
    with new_store(folder / "my.duckdb") as store:
        return store.path


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    shell = f'"{sys.executable}" -m miner sql "$0" "FROM range(1000000)" --format csv | head -n 1'
    done = subprocess.run(
        ["bash", "-c", shell, empty_store(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "range\n"
    assert done.stderr == ""


def test_ctrl_c_in_a_query(tmp_path: Path) -> None:
    store = empty_store(tmp_path)
    query = "SELECT sum(sqrt(range)) FROM range(1000000000000)"
    watched = """
import os, signal, threading
from miner.cli.main import main
from miner.store.select import Result

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts with &
batches = Result.batches
def interrupted(self, rows):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    return batches(self, rows)
Result.batches = interrupted
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", watched, "sql", str(store), query],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 130
    assert (
        done.stderr.strip()
        == "Interrupted. Finished work is kept, what was under way is undone: run the same command again."
    )


def test_the_end_of_a_command_waits_for_what_still_runs_and_calls_what_waits_for_it(tmp_path: Path) -> None:
    ended = """
import atexit, threading, time
from miner.cli.main import main
atexit.register(print, "at exit")
late = lambda: (time.sleep(0.3), print("late"))
if LATE:
    threading.Thread(target=late).start()
main()
"""
    words = ["sql", str(empty_store(tmp_path)), "FROM range(2)", "--format", "csv"]
    for late, last in ((False, "at exit\n"), (True, "late\nat exit\n")):
        program = ended.replace("LATE", str(late))
        done = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"range\n0\n1\n{last}"
        failed = subprocess.run(
            [sys.executable, "-c", program, "sql", "absent.duckdb", "FROM range(2)"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (failed.returncode, failed.stdout) == (1, last)


def test_a_second_interrupt_while_the_process_ends_is_no_traceback() -> None:
    interrupted = """
import atexit, os, signal
import miner.cli.main as command
atexit.register(os.kill, os.getpid(), signal.SIGINT)
def stopped(*arguments, **settings):
    raise KeyboardInterrupt
command.group.main = stopped
command.main()
"""
    done = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert (
        done.stderr.strip()
        == "Interrupted. Finished work is kept, what was under way is undone: run the same command again."
    )


def test_progress_elsewhere_than_on_a_terminal_is_notes_only(capfd: pytest.CaptureFixture[str]) -> None:
    with progress() as reports:
        with reports.task("encode", 10, unit="texts") as advance:
            advance(10)
        reports.note("3 texts were cut")
    captured = capfd.readouterr()
    assert captured.err == "3 texts were cut\n"
    assert captured.out == ""


def test_progress_on_a_terminal_is_drawn_on_stderr_only() -> None:
    script = (
        "from miner.engine.progress_bars import progress\n"
        "with progress() as reports:\n"
        "    with reports.task('encode', 1000, 400, 'texts') as advance:\n"
        "        advance(600)\n"
        "    reports.note('3 texts were cut')\n"
        "    print('data')\n"
    )
    screen, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=terminal, text=True, env=environment,
        check=False,
    )  # fmt: skip
    os.close(terminal)
    drawn = b""
    while True:
        try:
            piece = os.read(screen, 65536)
        except OSError:
            break
        if not piece:
            break
        drawn += piece
    os.close(screen)
    assert done.stdout == "data\n"
    assert b"encode" in drawn
    assert b"1,000/1,000 texts" in drawn
    assert b"3 texts were cut" in drawn


def test_other_libraries_are_kept_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in module._QUIET:
        monkeypatch.delenv(name, raising=False)
    ended("--version")
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"


def test_a_setting_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    ended("--version")
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
