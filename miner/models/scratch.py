"""A new static embedding model with random token vectors, which trains in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from miner.errors import ModelError
from miner.models.names import resolve

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def tokenizer_file(name: str) -> Path:
    """Returns the tokenizer.json of a model; raises ModelError if it has none."""
    folder = resolve(name).path
    file = next(
        (path for path in (folder / "tokenizer.json", *folder.rglob("tokenizer.json")) if path.is_file()),
        None,
    )
    if file is None:
        raise ModelError(
            f"{name} has no tokenizer.json", "name a model with a fast tokenizer, such as bundled"
        )
    return file


def scratch_model(tokenizer: str, dimension: int, seed: int) -> SentenceTransformer:
    """Returns a static embedding model with random vectors for the tokens of `tokenizer`."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(tokenizer_file(tokenizer)))
    tokens.no_truncation()
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(tokens.get_vocab_size(), dimension, generator=generator)
    return SentenceTransformer(modules=[StaticEmbedding(tokens, embedding_weights=table)], device="cpu")
