"""A cluster computes the same bytes as one process, whatever is killed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.cli.main import group
from miner.collection.collection import Hits
from miner.engine.worker import Worker
from miner.errors import ClusterError, MissingExtraError, UsageError
from miner.models.encoder import Encoder
from miner.models.remote import ModelOpener, OtherModelError
from miner.retrieval.bm25 import VARIANTS, Bm25
from miner.retrieval.config import Bm25Config
from miner.retrieval.shards import Here, ShardFiles, Shards, shard_key
from miner.retrieval.term_shard import TermShardOpener
from miner.retrieval.vector_search import TextVectors, VectorSearch
from miner.retrieval.vector_shards import VectorShardOpener, _used
from tests import forking
from tests.clusters import Mining, Nodes, alone, cluster, connected, contents, killed_run
from tests.test_bm25 import collection
from tests.tiny import tiny_bert

WORDS = ["apple", "bread", "cheese", "dough", "egg", "flour", "grape", "honey"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=14)
EVERY = [Bm25Config(backend, variant) for backend, variants in VARIANTS.items() for variant in variants]


# --- shards, without a cluster


def parts_of(size: int, cuts: list[int]) -> list[range]:
    ends = [0, *sorted(min(cut, size) for cut in cuts), size]
    return [range(start, stop) for start, stop in pairwise(ends)]


class SplitBm25(Bm25):
    """BM25 whose documents are in shards of this process, made as a worker makes them."""

    parts: list[range]
    work: str | None = None

    @cached_property
    def _shards(self) -> Shards:
        homes = []
        for number, part in enumerate(self.parts):
            key = f"{part.start}-{part.stop}"
            shard = TermShardOpener(key, part, self._config, self.work, number).open()
            if not shard.restored():
                for method, arguments in self._made(part):
                    getattr(shard, method)(*arguments)
            homes.append(Here(shard))
        shards = Shards(homes, self.parts)
        self._give_queries(shards, None)
        return shards


def assert_equal(hits: Hits, other: Hits) -> None:
    for name in ("query", "doc", "rank", "score"):
        assert getattr(hits, name).tobytes() == getattr(other, name).tobytes(), name


@pytest.mark.parametrize("config", EVERY, ids=lambda one: f"{one.backend}-{one.variant}")
@settings(max_examples=25, deadline=None)
@given(TEXTS, TEXTS, st.lists(st.integers(0, 14), max_size=3), st.integers(1, 8))
def test_bm25_finds_the_same_in_any_shards(
    config: Bm25Config, documents: list[str], queries: list[str], cuts: list[int], depth: int
) -> None:
    whole = Bm25(collection(documents, queries), config)
    split = SplitBm25(collection(documents, queries), config)
    split.parts = parts_of(len(documents), cuts)
    everything = range(len(queries))
    assert_equal(split.search(everything, depth), whole.search(everything, depth))
    query = np.repeat(np.arange(len(queries), dtype=np.int32), len(documents))
    doc = np.tile(np.arange(len(documents), dtype=np.int32), len(queries))
    assert split.score_pairs(query, doc).tobytes() == whole.score_pairs(query, doc).tobytes()


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 40), max_size=3), st.integers(1, 12))
def test_vectors_are_found_the_same_in_any_shards(
    similarity: str, seed: int, cuts: list[int], depth: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-2, 3, size=(30, 4)).astype(np.float32) + np.float32(0.5)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    documents = TextVectors(matrix, rng.integers(-1, 30, size=40))
    queries = TextVectors(matrix[:7], rng.integers(-1, 7, size=9))
    whole = VectorSearch(documents, queries, similarity)
    parts = parts_of(40, cuts)
    homes = []
    for number, part in enumerate(parts):
        shard = VectorShardOpener("key", part, 4, similarity, None, number).open()
        used, rows = _used(documents.rows[part.start : part.stop])
        for start in range(0, len(used), 7):
            shard.add(matrix[used[start : start + 7]])
        shard.finish(rows)
        shard.take_queries(queries.matrix, queries.rows)
        homes.append(Here(shard))
    split = Shards(homes, parts)
    assert_equal(split.search(range(9), depth), whole.search(range(9), depth))
    query, doc = rng.integers(0, 9, 50).astype(np.int32), rng.integers(0, 40, 50).astype(np.int32)
    assert split.score_pairs(query, doc).tobytes() == whole.score_pairs(query, doc).tobytes()


@pytest.mark.parametrize("kind", ["file", "mock"])
def test_a_work_folder_keeps_shards(tmp_path: Path, kind: str) -> None:
    """A worker that is new reads the index. An in-memory file system is another one in each process."""
    work = f"file://{tmp_path}/work" if kind == "file" else "mock://work"
    texts, queries = ["apple bread", "bread cheese", "cheese"], ["cheese", "bread"]
    whole = Bm25(collection(texts, queries), Bm25Config()).search(range(2), 3)
    for _ in range(2):
        split = SplitBm25(collection(texts, queries), Bm25Config())
        split.parts, split.work = [range(2), range(2, 3)], work
        assert_equal(split.search(range(2), 3), whole)
    if kind == "file":
        key = "0-2"
        assert ShardFiles(work, key).restored()
        (tmp_path / "work" / key / "docs.npy").write_bytes(b"")  # as a copy that was cut off
        assert not ShardFiles(work, key).restored()
        again = SplitBm25(collection(texts, queries), Bm25Config())
        again.parts, again.work = split.parts, work
        assert_equal(again.search(range(2), 3), whole)
        assert ShardFiles(work, key).restored()
        (tmp_path / "work" / key / "complete").unlink()  # as a kill would leave it
        assert not ShardFiles(work, key).restored()


def test_vectors_that_were_kept_incompletely_are_replaced(tmp_path: Path) -> None:
    work, matrix = f"file://{tmp_path}/work", np.eye(3, dtype=np.float32)
    for _ in range(2):
        shard = VectorShardOpener("key", range(3), 3, "dot", work, 0).open()
        assert not shard.restored()
        shard.add(matrix)
        shard.finish(np.arange(3))
        shard.take_queries(matrix, np.arange(3))
        assert shard.search(range(3), 1).doc.tolist() == [0, 1, 2]
        assert shard._documents.matrix.shape == (3, 3)
        rows = tmp_path / "work" / "key" / "rows.npy"
        rows.write_bytes(rows.read_bytes()[:-8])


def test_a_work_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    for work in ("nothing://here", f"file://{tmp_path}/file"):
        with pytest.raises(ClusterError, match="cannot be used"):
            ShardFiles(work, "key").save()


def test_a_shard_is_kept_under_its_documents() -> None:
    """The same documents in another order, as an evaluation has them, are another shard."""
    ids = pa.array(["a", "b", "c", "d"])
    keys = [shard_key("bm25", range(2), ids), shard_key("bm25", range(2), pa.array(["b", "a", "c", "d"]))]
    assert keys[0] != keys[1]
    assert shard_key("bm25", range(2, 4), ids) == shard_key(
        "bm25", range(2, 4), pa.array(["x", "y", "c", "d"])
    )


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "a.duckdb", "--cluster", "local"], "miner audit does not use a cluster"),
        (["mine", "a.duckdb", "--work", "file:///w"], "--work is for a cluster"),
    ],
)
def test_where_a_cluster_is_of_no_use(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(group, arguments)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_an_error_of_a_worker_is_the_same_error() -> None:
    error = MissingExtraError("FAISS", "cpu")

    class Failing:
        def open(self) -> Any:
            raise error

    worker = Worker.__new__(Worker)
    worker._opened = {}
    import pickle

    raised = pickle.loads(pickle.dumps(worker.call(Failing(), "anything")))
    assert type(raised.error) is MissingExtraError
    assert (raised.error.message, raised.error.hint) == (error.message, error.hint)


def test_a_worker_without_the_model_says_so(tmp_path: Path) -> None:
    opener = ModelOpener.of(Encoder(str(tiny_bert(tmp_path / "one"))))
    missing = replace(opener, arguments=(("name", str(tmp_path / "none")), *opener.arguments[1:]))
    with pytest.raises(OtherModelError, match="there is no folder"):
        missing.open()
    other = replace(
        opener, arguments=(("name", str(tiny_bert(tmp_path / "two", seed=2))), *opener.arguments[1:])
    )
    with pytest.raises(OtherModelError, match="is another model there"):
        other.open()


# --- with Ray

with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra cluster is not installed")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster(3) as started:
        yield started


@pytest.fixture(scope="module")
def mining(tmp_path_factory: pytest.TempPathFactory) -> Mining:
    return Mining(tmp_path_factory.mktemp("mining"))


OTHERS = {
    "evaluate": "evaluate RERANKER STORE --split train --json",
    "silver": "silver STORE --reranker RERANKER --set encoder=none",
}


@pytest.fixture(scope="module")
def missing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("missing") / "none"


@pytest.fixture(scope="module")
def session(nodes: Nodes, mining: Mining, missing: Path) -> dict[str, Any]:
    """What one connection to the cluster computes: other commands, and a model that no node has."""
    lines = [mining.words(words, mining.new(f"{name}-cluster")) for name, words in OTHERS.items()]
    ended = forking.run(connected, nodes.address, lines, mining.encoder, missing, **nodes.environment)
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


@with_ray
@pytest.mark.slow
@pytest.mark.parametrize("of_driver", [False, True], ids=["workers", "driver"])
def test_three_nodes_mine_the_same_whatever_is_killed(
    nodes: Nodes, mining: Mining, tmp_path: Path, of_driver: bool
) -> None:
    store = mining.new(f"killed-{of_driver}")
    work = ["--work", f"file://{tmp_path}/work"]
    victim, notes = killed_run(nodes, mining, store, random.Random(4), 2, work, of_driver=of_driver)
    assert "ended" not in victim
    assert "3 workers on 3 nodes" in notes
    assert contents(store) == mining.expected
    vectors = [next(Path(f"{one}.vectors").glob("*/vectors.f32")) for one in (store, mining.alone)]
    assert vectors[0].read_bytes() == vectors[1].read_bytes()
    assert len(list((tmp_path / "work").glob("*/complete"))) >= 6  # BM25 and vectors, three shards each


@with_ray
@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_commands_give_the_same(mining: Mining, session: dict[str, Any], name: str) -> None:
    output = session["outputs"][list(OTHERS).index(name)]
    own = alone(*mining.words(OTHERS[name], mining.new(f"{name}-alone")))
    own = own.replace(f"{name}-alone", f"{name}-cluster")
    assert own
    if "--json" in OTHERS[name]:
        assert _without_clock(json.loads(own)) == _without_clock(json.loads(output))
    else:
        assert own == output


def _without_clock(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _without_clock(value) for key, value in found.items() if "seconds" not in key}
    return [_without_clock(value) for value in found] if isinstance(found, list) else found


@with_ray
@pytest.mark.slow
def test_the_files_of_a_model_are_sent_where_they_are_missing(
    mining: Mining, session: dict[str, Any], missing: Path
) -> None:
    assert f"there is no folder {missing}" in session["refusal"]
    assert session["vectors"] == Encoder(str(mining.encoder)).encoded(["a text"]).vectors.tobytes().hex()
