"""Running a trainer to its end: progress, checkpoints, and going on from the last one after a kill."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from miner.engine.progress import Advance, Progress

CHECKPOINT_SECONDS = 60.0
"""How often training is saved: what a kill can cost."""
_COMPLETE = "complete"
"""The file that is written into a checkpoint last."""


def run_training(trainer: Trainer, work: Path, what: str, progress: Progress) -> None:
    """Trains to the last step, from the last whole checkpoint in `work` if there is one."""
    last = last_checkpoint(work)
    steps = trainer.args.max_steps
    done = int(last.name.rpartition("-")[2]) if last else 0
    if last:
        progress.note(f"going on from step {done} of {steps}")
    trainer.remove_callback(PrinterCallback)
    with progress.task(what, steps, done, unit="steps") as advance:
        trainer.add_callback(_Reports(advance, progress.note))
        trainer.train(resume_from_checkpoint=str(last) if last else None)


def last_checkpoint(folder: Path) -> Path | None:
    """Returns the newest checkpoint that was written to its end; removes what a kill left of others."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in found:
        if not (path / _COMPLETE).exists():
            shutil.rmtree(path)
    return next((path for path in reversed(found) if path.exists()), None)


class _Reports(TrainerCallback):
    """Tells how training goes, and asks for a checkpoint every minute."""

    def __init__(self, advance: Advance, note: Callable[[str], None]) -> None:
        self._advance = advance
        self._note = note
        self._saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Counts the step; saves when the last checkpoint is old enough, but not after the last step."""
        self._advance(1)
        due = time.monotonic() - self._saved >= CHECKPOINT_SECONDS
        control.should_save = due and state.global_step < state.max_steps

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Marks the checkpoint as whole."""
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE).touch()
        self._saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Tells the mean loss since the last time."""
        if logs and "loss" in logs:
            self._note(f"step {state.global_step} of {state.max_steps}: loss {logs['loss']:.4f}")
