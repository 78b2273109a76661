"""A model is searched, mined, evaluated and trained by the similarity that it names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sentence_transformers import SentenceTransformer

from miner.collection.collection import Collection
from miner.errors import ModelError, UsageError
from miner.evaluation.evaluate import EvaluationConfig, evaluate
from miner.evaluation.labels import label_task
from miner.evaluation.result import Encode
from miner.evaluation.similarity import similarity_task
from miner.export import ExportConfig, export_run
from miner.mining.config import MiningConfig, Rules, Selection
from miner.mining.pipeline import mine
from miner.models.encoder import Encoder, Vectors
from miner.models.kinds import own_similarity
from miner.models.names import resolve
from miner.models.similarity import SIMILARITIES, matrix, pairwise
from miner.retrieval import nearest, vector_search
from miner.retrieval.config import DenseConfig
from miner.retrieval.dense import Dense
from miner.store.database import Database
from miner.store.triplets import triplets as triplets_of
from miner.training.encoder import train_encoder
from miner.training.encoder_config import EncoderConfig
from miner.training.examples import Examples
from tests.evaluation_support import judged_store
from tests.stores import make_store
from tests.tiny import word_table

WORDS = 40
RNG = np.random.default_rng(4)
TABLE = {f"w{i}": (RNG.standard_normal(6) * RNG.uniform(0.2, 9)).tolist() for i in range(WORDS)}
DOCUMENTS = {f"d{i:02}": f"w{i % WORDS} w{(i * 7 + i // WORDS + 1) % WORDS}" for i in range(60)}
QUERIES = {f"q{i}": f"w{3 * i} w{3 * i + 1} w{30 + i}" for i in range(8)}
JUDGED = [(f"q{i}", f"d{i:02}") for i in range(8)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same table of words, once with each similarity."""
    folder = tmp_path_factory.mktemp("tables")
    return {name: word_table(folder / name, TABLE, name) for name in SIMILARITIES}


@pytest.fixture
def store(tmp_path: Path) -> Database:
    return make_store(tmp_path / "s.duckdb", DOCUMENTS, QUERIES, JUDGED)


def library_scores(folder: Path) -> npt.NDArray[np.float64]:
    """What `model.similarity` of sentence-transformers gives every query and document."""
    model = SentenceTransformer(str(folder), device="cpu")
    queries, documents = (model.encode(list(texts.values())) for texts in (QUERIES, DOCUMENTS))
    return np.asarray(model.similarity(queries, documents), dtype=np.float64)


def dense_of(store: Database, folder: Path, index: str = "Flat") -> Dense:
    config = DenseConfig(str(folder), dtype="fp32", index=index)
    return Dense(store, Collection.load(store, "train"), config)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("backend", ["faiss", "torch"])
def test_search_ranks_by_the_models_own_similarity(
    store: Database, tables: dict[str, Path], similarity: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "torch":
        monkeypatch.setattr(nearest, "_faiss_block", nearest._torch_block)
    monkeypatch.setattr(vector_search, "SLACK", 0)
    retriever = dense_of(store, tables[similarity])
    hits = retriever.search(range(len(QUERIES)), 10)
    expected = library_scores(tables[similarity])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(hits.score, expected[hits.query, hits.doc], atol=2e-6 * scale)
    for query in range(len(QUERIES)):
        best = np.sort(expected[query])[::-1][:10]
        np.testing.assert_allclose(hits.score[hits.query == query], best, atol=2e-6 * scale)
    query, doc = (side.ravel().astype(np.int32) for side in np.indices(expected.shape))
    np.testing.assert_allclose(retriever.score_pairs(query, doc), expected.ravel(), atol=2e-6 * scale)


def test_the_four_similarities_are_those_of_sentence_transformers() -> None:
    from sentence_transformers import SimilarityFunction

    left, right = RNG.standard_normal((2, 7, 5)).astype(np.float32)
    for name in SIMILARITIES:
        a, b = (
            x / np.linalg.norm(x, axis=1, keepdims=True) if name == "cosine" else x for x in (left, right)
        )
        theirs = np.asarray(SimilarityFunction.to_similarity_fn(name)(left, right))
        np.testing.assert_allclose(
            matrix(name, a.astype(np.float64), b.astype(np.float64)), theirs, atol=1e-5
        )
        np.testing.assert_allclose(pairwise(name, a, b), np.diag(theirs), atol=1e-5)


def test_near_texts_far_from_the_origin_are_distinguished(tmp_path: Path) -> None:
    # fp32 by ‖a‖² + ‖b‖² − 2ab would see distances of 0: the last bits of 2,000,000 are 1/8 apart.
    words = {f"p{i:03}": [1000.0 + i / 512, 1000.0] for i in range(200)}
    folder = word_table(tmp_path / "far", words, "euclidean")
    with make_store(tmp_path / "s.duckdb", {w: w for w in words}, {"q": "p100"}, [("q", "p000")]) as store:
        hits = dense_of(store, folder).search(range(1), 5)
    assert hits.doc.tolist() == [100, 99, 101, 98, 102]
    np.testing.assert_allclose(hits.score, [0, -1 / 512, -1 / 512, -2 / 512, -2 / 512])


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_margins_and_triplets_are_on_the_models_own_scale(
    store: Database, tables: dict[str, Path], similarity: str
) -> None:
    scores = library_scores(tables[similarity])
    rules = Rules(relative_margin=0.1)
    config = MiningConfig(
        bm25=False, encoder=str(tables[similarity]), dtype="fp32", overlaps=False, rules=rules,
        selection=Selection(negatives=3),
    )  # fmt: skip
    found = triplets_of(store, mine(store, config)).to_pylist()
    for number, query in enumerate(QUERIES):
        positive = scores[number, number]
        # Below the positive by a tenth of its size, also where scores are negative.
        allowed = [
            (-score, doc)
            for doc, score in zip(DOCUMENTS, scores[number], strict=True)
            if score <= positive - abs(positive) * 0.1 and doc != f"d{number:02}"
        ]
        rows = [row for row in found if row["query_id"] == query]
        assert [row["negative_id"] for row in rows] == [doc for _, doc in sorted(allowed)[:3]]
        for row, (score, _) in zip(rows, sorted(allowed), strict=False):
            assert row["negative_score"] == pytest.approx(-score, rel=1e-5, abs=1e-5)
            assert row["positive_score"] == pytest.approx(positive, rel=1e-5, abs=1e-5)


def test_an_export_says_which_similarity_its_scores_are(
    store: Database, tables: dict[str, Path], tmp_path: Path
) -> None:
    rules = Rules(relative_margin=None)
    mine(store, MiningConfig(bm25=False, encoder=str(tables["dot"]), dtype="fp32", rules=rules))
    export_run(store, tmp_path / "out", ExportConfig(format="triplet", scores=True))
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"The scores are dot products of the encoder `{tables['dot']}`" in card
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["scorers"][-1]["similarity"] == "dot"


def test_an_index_is_built_by_the_models_distance(store: Database, tables: dict[str, Path]) -> None:
    for similarity in ("dot", "euclidean"):
        exact = dense_of(store, tables[similarity]).search(range(8), 5)
        near = dense_of(store, tables[similarity], "HNSW32").search(range(8), 5)
        assert near.doc.tolist() == exact.doc.tolist()
        assert near.score.tolist() == exact.score.tolist()


@pytest.mark.parametrize("factory", ["HNSW32", "IVF4,Flat", "SQ8", "PQ4", "PCA8,Flat"])
def test_an_approximate_index_of_manhattan_distances_is_refused(
    store: Database, tables: dict[str, Path], factory: str
) -> None:
    with pytest.raises(UsageError) as caught:
        dense_of(store, tables["manhattan"], factory)
    assert "compares vectors by Manhattan distance" in caught.value.message
    assert caught.value.hint == "leave the setting index at Flat, which is exact"


def test_evaluation_follows_the_similarity(tmp_path: Path) -> None:
    words = {"q": [1, 0], "p": [3, 1], "long": [10, 10], "short": [0.9, 0.3], "other": [0, 1]}
    texts = {word: word for word in words if word != "q"}
    found = {}
    with judged_store(tmp_path / "s.duckdb", texts, {"q1": "q"}, [("q1", "long", 1, "test")]) as store:
        for name in SIMILARITIES:
            folder = word_table(tmp_path / name, words, name)
            (measured,) = evaluate(store, str(folder), EvaluationConfig(split="test"))
            found[name] = measured.means["MRR@10"]
    # Order by each: long 10 of 10, 3, 0.9, 0; 0.95, 0.95, 0.71, 0; 0.3, 1.4, 2.2, 13; 0.4, 2, 3, 19.
    assert found == {"cosine": 1 / 3, "dot": 1, "euclidean": 1 / 4, "manhattan": 1 / 4}


def placed(places: dict[str, list[float]]) -> Encode:
    def encode(texts: object, role: str) -> Vectors:
        return np.array([places[text] for text in texts], dtype=np.float32)  # type: ignore[attr-defined]

    return encode


def test_graded_pairs_and_labels_are_compared_by_the_similarity(tmp_path: Path) -> None:
    places = {"a": [1.0, 0], "b": [2.0, 0], "c": [1.0, 1], "d": [9.0, 0], "e": [1.0, 2.5]}
    graded = [("a", "b", 0.9), ("a", "c", 0.8), ("a", "e", 0.5), ("a", "d", 0.1)]
    names = {x: x for x in places}
    rows = [(q, d, g, "test") for q, d, g in graded]
    with judged_store(tmp_path / "g.duckdb", names, names, rows) as store:
        task = similarity_task(store, "test")
    assert task.measure(placed(places), "euclidean").means["Spearman"] == pytest.approx(0.9486832980505138)
    # By dot product a is 2, 1, 1 and 9 with b, c, e and d: the ranks 3, 1.5, 1.5, 4 against 4, 3, 2, 1.
    assert task.measure(placed(places), "dot").means["Spearman"] == pytest.approx(-0.3162277660168379)
    with judged_store(
        tmp_path / "m.duckdb", {"a": "a", "b": "b", "d": "d"}, {"q": "c"},
        [("q", "a", 1, "test"), ("q", "b", 1, "test"), ("q", "d", 1, "test")],
        labels={"q": "x", "a": "x", "b": "x", "d": "y"},
    ) as store:  # fmt: skip
        labels = label_task(store, "test")
    near = labels.measure(placed(places), "euclidean").means
    assert (near["MAP"], near["P@1"], near["k-NN accuracy"]) == (1.0, 1.0, 1.0)
    assert labels.measure(placed(places), "dot").means["P@1"] == 0.0


def test_the_similarity_is_read_from_the_models_files(tmp_path: Path, tables: dict[str, Path]) -> None:
    from sentence_transformers.base.modules import Normalize

    from tests.tiny import word_vectors

    for name, folder in tables.items():
        assert Encoder(str(folder)).similarity == name
    assert len({Encoder(str(folder)).fingerprint for folder in tables.values()}) == 4
    unit = SentenceTransformer(
        modules=[word_vectors(TABLE), Normalize()], device="cpu", similarity_fn_name="dot"
    )
    unit.save_pretrained(str(tmp_path / "unit"))
    assert Encoder(str(tmp_path / "unit")).similarity == "cosine"
    config = tables["dot"] / "config_sentence_transformers.json"
    other = word_table(tmp_path / "other", TABLE) / config.name
    other.write_text(json.dumps({**json.loads(config.read_text()), "similarity_fn_name": "maxsim"}))
    with pytest.raises(ModelError) as caught:
        own_similarity(resolve(str(other.parent)))
    assert "compares vectors by 'maxsim'" in caught.value.message


# Training


def rows() -> Examples:
    texts = list(DOCUMENTS.values())
    return Examples({"anchor": list(QUERIES.values())[:8], "positive": texts[:8], "negative": texts[8:16]})


@pytest.mark.parametrize(("similarity", "loss"), [("dot", "mnr"), ("euclidean", "triplet")])
def test_a_trained_model_keeps_the_similarity(
    tmp_path: Path, tables: dict[str, Path], similarity: str, loss: str
) -> None:
    config = EncoderConfig(base=str(tables[similarity]), loss=loss, batch_size=4, dtype="fp32")
    train_encoder(rows(), tmp_path / "out", config)
    saved = json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text())
    assert saved["similarity_fn_name"] == similarity
    assert Encoder(str(tmp_path / "out")).similarity == similarity


@pytest.mark.parametrize(("similarity", "loss"), [("dot", "triplet"), ("dot", "cosine")])
def test_a_loss_that_trains_another_similarity_is_refused(
    tmp_path: Path, tables: dict[str, Path], similarity: str, loss: str
) -> None:
    config = EncoderConfig(base=str(tables[similarity]), loss=loss, batch_size=4, dtype="fp32")
    examples = rows()
    if loss == "cosine":
        pair = {name: examples.texts[name] for name in ("anchor", "positive")}
        examples = Examples(pair, target=[1.0] * 8)
    with pytest.raises(UsageError) as caught:
        train_encoder(examples, tmp_path / "out", config)
    assert f"loss {loss} does not train the similarity of" in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_margins_above_2_are_for_bases_that_do_not_compare_by_cosine(
    tmp_path: Path, tables: dict[str, Path], similarity: str
) -> None:
    config = EncoderConfig(base=str(tables[similarity]), loss="margin-mse", batch_size=4, dtype="fp32")
    examples = replace(rows(), target=[[9.5, -3.0]] * 8, origin="t.parquet")
    if similarity == "cosine":
        with pytest.raises(
            UsageError, match=r"t.parquet: margins go up to 12.5, but those of cosines only to 2"
        ):
            train_encoder(examples, tmp_path / "out", config)
        assert not (tmp_path / "out").exists()
    else:
        assert train_encoder(examples, tmp_path / "out", config).metrics.steps == 2


def test_mnr_trains_the_dot_product(tables: dict[str, Path]) -> None:
    import torch

    from miner.training.batches import MaskedSimilarity

    left, right = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [-1.0, 0.5]])
    assert MaskedSimilarity("dot")(left, right).tolist() == [[11.0, 0.0]]
    assert MaskedSimilarity("manhattan")(left, right).tolist() == [[-4.0, -3.5]]
