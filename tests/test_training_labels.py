"""Labels of training rows: names of classes, rows without one, and what is told of that which is not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from miner.errors import UsageError
from miner.training.examples import Columns, Examples, read_examples
from tests.sources_support import write
from tests.test_train_cli import SCRATCH, run
from tests.test_training_examples import ROWS, SCORES, labelled, parquet, records, refusal, tsv
from tests.train_support import frozen

__all__ = ["frozen"]

NAMES = ["entailment", "neutral", "contradiction"]
ENTAILED = Columns(positive_label="entailment")
PAIR = Columns(("anchor", "positive"), "label")
NO_ROWS = "no rows to train on; every row needs text in each column, and a label in column 'label'"


def saved(folder: Path, labels: list[int | None], names: list[str] = NAMES) -> Path:
    """A `datasets` folder of pairs whose labels are classes."""
    from datasets import ClassLabel, Dataset, Features, Value

    rows = range(len(labels))
    columns = {"premise": [f"a{i}" for i in rows], "hypothesis": [f"b{i}" for i in rows], "label": labels}
    features = Features(premise=Value("string"), hypothesis=Value("string"), label=ClassLabel(names=names))
    Dataset.from_dict(columns, features).save_to_disk(str(folder))
    return folder


def saved_splits(folder: Path, *splits: str) -> Path:
    """A `datasets` folder of triplets in these splits."""
    from datasets import Dataset, DatasetDict

    DatasetDict({split: Dataset.from_dict(ROWS) for split in splits}).save_to_disk(str(folder))
    return folder


def read(source: Path, loss: str, columns: Columns | None = None) -> Examples:
    return read_examples(str(source), loss, columns)


def left_out(found: Examples) -> tuple[list[str], int, int]:
    """The first texts of the rows that stay, and how many rows lacked a text or a label."""
    return list(next(iter(found.texts.values()))), found.without_text, found.without_label


def test_classes_of_a_datasets_folder_have_their_names(tmp_path: Path) -> None:
    folder = saved(tmp_path / "nli", [0, 2, 1, 0])
    softmax = read(folder, "softmax")
    assert (softmax.target, softmax.classes) == ([1, 0, 2, 1], ("contradiction", "entailment", "neutral"))
    assert read(folder, "cosine", ENTAILED).target == [1.0, 0.0, 0.0, 1.0]
    assert read(folder, "mnr", ENTAILED).texts["premise"] == ["a0", "a3"]
    assert refusal(folder, "cosine", Columns(positive_label="0")) == (
        "nli: no row is labelled '0'; its labels: contradiction, entailment, neutral"
    )
    assert refusal(folder, "cosine") == (
        "nli: row 1 is labelled 'entailment', not with a number; "
        "for classes: --set positive_label=CLASS, or --loss softmax"
    )
    assert refusal(folder, "mnr") == (
        "loss mnr treats every row as a positive, but nli has labels in column 'label'; train on "
        "the rows of one class with --set positive_label=CLASS, one of contradiction, entailment, neutral; "
        "or, for every row, name the "
        "columns of text with --columns"
    )


def test_parquet_of_a_data_set_keeps_the_names_of_classes(tmp_path: Path) -> None:
    from datasets import load_from_disk

    path = tmp_path / "nli.parquet"
    load_from_disk(str(saved(tmp_path / "nli", [0, 2, -1, 0]))).to_parquet(path)
    found = read(path, "softmax")
    assert (found.target, found.classes) == ([1, 0, 1], ("contradiction", "entailment"))
    assert left_out(found) == (["a0", "a1", "a3"], 0, 1)


def test_classes_that_are_called_by_numbers_are_numbers(tmp_path: Path) -> None:
    folder = saved(tmp_path / "sts", [0, 1, 2], ["0", "2.5", "5"])
    assert read(folder, "cosine", Columns(most=5)).target == [0.0, 0.5, 1.0]


def test_a_class_below_0_is_no_label(tmp_path: Path) -> None:
    folder = saved(tmp_path / "nli", [0, -1, 1, None])
    for loss, columns, target in (("softmax", None, [0, 1]), ("cosine", ENTAILED, [1.0, 0.0])):
        found = read(folder, loss, columns)
        assert (found.target, left_out(found)) == (target, (["a0", "a2"], 0, 2))
    none = saved(tmp_path / "none", [-1, -1])
    for loss, columns in (("softmax", None), ("cosine", ENTAILED), ("cosine", None)):
        assert refusal(none, loss, columns) == f"none: {NO_ROWS}"
    assert refusal(none, "mnr", ENTAILED) == "none: no row is labelled 'entailment'; its labels: none"
    assert refusal(none, "mnr") == (
        "loss mnr treats every row as a positive, but none has labels in column 'label'; "
        "name the columns of text with --columns, or export as triplet or n-tuple"
    )


@pytest.mark.parametrize("missing", [None, "", " \t"])
def test_rows_without_a_class_are_left_out(tmp_path: Path, missing: str | None) -> None:
    path = labelled(tmp_path, ["neutral", missing, "entailment", missing])
    softmax = read(path, "softmax")
    assert (softmax.target, softmax.classes) == ([1, 0], ("entailment", "neutral"))
    assert left_out(softmax) == (["a0", "a2"], 0, 2)
    assert read(path, "cosine", ENTAILED).target == [0.0, 1.0]
    assert read(path, "mnr", ENTAILED).texts["anchor"] == ["a2"]
    assert refusal(path, "cosine", Columns(positive_label="x")) == (
        "t.parquet: no row is labelled 'x'; its labels: entailment, neutral"
    )
    assert refusal(path, "mnr", Columns(positive_label="x")).endswith("; its labels: entailment, neutral")
    assert refusal(labelled(tmp_path, ["neutral", missing]), "softmax").startswith(
        "t.parquet: all rows are of class 'neutral', a classifier needs two"
    )
    assert refusal(labelled(tmp_path, [missing, missing]), "softmax") == f"t.parquet: {NO_ROWS}"


def test_rows_of_text_files_may_lack_a_label(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {**ROWS, "label": ["yes", None, "no"]}
    path = write(tmp_path / "t.jsonl", records(columns))
    found = read(path, "softmax", PAIR)
    assert (found.classes, found.target, found.without_label) == (("no", "yes"), [1, 0], 1)
    path = tsv(
        tmp_path / "t.tsv", {"anchor": ["a", "b", "c"], "other": ["x"] * 3, "label": ["yes", "", "no"]}
    )
    assert (read(path, "softmax").classes, left_out(read(path, "softmax"))) == (
        ("no", "yes"),
        (["a", "c"], 0, 1),
    )


@pytest.mark.parametrize("labels", [[1.0, None, 0.5], [1.0, float("nan"), 0.5], ["1", "", "0.5"]])
def test_rows_without_a_number_are_left_out(tmp_path: Path, labels: list[Any]) -> None:
    found = read(labelled(tmp_path, labels), "cosine")
    assert (found.target, left_out(found)) == ([1.0, 0.5], (["a0", "a2"], 0, 1))
    assert read(labelled(tmp_path, labels), "softmax").without_label == 1


def test_rows_without_scores_are_left_out(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {**ROWS, "scores": [SCORES[0], None, SCORES[2]]})
    found = read(path, "margin-mse")
    assert (found.target, found.without_label) == ([SCORES[0], SCORES[2]], 1)
    assert read(path, "mnr").without_label == 0, "a loss without labels needs none"


def test_a_row_is_left_out_for_one_reason_and_rows_are_named_by_their_number(tmp_path: Path) -> None:
    columns = {"anchor": ["a", "", "c", "", "e"], "other": ["x"] * 5}
    path = parquet(tmp_path / "t.parquet", {**columns, "label": ["1", "0", None, None, "0"]})
    assert left_out(read(path, "cosine")) == (["a", "e"], 2, 1)
    parquet(path, {**columns, "label": ["1", "0", None, None, "half"]})
    assert refusal(path, "cosine").startswith("t.parquet: row 5 is labelled 'half'")


def test_splits_that_are_not_read_are_known(tmp_path: Path) -> None:
    assert read(saved_splits(tmp_path / "one", "train"), "mnr").unread_splits == ()
    assert read(saved_splits(tmp_path / "two", "dev", "train", "test"), "mnr").unread_splits == (
        "dev",
        "test",
    )


def test_what_is_not_read_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits, three = (
        saved_splits(tmp_path / "a", "train", "dev"),
        saved_splits(tmp_path / "b", "train", "x", "y"),
    )
    none = {"anchor": ["a", "", "c", "d", "e"], "other": ["v", "w", "x", "y", "z"]}
    rows = tsv(tmp_path / "t.tsv", {**none, "label": ["yes", "no", "no", "", ""]})
    make = "--dev needs a store: make one with miner ingest"
    reported = {
        (splits,): [f"not read: split dev of {splits}; {make}"],
        (three,): [f"not read: splits x, y of {three}; {make}"],
        (rows, "--loss", "softmax"): [
            "1 row has an empty text and is left out",
            "2 rows have no label and are left out",
        ],
    }
    capsys.readouterr()  # of save_to_disk
    for position, (arguments, notes) in enumerate(reported.items()):
        source, *flags = arguments
        out = tmp_path / f"out{position}"
        code, _, said = run(capsys, source, out, *flags, *SCRATCH, "--set", "max_steps=1")
        assert (code, said.splitlines()[: len(notes) + 1]) == (
            0,
            [*notes, "no dev split to score on: the last model is kept"],
        )


def test_a_split_without_rows_is_an_error_where_it_is_read(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    none: dict[str, list[str]] = {name: [] for name in ROWS}
    for name, train, dev in (("none", none, ROWS), ("some", ROWS, none)):
        splits = {"train": Dataset.from_dict(train), "dev": Dataset.from_dict(dev)}
        DatasetDict(splits).save_to_disk(str(tmp_path / name))
    Dataset.from_dict(none).save_to_disk(str(tmp_path / "alone"))
    for name in ("none", "alone"):
        assert refusal(tmp_path / name, "mnr") == f"{name}: no rows to train on; save a split with rows"
    found = read(tmp_path / "some", "mnr")
    assert (len(found), found.unread_splits) == (len(ROWS["anchor"]), ("dev",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"texts": ("anchor", "positive", "positive")},
            "column 'positive' is named twice; name every column",
        ),
        ({"most": float("nan")}, "most must be a number above 0, got nan"),
        ({"most": float("inf")}, "most must be a number above 0 and at most 1e+30, got inf"),
    ],
)
def test_columns_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Columns(**settings)
    assert str(caught.value).startswith(message)


def test_classes_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"class {i}" for i in range(7)]
    call = ["--loss", "softmax", *SCRATCH, "--set", "max_steps=1", "--set", "evaluations=0"]
    code, _, err = run(capsys, saved(tmp_path / "many", [*range(7)], names), tmp_path / "out", *call)
    assert code == 0
    assert "7 classes: class 0, class 1, class 2, class 3, class 4, class 5, class 6\n" in err
