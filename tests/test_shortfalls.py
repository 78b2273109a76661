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
from miner.mining.shortfalls import (
    EXCLUDED,
    FEW_CANDIDATES,
    NO_SCORED_POSITIVE,
    OTHERS,
    UNUSED,
    shortfalls,
)
from miner.store import runs
from miner.store.database import Database
from miner.store.verdicts import Codes
from tests.stores import make_store
from tests.test_oracle import encoder
from tests.test_pipeline import Notes

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
    return every - set(Codes.of(store, run).short(run.negatives).query.tolist())


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
    assert str(cause) == (
        "20 queries: fewer than 4 candidates can be negatives with --depth 3; mine with a larger --depth"
    )


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
        assert str(cause).endswith(
            "3 queries: fewer than 13 candidates can be negatives, and there are no others"
        )


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


def test_rare_causes_are_counted_together(tmp_path: Path) -> None:
    queries = {f"q{i}": f"w{i} red fox" for i in range(9)} | {"none": "unheard"}
    with few(tmp_path, queries, [(q, "d1") for q in queries]) as store:
        found = shortfalls(store, mined(store, max_score=-1.0))
        assert [(one.cause, one.queries) for one in found] == [("max_score", 9), (OTHERS, 1)]
        assert str(found[1]) == (
            "1 other query: rarer causes; view shortfalls has the commonest reason of each query"
        )
        every = shortfalls(store, mined(store, relative_margin="none", negatives=1))
        assert [(one.cause, one.queries) for one in every] == [(FEW_CANDIDATES, 1)]


def test_a_query_with_too_few_candidates_is_not_short_because_of_its_positive(tmp_path: Path) -> None:
    """Of all candidates only the positive is excluded, and all others are selected."""
    queries = {f"q{i}": f"w{i} red fox" for i in range(4)}
    with few(tmp_path, queries, [(query, "d1") for query in queries]) as store:
        others = {"relative_margin": "none", "bm25": False, "encoder": "bundled", "dtype": "fp32"}
        for wanted, depth, hint in (
            (12, 100, ", and there are no others"),
            (5, 5, " with --depth 5; mine with a larger --depth"),
        ):
            run = mined(store, negatives=wanted, depth=depth, **others)
            causes = shortfalls(store, run)
            assert {one.cause for one in causes} == {FEW_CANDIDATES}
            assert all(f"fewer than {wanted} candidates can be negatives{hint}" in str(one) for one in causes)


def test_positives_that_take_places_do_not_hide_the_rule_that_dropped_the_others(tmp_path: Path) -> None:
    corpus = {f"d{i:02}": f"red fox {i} " + "blue " * i for i in range(20)}
    judged = [("q", f"d{i:02}") for i in range(12)]
    with make_store(tmp_path / "s.duckdb", corpus, {"q": "red fox"}, judged) as store:
        (cause,) = shortfalls(store, mined(store, max_score=-1.0))
        assert cause.cause == "max_score", "12 of 20 candidates are excluded, and 8 would be enough"
        (cause,) = shortfalls(store, mined(store, max_score=-1.0, negatives=9))
        assert cause.cause == EXCLUDED


def test_a_run_with_all_its_negatives_has_no_shortfall(store: Database) -> None:
    assert shortfalls(store, mined(store, relative_margin="none")) == []


def test_each_positive_of_its_own_gets_no_figures(store: Database) -> None:
    config = MiningConfig(
        rules=Rules(relative_margin=0.9, reference_positive="each"), selection=Selection(negatives=REQUESTED)
    )
    assert str(shortfalls(store, mine(store, config))[0]).endswith("; loosen relative_margin")


def run_file(path: Path, scores: dict[str, dict[str, float]]) -> str:
    """Writes a TREC run; returns its path."""
    lines = [
        f"{query} Q0 {doc} {rank} {score!r} other"
        for query, found in scores.items()
        for rank, (doc, score) in enumerate(sorted(found.items(), key=lambda one: -one[1]), 1)
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_run_without_the_positives_is_named_and_so_is_what_helps(tmp_path: Path, encoder: Path) -> None:
    queries = {f"q{i}": f"w{i} red fox" for i in range(4)}
    found = {query: {f"d{i}": 12.0 - i for i in range(3, 12)} for query in queries}
    found["q3"]["d1"] = 20.0  # the only positive that the file has
    es = run_file(tmp_path / "es.trec", found)
    with few(tmp_path, queries, [(query, "d1") for query in queries]) as store:
        notes = Notes()
        values = {"negatives": 2, "overlaps": False, "candidates": es, "depth": 9}
        run = mine(store, with_values(MiningConfig(), values), progress=notes)
        ways = "--set decide_by=bm25, or add the positives to the file of es"
        ways = f"add --encoder or --reranker, or let another scorer decide: {ways}"
        warnings = [line for line in notes.said if line.startswith("warning")]
        assert warnings == [
            "warning: es decides, and has a score for 1 of 4 positives: 3 queries get no negatives, because "
            f"no positive has a score; {ways}"
        ]
        (cause,) = shortfalls(store, run)
        assert (cause.cause, cause.queries) == (NO_SCORED_POSITIVE, 3)
        assert str(cause) == f"3 queries: no positive has a score by es; {ways}"
        # What is advised helps: without a search, or with a scorer more.
        by_bm25 = decide_again(store, run, with_values(config_of(run), {"decide_by": "bm25"}))
        assert NO_SCORED_POSITIVE not in [one.cause for one in shortfalls(store, by_bm25)]
        assert enough(store, mined(store, **values, encoder=str(encoder), relative_margin="none")) == set(
            range(4)
        )
        # Only what applies is advised.
        alone = mined(store, **values, bm25=False)
        assert str(shortfalls(store, alone)[0]) == (
            "3 queries: no positive has a score by es; add --encoder or --reranker, or leave BM25 on and let "
            "it decide: --set decide_by=bm25, or add the positives to the file of es"
        )
        named = mined(store, **values, encoder=str(encoder), decide_by="es")
        assert str(shortfalls(store, named)[0]).endswith(
            "by es; let another scorer decide: --set decide_by=static, or add the positives to the file of es"
        )


def test_candidates_that_the_deciding_run_does_not_have(tmp_path: Path) -> None:
    queries = {f"q{i}": f"w{i} red fox" for i in range(3)}
    es = run_file(tmp_path / "es.trec", {query: {"d1": 2.0, "d5": 1.0} for query in queries})
    with few(tmp_path, queries, [(query, "d1") for query in queries]) as store:
        notes = Notes()
        config = with_values(MiningConfig(), {"negatives": 3, "overlaps": False, "candidates": es})
        (cause,) = shortfalls(store, mine(store, config, progress=notes))
        assert not any(line.startswith("warning") for line in notes.said)
        assert str(cause) == (
            "3 queries: most candidates have no score by es; add --encoder or --reranker, or let another "
            "scorer decide: --set decide_by=bm25, or add their pairs to the file of es"
        )


def test_candidates_below_the_depth_come_before_looser_rules(tmp_path: Path) -> None:
    scores = {"q0": {"d1": 9.0, "d2": 8.9, "d3": 8.8, "d4": 2.0, "d5": 1.0}, "q1": {"d1": 9.0, "d2": 1.0}}
    lo = run_file(tmp_path / "lo.trec", scores)
    queries = {"q0": "red", "q1": "fox"}
    with few(tmp_path, queries, [(query, "d1") for query in queries]) as store:
        values = {"negatives": 2, "overlaps": False, "bm25": False, "candidates": lo, "relative_margin": 0.05}
        notes = Notes()
        run = mine(store, with_values(MiningConfig(), {**values, "depth": 3}), progress=notes)
        assert (
            "candidates of lo: up to 2 of 5 per query are below --depth 3 and not read; --depth 5 takes all"
            in notes.said
        )
        by_cause = {one.cause: str(one) for one in shortfalls(store, run)}
        assert by_cause["relative_margin"].startswith(
            "1 query: most candidates were dropped by relative_margin; mine with a larger --depth than 3: lo "
            "has up to 5 candidates per query; or 2 are left with --relative-margin 0.011 (for 1)"
        )
        notes = Notes()
        deeper = mine(store, with_values(MiningConfig(), {**values, "depth": 5}), progress=notes)
        assert not any("--depth" in line for line in notes.said if line.startswith("candidates"))
        assert enough(store, deeper) == {0}
        assert not any("--depth" in str(one) for one in shortfalls(store, deeper))


def test_without_bm25_its_languages_are_no_advice(tmp_path: Path) -> None:
    queries = {f"q{i}": f"w{i} red fox" for i in range(3)}
    fe = run_file(tmp_path / "fe.trec", {query: {"d1": 2.0, "d5": 1.0} for query in queries})
    with few(tmp_path, queries, [(query, "d1") for query in queries]) as store:
        (cause,) = shortfalls(store, mined(store, candidates=fe, bm25=False))
        assert str(cause) == (
            "3 queries: fewer than 4 candidates can be negatives; leave BM25 on, or add --encoder, or import "
            "more candidates of these queries"
        )
        (cause,) = shortfalls(store, mined(store, candidates=fe, bm25=False, negatives=12))
        assert str(cause).endswith("fewer than 12 candidates can be negatives, and there are no others")
