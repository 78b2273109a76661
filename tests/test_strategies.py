"""Strategies for a loss: even over the scores, hard and easy mixed; each against a plain reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from math import floor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.errors import UsageError
from miner.mining.config import MiningConfig, Rules, Selection, with_values
from miner.mining.pipeline import config_of, decide_again, mine
from miner.mining.selection import Kept, easy_negatives, quotas, select
from miner.store import runs
from miner.store.triplets import triplets as triplets_of
from tests.stores import make_store
from tests.test_selection import SCORERS, Chosen, Row, as_quota, by_group, candidates, limits, pair_key, run

MASK = (1 << 64) - 1


def uniform(row: Row, seed: int) -> float:
    """The number in (0, 1) of a pair and a seed, by SplitMix64 in plain integers."""
    x = (pair_key(row[0], row[1]) + seed * 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return (((x ^ (x >> 31)) >> 11) + 0.5) / 2**53


def hardest_first(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row[2], row[1]))


def drawn(rows: Iterable[Row], seed: int) -> list[Row]:
    return sorted(rows, key=lambda row: (-uniform(row, seed), row[1]))


def stratified(rows: list[Row], config: Selection) -> list[Row]:
    """The candidates of one query in the order in which the strategy considers them."""
    highest, lowest = (extreme(row[2] for row in rows) for extreme in (max, min))
    cells: dict[int, list[Row]] = {}
    for row in rows:
        share = (highest - row[2]) / (highest - lowest) if highest > lowest else 0.0
        cells.setdefault(min(int(share * config.negatives), config.negatives - 1), []).append(row)
    empty = [number for number in range(config.negatives) if number not in cells]
    found = []
    for number, members in cells.items():
        distance = min((abs(number - gap) for gap in empty), default=config.negatives)
        if len(rows) <= config.negatives:
            distance = 0
        for turn, row in enumerate(drawn(members, config.seed)):
            found.append((distance if turn else -1, turn, number, row))
    return [row for *_, row in sorted(found)]


def passes(rows: list[Row], config: Selection) -> list[tuple[list[Row], int]]:
    """The orders in which a query's candidates are considered, and the number wanted after each."""
    wanted = config.negatives
    if config.strategy == "stratified":
        return [(stratified(rows, config), wanted)]
    hardest = hardest_first(rows)
    easy = floor(config.easy_share * wanted + 0.5)
    return [(hardest, wanted - easy), (drawn(hardest[wanted:], config.seed), wanted), (hardest, wanted)]


def reference(rows: list[Row], config: Selection, served: Counter[int]) -> Chosen:
    """Selects query by query, candidate by candidate."""
    docs: dict[int, list[int]] = {}
    refused = set()
    for group, mine_ in sorted(by_group(rows).items()):
        left = dict(quotas(config, SCORERS))
        taken: list[Row] = []
        for order, most in passes(mine_, config):
            for row in order:
                room = left.get(row[4])
                if len(taken) >= most or room == 0 or row in taken or (group, row[1]) in refused:
                    continue
                if config.document_cap is not None and served[row[1]] >= config.document_cap:
                    refused.add((group, row[1]))
                    continue
                taken.append(row)
                served[row[1]] += 1
                if room is not None:
                    left[row[4]] = room - 1
        if taken:
            docs[group] = [row[1] for row in hardest_first(taken)]
    return Chosen(docs, refused)


configs = st.builds(
    Selection,
    negatives=st.integers(1, 9),
    strategy=st.sampled_from(["stratified", "mixed"]),
    easy_share=st.one_of(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.floats(0, 1)),
    quota=limits.map(as_quota),
    document_cap=st.one_of(st.none(), st.integers(0, 3)),
    seed=st.integers(0, 2**63 - 1),
)


@settings(max_examples=500, deadline=None)
@given(candidates(docs=14), configs)
def test_a_strategy_selects_what_its_reference_selects(rows: list[Row], config: Selection) -> None:
    counted = Counter[int]()
    expected = reference(rows, config, counted)
    served = np.zeros(14, dtype=np.int64)
    assert run(rows, config, served) == expected
    if config.document_cap is not None:
        assert served.tolist() == [counted[doc] for doc in range(14)]


plain = st.builds(
    Selection,
    negatives=st.integers(1, 9),
    strategy=st.sampled_from(["stratified", "mixed"]),
    easy_share=st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
)


@settings(max_examples=200)
@given(candidates(docs=14), plain, st.integers(1, 4))
def test_the_choice_does_not_depend_on_how_the_queries_are_cut(
    rows: list[Row], config: Selection, pieces: int
) -> None:
    whole = run(rows, config).docs
    parts: dict[int, list[int]] = {}
    for piece in range(pieces):
        parts |= run([row for row in rows if row[0] % pieces == piece], config).docs
    assert parts == whole


@settings(max_examples=200)
@given(candidates(docs=14), st.integers(2, 9), st.integers(0, 99))
def test_stratified_covers_both_ends_of_the_scores(rows: list[Row], negatives: int, seed: int) -> None:
    config = Selection(negatives=negatives, strategy="stratified", seed=seed)
    chosen = run(rows, config).docs
    for group, mine_ in by_group(rows).items():
        scores = {row[1]: row[2] for row in mine_}
        highest, lowest = max(scores.values()), min(scores.values())
        width = (highest - lowest) / negatives
        selected = [scores[doc] for doc in chosen[group]]
        if len(scores) > 1:
            assert max(selected) >= highest - width - 1e-9
            assert min(selected) <= lowest + width + 1e-9


def test_stratified_selects_one_of_each_interval() -> None:
    rows: list[Row] = [(0, doc, doc / 100, 2.0, True) for doc in range(100)]
    for seed in range(20):
        docs = run(rows, Selection(negatives=10, strategy="stratified", seed=seed)).docs[0]
        assert sorted(doc // 10 for doc in docs) == list(range(10))


def test_an_empty_interval_is_replaced_from_the_nearest_ones() -> None:
    # Ten intervals from 1 to 0: those of 0.6, 0.5 and 0.4 are empty, and those of 0.7 and 0.3 have four each.
    scores = [
        1.0,
        0.95,
        0.85,
        0.83,
        *[0.75, 0.74, 0.73, 0.72],
        *[0.35, 0.34, 0.33, 0.32],
        0.25,
        0.15,
        0.05,
        0.0,
    ]
    rows: list[Row] = [(0, doc, score, 2.0, True) for doc, score in enumerate(scores)]
    for seed in range(20):
        docs = run(rows, Selection(negatives=10, strategy="stratified", seed=seed)).docs[0]
        counts = Counter(min(int((1.0 - scores[doc]) * 10), 9) for doc in docs)
        assert counts == {0: 1, 1: 1, 2: 3, 6: 2, 7: 1, 8: 1, 9: 1}


def test_stratified_is_even_where_random_follows_the_crowd() -> None:
    """Most candidates score low: random negatives do too, stratified ones cover the range."""
    generator = np.random.default_rng(5)
    rows: list[Row] = [
        (group, doc, float(score), 2.0, True)
        for group in range(40)
        for doc, score in enumerate(generator.beta(1, 8, size=60))
    ]
    score = {(row[0], row[1]): row[2] for row in rows}
    spread = {}
    for strategy in ("top", "random", "stratified"):
        chosen = run(rows, Selection(negatives=6, strategy=strategy)).docs
        spread[strategy] = np.mean([np.std([score[g, d] for d in docs]) for g, docs in chosen.items()])
    assert spread["stratified"] > 1.5 * spread["random"]
    assert spread["stratified"] > 1.5 * spread["top"]


@given(candidates(docs=14), st.integers(1, 9), st.integers(0, 99))
def test_mixed_without_easy_ones_is_top(rows: list[Row], negatives: int, seed: int) -> None:
    mixed = Selection(negatives=negatives, strategy="mixed", easy_share=0.0, seed=seed)
    assert run(rows, mixed) == run(rows, replace(mixed, strategy="top"))


@settings(max_examples=200)
@given(candidates(docs=14), st.integers(1, 9), st.floats(0, 1))
def test_mixed_has_its_share_of_easy_ones(rows: list[Row], negatives: int, share: float) -> None:
    config = Selection(negatives=negatives, strategy="mixed", easy_share=share)
    chosen = run(rows, config).docs
    easy = easy_negatives(config)
    for group, mine_ in by_group(rows).items():
        order = [row[1] for row in hardest_first(mine_)]
        hard = set(order[: negatives - easy])
        others = set(order[negatives:])
        assert hard <= set(chosen[group])
        assert len(set(chosen[group]) & others) == min(easy, len(others))


@pytest.mark.parametrize(
    ("negatives", "share", "easy"),
    [(5, 0.4, 2), (5, 0.5, 3), (5, 0.1, 1), (5, 0.09, 0), (4, 1.0, 4), (1, 0.5, 1)],
)
def test_a_half_is_rounded_up(negatives: int, share: float, easy: int) -> None:
    config = Selection(negatives=negatives, strategy="mixed", easy_share=share)
    assert easy_negatives(config) == easy
    assert easy_negatives(replace(config, strategy="top")) == 0


def test_easy_ones_are_drawn_evenly_from_all_but_the_hardest() -> None:
    times, count = 8000, 9
    kept = Kept(
        np.repeat(np.arange(times), count),
        lambda some: np.tile(np.arange(count), times)[some],
        np.tile(-np.arange(count, dtype=np.float64), times),
        np.zeros(times * count),
        np.zeros(times * count, dtype=np.int8),
        np.random.default_rng(0).integers(0, 2**64, size=times * count, dtype=np.uint64),
    )
    chosen, _ = select(kept, Selection(negatives=3, strategy="mixed", easy_share=1 / 3))
    share = np.bincount(kept.doc[chosen], minlength=count) / times
    assert share[:3].tolist() == [1.0, 1.0, 0.0]
    assert np.abs(share[3:] - 1 / 6).max() < 5 * np.sqrt(1 / 6 * 5 / 6 / times)


def test_a_capped_document_is_replaced_by_one_of_its_kind() -> None:
    rows: list[Row] = [(0, doc, -float(doc), 2.0, True) for doc in range(20)]
    config = Selection(negatives=5, strategy="mixed", easy_share=0.4, document_cap=1)
    served = np.zeros(20, dtype=np.int64)
    served[:2] = 1
    chosen = run(rows, config, served)
    assert chosen.docs[0][:3] == [2, 3, 4]
    assert min(chosen.docs[0][3:]) >= 5
    assert chosen.refused == {(0, 0), (0, 1)}


@pytest.mark.parametrize("strategy", ["stratified", "mixed"])
def test_a_store_selects_the_same_with_any_number_of_workers(tmp_path: Path, strategy: str) -> None:
    generator = np.random.default_rng(3)
    words = [f"w{number}" for number in range(40)]
    corpus = {f"d{i:03}": " ".join(generator.choice(words, 6)) for i in range(120)}
    queries = {f"q{i:02}": " ".join(generator.choice(words, 4)) for i in range(12)}
    judged = [(query, f"d{i:03}") for i, query in enumerate(queries)]
    config = MiningConfig(
        stopwords="none",
        rules=Rules(relative_margin=None),
        selection=Selection(
            negatives=6, strategy=strategy, **({"easy_share": 0.5} if strategy == "mixed" else {})
        ),
    )
    found = []
    for workers in (1, 2):
        with make_store(tmp_path / f"{workers}.duckdb", corpus, queries, judged) as store:
            run_ = mine(store, config, workers=workers)
            found.append(triplets_of(store, run_).to_pylist())
            top = decide_again(store, run_, with_values(config_of(run_), {"strategy": "top"}))
            assert triplets_of(store, top).to_pylist() != found[-1]
            back = decide_again(store, top, config)
            assert triplets_of(store, back).to_pylist() == found[-1]
    assert found[0] == found[1]
    ranks = [row["rank"] for row in found[0] if row["query_id"] == "q00"]
    scores = [row["negative_score"] for row in found[0] if row["query_id"] == "q00"]
    assert ranks == list(range(1, len(ranks) + 1))
    assert scores == sorted(scores, reverse=True)


def test_a_setting_of_another_strategy_is_refused_but_outlives_its_strategy(tmp_path: Path) -> None:
    corpus = {f"d{i}": f"red fox number{i} of {i % 3}" for i in range(12)}
    with make_store(tmp_path / "s.duckdb", corpus, {"q": "red fox"}, [("q", "d1")]) as store:
        loose = MiningConfig(rules=Rules(relative_margin=None))
        for key, value, strategy in (("easy_share", 0.2, "mixed"), ("ambiguous_b", -0.1, "ambiguous")):
            with pytest.raises(UsageError, match=f"{key} has no effect without strategy {strategy}; choose"):
                mine(store, with_values(loose, {key: value}))
            run = mine(store, with_values(loose, {key: value, "strategy": strategy}), name=strategy)
            top = decide_again(store, run, with_values(config_of(run), {"strategy": "top"}))
            assert top.config["selection"][key] == value
            back = decide_again(store, top, with_values(config_of(top), {"strategy": strategy}), name="back")
            assert triplets_of(store, back) == triplets_of(store, run)
            with pytest.raises(UsageError, match="or leave it out: the strategy is top"):
                decide_again(store, top, with_values(config_of(top), {key: 0.7}))
            runs.remove_runs(store, ["back"])
