"""Kills commands before their file operations, and at random, and compares what the same command then makes.

`python -m tests.kills --kills 200` is the long version of `test_kills`. Each command runs in a process of its
own, which counts its operations and kills itself before the one that it was told.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import forking

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
_CLOCKS = ("started", "finished", "begun", "seconds", "measure_seconds")
"""Columns and keys that are of the clock."""


# --- the child


class Counter:
    """Counts operations on files below a folder and statements to stores; kills before number `at`."""

    def __init__(self, folder: Path, at: int) -> None:
        self.count = 0
        self._folder, self._at, self._process = f"{folder}{os.sep}", at, os.getpid()

    def tick(self) -> None:
        """Counts one, or kills the process."""
        self.count += 1
        if self.count == self._at:
            os.kill(self._process, signal.SIGKILL)

    def watch(self, event: str, values: tuple[Any, ...]) -> None:
        """Hears of everything that Python does; counts what changes files."""
        if event == "open":
            path, _, flags = values
            if isinstance(flags, int) and flags & _WRITES and self._is_below(path):
                self.tick()
        elif event in _CHANGES and (self._is_below(values[0]) or not os.path.isabs(os.fsdecode(values[0]))):
            self.tick()

    def _is_below(self, path: object) -> bool:
        return isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(self._folder)


def _watch_stores(counter: Counter) -> None:
    """Counts what DuckDB does, of which Python hears nothing: each statement that writes, and each commit."""
    from miner.store.database import Database

    execute, insert, transaction = Database.execute, Database.insert, Database.transaction

    def counted_execute(self: Database, *values: Any) -> None:
        counter.tick()
        execute(self, *values)

    def counted_insert(self: Database, *values: Any, **constants: str) -> None:
        counter.tick()
        insert(self, *values, **constants)

    @contextmanager
    def counted_transaction(self: Database) -> Iterator[None]:
        with transaction(self):
            yield
            counter.tick()

    Database.execute, Database.insert, Database.transaction = (  # type: ignore[method-assign]
        counted_execute, counted_insert, counted_transaction,
    )  # fmt: skip


def _small_steps() -> None:
    """Makes chunks small and checkpoints frequent: there are more moments between which to be killed."""
    import miner.mining.scoring
    import miner.retrieval.search
    import miner.training.reranker_teacher
    import miner.training.steps

    miner.retrieval.search.CHUNK = 4
    miner.mining.scoring.CHUNK = 64
    miner.training.reranker_teacher.CHUNK = 16
    miner.training.steps.CHECKPOINT_SECONDS = 0.0


def _counted(folder: str, arguments: list[str], at: int, log: str) -> None:
    """Runs one command in the folder, and writes how many operations it took."""
    os.chdir(folder)
    _small_steps()
    counter = Counter(Path(folder), at)
    _watch_stores(counter)
    sys.addaudithook(counter.watch)
    try:
        forking.command(arguments)
    finally:
        Path(log).write_text(str(counter.count))


class Commands:
    """Runs commands, each in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "operations"
        self.output = ""
        """What the last command printed."""

    def run(self, folder: Path, arguments: list[str], at: int = 0, after: float | None = None) -> int:
        """Runs a command and returns its exit code; kills it before operation `at`, or after some seconds."""
        running = forking.start(_counted, folder, arguments, at, self._log)
        if after is not None:
            killer = threading.Timer(after, os.kill, (running.pid, signal.SIGKILL))
            killer.start()
        ended = running.wait()
        if after is not None:
            killer.cancel()
        self.output = ended.out + ended.err
        return ended.code

    @property
    def operations(self) -> int:
        """How many operations the last command counted, which came to its end."""
        return int(self._log.read_text())


# --- what a folder holds


def content(folder: Path, below: str = "") -> dict[str, Any]:
    """Returns all that a folder holds, without what is of the clock: files, links, and the rows of stores.

    Of cached vectors only that there are some: their order in the cache is no result. With `below` only what
    is at or below that name.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if below and not f"{name}/".startswith(f"{below}/"):
            continue
        if path.is_dir() or ".vectors/" in name:
            found[name] = None
        elif path.suffix == ".duckdb":
            found[name] = _rows(path)
        else:
            found[name] = _of_file(path)
    return {name: one for name, one in found.items() if ".vectors/" not in name}


def _rows(path: Path) -> dict[str, list[str]]:
    from miner.store.database import Database

    with Database.open(path, read_only=True) as store:
        tables = store.rows(
            """SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns()
            WHERE table_name IN (SELECT table_name FROM duckdb_tables()) GROUP BY ALL ORDER BY ALL"""
        )
        found = {}
        for table, columns in tables:
            kept = ", ".join(f'"{name}"' for name in columns if name not in _CLOCKS)
            chance = "WHERE key <> 'id'" if table == "meta" else ""  # each store has an id of its own
            rows = store.rows(f'SELECT {kept} FROM "{table}" {chance} ORDER BY ALL')
            found[table] = [repr(row) for row in rows]
        return found


def _of_file(path: Path) -> Any:
    data = path.read_bytes()
    if path.suffix == ".json":
        return _without_clocks(json.loads(data))
    if path.name == "README.md":
        return re.sub(r"\d[\d.,]* (?:s|seconds|minutes)\b", "…", data.decode())
    return data


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clocks(one) for key, one in value.items() if key not in _CLOCKS}
    return [_without_clocks(one) for one in value] if isinstance(value, list) else value


def differences(folder: Path, expected: Mapping[str, Any]) -> list[str]:
    """Returns the names in a folder that hold something else than expected, are missing, or are left over."""
    found = content(folder)
    missing = object()
    return [
        name
        for name in sorted({*found, *expected})
        if found.get(name, missing) != expected.get(name, missing)
    ]


# --- the commands


@dataclass(frozen=True)
class Case:
    """A command that writes."""

    arguments: str
    out: str = ""
    """The file or folder that is never there in part."""
    made_again: bool = True
    """Whether the same command ends well when the first one had done all but end."""

    def words(self, folder: Path) -> list[str]:
        """Returns the arguments; names are of files in the folder."""
        return [word.replace("@", f"{folder}/") for word in self.arguments.split(" ")]


_STATIC = "--base scratch --set tokenizer=@encoder --set dimension=16 --set max_steps=4 --set batch_size=8"
_TINY = "--base @encoder --set max_steps=2 --set batch_size=4"
CASES = {
    "ingest": Case("ingest @new.duckdb @source", "new.duckdb"),
    "ingest more": Case("ingest @s.duckdb @source"),
    "dedup": Case("dedup @s.duckdb --set threshold=0.5"),
    "mine": Case("mine @s.duckdb --name again --depth 9 --encoder @encoder --reranker @reranker"),
    "decide": Case("decide @s.duckdb --run r1 --relative-margin 0.4 --name other"),
    "audit": Case("audit @s.duckdb --set repeats=2"),
    "calibrate": Case("calibrate @s.duckdb --keep-coverage --set repeats=2 --out @rules.toml", "rules.toml"),
    "relabel": Case("relabel @s.duckdb --probability 0.1 --set repeats=2"),
    "contamination": Case("contamination @s.duckdb @other.duckdb --out @matches.jsonl", "matches.jsonl"),
    "contamination --remove": Case(
        "contamination @s.duckdb @other.duckdb --out @matches.jsonl --remove", "matches.jsonl"
    ),
    "runs --remove": Case("runs @s.duckdb --remove r1", made_again=False),
    "export": Case("export @s.duckdb @new --file-type datasets", "new"),
    "export --force": Case("export @s.duckdb @exported --scores --force", "exported"),
    "report": Case("report @s.duckdb @page.html", "page.html"),
    "sql": Case("sql @s.duckdb FROM\ttriplet_texts --out @rows.parquet", "rows.parquet"),
    "evaluate": Case("evaluate @encoder @s.duckdb --split dev --out @figures.json", "figures.json"),
    "train": Case(f"train @s.duckdb @new --set dev_split=dev --set evaluations=2 {_STATIC}", "new"),
    "train --force": Case(
        f"train @s.duckdb @trained --set evaluations=0 {_STATIC} --set seed=3 --force", "trained"
    ),
    "train-reranker": Case(
        f"train-reranker @s.duckdb @new --folds 2 --set held_out=0.2 --set skip_top=0 {_TINY}", "new"
    ),
    "train-reranker, a teacher": Case(
        "train-reranker @s.duckdb @new --loss adrmse --set teacher=@reranker --set held_out=0.2 "
        f"--set skip_top=0 {_TINY}",
        "new",
    ),
    "pretrain": Case(f"pretrain @s.duckdb @new {_TINY}", "new"),
    "silver": Case("silver @s.duckdb --set encoder=none --reranker @reranker"),
    "bench": Case(
        "bench @s.duckdb --arms easy --sizes 8 --split dev --out @new --base scratch "
        "--set tokenizer=@encoder --set dimension=16 --set max_steps=2 --set batch_size=8"
    ),
    "loop": Case(
        "loop @s.duckdb @new --rounds 1 --set encoder=@encoder --set evaluations=0 "
        + _STATIC.replace("--base scratch", "--set training.base=scratch").replace(
            "dimension", "training.dimension"
        )
    ),
}


def prepare(folder: Path, commands: Commands) -> None:
    """Makes stores, models and results, which every command begins with a copy of."""
    from tests.stores import make_store
    from tests.test_audit import corpus
    from tests.tiny import tiny_bert

    documents, queries, judged = corpus()
    last = sorted(queries)[-3:]
    judgments = [(q, d, "dev" if q in last else "train") for q, d in judged]
    make_store(folder / "s.duckdb", documents, queries, judgments).close()
    copies = {f"t{number}": queries[query] for number, query in enumerate(list(queries)[:2])}
    make_store(
        folder / "other.duckdb", documents, copies, [("t0", "x00", "test"), ("t1", "x01", "test")]
    ).close()
    (folder / "source").mkdir()
    rows = [{"query": f"what is {text}", "positive": f"{text} is that"} for text in queries.values()]
    (folder / "source" / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    tiny_bert(folder / "encoder", initializer_range=0.05)
    tiny_bert(folder / "reranker", labels=1)
    for line in (
        "mine @s.duckdb --relative-margin 0.0",
        "export @s.duckdb @exported",
        f"train @s.duckdb @trained --set evaluations=0 {_STATIC}",
    ):
        assert commands.run(folder, Case(line).words(folder)) == 0, commands.output


class World:
    """A prepared folder of which each command gets a copy, always under the same name."""

    def __init__(self, folder: Path) -> None:
        self._template, self.folder = folder / "template", folder / "world"
        self._commands = Commands(folder)
        self.folder.mkdir()
        prepare(self.folder, self._commands)
        self.folder.rename(self._template)
        self._undisturbed: dict[str, tuple[dict[str, Any], int, float]] = {}

    def _fresh(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self._template, self.folder)

    def undisturbed(self, name: str) -> tuple[dict[str, Any], int, float]:
        """Returns what a command makes that is left alone, in how many operations and seconds."""
        if name not in self._undisturbed:
            self._fresh()
            started = time.monotonic()
            code = self._commands.run(self.folder, CASES[name].words(self.folder))
            assert code == 0, f"{name}: {self._commands.output}"
            seconds = time.monotonic() - started
            self._undisturbed[name] = content(self.folder), self._commands.operations, seconds
        return self._undisturbed[name]

    def killed(self, name: str, at: int = 0, after: float | None = None) -> bool:
        """Kills a command, runs it again, and checks what that makes; returns whether the kill hit it."""
        expected, _, _ = self.undisturbed(name)
        words, when = CASES[name].words(self.folder), f"at {at}" if after is None else f"after {after:.3f} s"
        self._fresh()
        code = self._commands.run(self.folder, words, at, after)
        if code == 0:
            return False
        assert code == -signal.SIGKILL, f"{name} {when}: {code}, {self._commands.output}"
        self._require_whole(CASES[name].out, expected, f"{name}, killed {when}")
        again = self._commands.run(self.folder, words)
        finished = not CASES[name].made_again and again == 2 and not differences(self.folder, expected)
        assert again == 0 or finished, f"{name}, killed {when}, does not run again: {self._commands.output}"
        wrong = differences(self.folder, expected)
        assert not wrong, f"{name}, killed {when}, then made something else: {wrong}"
        return True

    def _require_whole(self, out: str, expected: Mapping[str, Any], what: str) -> None:
        """Checks that a result is the old one or the new one, and nothing between."""
        if out:
            now = content(self.folder, out)
            before = content(self._template, out)
            assert now in (before, _below(expected, out)), (
                f"{what}, {out} is neither old nor new: {list(now)}"
            )


def _below(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {path: one for path, one in found.items() if f"{path}/".startswith(f"{name}/")}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Kills all commands, half before a file operation and half at random, and prints the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--every", action="store_true", help="before every operation, however many there are")
    parser.add_argument("--only", choices=list(CASES), action="append")
    given = parser.parse_args()
    rng, failed = random.Random(given.seed), 0
    names = given.only or list(CASES)
    each = -(-given.kills // len(names) // 2)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(os.path.realpath(folder)))
        for name in names:
            _, operations, seconds = world.undisturbed(name)
            points = range(1, operations + 1)
            chosen = points if given.every else sorted(rng.sample(points, min(each, operations)))
            kills: Iterator[dict[str, Any]] = itertools.chain(
                ({"at": at} for at in chosen), ({"after": rng.uniform(0, seconds)} for _ in range(each))
            )
            hit = done = 0
            for kill in kills:
                done += 1
                try:
                    hit += world.killed(name, **kill)
                except AssertionError as error:
                    failed += 1
                    _say(str(error))
            _say(f"{name}: {operations} operations, {seconds:.1f} s, {hit} of {done} kills hit")
    _say(f"{failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
