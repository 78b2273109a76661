"""The folder in which a training works, and how its result is recognised.

A training works in `OUT.partial`, whose `state.json` names its data and settings. OUT appears by one rename
when everything is complete; its `metrics.json` has the fingerprint of the training. All of this happens under
a lock of OUT.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miner.engine.files import contents, discard, new_folder, put, require_replaceable, tidy, write_whole
from miner.engine.progress import Progress
from miner.errors import MinerError, UsageError, listed
from miner.faults import read_json

METRICS = "metrics.json"
"""The file of a finished training with its fingerprint, settings and figures."""
COMPLETE = "complete"
"""The file that is written into a checkpoint last."""
TRAINED = "trained"
"""The folder in the workspace that gets the trained model."""
TEACHER = "teacher"
"""The folder in the workspace with the scores of a teacher, so that no pair is scored again after a kill."""
TRAINING = "training.json"
"""The file with the figures of a training that reached its last step."""
_STATE = "state.json"


@dataclass(frozen=True)
class Job:
    """What identifies a training."""

    what: str
    """The kind of its result, with an article: "a reranker"."""
    fingerprint: str
    """A hash of everything that decides the result."""
    config: Mapping[str, Any]
    """The settings among that."""

    def differences(self, stored: Mapping[str, Any]) -> str:
        """Returns the settings in which the training of a stored file differs, or that its data differs."""
        config = stored.get("config") or {}
        changed = [
            f"{name} {_shown(config[name])}, now {_shown(value)}"
            for name, value in self.config.items()
            if name in config and config[name] != json.loads(json.dumps(value))
        ]
        return "; ".join(changed) or "other data, another base or other versions"


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return listed(value, most=3) or "none"
    return "unset" if value is None else str(value)


def finished(out: Path, job: Job, force: bool) -> dict[str, Any] | None:
    """Returns the content of metrics.json if `out` is the result of this job; None if `out` is free.

    Removes what a kill of this job left beside `out`. Call it under a lock of `out`. Raises UsageError if
    `out` holds anything else; with `force`, a result of the same kind may be replaced.
    """
    require_replaceable(out)
    work = _folder(out)
    tidy(work)
    if not out.exists() or (out.is_dir() and not contents(out)):
        return None
    try:
        metrics: dict[str, Any] = json.loads((out / METRICS).read_text("utf-8"))
        known, kind = metrics["fingerprint"], metrics.get("what", job.what)
        if kind != job.what:
            raise KeyError(kind)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UsageError(
            f"{out} exists and is not {job.what} that miner trained", "name a folder that does not exist yet"
        ) from error
    if known == job.fingerprint:
        if _state(work).get("fingerprint") == job.fingerprint:
            discard(work)
        return metrics
    if not force:
        raise UsageError(
            f"{out} holds {job.what} from another training: {job.differences(metrics)}",
            "name another folder, or replace it with --force",
        )
    return None


@contextmanager
def workspace(out: Path, job: Job, force: bool, progress: Progress) -> Iterator[Path]:
    """Yields the folder that the job works in; with `force` it is emptied if it belongs to another job.

    Call it under a lock of `out`. Raises UsageError if another job left a checkpoint or scores of a teacher
    there, or the path is taken. A training that fails before leaves nothing behind.
    """
    work = _folder(out)
    _prepare(work, job, force, progress)
    try:
        yield work
    except MinerError:
        if not _begun(work):
            discard(work)
        raise


def _folder(out: Path) -> Path:
    target = (
        Path(os.path.realpath(out)) if out.is_symlink() else out
    )  # on its file system one rename suffices
    return target.with_name(f"{target.name}.partial")


def _prepare(work: Path, job: Job, force: bool, progress: Progress) -> None:
    stored = _state(work)
    if stored.get("fingerprint") == job.fingerprint:
        return
    if not stored and work.exists() and (not work.is_dir() or contents(work)):
        raise UsageError(f"{work} is in the way", "move it, or name another OUT")
    if _begun(work) and not force:
        raise UsageError(
            f"{work} holds an unfinished training: {job.differences(stored)}",
            "go on with the same data and settings, name another OUT, or start anew with --force",
        )
    if stored:
        progress.note(f"{work} is of another training: starting anew")
    with new_folder(work) as fresh:
        state = {"fingerprint": job.fingerprint, "config": dict(job.config)}
        (fresh / _STATE).write_text(json.dumps(state), "utf-8")


def _state(work: Path) -> dict[str, Any]:
    """The training that the folder belongs to; empty if it belongs to none."""
    file = work / _STATE
    return read_json(file, dict, remove_hint(work)) if file.exists() else {}


def _begun(work: Path) -> bool:
    """Whether the folder has scores of a teacher, a checkpoint or a trained model."""
    names = (f"{TEACHER}/*.json", f"**/{COMPLETE}", TRAINING, "trained-*.json")
    return any(any(work.glob(name)) for name in names)


def remove_hint(work: Path) -> str:
    """Returns what to do about a damaged file in the workspace."""
    return f"remove {work}, then run the command again: it starts anew"


def trained_once(work: Path, train: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the figures that `train` returns, without training again if a kill came after it.

    `train` writes the model to the folder `TRAINED` in `work`.
    """
    file = work / TRAINING
    if not (file.exists() and (work / TRAINED).exists()):
        write_whole(file, json.dumps(dict(train())))
    return read_json(file, dict, remove_hint(work))


def publish(model: Path, out: Path, work: Path) -> None:
    """Moves the finished folder `model` to `out`, replaces what was there, and removes the workspace.

    The libraries save weights for their owner alone; here every file gets the user's usual permissions.
    """
    readable = (work / _STATE).stat().st_mode
    for file in model.rglob("*"):
        if file.is_file():
            file.chmod(readable)
    put(model, out)
    discard(work)
