"""Running a hostile input in this process, and what is wrong with how it ended."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import duckdb

from miner.cli.main import _run
from tests.fuzz.cases import Case, World, write_sources
from tests.tiny import tiny_bert

LONGEST = 60
"""Seconds that one command may take before it counts as hanging."""
_ENDS = (0, 1, 2)
_MESSAGE = re.compile(r"(?m)^\W*Error\b")
_NEVER = ("Error: unexpected", "Traceback (most recent call last)")


def content_hash(store: Path) -> str:
    """Returns a hash over the rows of all tables in any order; of the file itself if it does not open.

    A table that is damaged counts as that: its file may change around it.
    """
    digest = hashlib.sha256()
    try:
        connection = duckdb.connect(str(store), read_only=True)
    except duckdb.Error:
        return hashlib.sha256(store.read_bytes()).hexdigest()
    with connection:
        try:
            names = connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall()
        except duckdb.Error:
            return "damaged"
        for (name,) in names:
            found: object = "damaged"
            with contextlib.suppress(duckdb.Error):
                found = connection.execute(
                    f'SELECT count(*), sum(hash(t)::HUGEINT)::VARCHAR FROM "{name}" t'
                ).fetchall()
            digest.update(f"{name} {found}".encode())
    return digest.hexdigest()


def world(folder: Path) -> World:
    """Returns good sources, a store with a run, and two tiny models."""
    sources = write_sources(folder)
    store = folder / "good.duckdb"
    models = (tiny_bert(folder / "encoder"), tiny_bert(folder / "reranker", labels=1))
    for arguments in (["ingest", str(store), str(sources[0])], ["mine", str(store)]):
        with quiet() as said:
            code = _run(arguments, False)
        if code:
            raise RuntimeError(said.getvalue())
    return World(folder, store, models, sources)


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Yields what is written to stderr; nothing reaches the screen."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        yield said


def _too_long(signum: int, frame: object) -> None:
    raise TimeoutError


def fault(one: Case) -> str | None:
    """Runs the command and returns what is wrong with its end; None if all is well."""
    before = content_hash(one.store)
    heeded = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST)
    try:
        with quiet() as said:
            code = _run(list(one.arguments), False)
    except BaseException as error:  # whatever leaves _run is a traceback for the user
        return f"{type(error).__name__} left the command: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, heeded)
    text = said.getvalue()
    if code not in _ENDS:
        return f"exit code {code}"
    if never := next((word for word in _NEVER if word in text), None):
        return f"it says {never!r}: {text[:2000]}"
    if code and not _MESSAGE.search(text):
        return f"exit code {code} without a message: {text[:500]!r}"
    if code and content_hash(one.store) != before:
        return f"exit code {code}, and the store has changed: {text[:500]}"
    return None


def smaller(one: Case) -> bytes | None:
    """Returns the smallest content of the case's input found that still ends badly; None without an input."""
    if not one.inputs:
        return None
    (file,), good = one.inputs, one.store.read_bytes()
    data, width = file.read_bytes(), max(1, file.stat().st_size // 2)
    while width:
        position = 0
        while position < len(data):
            less = data[:position] + data[position + width :]
            file.write_bytes(less)
            one.store.write_bytes(good)
            if fault(one) is not None:
                data = less
            else:
                position += width
        width //= 2
        if len(data) > 100_000:
            break
    return data
