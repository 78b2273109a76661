"""Reciprocal rank fusion against its formula."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.retrieval.fusion import K, reciprocal_rank_fusion

columns = st.integers(1, 3).flatmap(
    lambda count: st.lists(st.lists(st.integers(0, 500), min_size=count, max_size=count), max_size=20)
)


@given(columns, st.sampled_from([1, 60, 1000]))
def test_it_is_the_sum_of_reciprocals_of_k_plus_rank(rows: list[list[int]], k: int) -> None:
    count = len(rows[0]) if rows else 1
    ranks = [np.array([row[i] for row in rows], dtype=np.int32) for i in range(count)]
    expected = [float(sum(Fraction(1, k + rank) for rank in row if rank)) for row in rows]
    assert reciprocal_rank_fusion(ranks, k).tolist() == pytest.approx(expected, rel=1e-12)


def test_k_is_60_and_a_candidate_that_was_not_returned_adds_nothing() -> None:
    assert K == 60
    fused = reciprocal_rank_fusion([np.array([1, 0, 2], dtype=np.int32), np.array([0, 0, 1], dtype=np.int32)])
    assert fused.tolist() == [1 / 61, 0.0, 1 / 62 + 1 / 61]


def test_the_order_of_retrievers_does_not_matter_for_two() -> None:
    left, right = np.arange(1, 400, dtype=np.int32), np.arange(399, 0, -1, dtype=np.int32)
    assert np.array_equal(reciprocal_rank_fusion([left, right]), reciprocal_rank_fusion([right, left]))


def test_a_single_retriever_keeps_its_order() -> None:
    fused = reciprocal_rank_fusion([np.arange(1, 2000, dtype=np.int32)])
    assert (np.diff(fused) < 0).all()


def test_the_inputs_are_left_alone_and_may_be_empty() -> None:
    ranks = np.array([3, 0], dtype=np.int32)
    reciprocal_rank_fusion([ranks])
    assert ranks.tolist() == [3, 0]
    assert reciprocal_rank_fusion([np.array([], dtype=np.int32), np.array([], dtype=np.int32)]).tolist() == []
