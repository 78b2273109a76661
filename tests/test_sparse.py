"""Sparse encoders: scores are those of SparseEncoder, search is exact, and every text is encoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.models.ragged_cache import Ragged
from miner.models.sparse_encoder import WEIGHT
from miner.retrieval import ranked
from miner.retrieval.sparse import Sparse
from tests.ragged_support import (
    QUERIES,
    TEXTS,
    Floats,
    brute_force,
    bytes_of,
    documents_of,
    every_pair,
    files_below,
    filled,
    retriever,
)
from tests.tiny_encoders import PROMPTS, tiny_sparse_encoder

SIMILARITIES = ("dot", "cosine", "euclidean", "manhattan")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "splade": tiny_sparse_encoder(folder / "splade"),
        "cosine": tiny_sparse_encoder(folder / "cosine", prompts=PROMPTS, similarity_fn_name="cosine"),
        "inference-free": tiny_sparse_encoder(folder / "inference-free", kind="inference-free"),
        "static": tiny_sparse_encoder(folder / "static", kind="static"),
        "capped": tiny_sparse_encoder(folder / "capped", max_active_dims=12),
        "manhattan": tiny_sparse_encoder(folder / "m", max_active_dims=30, similarity_fn_name="manhattan"),
        "euclidean": tiny_sparse_encoder(folder / "e", kind="static", similarity_fn_name="euclidean"),
    }


NAMES = ["splade", "cosine", "inference-free", "static", "capped", "manhattan", "euclidean"]


def of_the_library(model: Path) -> tuple[Floats, Any, Any]:
    """Returns the library's scores of all pairs, and its vectors of queries and documents."""
    theirs = sentence_transformers.SparseEncoder(str(model), device="cpu")
    left, right = theirs.encode_query(QUERIES), theirs.encode_document(TEXTS)
    scores = theirs.similarity(left, right).numpy().astype(np.float64)
    return scores, left.to_dense().numpy(), right.to_dense().numpy()


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_library_and_search_is_exact(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    made = retriever(tmp_path, models[name])
    assert isinstance(made, Sparse)
    assert (made.kind, made.proposes, made.name) == ("sparse", True, models[name].name)
    expected, left, right = of_the_library(models[name])
    missing = ~(left.any(axis=1)[:, None] & right.any(axis=1)[None, :])
    expected[missing] = np.nan
    scores = every_pair(made)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    hits = made.search(range(len(QUERIES)), 10)
    assert np.array_equal(made.score_pairs(hits.query, hits.doc), hits.score)
    if made.encoder.similarity in ("dot", "cosine"):
        scores[scores <= 0] = np.nan
    assert documents_of(hits) == brute_force(scores, 10)
    assert made.gaps() == {
        "documents": int((~right.any(axis=1)).sum()),
        "queries": int((~left.any(axis=1)).sum()),
    }


def test_each_side_has_its_own_route(models: dict[str, Path], tmp_path: Path) -> None:
    made = retriever(tmp_path, models["inference-free"])
    made.search(range(1), 1)
    query, document = (made.encoder.for_role(role) for role in ("query", "document"))
    assert query.fingerprint != document.fingerprint
    assert query.encoded(["bread"]).vectors.sizes.tolist() == [1]
    assert document.encoded(["bread"]).vectors.sizes[0] > 1


def test_a_text_of_no_active_dimension_is_no_hit_and_has_no_score(
    models: dict[str, Path], tmp_path: Path
) -> None:
    made = retriever(tmp_path, models["static"], ["bread", "", "bread"], ["", "bread"])
    assert documents_of(made.search(range(2), 5), 2) == [[], [0, 2]]
    assert np.isnan(every_pair(made, 2, 3)).tolist() == [[True, True, True], [False, True, False]]


def test_texts_longer_than_the_model_reads_are_counted(models: dict[str, Path], tmp_path: Path) -> None:
    for name in ("splade", "inference-free"):
        made = retriever(tmp_path, models[name], [*TEXTS, "word " * 62, "word " * 63], ["word " * 63])
        assert made.truncated == 0
        made.search(range(1), 1)
        assert made.truncated == 2
        again = retriever(tmp_path, models[name], [*TEXTS, "word " * 63], ["word " * 63])
        assert again.truncated == 2


def test_one_and_two_workers_give_the_same_bytes(models: dict[str, Path], tmp_path: Path) -> None:
    found = {}
    for workers in (1, 2, 4):
        made = retriever(tmp_path / str(workers), models["splade"], workers=workers)
        found[workers] = bytes_of(made.search(range(len(QUERIES)), 10)), files_below(tmp_path / str(workers))
    assert found[1] == found[2] == found[4]
    assert len(found[1][1]) == 4


def test_a_cached_text_is_not_encoded_again(models: dict[str, Path], tmp_path: Path) -> None:
    first = retriever(tmp_path, models["splade"])
    hits = first.search(range(len(QUERIES)), 10)
    again = retriever(tmp_path, models["splade"], workers=2)
    assert bytes_of(again.search(range(len(QUERIES)), 10)) == bytes_of(hits)
    assert "_loaded" in vars(first.encoder)
    assert "_loaded" not in vars(again.encoder)
    assert again.inputs() == first.inputs()


def test_blocks_and_bounds_of_memory_change_nothing(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("splade", "cosine", "euclidean"):
        whole = retriever(tmp_path, models[name]).search(range(len(QUERIES)), 10)
        with monkeypatch.context() as patch:
            patch.setattr(Sparse, "_BLOCK", 300)
            patch.setattr(ranked, "_POSTINGS", 50)
            patch.setattr("miner.retrieval.sparse._PAIRS", 400)
            parts = [retriever(tmp_path, models[name]).search(range(i, i + 1), 10) for i in range(5)]
        assert bytes_of(whole) == tuple(
            b"".join(columns) for columns in zip(*map(bytes_of, parts), strict=True)
        )


# Any vectors


def rows_of(matrix: Floats) -> Ragged:
    """Returns the rows of a matrix as a sparse encoder gives them."""
    row, dimension = np.nonzero(matrix)
    items = np.empty((len(row), 1), WEIGHT)
    items["dimension"][:, 0], items["weight"][:, 0] = dimension, matrix[row, dimension]
    return Ragged(items, (matrix != 0).sum(axis=1))


def similarities(similarity: str, left: Floats, right: Floats) -> Floats:
    """Returns every similarity as numpy computes it from dense vectors."""
    difference = left[:, None] - right[None]
    if similarity == "euclidean":
        return np.asarray(-np.sqrt((difference**2).sum(axis=2)))
    if similarity == "manhattan":
        return np.asarray(-np.abs(difference).sum(axis=2))
    dot = left @ right.T
    if similarity == "dot":
        return np.asarray(dot)
    lengths = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    return np.asarray(dot / np.where(lengths > 0, lengths, np.nan))


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 25),
    st.integers(1, 4),
    st.integers(1, 30),
    st.integers(0, 10_000),
    st.sampled_from(SIMILARITIES),
    st.sampled_from([3, 1 << 24]),
)
def test_search_is_exact_with_ties(
    models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    requested: int,
    depth: int,
    seed: int,
    similarity: str,
    block: int,
) -> None:
    rng = np.random.default_rng(seed)
    # Few small integers: many documents tie, and dot products are exact in any order.
    values = rng.integers(-3, 4, size=(count + requested, 6)) * (rng.random((count + requested, 6)) < 0.5)
    documents, queries = np.split(values.astype(np.float64), [count])
    doc_texts, query_texts = [f"d {i}" for i in range(count)], [f"q {i}" for i in range(requested)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sparse, "_BLOCK", block)
        made = retriever(tmp_path_factory.mktemp("v"), models["splade"], doc_texts, query_texts)
        made.encoder.similarity = similarity
        filled(made, "document", doc_texts, rows_of(documents))
        filled(made, "query", query_texts, rows_of(queries))
        hits = made.search(range(requested), depth)
    expected = similarities(similarity, queries, documents)
    expected[~(queries.any(axis=1)[:, None] & documents.any(axis=1))] = np.nan
    scores = every_pair(made, requested, count)
    np.testing.assert_allclose(scores, expected, rtol=1e-12, atol=1e-12)
    if similarity in ("dot", "cosine"):
        scores[scores <= 0] = np.nan
    assert documents_of(hits, requested) == brute_force(scores, depth)
    assert np.array_equal(made.score_pairs(hits.query, hits.doc), hits.score)


def test_a_vector_that_is_not_finite_is_none(tmp_path: Path) -> None:
    import torch

    model = tiny_sparse_encoder(tmp_path / "nan", kind="inference-free")
    theirs = sentence_transformers.SparseEncoder(str(model), device="cpu")
    with torch.no_grad():  # 0 times NaN is NaN, for every query
        theirs[0].sub_modules["query"][0].weight[7] = float("nan")
    theirs.save_pretrained(str(model), create_model_card=False)
    made = retriever(tmp_path / "v", model, ["bread home", "home"], ["home", "bread"])
    assert documents_of(made.search(range(2), 5), 2) == [[], []]
    assert made.gaps() == {"documents": 0, "queries": 2}
    assert np.isnan(every_pair(made, 2, 2)).all()


def test_near_duplicates_keep_their_euclidean_distance() -> None:
    """|a|² + |b|² − 2ab would lose it: findings/sparse-euclidean-ties-near-duplicates.sh."""
    from scipy.sparse import csr_array

    from miner.retrieval.sparse import _pairwise

    rng = np.random.default_rng(0)
    texts = np.maximum(rng.normal(size=(20, 3000)) - 1, 0).astype(np.float32).astype(np.float64) * 3
    near = texts.copy()
    near[:, :3] += 0.001
    found = _pairwise("euclidean", csr_array(texts), csr_array(near))
    assert found == pytest.approx(-np.linalg.norm(texts - near, axis=1), rel=1e-9)
    assert (_pairwise("euclidean", csr_array(texts), csr_array(texts)) == 0).all()
