"""Selection: how many, which, and on what a random choice depends."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.errors import UsageError
from miner.mining.config import STRATEGIES, Selection
from miner.mining.selection import Kept, quotas, select
from miner.store.scorers import Scorer

Row = tuple[int, int, float, float, int]
"""Group, document, score, reference, the number of the retriever that ranks it best."""
SCORERS = (
    Scorer(0, "bm25", "bm25", None),
    Scorer(1, "bundled", "dense", "f"),
    Scorer(2, "r", "reranker", "g"),
)


def pair_key(group: int, doc: int) -> int:
    return int(np.random.default_rng((group, doc)).integers(0, 2**64, dtype=np.uint64))


def kept_of(rows: list[Row]) -> Kept:
    ordered = sorted(rows, key=lambda row: row[0])
    columns: list[list[object]] = [list(column) for column in zip(*ordered, strict=True)] or [[]] * 5
    return Kept(
        np.array(columns[0], dtype=np.int64),
        lambda some: np.array(columns[1], dtype=np.int64)[some],
        np.array(columns[2], dtype=np.float64),
        np.array(columns[3], dtype=np.float64),
        np.array(columns[4], dtype=np.int8),
        np.array([pair_key(row[0], row[1]) for row in ordered], dtype=np.uint64),
    )


@dataclass(frozen=True)
class Chosen:
    """What came of it, per group: documents, hardest first."""

    docs: dict[int, list[int]]
    refused: set[tuple[int, int]]


def run(rows: list[Row], config: Selection, served: npt.NDArray[np.int64] | None = None) -> Chosen:
    kept = kept_of(rows)
    chosen, slots = select(kept, config, served, quotas(config, SCORERS))
    docs: dict[int, list[int]] = {}
    for row in chosen.tolist():
        docs.setdefault(int(kept.group[row]), []).append(int(kept.doc[row]))
        assert slots[row] == len(docs[int(kept.group[row])])
    assert np.count_nonzero(slots > 0) == len(chosen)
    # Rows come by group, and within a group hardest first; ties go to the smaller document.
    key = [(kept.group[row], -kept.score[row], kept.doc[row]) for row in chosen.tolist()]
    assert key == sorted(key)
    refused = np.flatnonzero(slots == -1).tolist()
    return Chosen(docs, {(int(kept.group[row]), int(kept.doc[row])) for row in refused})


score = st.integers(-6, 6).map(lambda number: number / 4)


@st.composite
def candidates(draw: st.DrawFn, groups: int = 6, docs: int = 8) -> list[Row]:
    pairs = draw(
        st.lists(st.tuples(st.integers(0, groups - 1), st.integers(0, docs - 1)), unique=True, max_size=40)
    )
    references = draw(st.lists(score, min_size=groups, max_size=groups))
    return [(group, doc, draw(score), references[group], draw(st.integers(0, 1))) for group, doc in pairs]


configs = st.builds(
    Selection,
    negatives=st.integers(1, 5),
    strategy=st.sampled_from(STRATEGIES),
    easy_share=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    ambiguous_a=st.sampled_from([0.0, 1.0, 20.0]),
    ambiguous_b=st.sampled_from([-0.5, 0.0]),
    seed=st.integers(0, 2**40),
)
limits = st.dictionaries(st.sampled_from([0, 1]), st.integers(0, 3))


def as_quota(most: dict[int, int]) -> tuple[str, ...]:
    return tuple(f"{SCORERS[scorer].name}={number}" for scorer, number in most.items())


def by_group(rows: list[Row]) -> dict[int, list[Row]]:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[0], []).append(row)
    return groups


@given(candidates(), st.integers(1, 5))
def test_top_takes_the_best_by_score_then_document(rows: list[Row], negatives: int) -> None:
    expected = {
        group: [row[1] for row in sorted(mine, key=lambda row: (-row[2], row[1]))[:negatives]]
        for group, mine in by_group(rows).items()
    }
    assert run(rows, Selection(negatives=negatives)).docs == expected


@settings(max_examples=300)
@given(candidates(), configs)
def test_every_group_gets_as_many_as_requested_or_as_there_are(rows: list[Row], config: Selection) -> None:
    chosen = run(rows, config)
    for group, mine in by_group(rows).items():
        assert len(chosen.docs[group]) == min(config.negatives, len(mine))
        assert set(chosen.docs[group]) <= {row[1] for row in mine}
    assert not chosen.refused


@settings(max_examples=300)
@given(candidates(), configs, st.sets(st.integers(0, 5)))
def test_other_groups_do_not_change_a_groups_choice(
    rows: list[Row], config: Selection, left: set[int]
) -> None:
    whole = run(rows, config).docs
    part = run([row for row in rows if row[0] in left], config).docs
    assert part == {group: docs for group, docs in whole.items() if group in left}


@given(candidates(), configs, st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(rows: list[Row], config: Selection, random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert run(shuffled, config).docs == run(rows, config).docs


@given(candidates(), st.integers(1, 3))
def test_a_random_choice_does_not_look_at_scores(rows: list[Row], negatives: int) -> None:
    config = Selection(negatives=negatives, strategy="random")
    flat = [(group, doc, 0.0, 0.0, best) for group, doc, _, _, best in rows]
    left, right = run(rows, config).docs, run(flat, config).docs
    assert {g: set(docs) for g, docs in left.items()} == {g: set(docs) for g, docs in right.items()}


def test_a_smaller_choice_is_part_of_a_larger_one() -> None:
    rows: list[Row] = [(0, doc, doc / 10, 1.0, 0) for doc in range(30)]
    for strategy in ("top", "random", "ambiguous"):
        sets = [set(run(rows, Selection(negatives=n, strategy=strategy)).docs[0]) for n in range(1, 12)]
        assert all(small < large for small, large in pairwise(sets))


def test_seeds_choose_differently_and_alike_each_time() -> None:
    rows: list[Row] = [(group, doc, 0.5, 1.0, 0) for group in range(20) for doc in range(50)]
    for strategy in ("random", "ambiguous", "stratified", "mixed"):
        drawn = [
            str(run(rows, Selection(strategy=strategy, seed=seed)).docs) for seed in (1, 1, 2, 2**63 - 1)
        ]
        assert drawn[0] == drawn[1]
        assert len(set(drawn)) == 3


# Quotas and the cap on documents


@settings(max_examples=300)
@given(candidates(), configs, limits)
def test_quotas_bound_what_each_retriever_gives(
    rows: list[Row], config: Selection, most: dict[int, int]
) -> None:
    config = replace(config, quota=as_quota(most))
    chosen = run(rows, config)
    for group, mine in by_group(rows).items():
        best = {row[1]: row[4] for row in mine}
        counts = Counter(best[doc] for doc in chosen.docs.get(group, []))
        members = Counter(best.values())
        places = {scorer: min(members[scorer], most.get(scorer, members[scorer])) for scorer in (0, 1)}
        assert all(counts[scorer] <= places[scorer] for scorer in (0, 1))
        assert counts.total() == min(config.negatives, sum(places.values()))


def test_a_quota_keeps_the_best_of_a_retriever() -> None:
    rows: list[Row] = [(0, doc, 1 - doc / 10, 2.0, int(doc >= 4)) for doc in range(8)]
    assert run(rows, Selection(negatives=5, quota=("bm25=2",))).docs[0] == [0, 1, 4, 5, 6]
    assert run(rows, Selection(negatives=3, quota=("bm25=0",))).docs[0] == [4, 5, 6]
    assert run(rows, Selection(negatives=5, quota=("bm25=2", "bundled=1"))).docs[0] == [0, 1, 4]


def reference_capped(
    rows: list[Row], config: Selection, served: Counter[int]
) -> tuple[dict[int, list[int]], set[tuple[int, int]]]:
    """Groups in order; each takes its hardest documents that have not served too often."""
    docs: dict[int, list[int]] = {}
    refused = set()
    for group, mine in sorted(by_group(rows).items()):
        left = quotas(config, SCORERS)
        for _, doc, _, _, best in sorted(mine, key=lambda row: (-row[2], row[1])):
            if len(docs.get(group, [])) == config.negatives or left.get(best) == 0:
                continue
            if served[doc] >= (config.document_cap or 0):
                refused.add((group, doc))
                continue
            served[doc] += 1
            docs.setdefault(group, []).append(doc)
            if best in left:
                left[best] -= 1
    return docs, refused


@settings(max_examples=300)
@given(candidates(), st.integers(1, 4), st.integers(0, 3), limits)
def test_the_next_document_follows_a_capped_one(
    rows: list[Row], negatives: int, cap: int, most: dict[int, int]
) -> None:
    config = Selection(negatives=negatives, document_cap=cap, quota=as_quota(most))
    counted = Counter[int]()
    docs, refused = reference_capped(rows, config, counted)
    served = np.zeros(8, dtype=np.int64)
    assert run(rows, config, served) == Chosen(docs, refused)
    assert served.tolist() == [counted[doc] for doc in range(8)]


@settings(max_examples=200)
@given(st.lists(candidates(), min_size=1, max_size=3), configs, st.integers(0, 3))
def test_no_document_serves_more_often_than_the_cap_over_all_ranges(
    ranges: list[list[Row]], config: Selection, cap: int
) -> None:
    served = np.zeros(8, dtype=np.int64)
    used = Counter[int]()
    for rows in ranges:
        chosen = run(rows, replace(config, document_cap=cap), served)
        assert all(len(docs) <= config.negatives for docs in chosen.docs.values())
        for docs in chosen.docs.values():
            used.update(docs)
    assert served.tolist() == [used[doc] for doc in range(8)]
    assert max(used.values(), default=0) <= cap


def test_a_roomy_cap_changes_nothing() -> None:
    rows: list[Row] = [(group, doc, (doc * 7 + group) % 11, 2.0, 0) for group in range(9) for doc in range(9)]
    for strategy in STRATEGIES:
        free = Selection(negatives=3, strategy=strategy)
        capped = run(rows, replace(free, document_cap=9), np.zeros(9, dtype=np.int64))
        assert capped == run(rows, free)


# The distribution of random choices. Keys and seed are fixed, so these never change.


def first_draws(
    scores: list[float], reference: float, config: Selection, times: int = 20_000
) -> npt.NDArray[np.float64]:
    """How often each of the candidates is drawn when one is, over many queries."""
    count = len(scores)
    kept = Kept(
        np.repeat(np.arange(times), count),
        lambda some: np.tile(np.arange(count), times)[some],
        np.tile(np.array(scores), times),
        np.full(times * count, reference),
        np.zeros(times * count, dtype=np.int8),
        np.random.default_rng(0).integers(0, 2**64, size=times * count, dtype=np.uint64),
    )
    chosen, _ = select(kept, replace(config, negatives=1))
    drawn: npt.NDArray[np.float64] = np.bincount(kept.doc[chosen], minlength=count) / times
    return drawn


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (4.0, -0.5), (0.5, 0.25), (0.0, 0.0)])
def test_ambiguous_draws_with_the_weights_of_simans(a: float, b: float) -> None:
    scores, reference = [0.2, 0.7, 1.1, 1.4, 2.5], 1.0
    config = Selection(strategy="ambiguous", ambiguous_a=a, ambiguous_b=b)
    weights = np.exp(-a * (np.array(scores) - reference - b) ** 2)
    expected = weights / weights.sum()
    # Five standard deviations of a binomial share.
    tolerance = 5 * np.sqrt(expected * (1 - expected) / 20_000)
    assert (np.abs(first_draws(scores, reference, config) - expected) < tolerance).all()


def test_random_draws_every_candidate_alike() -> None:
    drawn = first_draws([0.1, 5.0, -3.0, 0.2], 1.0, Selection(strategy="random"))
    assert np.abs(drawn - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 20_000)


def test_a_sharp_simans_takes_what_is_nearest_to_the_distance() -> None:
    rows: list[Row] = [(0, doc, doc / 10, 2.0, 0) for doc in range(30)]
    config = Selection(negatives=3, strategy="ambiguous", ambiguous_a=1e6, ambiguous_b=-1.0)
    assert run(rows, config).docs[0] == [11, 10, 9]


def test_nothing_kept_is_nothing_chosen() -> None:
    for strategy in STRATEGIES:
        config = Selection(strategy=strategy, quota=("bm25=1",), document_cap=1)
        assert run([], config, np.zeros(1, dtype=np.int64)) == Chosen({}, set())


def test_a_quota_names_a_retriever_of_the_run() -> None:
    for name, meant in (("bundeld", "did you mean 'bundled'"), ("r", "no such retriever")):
        with pytest.raises(UsageError, match=meant):
            quotas(Selection(quota=(f"{name}=1",)), SCORERS)
    for text in ("bm25", "=2", "bm25=-1", "bm25=two"):
        with pytest.raises(UsageError, match="is not SCORER=N"):
            Selection(quota=(text,))
