"""The differential test: sentence-transformers' own miner is the oracle.

On the same vectors, with the dense retriever alone, our triplets are those of
`sentence_transformers.util.mine_hard_negatives`. What it does differently, named here and accounted
for rather than imitated:

- It drops the first `range_min` candidates *after* filtering; our `skip_top` looks at the
  retriever's rank. The test asks for `range_min` more negatives and drops the first ones.
- It fetches `range_max` plus the largest number of positives of any query, for every query.
- It compares in fp32, we in float64: cases in which two scores, or a score and a threshold, are
  nearer than fp32 can tell apart are left out.
- It knows texts only, so equal texts are one document, and a query may be its own negative: the
  test's texts are all different.
- It gives vectors length 1 whatever similarity the model names, and so mines a dot-product model by cosine
  (sentence-transformers 6.2). The test hands it the model's own vectors; all four similarities are compared.
- When a margin drops every candidate, max_score and min_score divide by zero while counting: that
  is the empty result.
- It pairs up positives and negatives of a query with several positives and few negatives wrongly
  in n-tuples (rows are taken from the un-deduplicated order); only its triplets are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import mine
from miner.models.similarity import COSINE, SIMILARITIES, matrix
from miner.store.triplets import triplets as triplets_of
from tests.stores import make_store
from tests.tiny import word_table

WORDS = 64
DIMENSION = 16


Encoders = dict[str, tuple[Path, Any]]


def table() -> dict[str, list[float]]:
    """A random vector for every word."""
    vectors = np.random.default_rng(5).standard_normal((WORDS, DIMENSION)).tolist()
    return {f"w{i}": vector for i, vector in enumerate(vectors)}


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, tiny encoder that knows every word: a table of random vectors, averaged, compared by cosine."""
    from miner.models.scratch import scratch_model

    folder = tmp_path_factory.mktemp("oracle") / "static"
    scratch_model("bundled", DIMENSION, seed=5).save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    """A table of random word vectors, averaged; once for each similarity.

    Each with the model as sentence-transformers loads it, but that it gives vectors their own length.
    """
    from sentence_transformers import SentenceTransformer

    class Raw(SentenceTransformer):
        """Does not normalise unless it compares by cosine, whoever asks for it."""

        def encode(self, *given: Any, **settings: Any) -> Any:
            settings["normalize_embeddings"] = self.similarity_fn_name == COSINE
            return super().encode(*given, **settings)

    folder = tmp_path_factory.mktemp("oracle")
    folders = {name: word_table(folder / name, table(), name) for name in SIMILARITIES}
    return {name: (path, Raw(str(path), device="cpu")) for name, path in folders.items()}


USUAL = {COSINE: (1.0, 0.0), "dot": (4.0, 0.0), "euclidean": (2.0, -3.0), "manhattan": (6.0, -10.0)}
"""What bounds on cosines are multiplied by, and what is added, to be bounds on other similarities."""


def text(rng: np.random.Generator, number: int) -> str:
    """A text of random words; its number, spelt in words of the vocabulary, makes it unique."""
    words = [f"w{i}" for i in rng.integers(8, WORDS, rng.integers(2, 6))]
    return " ".join([f"w{digit}" for digit in np.base_repr(number + 64, 8)] + words)


@pytest.fixture
def compared() -> Iterator[list[int]]:
    """How many triplets each case compared; if most compared none, the test would say little."""
    sizes: list[int] = []
    yield sizes
    assert sum(size > 0 for size in sizes) >= len(sizes) // 3, sizes


margins = st.one_of(st.none(), st.floats(-0.2, 0.4))
scores = st.one_of(st.none(), st.floats(-0.5, 0.9))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    similarity=st.sampled_from(SIMILARITIES),
    seed=st.integers(0, 10_000),
    documents=st.integers(6, 30),
    queries=st.integers(1, 8),
    most_positives=st.integers(1, 4),
    absolute=margins,
    relative=margins,
    max_score=scores,
    min_score=scores,
    range_min=st.integers(0, 3),
    range_max=st.integers(4, 12),
    negatives=st.integers(1, 4),
)
def test_the_triplets_are_those_of_mine_hard_negatives(
    encoders: Encoders,
    compared: list[int],
    similarity: str,
    seed: int,
    documents: int,
    queries: int,
    most_positives: int,
    **requested: Any,
) -> None:
    assume(requested["negatives"] <= requested["range_max"] - requested["range_min"])
    assume(
        None in (requested["min_score"], requested["max_score"])
        or requested["min_score"] <= requested["max_score"]
    )
    encoder, model = encoders[similarity]
    scale, shift = USUAL[similarity]
    for name, offset in (("min_score", shift), ("max_score", shift), ("absolute", 0.0)):
        requested[name] = None if requested[name] is None else scale * requested[name] + offset
    rng = np.random.default_rng(seed)
    corpus = {f"d{i:02}": text(rng, i) for i in range(documents)}
    questions = {f"q{i}": text(rng, 100 + i) for i in range(queries)}
    judged = [
        (query, f"d{doc:02}")
        for query in questions
        for doc in rng.choice(documents, rng.integers(1, most_positives + 1), replace=False)
    ]
    assume(decidable(float64_scores(model, corpus, questions), judged, requested))
    expected = theirs(model, corpus, questions, judged, requested)
    compared.append(len(expected))
    assert ours(encoder, corpus, questions, judged, requested) == expected


def float64_scores(
    model: Any, corpus: dict[str, str], questions: dict[str, str]
) -> dict[tuple[str, str], float]:
    documents, queries = (
        model.encode(list(texts.values())).astype(np.float64) for texts in (corpus, questions)
    )
    scores = matrix(model.similarity_fn_name, queries, documents)
    return {(q, d): scores[i, j] for i, q in enumerate(questions) for j, d in enumerate(corpus)}


def decidable(
    similarity: dict[tuple[str, str], float], judged: list[tuple[str, str]], requested: dict[str, Any]
) -> bool:
    """Whether fp32 can tell every score from every other and from every threshold."""
    for query in {q for q, _ in similarity}:
        values = [s for (q, _), s in similarity.items() if q == query]
        reference = min(similarity[pair] for pair in judged if pair[0] == query)
        thresholds = [
            requested["max_score"],
            requested["min_score"],
            None if requested["absolute"] is None else reference - requested["absolute"],
            None if requested["relative"] is None else reference - abs(reference) * requested["relative"],
        ]
        ordered = sorted(values + [t for t in thresholds if t is not None and t != reference])
        if any(b - a < 1e-6 * max(1.0, abs(a)) for a, b in pairwise(ordered)):
            return False
        # A margin of exactly 0 puts the threshold on the positive itself, which is no candidate.
    return True


Triplet = tuple[str, str, str]


def theirs(
    model: Any,
    corpus: dict[str, str],
    questions: dict[str, str],
    judged: list[tuple[str, str]],
    requested: dict[str, Any],
) -> list[Triplet]:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    dataset = Dataset.from_dict(
        {"query": [questions[q] for q, _ in judged], "positive": [corpus[d] for _, d in judged]}
    )
    try:
        mined = mine_hard_negatives(
            dataset,
            model,
            corpus=list(corpus.values()),
            absolute_margin=requested["absolute"],
            relative_margin=requested["relative"],
            max_score=requested["max_score"],
            min_score=requested["min_score"],
            range_min=requested["range_min"],
            range_max=requested["range_max"],
            num_negatives=requested["negatives"],
            verbose=False,
        )
    except ZeroDivisionError:
        return []
    query_id = {text: i for i, text in questions.items()}
    doc_id = {text: i for i, text in corpus.items()}
    return sorted((query_id[r["query"]], doc_id[r["positive"]], doc_id[r["negative"]]) for r in mined)


def ours(
    encoder: Path,
    corpus: dict[str, str],
    questions: dict[str, str],
    judged: list[tuple[str, str]],
    requested: dict[str, Any],
) -> list[Triplet]:
    positives = [[q for q, _ in judged].count(query) for query in questions]
    config = MiningConfig(
        bm25=False,
        encoder=str(encoder),
        dtype="fp32",
        depth=requested["range_max"] + max(positives),
        overlaps=False,
        rules=Rules(
            absolute_margin=requested["absolute"],
            relative_margin=requested["relative"],
            max_score=requested["max_score"],
            min_score=requested["min_score"],
        ),
        selection=Selection(negatives=requested["range_min"] + requested["negatives"]),
    )
    with (
        TemporaryDirectory() as folder,
        make_store(Path(folder) / "s.duckdb", corpus, questions, judged) as store,
    ):
        rows = triplets_of(store, mine(store, config, workers=1)).to_pylist()
    return sorted(
        (r["query_id"], r["positive_id"], r["negative_id"])
        for r in rows
        if r["rank"] > requested["range_min"]
    )


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_scores_are_those_of_mine_hard_negatives(
    encoders: Encoders, similarity: str, tmp_path: Path
) -> None:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    encoder, model = encoders[similarity]
    rng = np.random.default_rng(1)
    corpus = {f"d{i:02}": text(rng, i) for i in range(20)}
    questions = {f"q{i}": text(rng, 100 + i) for i in range(5)}
    judged = [(f"q{i}", f"d{i:02}") for i in range(5)]
    mined = mine_hard_negatives(
        Dataset.from_dict({"q": [questions[q] for q, _ in judged], "p": [corpus[d] for _, d in judged]}),
        model,
        corpus=list(corpus.values()),
        num_negatives=3,
        output_scores=True,
        verbose=False,
    )
    config = MiningConfig(
        bm25=False,
        encoder=str(encoder),
        dtype="fp32",
        overlaps=False,
        rules=Rules(relative_margin=None),
        selection=Selection(negatives=3),
    )
    with make_store(tmp_path / "s.duckdb", corpus, questions, judged) as store:
        rows = triplets_of(store, mine(store, config)).to_pylist()
    found = [(r["positive_score"], r["negative_score"]) for r in rows]
    np.testing.assert_allclose(found, mined["scores"], atol=1e-5 if similarity != COSINE else 1e-6)
