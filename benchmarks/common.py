"""What every benchmark needs: arguments, processes, repeats in turn, rows, the table at the end."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from miner.engine.machine import processor_name
from miner.engine.work import worker_count
from miner.memory import memory_bytes

HERE = Path(__file__).resolve().parent
TLDR = HERE.parent.parent / "shared" / "data" / "tldr"
SEED = 13
_LIBRARIES = (
    "hardneg-miner", "sentence-transformers", "transformers", "torch", "faiss-cpu", "faiss-gpu", "bm25s",
    "rank-bm25", "numba", "tantivy", "PyStemmer", "duckdb", "numpy", "scipy", "pyarrow", "datasets",
)  # fmt: skip

_LOAD = os.getloadavg()[0]
"""How busy the machine was before the benchmark began."""

T = TypeVar("T")
Figures = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """A target: what is measured, and where it must be."""

    what: str
    sign: str
    """`>=` or `<=`."""
    limit: float
    unit: str = ""

    def met(self, value: float) -> bool:
        """Returns whether a value reaches the target."""
        return value >= self.limit if self.sign == ">=" else value <= self.limit

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}{self.unit}"


@dataclass
class Report:
    """The rows of one benchmark: written as they come, shown as a table at the end."""

    question: str
    out: Path | None
    settings: dict[str, Any]
    full_size: bool
    """Whether this is the size that the targets are for."""
    _lines: list[tuple[str, str, str, str]] = field(default_factory=list)

    def row(
        self, measurement: str, figures: Figures, *, goal: Goal | None = None, value: float | None = None,
        note: str = "", **settings: Any,
    ) -> None:  # fmt: skip
        """Adds one measurement; with a goal, `value` is what is compared with it."""
        target: dict[str, Any] | None = None
        if goal and value is not None:
            target = {
                "what": goal.what,
                "target": str(goal),
                "value": round(value, 4),
                "met": goal.met(value),
            }
        row = {
            "question": self.question,
            "measurement": measurement,
            "figures": figures,
            "target": target,
            "note": note,
            "seed": self.settings["seed"],
            "settings": self.settings | settings,
            "full_size": self.full_size,
            **_circumstances(),
        }
        if self.out:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            with self.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        verdict = "" if target is None else ("met" if target["met"] else "MISSED")
        shown = _shown(value) + (goal.unit if goal else "")
        self._lines.append((measurement, shown, str(goal or ""), verdict))

    def show(self) -> None:
        """Prints what was measured, the targets, and whether each was met."""
        lines = [("measurement", "value", "target", "verdict"), *self._lines]
        widths = [max(len(line[i]) for line in lines) for i in range(4)]
        print()
        for line in lines:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        if not self.full_size:
            print("\nA trial, not the size that the targets are for.")
        print(f"\nrows: {self.out}" if self.out else "\nno rows written: a trial without --results")


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def parser(text: str | None) -> argparse.ArgumentParser:
    """Returns the parser that all benchmarks share; `text` is the module's docstring."""
    result = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--repeats", type=int, default=3, help="how often each system runs, in turn [3]")
    result.add_argument("--seed", type=int, default=SEED, help=f"of every sample [{SEED}]")
    result.add_argument("--results", type=Path, help="file that gets the rows [full size: results/]")
    result.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "miner-benchmarks",
        help="folder that keeps vectors and trained models between benchmarks [%(default)s]",
    )  # fmt: skip
    return result


def report(question: str, given: argparse.Namespace, *, full_size: bool, least: int = 3) -> Report:
    """Returns an empty report; the rows of a trial, or of fewer than `least` repeats, say so.

    Such rows are written only if --results names a file.
    """
    if 0.25 * worker_count() < _LOAD:
        print(f"the machine is busy (load {_LOAD:.1f}): figures will be off", file=sys.stderr)
    out = given.results or (HERE / "results" / f"{question}.jsonl" if full_size else None)
    settings = {
        name: value.name if isinstance(value, Path) else value
        for name, value in vars(given).items()
        if name not in ("results", "work")
    }
    return Report(question, out, settings, full_size and given.repeats >= least)


def alternate(systems: Mapping[str, Callable[[int], T]], repeats: int) -> dict[str, list[T]]:
    """Runs A B A B …; returns each system's results in order. A system is given the number of the repeat."""
    results: dict[str, list[T]] = {name: [] for name in systems}
    for repeat in range(repeats):
        for name, run in systems.items():
            print(f"{name}, {repeat + 1} of {repeats} …", file=sys.stderr, flush=True)
            results[name].append(run(repeat))
    return results


def timed(function: Callable[[], Any]) -> float:
    """Returns how many seconds a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def spread(values: Iterable[float]) -> Figures:
    """Returns median, min and max, and the values themselves."""
    known = [round(float(value), 6) for value in values]
    return {"median": statistics.median(known), "min": min(known), "max": max(known), "all": known}


def ratios(above: Sequence[float], below: Sequence[float]) -> Figures:
    """Returns the spread of above[i] / below[i]: each ratio from one repeat."""
    return spread(a / b for a, b in zip(above, below, strict=True))


@dataclass(frozen=True)
class Finished:
    """What a process took."""

    seconds: float
    """Wall clock, from its start to its end."""
    peak_bytes: int
    """Largest resident set, files mapped into memory included."""
    stdout: str
    cpu_seconds: float = 0.0
    """Of the processor, on all cores; another load of the machine matters little to it."""


def run_process(command: Sequence[str | Path]) -> Finished:
    """Runs a command to its end; RuntimeError with what it wrote when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        launcher = [sys.executable, "-I", "-S", str(HERE / "launch.py"), str(result)]
        done = subprocess.run(
            [*launcher, *map(str, command)], capture_output=True, text=True, env=_environment(), check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        figures = json.loads(result.read_text())
        if figures["code"]:
            raise RuntimeError(f"{shlex.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
        return Finished(figures["seconds"], figures["peak_bytes"], done.stdout, figures["cpu_seconds"])


def _environment() -> dict[str, str]:
    # Installing a package compiles it; in a working copy the first process does, unless this forbids it.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def miner(*arguments: str | Path) -> list[str]:
    """Returns the command line of the installed `miner`."""
    script = Path(sys.executable).parent / "miner"
    program = [str(script)] if script.exists() else [sys.executable, "-m", "miner"]
    return [*program, *map(str, arguments)]


@contextmanager
def scratch(work: Path) -> Iterator[Path]:
    """Yields a folder in `work` that is removed at the end."""
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        yield Path(folder)


def gib(size: float) -> float:
    """Returns bytes as GiB."""
    return size / 2**30


def _circumstances() -> dict[str, Any]:
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_repeatable(sys.argv[1:])]),
        "commit": _commit(),
        "machine": {
            "processor": processor_name(),
            "cores": worker_count(),
            "memory_gib": round(gib(memory_bytes()), 1),
            "load_before": round(_LOAD, 2),
        },
        "versions": {"python": platform.python_version()} | _versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _repeatable(arguments: Sequence[str]) -> list[str]:
    """The arguments that repeat a measurement: paths from the checkout, without --work and --results."""
    kept = list(arguments)
    for elsewhere in ("--work", "--results"):
        if elsewhere in kept:
            at = kept.index(elsewhere)
            del kept[at : at + 2]
    return [os.path.relpath(one, HERE.parent) if os.path.isabs(one) else one for one in kept]


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


@cache
def _commit() -> str:
    """The commit, `-dirty` where anything but rows of results differs from it."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", str(HERE.parent), f":(exclude){HERE / 'results'}")
    return commit + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()
