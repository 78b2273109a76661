"""Tiny real sparse and multi-vector encoders for tests: random weights, the bundled tokenizer."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from tests.tiny import tiny_bert

PROMPTS = {"query": "find: ", "document": "text: "}


def tiny_sparse_encoder(
    folder: Path,
    *,
    kind: str = "splade",
    seed: int = 1,
    prompts: dict[str, str] | None = None,
    **settings: Any,
) -> Path:
    """Writes a SparseEncoder and returns its folder; `settings` are those of the library's class.

    `splade` activates some hundred of 30,522 dimensions; `inference-free` has a table of weights for queries
    and SPLADE for documents; `static` has the table for both.
    """
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    bert = tiny_bert(folder.with_name(f"{folder.name}-bert"), seed=seed)
    model = BertForMaskedLM(BertConfig.from_pretrained(bert))
    _activate_own_words(model)
    model.save_pretrained(bert)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    weight = torch.rand(len(tokenizer), generator=torch.Generator().manual_seed(seed))
    modules: list[Any]
    if kind == "splade":
        modules = [Transformer(str(bert), transformer_task="fill-mask"), SpladePooling("max")]
    else:
        table: list[Any] = [SparseStaticEmbedding(tokenizer, weight=weight)]
        deep: list[Any] = [Transformer(str(bert), transformer_task="fill-mask"), SpladePooling("max")]
        modules = [Router.for_query_document(table, deep)] if kind == "inference-free" else table
    encoder = SparseEncoder(modules=modules, device="cpu", prompts=prompts, **settings)
    encoder.save_pretrained(str(folder), create_model_card=False)
    return folder


def _activate_own_words(model: Any) -> None:
    """Makes a text activate its own words, through the table that a BERT ties, and few others."""
    import torch

    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight.mul_(0.1)
            layer.attention.output.dense.weight.mul_(0.1)
        model.bert.embeddings.position_embeddings.weight.mul_(0.1)
        model.bert.embeddings.token_type_embeddings.weight.zero_()
        model.cls.predictions.transform.dense.weight.copy_(torch.eye(model.config.hidden_size))
        model.cls.predictions.bias.fill_(-6.0)


def tiny_multi_vector_encoder(
    folder: Path,
    *,
    dimension: int = 16,
    expansion: dict[str, Any] | None = None,
    normalise: bool = True,
    seed: int = 1,
    prompts: dict[str, str] | None = None,
    **settings: Any,
) -> Path:
    """Writes a MultiVectorEncoder and returns its folder; `settings` are those of the library's class.

    It does not score punctuation in documents. `expansion` is the library's setting `query_expansion`.
    """
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    bert = tiny_bert(folder.with_name(f"{folder.name}-bert"), seed=seed)
    torch.manual_seed(seed)
    modules: list[Any] = [
        Transformer(str(bert), query_expansion=expansion, document_length=48),  # type: ignore[arg-type]
        Dense(32, dimension, False, torch.nn.Identity(), module_input_name="token_embeddings"),
        MultiVectorMask(list(string.punctuation)),
    ]
    if normalise:
        modules.append(Normalize(module_input_name="token_embeddings"))
    encoder = MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts, **settings)
    encoder.save_pretrained(str(folder), create_model_card=False)
    return folder
