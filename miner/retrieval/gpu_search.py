"""Exact search on one or several GPUs: blocks of document vectors stay there between searches if they fit.

FAISS searches if its GPU edition is installed, else PyTorch. The code also runs on a CPU, where it is tested.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
import torch

from miner.arrays import Matrix
from miner.engine.work import ordered_map
from miner.models.batch_limit import is_out_of_memory
from miner.models.device import resolve_device
from miner.models.encoder import Vectors
from miner.models.similarity import COSINE, DOT, MANHATTAN
from miner.models.vector_cache import RowNumbers, gather, release
from miner.retrieval.nearest import Neighbours, faiss_metric, nearest_of

ROWS = 1 << 18
"""Document vectors in a block: enough for full GPU kernels."""
_CELLS = 1 << 28
"""Scores in a GPU's memory at a time: 1 GiB."""
_SHARE = 0.6
"""The share of a GPU's free memory that blocks may take; the rest is for scores."""
_MERGED = 32
"""Blocks whose neighbours are merged at a time: a selection on the CPU takes as long as a block's search."""
_FAISS_MOST = 2048
"""The most neighbours that FAISS selects on a GPU; PyTorch selects more."""


class Block(Protocol):
    """Document vectors on a device."""

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """Returns the k nearest of the block's vectors to each vector."""
        ...


def gpus() -> list[str]:
    """Returns PyTorch's names of the GPUs that search; empty if there are none."""
    if resolve_device() != "cuda":
        return []
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


class DeviceSearch:
    """Searches `documents[rows]` on several devices, each of which has every n-th block."""

    def __init__(self, documents: Matrix, rows: RowNumbers, similarity: str, devices: Sequence[str]) -> None:
        self._documents, self._rows, self._similarity = documents, rows, similarity
        self._devices = list(devices)
        self._kept: dict[int, Block] = {}
        """The blocks that stay on their device, by their first position."""

    def nearest(self, vectors: Vectors, k: int) -> Neighbours:
        """Returns the k nearest documents of each vector, by fp32 scores, in no order."""
        starts = range(0, len(self._rows), ROWS)
        groups = [list(starts[number :: len(self._devices)]) for number in range(len(self._devices))]
        # One thread per device, and no device with two blocks in work at a time.
        found = ordered_map(lambda group: self._searched(group, vectors, k), groups, len(groups))
        return _best(list(found), k)

    def _searched(self, starts: Sequence[int], vectors: Vectors, k: int) -> Neighbours:
        """Returns the k nearest among the blocks of one device."""
        found = [(np.full((len(vectors), 0), -np.inf, np.float32), np.zeros((len(vectors), 0), np.int64))]
        for start in starts:
            size = min(ROWS, len(self._rows) - start)
            scores, positions = self._block(start, k).search(vectors, min(k, size))
            found.append((scores, positions + start))
            if len(found) == _MERGED:
                found = [_best(found, k)]
        return _best(found, k)

    def _block(self, start: int, k: int) -> Block:
        """Returns a block: the one on the device, else a new one, which stays there if there is room."""
        made = FaissBlock if self._with_faiss and k <= _FAISS_MOST else TorchBlock
        kept = self._kept.get(start)
        if isinstance(kept, made):
            return kept
        number = start // ROWS
        device = self._devices[number % len(self._devices)]
        part = gather(self._documents, self._rows[start : start + ROWS])
        block: Block = made(np.asarray(part, np.float32), self._similarity, device)
        release(self._documents)
        if kept is None and number // len(self._devices) < self._room[device]:
            self._kept[start] = block
        return block

    @cached_property
    def _room(self) -> dict[str, int]:
        """How many blocks stay on each device."""
        size = 4 * ROWS * self._documents.shape[1]
        return {device: int(_SHARE * _free(device)) // size for device in set(self._devices)}

    @cached_property
    def _with_faiss(self) -> bool:
        """Whether the installed FAISS searches on these devices."""
        if importlib.util.find_spec("faiss") is None:
            return False
        import faiss

        return getattr(faiss, "get_num_gpus", lambda: 0)() >= len(self._devices)


def _best(found: Sequence[Neighbours], k: int) -> Neighbours:
    """Returns the k nearest of the neighbours found in several blocks."""
    scores, positions = (np.concatenate(column, axis=1) for column in zip(*found, strict=True))
    return nearest_of(scores, positions, k)


def _free(device: str) -> int:
    """Returns the free memory of a device in bytes; 1 GiB for a CPU."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.startswith("cuda") else 1 << 30


class TorchBlock:
    """Document vectors in a tensor."""

    def __init__(self, vectors: Vectors, similarity: str, device: str) -> None:
        self._vectors = torch.from_numpy(np.array(vectors)).to(device)
        self._similarity = similarity

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """Returns the k nearest of the block's vectors to each vector, for fewer queries at a time if the
        scores do not fit into memory."""
        left = torch.from_numpy(np.array(vectors)).to(self._vectors.device)
        size = max(1, _CELLS // max(1, len(self._vectors)))
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        done = 0
        while done < len(left):
            try:
                found.append(self._top(left[done : done + size], k))
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                size //= 2
                continue
            done += len(found[-1][0])
        scores, positions = (torch.cat(column).cpu().numpy() for column in zip(*found, strict=True))
        return scores, positions

    def _top(self, left: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self._similarity in (COSINE, DOT):
            scores = left @ self._vectors.T
        else:
            scores = -torch.cdist(left, self._vectors, p=1.0 if self._similarity == MANHATTAN else 2.0)
        return tuple(torch.topk(scores, k, dim=1, sorted=False))  # type: ignore[return-value]


@cache
def _resources(device: str) -> Any:
    """Returns FAISS's buffers on a device, which take some GiB, for all of its blocks."""
    import faiss

    return faiss.StandardGpuResources()


class FaissBlock:
    """Document vectors in a flat index of FAISS."""

    def __init__(self, vectors: Vectors, similarity: str, device: str) -> None:
        import faiss

        self._similarity = similarity
        metric = faiss_metric(similarity)
        if device.startswith("cuda"):
            options = faiss.GpuIndexFlatConfig()
            options.device = int(device.partition(":")[2] or 0)
            self._resources = _resources(device)
            self._index: Any = faiss.GpuIndexFlat(self._resources, vectors.shape[1], metric, options)
        else:
            self._index = faiss.IndexFlat(vectors.shape[1], metric)
        self._index.add(vectors)

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """Returns the k nearest of the block's vectors to each vector."""
        scores, positions = self._index.search(np.ascontiguousarray(vectors), k)
        return scores if self._similarity in (COSINE, DOT) else -scores, positions.astype(np.int64)
