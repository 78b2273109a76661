"""Batches: every text once, none padded on a processor, none over its tokens on a GPU."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from miner.models.batching import equal_length_batches, padded_batches

lengths = st.lists(st.integers(0, 40), max_size=60)


@given(lengths, st.integers(1, 200))
def test_equal_length_batches_hold_every_text_once_with_texts_of_its_length(
    sizes: list[int], tokens: int
) -> None:
    batches = equal_length_batches(sizes, tokens)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch)
        assert len({sizes[i] for i in batch}) == 1
        assert len(batch) == 1 or len(batch) * sizes[batch[0]] <= tokens
        assert sorted(batch.tolist()) == batch.tolist()
    assert [sizes[batch[0]] for batch in batches] == sorted(sizes[batch[0]] for batch in batches)


@given(lengths, st.integers(1, 200))
def test_equal_length_batches_are_as_few_as_they_can_be(sizes: list[int], tokens: int) -> None:
    batches = equal_length_batches(sizes, tokens)
    for length in set(sizes):
        room = max(1, tokens // max(1, length))
        assert sum(sizes[batch[0]] == length for batch in batches) == -(-sizes.count(length) // room)


@given(lengths, st.integers(1, 200))
def test_padded_batches_hold_every_text_once_within_their_tokens(sizes: list[int], tokens: int) -> None:
    batches = padded_batches(sizes, tokens)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(sizes)))
    for batch in batches:
        longest = max(sizes[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= tokens
    flat = [sizes[i] for batch in batches for i in batch.tolist()]
    assert flat == sorted(flat, reverse=True)
