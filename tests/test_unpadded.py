"""Batches computed in pieces: the same embeddings, little padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from miner.training.unpadded import LEAST, PADDING, TOKENS, RowEmbedding, Unpadded, piece_sizes
from tests.tiny import tiny_bert


@given(st.lists(st.integers(1, 512), min_size=1, max_size=300).map(sorted))
def test_pieces_hold_every_text_and_little_padding(lengths: list[int]) -> None:
    sizes = piece_sizes(lengths)
    ends = np.cumsum(sizes)
    pieces = [lengths[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    assert [length for piece in pieces for length in piece] == lengths
    assert all(size >= LEAST for size in sizes[:-1])
    for piece in pieces:
        padded = len(piece) * piece[-1]
        assert len(piece) <= LEAST or (padded <= TOKENS and padded - sum(piece) <= PADDING * padded)


def test_embeddings_and_gradients_are_those_of_one_piece(tmp_path: Path) -> None:
    folder = str(tiny_bert(tmp_path / "tiny"))
    texts = [" ".join(["word"] * (1 + row * row % 29)) for row in range(50)]
    found = []
    for kind in (SentenceTransformer, Unpadded):
        model = kind(folder, device="cpu").eval()
        embeddings = model(model.preprocess(texts))["sentence_embedding"]
        embeddings.square().mean(dim=1).sum().backward()
        found.append((embeddings.detach(), [weight.grad for weight in model.parameters()]))
    assert isinstance(model[0].model.get_input_embeddings(), RowEmbedding)
    (whole, expected), (pieces, gradients) = found
    assert torch.allclose(pieces, whole, atol=1e-5)
    for one, other in zip(gradients, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-4)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=20), min_size=1, max_size=4), st.booleans())
def test_gradients_of_rows_are_those_of_the_whole_vocabulary(lookups: list[list[int]], padded: bool) -> None:
    found = []
    for kind in (torch.nn.Embedding, RowEmbedding):
        torch.manual_seed(1)
        words = kind(10, 3, padding_idx=0 if padded else None)
        read = torch.cat([words(torch.tensor(ids)) for ids in lookups])
        # What else the weight is used for, as a decoder that shares it does, adds to the same gradient.
        (read.square().sum() + words.weight.pow(3).sum()).backward()
        found.append((read.detach(), words.weight.grad))
    (expected, whole), (values, rows) = found
    assert torch.equal(values, expected)
    assert torch.allclose(rows, whole, atol=1e-5)


def test_frozen_words_have_no_gradient() -> None:
    words = RowEmbedding(10, 3).requires_grad_(False)
    assert not words(torch.tensor([1, 2])).requires_grad
