"""Rows to train on: read from every kind of file, and refused where they are not what the loss needs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.errors import InputError, MinerError, UsageError
from miner.export.config import FORMATS
from miner.store.database import Database
from miner.training.encoder_config import LOSSES
from miner.training.examples import Columns, Examples, examples_of, read_examples, text_columns
from tests.export_store import fill, made
from tests.sources_support import jsonl, write
from tests.stores import new_store

ROWS = {
    "anchor": ["what purrs?", "who\tbarks?", "Ålesund?"],
    "positive": ['a "cat", mostly', "dogs", "日本 | no"],
    "negative": ["dogs", "a cow", "07.10"],
}
PLAIN = {**ROWS, "anchor": ["what purrs?", "who barks?", "Ålesund?"]}
SCORES = [[0.9, 0.5], [0.75, -0.25], [1.0, 0.0]]


@pytest.fixture
def exports(tmp_path: Path) -> Iterator[Database]:
    """A store with a run of 2 negatives for 2 positives of a query, and 1 for one of another."""
    with new_store(tmp_path / "store.duckdb") as store:
        fill(store)
        yield store


def columns_of(examples: Examples) -> dict[str, Sequence[str]]:
    return dict(examples.texts)


def refusal(source: Path | str, loss: str, columns: Columns | None = None) -> str:
    """What the user reads, with the folder of the source left out."""
    with pytest.raises(MinerError) as caught:
        read_examples(str(source), loss, columns)
    return str(caught.value).replace(f"{Path(source).parent}/", "")


def tsv(path: Path, columns: dict[str, list[str]]) -> Path:
    lines = ["\t".join(columns), *("\t".join(row) for row in zip(*columns.values(), strict=True))]
    return write(path, "\n".join(lines) + "\n")


def parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def records(columns: dict[str, list[Any]]) -> str:
    return jsonl(*(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)))


def test_json_lines(tmp_path: Path) -> None:
    found = read_examples(str(write(tmp_path / "t.jsonl", records(ROWS))), "mnr")
    assert (columns_of(found), len(found), found.target, found.classes) == (ROWS, 3, None, ())
    assert found.origin == str(tmp_path / "t.jsonl")


def test_compressed_json_lines_with_scores(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(records({**ROWS, "scores": SCORES}).encode()))
    found = read_examples(str(path), "margin-mse")
    assert (columns_of(found), found.target) == (ROWS, SCORES)


def test_comma_separated(tmp_path: Path) -> None:
    rows = ['"what purrs?","a ""cat"", mostly",dogs', '"who\tbarks?",dogs,a cow', "Ålesund?,日本 | no,07.10"]
    path = write(tmp_path / "t.csv", "\n".join(["anchor,positive,negative", *rows]))
    assert columns_of(read_examples(str(path), "triplet")) == ROWS


def test_tab_separated(tmp_path: Path) -> None:
    assert columns_of(read_examples(str(tsv(tmp_path / "t.tsv", PLAIN)), "mnr")) == PLAIN


def test_parquet(tmp_path: Path) -> None:
    found = read_examples(str(parquet(tmp_path / "t.parquet", {**ROWS, "scores": SCORES})), "margin-mse")
    assert (columns_of(found), found.target) == (ROWS, SCORES)


def test_a_datasets_folder(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({**ROWS, "scores": SCORES}).save_to_disk(str(tmp_path / "t"))
    found = read_examples(str(tmp_path / "t"), "margin-mse")
    assert (columns_of(found), found.target) == (ROWS, SCORES)


def test_of_a_datasets_folder_with_splits_train_is_read(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    train, test = Dataset.from_dict(ROWS), Dataset.from_dict({"anchor": ["x"], "positive": ["y"]})
    DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "both"))
    assert columns_of(read_examples(str(tmp_path / "both"), "mnr")) == ROWS
    DatasetDict({"test": test, "dev": test}).save_to_disk(str(tmp_path / "none"))
    assert (
        refusal(tmp_path / "none", "mnr") == "none: no split 'train'; it has test, dev; save that split alone"
    )


def test_rows_of_a_datasets_folder_come_in_the_order_it_was_given(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict(ROWS).select([2, 0]).save_to_disk(str(tmp_path / "t"))
    assert read_examples(str(tmp_path / "t"), "mnr").texts["anchor"] == ["Ålesund?", "what purrs?"]


@pytest.mark.parametrize("file_type", ["jsonl", "csv", "parquet", "datasets"])
def test_exported_triplets(exports: Database, tmp_path: Path, file_type: str) -> None:
    made(exports, tmp_path / "out", file_type=file_type)
    found = read_examples(str(tmp_path / "out"), "triplet")
    assert list(found.texts) == ["anchor", "positive", "negative"]
    assert found.texts["anchor"] == ["what purrs?"] * 4 + ["who barks?"]
    assert found.texts["positive"][0] == "Cats They purr, mostly."
    assert found.texts["negative"][-1] == "Cows They\nmoo."
    assert found.origin == str(tmp_path / "out")


@pytest.mark.parametrize("file_type", ["jsonl", "parquet", "datasets"])
def test_exported_n_tuples_with_scores(exports: Database, tmp_path: Path, file_type: str) -> None:
    made(exports, tmp_path / "out", format="n-tuple", scores=True, file_type=file_type)
    found = read_examples(str(tmp_path / "out"), "margin-mse")
    assert list(found.texts) == ["anchor", "positive", "negative_1", "negative_2"]
    assert found.target == [[0.9, 0.5, 0.25], [0.75, 0.5, 0.25]]
    assert read_examples(str(tmp_path / "out"), "mnr").target is None


@pytest.mark.parametrize("file_type", ["jsonl", "csv", "parquet", "datasets"])
def test_exported_labelled_pairs(exports: Database, tmp_path: Path, file_type: str) -> None:
    made(exports, tmp_path / "out", format="labeled-pair", file_type=file_type)
    cosine = read_examples(str(tmp_path / "out"), "cosine")
    assert list(cosine.texts) == ["anchor", "document"]
    assert cosine.target == [1, 1, 0, 0, 1, 0]
    softmax = read_examples(str(tmp_path / "out"), "softmax")
    assert (softmax.target, softmax.classes) == ([1, 1, 0, 0, 1, 0], ("0", "1"))


def test_exported_scores_of_pairs_are_numbers_for_the_cosine(exports: Database, tmp_path: Path) -> None:
    made(exports, tmp_path / "out", format="labeled-pair", scores=True)
    assert read_examples(str(tmp_path / "out"), "cosine").target == [0.9, 0.75, 0.5, 0.25, 1.0, -0.5]


RANKING = ("mnr", "cached-mnr", "gist", "cached-gist")
FITTING = {
    ("triplet", False): {*RANKING, "triplet"},
    ("triplet", True): {*RANKING, "triplet", "margin-mse", "distill"},
    ("n-tuple", False): {*RANKING} - {"gist"},
    ("n-tuple", True): {*RANKING, "margin-mse", "distill"} - {"gist"},
    ("labeled-pair", False): {"cosine", "softmax"},
    ("labeled-pair", True): {"cosine", "softmax"},
    ("reranking", False): {*RANKING, "triplet"},
    ("flagembedding", False): {*RANKING, "triplet"},
    ("flagembedding", True): {*RANKING, "triplet", "margin-mse", "distill"},
    **{(name, scores): {*RANKING, "triplet"} for name in ("tevatron", "dpr") for scores in (0, 1)},
}
"""Which losses train on which export, with scores or without; on no other."""


@pytest.mark.parametrize(
    ("name", "scores"),
    [(name, scores) for name, form in FORMATS.items() for scores in sorted({False, form.scores})],
)
def test_every_loss_takes_its_formats_and_refuses_the_others(
    exports: Database, tmp_path: Path, name: str, scores: bool
) -> None:
    try:
        made(exports, tmp_path / "out", format=name, scores=scores)
    except UsageError:
        made(exports, tmp_path / "out", format=name, scores=scores, file_type="jsonl")
    refused: dict[str, str] = {}
    for loss in LOSSES:
        try:
            assert len(read_examples(str(tmp_path / "out"), loss)) > 0
        except MinerError as error:
            refused[loss] = str(error)
    assert {*LOSSES} - {*refused} == FITTING.get((name, scores), set())
    assert all(str(tmp_path / "out") in message for message in refused.values())


def test_wrong_formats_say_which_is_right(exports: Database, tmp_path: Path) -> None:
    for name in ("triplet", "n-tuple", "labeled-pair", "labeled-list"):
        made(exports, tmp_path / name, format=name)
    made(exports, tmp_path / "lists", format="labeled-list", file_type="parquet")
    assert refusal(tmp_path / "triplet", "cosine") == (
        "loss cosine takes 2 columns of text, triplet has 3: anchor, positive, negative; "
        "export as labeled-pair, or name the columns of text in order with --columns"
    )
    assert refusal(tmp_path / "n-tuple", "triplet") == (
        "loss triplet takes 3 columns of text, n-tuple has 4: anchor, positive, negative_1, negative_2; "
        "export as triplet, or name the columns of text in order with --columns"
    )
    assert refusal(tmp_path / "n-tuple", "gist") == (
        "loss gist takes 2 to 3 columns of text, n-tuple has 4: anchor, positive, negative_1, negative_2; "
        "export as triplet, or name the columns of text in order with --columns"
    )
    assert refusal(tmp_path / "triplet", "margin-mse") == (
        "loss margin-mse needs a list of scores with every row, triplet has none; "
        "export as triplet with --scores or n-tuple with --scores, "
        "or name the column of labels with --label-column"
    )
    assert refusal(tmp_path / "labeled-pair", "margin-mse") == (
        "loss margin-mse takes 3 or more columns of text, labeled-pair has 2: anchor, document; "
        "export as triplet with --scores or n-tuple with --scores, "
        "or name the columns of text in order with --columns"
    )
    assert refusal(tmp_path / "labeled-pair", "mnr") == (
        "loss mnr treats every row as a positive, but labeled-pair has labels in column 'label'; "
        "export as triplet or n-tuple, or name the columns of text with --columns"
    )
    assert refusal(tmp_path / "labeled-list", "cosine") == (
        "labeled-list: column 'documents' holds lists, loss cosine takes texts; export as labeled-pair"
    )
    assert refusal(tmp_path / "lists", "cosine") == (
        "lists: column 'documents' holds lists, loss cosine takes texts; export as labeled-pair"
    )


def test_columns_are_taken_by_name_and_in_that_order(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", records({**ROWS, "label": ["a", "b", "a"]}))
    found = read_examples(str(path), "mnr", Columns(("positive", "anchor")))
    assert list(found.texts.items()) == [("positive", ROWS["positive"]), ("anchor", ROWS["anchor"])]
    found = read_examples(str(path), "softmax", Columns(("anchor", "negative"), "positive"))
    assert (found.target, found.classes) == ([0, 1, 2], ('a "cat", mostly', "dogs", "日本 | no"))


@pytest.mark.parametrize(
    ("names", "read"),
    [
        ("id query positive", "query positive"),
        ("negative positive anchor source", "anchor positive negative"),
        ("positive negative_10 negative_2 query", "query positive negative_2 negative_10"),
        ("positive question qid", "question positive"),
        ("passage query", "query passage"),
        ("sentence1 sentence2 pair_id", "sentence1 sentence2"),
        ("premise hypothesis", "premise hypothesis"),
        ("negative passage query", "query passage negative"),
    ],
)
def test_texts_are_known_by_their_names(tmp_path: Path, names: str, read: str) -> None:
    given = {name: [f"{name} of row {row}" for row in range(2)] for name in names.split()}
    found = read_examples(str(tsv(tmp_path / "t.tsv", given)), "mnr")
    assert columns_of(found) == {name: given[name] for name in read.split()}
    assert list(found.texts) == read.split()
    assert found.unread == tuple(name for name in given if name not in read.split())


def test_a_third_column_is_a_negative_only_where_it_is_called_so(tmp_path: Path) -> None:
    """A genre or a date beside a pair would be trained on as its hard negative."""
    order = "name the columns of text in order with --columns, such as "
    path = tsv(tmp_path / "t.tsv", {"sentence1": ["a"], "sentence2": ["b"], "genre": ["fiction"]})
    for loss, such in (("mnr", "sentence1,sentence2"), ("triplet", "sentence1,sentence2,genre")):
        assert refusal(path, loss) == (
            f"t.tsv: none of its columns is named positive: sentence1, sentence2, genre; {order}{such}"
        )
        assert ",".join(read_examples(str(path), loss, Columns(tuple(such.split(",")))).texts) == such
    assert refusal(tsv(path, {"query": ["a"], "negative": ["b"]}), "mnr") == (
        f"t.tsv: none of its columns is named positive: query, negative; {order}query,positive,negative"
    )


def test_names_without_one_anchor_are_refused(tmp_path: Path) -> None:
    order = "name the columns of text in order with --columns, such as query,positive,negative"
    two = tsv(tmp_path / "two.tsv", {name: ["text"] for name in ("question", "positive", "answer")})
    assert refusal(two, "mnr") == ("two.tsv: columns question and answer may both be the anchor; " + order)
    none = tsv(tmp_path / "none.tsv", {name: ["text"] for name in ("positive", "negative")})
    assert refusal(none, "mnr") == "none.tsv: no column is the anchor; " + order


def test_texts_are_no_names_of_columns(tmp_path: Path) -> None:
    claim = "vaccination must be made compulsory by the state"
    path = write(tmp_path / "bare.tsv", f"{claim}\tit protects others\nlaws\tthey bind\n")
    assert refusal(path, "mnr") == (
        "bare.tsv: its first row looks like texts, not like names of columns: 'vaccination must be made "
        "compulsory by t…'; name the columns with --no-header --columns, such as "
        "anchor,positive,negative; if "
        "these are names, name those to train on with --columns"
    )


def test_a_short_first_row_of_texts_is_not_lost(tmp_path: Path) -> None:
    path = write(tmp_path / "bare.tsv", "how to cook rice\tboil it in water\nwhat is tea\ta hot drink\n")
    assert refusal(path, "mnr").startswith("bare.tsv: its first row looks like texts")
    named = read_examples(str(path), "mnr", Columns(texts=("how to cook rice", "boil it in water")))
    assert named.texts["how to cook rice"] == ["what is tea"]
    known = tsv(tmp_path / "known.tsv", {"query": ["a"], "positive": ["b"], "the name of it": ["c"]})
    assert list(read_examples(str(known), "mnr").texts) == ["query", "positive"]


@pytest.mark.parametrize(
    "text",
    ["请按住路由器背面的按钮十秒钟，直到指示灯开始闪烁为止。", "กดปุ่มด้านหลังเราเตอร์ค้างไว้สิบวินาทีจนไฟกะพริบ"],
)
def test_texts_in_scripts_without_spaces_are_no_names_of_columns(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bare.tsv", f"如何重置路由器\t{text}\n路由器\t网络设备\n")
    assert refusal(path, "mnr").startswith("bare.tsv: its first row looks like texts")


def test_short_names_in_scripts_without_spaces_are_names_of_columns() -> None:
    names = ("与问题相关的正例文本段落", "ข้อความตัวอย่างเชิงลบ")
    assert text_columns(names, "named.tsv") == names


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", records(ROWS))
    hint = "its columns: anchor, positive, negative; name yours with --columns and --label-column"
    assert refusal(path, "mnr", Columns(("anchor", "postive"))) == (
        f"t.jsonl: no column 'postive' (did you mean 'positive'?); {hint}"
    )
    assert refusal(path, "cosine", Columns(label="grade")) == f"t.jsonl: no column 'grade'; {hint}"
    assert refusal(path, "cosine", Columns(("anchor", "positive"))) == (
        "loss cosine needs a number with every row, t.jsonl has none; "
        "export as labeled-pair, or name the column of labels with --label-column"
    )
    assert refusal(path, "softmax", Columns(("anchor", "positive"))) == (
        "loss softmax needs a class with every row, t.jsonl has none; "
        "export as labeled-pair, or name the column of labels with --label-column"
    )


def labelled(folder: Path, labels: list[Any]) -> Path:
    texts = {"anchor": [f"a{row}" for row in range(len(labels))], "other": ["b"] * len(labels)}
    return parquet(folder / "t.parquet", {**texts, "label": labels})


def test_labels_become_numbers(tmp_path: Path) -> None:
    path = str(tsv(tmp_path / "t.tsv", {"a": ["x", "y"], "b": ["u", "v"], "score": ["5", "2.5"]}))
    assert read_examples(path, "cosine", Columns(most=5)).target == [1.0, 0.5]
    assert read_examples(str(labelled(tmp_path, [1, 0, -1])), "cosine").target == [1.0, 0.0, -1.0]


def test_labels_that_are_no_cosine_are_refused(tmp_path: Path) -> None:
    assert refusal(labelled(tmp_path, [1.0, 5.0, 0.0]), "cosine") == (
        "t.parquet: labels go from 0 to 5, but a cosine from -1 to 1; "
        "divide them by their largest with --set label_max=NUMBER, such as 5 for STS"
    )
    for label in ("entailment", "nan", "inf"):
        assert refusal(labelled(tmp_path, ["1", label]), "cosine") == (
            f"t.parquet: row 2 is labelled '{label}', not with a number; "
            "for classes: --set positive_label=CLASS, or --loss softmax"
        )


def test_numbers_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    assert refusal(labelled(tmp_path, [0.5, 0.5]), "cosine") == (
        "t.parquet: every row is labelled 0.5: one vector for all texts would be perfect; "
        "add pairs that are less alike, or use --loss mnr"
    )


def test_classes_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    found = read_examples(str(labelled(tmp_path, ["neutral", "entailment", "neutral", "contra"])), "softmax")
    assert (found.target, found.classes) == ([2, 1, 2, 0], ("contra", "entailment", "neutral"))
    assert refusal(labelled(tmp_path, ["same", "same"]), "softmax") == (
        "t.parquet: all rows are of class 'same', a classifier needs two; "
        "add rows of another class, or use a loss that needs none, such as mnr"
    )


def test_one_label_may_count_as_positive(tmp_path: Path) -> None:
    path = labelled(tmp_path, ["neutral", "entailment", "contradiction"])
    chosen = Columns(positive_label="entailment")
    assert read_examples(str(path), "cosine", chosen).target == [0.0, 1.0, 0.0]
    softmax = read_examples(str(path), "softmax", chosen)
    assert (softmax.target, softmax.classes) == ([0, 1, 0], ("other", "entailment"))
    assert refusal(path, "cosine", Columns(positive_label="entailmnet")) == (
        "t.parquet: no row is labelled 'entailmnet' (did you mean 'entailment'?); "
        "its labels: contradiction, entailment, neutral"
    )


def test_of_one_label_alone_may_be_ranked(tmp_path: Path) -> None:
    path = labelled(tmp_path, ["neutral", "entailment", "contradiction", "entailment"])
    found = read_examples(str(path), "mnr", Columns(positive_label="entailment"))
    assert (found.texts["anchor"], found.target) == (["a1", "a3"], None)
    assert refusal(path, "mnr", Columns(positive_label="entailmnet")) == (
        "t.parquet: no row is labelled 'entailmnet' (did you mean 'entailment'?); "
        "its labels: contradiction, entailment, neutral"
    )
    bare = parquet(tmp_path / "t.parquet", {"anchor": ["a"], "positive": ["b"]})
    assert refusal(bare, "mnr", Columns(positive_label="entailment")) == (
        "t.parquet has no labels to find 'entailment' in; name them with --label-column"
    )


@pytest.mark.parametrize("bad", [[0.5], [0.5, 0.1, 0.2], [0.5, None], [0.5, float("nan")]])
def test_a_row_needs_a_score_for_each_of_its_documents(tmp_path: Path, bad: list[float]) -> None:
    path = parquet(tmp_path / "t.parquet", {**ROWS, "scores": [*SCORES[:2], bad]})
    assert refusal(path, "margin-mse") == (
        "t.parquet: row 3 has no list of 2 scores, the positive's and its negatives'; export with --scores"
    )


def test_a_file_without_a_header_has_the_columns_that_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "red fox\tvixen\t1\nold oak\ttree\t0\n")
    pairs = Columns(("query", "answer", "-"), header=False)
    assert dict(read_examples(str(path), "mnr", pairs).texts) == {
        "query": ["red fox", "old oak"],
        "answer": ["vixen", "tree"],
    }
    labelled = Columns(("one", "other", "label"), header=False)
    found = read_examples(str(path), "cosine", labelled)
    assert (list(found.texts), found.target) == (["one", "other"], [1.0, 0.0])
    graded = Columns(("one", "other", "grade"), label="grade", header=False)
    assert read_examples(str(path), "cosine", graded).target == [1.0, 0.0]


def test_columns_without_a_header_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--no-header needs the names of the columns"):
        Columns(header=False)
    with pytest.raises(UsageError, match="column 'a' is named twice"):
        Columns(("a", "-", "a", "-"), header=False)
    two = Columns(("query", "positive"), header=False)
    path = write(tmp_path / "t.tsv", "red fox\tvixen\t1\nold oak\ttree\t0\n")
    assert refusal(path, "mnr", two).startswith("t.tsv:1: ")
    path = write(tmp_path / "t.jsonl", jsonl({"query": "red fox", "positive": "vixen"}))
    assert refusal(path, "mnr", two).startswith("--no-header has no effect on t.jsonl: ")


def test_scores_may_be_written_as_json(tmp_path: Path) -> None:
    path = tsv(tmp_path / "t.tsv", {**PLAIN, "scores": ["[0.9, 0.5]", "[1, 0]", "[0.5, -1]"]})
    assert read_examples(str(path), "margin-mse").target == [[0.9, 0.5], [1.0, 0.0], [0.5, -1.0]]
    tsv(path, {**PLAIN, "scores": ["[0.9, 0.5]", "0.9, 0.5", "[1, 0]"]})
    assert refusal(path, "margin-mse") == (
        "t.tsv: row 2 has no list of 2 scores, the positive's and its negatives'; export with --scores"
    )
    write(tmp_path / "t.jsonl", records({**ROWS, "scores": SCORES})[:-20] + "}\n")
    assert refusal(tmp_path / "t.jsonl", "margin-mse").startswith("t.jsonl:3: broken JSON (")


def test_rows_without_text_are_left_out(tmp_path: Path) -> None:
    texts = {"anchor": ["a", " ", "c", None, "e"], "other": ["v", "w", "\t\n", "y", "z"]}
    path = parquet(tmp_path / "t.parquet", {**texts, "label": [1.0, 0.5, 0.5, 0.5, 0.0]})
    found = read_examples(str(path), "cosine")
    assert (columns_of(found), found.target) == ({"anchor": ["a", "e"], "other": ["v", "z"]}, [1.0, 0.0])
    parquet(path, {"anchor": ["", "a"], "other": ["b", None]})
    assert refusal(path, "mnr") == "t.parquet: no rows to train on; every row needs text in each column"


def test_files_that_cannot_be_read_say_why(tmp_path: Path, exports: Database) -> None:
    write(tmp_path / "triplets.tsv", "anchor\tpositive\na\n")
    assert refusal(tmp_path / "triplets.tsv", "mnr") == (
        "triplets.tsv:2: 1 field where the header has 2; mend the row"
    )
    assert refusal(tmp_path / "tripelts.tsv", "mnr") == (
        "there is no file or folder tripelts.tsv (did you mean 'triplets.tsv'?); "
        "name a file, a folder that miner export wrote, or a store"
    )
    assert refusal(write(tmp_path / "empty.jsonl", ""), "mnr") == (
        "empty.jsonl: the file is empty; write one object per line"
    )
    assert refusal(write(tmp_path / "only.tsv", "anchor\tpositive\n"), "mnr") == (
        "only.tsv: no rows to train on; every row needs text in each column"
    )
    assert refusal(write(tmp_path / "t.txt", "x"), "mnr").startswith("t.txt: unknown format '.txt'; ")
    assert refusal(write(tmp_path / "bad.parquet", "x"), "mnr").startswith(
        "bad.parquet: not a Parquet file: "
    )
    (tmp_path / "folder").mkdir()
    assert refusal(tmp_path / "folder", "mnr") == (
        "folder is not a folder that miner export or save_to_disk wrote; it holds none"
    )
    made(exports, tmp_path / "triplet", format="triplet", file_type="jsonl")
    next((tmp_path / "triplet/data").iterdir()).unlink()
    assert refusal(tmp_path / "triplet", "mnr") == (
        "triplet: no data file to train on; export as triplet, n-tuple or labeled-pair, to jsonl"
    )


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6), st.data())
def test_the_fingerprint_is_that_of_the_rows_and_their_order(
    rows: list[tuple[str, str]], data: st.DataObject
) -> None:
    def of(pairs: Sequence[tuple[str, ...]]) -> str:
        anchor, positive = zip(*pairs, strict=True)
        return examples_of(pa.table({"a": anchor, "p": positive}), "x", "mnr").fingerprint

    other = data.draw(st.permutations(rows))
    assert (of(other) == of(rows)) == (other == rows)
    assert of([*rows, rows[0]]) != of(rows)


def test_the_fingerprint_is_also_that_of_the_labels() -> None:
    texts = {"a": ["x", "y"], "b": ["u", "v"]}
    of = [Examples(texts, target).fingerprint for target in (None, [0.0, 1.0], [1.0, 0.0])]
    assert len({*of, Examples(texts, [0, 1], ("no", "yes")).fingerprint}) == 4


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            {"pos_scores": [1.0, 2.0], "neg_scores": [1.0, 2.0]},
            "1 passage in 'pos', but 2 scores in 'pos_scores'",
        ),
        ({"pos_scores": [1.0], "neg_scores": [1.0]}, "2 passages in 'neg', but 1 score in 'neg_scores'"),
        ({"pos_scores": [1.0], "neg_scores": [1.0, 2.0, 3.0]}, "2 passages in 'neg', but 3 scores in"),
    ],
)
def test_each_passage_has_its_score_or_none_has_one(
    tmp_path: Path, scores: dict[str, list[float]], message: str
) -> None:
    row = {"query": "q", "pos": ["p"], "neg": ["n", "m"]}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row | {"pos_scores": [2.0], "neg_scores": [1.0, 0.0]}) + "\n", "utf-8")
    assert read_examples(str(file), "margin-mse").target == [[2.0, 1.0], [2.0, 0.0]]
    file.write_text(json.dumps(row | scores) + "\n", "utf-8")
    with pytest.raises(InputError, match=rf"rows.jsonl, row 1: {message}"):
        read_examples(str(file), "margin-mse")
