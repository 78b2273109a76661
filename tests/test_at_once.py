"""Two commands at once on one store and one folder of vectors: each ends with what it ends with alone."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from miner.store.database import Database
from tests import forking
from tests.at_once import Command, Ended, run
from tests.stores import make_store
from tests.tiny import tiny_bert

pytestmark = pytest.mark.slow

ON_CPU = "--set dtype=fp32 --set threads=1"
TRAINING = (
    "--base scratch --set batch_size=8 --set dtype=fp32 --set threads=1 --set dimension=8 --set max_steps=3"
)
FIXED = """SELECT count(*), round(sum(negative_score), 6), any_value(split)
    FROM triplets JOIN runs USING (run_id) WHERE name = 'r1'"""
EVALUATE = "--set queries=12 --json --per-query"
HIDING = "--run r1 --set repeats=2 --json"


def fill(path: Path) -> None:
    """A store of 24 topics with 4 documents each: queries of three splits, most with two positives."""
    rng = random.Random(5)
    documents, queries, judged = {}, {}, []
    for topic in range(24):
        words = [f"w{topic}x{i}" for i in range(6)] + [f"common{i}" for i in range(4)]
        for i in range(4):
            documents[f"d{topic:02}{i}"] = " ".join(rng.choices(words, k=12))
        for i, split in enumerate(("train", "train", "dev", "test")):
            query = f"q{topic:02}{i}"
            queries[query] = " ".join(rng.sample(words, 4))
            judged += [(query, f"d{topic:02}{doc}", split) for doc in rng.sample(range(4), 2)]
    documents["copy"] = documents["d000"]
    make_store(path, documents, queries, judged).close()


@dataclass(frozen=True)
class Base:
    """What every test starts from: a store with run r1, and two small models."""

    folder: Path
    reranker: str
    encoder: str

    def copy(self, to: Path) -> Path:
        """Returns the path of a copy of the store, vectors included."""
        shutil.copytree(self.folder, to)
        return to / "s.duckdb"

    def words(self, line: str) -> list[str]:
        """Returns the words of a command with the models in it."""
        return line.replace("RERANKER", self.reranker).replace("ENCODER", self.encoder).split()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("base")
    models = tmp_path_factory.mktemp("models")
    reranker, encoder = str(tiny_bert(models / "reranker", labels=1)), str(tiny_bert(models / "encoder"))
    store = folder / "s.duckdb"
    fill(store)
    ended = forking.miner(
        "mine", store, "--name", "r1", "--encoder", encoder, "--depth", 20, "--negatives", 3
    )
    assert ended.code == 0, ended.err
    return Base(folder, reranker, encoder)


def pairs(base: Base) -> dict[str, tuple[list[str], list[str]]]:
    """Two commands each, with STORE and OUT to be filled in; `*` before the name of one that is repeated."""
    mine = "mine STORE --encoder ENCODER --depth 15 --name"
    sql = ["*sql", "STORE", FIXED, "--format", "csv"]
    export = "*export STORE OUT --run r1 --scores --force"
    silver = "silver STORE --set encoder=none --set depth=5 --set per_query=2 --reranker"
    bench = f"bench STORE --arms easy,hard-filtered --sizes 16 --run r1 --json --out OUT {TRAINING}"
    lines: dict[str, tuple[str, str | list[str]]] = {
        "mine and sql": (f"{mine} r2", sql),
        "mine with a reranker and export": (f"{mine} r3 --reranker RERANKER", export),
        "audit and evaluate": (f"audit STORE {HIDING}", f"evaluate ENCODER STORE {EVALUATE}"),
        "calibrate and runs": (f"calibrate STORE {HIDING} --target 0.9", "*runs STORE --json"),
        "train and decide": (
            f"train STORE OUT --run r1 {TRAINING} --set evaluations=0",
            "decide STORE --run r1 --name strict --relative-margin 0.2",
        ),
        "evaluate and evaluate": (
            f"evaluate bundled STORE --split dev {EVALUATE}",
            f"evaluate bundled STORE --split test {EVALUATE}",
        ),
        "dedup and explain": ("dedup STORE --json", "*explain STORE q000 --run r1 --json"),
        "relabel and export": (f"relabel STORE {HIDING}", export),
        "bench and sql": (bench, sql),
        "silver and evaluate": (
            f"{silver} RERANKER",
            f"evaluate RERANKER STORE --set depth=5 {EVALUATE}",
        ),
    }
    return {
        name: (base.words(first), base.words(second) if isinstance(second, str) else second)
        for name, (first, second) in lines.items()
    }


def command(arguments: Sequence[str], store: Path, name: str) -> Command:
    folder = store.parent.parent
    filled = {"STORE": str(store), "OUT": str(folder / f"{name}-out")}
    first, *others = [filled.get(argument, argument) for argument in arguments]
    return Command([first.lstrip("*"), *others], str(folder / name), first.startswith("*"))


VOLATILE = ("started", "finished", "seconds", "store", "source", "created")


def figures(ended: Ended, command: Command) -> Any:
    """What a command said and wrote, without times and paths."""
    out = Path(command.out).with_name(f"{Path(command.out).name}-out")
    files = {}
    for file in ("data/train.jsonl", "metrics.json"):
        if (out / file).exists():
            files[file] = _plain((out / file).read_text("utf-8"), out)
    return _plain(ended.out, Path(command.out).parent), files


def _plain(text: str, folder: Path) -> Any:
    try:
        return _without(json.loads(text))
    except ValueError:
        return re.sub(rf"{re.escape(str(folder.parent))}\S*", "", text)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(part) for key, part in value.items() if key not in VOLATILE}
    return [_without(part) for part in value] if isinstance(value, list) else value


def state(store: Path) -> dict[str, Any]:
    """What the commands leave in the store, but for times."""
    queries = {
        "triplets": "SELECT name, triplets.* EXCLUDE (run_id) FROM triplets JOIN runs USING (run_id)",
        "verdicts": "SELECT run, query_id, doc_id, verdict, reason, slot FROM verdicts",
        "judgments": "FROM judgments",
        "duplicates": "FROM duplicates",
        "audits": "SELECT settings, result FROM audits",
        "trained": "SELECT query_id, doc_id FROM training_positives",
        "scores": "SELECT DISTINCT query_id, doc_id, score FROM rerank_scores",
    }
    with Database.open(store, read_only=True) as opened:
        return {name: opened.rows(f"SELECT * FROM ({query}) ORDER BY ALL") for name, query in queries.items()}


def test_ten_pairs_of_commands_end_as_each_does_alone(base: Base, tmp_path: Path) -> None:
    alone: dict[str, list[Command]] = {}
    together: dict[str, list[Command]] = {}
    for name, both in pairs(base).items():
        for kind in ("first", "second", "both", "in turn"):
            (tmp_path / name / kind).mkdir(parents=True)
        stores = {
            kind: base.copy(tmp_path / name / kind / "s") for kind in ("first", "second", "both", "in turn")
        }
        if name == "evaluate and evaluate":  # both of them encode everything
            for store in stores.values():
                shutil.rmtree(store.with_name("s.duckdb.vectors"))
        alone[name] = [
            command(one, stores[kind], kind) for one, kind in zip(both, ("first", "second"), strict=True)
        ]
        together[name] = [command(one, stores["both"], f"both{i}") for i, one in enumerate(both)]
    groups = [[one] for both in alone.values() for one in both] + list(together.values())
    ended = run(groups)
    for number, (name, commands) in enumerate(together.items()):
        found = ended[2 * len(together) + number]
        expected = [ended[2 * number][0], ended[2 * number + 1][0]]
        for one, other, mine, theirs in zip(commands, alone[name], found, expected, strict=True):
            assert (mine.code, theirs.code) == (0, 0), f"{name}: {mine.err}{theirs.err}"
            assert figures(mine, one) == figures(theirs, other), name
        places = {kind: tmp_path / name / kind / "s" for kind in ("first", "second", "both")}
        left = {kind: sorted(file.name for file in position.iterdir()) for kind, position in places.items()}
        assert left["both"] == sorted({*left["first"], *left["second"]}), name
        tables = {kind: state(position / "s.duckdb") for kind, position in places.items()}
        for table, rows in tables["both"].items():
            assert set(rows) == {*tables["first"][table], *tables["second"][table]}, (name, table)


SLOW_COMMANDS = {
    "mine": "read mine STORE --encoder ENCODER --depth 15 --name r2 --reranker RERANKER",
    "audit": f"read audit STORE {HIDING}",
    "calibrate": f"read calibrate STORE {HIDING} --target 0.9",
    "dedup": "read dedup STORE --encoder ENCODER",
    "contamination": "read contamination STORE STORE",
    "relabel": f"read relabel STORE {HIDING}",
    "relabel --dry-run": f"write relabel STORE --dry-run {HIDING}",
    "silver": "read silver STORE --set encoder=none --set depth=5 --set per_query=2 --reranker RERANKER",
    "evaluate": f"write evaluate ENCODER STORE {EVALUATE}",
    "evaluate a reranker": f"write evaluate RERANKER STORE --set depth=5 {EVALUATE}",
    "train": f"write train STORE OUT --run r1 {TRAINING} --set evaluations=0",
    "train-reranker": f"write train-reranker STORE OUT --base RERANKER --set max_steps=2 {ON_CPU}",
    "pretrain": "write pretrain STORE OUT --base ENCODER --set max_steps=2 --set dtype=fp32",
    "bench": f"write bench STORE --arms easy,hard-filtered --sizes 16 --run r1 --out OUT {TRAINING}",
    "loop": "read loop STORE OUT --set encoder=ENCODER --rounds 1 --set loop.queries=12 "
    + TRAINING.replace("--base scratch", "--set training.base=scratch")
    .replace("dtype", "training.dtype")
    .replace("dimension", "training.dimension"),
}
"""Whether another process has to be able to read or even to write meanwhile, and the command."""


def test_the_store_is_free_while_a_command_is_at_something_slow(base: Base, tmp_path: Path) -> None:
    groups = {}
    for name, line in SLOW_COMMANDS.items():
        probe, *arguments = base.words(line)
        one = command(arguments, base.copy(tmp_path / name / "s"), "out")
        groups[name] = [Command(one.arguments, one.out, probe=probe)]
    busy = base.copy(tmp_path / "busy" / "s")
    groups["refused"] = [command(["mine", "STORE"], busy, "out")]
    with Database.open(busy):
        *ended, (refused,) = run(list(groups.values()))
    for name, (one,) in zip(SLOW_COMMANDS, ended, strict=True):
        assert one.code == 0, f"{name}: {one.err}"
        assert one.slow, name
        left = {file.name for file in (tmp_path / name / "s").iterdir()}
        assert left <= {"s.duckdb", "s.duckdb.vectors", "s.duckdb.bm25"}, name
    assert refused.code == 1
    assert re.fullmatch(
        rf"Error: another command writes to {busy}: .+, process {os.getpid()}, since [-0-9: ]+ UTC\n"
        "  wait until it ends, or end it\n",
        refused.err,
    )
