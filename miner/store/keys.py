"""The keys of arriving texts, which other processes compute while this one reads on.

They are a good third of the work of an ingest, in Python and therefore on one processor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import local

import pyarrow as pa

from miner.processors import cores
from miner.text import document_keys

_MOST = 2
"""Processes that are as fast as one that reads."""
_LARGE = 4 << 20
"""Bytes of a table from which on its keys take longer than sending it."""
_SERVE = "from miner.store.keys import serve; serve()"
_READY = b"\0ready for texts\n"
"""What a process writes before its keys. A Python may print before that, such as by its sitecustomize."""
_TEXTS = pa.schema([("title", pa.string()), ("text", pa.string())])
_KEYS = pa.schema([("text_key", pa.int64()), ("passage_key", pa.int64())])


class Keying:
    """Computes the keys of tables of texts, the large ones after the first in other processes."""

    def __init__(self, processes: int | None = None) -> None:
        """`processes` is the number of other ones, by default as many as there are processors for."""
        # In a frozen program, sys.executable is the program, which knows nothing of Python's options.
        has_python = sys.executable and not getattr(sys, "frozen", False)
        spare = min(_MOST, cores() - 1) if has_python else 0
        self.processes = spare if processes is None else processes
        self._pool = ThreadPoolExecutor(max(1, self.processes))
        self._helpers: list[_Helper] = []
        self._local = local()
        self._has_begun = self._is_closed = False

    def begin(self, name: str, table: pa.Table) -> Callable[[], pa.Table]:
        """Begins with the table `name`, `documents` or `queries`; the function it returns waits for the end.

        It returns the table with the columns text_key and, for documents, passage_key.
        """
        titles = table["title"] if name == "documents" else pa.array([""] * table.num_rows)
        texts = pa.table([titles, table["text"]], schema=_TEXTS)
        is_large = texts.nbytes >= _LARGE
        keys: Callable[[], pa.Table] = partial(_computed, texts)
        if is_large and self.processes and self._has_begun:
            keys = self._pool.submit(self._apart, texts).result
        self._has_begun |= is_large
        return partial(_with_keys, name, table, keys)

    def _apart(self, texts: pa.Table) -> pa.Table:
        """Returns the keys from the process of this thread; computes them here if that process is lost."""
        if not hasattr(self._local, "keys_of"):
            self._local.keys_of = self._new_helper()
        try:
            return self._local.keys_of(texts)
        except (OSError, pa.ArrowException, StopIteration):
            if self._is_closed:
                raise
            self._local.keys_of = _computed
            return _computed(texts)

    def _new_helper(self) -> Callable[[pa.Table], pa.Table]:
        try:
            self._helpers.append(helper := _Helper())
        except OSError:  # the system allows no more processes
            return _computed
        return helper.keys_of

    def close(self) -> None:
        """Ends the other processes, and does not wait for what they compute."""
        self._is_closed = True
        for helper in self._helpers:
            helper.process.kill()
        self._pool.shutdown(cancel_futures=True)
        for helper in self._helpers:
            helper.process.communicate()


def _with_keys(name: str, table: pa.Table, keys: Callable[[], pa.Table]) -> pa.Table:
    found = keys()
    table = table.append_column("text_key", found["text_key"])
    return table.append_column("passage_key", found["passage_key"]) if name == "documents" else table


class _Helper:
    """A process that computes keys; it ends when this one does, however that ends."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for this process alone
        )
        self._texts = pa.ipc.new_stream(self.process.stdin, _TEXTS)
        self._keys: pa.ipc.RecordBatchStreamReader | None = None

    def keys_of(self, texts: pa.Table) -> pa.Table:
        """Sends texts, waits for their keys; raises OSError or an ArrowException if the process is lost."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self._keys is None and not any(line.endswith(_READY) for line in self.process.stdout):
            raise OSError("it has ended before it was ready")
        (batch,) = texts.combine_chunks().to_batches()
        self._texts.write_batch(batch)
        self.process.stdin.flush()
        if self._keys is None:
            self._keys = pa.ipc.open_stream(self.process.stdout)
        return pa.Table.from_batches([self._keys.read_next_batch()])


def serve() -> None:
    """Reads texts from stdin and writes their keys to stdout, until stdin ends."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what anything else prints from now on is not taken for keys
        out.write(_READY)
        out.flush()
        with pa.ipc.open_stream(sys.stdin.buffer) as texts, pa.ipc.new_stream(out, _KEYS) as keys:
            for batch in texts:
                keys.write_table(_computed(pa.Table.from_batches([batch])))
                out.flush()


def _computed(texts: pa.Table) -> pa.Table:
    keys, passages = document_keys(texts["title"].to_pylist(), texts["text"].to_pylist())
    return pa.table([pa.array(keys, pa.int64()), pa.array(passages, pa.int64())], schema=_KEYS)
