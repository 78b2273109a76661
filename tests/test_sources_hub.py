"""Hugging Face data sets, from folders that save_to_disk wrote.

The fixtures are ours. The installed `datasets` writes them: 5.2.0 in constraints.txt.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from miner.errors import InputError
from miner.sources import SourceConfig, detect, ingest, open_source
from tests.sources_support import collect, refused, rows

datasets = pytest.importorskip("datasets")

PAIRS = {"query": ["a", "b"], "positive": ["c", "d"]}


def test_data_set_with_splits(tmp_path: Path) -> None:
    splits = {name: datasets.Dataset.from_dict(PAIRS) for name in ("train", "validation")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert detect(str(tmp_path / "saved")) == "hf"
    found = collect(tmp_path / "saved")
    assert [(j["origin"], j["line"], j["split"]) for j in found["judgments"]] == [
        (f"{tmp_path}/saved/train", 1, "train"),
        (f"{tmp_path}/saved/train", 2, "train"),
        (f"{tmp_path}/saved/validation", 1, "dev"),
        (f"{tmp_path}/saved/validation", 2, "dev"),
    ]
    assert {j["split"] for j in collect(tmp_path / "saved", hf_split="validation")["judgments"]} == {"dev"}


def test_one_split_and_triplets(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({**PAIRS, "negative": ["e", "f"]}).save_to_disk(tmp_path / "saved")
    found = collect(tmp_path / "saved", format="hf", split="mine")
    assert [(j["relevance"], j["split"]) for j in found["judgments"]] == [(1.0, "mine"), (0.0, "mine")] * 2


def test_class_labels_become_their_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    data.save_to_disk(tmp_path / "saved")
    store = tmp_path / "s.duckdb"
    ingest(store, [str(tmp_path / "saved")], SourceConfig(max_bad=0.5))
    assert rows(store, "SELECT text, label FROM documents ORDER BY text") == [("a", "pos"), ("b", "neg")]
    assert rows(store, "SELECT line, reason FROM rejected") == [(3, "empty_label")]


def test_columns_that_do_not_fit(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"]}).save_to_disk(tmp_path / "saved")
    assert refused(tmp_path, tmp_path / "saved").startswith(
        "DIR/saved/train: no columns 'query' and 'positive' for pairs, "
        "nor columns 'text' and 'label' for labels; its columns: premise, hypothesis; "
    )


def test_unknown_split_and_broken_folder(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(PAIRS)}).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError) as caught:
        open_source(str(tmp_path / "saved"), SourceConfig(hf_split="tset"))
    assert caught.value.message == (
        f"{tmp_path}/saved: cannot load the data set: no split 'tset'; it has train"
    )
    (tmp_path / "saved/train/dataset_info.json").write_text("{")
    message = refused(tmp_path, tmp_path / "saved")
    assert message.startswith("DIR/saved: cannot load the data set: ")
    assert message.endswith("without a network, name a folder that save_to_disk wrote")


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    message = refused(tmp_path, "hf:nobody/nothing:part")
    assert message.startswith(
        "hf:nobody/nothing:part: cannot load the data set: Couldn't reach 'nobody/nothing'"
    )


def test_a_data_set_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        ingest(tmp_path / "s.duckdb", "hf:")
    assert str(caught.value).startswith("hf:: cannot load the data set: it has no name; ")


def test_splits_without_rows_are_passed_over(tmp_path: Path) -> None:
    none = datasets.Dataset.from_dict({name: [] for name in PAIRS})
    splits = {"train": datasets.Dataset.from_dict(PAIRS), "dev": none}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "some")
    none.save_to_disk(tmp_path / "none")
    assert [judgment["split"] for judgment in collect(tmp_path / "some")["judgments"]] == ["train"] * 2
    assert refused(tmp_path, tmp_path / "none").startswith(
        "DIR/none: cannot load the data set: it has no rows"
    )
