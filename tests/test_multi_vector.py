"""Multi-vector encoders: scores are the library's MaxSim, search is exact, and every text is encoded once."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import sentence_transformers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.models.multi_vector_encoder import on_grid
from miner.models.ragged_cache import Ragged
from miner.retrieval import multi_vector
from miner.retrieval.multi_vector import MultiVector
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
from tests.tiny_encoders import PROMPTS, tiny_multi_vector_encoder

FIXED = {"strategy": "fixed", "attend": False, "length": 16}
UNSCORED = TEXTS.index("!!!")
"""The document of punctuation, of which the mask leaves only special tokens, or nothing."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "plain": tiny_multi_vector_encoder(folder / "plain"),
        "fixed": tiny_multi_vector_encoder(folder / "fixed", expansion=FIXED, prompts=PROMPTS),
        "min": tiny_multi_vector_encoder(
            folder / "min", expansion={"strategy": "min", "attend": True, "length": 8}
        ),
        "mean": tiny_multi_vector_encoder(folder / "mean", similarity_fn_name="meanmaxsim"),
        "long": tiny_multi_vector_encoder(folder / "long", normalise=False, prompts=PROMPTS),
    }


NAMES = ["plain", "fixed", "min", "mean", "long"]


def of_the_library(model: Path, rounded: bool = False) -> tuple[Any, Any, Floats]:
    """Returns the library's token vectors of queries and documents, and its scores of all pairs."""
    theirs = sentence_transformers.MultiVectorEncoder(str(model), device="cpu")
    left, right = theirs.encode_query(QUERIES), theirs.encode_document(TEXTS)
    if rounded:
        left, right = ([text.half().float() for text in texts] for texts in (left, right))
    return left, right, theirs.similarity(left, right).numpy().astype(np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_library_and_search_is_exact(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    made = retriever(tmp_path, models[name])
    assert isinstance(made, MultiVector)
    assert (made.kind, made.proposes, made.name) == ("multi-vector", True, name)
    left, right, expected = of_the_library(models[name])
    scores = every_pair(made)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    hits = made.search(range(len(QUERIES)), 10)
    assert np.array_equal(made.score_pairs(hits.query, hits.doc), hits.score)
    assert documents_of(hits) == brute_force(scores, 10)
    for role, texts in (("query", left), ("document", right)):
        assert made._sizes(role, np.arange(len(texts))).tolist() == [len(text) for text in texts]
    assert made.gaps() == {"documents": 0, "queries": 0}


def test_half_precision_is_near_and_equals_the_library_over_the_same_vectors(
    models: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("fixed", "mean"):
        made = retriever(tmp_path, models[name], token_dtype="fp16")
        whole = retriever(tmp_path, models[name])
        assert made.inputs() != whole.inputs()
        scores = every_pair(made)
        _, _, expected = of_the_library(models[name], rounded=True)
        # The library's vectors differ in the last digits of fp32 with the batch, so some round otherwise.
        np.testing.assert_allclose(scores, expected, rtol=1e-4)
        np.testing.assert_allclose(scores, every_pair(whole), rtol=5e-4)
        cache = made._cached.cache("document")
        assert cache.items.dtype == np.float16
        assert cache.items.nbytes * 2 == whole._cached.cache("document").items.nbytes


def test_one_and_two_workers_give_the_same_bytes(models: dict[str, Path], tmp_path: Path) -> None:
    found = {}
    for workers in (1, 2, 4):
        made = retriever(tmp_path / str(workers), models["min"], workers=workers)
        found[workers] = bytes_of(made.search(range(len(QUERIES)), 10)), files_below(tmp_path / str(workers))
    assert found[1] == found[2] == found[4]
    assert len(found[1][1]) == 4


def test_a_cached_text_is_not_encoded_again(models: dict[str, Path], tmp_path: Path) -> None:
    first = retriever(tmp_path, models["fixed"])
    hits = first.search(range(len(QUERIES)), 10)
    again = retriever(tmp_path, models["fixed"], workers=2)
    assert bytes_of(again.search(range(len(QUERIES)), 10)) == bytes_of(hits)
    assert "_loaded" in vars(first.encoder)
    assert "_loaded" not in vars(again.encoder)


def test_blocks_and_bounds_of_memory_change_nothing(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = retriever(tmp_path, models["fixed"]).search(range(len(QUERIES)), 10)
    monkeypatch.setattr(MultiVector, "_BLOCK", 60)
    monkeypatch.setattr(multi_vector, "_QUERY_TOKENS", 20)
    monkeypatch.setattr(multi_vector, "_PAIR_TOKENS", 30)
    made = retriever(tmp_path, models["fixed"])
    assert bytes_of(made.search(range(len(QUERIES)), 10)) == bytes_of(whole)
    shuffled = np.random.default_rng(1).permutation(len(whole.query))
    scores = made.score_pairs(whole.query[shuffled], whole.doc[shuffled])
    assert np.array_equal(scores, whole.score[shuffled])


def test_a_large_collection_is_not_proposed_from(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MultiVector, "_MOST", len(TEXTS) - 1)
    assert not retriever(tmp_path, models["plain"]).proposes
    assert retriever(tmp_path, models["plain"], TEXTS[1:]).proposes


def test_texts_longer_than_the_model_reads_are_counted(models: dict[str, Path], tmp_path: Path) -> None:
    texts = ["word " * 46, "word " * 47, "word " * 80, "bread"]
    made = retriever(tmp_path, models["plain"], texts, ["word " * 62, "word " * 63])
    made.search(range(2), 1)
    assert made.truncated == 3  # a document has 48 tokens with [CLS] and [SEP], a query 64
    fixed = retriever(tmp_path, models["fixed"], ["bread"], ["word " * 12, "word " * 13, "word"])
    fixed.search(range(3), 1)
    assert fixed.truncated == 1  # of 16 tokens, four are special or the prompt


# Any vectors


def texts_of(numbers: npt.NDArray[np.float32], sizes: npt.NDArray[np.int64]) -> Ragged:
    return Ragged(on_grid(numbers), sizes)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 25), st.integers(0, 10_000), st.booleans())
def test_search_is_exact_with_ties_and_texts_without_vectors(
    models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    requested: int,
    depth: int,
    seed: int,
    integers: bool,
) -> None:
    rng = np.random.default_rng(seed)
    sizes = {"document": rng.integers(0, 5, size=count), "query": rng.integers(0, 4, size=requested)}
    made = retriever(
        tmp_path_factory.mktemp("v"),
        models["plain"],
        [f"d {i}" for i in range(count)],
        [f"q {i}" for i in range(requested)],
    )
    rows = {}
    for role, lengths in sizes.items():
        numbers = rng.integers(-1, 2, (lengths.sum(), 3)) if integers else rng.normal(size=(lengths.sum(), 3))
        rows[role] = texts_of(numbers.astype(np.float32), lengths)
        filled(made, role, [text for block in made._texts(role) for text in block], rows[role])
    hits = made.search(range(requested), depth)
    split = {role: np.split(r.items.astype(np.float64), np.cumsum(r.sizes)[:-1]) for role, r in rows.items()}
    expected = np.array(
        [
            [(q @ d.T).max(axis=1).sum() if len(q) and len(d) else np.nan for d in split["document"]]
            for q in split["query"]
        ]
    )
    scores = every_pair(made, requested, count)
    np.testing.assert_allclose(scores, expected, rtol=1e-12, atol=1e-12)
    assert documents_of(hits, requested) == brute_force(scores, depth)
    assert np.array_equal(made.score_pairs(hits.query, hits.doc), hits.score)
    nothing = {role: int((lengths == 0).sum()) for role, lengths in sizes.items()}
    assert made.gaps() == {"documents": nothing["document"], "queries": nothing["query"]}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1e-6, 1.0, 40.0, 1e5]), st.sampled_from(["<f4", "<f2"]))
def test_a_dot_product_of_rounded_vectors_is_exact_in_any_order(seed: int, size: float, stored: str) -> None:
    rng = np.random.default_rng(seed)
    raw = (rng.normal(size=(2, 64)) * size * 10.0 ** rng.integers(-6, 1, size=(2, 64))).astype(np.float32)
    with np.errstate(over="ignore"):
        left, right = on_grid(raw).astype(stored).astype(np.float64)
    if not np.isfinite([left, right]).all():
        return
    pairs = zip(left.tolist(), right.tolist(), strict=True)
    exact = sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction())
    order = rng.permutation(64)
    assert Fraction(float(left @ right)) == exact
    assert Fraction(float(np.cumsum(left[order] * right[order])[-1])) == exact
    lengths = np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
    assert np.abs(on_grid(raw).astype(np.float64) - raw).max() <= 2.0**-24 * lengths.max()


def test_a_vector_that_is_not_finite_and_a_text_of_masked_tokens_are_none(tmp_path: Path) -> None:
    model = tiny_multi_vector_encoder(tmp_path / "nan")
    theirs = sentence_transformers.MultiVectorEncoder(str(model), device="cpu")
    butter = theirs.tokenizer.convert_tokens_to_ids("butter")
    mask = theirs[2]
    mask.skiplist_words = [*mask.skiplist_words, "[CLS]", "[SEP]"]
    with torch.no_grad():
        theirs[0].model.embeddings.word_embeddings.weight[butter] = float("nan")
    theirs.save_pretrained(str(model), create_model_card=False)
    made = retriever(tmp_path / "v", model, ["bread", "", "bread and butter", "!?"], ["bread", "butter"])
    assert documents_of(made.search(range(2), 5), 2) == [[0], []]
    assert made.gaps() == {"documents": 3, "queries": 1}
    assert np.isnan(every_pair(made, 2, 4)).tolist() == [[False, True, True, True], [True] * 4]
