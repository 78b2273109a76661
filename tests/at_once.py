"""Runs miner's commands in processes of their own, several at once.

`python -m tests.at_once` reads groups of commands from stdin. It imports everything once and forks, so that a
command takes as long as its work; chunks are small, so that there are many commits. The commands of a group
run at the same time; one that is to be repeated starts anew until the others have ended.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

MODULES = (
    "datasets", "faiss", "scipy.sparse.csgraph", "sentence_transformers", "sklearn.metrics", "torch",
    "miner.cli.main", "miner.auditing.calibrate", "miner.training.encoder_trainer",
    "miner.training.reranker_trainer", "miner.training.tsdae", "miner.workflows.bench",
    "miner.workflows.loop", "miner.auditing.relabel", "miner.curation.silver",
)  # fmt: skip
CHUNKS = {
    "miner.mining.scoring.CHUNK": 64,
    "miner.models.vector_cache.CHUNK": 32,
    "miner.retrieval.search.CHUNK": 8,
}
SLOW = (
    "miner.curation.dedup.near_pairs", "miner.curation.contamination._Texts.of",
    "miner.auditing.replay.Replay.hide", "miner.auditing.sweep.Sweep.counts",
    "miner.models.encoder.Encoder.encoded", "miner.models.reranker.Reranker.score",
    "miner.retrieval.bm25.Bm25.search", "miner.training.encoder.train_model",
    "miner.training.reranker_trainer.train_cross_encoder", "miner.training.tsdae._train",
)  # fmt: skip
"""What takes long with real models and many texts."""
_PROBE = """
import sys
from pathlib import Path
from miner.store.access import connect
connect(Path(sys.argv[1]), sys.argv[2] == "read", {}, wait=20).close()
"""
FAILED = 99


@dataclass(frozen=True)
class Command:
    """A command, and the file that gets its stdout; stderr and the exit code go beside it."""

    arguments: Sequence[str]
    out: str
    repeat: bool = False
    probe: str = ""
    """`read` or `write`: whether another process can do so to the store whenever the command is at something
    slow. The store is the first argument that ends in .duckdb."""


@dataclass(frozen=True)
class Ended:
    """What a command ended with."""

    code: int
    out: str
    err: str
    slow: tuple[str, ...]
    """At which of SLOW it was."""


def run(groups: Sequence[Sequence[Command]]) -> list[list[Ended]]:
    """Runs the groups one after the other; returns what each command ended with, of a repeated one the last.

    A repeated command that fails ends its repetition.
    """
    given = json.dumps([[asdict(command) for command in group] for group in groups])
    subprocess.run([sys.executable, "-m", "tests.at_once"], input=given, text=True, check=True)
    return [[_ended(Path(command.out)) for command in group] for group in groups]


def _ended(out: Path) -> Ended:
    slow = out.with_suffix(".slow")
    return Ended(
        int(out.with_suffix(".code").read_text()),
        out.read_text("utf-8"),
        out.with_suffix(".err").read_text("utf-8"),
        tuple(slow.read_text().split()) if slow.exists() else (),
    )


def _owner(name: str) -> tuple[Any, str]:
    """The module or class of a dotted name, and the last part of it."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:-1]:
            found = getattr(found, part)
        return found, parts[-1]
    raise ModuleNotFoundError(name)


def _probed(function: Callable[..., Any], name: str, command: Command) -> Callable[..., Any]:
    store = next(argument for argument in command.arguments if argument.endswith(".duckdb"))
    log = Path(command.out).with_suffix(".slow")

    def slow(*args: Any, **kwargs: Any) -> Any:
        if not (log.exists() and name in log.read_text().split()):
            with log.open("a") as stream:
                stream.write(f"{name}\n")
            command_line = [sys.executable, "-c", _PROBE, store, command.probe]
            if subprocess.run(command_line, check=False).returncode:
                sys.stderr.write(f"no other process can {command.probe} while this one is at {name}\n")
                sys.stderr.flush()
                os._exit(FAILED)
        return function(*args, **kwargs)

    return slow


def _start(command: Command) -> int:
    """Forks a process that runs the command; returns its id."""
    if child := os.fork():
        return child
    code = 1
    try:
        out = Path(command.out)
        for number, file in ((1, out), (2, out.with_suffix(".err"))):
            target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, number)
        if command.probe:
            for name in SLOW:
                owner, last = _owner(name)
                kept = vars(owner)[last]
                wrapped = _probed(getattr(owner, last), name, command)
                setattr(owner, last, staticmethod(wrapped) if isinstance(kept, classmethod) else wrapped)
        from miner.cli.main import main

        sys.argv = ["miner", *command.arguments]
        main(list(command.arguments))
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        out.with_suffix(".code").write_text(str(code))
        os._exit(code)


def _run(group: Sequence[Command]) -> None:
    running = {_start(command): command for command in group}
    while running:
        child, status = os.wait()
        command = running.pop(child)
        if os.waitstatus_to_exitcode(status) == FAILED:
            Path(command.out).with_suffix(".code").write_text(str(FAILED))
        is_last = all(other.repeat for other in running.values())
        if command.repeat and not is_last and not os.waitstatus_to_exitcode(status):
            running[_start(command)] = command


if __name__ == "__main__":
    for module in MODULES:
        import_module(module)
    gc.freeze()  # for the trainings, each of which runs the garbage collector
    for name, size in CHUNKS.items():
        owner, last = _owner(name)
        setattr(owner, last, size)
    for commands in json.load(sys.stdin):
        _run([Command(**command) for command in commands])
