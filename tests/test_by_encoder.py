"""Settings of one encoder among several: prompts, revision and dimension by the name in the run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from miner.errors import UsageError
from miner.mining.by_encoder import encoder_settings, settings_in_run, values_of
from miner.mining.config import MiningConfig, Rules
from miner.mining.pipeline import decide_again, mine
from tests.cache_support import Notes
from tests.test_scorers import Pairs, World, by_scorer, config_of_run, find, world

__all__ = ["world"]


def test_each_encoder_has_settings_of_its_own(world: World, tmp_path: Path) -> None:
    splade = str(world.folder / "splade")
    with world.opened(tmp_path / "s.duckdb") as store:

        def scores(name: str, **values: Any) -> dict[str, Pairs]:
            return by_scorer(store, mine(store, MiningConfig(dtype="fp32", depth=40, **values), name=name))

        both = {"encoder": ("bundled", splade)}
        plain = scores("plain", **both)
        mixed = scores(
            "mixed",
            **both,
            query_prompt=["splade=red fox ", "bundled=query: "],
            document_prompt="splade=blue ",
            dimension=64,
        )
        alone = scores("bundled", encoder="bundled", query_prompt="query: ", dimension=64)
        assert mixed["bundled"] == alone["bundled"] != plain["bundled"]
        alone = scores("splade", encoder=splade, query_prompt="red fox ", document_prompt="blue ")
        assert mixed["splade"] == alone["splade"] != plain["splade"]
        # A name is allowed for the only encoder too, and is no part of the prompt then.
        named = scores("named", encoder="bundled", query_prompt="bundled=query: ", dimension=["bundled=64"])
        assert named["bundled"] == mixed["bundled"]
        # Deciding again reads them from the run.
        run = find(store, "mixed")
        config = config_of_run(run)
        assert config.query_prompt == ("splade=red fox ", "bundled=query: ")
        assert (config.document_prompt, config.dimension) == (("splade=blue ",), 64)
        again = decide_again(store, run, replace(config, rules=Rules(percentile=20)))
        assert by_scorer(store, again) == by_scorer(store, run)
        assert [settings_in_run(run, key) for key in ("query_prompt", "document_prompt", "dimension")] == [
            ["query: ", "red fox "],
            [None, "blue "],
            [64, 64],
        ]


def test_an_unknown_encoder_among_several_is_refused_with_the_nearest(world: World, tmp_path: Path) -> None:
    models = ("bundled", str(world.folder / "splade"))
    with world.opened(tmp_path / "s.duckdb") as store:
        for values, message in (
            (
                {"query_prompt": ["splad=query: "]},
                "query_prompt: the run has no encoder 'splad' (did you mean 'splade'?); "
                "write query_prompt=SCORER=VALUE; encoders: bundled, splade",
            ),
            (
                {"dimension": ["splade=8"]},
                "is a sparse encoder, whose vectors are not truncated: dimension is for dense encoders; "
                "leave dimension out",
            ),
            (
                {"query_prompt": ["splade=a", "splade=b"]},
                "query_prompt has several values for encoder 'splade'; give one",
            ),
        ):
            with pytest.raises(UsageError, match=re.escape(message)):
                mine(store, MiningConfig(encoder=models, dtype="fp32", **values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "names", "expected"),
    [
        (None, ["a", "b"], [None, None]),
        ("query: ", ["a"], ["query: "]),
        ("a=b: ", ["e5"], ["a=b: "]),  # a prompt with a sign, as `a` is no encoder
        ("e5=", ["e5"], [""]),
        ("e5=none", ["e5"], [None]),
        (["a/e5=x=y"], ["a/e5", "b"], ["x=y", None]),
        (["a=b=1", "a=2"], ["a", "a=b"], ["2", "1"]),
    ],
)
def test_a_value_is_that_of_the_encoder_with_the_longest_name(
    value: Any, names: list[str], expected: list[Any]
) -> None:
    assert values_of("query_prompt", value, names) == expected


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("query_prompt", "bundle=query: ", " (did you mean 'bundled'?)"),
        ("document_prompt", "Bundled =passage: ", " (did you mean 'bundled'?)"),
        ("query_prompt", "intfloat/e5-base-v2=query: ", ""),
        ("query_prompt", "http://localhost:8080/v1#bge=query: ", ""),
        ("query_prompt", "my-small=query: ", ""),
        ("encoder_revision", "bundl=main", " (did you mean 'bundled'?)"),
        ("encoder_revision", "other=main", ""),
        ("dimension", "bundl=16", " (did you mean 'bundled'?)"),
    ],
)
def test_a_wrong_name_before_the_value_of_the_only_encoder_is_refused(
    key: str, value: str, near: str
) -> None:
    value_of = {key: [value] if key == "dimension" else value}
    config = MiningConfig(encoder=("bundled",), reranker=("my-small",), **value_of)  # type: ignore[arg-type]
    with pytest.raises(UsageError) as caught:
        encoder_settings(config, ["bundled"])
    name = value.partition("=")[0].strip()
    assert caught.value.message == f"{key}: the run has no encoder '{name}'{near}"
    assert f"write {key}=SCORER=VALUE" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("value", "prompt", "noted"),
    [
        ("query: ", "query: ", False),
        ("Find x=1 in: ", "Find x=1 in: ", False),
        ("x=", "x=", True),
        ("bundled=bundle=query: ", "bundle=query: ", False),
        ("bundled=a/b=", "a/b=", False),
        ("bundled=none", None, False),
    ],
)
def test_a_prompt_with_the_sign_is_used_as_it_is_and_noted_if_it_may_be_a_name(
    value: str, prompt: str | None, noted: bool
) -> None:
    notes = Notes()
    (found,) = encoder_settings(MiningConfig(encoder=("bundled",), query_prompt=value), ["bundled"], notes)
    assert found.query_prompt == prompt
    assert (
        notes.said
        == [
            "query_prompt: 'x=' goes before every text, as 'x' names no encoder; to name one, write "
            "query_prompt=SCORER=VALUE; encoders: bundled"
        ]
        * noted
    )
