"""A sentence-transformers model that computes a batch in pieces of texts of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

LEAST = 8
"""The fewest texts of a piece, whatever their padding: matrices with fewer rows multiply slowly."""
TOKENS = 2048
"""The most tokens of a piece with more texts than that."""
PADDING = 0.25
"""The largest share of padding of a piece with more texts than that."""


class Unpadded(SentenceTransformer):
    """Gives the same embeddings without computing most of the padding.

    This applies to processors only: a GPU is faster with one large batch. Dropout draws other numbers than
    for the whole batch, as it does with another batch size. `backward` computes the gradient of the word
    embeddings; `torch.autograd.grad` does not see it.
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
    """An embedding that adds only the rows that were looked up to `weight.grad`.

    PyTorch's embedding makes a gradient of the whole vocabulary for every lookup, nearly all of it 0.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns the vectors of the tokens: shape (*input.shape, dimension)."""
        vectors: torch.Tensor = _Lookup.apply(  # type: ignore[no-untyped-call]
            self.weight, input, self.padding_idx
        )
        return vectors


class _Lookup(torch.autograd.Function):
    """The lookup of `RowEmbedding`, with its gradient."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, ids: torch.Tensor, padding: int | None) -> torch.Tensor:
        """Returns the vectors of the ids."""
        ctx.weight, ctx.ids, ctx.padding = weight, ids, padding
        return torch.nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None, None]:
        """Adds the gradients to the rows of the ids, except padding."""
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
    """Makes a transformer's word embeddings add their gradient row by row, if they are plain embeddings."""
    words = model.get_input_embeddings()
    if type(words) is torch.nn.Embedding and words.max_norm is None and not words.scale_grad_by_freq:
        words.__class__ = RowEmbedding


def piece_sizes(lengths: Sequence[int]) -> list[int]:
    """Returns the number of texts of each piece; `lengths` are their tokens, ascending."""
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
    """Selects rows of the tensors with a row per text, and cuts those with a column per token to `length`."""
    shape = input["attention_mask"].shape
    piece = dict(input)
    for name, value in input.items():
        if isinstance(value, torch.Tensor) and value.dim() and len(value) == shape[0]:
            piece[name] = value[rows, :length] if value.shape[:2] == shape else value[rows]
    return piece
