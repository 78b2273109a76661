"""Batches that fit into memory: a batch that does not is computed in halves, and later ones are smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Progress
from miner.engine.work import ordered_map, worker_count
from miner.errors import ModelError
from miner.models.batching import GPU_TOKENS, Indices, equal_length_batches, padded_batches, units_of

_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "_alloc_failed",  # of cuBLAS and cuDNN
)
"""What the errors of PyTorch, CUDA, cuBLAS and NumPy say when memory is short, in lower case."""

PLAIN_TEXTS = 32
"""Texts or pairs per batch where the library makes the batches, as by default."""

Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that memory, of the processor or of a GPU, is short."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(message in text for message in _MESSAGES)


class BatchLimit:
    """The largest batch of a model that fits into memory: halved after every out-of-memory error.

    It belongs to a loaded model and learns from all of its batches. The first error gives the user a note.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._sizes: dict[str, int] = {}
        self._noted = False
        self._lock = Lock()

    def fits(self, size: int, unit: str) -> bool:
        """Returns whether no error so far says that a batch of this size is too large."""
        return size <= self._sizes.get(unit, size)

    def too_large(self, size: int, single: bool, unit: str, progress: Progress) -> None:
        """Lowers the limit below a batch of `size` units that did not fit, and frees unused memory of a GPU.

        Raises ModelError if it is a `single` text or pair, which cannot be divided.
        """
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if single:
            raise ModelError(
                f"{self._name}: memory is too small for one input of {size:,} {unit}",
                "close other programs that use the memory, set dtype to bf16, or name a smaller model",
            )
        with self._lock:
            self._sizes[unit] = min(self._sizes.get(unit, size), max(1, size // 2))
            first, self._noted = not self._noted, True
        if first:
            progress.note(
                f"{self._name}: a batch of {size:,} {unit} does not fit into memory; "
                "the batches are halved until they do"
            )

    def in_halves(self, compute: Callable[[int], Result], start: int, progress: Progress = SILENT) -> Result:
        """Returns `compute(texts per batch)` for `start` texts, or for as many as fit into memory.

        It is for computations that make their batches themselves: one that fails is repeated as a whole.
        """
        while True:
            size = min(start, self._sizes.get("texts", start))
            try:
                return compute(size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, whose traceback keeps the tensors of the failed batch alive.
            self.too_large(size, size == 1, "texts", progress)


@dataclass(frozen=True)
class Computing:
    """How `in_batches` computes."""

    limit: BatchLimit
    device: str
    workers: int | None = None
    """Threads on a CPU; None: one per processor."""
    progress: Progress = SILENT
    task: str = "encoding"
    unit: str = "texts"
    """What the progress counts: `texts` or `tokens`."""
    tokens: int = GPU_TOKENS
    """Tokens per batch on a GPU."""


def in_batches(
    lengths: npt.ArrayLike,
    prepare: Callable[[Indices], Prepared],
    forward: Callable[[Prepared], Result],
    how: Computing,
) -> Iterator[tuple[Indices, Result]]:
    """Yields batches of texts or pairs of these lengths in tokens, each with `forward(prepare(batch))`.

    On a CPU the texts of a batch have one length, and `workers` threads compute a batch each with a single
    thread, so that a result does not depend on their number. `prepare` runs in one thread at a time, because
    tokenizers are not safe in several. A batch that does not fit into memory is computed in halves.
    """
    import torch

    sizes = np.asarray(lengths, dtype=np.int64)
    on_cpu = how.device == "cpu"
    batches = equal_length_batches(sizes) if on_cpu else padded_batches(sizes, how.tokens)
    units = units_of(batches, sizes)
    if how.unit == "tokens":
        units = [int(sizes[batch].sum()) for batch in batches]
    parts = _Parts(how, sizes, prepare, forward)
    threads = torch.get_num_threads()
    single = (lambda: torch.set_num_threads(1)) if on_cpu else None
    workers = worker_count(how.workers) if on_cpu else 1
    done = ordered_map(parts.results, map(parts.ready, batches), workers, single)
    try:
        with how.progress.task(how.task, sum(units), unit=how.unit) as advance:
            for results, finished in zip(done, units, strict=True):
                yield from results
                advance(finished)
    finally:
        torch.set_num_threads(threads)


class _Parts(Generic[Prepared, Result]):
    """The results of planned batches, each whole or in parts that fit into memory."""

    def __init__(
        self,
        how: Computing,
        lengths: npt.NDArray[np.int64],
        prepare: Callable[[Indices], Prepared],
        forward: Callable[[Prepared], Result],
    ) -> None:
        self._limit, self._progress = how.limit, how.progress
        self._lengths, self._prepare, self._forward = lengths, prepare, forward
        self._lock = Lock()

    def ready(self, batch: Indices) -> tuple[Indices, Prepared | None]:
        """Returns a batch with the model's input, or without it if the batch is too large."""
        return batch, (self._prepared(batch) if self._limit.fits(self._tokens(batch), "tokens") else None)

    def results(self, ready: tuple[Indices, Prepared | None]) -> list[tuple[Indices, Result]]:
        """Returns the parts of a batch from `ready`, with their results: one part, unless it is too large."""
        batch, prepared = ready
        size, single = self._tokens(batch), len(batch) == 1
        if single or self._limit.fits(size, "tokens"):
            try:
                return [(batch, self._forward(self._prepared(batch) if prepared is None else prepared))]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._limit.too_large(size, single, "tokens", self._progress)
        del ready, prepared
        half = len(batch) // 2
        return [*self.results((batch[:half], None)), *self.results((batch[half:], None))]

    def _prepared(self, batch: Indices) -> Prepared:
        with self._lock:
            return self._prepare(batch)

    def _tokens(self, batch: Indices) -> int:
        """Returns the number of tokens of a batch after padding."""
        return len(batch) * max(1, int(self._lengths[batch].max(initial=0)))
