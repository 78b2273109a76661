"""Which FAISS indexes may be requested. A string outside the grammar never reaches FAISS."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from miner.errors import UsageError
from miner.mining.config import MiningConfig
from miner.retrieval.index import EXAMPLES, check_index
from miner.retrieval.vector_search import empty_index


@pytest.mark.parametrize(
    "factory",
    [
        "Flat", "SQ8", "SQ4", "SQfp16", "SQbf16", "PQ4", "PQ4x4", "IVF4,Flat", "IVF4,SQ8", "IVF4,PQ8x4",
        "IVF4_HNSW8,SQ8", "HNSW2", "HNSW16", "HNSW16,SQ8", "HNSW16,PQ4x4", "PCA16,Flat", "PCAR8,IVF4,SQ8",
        "OPQ4,IVF4,PQ4x4", "OPQ4_16,HNSW8",
    ],
)  # fmt: skip
def test_indexes_of_the_grammar_are_built_and_searched(factory: str) -> None:
    vectors = np.random.default_rng(1).standard_normal((300, 32)).astype(np.float32)
    index = empty_index(factory, 32, "cosine")
    if not index.is_trained:
        index.train(vectors)
    index.add(vectors)
    assert index.search(vectors[:2], 3)[1].shape == (2, 3)


def test_the_examples_are_of_the_grammar() -> None:
    kinds = EXAMPLES.split(" | ")
    assert len(kinds) == 8
    for factory in kinds:
        check_index(factory, 384)


REFUSED = {
    "": "index '' is not one that miner builds",
    "flat": "index 'flat' is not one that miner builds",
    "Flat,": "index 'Flat,' is not one that miner builds",
    "Tree": "index 'Tree' is not one that miner builds",
    "IVF16": "index 'IVF16' is not one that miner builds",
    "IVF16,Flat,Flat": "index 'IVF16,Flat,Flat' is not one that miner builds",
    "PCA16": "index 'PCA16' is not one that miner builds",
    "IVF0,Flat": "index 'IVF0,Flat': IVF must have a whole number from 1 to 10,000,000, got 0",
    "IVF99999999999,Flat": "index 'IVF99999999999,Flat': IVF must have a whole number from 1 to 10,000,000, "
    "got 99999999999",
    "PQ0": "index 'PQ0': PQ must have a whole number from 1 to 1,000,000, got 0",
    "PQ4x0": "index 'PQ4x0': the bits of PQ must have a whole number from 4 to 12, got 0",
    "PCA0,Flat": "index 'PCA0,Flat': PCA must have a whole number from 1 to 1,000,000, got 0",
    "PCA16,PQ32": "index 'PCA16,PQ32': PQ32 does not divide vectors of 16 numbers",
    "x" * 100_000: f"index '{'x' * 58}… is not one that miner builds",
}
"""Harmless strings; those that end FAISS's process, such as a graph without links, are refused alike."""


@pytest.mark.parametrize("factory", REFUSED, ids=[name[:30] or "empty" for name in REFUSED])
def test_what_is_not_of_the_grammar_never_reaches_faiss(
    factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", ModuleType("faiss"))
    for refuse in (lambda: empty_index(factory, 32, "cosine"), lambda: check_index(factory)):
        with pytest.raises(UsageError) as caught:
            refuse()
        assert caught.value.message == REFUSED[factory]
    if factory:
        with pytest.raises(UsageError) as caught:
            MiningConfig(encoder="bundled", index=factory)
        assert caught.value.message == REFUSED[factory]


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("PQ5", "index 'PQ5': PQ5 does not divide vectors of 32 numbers"),
        ("PQ64", "index 'PQ64': PQ64 does not divide vectors of 32 numbers"),
        ("PCA33,Flat", "index 'PCA33,Flat': PCA33 makes 33 numbers from vectors of 32"),
        ("OPQ5,Flat", "index 'OPQ5,Flat': OPQ5 does not divide vectors of 32 numbers"),
    ],
)
def test_an_index_that_does_not_fit_the_vectors_is_refused(factory: str, message: str) -> None:
    check_index(factory)
    with pytest.raises(UsageError) as caught:
        check_index(factory, 32)
    assert caught.value.message == message
