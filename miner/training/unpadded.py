"""A sentence-transformers model that computes a batch in pieces of texts of like length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

LEAST = 8
"""Texts that are computed together whatever it pads: matrices of fewer rows multiply slowly."""
TOKENS = 2048
"""Tokens after which a piece ends."""
PADDING = 0.25
"""The share of padding from which a piece ends. Every piece costs a gradient of the whole vocabulary."""


class Unpadded(SentenceTransformer):
    """Gives the embeddings that the model gives anyway, without computing most of the padding.

    Only on a processor: a GPU is faster with one large batch. Dropout draws other numbers than
    in one piece, as it would with another batch size.
    """

    def forward(self, input: dict[str, Any], **settings: Any) -> dict[str, Any]:
        """Returns the input with `sentence_embedding` added: shape (texts, dimension)."""
        mask = input.get("attention_mask")
        if mask is None or mask.device.type != "cpu" or len(mask) <= LEAST or not bool(mask[:, 0].all()):
            return super().forward(input, **settings)
        lengths = mask.sum(dim=1)
        order = torch.argsort(lengths, stable=True)
        sizes = piece_sizes(lengths[order].tolist())
        parts = [
            super(Unpadded, self).forward(_cut(input, rows, int(lengths[rows].max())), **settings)
            for rows in torch.split(order, sizes)
        ]
        embeddings = torch.cat([part["sentence_embedding"] for part in parts])
        return {**input, "sentence_embedding": embeddings[torch.argsort(order)]}


def piece_sizes(lengths: Sequence[int]) -> list[int]:
    """Returns how many texts go into each piece; `lengths` are their tokens, ascending."""
    sizes, size, tokens = [], 0, 0
    for length in lengths:
        padded = (size + 1) * length
        padding = padded - tokens - length
        if size >= LEAST and (padded > TOKENS or padding > PADDING * padded):
            sizes.append(size)
            size = tokens = 0
        size, tokens = size + 1, tokens + length
    return [*sizes, size]


def _cut(input: dict[str, Any], rows: torch.Tensor, length: int) -> dict[str, Any]:
    """The rows of what has a row per text, cut to `length` where it has a column per token."""
    shape = input["attention_mask"].shape
    piece = dict(input)
    for name, value in input.items():
        if isinstance(value, torch.Tensor) and value.dim() and len(value) == shape[0]:
            piece[name] = value[rows, :length] if value.shape[:2] == shape else value[rows]
    return piece
