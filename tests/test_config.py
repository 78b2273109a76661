"""The configuration: what a recipe may say, and what the user reads when it says something else."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.errors import UsageError
from miner.mining.config import (
    STRATEGIES,
    TABLES,
    MiningConfig,
    Rules,
    Selection,
    flat,
    read_recipe,
    with_values,
)
from miner.recipe import parse_all

KEYS = {name: setting for settings in TABLES.values() for name, setting in settings.items()}


def recipe(path: Path, text: str) -> Path:
    file = path / "recipe.toml"
    file.write_text(text, encoding="utf-8")
    return file


def said(file: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_recipe(file)
    assert caught.value.exit_code == 2
    return str(caught.value)


# Recipes


def test_a_recipe_is_read_flat_and_applied(tmp_path: Path) -> None:
    file = recipe(
        tmp_path,
        """
        split = "dev"
        depth = 30
        bm25 = false
        encoder = "bundled"
        protected = ["007", "d2"]

        [rules]
        max_score = 1            # a whole number is a number
        reference_positive = "each"

        [selection]
        negatives = 3
        strategy = "ambiguous"
        document_cap = 7
        """,
    )
    config = with_values(MiningConfig(), read_recipe(file))
    assert config == MiningConfig(
        split="dev",
        depth=30,
        bm25=False,
        encoder="bundled",
        protected=("007", "d2"),
        rules=Rules(max_score=1.0, reference_positive="each"),
        selection=Selection(negatives=3, strategy="ambiguous", document_cap=7),
    )
    assert isinstance(config.rules.max_score, float)


def toml(config: MiningConfig) -> str:
    """The whole configuration as a recipe; TOML's strings, numbers and lists are JSON's, and None is none."""

    def lines(values: dict[str, Any]) -> str:
        shown = {k: "none" if v is None else v for k, v in values.items() if k not in TABLES}
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in shown.items())

    values = asdict(config)
    return lines(values) + "".join(
        f"[{section}]\n{lines(values[section])}" for section in ("rules", "selection")
    )


quota = st.one_of(st.none(), st.integers(0, 9))
number = st.one_of(st.none(), st.floats(-1e6, 1e6))
text = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=6)
configs = st.builds(
    MiningConfig,
    split=text.filter(bool),
    depth=st.integers(1, 10_000),
    bm25_k1=st.floats(0, 5),
    bm25_b=st.floats(0, 1),
    encoder=st.sampled_from(["bundled", "a/b"]),
    query_prompt=st.one_of(st.none(), text.filter(lambda t: t != "none")),
    overlaps=st.booleans(),
    protected=st.lists(text, max_size=3).map(tuple),
    rules=st.builds(
        Rules,
        reference_positive=st.sampled_from(["lowest", "median", "best", "each"]),
        skip_top=st.integers(0, 5),
        max_rank=st.one_of(st.none(), st.integers(6, 9)),
        max_score=st.one_of(st.none(), st.floats(0, 1e6)),
        min_score=st.one_of(st.none(), st.floats(-1e6, 0)),
        absolute_margin=number,
        relative_margin=st.one_of(st.none(), st.floats(-1e6, 1)),
        percentile=st.one_of(st.none(), st.floats(0, 100)),
        relative_percentile=number,
    ),
    selection=st.builds(
        Selection,
        negatives=st.integers(1, 99),
        strategy=st.sampled_from(STRATEGIES),
        easy_share=st.floats(0, 1),
        quota=st.lists(st.sampled_from(["bm25=0", "bundled=3"]), unique=True).map(tuple),
        document_cap=quota,
        positives=st.sampled_from(["all", "best"]),
        seed=st.integers(0, 2**63 - 1),
    ),
)


@given(configs)
def test_every_configuration_can_be_written_as_a_recipe(
    tmp_path_factory: pytest.TempPathFactory, config: MiningConfig
) -> None:
    file = recipe(tmp_path_factory.mktemp("recipe"), toml(config))
    assert with_values(MiningConfig(), read_recipe(file)) == config
    # The stored configuration of another run does not shine through.
    other = MiningConfig(
        rules=Rules(max_score=3.0, relative_margin=None), selection=Selection(document_cap=1)
    )
    assert with_values(other, read_recipe(file)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"query_prompt": "query: "}, "query_prompt has no effect without an encoder"),
        (
            {"index": "IVF8,Flat"},
            "index has no effect without an encoder or vectors; add an encoder or vectors",
        ),
        ({"token_dtype": "fp16"}, "token_dtype has no effect without an encoder; add an encoder"),
        ({"rerank_depth": 10}, "rerank_depth has no effect without a reranker; add a reranker, or leave"),
        (
            {"bm25": False, "encoder": "bundled", "stemmer": "german"},
            "stemmer has no effect without BM25; leave BM25 on, or leave stemmer out",
        ),
        (
            {"reranker": ("a", "b"), "rerank_depth": 50, "cascade_depth": 51},
            "cascade_depth must be at most rerank_depth (50), got 51",
        ),
        (
            {"quota": ["bm25=1", "e5=2", "bm25=3"]},
            "scorer 'bm25' has several quotas: bm25=1 and bm25=3; give one",
        ),
        ({"min_score": 2.0, "max_score": 1.0}, "min_score must be at most max_score (1.0), got 2.0"),
    ],
)
def test_a_setting_without_effect_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        with_values(MiningConfig(), values)


def test_an_unknown_table_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_recipe(recipe(tmp_path, "[rulez]\nmax_score = 1.0\n"))
    assert str(caught.value) == (
        f"{tmp_path / 'recipe.toml'}: unknown table [rulez] (did you mean 'rules'?); "
        "a recipe has the tables [rules] and [selection]"
    )


def test_each_bm25_backend_has_a_default_formula() -> None:
    assert MiningConfig().bm25_config.variant == "lucene"
    assert MiningConfig(bm25_backend="rank-bm25").bm25_config.variant == "okapi"


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbfdepth = 5\n")
    assert read_recipe(tmp_path / "r.toml") == {"depth": 5}


def test_an_empty_recipe_changes_nothing(tmp_path: Path) -> None:
    assert with_values(MiningConfig(), read_recipe(recipe(tmp_path, ""))) == MiningConfig()


def test_an_unknown_key_names_the_file_and_the_nearest_key(tmp_path: Path) -> None:
    file = recipe(tmp_path, "dept = 5\n")
    assert said(file).startswith(f"{file}: unknown key 'dept' (did you mean 'depth'?); keys: split, ")
    file = recipe(tmp_path, "[rules]\nrelativ_margin = 0.1\n")
    assert said(file) == (
        f"{file}: unknown key 'relativ_margin' (did you mean 'relative_margin'?); keys: decide_by, "
        "reference_positive, skip_top, max_rank, max_score, min_score, absolute_margin, relative_margin, "
        "percentile, relative_percentile, agree"
    )
    file = recipe(tmp_path, "[selection]\nzzz = 1\n")
    assert said(file).startswith(f"{file}: unknown key 'zzz'; keys: for, negatives, strategy, ")


def test_a_key_outside_its_table_is_refused_with_its_table(tmp_path: Path) -> None:
    file = recipe(tmp_path, "max_score = 1\n")
    assert said(file) == f"{file}: unknown key 'max_score'; write it under [rules]"
    file = recipe(tmp_path, "[rules]\nnegatives = 1\n")
    assert said(file) == f"{file}: unknown key 'negatives'; write it under [selection]"


def test_a_table_that_is_none_and_an_unknown_table_are_refused(tmp_path: Path) -> None:
    file = recipe(tmp_path, "rules = 3\n")
    assert said(file).startswith(f"{file}: unknown key 'rules'")
    file = recipe(tmp_path, "[rule]\nreference_positive = 'best'\n")
    assert said(file).startswith(f"{file}: unknown table [rule] (did you mean 'rules'?)")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("depth = '5'", "depth must be a whole number from 1 to 100,000, got '5'"),
        ("depth = 5.5", "depth must be a whole number from 1 to 100,000, got 5.5"),
        ("depth = true", "depth must be a whole number from 1 to 100,000, got True"),
        ("depth = 'off'", "depth must be a whole number from 1 to 100,000, got 'off'"),
        ("bm25_k1 = 'high'", "bm25_k1 must be a number from 0 to 1,000, got 'high'"),
        ("bm25_k1 = false", "bm25_k1 must be a number from 0 to 1,000, got False"),
        ("bm25 = 'off'", "bm25 is 'off'; give true or false"),
        ("bm25 = 1", "bm25 is 1; give true or false"),
        ("encoder = 5", "encoder is 5; give a text or a list of texts"),
        ("encoder = true", "encoder is True; give a text or a list of texts"),
        (
            "rerank_depth = 'deep'",
            "rerank_depth must be a whole number from 1 to 100,000 or none, got 'deep'",
        ),
        ("[rules]\nmax_score = 'off'", "max_score must be a number or none, got 'off'"),
        ("[rules]\nmax_score = [1]", "max_score must be a number or none, got [1]"),
        (
            "[selection]\nseed = 1.0",
            "seed must be a whole number from 0 to 9,223,372,036,854,775,807, got 1.0",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_names_the_file_and_the_kind(tmp_path: Path, line: str, text: str) -> None:
    file = recipe(tmp_path, line)
    assert said(file) == f"{file}: {text}"


OTHERS = {
    "skip_top": 3, "max_rank": 9, "max_score": 1.0, "min_score": 0.0, "absolute_margin": 0.0,
    "percentile": 0.0, "relative_percentile": 0.0, "agree": 1,
}  # fmt: skip


def in_force(rules: Rules) -> dict[str, Any]:
    return {name: value for name, value in asdict(rules).items() if value not in ("lowest", None, False)}


def test_without_a_rule_the_default_rule_is_in_force() -> None:
    assert in_force(Rules()) == in_force(MiningConfig().rules) == {"relative_margin": 0.05}
    assert in_force(Rules(reference_positive="median")) == {
        "relative_margin": 0.05,
        "reference_positive": "median",
    }
    for idle in ({"depth": 7}, {"reference_positive": "lowest"}, {"skip_top": 0}, {"percentile": "none"}):
        assert with_values(MiningConfig(), idle).rules == Rules()


@pytest.mark.parametrize("name", OTHERS)
def test_naming_a_rule_replaces_the_default_rule(tmp_path: Path, name: str) -> None:
    rules = Rules(**{name: OTHERS[name]})
    assert rules.relative_margin is None
    assert getattr(rules, name) == OTHERS[name]
    file = recipe(tmp_path, f"[rules]\n{name} = {OTHERS[name]}\n")
    assert with_values(MiningConfig(), read_recipe(file)).rules == rules
    # What old recipes and commands say is right still.
    old = {name: OTHERS[name], "relative_margin": "none"}
    assert with_values(MiningConfig(), old).rules == rules == Rules(**{**old, "relative_margin": None})
    both = Rules(**{name: OTHERS[name], "relative_margin": 0.05})
    assert both.relative_margin == 0.05
    assert with_values(MiningConfig(), {name: OTHERS[name], "relative_margin": 0.05}).rules == both


def test_off_alone_leaves_no_rule() -> None:
    assert in_force(Rules(relative_margin=None)) == {}
    assert with_values(MiningConfig(), {"relative_margin": "none"}).rules == Rules(relative_margin=None)


def test_the_rules_of_a_run_are_replaced_by_those_that_are_named() -> None:
    run = MiningConfig(rules=Rules(percentile=5.0, min_score=0.1, reference_positive="median"))
    assert with_values(run, {"negatives": 3}).rules == run.rules
    assert with_values(run, {"reference_positive": "best"}).rules == Rules(
        percentile=5.0, min_score=0.1, reference_positive="best"
    )
    assert with_values(run, {"max_score": 2.0}).rules == Rules(max_score=2.0, reference_positive="median")
    assert with_values(run, {"min_score": "none"}).rules == Rules(percentile=5.0, reference_positive="median")
    assert with_values(run, {"relative_margin": "none"}).rules == run.rules


@given(st.dictionaries(st.sampled_from([*OTHERS, "relative_margin"]), st.none()), st.booleans())
def test_stored_rules_are_read_as_they_are(nulls: dict[str, None], margin: bool) -> None:
    stored = {
        "decide_by": None,
        "reference_positive": "best",
        **OTHERS,
        "relative_margin": 0.2 if margin else None,
        **nulls,
    }
    stored["skip_top"] = stored["skip_top"] or 0
    assert asdict(Rules(**stored)) == stored


def test_off_is_none_where_none_can_be_and_a_text_elsewhere() -> None:
    assert with_values(MiningConfig(), {"relative_margin": "none"}).rules.relative_margin is None
    assert with_values(MiningConfig(encoder="a"), {"encoder": "none"}).encoder == ()
    assert with_values(MiningConfig(encoder="a"), {"encoder": None}).encoder == ()
    assert with_values(MiningConfig(), {"split": "none"}).split == "none"
    with pytest.raises(UsageError, match=r"^negatives must be a whole number from 1 to 10,000, got None$"):
        with_values(MiningConfig(), {"negatives": None})


def test_what_is_no_toml_is_refused_with_its_position(tmp_path: Path) -> None:
    file = recipe(tmp_path, "depth = \n")
    assert said(file) == f"{file}: Invalid value (at line 1, column 9); correct the TOML"
    (tmp_path / "latin.toml").write_bytes(b"split = '\xe9'\n")
    assert said(tmp_path / "latin.toml").startswith(f"{tmp_path / 'latin.toml'}: 'utf-8' codec can't decode")
    assert said(tmp_path / "none.toml").startswith(
        f"no recipe at {tmp_path / 'none.toml'}; name a TOML file, or a published recipe: nv-retriever, "
    )
    assert said(tmp_path) == f"cannot read {tmp_path}: Is a directory; name a TOML file"


def test_a_key_that_nobody_knows_is_refused_from_python_too() -> None:
    with pytest.raises(UsageError) as caught:
        with_values(MiningConfig(), {"dept": 3})
    assert str(caught.value).startswith("unknown key 'dept' (did you mean 'depth'?); keys: split, ")
    with pytest.raises(UsageError, match=r"^unknown key 'rules'"):
        with_values(MiningConfig(), {"rules": Rules()})


def test_no_key_is_in_two_sections_and_every_key_has_help() -> None:
    names = [f.name for c in (MiningConfig, Rules, Selection) for f in fields(c)]
    assert len(names) == len(set(names))
    assert all(key.help.endswith((".", "].")) for key in KEYS.values())


# Invalid values


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"bm25": False},
            "there is nothing to search with; name an encoder, vectors or candidates, or leave BM25 on",
        ),
        (
            {"reference_positive": "worst"},
            "reference_positive must be one of lowest, median, best, each, got 'worst'",
        ),
        (
            {"strategy": "hard"},
            "strategy must be one of top, random, ambiguous, stratified, mixed, got 'hard'",
        ),
        ({"easy_share": 1.1}, "easy_share must be a number from 0 to 1, got 1.1"),
        ({"positives": "first"}, "positives must be one of all, best, got 'first'"),
        ({"negatives": 0}, "negatives must be a whole number from 1 to 10,000, got 0"),
        ({"depth": 0}, "depth must be a whole number from 1 to 100,000, got 0"),
        ({"rerank_depth": 0}, "rerank_depth must be a whole number from 1 to 100,000 or none, got 0"),
        ({"bm25_k1": -0.1}, "bm25_k1 must be a number from 0 to 1,000, got -0.1"),
        ({"bm25_b": 1.5}, "bm25_b must be a number from 0 to 1, got 1.5"),
        ({"skip_top": -1}, "skip_top must be a whole number from 0 to 100,000, got -1"),
        ({"max_rank": 0}, "max_rank must be a whole number from 1 to 1,000,000,000 or none, got 0"),
        (
            {"skip_top": 5, "max_rank": 5},
            "max_rank must be above skip_top (5), got 5",
        ),
        (
            {"relative_margin": 5},
            "relative_margin must be a number from -1e+30 to 1 or none, got 5: for 5 % write 0.05",
        ),
        ({"percentile": 101}, "percentile must be a number from 0 to 100 or none, got 101"),
        ({"percentile": -1}, "percentile must be a number from 0 to 100 or none, got -1"),
        ({"max_score": float("nan")}, "max_score must be a number or none, got nan"),
        (
            {"relative_margin": float("-inf")},
            "relative_margin must be a number from -1e+30 to 1 or none, got -inf",
        ),
        (
            {"absolute_margin": float("inf")},
            "absolute_margin must be a number from -1e+30 to 1e+30 or none, got inf",
        ),
        ({"document_cap": -1}, "document_cap must be a whole number from 0 to 1,000,000,000 or none, got -1"),
    ],
)
def test_a_value_that_cannot_be_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_values(MiningConfig(), values)
    assert str(caught.value) == text


def test_the_limits_themselves_can_be() -> None:
    limits = {
        "depth": 1, "negatives": 1, "rerank_depth": 1, "skip_top": 0, "max_rank": 1, "percentile": 100,
        "document_cap": 0, "bm25_k1": 0, "bm25_b": 1,
    }  # fmt: skip
    config = with_values(MiningConfig(encoder="bundled", reranker="a/b"), limits)
    assert config.rules.percentile == 100.0
    assert with_values(config, {"percentile": 0, "bm25_b": 0}).rules.percentile == 0.0


def test_bm25_reads_its_own_keys() -> None:
    config = MiningConfig(bm25_variant="bm25l", bm25_k1=0.9, bm25_b=0.4, stemmer="none", stopwords="german")
    part = config.bm25_config
    assert (part.backend, part.variant, part.k1, part.b) == ("bm25s", "bm25l", 0.9, 0.4)
    assert (part.stemmer, part.stopwords) == ("none", "german")


# Settings of one encoder among several


def test_several_encoders_are_named_with_their_settings(tmp_path: Path) -> None:
    two = {"encoder": ["intfloat/e5-base-v2", "splade"]}
    text = (
        "encoder = ['intfloat/e5-base-v2', 'splade']\ndimension = ['splade=64']\n"
        "query_prompt = ['intfloat/e5-base-v2=query: ', 'splade=']\n"
    )
    config = with_values(MiningConfig(), read_recipe(recipe(tmp_path, text)))
    assert config.query_prompt == ("intfloat/e5-base-v2=query: ", "splade=")
    assert config.dimension == ("splade=64",)
    assignments = [
        "query_prompt=intfloat/e5-base-v2=query: ", "query_prompt=splade=", "dimension=splade=64",
        "encoder=intfloat/e5-base-v2", "encoder=splade",
    ]  # fmt: skip
    assert with_values(MiningConfig(), flat(parse_all(assignments, TABLES))) == config
    assert with_values(MiningConfig(), {**two, "dimension": 64}).dimension == 64
    assert with_values(config, {"query_prompt": "none"}).query_prompt is None
    one = with_values(MiningConfig(), {"encoder": "e5", "query_prompt": "e5=query: "})
    assert one.query_prompt == "e5=query: "


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"query_prompt": "query: "},
            "query_prompt is for one encoder, and 2 are named; write it for each encoder that needs one: "
            "--set query_prompt=intfloat/e5-base-v2=VALUE",
        ),
        ({"encoder_revision": "main"}, "encoder_revision is for one encoder, and 2 are named"),
        (
            {"document_prompt": ["passage: "]},
            "document_prompt must be one value or NAME=VALUE for each model, got 'passage: '",
        ),
        (
            {"dimension": "splade=many"},
            "dimension must be a whole number of 1 or more, or none, got 'splade=many'",
        ),
        ({"dimension": ["splade=64", 3]}, "dimension must hold texts only, got 3"),
        ({"query_prompt": 3}, "query_prompt is 3"),
    ],
)
def test_a_setting_for_no_encoder_in_particular_shows_its_form(values: Any, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        with_values(MiningConfig(), {"encoder": ["intfloat/e5-base-v2", "splade"], **values})
