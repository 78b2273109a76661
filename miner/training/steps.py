"""Runs a trainer to its last step: progress, checkpoints, resuming after a kill, divergence."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from miner.engine.files import discard, write_whole
from miner.engine.load import free_threads
from miner.engine.progress import Advance, Progress
from miner.errors import MinerError, counted
from miner.models.device import resolve_device, resolve_dtype
from miner.processors import cores
from miner.training.encoder_config import EncoderConfig
from miner.training.lora import has_lora
from miner.training.pretrain_config import PretrainConfig
from miner.training.reranker_config import RerankerConfig
from miner.training.workspace import COMPLETE

AnyConfig = EncoderConfig | PretrainConfig | RerankerConfig
"""The settings of any training."""
_STOPS = (signal.SIGINT, signal.SIGTERM)
_THREADS = "threads"
"""The file with the number of threads that a training began with."""
_LORA = "lora.safetensors"
"""The file in a checkpoint with the weights of a model with LoRA."""
CHECKPOINT_SECONDS = 60.0
"""Seconds between checkpoints: the most work that a kill can cost."""


class _DivergedError(MinerError):
    """The loss or the weights are no longer finite."""


def step_count(rows: int, config: AnyConfig) -> int:
    """Returns the number of batches of a training on that many rows, texts or pairs."""
    steps = math.ceil(math.ceil(rows / config.batch_size) * config.epochs)
    return min(steps, config.max_steps or steps)


def arguments_of(config: AnyConfig, work: Path, rows: int, logs: int) -> dict[str, Any]:
    """Returns the library's arguments that all trainings share; the loss is reported `logs` times."""
    device, steps = resolve_device(), step_count(rows, config)
    return {
        "output_dir": str(work),
        "max_steps": steps,
        "per_device_train_batch_size": config.batch_size,
        # Rounded down: a warm-up begins at rate 0, so that a training of one step would change nothing.
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
def training_threads(threads: int | None, work: Path, progress: Progress) -> Iterator[None]:
    """Has PyTorch compute with this number of processor threads; None: as many as are free.

    Another number changes the last digits of the weights. A training that is resumed therefore uses the
    number that it began with, which a file in `work` records.
    """
    before, file = torch.get_num_threads(), work / _THREADS
    recorded = file.read_text("utf-8", "replace") if file.exists() else ""
    threads = threads or (int(recorded) if recorded.isdecimal() else 0) or _free(before, progress)
    if recorded != str(threads):
        write_whole(file, str(threads))
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _free(planned: int, progress: Progress) -> int:
    """The threads that are free, at most the number that PyTorch plans, which ignores quotas."""
    if resolve_device() != "cpu":
        return planned
    return free_threads(planned if os.environ.get("OMP_NUM_THREADS") else min(planned, cores()), progress)


def note_excess(rows: int, config: AnyConfig, progress: Progress) -> None:
    """Notes that `max_steps` has no effect, because the epochs end before."""
    steps, epochs = step_count(rows, replace(config, max_steps=None)), config.epochs
    if config.max_steps is not None and config.max_steps > steps:
        end = "1 epoch" if epochs == 1 else f"{epochs:g} epochs"
        most = counted(steps, "step")
        progress.note(f"max_steps={config.max_steps} is more than the {most} of {end}: raise epochs")


def run_training(trainer: Trainer, work: Path, what: str, progress: Progress) -> None:
    """Trains to the last step, from the last complete checkpoint in `work` if there is one.

    Ctrl-C or a SIGTERM saves a checkpoint after the current step and raises KeyboardInterrupt. If the loss or
    the weights are no longer finite, removes the checkpoints and raises MinerError.
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
            # They would diverge again with the same settings, and be refused with other settings.
            for path in work.glob("checkpoint-*"):
                discard(path)
            raise
    if reports.stopped:
        raise KeyboardInterrupt


def _require_finite(trainer: Trainer) -> None:
    """Raises MinerError if the last step left weights that are not finite, or whose squares are not.

    With the latter, no vector has a finite length.
    """
    model: Any = trainer.model
    if not all(bool(torch.isfinite(weights.detach().square().sum())) for weights in model.parameters()):
        raise _diverged(f"after step {trainer.state.global_step} not all weights are finite", trainer.args)


def _diverged(reason: str, args: Any) -> _DivergedError:
    hint = f"lower learning_rate, it was {args.learning_rate:g}"
    return _DivergedError(
        f"training diverged: {reason}", f"{hint}; or train with dtype fp32" if args.bf16 else hint
    )


@contextmanager
def _stopping(reports: _Reports) -> Iterator[None]:
    """Makes Ctrl-C or a SIGTERM end the training with a checkpoint; a second signal ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        """Requests the end, and restores the previous handler for the next signal."""
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
    """Returns the newest complete checkpoint; removes incomplete ones, which a kill left."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in checkpoints:
        if not (path / COMPLETE).exists():
            discard(path)
    return next((path for path in reversed(checkpoints) if path.exists()), None)


class LeanCheckpoints:
    """For the library's trainers: no model card, no pickled settings, and the loss's own weights are saved.

    The loss has weights of its own for softmax (the classifier) and TSDAE (the decoder). A model with LoRA is
    saved as it is, with its matrices beside the weights.
    """

    args: Any
    loss: Any
    model: Any
    _FILES: ClassVar[dict[str, str]] = {"classifier": "head.safetensors", "decoder": "decoder.safetensors"}

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Adds none."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = output_dir or str(self.args.output_dir)
        if has_lora(self.model):
            Path(folder).mkdir(parents=True, exist_ok=True)
            save_weights(self.model, str(Path(folder) / _LORA))
        else:
            self.model.save_pretrained(folder, create_model_card=False)
        for name, file in self._FILES.items():
            if (part := getattr(self.loss, name, None)) is not None:
                save_weights(part, str(Path(folder) / file))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if (weights := Path(resume_from_checkpoint) / _LORA).exists():
            load_weights(self.model, weights, device=str(self.model.device))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint)  # type: ignore[misc]
        for name, file in self._FILES.items():
            if (part := getattr(self.loss, name, None)) is not None:
                load_weights(part, Path(resume_from_checkpoint) / file, device=str(self.model.device))


class _Reports(TrainerCallback):
    """Reports the progress of a training, and requests a checkpoint every minute."""

    def __init__(self, advance: Advance, note: Callable[[str], None]) -> None:
        self._advance = advance
        self._note = note
        self._saved = time.monotonic()
        self._stop_requested = False
        self.stopped = False
        """Whether the training ended before its last step."""

    def stop(self) -> None:
        """Ends the training after the current step, with a checkpoint."""
        self._stop_requested = True
        self._note("saving a checkpoint after this step; a second signal ends at once")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Counts the step; requests a checkpoint on a stop request or when a minute is over.

        It requests none after the last step, nor if an earlier callback has ended the training: a training
        resumed from that step would go on.
        """
        self._advance(1)
        due = self._stop_requested or time.monotonic() - self._saved >= CHECKPOINT_SECONDS
        last = control.should_training_stop or state.global_step == state.max_steps
        control.should_save = due and not last
        if self._stop_requested and control.should_save:
            self.stopped = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Marks the checkpoint as complete."""
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
        self._saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Reports the mean loss since the last report; raises MinerError if it is not finite."""
        # `train_loss`, reported at the end, also covers the steps after the last report.
        loss = (logs or {}).get("loss", (logs or {}).get("train_loss", 0.0))
        if not math.isfinite(loss):
            raise _diverged(f"the loss is {loss} by step {state.global_step} of {state.max_steps}", args)
        if logs and "loss" in logs:
            self._note(f"step {state.global_step} of {state.max_steps}: loss {logs['loss']:.4f}")
