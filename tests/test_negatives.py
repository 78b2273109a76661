"""Whatever the input: no negative is a judged positive, reads like one, or is the query."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from miner.collection.overlap import Words
from miner.mining.config import STRATEGIES, MiningConfig, Rules, Selection
from miner.mining.pipeline import mine
from miner.store.corpus import set_queries_are_documents
from miner.store.triplets import triplets as triplets_of
from miner.store.verdicts import reason_counts
from miner.text import normalise
from tests.stores import make_store
from tests.test_oracle import encoder

__all__ = ["encoder"]

VARIANTS = [
    str,
    str.upper,
    lambda s: f"  {s}\t",
    lambda s: s.replace("w", "ｗ"),
    lambda s: s.replace(" ", "  "),
]
"""Ways to write a text that leave its normalised form alone."""


def words_of(texts: list[str]) -> Words:
    return Words(pa.array(texts, pa.string()).take, np.zeros(len(texts), dtype=np.int32))


words = st.lists(
    st.sampled_from([f"w{i}" for i in range(9)] + ["Straße", "STRASSE", "ﬁne"]), min_size=1, max_size=4
)
texts = st.builds(lambda parts, variant: variant(" ".join(parts)), words, st.sampled_from(VARIANTS))


@st.composite
def collections(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, str], list[tuple[str, str, str]]]:
    corpus = {f"x{i}": t for i, t in enumerate(draw(st.lists(texts, min_size=2, max_size=14)))}
    queries = {f"x{i}": t for i, t in enumerate(draw(st.lists(texts, min_size=1, max_size=5)))}
    pairs = st.tuples(
        st.sampled_from(sorted(queries)),
        st.sampled_from(sorted(corpus)),
        st.sampled_from(["train", "train", "dev"]),
    )
    return (
        corpus,
        queries,
        [*draw(st.lists(pairs, min_size=1, max_size=10, unique=True)), ("x0", "x1", "train")],
    )


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    collection=collections(),
    dense=st.booleans(),
    strategy=st.sampled_from(STRATEGIES),
    reference_positive=st.sampled_from(["lowest", "median", "best", "each"]),
    overlaps=st.booleans(),
    same_ids=st.booleans(),
    seed=st.integers(0, 5),
)
def test_no_negative_is_a_positive_by_text(
    encoder: Path,
    collection: tuple[dict[str, str], dict[str, str], list[tuple[str, str, str]]],
    dense: bool,
    strategy: str,
    reference_positive: str,
    overlaps: bool,
    same_ids: bool,
    seed: int,
) -> None:
    corpus, queries, judged = collection
    config = MiningConfig(
        encoder=str(encoder) if dense else None,
        stopwords="none",
        overlaps=overlaps,
        rules=Rules(relative_margin=None, reference_positive=reference_positive),
        selection=Selection(strategy=strategy, seed=seed, negatives=50),
    )
    with (
        TemporaryDirectory() as folder,
        make_store(Path(folder) / "s.duckdb", corpus, queries, judged) as store,
    ):
        set_queries_are_documents(store, same_ids)
        triplets = triplets_of(store, mine(store, config, workers=1)).to_pylist()
        ((kept,),) = store.rows("SELECT count(*) FROM kept WHERE slot IS NOT NULL")
    # What is relevant to a query is so to every query that reads the same.
    positives = {
        q: {d for query, d, _ in judged if normalise(queries[query]) == normalise(queries[q])}
        for q in queries
    }
    for triplet in triplets:
        query, negative = triplet["query_id"], triplet["negative_id"]
        assert (query, triplet["positive_id"], "train") in judged
        assert negative not in positives[query]
        assert normalise(corpus[negative]) not in {normalise(corpus[d]) for d in positives[query]}
        assert normalise(corpus[negative]) != normalise(queries[query])
        assert negative != query or not same_ids
    assert (kept > 0) == (len(triplets) > 0)


def mined(tmp_path: Path, corpus: dict[str, str], **settings: object) -> dict[str, str]:
    """Returns the reason of every candidate of the query 'red apple' whose positive is d0."""
    with make_store(tmp_path / "s.duckdb", corpus, {"q": "red apple"}, [("q", "d0")]) as store:
        config = MiningConfig(rules=Rules(relative_margin=None), **settings)  # type: ignore[arg-type]
        run = mine(store, config)
        rows = store.rows("SELECT doc_id, coalesce(reason::VARCHAR, 'kept') FROM verdicts")
        assert sum(reason_counts(store, run).values()) == len(rows)
    return dict(rows)


def test_each_exclusion_gives_its_reason(tmp_path: Path) -> None:
    corpus = {
        "d0": "A red apple hangs on the tree",
        "d1": "a RED apple  hangs on the tree",
        "d2": "Look: a red apple hangs on the tree today",
        "d3": "red apple",
        "d4": "the red apple pie",
        "d5": "my red apple",
        "q": "an apple a day",
    }
    assert mined(tmp_path, corpus, protected=("d5",)) == {
        "d0": "judged_positive",
        "d1": "duplicate_of_positive",
        "d2": "overlaps_positive",
        "d3": "is_query",
        "d4": "kept",
        "d5": "protected",
        "q": "kept",
    }


def test_containment_is_by_words(tmp_path: Path) -> None:
    corpus = {
        "d0": "apple tree",
        "d1": "pineapple tree apple trees",
        "d2": "an apple tree",
        "d3": "tree apple",
    }
    reasons = mined(tmp_path, corpus)
    assert reasons["d1"] == "kept"
    assert reasons["d2"] == "overlaps_positive"
    assert reasons["d3"] == "kept"


def test_overlaps_can_be_allowed(tmp_path: Path) -> None:
    reasons = mined(tmp_path, {"d0": "apple tree", "d1": "an apple tree"}, overlaps=False)
    assert reasons == {"d0": "judged_positive", "d1": "kept"}


def test_the_same_label_is_never_a_negative(tmp_path: Path) -> None:
    corpus = {"d0": "good film", "d1": "a film to love", "d2": "bad film"}
    labels = {"q": "positive", "d0": "positive", "d1": "positive", "d2": "negative"}
    with make_store(tmp_path / "s.duckdb", corpus, {"q": "great film"}, [("q", "d0")], labels) as store:
        mine(store, MiningConfig(rules=Rules(relative_margin=None)))
        reasons = dict(store.rows("SELECT doc_id, coalesce(reason::VARCHAR, 'kept') FROM verdicts"))
    assert reasons == {"d0": "judged_positive", "d1": "same_label", "d2": "kept"}


@pytest.mark.parametrize("split", ["dev", "test"])
def test_positives_of_other_splits_are_excluded_too(tmp_path: Path, split: str) -> None:
    corpus = {"d0": "red apple", "d1": "green apple", "d2": "blue apple"}
    judged = [("q", "d0"), ("q", "d1", split)]
    with make_store(tmp_path / "s.duckdb", corpus, {"q": "apple"}, judged) as store:
        mine(store, MiningConfig(rules=Rules(relative_margin=None)))
        reasons = dict(store.rows("SELECT doc_id, coalesce(reason::VARCHAR, 'kept') FROM verdicts"))
    assert reasons == {"d0": "judged_positive", "d1": "judged_positive", "d2": "kept"}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "ab", "ß", "ss", "A"]), min_size=1, max_size=6),
        min_size=2,
        max_size=8,
    )
)
@example([["a", "a", "a", "a"], ["a", "a", "a", "ab"]])
@example([["a", "a", "a"], ["a", "a", "ab"]])
def test_overlap_is_containment_of_words_the_last_of_four_may_be_cut(parts: list[list[str]]) -> None:
    texts = [" ".join(part) for part in parts]
    words = [normalise(text).split() for text in texts]

    def within(short: list[str], long: list[str]) -> bool:
        return any(same(short, long[i : i + len(short)]) for i in range(len(long)))

    def same(short: list[str], part: list[str]) -> bool:
        cut = len(short) >= 4 and len(part) == len(short) and part[-1].startswith(short[-1])
        return short == part or (cut and short[:-1] == part[:-1])

    left, right = (side.ravel().astype(np.int32) for side in np.indices((len(texts), len(texts))))
    expected = [
        within(words[a], words[b]) or within(words[b], words[a]) for a, b in zip(left, right, strict=True)
    ]
    assert words_of(texts).overlap(left, right).tolist() == expected


def test_a_known_negative_needs_no_score_to_say_so(tmp_path: Path) -> None:
    corpus = {"d0": "good film", "d1": "great film", "d2": "great bad film", "d3": "great film indeed"}
    labels = {"q": "positive", "d0": "positive", "d1": "negative", "d2": "negative"}
    with make_store(tmp_path / "s.duckdb", corpus, {"q": "great film now"}, [("q", "d0")], labels) as store:
        store.execute("INSERT INTO judgments VALUES ('q', 'd3', 0, 'train', 'gold')")
        mine(store, MiningConfig(rules=Rules(max_score=-1.0)))
        known = store.rows("SELECT doc_id, verdict::VARCHAR FROM verdicts WHERE judged_negative ORDER BY 1")
        mine(store, MiningConfig(rules=Rules(min_score=99.0)))
        easy = store.rows(
            "SELECT DISTINCT reason::VARCHAR FROM verdicts WHERE run = 'r2' AND judged_negative"
        )
    assert known == [("d1", "kept"), ("d2", "kept"), ("d3", "kept")]
    assert easy == [("min_score",)]


def test_queries_that_read_the_same_share_their_positives(tmp_path: Path) -> None:
    corpus = {"d1": "red apple tree", "d2": "red apple house", "d3": "red apple pie"}
    queries = {"q1": "red apple", "q2": "Red  apple"}
    with make_store(tmp_path / "s.duckdb", corpus, queries, [("q1", "d1"), ("q2", "d2")]) as store:
        run = mine(store, MiningConfig(rules=Rules(relative_margin=None)))
        assert {row["negative_id"] for row in triplets_of(store, run).to_pylist()} == {"d3"}
