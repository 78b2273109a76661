"""Why queries got too few negatives: the right cause, and advice that helps as many as it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miner.mining.config import MiningConfig, Rules, Selection, with_values
from miner.mining.pipeline import config_of, decide_again, mine
from miner.mining.shortfalls import EXCLUDED, FEW_CANDIDATES, UNUSED, shortfalls
from miner.store import runs
from miner.store.database import Database
from miner.store.verdicts import short_queries
from tests.stores import make_store
from tests.test_oracle import encoder

__all__ = ["encoder"]

REQUESTED = 4
WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Twenty queries of ordinary words, of which some have several positives that score differently."""
    rng = np.random.default_rng(4)
    corpus = {f"d{i:03}": " ".join(rng.choice(WORDS, 8)) for i in range(300)}
    queries = {f"q{i:02}": " ".join(rng.choice(WORDS, 3, replace=False)) for i in range(20)}
    judged = []
    for query, text in queries.items():
        alike = sorted(corpus, key=lambda d: (-sum(w in corpus[d].split() for w in text.split()), d))
        judged += [(query, alike[position]) for position in (0, 8, 40)[: 1 + int(rng.integers(3))]]
    folder = tmp_path_factory.mktemp("shortfalls")
    with make_store(folder / "s.duckdb", corpus, queries, judged) as made:
        yield made


def mined(store: Database, **values: Any) -> runs.StoredRun:
    return mine(store, with_values(MiningConfig(), {"negatives": REQUESTED, "overlaps": False, **values}))


def enough(store: Database, run: runs.StoredRun) -> set[int]:
    """Returns the queries with all their negatives."""
    every = {n for (n,) in store.rows("SELECT query_no FROM positives WHERE evidence = ?", [run.evidence])}
    return every - set(short_queries(store, run)["query_no"].to_pylist())


TOO_STRICT: list[dict[str, Any]] = [
    {"relative_margin": 0.6},
    {"absolute_margin": 6.0},
    {"max_score": 0.5},
    {"min_score": 50.0},
    {"percentile": 0.0},
    {"relative_percentile": 0.01},
    {"relative_margin": 0.6, "skip_top": 2},
    {"relative_margin": 0.6, "min_score": 0.1},
    {"relative_margin": 0.6, "reference_positive": "median"},
]


@pytest.mark.parametrize("strict", TOO_STRICT, ids=str)
def test_a_looser_value_helps_as_many_queries_as_it_says(store: Database, strict: dict[str, Any]) -> None:
    run = mined(store, **strict)
    rule = next(iter(strict))
    cause = shortfalls(store, run)[0]
    assert (
        cause.cause,
        f"most candidates were dropped by {rule}; {REQUESTED} are left with" in str(cause),
    ) == (
        rule,
        True,
    )
    before = enough(store, run)
    advised = re.findall(r"(--[a-z].*?) \(for (\d+)\)", str(cause))
    assert advised
    for flags, helped in advised:
        pairs = re.findall(r"--(?:set )?(\S+?)[ =](\S+)", flags)
        given = {n.replace("-", "_"): v if n == "reference_positive" else float(v) for n, v in pairs}
        given |= {n: int(v) for n, v in given.items() if n == "skip_top"}
        again = decide_again(store, run, with_values(config_of(run), given))
        assert len(enough(store, again) - before) == int(helped)
        # Another rule stays in force, and what is in force already is not advised.
        assert again.config["rules"]["skip_top"] == strict.get("skip_top", 0)
        assert again.config["rules"]["min_score"] == strict.get("min_score") or rule == "min_score"
        assert again.config["rules"] != run.config["rules"]
    assert ("--set reference_positive=median" in str(cause)) <= (strict.get("reference_positive") != "median")


def test_rules_that_each_leave_too_few_are_loosened_together(store: Database) -> None:
    (cause,) = shortfalls(store, mined(store, max_score=-1.0, relative_margin=0.95))
    assert "the other rules leave fewer than 4 as well; loosen both" in str(cause)
    assert "--" not in str(cause)


@pytest.mark.parametrize(
    ("window", "advice"),
    [
        ({"skip_top": 97}, "; lower skip_top or mine with a larger --depth"),
        ({"max_rank": 2}, "; raise max_rank"),
        ({"skip_top": 10, "max_rank": 13}, "; lower skip_top or raise max_rank"),
    ],
)
def test_a_narrow_window_of_ranks(store: Database, window: dict[str, int], advice: str) -> None:
    (cause,) = shortfalls(store, mined(store, **window))
    assert cause.cause == "rank_window"
    assert str(cause).endswith(advice)


def test_a_depth_below_what_is_requested(store: Database) -> None:
    (cause,) = shortfalls(store, mined(store, depth=3, relative_margin="none"))
    assert (cause.cause, cause.queries) == (FEW_CANDIDATES, 20)
    assert str(cause) == "20 queries: --depth 3 gives fewer than 4 candidates; mine with a larger --depth"


def test_a_cap_and_a_quota(store: Database, encoder: Path) -> None:
    capped = mined(store, relative_margin="none", document_cap=0)
    assert [(one.cause, str(one)[-18:]) for one in shortfalls(store, capped)] == [
        ("document_cap", "raise document_cap")
    ]
    quota = mined(store, encoder=str(encoder), relative_margin="none", quota=("bm25=0", "static=1"))
    (cause,) = shortfalls(store, quota)
    assert cause.cause == UNUSED
    assert str(cause).endswith("raise quota bm25=0 or static=1")


def few(tmp_path: Path, queries: dict[str, str], judged: list[tuple[str, str]]) -> Database:
    corpus = {f"d{i}": f"w{i} w{i + 1} red fox number{i}" for i in range(12)}
    return make_store(tmp_path / "s.duckdb", corpus, queries, judged)


def test_words_that_no_document_has(tmp_path: Path, encoder: Path) -> None:
    queries = {f"q{i}": f"unheard{i}" for i in range(3)}
    with few(tmp_path, queries, [(q, "d1") for q in queries]) as store:
        (cause,) = shortfalls(store, mined(store))
        assert (cause.cause, cause.queries) == (FEW_CANDIDATES, 3)
        assert "check that stemmer=english and stopwords=english suit the texts, or add --encoder" in str(
            cause
        )
        assert "reference_positive" not in str(cause)
        assert "--depth" not in str(cause)
        (cause,) = shortfalls(store, mined(store, encoder=str(encoder), negatives=13, relative_margin="none"))
        assert str(cause).endswith("3 queries: fewer than 13 candidates were found, and there are no others")


def test_candidates_that_are_all_positives(tmp_path: Path) -> None:
    judged = [("q", f"d{i}") for i in range(12)]
    with few(tmp_path, {"q": "red fox"}, judged) as store:
        (cause,) = shortfalls(store, mined(store))
        assert cause.cause == EXCLUDED
        assert str(cause) == (
            "1 query: most candidates are excluded (positives, their copies, protected documents), "
            "and there are no others"
        )
        assert "--" not in str(cause)
        (cause,) = shortfalls(store, mined(store, depth=10))
        assert str(cause).endswith("; mine with a larger --depth")


def test_a_rare_cause_gets_no_line(tmp_path: Path) -> None:
    queries = {f"q{i}": f"w{i} red fox" for i in range(9)} | {"none": "unheard"}
    with few(tmp_path, queries, [(q, "d1") for q in queries]) as store:
        found = shortfalls(store, mined(store, max_score=-1.0))
        assert [(one.cause, one.queries) for one in found] == [("max_score", 9)]
        every = shortfalls(store, mined(store, relative_margin="none", negatives=1))
        assert [(one.cause, one.queries) for one in every] == [(FEW_CANDIDATES, 1)]


def test_a_run_with_all_its_negatives_has_no_shortfall(store: Database) -> None:
    assert shortfalls(store, mined(store, relative_margin="none")) == []


def test_each_positive_of_its_own_gets_no_figures(store: Database) -> None:
    config = MiningConfig(
        rules=Rules(relative_margin=0.9, reference_positive="each"), selection=Selection(negatives=REQUESTED)
    )
    assert str(shortfalls(store, mine(store, config))[0]).endswith("; loosen relative_margin")
