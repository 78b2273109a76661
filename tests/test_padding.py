"""Models without a pad token (GPT-2 and its kin), and rerankers that give more than one score."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from miner.curation.silver import silver
from miner.curation.silver_config import SilverConfig
from miner.errors import ModelError
from miner.evaluation.evaluate import EvaluationConfig, evaluate
from miner.mining.config import MiningConfig
from miner.mining.pipeline import mine
from miner.models.encoder import Encoder
from miner.models.padding import complete_padding
from miner.models.reranker import Reranker
from miner.store.database import Database
from miner.training.encoder import train_encoder
from miner.training.encoder_config import EncoderConfig
from miner.training.encoder_trainer import load_base
from miner.training.examples import Examples
from miner.training.pretrain_config import PretrainConfig
from miner.training.reranker import train_reranker
from miner.training.reranker_config import RerankerConfig
from miner.training.tsdae import pretrain
from miner.workflows.loop import LoopConfig, loop
from tests.test_training_reranker import fill
from tests.tiny import tiny_bert, tiny_gpt2

TEXTS = ["bread", "a", "bread and butter is good", "knead the dough and let it rise " * 3, "it rises"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gpt2(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    fill(tmp_path / "my.duckdb").close()
    return tmp_path / "my.duckdb"


def one_by_one(folder: Path, texts: list[str]) -> np.ndarray:  # type: ignore[type-arg]
    """Returns the mean of the token vectors of each text alone, without any padding, at length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            found.append(model(input_ids=ids).last_hidden_state[0].mean(dim=0).numpy())
    vectors = np.stack(found)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_vectors_are_those_of_each_text_alone(base: Path) -> None:
    encoder = Encoder(str(base), dtype="fp32")
    expected = one_by_one(base, TEXTS)
    assert np.abs(encoder.encode(TEXTS) - expected).max() < 1e-5
    tokens, _ = encoder._tokenise(TEXTS, "")
    padded = encoder._forward(tokens)
    padded /= np.linalg.norm(padded, axis=1, keepdims=True)
    assert np.abs(padded - expected).max() < 1e-5, "in one padded batch, as on a GPU"


def test_an_empty_text_has_no_vector_and_changes_no_other(base: Path) -> None:
    encoder = Encoder(str(base), dtype="fp32")
    found = encoder.encode(["", *TEXTS, ""])
    assert np.isnan(found[[0, -1]]).all()
    assert np.abs(found[1:-1] - encoder.encode(TEXTS)).max() < 1e-6


def test_scores_are_those_of_each_pair_alone(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tiny_gpt2(tmp_path / "cross", labels=1)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = [(query, document) for query in TEXTS for document in TEXTS[:3]]
    with torch.inference_mode():
        expected = [
            torch.sigmoid(model(input_ids=torch.tensor([tokenizer(*pair)["input_ids"]])).logits)[0, 0].item()
            for pair in pairs
        ]
    reranker = Reranker(str(folder), dtype="fp32")
    assert np.abs(reranker.score(*zip(*pairs, strict=True)) - expected).max() < 1e-5  # type: ignore[arg-type]
    scorer = reranker._models[0]
    assert scorer._tokenizer is not None
    tokens = scorer._tokenizer.pairs(*zip(*pairs, strict=True))  # type: ignore[arg-type]
    padded = scorer._forward(tokens, np.arange(len(pairs)))
    assert np.abs(padded - expected).max() < 1e-5, "in one padded batch, as on a GPU"


@pytest.mark.parametrize(
    ("special", "chosen"),
    [
        ({"eos_token": "<e>"}, "<e>"),
        ({"eos_token": "<e>", "unk_token": "<u>"}, "<e>"),
        ({"unk_token": "<u>"}, "<u>"),
        ({"bos_token": "<b>"}, "<b>"),
    ],
)
def test_which_token_pads(tmp_path: Path, special: dict[str, str], chosen: str) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_gpt2(tmp_path, **special)), device="cpu")
    complete_padding(model)
    assert model.tokenizer.pad_token == chosen
    assert model[0].model.config.pad_token_id == model.tokenizer.pad_token_id


def test_a_token_that_ends_every_text_does_not_pad(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from tokenizers import processors

    model = SentenceTransformer(str(tiny_gpt2(tmp_path, eos_token="<e>", unk_token="<u>")), device="cpu")
    end = model.tokenizer.convert_tokens_to_ids("<e>")
    model.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <e>", special_tokens=[("<e>", end)]
    )
    complete_padding(model)
    assert model.tokenizer.pad_token == "<u>"


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_in_training_gives_the_vectors_of_each_text_alone(base: Path, side: str) -> None:
    file = base / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": side}))
    model = load_base(EncoderConfig(base=str(base)))
    found = model.encode(TEXTS, batch_size=len(TEXTS), normalize_embeddings=True)
    assert np.abs(found - one_by_one(base, TEXTS)).max() < 1e-5


def test_training_learns_and_its_model_is_used_again(base: Path, tmp_path: Path) -> None:
    rows = [(f"what about {word}", f"indeed {word} is {'very ' * i}good") for i, word in enumerate(TEXTS)]
    examples = Examples({"anchor": [a for a, _ in rows], "positive": [p for _, p in rows]})
    config = EncoderConfig(base=str(base), epochs=30, batch_size=5, learning_rate=1e-3, dtype="fp32")
    metrics = train_encoder(examples, tmp_path / "out", config).metrics
    assert metrics.losses[-1][1] < 0.9 * metrics.losses[0][1]
    texts = examples.texts["positive"]
    found = Encoder(str(tmp_path / "out"), dtype="fp32").encode(list(texts))
    assert np.abs(found - one_by_one(tmp_path / "out", list(texts))).max() < 1e-5


def test_pretraining_learns(base: Path, store: Path, tmp_path: Path) -> None:
    config = PretrainConfig(base=str(base), max_steps=20, learning_rate=3e-3, dtype="fp32", threads=1)
    metrics = pretrain(store, tmp_path / "out", config).metrics
    assert metrics.losses[-1][1] < metrics.losses[0][1]
    assert np.isfinite(Encoder(str(tmp_path / "out")).encode(TEXTS)).all()


def test_a_reranker_is_trained_from_it(base: Path, store: Path, tmp_path: Path) -> None:
    config = RerankerConfig(
        base=str(base), max_steps=30, batch_size=16, learning_rate=3e-3, skip_top=3, depth=40, held_out=0.2
    )
    with Database.open(store) as opened:
        metrics = train_reranker(opened, tmp_path / "out", config).metrics
    assert metrics.average_precision is not None
    assert metrics.chance is not None
    assert metrics.average_precision > metrics.chance
    scores = Reranker(str(tmp_path / "out"), dtype="fp32").score(
        ["what about moss"] * 2, ["indeed yes", "perhaps"]
    )
    assert np.isfinite(scores).all()


# Rerankers that give more than one score


def _loop(store: Path, three: str, out: Path) -> None:
    mining = MiningConfig(encoder="bundled", reranker=three)
    loop(store, out, LoopConfig(mining=mining, training=EncoderConfig(base="scratch"), dev_split="test"))


def _in_store(call: Callable[[Database, str], object]) -> Callable[[Path, str, Path], None]:
    def opened(store: Path, three: str, out: Path) -> None:
        with Database.open(store) as one:
            call(one, three)

    return opened


COMMANDS: dict[str, Callable[[Path, str, Path], object]] = {
    "mine": _in_store(lambda store, three: mine(store, MiningConfig(reranker=three))),
    "evaluate": _in_store(lambda store, three: evaluate(store, three, EvaluationConfig(split="train"))),
    "silver": _in_store(lambda store, three: silver(store, SilverConfig(encoder="none", reranker=three))),
    "loop": _loop,
    "train-reranker": lambda store, three, out: _train(store, three, out),
}


def _train(store: Path, three: str, out: Path) -> None:
    with Database.open(store) as opened:
        train_reranker(opened, out, RerankerConfig(base=three))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reranker_with_three_labels_is_refused_before_any_work(
    command: str, store: Path, tmp_path: Path
) -> None:
    three = str(tiny_bert(tmp_path / "nli", labels=3))
    before = store.read_bytes()
    beside = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ModelError) as caught:
        COMMANDS[command](store, three, tmp_path / "out")
    assert str(caught.value) == (
        f"{three} gives 3 scores per pair; a reranker gives one; name a cross-encoder with num_labels = 1, "
        "or train one: miner train-reranker STORE OUT --base bundled"
    )
    with Database.open(store, read_only=True) as opened:
        for table in ("runs", "stages", "hits", "candidates"):
            assert list(opened.rows(f"SELECT count(*) FROM {table}")) == [(0,)], table
    assert {path.name for path in tmp_path.iterdir()} == beside
    assert store.read_bytes() == before
