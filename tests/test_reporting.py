"""Tests of the tables, numbers and front matter that every report and card uses."""

from __future__ import annotations

import yaml

from miner.reporting.cards import dataset_front_matter, model_front_matter
from miner.reporting.tables import (
    decimal,
    markdown_table,
    percent,
    percent_interval,
    short_names,
    shortened,
    signed_interval,
    text_table,
)


def test_text_table_aligns_numbers_to_the_right_and_escapes_what_drives_a_terminal() -> None:
    rows = [["name", "share", "why"], ["a\x1b[2J", "1", "x"], ["bc", "12", "longer"]]
    assert text_table(rows, left=(0, -1)) == [
        "name      share  why",
        r"a\x1b[2J      1  x",
        "bc           12  longer",
    ]


def test_markdown_table_escapes_pipes_and_marks_columns_of_numbers() -> None:
    assert markdown_table(("setting", "value"), [("a|b", 3)], right=(1,)) == [
        "| setting | value |",
        "| --- | ---: |",
        r"| a\|b | 3 |",
    ]


def test_numbers() -> None:
    assert percent(0.1254) == "12.5 %"
    assert percent(0.1254, 2) == "12.54 %"
    assert percent(None) == decimal(None, 3) == "-"
    assert percent_interval(0, 1, 2) == "[0.00 %, 100.00 %]"
    assert signed_interval(-0.5, 0.25) == "[-0.5000, +0.2500]"


def test_short_names_are_whole_where_two_models_would_share_one() -> None:
    assert short_names(["a/model", "b/other/"]) == ["model", "other"]
    assert short_names(["a/model", "b/model"]) == ["a/model", "b/model"]
    assert short_names(["a/model", "a/model"]) == ["model", "model"]


def test_shortened_cuts_texts_at_any_depth() -> None:
    assert shortened({"a": ["xxxx", {"b": "yy"}], "n": 1}, 2) == {"a": ["xx …", {"b": "yy"}], "n": 1}


def test_a_base_is_in_the_front_matter_if_the_hub_knows_it() -> None:
    def read(base: str) -> dict[str, object]:
        text = model_front_matter(base, "text-ranking", ["miner"])
        assert text.startswith("---\n")
        assert text.endswith("\n---")
        loaded: dict[str, object] = yaml.safe_load(text.strip("-"))
        return loaded

    known = {"library_name": "sentence-transformers", "pipeline_tag": "text-ranking"}
    known |= {"tags": ["sentence-transformers", "miner"]}
    assert read("owner/model") == {**known, "base_model": "owner/model"}
    assert read("./folder/model") == read("bundled") == known


def test_names_that_yaml_would_read_as_something_else_stay_texts() -> None:
    config = {"config_name": "default", "data_files": [{"split": "1", "path": "data/1.jsonl"}]}
    features = [{"name": "no", "dtype": "string"}]
    text = dataset_front_matter(
        {"pretty_name": 'a "run": №1', "language": ["no"]}, ["text-ranking"], 1_000, [config],
        [{"config_name": "default", "features": features}],
    )  # fmt: skip
    loaded = yaml.safe_load(text.strip("-"))
    assert loaded["configs"] == [config]
    assert loaded["dataset_info"] == {"config_name": "default", "features": features}
    assert loaded["pretty_name"] == 'a "run": №1'
    assert loaded["language"] == ["no"]
    assert loaded["size_categories"] == ["1K<n<10K"]
