"""Shards: parts of a collection, consecutive documents, each searched by itself, here or in a worker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from pyarrow import fs

from miner.collection.collection import Floats, Hits, Ints
from miner.engine.cluster import Cluster
from miner.errors import ClusterError
from miner.retrieval.ranked import ranked
from miner.text import fingerprint

_COMPLETE = "complete"
"""The file that a kept shard has when all its other files are there."""


class Home(Protocol):
    """Where a shard is: `miner.engine.cluster.Resident`, or `Here`."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Returns what a method of the shard returns."""
        ...

    def keep(self, method: str, *arguments: Any) -> Any:
        """Calls a method whose effect stays with the shard."""
        ...


class Here:
    """A shard in this process."""

    def __init__(self, shard: Any) -> None:
        self._shard = shard

    def call(self, method: str, *arguments: Any) -> Any:
        """Returns what a method of the shard returns."""
        return getattr(self._shard, method)(*arguments)

    keep = call


class Shards:
    """The shards of a collection.

    The methods `search` and `score_pairs` of a shard take and return positions in the whole collection, and
    `search` gives the best of the shard's documents, exactly; those of all shards are then the same,
    however many there are.
    """

    def __init__(
        self, homes: Sequence[Home], ranges: Sequence[range], stop: Callable[[], None] | None = None
    ) -> None:
        """`stop` ends the computing of what is not wanted any more."""
        self._homes, self._stop = homes, stop
        self._stops = np.array([one.stop for one in ranges])

    def each(self, method: str, *arguments: Any) -> list[Any]:
        """Returns what a method of every shard returns, computed at the same time."""
        return self._together([(home.call, (method, *arguments)) for home in self._homes])

    def keep(self, method: str, *arguments: Any) -> None:
        """Calls a method of every shard whose effect stays."""
        self._together([(home.keep, (method, *arguments)) for home in self._homes])

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the best `depth` documents of each query; ties by position."""
        parts: list[Hits] = self.each("search", queries, depth)
        if len(parts) == 1:
            return parts[0]
        query, doc = (np.concatenate([getattr(one, name) for one in parts]) for name in ("query", "doc"))
        return ranked(query, doc, np.concatenate([one.score for one in parts]), depth)

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the score of each (query, document) pair of positions."""
        if len(self._homes) == 1:
            scores: Floats = self._homes[0].call("score_pairs", query, doc)
            return scores
        owner = np.searchsorted(self._stops, doc, side="right")
        parts = [np.flatnonzero(owner == number) for number in range(len(self._homes))]
        used = [number for number, part in enumerate(parts) if len(part)]
        found = self._together(
            [
                (self._homes[number].call, ("score_pairs", query[parts[number]], doc[parts[number]]))
                for number in used
            ]
        )
        result = np.empty(len(query))
        for number, one in zip(used, found, strict=True):
            result[parts[number]] = one
        return result

    def _together(self, calls: Sequence[tuple[Any, tuple[Any, ...]]]) -> list[Any]:
        if len(calls) < 2:
            return [function(*arguments) for function, arguments in calls]
        with ThreadPoolExecutor(len(calls)) as pool:
            waiting = [pool.submit(function, *arguments) for function, arguments in calls]
            try:
                return [one.result() for one in waiting]
            except BaseException:
                if self._stop is not None:
                    self._stop()
                raise


def shard_key(what: Any, documents: range, ids: pa.Array) -> str:
    """Returns the name under which a shard is kept: of what its content depends on, and of its documents."""
    own = ids.slice(documents.start, len(documents))
    digest = hashlib.blake2b(pa.record_batch([own], ["id"]).serialize(), digest_size=8)
    return f"{fingerprint(what)[:16]}-{documents.start}-{documents.stop}-{digest.hexdigest()}"


def shard_ranges(documents: int, cluster: Cluster) -> list[range]:
    """Returns the documents of each shard: one for each worker, of equal size."""
    ends = np.linspace(0, documents, min(cluster.size, max(1, documents)) + 1).astype(np.int64).tolist()
    return [range(start, stop) for start, stop in pairwise(ends)]


class ShardFiles:
    """The files of a shard in a worker: in a folder of its own, and in the work folder if there is one.

    Raises ClusterError if the work folder cannot be used.
    """

    def __init__(self, work: str | None, key: str) -> None:
        self._temporary = TemporaryDirectory(prefix="miner-shard-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self._work, self._key = work, key

    def restored(self) -> bool:
        """Copies the files from the work folder; returns whether they are there, all and whole."""
        if self._work is None:
            return False
        with _usable(self._work):
            system, folder = self._remote(self._work)
            last = f"{folder}/{_COMPLETE}"
            if system.get_file_info(last).type != fs.FileType.File:
                return False
            with system.open_input_stream(last) as file:
                sizes: dict[str, int] = json.loads(file.read())
            fs.copy_files(folder, str(self.folder), source_filesystem=system)
            if sizes == self._sizes():
                return True
            for part in self.folder.iterdir():  # what is built in their place must not be added to them
                part.unlink()
            system.delete_file(last)
        return False

    def save(self) -> None:
        """Copies the files into the work folder, if there is one and it does not have them."""
        if self._work is None:
            return
        with _usable(self._work):
            system, folder = self._remote(self._work)
            last = f"{folder}/{_COMPLETE}"
            if system.get_file_info(last).type == fs.FileType.File:
                return
            system.create_dir(folder, recursive=True)
            fs.copy_files(str(self.folder), folder, destination_filesystem=system)
            with system.open_output_stream(last) as file:
                file.write(json.dumps(self._sizes()).encode())

    def remove(self) -> None:
        """Removes the folder. Files that are mapped stay until the worker ends, however it does."""
        self._temporary.cleanup()

    def _sizes(self) -> dict[str, int]:
        return {file.name: file.stat().st_size for file in self.folder.iterdir() if file.name != _COMPLETE}

    def _remote(self, work: str) -> tuple[Any, str]:
        system, path = fs.FileSystem.from_uri(work)
        return system, f"{path.rstrip('/')}/{self._key}"


@contextmanager
def _usable(work: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ClusterError(
            f"the work folder {work} cannot be used: {error}",
            "give one that every node can read and write, such as s3://bucket/folder or file:///shared/folder",
        ) from error
