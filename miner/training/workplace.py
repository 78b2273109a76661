"""Where a training works, and whether it was finished before.

Work happens in `OUT.partial`, whose `state.json` says for which data and settings. OUT appears by
one rename, when all is done; its `metrics.json` names the fingerprint of what was trained.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.engine.files import LOCK, held, write_whole
from miner.engine.progress import Progress
from miner.errors import MinerError, UsageError, listed

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

    What a kill left of that training beside `out` is removed. Raises UsageError when `out` holds anything
    else, unless it is a result of the same kind, of other data or settings, and `force` is given.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
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
        _clear(_workplace_of(out), job)
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

    Raises UsageError when another process works there, another training left a checkpoint, or something
    else is in its place. A training that fails before its first checkpoint leaves nothing behind.
    """
    work = _workplace_of(out)
    with held(work):
        _prepare(work, job, force, progress)
        try:
            yield work
        except MinerError:
            if not _begun(work):
                shutil.rmtree(work)
            raise


def _workplace_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def _prepare(work: Path, job: Job, force: bool, progress: Progress) -> None:
    found = _state(work)
    if found.get("fingerprint") == job.fingerprint:
        return
    there = [path for path in work.iterdir() if path.name != LOCK]
    if not found and there:
        raise UsageError(f"{work} is in the way", "move it, or name another OUT")
    if _begun(work) and not force:
        raise UsageError(
            f"{work} holds an unfinished training: {job.others(found)}",
            "go on with the same data and settings, name another OUT, or start anew with --force",
        )
    if found:
        progress.note(f"{work} was of another training: starting anew")
    for path in there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_whole(work / _STATE, json.dumps({"fingerprint": job.fingerprint, "config": dict(job.config)}))


def _state(work: Path) -> dict[str, Any]:
    """Which training the folder is of; empty where it is of none."""
    file = work / _STATE
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return found


def _clear(work: Path, job: Job) -> None:
    """Removes what a kill left of a finished training, unless another process is just about to."""
    if _state(work).get("fingerprint") == job.fingerprint:
        with suppress(UsageError), held(work):
            shutil.rmtree(work)


def _begun(work: Path) -> bool:
    """Whether anything in the folder would be missed."""
    return any(any(work.glob(name)) for name in (f"**/{COMPLETE}", "training.json", "trained-*.json"))


def publish(model: Path, out: Path, work: Path) -> None:
    """Renames the finished folder `model` to `out`, over what was there, and removes the workplace.

    Whoever may read what this user writes may read the model: weights are saved for the owner alone.
    """
    readable = (work / _STATE).stat().st_mode
    for file in model.rglob("*"):
        if file.is_file():
            file.chmod(readable)
    if out.exists():
        shutil.rmtree(out)
    model.rename(out)
    shutil.rmtree(work)
