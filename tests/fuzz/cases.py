"""Hostile inputs for every command, made from a seed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq

from miner.cli.main import COMMANDS, group
from miner.cli.numbers import Within

NUMBERS = (
    "0", "-0", "-1", "1", "2", "3", "0.5", "1.5", "inf", "-inf", "nan", "1e308", "1e309", "-1e308", "5e-324",
    "9223372036854775808", "9" * 400, "9" * 5000, "0x10", "1_0", "٣", "", " ", "none", "off", "true", "1,5",
)  # fmt: skip
TEXTS = (
    "", " ", "x" * 5000, "\x1b[31mred", "\u202eabc", "a\tb", "é", "日本語", "😀", "'", '"', "\\", "%s",
    "--help", "..", "/dev/null", "/dev/full", "nul", "NaN", "null", "q1", "d1",
)  # fmt: skip
BYTES = (
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\t",
    b'"',
    b"{",
    b"[",
    b"\\u0000",
    b"\xed\xa0\x80",
)
_HEAVY = ("train", "train-reranker", "pretrain", "silver", "loop", "bench", "demo", "relabel")
"""Commands that run long when all is well: they get only values that must be refused."""
_INTO_A_FOLDER = ("train", "train-reranker", "pretrain", "loop")
QUERIES = (
    "FROM documents", "SELECT count(*) FROM verdicts", "SHOW TABLES", "SELECT * FROM triplet_texts LIMIT 2",
    "SELECT 1; SELECT 2", "DROP TABLE documents", "DELETE FROM documents", "COPY documents TO '/tmp/x.csv'",
    "ATTACH '/tmp/x.duckdb'", "INSTALL httpfs", "LOAD httpfs", "PRAGMA version", "SET threads = 1",
    "EXPLAIN FROM documents", "FROM read_csv('/etc/passwd')", "FROM read_parquet('x')",
    "SELECT getenv('HOME')",
    "WITH x AS (SELECT 1) FROM x", "SELECT '" + "x" * 300 + "'", "SELECT range(10000000000)", "",
    "FROM range(100000000000)", "SELECT " + "(" * 300 + "1" + ")" * 300, "PREPARE a AS SELECT 1",
    "WITH x AS (INSERT INTO documents VALUES ('a','','b',1,NULL) RETURNING doc_id) FROM x",
)  # fmt: skip
RECIPE = """split = "train"
depth = 20
bm25_k1 = 1.2
protected = ["d1"]
[rules]
relative_margin = 0.1
skip_top = 0
[selection]
negatives = 2
seed = 3
"""


@dataclass(frozen=True)
class Case:
    """One command with a hostile input."""

    kind: str
    arguments: tuple[str, ...]
    store: Path
    """What must stay as it is when the command fails."""
    inputs: tuple[Path, ...] = ()
    """Files that were made for it, to make smaller ones of."""


@dataclass
class World:
    """A folder with good sources, a store with a run, and tiny models, which cases are made from."""

    folder: Path
    store: Path
    models: tuple[Path, ...] = ()
    sources: tuple[Path, ...] = ()
    _made: int = field(default=0)

    def path(self) -> Path:
        """Returns a new folder for one case; the one before it is removed."""
        shutil.rmtree(self.folder / "case", ignore_errors=True)
        path = self.folder / "case"
        path.mkdir()
        return path

    def copy(self, path: Path) -> Path:
        """Returns a copy of the store."""
        return Path(shutil.copy(self.store, path / "s.duckdb"))


def write_sources(folder: Path) -> tuple[Path, ...]:
    """Writes one good source of every kind and returns their paths."""
    rows = [
        (f"which fruit is number {i}?", f"fruit {i} is a pear of kind {i % 7} and grows in town {i}")
        for i in range(12)
    ]
    (folder / "pairs.tsv").write_text("query\tpositive\n" + "".join(f"{q}\t{p}\n" for q, p in rows))
    (folder / "pairs.csv").write_text("query,positive\n" + "".join(f'"{q}","{p}"\n' for q, p in rows))
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps({"query": q, "positive": p}) + "\n" for q, p in rows)
    )
    columns = {"query": [q for q, _ in rows], "positive": [p for _, p in rows]}
    pq.write_table(pa.table(columns), folder / "pairs.parquet")
    (folder / "labels.csv").write_text(
        "text,label\n" + "".join(f"{p},{i % 3}\n" for i, (_, p) in enumerate(rows))
    )
    beir = folder / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{i}", "title": "", "text": p}) + "\n" for i, (_, p) in enumerate(rows))
    )
    (beir / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i}", "text": q}) + "\n" for i, (q, _) in enumerate(rows))
    )
    (beir / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(12))
    )
    trec = folder / "trec"
    trec.mkdir()
    (trec / "docs.trec").write_text(
        "".join(
            f"<DOC>\n<DOCNO>d{i}</DOCNO>\n<TEXT>\n{p}\n</TEXT>\n</DOC>\n" for i, (_, p) in enumerate(rows)
        )
    )
    (trec / "topics.txt").write_text(
        "".join(f"<top>\n<num> Number: {i}\n<title> {q}\n</top>\n" for i, (q, _) in enumerate(rows))
    )
    (trec / "qrels.txt").write_text("".join(f"{i} 0 d{i} 1\n" for i in range(12)))
    return tuple(
        folder / name
        for name in ("pairs.tsv", "pairs.csv", "pairs.jsonl", "pairs.parquet", "labels.csv", "beir", "trec")
    )


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Returns the bytes with one to four changes: cuts, flips, insertions, repeats, swapped lines."""
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(len(data) + 1)
        change = rng.randrange(8)
        if change == 0:
            data = data[:position]
        elif change == 1 and position < len(data):
            data = data[:position] + bytes([data[position] ^ (1 << rng.randrange(8))]) + data[position + 1 :]
        elif change == 2:
            data = data[:position] + rng.choice(BYTES) * rng.choice((1, 2, 100)) + data[position:]
        elif change == 3:
            data = (
                data[:position]
                + data[position : position + rng.randrange(1, 400)] * rng.choice((2, 50))
                + data[position:]
            )
        elif change == 4:
            lines = data.split(b"\n")
            rng.shuffle(lines)
            data = b"\n".join(lines)
        elif change == 5:
            data = (
                data[:position]
                + rng.choice((*NUMBERS, *TEXTS)).encode("utf-8", "surrogatepass")
                + data[position:]
            )
        elif change == 6:
            data = (
                data[:position]
                + rng.choice((b"[", b'{"a":', b"<DOC>", b'"')) * rng.choice((10, 3000))
                + data[position:]
            )
        else:
            data = data.replace(
                rng.choice((b"query", b"text", b"\t", b",", b'"', b"_id", b"1")), rng.choice(BYTES)
            )
        data = data[:2_000_000]
    return data


def source_case(rng: random.Random, world: World) -> Case:
    """A damaged source, taken in."""
    path = world.path()
    source = rng.choice(world.sources)
    target = path / source.name
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    files = [path for path in sorted(target.rglob("*")) if path.is_file()] or [target]
    file = rng.choice(files)
    file.write_bytes(damaged(file.read_bytes(), rng))
    store = world.copy(path)
    return Case("source", ("ingest", str(store), str(target)), store, (file,))


def option_case(rng: random.Random, world: World) -> Case:
    """A command with one or two odd option values."""
    path = world.path()
    store = world.copy(path)
    name = rng.choice([name for name in COMMANDS if name not in ("doctor", "ingest")])
    command = group.get_command(click.Context(group), name)
    assert command is not None
    base = {
        "explain": ["explain", str(store), "q1"], "export": ["export", str(store), str(path / "out")],
        "evaluate": ["evaluate", str(world.models[0]), str(store), "--split", "train", "--set", "queries=2"],
        "sql": ["sql", str(store), "SELECT 1", "--timeout", "2"],
        "runs diff": ["runs", "diff", str(store), "r1", "r1"],
        "contamination": ["contamination", str(store), str(store)],
        "demo": ["demo", str(path / "demo")],
        **{name: [name, str(store), str(path / "out")] for name in _INTO_A_FOLDER},
    }.get(name, [name, str(store)])  # fmt: skip
    options = [part for part in command.params if part.param_type_name == "option" and not part.is_flag]
    if name in _HEAVY:
        options = [part for part in options if isinstance(part.type, Within)]
    added: list[str] = []
    for option in rng.sample(options, min(len(options), 1 if name in _HEAVY else rng.randint(1, 2))):
        value = rng.choice(
            (*NUMBERS, *TEXTS) if rng.random() < 0.8 else (str(rng.randrange(-(2**70), 2**70)),)
        )
        if (
            name in _HEAVY
            and isinstance(option.type, Within)
            and option.type.allowed.parse(value) is not None
        ):
            value = "nan"
        added += [f"{option.opts[0]}={value}"]
    if name in _HEAVY and not added:
        added = ["--nonsense"]
    return Case("option", (*base, *added), store)


def recipe_case(rng: random.Random, world: World) -> Case:
    """A damaged recipe, mined by."""
    path = world.path()
    store, file = world.copy(path), path / "recipe.toml"
    if rng.random() < 0.5:
        file.write_bytes(damaged(RECIPE.encode(), rng))
    else:
        lines = RECIPE.splitlines()
        number = rng.choice([i for i, line in enumerate(lines) if "=" in line])
        value = rng.choice((*NUMBERS, "[]", "{}", repr("x" * 999), "1979-05-27", "[[1]]"))
        lines[number] = f"{lines[number].split('=')[0]}= {value}"
        file.write_text("\n".join(lines), "utf-8")
    return Case("recipe", ("mine", str(store), "--config", str(file)), store, (file,))


def sql_case(rng: random.Random, world: World) -> Case:
    """An odd statement."""
    path = world.path()
    store = world.copy(path)
    query = rng.choice(QUERIES)
    if rng.random() < 0.5:
        query = damaged(query.encode(), rng).decode("utf-8", "replace").replace("\0", "")[:20_000]
    out = rng.choice(
        ([], ["--format", rng.choice(("csv", "json", "table"))], ["--out", str(path / "x.parquet")])
    )
    return Case("sql", ("sql", str(store), "--timeout", "1", "--memory", "300MB", *out, "--", query), store)


def model_case(rng: random.Random, world: World) -> Case:
    """A damaged model, measured with."""
    path = world.path()
    store, model = world.copy(path), path / "model"
    shutil.copytree(rng.choice(world.models), model)
    file = rng.choice([path for path in sorted(model.rglob("*")) if path.is_file()])
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.4 else damaged(data, rng))
    if file.suffix == ".json" and rng.random() < 0.5:
        found = json.loads(data)
        found[rng.choice(sorted(found))] = rng.choice((None, [], {}, -1, 10**30, "x", 0.5, True))
        file.write_text(json.dumps(found))
    arguments = ("evaluate", str(model), str(store), "--split", "train", "--set", "queries=2")
    return Case("model", arguments, store, (file,))


def store_case(rng: random.Random, world: World) -> Case:
    """A damaged store, read or written."""
    path = world.path()
    store = world.copy(path)
    data = store.read_bytes()
    if rng.random() < 0.3:
        data = data[: rng.randrange(len(data))]
    else:
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            width = rng.choice((1, 1, 100, 5000))
            data = data[:at] + rng.randbytes(width) + data[at + width :]
    store.write_bytes(data)
    arguments = rng.choice((
        ("runs", str(store)), ("sql", str(store), "SELECT max(text) FROM documents"), ("mine", str(store)),
        ("explain", str(store), "q1"), ("export", str(store), str(path / "out")), ("dedup", str(store)),
        ("decide", str(store), "--set", "skip_top=1"), ("ingest", str(store), str(world.sources[0])),
    ))  # fmt: skip
    return Case("store", arguments, store)


KINDS: tuple[tuple[int, Callable[[random.Random, World], Case]], ...] = (
    (8, source_case), (8, option_case), (4, recipe_case), (4, sql_case), (2, model_case), (4, store_case),
)  # fmt: skip


def case(seed: int, number: int, world: World) -> Case:
    """Returns the case of a seed with this number: the same each time."""
    rng = random.Random(f"{seed}:{number}")
    make = rng.choices([make for _, make in KINDS], [weight for weight, _ in KINDS])[0]
    return make(rng, world)
