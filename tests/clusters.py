"""A Ray cluster of several nodes on this machine, for tests: real processes on 127.0.0.1, with a token.

`python -m tests.clusters --kills 20` mines again and again on three nodes, while a random worker or node is
killed at a random moment, and compares what is in the store with a run in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from tests import forking

ROOT = Path(__file__).parent.parent
TABLES = ("pools", "pool_documents", "scored", "positives", "decisions", "selected", "rerank_scores", "hits")
_MEMORY = 100 * 2**20


class Nodes:
    """The nodes of a cluster, in a process of their own."""

    def __init__(self, nodes: int) -> None:
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TOKENIZERS_PARALLELISM": "false",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # addresses are 127.0.0.1 then
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.clusters", "--serve", str(nodes)],
            cwd=ROOT, env=self.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self.address: str = self._answer()["address"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError("the cluster did not start")

    def _ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._answer()

    def raylets(self) -> list[int]:
        """Returns the processes of the nodes other than the first, which has the state of the cluster."""
        found: list[int] = self._ask("raylets")["raylets"]
        return found

    def add(self) -> None:
        """Adds a node."""
        self._ask("add")

    def workers(self) -> list[int]:
        """Returns the processes of miner's workers: children of its nodes, as there may be other clusters."""
        every = self._ask("raylets")["every"]
        command = ["pgrep", "-f", "-P", ",".join(map(str, every)), "^ray::Worker"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def miner(self, *arguments: object, cluster: bool = True) -> subprocess.Popen[str]:
        """Starts a command on the cluster."""
        command = [sys.executable, "-m", "miner", *map(str, arguments)]
        if cluster:
            command += ["--cluster", self.address]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def close(self) -> None:
        """Ends the cluster."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)


def serve(number: int) -> None:
    """Starts a cluster, answers a line of standard input with a line of JSON, and ends with the last line."""
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": _MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    others = [cluster.add_node(**size) for _ in range(number - 1)]
    _say(json.dumps({"address": cluster.address}))
    for line in sys.stdin:
        if line.strip() == "add":
            others.append(cluster.add_node(**size))
        own, every = (
            [one.process.pid for node in nodes for one in node.all_processes.get("raylet", ())]
            for nodes in (others, [cluster.head_node, *others])
        )
        _say(json.dumps({"raylets": [pid for pid in own if _lives(pid)], "every": every}))
    cluster.shutdown()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@contextmanager
def cluster(nodes: int = 3) -> Iterator[Nodes]:
    """Yields a cluster of so many nodes with one processor each."""
    started = Nodes(nodes)
    try:
        yield started
    finally:
        started.close()


def contents(store: Path) -> dict[str, list[str]]:
    """Returns the rows of a store's evidence, decisions and scores."""
    import duckdb

    with duckdb.connect(str(store), read_only=True) as opened:
        return {
            table: sorted(map(str, opened.execute(f"SELECT * FROM {table}").fetchall())) for table in TABLES
        }


def write_texts(folder: Path, documents: int = 1200, queries: int = 240, seed: int = 5) -> Path:
    """Writes a BEIR folder of made-up texts with copies, and empty ones; returns it."""
    rng = random.Random(seed)
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]
    texts = [" ".join(rng.choices(words, k=rng.randint(2, 12))) for _ in range(documents)]
    for number in range(0, documents, 40):
        texts[number] = texts[number // 2]
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{number:05}", "title": "", "text": text} for number, text in enumerate(texts)]
    answers = rng.sample(range(documents), queries)
    asking = [
        {"_id": f"q{number:05}", "text": " ".join(rng.sample(texts[doc].split(), 2))}
        for number, doc in enumerate(answers)
    ]
    for name, lines in (("corpus", rows), ("queries", asking)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in lines), "utf-8")
    judged = [f"q{number:05}\td{doc:05}\t1\n" for number, doc in enumerate(answers)]
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged), "utf-8")
    return folder


class Mining:
    """A store before mining, the command that mines a copy of it, and what a run in one process makes."""

    def __init__(self, folder: Path, documents: int = 1200, queries: int = 240) -> None:
        from miner.sources import ingest
        from tests.tiny import tiny_bert

        self.folder = folder
        ingest(folder / "before.duckdb", [str(write_texts(folder / "texts", documents, queries))])
        self.encoder, self.reranker = tiny_bert(folder / "encoder"), tiny_bert(folder / "reranker", labels=1)
        self.options = ["--encoder", self.encoder, "--reranker", self.reranker, "--depth", 20]
        self.alone = self.new("alone")
        alone("mine", self.alone, *self.options)
        self.expected = contents(self.alone)

    def new(self, name: str) -> Path:
        """Returns a new copy of the store."""
        store = self.folder / f"{name}.duckdb"
        shutil.copyfile(self.folder / "before.duckdb", store)
        return store

    def words(self, line: str, store: Path) -> list[str]:
        """Returns the words of a command with the store and the reranker in it."""
        named = {"STORE": str(store), "RERANKER": str(self.reranker)}
        return [named.get(word, word) for word in line.split()]


def alone(*arguments: object) -> str:
    """Runs a command without a cluster; returns its output."""
    ended = forking.miner(*arguments)
    assert ended.code == 0, ended.err
    return ended.out


def connected(address: str, lines: list[list[str]], model: str, missing: str) -> None:
    """Prints what one connection to a cluster computes, as JSON.

    `outputs` are those of commands. `vectors`, as hexadecimal bytes, are of a model whose files are sent, as
    its folder `missing` is on no node; `refusal` is what a worker says without the files.
    """
    from click.testing import CliRunner

    from miner.cli.main import group
    from miner.engine import cluster as engine
    from miner.engine.cluster import current, using
    from miner.models.encoder import Encoder
    from miner.models.remote import ModelOpener, OtherModelError, _read

    found: dict[str, Any] = {"outputs": []}
    sends, send = count(), engine.Cluster.send

    def counted(*arguments: Any) -> Any:
        next(sends)
        return send(*arguments)

    engine.Cluster.send = counted  # type: ignore[method-assign]
    with using(address):
        for words in lines:
            before = next(sends)
            found["outputs"].append(CliRunner().invoke(group, words, catch_exceptions=False).stdout)
            assert next(sends) > before + 1, f"{words[0]} sent nothing to the cluster"
        opener = ModelOpener.of(Encoder(model))
        elsewhere = replace(opener, arguments=(("name", missing), *opener.arguments[1:]))
        workers = current()
        assert workers is not None
        try:
            workers.call(elsewhere, "encoded", ["a text"], "")
        except OtherModelError as error:
            found["refusal"] = error.message
        sent = replace(elsewhere, files=workers.put(_read(Path(model))))
        found["vectors"] = workers.call(sent, "encoded", ["a text"], "").result.vectors.tobytes().hex()
    _say(json.dumps(found))


def kill_often(kills: int, drivers: int, seed: int) -> int:
    """Mines on three nodes with a kill each time; returns how often the result was another one."""
    rng, wrong = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as folder, cluster() as nodes:
        mining = Mining(Path(folder), documents=3000, queries=600)
        store = mining.new("whole")
        whole = nodes.miner("mine", store, *mining.options)
        while whole.poll() is None and not _has_vectors(store):
            time.sleep(0.1)
        began = time.monotonic()
        _say("".join(whole.communicate()))
        seconds = 0.8 * (time.monotonic() - began)
        killed = number = 0
        while killed < kills + drivers:
            number += 1
            store = mining.new(f"n{number}")
            victim, _ = killed_run(nodes, mining, store, rng, seconds, of_driver=killed >= kills)
            killed += (hit := "ended" not in victim)
            seconds *= 1 if hit else 0.9  # the machine may be faster than it was
            same = contents(store) == mining.expected
            wrong += not same
            _say(f"{number}: killed {victim}: {'the same' if same else 'ANOTHER RESULT'}")
    return wrong


def killed_run(
    nodes: Nodes, mining: Mining, store: Path, rng: random.Random, seconds: float, more: Sequence[str] = (),
    *, of_driver: bool,
) -> tuple[str, str]:  # fmt: skip
    """Mines a store and kills a process at a random moment; returns which, and what the command said.

    The moment is in the `seconds` after the first vectors, before which there is nothing to lose.
    What a killed driver had committed must still be there in the end, with the time of its commit.
    """
    process = nodes.miner("mine", store, *mining.options, *more)
    while process.poll() is None and not _has_vectors(store):
        time.sleep(0.1)
    time.sleep(rng.uniform(0, seconds))
    victim, committed = "nothing: it had ended", set[str]()
    if process.poll() is None and of_driver:
        process.kill()
        process.communicate()
        committed = _chunks(store)
        process, victim = (
            nodes.miner("mine", store, *mining.options, *more),
            f"the driver after {len(committed)} chunks",
        )
    elif process.poll() is None:
        workers, raylets = nodes.workers(), nodes.raylets()
        if workers and rng.random() < 0.6:
            os.kill(rng.choice(workers), signal.SIGKILL)
            victim = "a worker"
        elif raylets:
            os.kill(rng.choice(raylets), signal.SIGKILL)
            nodes.add()
            victim = "a node"
    output = "".join(process.communicate())
    if process.returncode:
        raise RuntimeError(f"after the end of {victim}: {output}")
    if not committed <= _chunks(store):
        raise RuntimeError("chunks that were committed were computed again")
    return victim, output


def _has_vectors(store: Path) -> bool:
    return any(file.stat().st_size for file in Path(f"{store}.vectors").glob("*/vectors.f32"))


def _chunks(store: Path) -> set[str]:
    import duckdb

    with duckdb.connect(str(store), read_only=True) as opened:
        return set(map(str, opened.execute("SELECT * FROM chunks").fetchall()))


def main() -> None:
    """Serves a cluster, or kills often."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--serve", type=int, default=0)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--drivers", type=int, default=5)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    if given.serve:
        serve(given.serve)
    else:
        sys.exit(1 if kill_often(given.kills, given.drivers, given.seed) else 0)


if __name__ == "__main__":
    main()
