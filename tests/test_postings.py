"""BM25's index on disk, and the search that leaves most of it unread: both against plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.collection.collection import Collection, Hits
from miner.retrieval import postings
from miner.retrieval.bm25 import VARIANTS, Bm25
from miner.retrieval.config import Bm25Config
from miner.retrieval.postings import Postings, build
from miner.retrieval.term_search import BLOCK
from miner.retrieval.terms import Terms

WORDS = ["apple", "bread", "Äpfel", "chèvre", "重置路由器", "हिन्दी", "x", "42", "the", "snake_case"]
PLAIN = Bm25Config(stemmer="none", stopwords="english")

texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), max_size=12)


def collection(documents: Sequence[str], queries: Sequence[str], digest: str = "") -> Collection:
    return Collection(
        pa.table({"doc_id": [f"d{i:06}" for i in range(len(documents))], "text": documents}),
        pa.table({"query_id": [f"q{i:03}" for i in range(len(queries))], "text": queries}),
        {"documents": digest},
        "train",
    )


# The index


@pytest.mark.parametrize(("run", "part"), [(1 << 22, 1 << 24), (5, 3), (1, 1)])
@settings(max_examples=40, deadline=None)
@given(documents=texts, rows=st.integers(1, 5))
def test_postings_are_those_that_counting_gives(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], rows: int, run: int, part: int
) -> None:
    folder = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postings, "_RUN", run)
        patch.setattr(postings, "_PART", part)
        blocks = (pa.array(documents[at : at + rows]) for at in range(0, len(documents), rows))
        build(blocks, PLAIN, folder)
    index = Postings.mapped(folder)
    words = Terms(PLAIN).of_texts(documents)
    expected: dict[str, list[tuple[int, int]]] = {}
    for doc, own in enumerate(words):
        for term, count in Counter(own).items():
            expected.setdefault(term, []).append((doc, count))
    starts = index.starts.tolist()
    found = {
        term: list(zip(index.docs[start:stop].tolist(), index.counts[start:stop].tolist(), strict=True))
        for term, start, stop in zip(index.names.to_pylist(), starts, starts[1:], strict=False)
    }
    assert found == expected
    assert index.lengths.tolist() == [len(own) for own in words]
    assert sorted(path.name for path in folder.iterdir()) == [
        "counts.npy",
        "docs.npy",
        "lengths.npy",
        "starts.npy",
        "terms.arrow",
    ]


def test_a_count_beyond_255_is_kept(tmp_path: Path) -> None:
    build([pa.array(["apple " * 70_000, "apple bread"])], PLAIN, tmp_path)
    index = Postings.mapped(tmp_path)
    assert index.counts.tolist() == [70_000, 1, 1]
    assert index.lengths.tolist() == [70_000, 2]


def test_more_words_than_the_first_table_holds(tmp_path: Path) -> None:
    documents = [f"word{number} w{'x' * (number % 40)}{number}" for number in range(9_000)]
    build([pa.array(documents)], Bm25Config(stemmer="none", stopwords="none"), tmp_path)
    names = Postings.mapped(tmp_path).names.to_pylist()
    assert names == [word for text in documents for word in text.split()]


def test_find_gives_the_numbers_of_known_terms(tmp_path: Path) -> None:
    build([pa.array(["cheese apple", "bread"])], PLAIN, tmp_path)
    index = Postings.mapped(tmp_path)
    assert index.find(pa.array(["bread", "zebra", "cheese"], pa.large_string())).tolist() == [2, -1, 0]


def test_an_index_is_built_once_and_again_for_other_documents_or_words(tmp_path: Path) -> None:
    folder = tmp_path / "s.duckdb.bm25"

    def searched(documents: Sequence[str], config: Bm25Config, digest: str) -> set[str]:
        retriever = Bm25(collection(documents, ["apples"], digest), config, folder=folder)
        assert len(retriever.search(range(1), 5).doc) == 1
        return {path.name for path in folder.iterdir()}

    (first,) = searched(["apples", "bread"], Bm25Config(), "one")
    made = (folder / first / "docs.npy").stat().st_ino
    assert searched(["apples", "bread"], Bm25Config(k1=2.0, variant="atire"), "one") == {first}
    assert (folder / first / "docs.npy").stat().st_ino == made
    both = searched(["apples", "bread"], Bm25Config(stemmer="none"), "one")
    assert first in both
    assert len(both) == 2
    (folder / f".{first}.miner-new").mkdir()
    (folder / f".{first}.miner-new" / "docs.npy").write_bytes(b"half")
    (other,) = searched(["apples", "cheese"], Bm25Config(), "two")
    assert other not in both


# The search


def rough_texts(number: int, seed: int) -> list[str]:
    """Texts in which a few words are frequent and many rare, and many documents are the same."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i}" for i in range(400)])
    weights = 1 / np.arange(1, 401) ** 1.1
    sizes = rng.integers(0, 9, number)
    drawn = rng.choice(words, int(sizes.sum()), p=weights / weights.sum())
    return [" ".join(part) for part in np.split(drawn, np.cumsum(sizes)[:-1])]


def all_scores(retriever: Bm25, queries: int, documents: int) -> np.ndarray:
    pairs = np.arange(queries * documents)
    scores = retriever.score_pairs(
        (pairs // documents).astype(np.int32), (pairs % documents).astype(np.int32)
    )
    return scores.reshape(queries, documents)


def assert_exhaustive(retriever: Bm25, documents: list[str], queries: list[str], depth: int) -> None:
    """Compares a search with sorting the scores of all documents that share a word."""
    hits: Hits = retriever.search(range(len(queries)), depth)
    scores = all_scores(retriever, len(queries), len(documents))
    sets = [set(text.split()) for text in documents]
    for query, text in enumerate(queries):
        shared = np.array([doc for doc, own in enumerate(sets) if own & set(text.split())], dtype=np.int64)
        best = shared[np.lexsort((shared, -scores[query, shared]))][:depth]
        mine = hits.query == query
        assert hits.doc[mine].tolist() == best.tolist()
        assert hits.score[mine].tolist() == scores[query, best].tolist()


EVERY = [(backend, variant) for backend, variants in VARIANTS.items() for variant in variants]


@pytest.mark.parametrize(("backend", "variant"), EVERY)
@pytest.mark.parametrize("depth", [1, 7, 100])
def test_the_search_of_many_blocks_finds_what_scoring_everything_finds(
    backend: str, variant: str, depth: int
) -> None:
    documents = rough_texts(2 * BLOCK + 777, 1)
    queries = [*rough_texts(40, 2), "w1 w1 w1 w399", "w0", "w0 w1 w2 w3 w4 w5 w6 w7"]
    config = Bm25Config(backend, variant, stemmer="none", stopwords="none")
    assert_exhaustive(Bm25(collection(documents, queries), config), documents, queries, depth)


@pytest.mark.parametrize("k1", [0.0, 1e-12, 1e6])
def test_extreme_saturation_changes_nothing(k1: float) -> None:
    documents = rough_texts(BLOCK + 99, 3)
    queries = rough_texts(20, 4)
    config = Bm25Config(k1=k1, b=1.0, stemmer="none", stopwords="none")
    assert_exhaustive(Bm25(collection(documents, queries), config), documents, queries, 12)


@pytest.mark.parametrize("variant", ["lucene", "robertson"])
def test_more_equal_documents_than_wait_for_their_scores(variant: str) -> None:
    """Robertson gives words of most documents the idf 0: all documents have the score 0."""
    documents = ["apple bread"] * (3 * BLOCK) + ["apple apple", "cheese"]
    queries = ["apple", "bread cheese"]
    config = Bm25Config(variant=variant, stemmer="none", stopwords="none")
    retriever = Bm25(collection(documents, queries), config)
    assert_exhaustive(retriever, documents, queries, 20)


def test_a_query_as_long_as_a_book() -> None:
    documents = rough_texts(3_000, 5)
    queries = [" ".join(documents[:1500]), documents[7]]
    config = Bm25Config(stemmer="none", stopwords="none")
    assert_exhaustive(Bm25(collection(documents, queries), config), documents, queries, 30)
