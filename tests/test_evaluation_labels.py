"""Same-label retrieval and k-NN: by hand, and against ir-measures and the formulas."""

from __future__ import annotations

from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.errors import UsageError
from miner.evaluation.labels import _of_ranking, label_task
from miner.sources import SourceConfig, ingest
from miner.store.database import Database
from tests.evaluation_support import angles

TEXTS = {"a1": 0.0, "a2": 10.0, "b1": 5.0, "b2": 100.0, "b3": 110.0}
TRAIN = {"t1": 2.0, "t2": 3.0, "t3": 108.0, "t4": 112.0, "t5": 113.0}


def labelled(folder: Path, **splits: dict[str, str]) -> Path:
    """Ingests texts with labels, one file per split."""
    for split, rows in splits.items():
        lines = [f"{label}\t{text}" for text, label in rows.items()]
        (folder / f"{split}.tsv").write_text("\n".join(["label\ttext", *lines]) + "\n")
    files = [str(folder / f"{split}.tsv") for split in splits]
    ingest(folder / "s.duckdb", files, SourceConfig(positives_per_query=1))
    return folder / "s.duckdb"


def by_first(texts: dict[str, float]) -> dict[str, str]:
    return {text: text[0] for text in texts}


def test_by_hand(tmp_path: Path) -> None:
    train = {"t1": "a", "t2": "a", "t3": "b", "t4": "b", "t5": "b"}
    with Database.open(labelled(tmp_path, test=by_first(TEXTS), train=train), read_only=True) as store:
        task = label_task(store, "test")
    found = task.measure(angles({**TEXTS, **TRAIN}))
    texts = [task.queries.texts[i] for i in range(5)]
    values = {name: dict(zip(texts, column.tolist(), strict=True)) for name, column in found.values.items()}
    assert list(found.means) == ["MAP", "P@1", "P@10", "nDCG@10", "k-NN accuracy"]
    # a1 finds b1, a2, b2, b3: its only other a stands second.
    assert values["MAP"]["a1"] == pytest.approx(1 / 2)
    assert values["P@1"]["a1"] == 0.0
    assert values["P@10"]["a1"] == pytest.approx(1 / 10)
    assert values["nDCG@10"]["a1"] == pytest.approx(1 / np.log2(3))
    # b2 finds b3, a2, b1, a1.
    assert values["MAP"]["b2"] == pytest.approx((1 + 2 / 3) / 2)
    assert values["P@1"]["b2"] == 1.0
    # Of the five voters, b1 has two near ones of label a and three far ones, of cosines below 0.
    assert values["k-NN accuracy"] == {"a1": 1.0, "a2": 1.0, "b1": 0.0, "b2": 1.0, "b3": 1.0}
    assert found.chance == pytest.approx((2 * 1 / 4 + 3 * 2 / 4) / 5)
    assert found.documents == 5


def test_without_train_the_texts_vote_for_each_other(tmp_path: Path) -> None:
    with Database.open(labelled(tmp_path, test=by_first(TEXTS)), read_only=True) as store:
        task = label_task(store, "test")
    assert task.voters.ids == task.documents.ids
    found = task.measure(angles(TEXTS))
    right = dict(zip(task.queries.texts, found.values["k-NN accuracy"], strict=True))
    assert right["b2"] == 1.0
    assert right["a2"] == 1.0  # b1 is nearest, but the far b count against b: 0.996 − 0.17 < 0.98


def test_a_text_does_not_find_itself(tmp_path: Path) -> None:
    rows = {"one": "x", "One": "x", "two": "x", "other": "y", "more": "y"}
    with Database.open(labelled(tmp_path, test=rows), read_only=True) as store:
        task = label_task(store, "test")
    places = {"one": 0.0, "One": 0.0, "two": 90.0, "other": 10.0, "more": 20.0}
    found = dict(zip(task.queries.texts, task.measure(angles(places)).values["P@1"], strict=True))
    assert found["one"] == found["One"] == 0.0


def test_a_sample(tmp_path: Path) -> None:
    rows = {f"text {i}": "ab"[i % 2] for i in range(40)}
    with Database.open(labelled(tmp_path, test=rows), read_only=True) as store:
        some = label_task(store, "test", 9)
        assert some.queries.ids == label_task(store, "test", 9).queries.ids
    assert len(some.queries.ids) == 9
    assert len(some.documents.ids) == 40


def test_texts_without_labels_are_an_error(tmp_path: Path) -> None:
    path = labelled(tmp_path, test=by_first(TEXTS))
    with Database.open(path, read_only=True) as store, pytest.raises(UsageError) as caught:
        label_task(store, "dev")
    assert caught.value.message == f"split 'dev' of {tmp_path / 's.duckdb'} has no labelled texts"
    assert caught.value.hint == (
        "ingest texts with labels: miner ingest STORE texts.tsv --label-column label; splits: test"
    )


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_measures_equal_those_of_ir_measures(hits: list[bool]) -> None:
    found = _of_ranking(np.array(hits), sum(hits))
    names = ("AP", "P@1", "P@10", "nDCG@10")
    if not any(hits):
        assert found == (0.0, 0.0, 0.0, 0.0)
        return
    measures = [ir_measures.parse_measure(name) for name in names]
    qrels = {"q": {f"d{i:02}": int(hit) for i, hit in enumerate(hits)}}
    run = {"q": {f"d{i:02}": float(-i) for i in range(len(hits))}}
    expected = ir_measures.calc_aggregate(measures, qrels, run)
    assert found == pytest.approx([expected[measure] for measure in measures])
