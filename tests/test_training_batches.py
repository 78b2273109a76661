"""Batches of pairs: no text twice where rows are each other's negatives, and known positives are masked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from miner.models.scratch import scratch_model
from miner.text import text_keys
from miner.training.batches import (
    MASK,
    KnownPositives,
    MaskedSimilarity,
    MaskingCollator,
    PairBatches,
)
from tests.tiny import tiny_bert

FEW = st.integers(0, 12)
PAIRS = st.lists(st.tuples(FEW, FEW.map(lambda key: key + 6)), min_size=1, max_size=40)
"""Anchors and positives that often meet, also one another."""
SIZES = st.integers(1, 9)
SEEDS = st.integers(0, 2**31)
ANY_KEY = st.integers(-(2**63), 2**63 - 1)
SCALE = 20.0


def batches_of(
    pairs: Sequence[tuple[int, int]], size: int, seed: int = 5, distinct: bool = True, epoch: int = 0
) -> list[list[int]]:
    batches = PairBatches(np.array(pairs, dtype=np.int64), size, seed, distinct)
    batches.set_epoch(epoch)
    return list(batches)


@given(PAIRS, SIZES, SEEDS)
def test_no_text_is_anchor_or_positive_of_two_rows_of_a_batch(
    pairs: list[tuple[int, int]], size: int, seed: int
) -> None:
    for batch in batches_of(pairs, size, seed):
        texts = [set(pairs[row]) for row in batch]
        assert len(set[int]().union(*texts)) == sum(map(len, texts))


@given(PAIRS, SIZES, SEEDS)
def test_a_row_comes_at_most_once_an_epoch_in_as_many_batches_as_were_counted(
    pairs: list[tuple[int, int]], size: int, seed: int
) -> None:
    batches = batches_of(pairs, size, seed)
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == len(rows)
    assert all(1 <= len(batch) <= size for batch in batches)
    reported = PairBatches(np.array(pairs, dtype=np.int64), size, seed, True)
    assert len(batches) == len(reported) == -(-len(pairs) // size)


@given(PAIRS, SIZES, SEEDS)
def test_a_row_is_left_out_only_where_its_texts_were_in_the_last_batch_or_that_is_full(
    pairs: list[tuple[int, int]], size: int, seed: int
) -> None:
    batches = batches_of(pairs, size, seed)
    seen = {row for batch in batches for row in batch}
    last = {text for row in batches[-1] for text in pairs[row]}
    for row in set(range(len(pairs))) - seen:
        assert len(batches[-1]) == size or last & {*pairs[row]}


@given(PAIRS, SIZES, SEEDS)
def test_batches_are_those_of_walking_all_rows_in_order(
    pairs: list[tuple[int, int]], size: int, seed: int
) -> None:
    left = np.random.default_rng([seed, 0]).permutation(len(pairs)).tolist()
    expected = []
    for _ in range(-(-len(pairs) // size)):
        batch, seen = list[int](), set[int]()
        for row in left:
            if len(batch) < size and seen.isdisjoint(pairs[row]):
                batch.append(row)
                seen.update(pairs[row])
        left = [row for row in left if row not in batch]
        expected.append(batch)
    assert batches_of(pairs, size, seed) == [batch for batch in expected if batch]


@given(st.integers(1, 40), SIZES, SEEDS)
def test_rows_of_different_texts_all_come(rows: int, size: int, seed: int) -> None:
    batches = batches_of([(row, -row - 1) for row in range(rows)], size, seed)
    assert sorted(row for batch in batches for row in batch) == list(range(rows))
    assert all(len(batch) == size for batch in batches[:-1])


@given(PAIRS, SIZES, SEEDS)
def test_all_rows_come_once_where_texts_may_repeat(
    pairs: list[tuple[int, int]], size: int, seed: int
) -> None:
    batches = batches_of(pairs, size, seed, distinct=False)
    assert sorted(row for batch in batches for row in batch) == list(range(len(pairs)))
    assert len(batches) == -(-len(pairs) // size)


@pytest.mark.parametrize("distinct", [True, False])
def test_the_order_depends_on_seed_and_epoch_alone(distinct: bool) -> None:
    pairs = [(row % 20, 100 + row % 30) for row in range(60)]
    seen = {
        str(batches_of(pairs, 8, seed, distinct, epoch))
        for seed in (1, 2)
        for epoch in (0, 1, 2)
        for _ in "ab"
    }
    assert len(seen) == 6


def test_one_text_everywhere_gives_batches_of_one_row() -> None:
    assert [len(batch) for batch in batches_of([(1, row) for row in range(10)], 4)] == [1, 1, 1]


@given(
    st.lists(st.tuples(ANY_KEY, ANY_KEY), min_size=1, max_size=30), st.lists(ANY_KEY, min_size=1, max_size=8)
)
@example([(0, 0)], [2**62])
def test_the_mask_is_that_of_a_plain_set(known: list[tuple[int, int]], others: list[int]) -> None:
    anchors = [anchor for anchor, _ in known[:8]] + others
    documents = [document for _, document in known[-8:]] + others
    left, right = (np.array(column, dtype=np.int64) for column in zip(*known, strict=True))
    mask = KnownPositives(left, right).mask(np.array(anchors), np.array(documents))
    assert mask.tolist() == [[(a, d) in set(known) for d in documents] for a in anchors]


@given(st.lists(st.tuples(FEW, FEW), max_size=9), st.lists(st.tuples(FEW, FEW), max_size=9))
def test_without_some_pairs_is_what_the_others_make(
    known: list[tuple[int, int]], forgotten: list[tuple[int, int]]
) -> None:
    def columns(pairs: Sequence[tuple[int, int]]) -> tuple[Any, Any]:
        return tuple(np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))

    keys = np.arange(13)
    left = KnownPositives(*columns(known)).without(*columns(forgotten))
    made = KnownPositives(*columns([pair for pair in known if pair not in forgotten]))
    assert left.mask(keys, keys).tolist() == made.mask(keys, keys).tolist()
    assert left.fingerprint == made.fingerprint


LABELS = st.dictionaries(st.integers(0, 9), st.sampled_from(["warm", "cold", ""]))


@given(st.lists(st.tuples(FEW, FEW), max_size=9), LABELS)
def test_texts_of_one_label_are_masked_too(known: list[tuple[int, int]], labels: dict[int, str]) -> None:
    keys = np.arange(13)
    left, right = (np.array([pair[side] for pair in known], dtype=np.int64) for side in (0, 1))
    mask = KnownPositives(left, right, labels).mask(keys, keys[::-1])
    assert mask.tolist() == [
        [(a, d) in set(known) or (a in labels and labels[a] == labels.get(d)) for d in range(12, -1, -1)]
        for a in range(13)
    ]


def test_nothing_known_masks_nothing() -> None:
    none = np.array([], dtype=np.int64)
    assert not KnownPositives(none, none).mask(np.array([1, 2]), np.array([3])).any()


TEXTS = {
    "anchor": ["red fox", "green frog", "blue whale", "grey wolf", "small mouse"],
    "positive": [
        "fox of the wood",
        "frog of the pond",
        "whale of the sea",
        "wolf of the wood",
        "mouse in a house",
    ],
    "negative": ["whale of the sea", "wolf of the wood", "Fox  of the wood", "frog of the pond", "an owl"],
}
KNOWN = [
    ("red fox", "fox of the wood"),
    ("red fox", "wolf of the wood"),
    ("green frog", "frog of the pond"),
    ("blue whale", "fox of the wood"),
    ("grey wolf", "owls everywhere"),
]
MASKED = {(0, 3), (0, 6), (0, 7), (1, 8), (2, 0), (2, 7)}
"""Row and document of the batch: 5 positives, then 5 negatives. Not (0, 0) and (1, 1): their own."""


def known() -> KnownPositives:
    anchors, documents = zip(*KNOWN, strict=True)
    return KnownPositives(text_keys(anchors), text_keys(documents))


def batch_of(model: SentenceTransformer) -> dict[str, Any]:
    collator = MaskingCollator(SentenceTransformerDataCollator(model.preprocess), TEXTS, known())
    columns = TEXTS.items()
    return collator([{name: texts[row] for name, texts in columns} for row in range(5)])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Such small tensors are faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def static() -> SentenceTransformer:
    return scratch_model("bundled", 8, 3)


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return SentenceTransformer(
        str(tiny_bert(tmp_path_factory.mktemp("models") / "tiny")), device="cpu"
    ).eval()


def test_a_batch_says_which_documents_are_known_positives(static: SentenceTransformer) -> None:
    mask = batch_of(static)[MASK]
    assert mask.shape == (5, 10)
    assert {(int(row), int(position)) for row, position in mask.nonzero()} == MASKED


def test_a_document_that_reads_like_the_anchor_is_masked_but_for_the_rows_own_positive() -> None:
    texts = {"anchor": ["owl", "cat"], "positive": ["Owl", "a cat"], "negative": ["CAT", "cat"]}
    inner = SentenceTransformerDataCollator(lambda texts, **_: {"length": torch.tensor([len(texts)])})
    nothing = KnownPositives(text_keys(["x"]), text_keys(["y"]))
    rows = [{name: column[row] for name, column in texts.items()} for row in (0, 1)]
    mask = MaskingCollator(inner, texts, nothing)(rows)[MASK]
    assert mask.tolist() == [[False] * 4, [False, False, True, True]]


@given(st.permutations(range(5)), st.integers(1, 5))
def test_a_rows_own_positive_is_never_masked(order: list[int], size: int) -> None:
    rows = [{name: texts[row] for name, texts in TEXTS.items()} for row in order[:size]]
    inner = SentenceTransformerDataCollator(lambda texts, **_: {"length": torch.tensor([len(texts)])})
    anchors = [a for a in TEXTS["anchor"] for _ in range(5)]
    everything = KnownPositives(text_keys(anchors), text_keys(TEXTS["positive"] * 5))
    mask = MaskingCollator(inner, TEXTS, everything)(rows)[MASK]
    assert not mask[range(size), range(size)].any()
    assert int(mask[:, :size].sum()) == size * (size - 1), "all other positives are"


def by_hand(model: SentenceTransformer, masked: set[tuple[int, int]]) -> float:
    """The loss of the batch, in numpy, from the model's unit vectors."""
    vectors = [model.encode(texts, normalize_embeddings=True) for texts in TEXTS.values()]
    cosines = vectors[0].astype(np.float64) @ np.concatenate(vectors[1:]).astype(np.float64).T
    total = 0.0
    for row in range(5):
        kept = [cosines[row, position] for position in range(10) if (row, position) not in masked]
        total += np.log(np.sum(np.exp(SCALE * np.array(kept)))) - SCALE * cosines[row, row]
    return total / 5


def loss_of(loss: Any, cosine: MaskedSimilarity, model: SentenceTransformer, masked: bool) -> torch.Tensor:
    batch = batch_of(model)
    mask = batch.pop(MASK)
    cosine.mask = mask if masked else None
    features = [
        {name.removeprefix(f"{side}_"): value for name, value in batch.items() if name.startswith(f"{side}_")}
        for side in TEXTS
    ]
    found: torch.Tensor = loss(features, torch.tensor([]))
    return found


@pytest.mark.parametrize("masked", [True, False])
def test_the_masked_loss_is_the_one_computed_by_hand(static: SentenceTransformer, masked: bool) -> None:
    cosine = MaskedSimilarity()
    loss = losses.MultipleNegativesRankingLoss(static, scale=SCALE, similarity_fct=cosine)
    found = float(loss_of(loss, cosine, static, masked).detach())
    assert found == pytest.approx(by_hand(static, MASKED if masked else set()), rel=1e-4)
    assert by_hand(static, MASKED) < by_hand(static, set())


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_the_mask_follows_the_row_chunks_of_the_cached_loss(
    transformer: SentenceTransformer, rows: int
) -> None:
    cosine = MaskedSimilarity()
    loss = losses.CachedMultipleNegativesRankingLoss(
        transformer, scale=SCALE, similarity_fct=cosine, mini_batch_size=rows
    )
    for _ in range(2):
        found = float(loss_of(loss, cosine, transformer, True).detach())
        assert found == pytest.approx(by_hand(transformer, MASKED), rel=1e-4)


def test_cached_gradients_are_those_of_the_plain_loss(tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_bert(tmp_path / "tiny")), device="cpu").eval()
    found = []
    for kind, settings in (
        (losses.MultipleNegativesRankingLoss, {}),
        (losses.CachedMultipleNegativesRankingLoss, {"mini_batch_size": 2}),
    ):
        cosine = MaskedSimilarity()
        model.zero_grad()
        loss_of(kind(model, scale=SCALE, similarity_fct=cosine, **settings), cosine, model, True).backward()
        found.append(torch.cat([p.grad.ravel() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
    assert found[0].isfinite().all()


def test_without_a_mask_it_is_the_cosine() -> None:
    vectors = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    torch.testing.assert_close(MaskedSimilarity()(vectors, vectors), torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
