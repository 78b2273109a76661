"""What is not a bi-encoder is refused by name; a model with routes goes by the route of each role."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense as Projection
from sentence_transformers.base.modules import Normalize, Router
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

from miner.collection.collection import Collection
from miner.curation.dedup import vector_pairs
from miner.errors import ModelError, UsageError
from miner.evaluation.evaluate import EvaluationConfig, evaluate, open_models
from miner.mining.config import MiningConfig
from miner.models.encoder import Encoder
from miner.retrieval.config import DenseConfig
from miner.retrieval.dense import Dense
from miner.training.encoder import train_encoder
from miner.training.encoder_config import EncoderConfig
from miner.training.encoder_trainer import load_model
from miner.training.examples import Examples
from miner.training.pretrain_config import PretrainConfig
from miner.training.tsdae import pretrain
from miner.workflows.loop import LoopConfig, loop
from tests.evaluation_support import judged_store
from tests.stores import make_store
from tests.tiny import tiny_bert, word_table, word_vectors

WORDS = {f"w{i}": row for i, row in enumerate(np.random.default_rng(2).standard_normal((20, 32)).tolist())}
TEXTS = ["w1 w2", "w3", "w4 w5 w1", "bread and butter w7", "w9 w9"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> dict[str, Path]:
    """Real models that are no bi-encoders, and folders laid out as other libraries lay them out."""
    from sentence_transformers import MultiVectorEncoder, SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("others")
    tokenizer = AutoTokenizer.from_pretrained(bert)
    SparseEncoder(modules=[SparseStaticEmbedding(tokenizer)]).save_pretrained(str(folder / "sparse"))
    MultiVectorEncoder(str(bert)).save_pretrained(str(folder / "multi"))
    for name in ("sparse", "multi"):
        old = folder / f"old-{name}"  # as saved before there was a model_type
        shutil.copytree(folder / name, old)
        (old / "config_sentence_transformers.json").write_text("{}")
    dense = Projection(32, 8, bias=False)
    shutil.copytree(bert, folder / "pylate")
    dense.save(str(_made(folder / "pylate" / "1_Dense")))
    kinds = ["sentence_transformers.models.Transformer", "pylate.models.Dense.Dense"]
    listed = [{"idx": i, "name": str(i), "path": ["", "1_Dense"][i], "type": kinds[i]} for i in (0, 1)]
    (folder / "pylate" / "modules.json").write_text(json.dumps(listed))
    shutil.copytree(bert, folder / "colbert")
    (folder / "colbert" / "artifact.metadata").write_text("{}")
    shutil.copytree(bert, folder / "stanford")
    config = json.loads((bert / "config.json").read_text())
    (folder / "stanford" / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    word_table(folder / "future", WORDS)
    file = folder / "future" / "config_sentence_transformers.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "HologramEncoder"}))
    return {path.name: path for path in folder.iterdir()}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


KINDS = {
    "sparse": "a sparse encoder (such as SPLADE)",
    "old-sparse": "a sparse encoder (such as SPLADE)",
    "multi": "a multi-vector encoder (such as ColBERT)",
    "old-multi": "a multi-vector encoder (such as ColBERT)",
    "pylate": "a multi-vector encoder (such as ColBERT)",
    "colbert": "a multi-vector encoder (such as ColBERT)",
    "stanford": "a multi-vector encoder (such as ColBERT)",
    "future": "a HologramEncoder",
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_a_bi_encoder_is_refused_by_name(others: dict[str, Path], name: str) -> None:
    with pytest.raises(ModelError) as caught:
        Encoder(str(others[name]))
    assert caught.value.message.startswith(f"{others[name]} is {KINDS[name]}: ")


def test_every_door_refuses_them(others: dict[str, Path], tmp_path: Path) -> None:
    name = str(others["sparse"])
    store = make_store(tmp_path / "s.duckdb", {"d": "w1", "e": "w2"}, {"q": "w3"}, [("q", "d")])
    collection = Collection.load(store, "train")
    rows = Examples({"anchor": TEXTS, "positive": TEXTS[::-1]})
    gist = EncoderConfig(loss="gist", guide=name, batch_size=2)
    doors: list[Any] = [
        lambda: open_models([name], "retrieval"),
        lambda: Dense(store, collection, DenseConfig(name)),
        lambda: vector_pairs(store, ["w1", "w2"], "documents", name, 0.9),
        lambda: train_encoder(rows, tmp_path / "t", EncoderConfig(base=name, batch_size=2)),
        lambda: train_encoder(rows, tmp_path / "g", gist),
        lambda: load_model(name),
    ]
    for door in doors:
        with pytest.raises(ModelError, match="is a sparse encoder"):
            door()
    store.close()
    rounds = LoopConfig(MiningConfig(encoder="bundled"), EncoderConfig(base=name))
    with pytest.raises(ModelError, match="is a sparse encoder"):
        loop(tmp_path / "s.duckdb", tmp_path / "l", rounds)
    with pytest.raises(ModelError, match="is a sparse encoder"):
        pretrain(tmp_path / "s.duckdb", tmp_path / "p", PretrainConfig(base=name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.duckdb"]


def test_a_model_without_one_vector_per_text_is_refused(tmp_path: Path, bert: Path) -> None:
    SentenceTransformer(modules=[Transformer(str(bert))]).save_pretrained(str(tmp_path / "tokens"))
    with pytest.raises(ModelError) as caught:
        Encoder(str(tmp_path / "tokens")).encode(["w1"])
    assert caught.value.message.startswith(f"{tmp_path / 'tokens'} does not give one vector per text: ")


# Routes


def asymmetric(folder: Path, bert: Path, kind: str) -> Path:
    """Writes a model with routes: a table for queries, a transformer for documents."""
    transformer = Transformer(str(bert))
    deep: list[Any] = [transformer, Pooling(32, "mean")]
    shallow: list[Any] = [word_vectors(WORDS)]
    modules: list[Any]
    if kind == "plain":
        modules = [Router.for_query_document(shallow, deep), Normalize()]
    elif kind == "mapped":
        mappings: Any = {("query", "text"): "fast", ("document", None): "slow"}
        modules = [Router({"fast": shallow, "slow": deep}, route_mappings=mappings)]
    elif kind == "after":
        torch_layers = [Projection(32, 12), Projection(32, 12)]
        modules = [*deep, Router.for_query_document([torch_layers[0]], [torch_layers[1]])]
    else:
        modules = [Router({"text": deep})]
    model = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "w1 ", "document": "w2 "})
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("kind", ["plain", "mapped", "after", "modality"])
def test_each_side_takes_its_own_route_and_prompt(tmp_path: Path, bert: Path, kind: str) -> None:
    folder = asymmetric(tmp_path / "model", bert, kind)
    theirs = SentenceTransformer(str(folder), device="cpu")
    encoder = Encoder(str(folder), dtype="fp32")
    assert encoder.has_routes
    expected = {
        "query": theirs.encode_query(TEXTS, normalize_embeddings=True),
        "document": theirs.encode_document(TEXTS, normalize_embeddings=True),
    }
    for role, vectors in expected.items():
        ours = encoder.for_role(role).encode(TEXTS, encoder.prompts[role])
        assert np.einsum("nd,nd->n", ours, vectors).min() > 1 - 1e-5
    assert np.einsum("nd,nd->n", *expected.values()).max() < 0.99
    assert encoder.for_role("query").fingerprint != encoder.for_role("document").fingerprint
    assert encoder.for_role("query") is encoder.for_role("query")


def test_the_same_text_as_query_and_as_document_has_two_vectors(tmp_path: Path, bert: Path) -> None:
    folder = asymmetric(tmp_path / "model", bert, "plain")
    theirs = SentenceTransformer(str(folder), device="cpu")
    with judged_store(
        tmp_path / "s.duckdb", {"d1": "w1 w2", "d2": "w3 w4"}, {"q1": "w1 w2"}, [("q1", "d2", 1, "train")]
    ) as store:
        retriever = Dense(store, Collection.load(store, "train"), DenseConfig(str(folder), dtype="fp32"))
        hits = retriever.search(range(1), 2)
        assert len(list(store.vectors.iterdir())) == 2
        (measured,) = evaluate(store, str(folder), EvaluationConfig(split="train"))
    expected = theirs.similarity(theirs.encode_query(["w1 w2"]), theirs.encode_document(["w1 w2", "w3 w4"]))
    assert hits.score == pytest.approx(sorted(expected[0].tolist(), reverse=True), abs=1e-5)
    assert measured.means["R@10"] == 1.0


def test_plain_models_go_by_the_prompts_of_sentence_transformers(tmp_path: Path, bert: Path) -> None:
    modules = [Transformer(str(bert)), Pooling(32, "mean")]
    prompts = {"query": "search: ", "document": "passage: ", "sts": "compare: "}
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name="sts")
    model.save_pretrained(str(tmp_path / "model"))
    encoder = Encoder(str(tmp_path / "model"), dtype="fp32")
    for role, encode in (("query", model.encode_query), ("document", model.encode_document)):
        ours = encoder.for_role(role).encode(TEXTS, encoder.prompts[role])
        assert np.abs(ours - encode(TEXTS, normalize_embeddings=True)).max() < 1e-5
    assert not encoder.has_routes


def test_truncated_vectors_are_truncated(tmp_path: Path, bert: Path) -> None:
    modules = [Transformer(str(bert)), Pooling(32, "mean")]
    SentenceTransformer(modules=modules, truncate_dim=8).save_pretrained(str(tmp_path / "short"))
    theirs = SentenceTransformer(str(tmp_path / "short"), device="cpu")
    encoder = Encoder(str(tmp_path / "short"), dtype="fp32")
    assert encoder.dimension == 8
    expected = theirs.encode(TEXTS, normalize_embeddings=True)
    assert np.abs(encoder.encode(TEXTS) - expected).max() < 1e-5


def test_a_router_without_a_route_for_texts_of_a_side_is_refused(tmp_path: Path, bert: Path) -> None:
    modules: list[Any] = [Router({"query": [word_vectors(WORDS)], "passage": [word_vectors(WORDS)]})]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "half"))
    with pytest.raises(ModelError) as caught:
        Encoder(str(tmp_path / "half")).for_role("document").encode(["w1"])
    assert caught.value.message == (
        f"{tmp_path / 'half'} has no route for the text of a document: its routes are query, passage"
    )


def test_both_routes_are_trained(tmp_path: Path, bert: Path) -> None:
    base = asymmetric(tmp_path / "base", bert, "plain")
    rows = Examples({"anchor": TEXTS, "positive": TEXTS[::-1]})
    config = EncoderConfig(base=str(base), batch_size=5, learning_rate=0.01, dtype="fp32", warmup=0)
    train_encoder(rows, tmp_path / "out", config)
    before, after = (SentenceTransformer(str(path), device="cpu") for path in (base, tmp_path / "out"))
    assert np.abs(before.encode_query(TEXTS) - after.encode_query(TEXTS)).max() > 1e-3
    assert np.abs(before.encode_document(TEXTS) - after.encode_document(TEXTS)).max() > 1e-3
    with pytest.raises(UsageError, match="does not take a model with routes"):
        train_encoder(rows, tmp_path / "c", EncoderConfig(base=str(base), loss="cached-mnr", batch_size=5))


# Texts without a vector


def test_a_text_of_unknown_words_has_no_vector(tmp_path: Path) -> None:
    unknown = word_table(tmp_path / "unk", {"a": [1, 0]}, unknown=[1, 1])
    words = WhitespaceTokenizer(["a", "b"], stop_words=set())
    averaged = SentenceTransformer(
        modules=[WordEmbeddings(words, np.eye(2, dtype=np.float32)), Pooling(2, "mean")], device="cpu"
    )
    averaged.save_pretrained(str(tmp_path / "words"))
    for folder in (unknown, tmp_path / "words"):
        vectors = Encoder(str(folder), dtype="fp32").encode(["a", "zzz", "", "zzz a", "zzz yyy"])
        assert np.isnan(vectors).all(axis=1).tolist() == [False, True, True, False, True], folder
        prompted = Encoder(str(folder), dtype="fp32").encode(["a", "zzz"], "a ")
        assert np.isnan(prompted).all(axis=1).tolist() == [False, True], folder


def test_a_vector_that_is_not_finite_or_has_no_length_is_none(tmp_path: Path) -> None:
    words = {"ok": [3e30, 4e30], "zero": [0, 0], "nan": [float("nan"), 1], "inf": [float("inf"), 1]}
    for similarity, expected in (("cosine", [False, True, True, True]), ("dot", [False, False, True, True])):
        folder = word_table(tmp_path / similarity, words, similarity)
        vectors = Encoder(str(folder), dtype="fp32").encode(list(words))
        assert np.isnan(vectors).all(axis=1).tolist() == expected
        assert np.isnan(vectors).any(axis=1).tolist() == expected
    assert vectors[0].tolist() == np.float32([3e30, 4e30]).tolist()
    unit = Encoder(str(tmp_path / "cosine"), dtype="fp32").encode(["ok"])
    np.testing.assert_allclose(unit, [[0.6, 0.8]], rtol=1e-6)
