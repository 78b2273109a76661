"""Dense retrieval: exact means exact, ties included; an index is measured; a missing FAISS is named."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.collection.collection import Collection, Hits
from miner.errors import MissingExtraError, UsageError
from miner.models.device import resolve_device
from miner.models.vector_cache import vector_keys
from miner.retrieval import gpu_search, nearest, vector_search
from miner.retrieval.config import DenseConfig
from miner.retrieval.dense import Dense
from miner.retrieval.search import chunk_ranges
from miner.store.database import Database
from tests.stores import make_store

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

TEXTS = [
    "How to bake bread at home",
    "A sourdough starter needs flour, water and patience",
    "The engine of a diesel car compresses air",
    "Trains between Vienna and Prague take four hours",
    "Yeast makes dough rise",
    "Electric cars have no gearbox",
    "A night train with sleeping cars",
    "Knead the dough for ten minutes, then let it rest under a damp cloth until it has doubled in size",
    "Bread",
    "",
]


def unit(vectors: npt.NDArray[np.float64]) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def collection(documents: Sequence[str], queries: Sequence[str]) -> Collection:
    return Collection(
        pa.table({"doc_id": [f"d{i:05}" for i in range(len(documents))], "text": list(documents)}),
        pa.table({"query_id": [f"q{i:05}" for i in range(len(queries))], "text": list(queries)}),
        {},
        "train",
    )


def precomputed(
    folder: Path,
    documents: Vectors,
    queries: Vectors,
    names: Sequence[str] | None = None,
    index: str = "Flat",
) -> Dense:
    """A retriever whose cache already holds the vectors; documents of one name share the first's."""
    doc_texts = list(names or [f"document {i}" for i in range(len(documents))])
    query_texts = [f"query {i}" for i in range(len(queries))]
    store = SimpleNamespace(vectors=folder)
    retriever = Dense(
        store, collection(doc_texts, query_texts), DenseConfig("bundled", dtype="fp32", index=index)
    )  # type: ignore[arg-type]
    first = sorted({text: position for position, text in reversed(list(enumerate(doc_texts)))}.values())
    # The encoder writes in any order: rows must not be taken for positions.
    order = np.random.default_rng(1).permutation(first)
    cache = retriever._vectors._caches["query"]
    cache.append(vector_keys([doc_texts[i] for i in order], ""), documents[order])
    cache.append(vector_keys(query_texts, ""), queries)
    return retriever


def brute_force(documents: Vectors, queries: Vectors, depth: int) -> tuple[list[list[int]], Floats]:
    """The `depth` nearest by float64 inner product, ties to the smaller position; and all scores."""
    scores = np.einsum("qd,nd->qnd", queries.astype(np.float64), documents.astype(np.float64)).sum(axis=2)
    return [np.lexsort((np.arange(len(row)), -row))[:depth].tolist() for row in scores], scores


def ranked(hits: Hits, queries: int) -> list[list[int]]:
    return [hits.doc[hits.query == query].tolist() for query in range(queries)]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 5),
    st.integers(1, 70),
    st.integers(0, 10_000),
    st.sampled_from([7, 65_536]),
)
def test_search_is_exact_with_ties_and_shared_vectors(
    tmp_path_factory: pytest.TempPathFactory, count: int, requested: int, depth: int, seed: int, block: int
) -> None:
    rng = np.random.default_rng(seed)
    # Few small integers: many documents tie, and inner products are exact in fp32 and float64 alike.
    documents = rng.integers(-2, 3, size=(count, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(requested, 4)).astype(np.float32)
    names = [f"text {rng.integers(0, count)}" for _ in range(count)]
    shared = np.array([names.index(name) for name in names])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "BLOCK", block)
        retriever = precomputed(tmp_path_factory.mktemp("v"), documents, queries, names)
        hits = retriever.search(range(requested), depth)
    truth, scores = brute_force(documents[shared], queries, depth)
    assert ranked(hits, requested) == truth
    assert np.array_equal(hits.score, scores[hits.query, hits.doc])
    assert np.array_equal(retriever.score_pairs(hits.query, hits.doc), hits.score)
    for query in range(requested):
        assert hits.rank[hits.query == query].tolist() == list(range(1, len(truth[query]) + 1))


@pytest.mark.parametrize("block", [64, 100, 65_536])
def test_search_is_exact_over_real_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(nearest, "BLOCK", block)
    rng = np.random.default_rng(5)
    documents, queries = unit(rng.normal(size=(700, 384))), unit(rng.normal(size=(40, 384)))
    retriever = precomputed(tmp_path, documents, queries)
    hits = retriever.search(range(40), 100)
    truth, scores = brute_force(documents, queries, 100)
    assert ranked(hits, 40) == truth
    assert hits.score == pytest.approx(scores[hits.query, hits.doc], abs=1e-12)
    assert np.array_equal(retriever.score_pairs(hits.query, hits.doc), hits.score)


def test_many_nearly_equal_vectors_at_the_cut_are_still_in_order(tmp_path: Path) -> None:
    """Texts with one beginning, cut by the model to the same words, differ by less than fp32 shows."""
    rng = np.random.default_rng(2)
    query = unit(rng.normal(size=(2, 384)))
    crowd = np.repeat(query[:1], 400, axis=0) + 1e-8 * rng.normal(size=(400, 384))
    documents = np.concatenate([unit(crowd), unit(rng.normal(size=(300, 384)))])
    retriever = precomputed(tmp_path, documents, query)
    truth, _ = brute_force(documents, query, 20)
    assert ranked(retriever.search(range(2), 20), 2) == truth


def test_truncated_texts_are_counted_cold_cached_and_when_only_the_hits_are_known(tmp_path: Path) -> None:
    long = "word " * 400
    texts = [long, "bread", f"{long} again", long]
    counts = []
    for searched in (True, True, False):
        dense = Dense(
            SimpleNamespace(vectors=tmp_path), collection(texts, ["bread", long]), DenseConfig("bundled")
        )  # type: ignore[arg-type]
        if searched:
            dense.search(range(2), 2)
        counts.append(dense.truncated)
    assert counts == [2, 2, 2]


def test_doubt_ends_at_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_search, "MOST", 50)
    vector = unit(np.ones((1, 8)))
    retriever = precomputed(tmp_path, np.repeat(vector, 200, axis=0), vector)
    hits = retriever.search(range(1), 10)
    assert len(set(hits.doc.tolist())) == 10
    assert len(set(hits.score.tolist())) == 1


def test_chunks_are_cut_alike_and_search_does_not_depend_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miner.retrieval.search.CHUNK", 16)
    rng = np.random.default_rng(3)
    documents, queries = unit(rng.normal(size=(300, 64))), unit(rng.normal(size=(41, 64)))
    retriever = precomputed(tmp_path, documents, queries)
    chunks = chunk_ranges(retriever._collection)
    assert chunks == [range(0, 16), range(16, 32), range(32, 41)]
    whole = retriever.search(range(41), 30)
    parts = [retriever.search(chunk, 30) for chunk in chunks]
    for name in ("query", "doc", "rank", "score"):
        assert np.array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(whole, name)), name


def test_a_depth_beyond_the_corpus_returns_every_document(tmp_path: Path) -> None:
    documents = unit(np.random.default_rng(0).normal(size=(5, 8)))
    hits = precomputed(tmp_path, documents, documents[:2]).search(range(2), 1000)
    assert sorted(hits.doc.tolist()) == sorted([*range(5), *range(5)])
    assert hits.doc[hits.rank == 1].tolist() == [0, 1]


# An index


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for one another make a tiny k-means slow on a busy machine."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def clustered(seed: int) -> tuple[Vectors, Vectors]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, 32))
    documents = unit(np.repeat(centres, 40, axis=0) + 0.8 * rng.normal(size=(480, 32)))
    return documents, unit(centres + 0.8 * rng.normal(size=(12, 32)))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("index", ["IVF4,Flat", "HNSW16", "SQ8", "IVF4,PQ16x4", "PCA16,IVF4,SQ8"])
def test_an_index_runs_scores_exactly_and_its_recall_is_measured(tmp_path: Path, index: str) -> None:
    documents, queries = clustered(7)
    retriever = precomputed(tmp_path, documents, queries, index=index)
    hits = retriever.search(range(12), 20)
    truth, scores = brute_force(documents, queries, 20)
    assert hits.score == pytest.approx(scores[hits.query, hits.doc], abs=1e-12)
    assert all(len(found) == len(set(found)) == 20 for found in ranked(hits, 12))
    shared = sum(len(set(a) & set(b)) for a, b in zip(ranked(hits, 12), truth, strict=True))
    assert retriever.recall(20) == pytest.approx(shared / (20 * 12))
    assert retriever.recall(20) >= vector_search.LEAST_RECALL
    assert precomputed(tmp_path / "flat", documents, queries).recall(20) == 1.0


@pytest.mark.usefixtures("one_thread")
def test_an_index_visits_no_more_lists_than_its_recall_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, queries = clustered(8)
    recalls, lists = [], []
    for least in (0.0, 0.6, 1.0):
        monkeypatch.setattr(vector_search, "LEAST_RECALL", least)
        retriever = precomputed(tmp_path / str(least), documents, queries, index="IVF16,Flat")
        recalls.append(retriever.recall(20))
        lists.append(retriever._search._approximate.nprobe)
        assert recalls[-1] >= least
    assert lists[0] == 1 < lists[-1]
    assert lists == sorted(lists)
    assert recalls == sorted(recalls)
    assert recalls[0] < 1.0


def test_an_index_that_faiss_does_not_know_is_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    texts = collection(["bread"], ["dough"])
    store = SimpleNamespace(vectors=tmp_path / "v")
    retriever = Dense(store, texts, DenseConfig("bundled", dtype="fp32", index="IVF4,Flt"))  # type: ignore[arg-type]
    with pytest.raises(UsageError) as caught:
        retriever.search(range(1), 1)
    assert caught.value.message == "index 'IVF4,Flt' is not one that miner builds"
    assert not (tmp_path / "v").exists()


def test_an_index_too_large_for_the_corpus_is_refused(tmp_path: Path) -> None:
    documents = unit(np.random.default_rng(0).normal(size=(10, 384)))
    with pytest.raises(UsageError) as caught:
        precomputed(tmp_path, documents, documents[:1], index="IVF64,Flat").search(range(1), 3)
    assert str(caught.value) == (
        "FAISS cannot build the index 'IVF64,Flat' over 10 vectors: Number of training points (10) should be "
        "at least as large as number of clusters (64); use Flat, or a smaller index"
    )


# Without FAISS


def without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(nearest, "importlib", nothing)


@pytest.mark.skipif(resolve_device() == "cuda", reason="a GPU searches without FAISS")
def test_a_missing_faiss_is_an_error_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_faiss(monkeypatch)
    with pytest.raises(MissingExtraError) as caught:
        precomputed(tmp_path, unit(np.ones((1, 4))), unit(np.ones((1, 4))))
    assert str(caught.value) == "FAISS is not installed; pip install 'faiss-cpu>=1.11'"


def test_an_index_without_faiss_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError) as caught:
        vector_search.empty_index("HNSW16", 8, "cosine")
    assert str(caught.value) == (
        "FAISS, which an index such as HNSW16 needs, is not installed; pip install 'faiss-cpu>=1.11'"
    )


@pytest.mark.parametrize("block", [90, 65_536])
def test_torch_finds_what_faiss_finds(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(nearest, "BLOCK", block)
    rng = np.random.default_rng(4)
    documents, queries = unit(rng.normal(size=(400, 48))), unit(rng.normal(size=(9, 48)))
    rows = np.flatnonzero(rng.random(400) < 0.8)
    with_faiss = nearest.nearest(queries, documents, rows, 25)
    without_faiss(monkeypatch)
    with_torch = nearest.nearest(queries, documents, rows, 25)
    for left, right in zip(
        *(np.argsort(-scores, axis=1) for scores, _ in (with_faiss, with_torch)), strict=True
    ):
        assert len(left) == len(right) == 25
    for position in range(9):
        assert set(with_faiss[1][position]) == set(with_torch[1][position])
    assert np.sort(with_faiss[0], axis=1) == pytest.approx(np.sort(with_torch[0], axis=1), abs=1e-6)


# On devices


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("with_faiss", [True, False])
@pytest.mark.parametrize(("devices", "room"), [(1, 0), (1, 9), (3, 1)])
def test_search_on_devices_finds_what_search_on_a_processor_finds(
    monkeypatch: pytest.MonkeyPatch, similarity: str, with_faiss: bool, devices: int, room: int
) -> None:
    """The devices are the processor; `room` is the number of blocks that stay on each."""
    monkeypatch.setattr(gpu_search, "ROWS", 60)
    monkeypatch.setattr(gpu_search, "_CELLS", 200)
    rng = np.random.default_rng(4)
    documents, queries = unit(rng.normal(size=(400, 48))), unit(rng.normal(size=(9, 48)))
    rows = np.flatnonzero(rng.random(400) < 0.8)
    searches = gpu_search.DeviceSearch(documents, rows, similarity, ["cpu"] * devices)
    searches._with_faiss = with_faiss
    searches._room = {"cpu": room}
    expected = nearest.nearest(queries, documents, rows, 25, similarity, memory=10_000)
    for _ in range(2):
        found = searches.nearest(queries, 25)
        assert [set(row) for row in found[1]] == [set(row) for row in expected[1]]
        squared = similarity == "euclidean" and not with_faiss  # FAISS gives squares
        scores = -(found[0] ** 2) if squared else found[0]
        assert np.sort(scores, axis=1) == pytest.approx(np.sort(expected[0], axis=1), abs=1e-5)
    assert len(searches._kept) == min(devices * room, -(-len(rows) // 60))


def test_scores_that_do_not_fit_on_a_device_are_computed_for_fewer_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(6)
    documents, queries = unit(rng.normal(size=(50, 8))), unit(rng.normal(size=(20, 8)))
    whole = gpu_search.TorchBlock(documents, "cosine", "cpu").search(queries, 5)

    class Small(gpu_search.TorchBlock):
        """A block on a device with memory for the scores of 3 queries."""

        def _top(self, left: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
            if len(left) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super()._top(left, k)

    found = Small(documents, "cosine", "cpu").search(queries, 5)
    assert [set(row) for row in found[1]] == [set(row) for row in whole[1]]


@given(st.integers(1, 4096), st.integers(0, 1 << 40))
def test_a_block_follows_the_memory(dimension: int, memory: int) -> None:
    rows = nearest.block_rows(dimension, memory)
    assert 256 <= rows <= nearest.BLOCK == nearest.block_rows(dimension, None)
    assert rows == 256 or 8 * dimension * rows <= memory


# With a real encoder


def open_store(path: Path) -> Database:
    documents = {f"d{i}": text for i, text in enumerate([*TEXTS, TEXTS[0]])}
    return make_store(path, documents, {"q1": "baking bread", "q2": "trains"}, [("q1", "d0"), ("q2", "d3")])


def search_store(path: Path, workers: int) -> tuple[Hits, bytes]:
    with open_store(path) as store:
        config = DenseConfig("bundled", dtype="fp32")
        retriever = Dense(store, Collection.load(store, "train"), config, workers=workers)
        hits = retriever.search(range(2), 5)
        (folder,) = store.vectors.iterdir()
        return hits, (folder / "vectors.f32").read_bytes()


def test_one_and_two_workers_give_the_same_bytes_and_sensible_hits(tmp_path: Path) -> None:
    one, first = search_store(tmp_path / "one.duckdb", 1)
    two, second = search_store(tmp_path / "two.duckdb", 2)
    assert first == second
    for name in ("query", "doc", "rank", "score"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    # By id, d0, d1, d10, d2 …: "Bread" (d8) is nearest, then d0 and d10, which are one text.
    assert ranked(one, 2)[0][:3] == [9, 0, 2]
    assert one.score[1] == one.score[2]


def test_prompts_of_the_configuration_win_over_the_model(tmp_path: Path) -> None:
    texts = collection(["bread"], ["dough"])
    store = SimpleNamespace(vectors=tmp_path)
    requested = DenseConfig("bundled", dtype="fp32", query_prompt="query: ")
    plain = DenseConfig("bundled", dtype="fp32")
    with_prompt, without = (Dense(store, texts, config) for config in (requested, plain))  # type: ignore[arg-type]
    assert with_prompt.prompts == {"query": "query: ", "document": ""}
    assert without.prompts == {"query": "", "document": ""}
    assert with_prompt.inputs() != without.inputs()
