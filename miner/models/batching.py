"""Batches of texts for a transformer, by their length in tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from miner.engine.progress import Progress
from miner.engine.work import ordered_map, worker_count

CPU_TOKENS = 1024
"""Tokens per batch on a CPU: 512 to 2,048 are equally fast, more do not fit into its cache."""
GPU_TOKENS = 32_768

Indices = npt.NDArray[np.int64]
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


def equal_length_batches(lengths: npt.ArrayLike, tokens: int = CPU_TOKENS) -> list[Indices]:
    """Returns batches of indices, each of texts of one length and of about `tokens` tokens.

    Nothing is padded, so that no computation is wasted and a text's vector does not depend on longer texts in
    its batch. The batches depend only on the lengths.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    batches: list[Indices] = []
    cuts = np.append(np.flatnonzero(np.diff(sizes[order], prepend=-1)), len(order)).tolist()
    for start, stop in pairwise(cuts):
        per_batch = max(1, tokens // max(1, int(sizes[order[start]])))
        batches += [order[i : min(i + per_batch, stop)] for i in range(start, stop, per_batch)]
    return batches


def units_of(batches: Sequence[Indices], lengths: npt.ArrayLike) -> list[int]:
    """Returns the progress units of each batch: its share of the tokens, scaled to the number of texts.

    Batches are ordered by length; counting texts would make the work look fast while the texts are short.
    """
    sizes = np.maximum(1.0, np.asarray(lengths, dtype=np.float64))
    tokens = np.cumsum([sizes[batch].sum() for batch in batches])
    texts = np.floor(tokens / sizes.sum() * len(sizes) + 0.5).astype(np.int64)
    units: list[int] = np.diff(texts, prepend=0).tolist()
    return units


def padded_batches(lengths: npt.ArrayLike, tokens: int = GPU_TOKENS) -> list[Indices]:
    """Returns batches of indices, longest texts first, of at most `tokens` tokens after padding."""
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    batches: list[Indices] = []
    start = 0
    while start < len(order):
        per_batch = max(1, tokens // max(1, int(sizes[order[start]])))
        batches.append(order[start : start + per_batch])
        start += per_batch
    return batches


def in_batches(
    lengths: Sequence[int],
    prepare: Callable[[Indices], Prepared],
    forward: Callable[[Prepared], Result],
    *,
    device: str,
    workers: int | None,
    progress: Progress,
    tokens: int = GPU_TOKENS,
) -> Iterator[tuple[Indices, Result]]:
    """Yields batches of texts of these lengths in tokens, each with `forward(prepare(batch))`.

    On a CPU the texts of a batch have one length, and `workers` threads compute a batch each with a single
    thread, so that a result does not depend on their number; `prepare` runs in the calling thread, because
    tokenizers are not safe in several. On a GPU a batch has up to `tokens` tokens. Progress counts texts.
    """
    import torch

    on_cpu = device == "cpu"
    batches = equal_length_batches(lengths) if on_cpu else padded_batches(lengths, tokens)
    threads = torch.get_num_threads()
    single = (lambda: torch.set_num_threads(1)) if on_cpu else None
    results = ordered_map(forward, map(prepare, batches), worker_count(workers) if on_cpu else 1, single)
    try:
        with progress.task("encoding", len(lengths), unit="texts") as advance:
            for batch, result, units in zip(batches, results, units_of(batches, lengths), strict=True):
                yield batch, result
                advance(units)
    finally:
        torch.set_num_threads(threads)
