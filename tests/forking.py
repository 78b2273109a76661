"""Runs functions and miner's commands in processes of their own, without the seconds that imports take.

A server imports what is slow to import, and forks for every call. It lives as long as the process that first
needs it, and has no threads and no open store that a fork would inherit.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

PREPARED = (
    "click", "matplotlib.pyplot", "sentence_transformers", "transformers.trainer", "datasets", "faiss",
    "sklearn.linear_model", "scipy.stats", "duckdb", "pyarrow.parquet", "pyarrow.csv", "filelock",
    "accelerate", "miner.cli.main", "miner.workflows.bench", "miner.workflows.loop", "miner.curation.silver",
    "miner.training.encoder_trainer", "miner.training.reranker_trainer", "miner.training.tsdae",
    "miner.export", "miner.mining.pipeline", "miner.auditing.calibrate", "miner.curation.dedup",
    "miner.auditing.relabel", "miner.workflows.tune",
)  # fmt: skip
_FAILED = 70
"""The exit code of a function that raised; its traceback is in what it wrote to stderr."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, less than 0 for a signal, and what it wrote."""

    code: int
    out: str
    err: str


class Running:
    """A forked process."""

    def __init__(self, server: _Server, pid: int, folder: Path) -> None:
        self.pid, self._server, self._folder = pid, server, folder

    @property
    def err(self) -> str:
        """What it has written to stderr so far."""
        return (self._folder / "err").read_text("utf-8", "replace")

    def until(self, times: int, text: str) -> None:
        """Waits until stderr has so many lines with a text, which fails if the process ends before."""
        while sum(text in line for line in self.err.splitlines()) < times:
            assert Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z", self.err
            time.sleep(0.01)

    def wait(self) -> Ended:
        """Waits for its end."""
        code = self._server.answer({"wait": self.pid})
        return Ended(code, (self._folder / "out").read_text("utf-8", "replace"), self.err)


class _Server:
    """The process that forks."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="forking-"))
        self._started = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        return line

    def answer(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(request, default=str)}\n")
        self._process.stdin.flush()
        return int(self._line())

    def start(self, name: str, arguments: tuple[Any, ...], environment: Mapping[str, str]) -> Running:
        self._started += 1
        folder = self._folder / str(self._started)
        folder.mkdir()
        for stream in ("out", "err"):
            (folder / stream).touch()
        request = {"call": name, "arguments": arguments, "folder": folder, "environment": environment}
        return Running(self, self.answer(request), folder)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


@cache
def _server() -> _Server:
    made = _Server()
    atexit.register(made.close)
    return made


def start(function: Callable[..., None], *arguments: Any, **environment: str) -> Running:
    """Calls a function of a module in a process of its own. Arguments pass through JSON, paths as texts."""
    module = function.__module__
    if module == "__main__":
        module = sys.modules["__main__"].__spec__.name
    return _server().start(f"{module}:{function.__qualname__}", arguments, environment)


def run(function: Callable[..., None], *arguments: Any, **environment: str) -> Ended:
    """Calls a function of a module in a process of its own, and waits for its end."""
    return start(function, *arguments, **environment).wait()


def miner(*words: object, **environment: str) -> Ended:
    """Runs a command of miner in a process of its own, and waits for its end."""
    return run(command, list(map(str, words)), **environment)


def command(words: list[str]) -> None:
    """Runs a command of miner in this process, and ends it with the command's exit code."""
    from miner.cli.main import main

    main(words)


class Deadly:
    """Progress that kills its process after so many units of a task, 0 for never.

    Units that an earlier process did are not counted. It prints where the task begins.
    """

    def __init__(self, task: str, fatal: int) -> None:
        self._task, self._fatal = task, fatal

    @contextmanager
    def task(self, name: str, total: int, done: int = 0, unit: str = "") -> Iterator[Callable[[int], None]]:
        """Counts what a task does."""
        counted = 0

        def advance(units: int) -> None:
            nonlocal counted
            counted += units
            if name == self._task and counted == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)

        if name == self._task:
            sys.stdout.write(f"{name} {done}\n")
            sys.stdout.flush()
        yield advance

    def note(self, message: str) -> None:
        """Says nothing."""


def _child(requested: dict[str, Any]) -> None:
    folder = Path(requested["folder"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(requested["environment"])
    module, _, name = requested["call"].partition(":")
    code = 0
    try:
        getattr(import_module(module), name)(*requested["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = _FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    """Answers lines of JSON on stdin: a call with the number of its process, a wait with the exit code."""
    for name in PREPARED:
        import_module(name)
    gc.freeze()  # for the trainings, each of which runs the garbage collector
    answers = os.fdopen(os.dup(1), "w")
    print("0", file=answers, flush=True)
    for line in sys.stdin:
        requested = json.loads(line)
        if "wait" in requested:
            answer = os.waitstatus_to_exitcode(os.waitpid(requested["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                _child(requested)
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    serve()
