"""Where a training works, and whether it was finished before.

Work happens in `OUT.partial`, whose `state.json` says for which data and settings. OUT appears by
one rename, when all is done; its `metrics.json` names the fingerprint of what was trained.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from miner.engine.files import write_whole
from miner.engine.progress import Progress
from miner.errors import UsageError

METRICS = "metrics.json"
"""The file of a finished training that holds its fingerprint and figures."""


def finished(out: Path, identity: str, force: bool, what: str) -> dict[str, Any] | None:
    """Returns the content of metrics.json if `out` is this very training's result; None if `out` is free.

    `what` names the result to the user, with its article: "a reranker"; metrics.json may hold it
    too, under `what`. Raises UsageError when `out` holds anything else, unless it is such a result
    of other data or settings and `force` is given.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        metrics: dict[str, Any] = json.loads((out / METRICS).read_text("utf-8"))
        found, kind = metrics["fingerprint"], metrics.get("what", what)
        if kind != what:
            raise KeyError(kind)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UsageError(
            f"{out} exists and is not {what} that miner trained", "name a folder that does not exist yet"
        ) from error
    if found == identity:
        return metrics
    if not force:
        raise UsageError(
            f"{out} holds {what} trained on other data or with other settings",
            "name another folder, or replace it with --force",
        )
    return None


def workplace(out: Path, identity: str, progress: Progress) -> Path:
    """Returns the folder of the work under way, emptied if it belongs to another training.

    Raises UsageError when something else is in its place.
    """
    work = out.with_name(f"{out.name}.partial")
    state = work / "state.json"
    if work.exists():
        found = json.loads(state.read_text("utf-8")) if state.exists() else {}
        if found.get("fingerprint") == identity:
            return work
        if not found and any(work.iterdir()):
            raise UsageError(f"{work} is in the way", "move it, or name another OUT")
        progress.note(f"{work} was of other data or settings: starting anew")
        shutil.rmtree(work)
    work.mkdir(parents=True)
    write_whole(state, json.dumps({"fingerprint": identity}))
    return work


def publish(model: Path, out: Path, work: Path) -> None:
    """Renames the finished folder `model` to `out`, over what was there, and removes the workplace.

    Whoever may read what this user writes may read the model: weights are saved for the owner alone.
    """
    readable = (work / "state.json").stat().st_mode
    for file in model.rglob("*"):
        if file.is_file():
            file.chmod(readable)
    if out.exists():
        shutil.rmtree(out)
    model.rename(out)
    shutil.rmtree(work)
