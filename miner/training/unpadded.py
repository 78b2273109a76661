"""A sentence-transformers model that computes a batch in pieces of texts of like length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

LEAST = 8
"""Texts that are computed together whatever it pads: matrices of fewer rows multiply slowly."""
TOKENS = 2048
"""Tokens after which a piece ends."""
PADDING = 0.25
"""The share of padding from which a piece ends."""


class Unpadded(SentenceTransformer):
    """Gives the embeddings that the model gives anyway, without computing most of the padding.

    Only on a processor: a GPU is faster with one large batch. Dropout draws other numbers than
    in one piece, as it would with another batch size. The gradient of the word embeddings is there
    after `backward`; `torch.autograd.grad` does not see it.
    """

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        for module in self:
            if isinstance(module, Transformer) and self.device.type == "cpu":
                _add_rows(module.model)

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


class RowEmbedding(torch.nn.Embedding):
    """An embedding that adds to `weight.grad` the rows that were looked up.

    PyTorch's makes a gradient of the whole vocabulary for every lookup, nearly all of it 0.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns the vectors of the tokens: shape (*input.shape, dimension)."""
        found: torch.Tensor = _Lookup.apply(  # type: ignore[no-untyped-call]
            self.weight, input, self.padding_idx
        )
        return found


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, ids: torch.Tensor, padding: int | None) -> torch.Tensor:
        ctx.weight, ctx.ids, ctx.padding = weight, ids, padding
        return torch.nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None, None]:
        weight, ids = ctx.weight, ctx.ids.flatten()
        rows = gradients[0].reshape(len(ids), -1)
        if ctx.padding is not None:
            read = ids != ctx.padding
            ids, rows = ids[read], rows[read]
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids, rows.to(weight.dtype))
        return None, None, None


def _add_rows(model: Any) -> None:
    """Has the gradient of a transformer's word embeddings added row by row, if they are plain ones."""
    words = model.get_input_embeddings()
    if type(words) is torch.nn.Embedding and words.max_norm is None and not words.scale_grad_by_freq:
        words.__class__ = RowEmbedding


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
