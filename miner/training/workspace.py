"""Where a training works, and whether it was finished before.

Work happens in `OUT.partial`, whose `state.json` says for which data and settings. OUT appears in one step,
when all is done; its `metrics.json` names the fingerprint of what was trained. All of it under a lock of OUT.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.engine.files import contents, discard, new_folder, put, require_replaceable, tidy
from miner.engine.progress import Progress
from miner.errors import MinerError, UsageError, listed
from miner.faults import read_json

METRICS = "metrics.json"
"""The file of a finished training that holds its fingerprint, settings and figures."""
COMPLETE = "complete"
"""The file that is written into a checkpoint last."""
_STATE = "state.json"


@dataclass(frozen=True)
class Job:
    """What a training is known by."""

    what: str
    """Its result as the user is told, with its article: "a reranker"."""
    fingerprint: str
    """Of everything that decides the result."""
    config: Mapping[str, Any]
    """The settings among that."""

    def others(self, known: Mapping[str, Any]) -> str:
        """Returns how another training, as its file tells it, was set otherwise; or that its data was."""
        config = known.get("config") or {}
        both = [name for name in self.config if name in config]
        told = [
            f"{name} {_said(config[name])}, now {_said(self.config[name])}"
            for name in both
            if config[name] != json.loads(json.dumps(self.config[name]))
        ]
        return "; ".join(told) or "other data, another base or other versions"


def _said(value: object) -> str:
    if isinstance(value, list | tuple):
        return listed(value, most=3) or "none"
    return "unset" if value is None else str(value)


def finished(out: Path, job: Job, force: bool) -> dict[str, Any] | None:
    """Returns the content of metrics.json if `out` is this very training's result; None if `out` is free.

    What a kill left of that training beside `out` is removed. Call it under a lock of `out`. Raises
    UsageError when `out` holds anything else, unless it is a result of the same kind, of other data or
    settings, and `force` is given.
    """
    require_replaceable(out)
    work = _workplace_of(out)
    tidy(work)
    if not out.exists() or (out.is_dir() and not contents(out)):
        return None
    try:
        metrics: dict[str, Any] = json.loads((out / METRICS).read_text("utf-8"))
        found, kind = metrics["fingerprint"], metrics.get("what", job.what)
        if kind != job.what:
            raise KeyError(kind)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UsageError(
            f"{out} exists and is not {job.what} that miner trained", "name a folder that does not exist yet"
        ) from error
    if found == job.fingerprint:
        if _state(work).get("fingerprint") == job.fingerprint:
            discard(work)
        return metrics
    if not force:
        raise UsageError(
            f"{out} holds {job.what} that was trained otherwise: {job.others(metrics)}",
            "name another folder, or replace it with --force",
        )
    return None


@contextmanager
def workplace(out: Path, job: Job, force: bool, progress: Progress) -> Iterator[Path]:
    """Yields the folder of the work under way; with `force` emptied if it belongs to another training.

    Call it under a lock of `out`. Raises UsageError when another training left a checkpoint, or something
    else is in its place. A training that fails before its first checkpoint leaves nothing behind.
    """
    work = _workplace_of(out)
    _prepare(work, job, force, progress)
    try:
        yield work
    except MinerError:
        if not _begun(work):
            discard(work)
        raise


def _workplace_of(out: Path) -> Path:
    place = Path(os.path.realpath(out)) if out.is_symlink() else out  # so that one rename moves it there
    return place.with_name(f"{place.name}.partial")


def _prepare(work: Path, job: Job, force: bool, progress: Progress) -> None:
    found = _state(work)
    if found.get("fingerprint") == job.fingerprint:
        return
    if not found and work.exists() and (not work.is_dir() or contents(work)):
        raise UsageError(f"{work} is in the way", "move it, or name another OUT")
    if _begun(work) and not force:
        raise UsageError(
            f"{work} holds an unfinished training: {job.others(found)}",
            "go on with the same data and settings, name another OUT, or start anew with --force",
        )
    if found:
        progress.note(f"{work} was of another training: starting anew")
    with new_folder(work) as fresh:
        state = {"fingerprint": job.fingerprint, "config": dict(job.config)}
        (fresh / _STATE).write_text(json.dumps(state), "utf-8")


def _state(work: Path) -> dict[str, Any]:
    """Which training the folder is of; empty where it is of none."""
    file = work / _STATE
    hint = f"remove {work}, then run the command again: it starts anew"
    return read_json(file, dict, hint) if file.exists() else {}


def _begun(work: Path) -> bool:
    """Whether anything in the folder would be missed."""
    return any(any(work.glob(name)) for name in (f"**/{COMPLETE}", "training.json", "trained-*.json"))


def publish(model: Path, out: Path, work: Path) -> None:
    """Moves the finished folder `model` to `out`, in place of what was there, and removes the workplace.

    Whoever may read what this user writes may read the model: weights are saved for the owner alone.
    """
    readable = (work / _STATE).stat().st_mode
    for file in model.rglob("*"):
        if file.is_file():
            file.chmod(readable)
    put(model, out)
    discard(work)
