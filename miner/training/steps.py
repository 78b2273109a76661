"""Running a trainer to its end: progress, checkpoints, going on after a kill, stopping when it diverges."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from miner.engine.files import discard, write_whole
from miner.engine.load import free_threads
from miner.engine.progress import Advance, Progress
from miner.errors import MinerError
from miner.models.device import resolve_device, resolve_dtype
from miner.processors import cores
from miner.training.encoder_config import EncoderConfig
from miner.training.pretrain_config import PretrainConfig
from miner.training.reranker_config import RerankerConfig
from miner.training.workspace import COMPLETE

AnyConfig = EncoderConfig | PretrainConfig | RerankerConfig
"""The settings of any training."""
_STOPS = (signal.SIGINT, signal.SIGTERM)
_THREADS = "threads"
"""The file that says with how many threads a training was begun."""
CHECKPOINT_SECONDS = 60.0
"""How often training is saved: what a kill can cost."""


class _DivergedError(MinerError):
    """The loss or the weights are no longer numbers."""


def arguments_of(config: AnyConfig, work: Path, steps: int, logs: int) -> dict[str, Any]:
    """Returns the library's arguments that are alike for every training; the loss is told `logs` times."""
    device = resolve_device()
    return {
        "output_dir": str(work),
        "max_steps": steps,
        "per_device_train_batch_size": config.batch_size,
        # Rounded down: a warm-up begins at rate 0, and a training of one step would change nothing.
        "warmup_steps": math.floor(config.warmup * steps),
        "bf16": resolve_dtype(config.dtype, device) == "bf16",
        "use_cpu": device == "cpu",
        "seed": config.seed,
        "save_strategy": "no",
        "logging_nan_inf_filter": False,
        "save_total_limit": 2,
        "logging_steps": math.ceil(steps / logs),
        "disable_tqdm": True,
        "report_to": "none",
        "dataloader_pin_memory": device == "cuda",
    }


@contextmanager
def training_threads(asked: int | None, work: Path, progress: Progress) -> Iterator[None]:
    """Has PyTorch compute with as many processor threads as were asked for, or as can run.

    Another number changes the last digits of the weights. So a training that goes on takes the number that
    it was begun with, which a file in `work` says.
    """
    before, file = torch.get_num_threads(), work / _THREADS
    begun = file.read_text("utf-8", "replace") if file.exists() else ""
    threads = asked or (int(begun) if begun.isdecimal() else 0) or _usable(before, progress)
    if begun != str(threads):
        write_whole(file, str(threads))
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _usable(planned: int, progress: Progress) -> int:
    """PyTorch's own choice, which knows no quota, down to what can run."""
    if resolve_device() != "cpu":
        return planned
    return free_threads(planned if os.environ.get("OMP_NUM_THREADS") else min(planned, cores()), progress)


def note_excess(max_steps: int | None, whole: int, epochs: float, progress: Progress) -> None:
    """Says so where more steps are asked for than the `whole` ones that the epochs have."""
    if max_steps is not None and max_steps > whole:
        steps = "1 step" if whole == 1 else f"{whole:,} steps"
        end = "1 epoch" if epochs == 1 else f"{epochs:g} epochs"
        progress.note(f"--max-steps {max_steps} is more than the {steps} of {end}: raise --epochs")


def run_training(trainer: Trainer, work: Path, what: str, progress: Progress) -> None:
    """Trains to the last step, from the last whole checkpoint in `work` if there is one.

    Ctrl-C or a SIGTERM saves a checkpoint after the step under way and raises KeyboardInterrupt.
    Raises MinerError when the loss or the weights are no longer finite, and removes the checkpoints.
    """
    last = last_checkpoint(work)
    steps = trainer.args.max_steps
    done = int(last.name.rpartition("-")[2]) if last else 0
    if last:
        progress.note(f"going on from step {done} of {steps}")
    trainer.remove_callback(PrinterCallback)
    with progress.task(what, steps, done, unit="steps") as advance:
        reports = _Reports(advance, progress.note)
        trainer.add_callback(reports)
        try:
            with _stopping(reports):
                trainer.train(resume_from_checkpoint=str(last) if last else None)
            if not reports.stopped:
                _require_finite(trainer)
        except _DivergedError:
            # The same settings would diverge again from them, and they would be in the way of others.
            for path in work.glob("checkpoint-*"):
                discard(path)
            raise
    if reports.stopped:
        raise KeyboardInterrupt


def _require_finite(trainer: Trainer) -> None:
    """Raises MinerError when the last step, whose loss was still a number, made weights that are none.

    Or such that no vector made of them has a length: their squares are not finite.
    """
    model: Any = trainer.model
    if not all(bool(torch.isfinite(weights.detach().square().sum())) for weights in model.parameters()):
        raise _diverged(f"after step {trainer.state.global_step} not all weights are finite", trainer.args)


def _diverged(told: str, args: Any) -> _DivergedError:
    hint = f"lower --learning-rate, it was {args.learning_rate:g}"
    return _DivergedError(f"training diverged: {told}", f"{hint}; or use --dtype fp32" if args.bf16 else hint)


@contextmanager
def _stopping(reports: _Reports) -> Iterator[None]:
    """Makes Ctrl-C or a SIGTERM end the training with a checkpoint; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        """Asks for the end, and leaves the next signal to whoever had it before."""
        signal.signal(number, before[number])
        reports.stop()

    before: dict[int, Any] = {number: signal.getsignal(number) or signal.SIG_DFL for number in _STOPS}
    try:
        for number in _STOPS:
            signal.signal(number, stop)
        yield
    finally:
        for number in _STOPS:
            signal.signal(number, before[number])


def last_checkpoint(folder: Path) -> Path | None:
    """Returns the newest checkpoint that was written to its end; removes what a kill left of others."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in found:
        if not (path / COMPLETE).exists():
            discard(path)
    return next((path for path in reversed(found) if path.exists()), None)


class _Reports(TrainerCallback):
    """Tells how training goes, and asks for a checkpoint every minute."""

    def __init__(self, advance: Advance, note: Callable[[str], None]) -> None:
        self._advance = advance
        self._note = note
        self._saved = time.monotonic()
        self._asked = False
        self.stopped = False
        """Whether the training was ended before its last step."""

    def stop(self) -> None:
        """Ends the training after the step under way, with a checkpoint."""
        self._asked = True
        self._note("saving a checkpoint after this step; once more ends at once")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Counts the step; saves when asked to stop or when it is time, but not after the last step.

        The last one may also be where another callback, which comes before this one, ends the training. From
        a checkpoint of that step it would go on.
        """
        self._advance(1)
        due = self._asked or time.monotonic() - self._saved >= CHECKPOINT_SECONDS
        last = control.should_training_stop or state.global_step == state.max_steps
        control.should_save = due and not last
        if self._asked and control.should_save:
            self.stopped = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Marks the checkpoint as whole."""
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
        self._saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Tells the mean loss since the last time; raises MinerError when it is not finite."""
        # At the end comes the mean of all, which holds the steps after the last loss that was told.
        loss = (logs or {}).get("loss", (logs or {}).get("train_loss", 0.0))
        if not math.isfinite(loss):
            raise _diverged(f"the loss is {loss} by step {state.global_step} of {state.max_steps}", args)
        if logs and "loss" in logs:
            self._note(f"step {state.global_step} of {state.max_steps}: loss {logs['loss']:.4f}")
